"""Putting many objects into a store at once, bounded in number and in memory, and not those that are there already.

Which are there is learned by one listing, of no more pages than there are objects to put, and only where that is worth
a request. An object found there is not sent: it is renewed where it lies, by which it counts as put just now. That it
exists would not be enough, because gc may be about to delete it (`objects.gc`).

Threading: `put`, and the end of the block, belong to one thread; what is put runs in threads of the pool, or at once
where a store takes one transfer at a time. `_lock` guards the sums and is never held across I/O.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from artifactfs.errors import ArtifactError
from artifactfs.objects import layout
from artifactfs.objects.inventory import listed_sizes
from artifactfs.objects.store import ObjectStore

SLOT_BYTES = 16 << 20
"""What one of the store's parallel transfers carries; a larger file, which is sent in parts, takes several of them."""
_WORTH_LISTING = 4
_MOST_PAGES = 200


class Uploads:
    """A context manager: when its block ends without an error, everything has been put.

    `expected` is about how many objects there will be. `sent_bytes` and `found_bytes` add up what was sent and what was
    there, complete after the block.
    """

    def __init__(self, store: ObjectStore, expected: int) -> None:
        self._store = store
        self._slots = store.parallel_transfers
        self._free = threading.Semaphore(self._slots)
        self._pool = ThreadPoolExecutor(self._slots, "upload") if self._slots > 1 else None
        self._under_way: set[Future[None]] = set()
        self._expected = expected
        self._there: dict[bytes, int] | None = None
        self._lock = threading.Lock()
        self.sent_bytes = 0
        self.found_bytes = 0

    def __enter__(self) -> Uploads:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            # After an error nothing new begins; what runs is bounded in time and harms nobody.
            self._pool.shutdown(cancel_futures=exc is not None)
        if exc is None:
            self._raise_failures(self._under_way)

    def put(self, name: str, size_bytes: int, send: Callable[[], object], done: Callable[[], None]) -> None:
        """Have the object with that hex name put by `send`, unless it is there; then call `done`, from any thread.

        Waits while too many are under way. Raises what an earlier one raised.
        """
        if self._there is None and self._pool is not None:
            self._there = self._list()
        self._run(size_bytes, lambda: self._put(name, size_bytes, send, done))

    def put_always(self, send: Callable[[], object]) -> None:
        """Have something small put by `send`, which counts in no sum. As :meth:`put` otherwise."""
        self._run(0, send)

    def _run(self, size_bytes: int, action: Callable[[], object]) -> None:
        if self._pool is None:
            action()
            return
        finished = {one for one in self._under_way if one.done()}
        self._under_way -= finished
        self._raise_failures(finished)
        slots = min(self._slots, max(1, -(-size_bytes // SLOT_BYTES)))
        for _ in range(slots):
            self._free.acquire()

        def work() -> None:
            try:
                action()
            finally:
                self._free.release(slots)

        self._under_way.add(self._pool.submit(work))

    def _put(self, name: str, size_bytes: int, send: Callable[[], object], done: Callable[[], None]) -> None:
        found = self._renewed(name, size_bytes)
        if not found:
            send()
        with self._lock:
            if found:
                self.found_bytes += size_bytes
            else:
                self.sent_bytes += size_bytes
        done()

    def _renewed(self, name: str, size_bytes: int) -> bool:
        there = self._there and self._there.get(bytes.fromhex(name)) == size_bytes
        return bool(there) and renewed(self._store, name)

    def _list(self) -> dict[bytes, int]:
        """The sizes of stored objects, as far as a listing of a page for each expected object tells."""
        pages = min(self._expected, _MOST_PAGES)
        if not self._store.renews_in_place or pages < _WORTH_LISTING:
            return {}
        return listed_sizes(self._store, pages)

    @staticmethod
    def _raise_failures(finished: set[Future[None]]) -> None:
        for one in finished:
            one.result()


def renewed(store: ObjectStore, name: str) -> bool:
    """Tell whether the object with that hex name is there and was renewed in place, so that it need not be sent."""
    try:
        return store.renew(layout.object_key(name))
    except ArtifactError as error:
        if error.transient:
            raise
        return False  # too large to be copied by the server, or not allowed: it is sent again
