"""The threads that serve: one waits for the next request, the others are busy or stand by.

The one that waits is the leader. A request that is answered at once it answers itself and waits again: with the
interpreter lock nothing is gained by waking another thread, which costs more than such a request. For one that may
take long it first lets another thread lead; when none stands by, one is started. A thread that has stood by for
`IDLE_S` ends.

Somebody always leads. There is a bound on how many threads wait for the same kind of thing at once, so that none keeps
the others' requests; beyond it a request is put aside until a thread of its kind is done.

Threading: `_lead` is held by the leader while it waits; `_count_lock` guards the numbers and what was put aside, and is
taken by who holds `_lead`, never the other way round (but without waiting).
"""

from __future__ import annotations

import enum
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

logger = logging.getLogger(__name__)

IDLE_S = 10.0


class Kind(enum.Enum):
    """The kinds of things that a request may have to wait for."""

    LOCAL = "the disk of the staging area or of the cache"
    NAMES = "listings and manifests of a store"
    STORE = "bytes of a store"

    # An enum hashes by a function of Python's, which every request would come through several times.
    __hash__ = object.__hash__


MOST_AT_ONCE = {Kind.LOCAL: 16, Kind.NAMES: 32, Kind.STORE: 48}
MAX_THREADS = sum(MOST_AT_ONCE.values()) + 1


class Work(NamedTuple):
    """A request that may take long, and its length in the buffer. One that `may_be_given_up` others may answer too."""

    kind: Kind
    size: int
    may_be_given_up: bool


class End(Exception):
    """There will be no more requests."""


Receive = Callable[[bytearray], Work | None]
"""Wait for a request, with a buffer for it, and answer it if that can be done at once: then None. Raises End."""

Handle = Callable[[bytearray, Work], None]
"""Answer the request in the buffer, however long it takes."""


class Workers:
    """See the module docstring."""

    def __init__(self, receive: Receive, handle: Handle, buffer_bytes: int) -> None:
        self._receive = receive
        self._handle = handle
        self._buffer_bytes = buffer_bytes
        self._lead = threading.Lock()
        self._count_lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._standing_by = 0
        self._busy = dict.fromkeys(Kind, 0)
        self._aside: dict[Kind, deque[tuple[bytes, Work]]] = {kind: deque() for kind in Kind}
        self._ended = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Serve until the end, in this thread and those it takes. Raises what made a thread fail."""
        self._serve()
        for thread in list(self._threads):
            thread.join()
        if self.failure is not None:
            raise self.failure

    @property
    def count(self) -> int:
        """How many threads there are besides the first."""
        return len(self._threads)

    def is_full(self, kind: Kind) -> bool:
        """Tell whether a request of that kind would be put aside."""
        return self._busy[kind] >= MOST_AT_ONCE[kind]

    def _serve(self) -> None:
        buffer = bytearray(self._buffer_bytes)
        is_first = threading.current_thread() not in self._threads
        try:
            while self._await_lead(is_first):
                work: Work | None = self._lead_on(buffer)
                while work is not None:
                    self._handle(buffer, work)
                    work = self._next(buffer, work.kind)
        except End:
            self._ended.set()
        except BaseException as error:  # noqa: BLE001 - raised again by run()
            self.failure = self.failure or error
            self._ended.set()
        finally:
            with self._count_lock:
                self._threads.discard(threading.current_thread())

    def _await_lead(self, is_first: bool) -> bool:
        """Stand by, and lead; False when it is time to end."""
        with self._count_lock:
            self._standing_by += 1
        leads = False
        while not leads and not self._ended.is_set():
            leads = self._lead.acquire(timeout=IDLE_S)
            if not leads and not is_first:
                break
        with self._count_lock:
            self._standing_by -= 1
            # Who stopped leading a moment ago may have counted on this thread.
            leads = leads or self._lead.acquire(blocking=False)
        if leads and self._ended.is_set():
            self._lead.release()
            return False
        return leads

    def _lead_on(self, buffer: bytearray) -> Work:
        """Take requests until one is for this thread to handle, while another leads. Raises End."""
        try:
            while True:
                work = self._receive(buffer)
                if work is not None and self._begin(buffer, work):
                    if self._let_lead():
                        return work
                    # No thread can be had: nobody leads meanwhile.
                    self._handle(buffer, work)
                    self._finish(work.kind)
        except BaseException:
            self._lead.release()
            raise

    def _begin(self, buffer: bytearray, work: Work) -> bool:
        """Count a request as begun and return True if it may be handled now; else put it aside."""
        with self._count_lock:
            if self._busy[work.kind] < MOST_AT_ONCE[work.kind]:
                self._busy[work.kind] += 1
                return True
            self._aside[work.kind].append((bytes(memoryview(buffer)[: work.size]), work))
            return False

    def _next(self, buffer: bytearray, kind: Kind) -> Work | None:
        """One is done: take the next one that was put aside."""
        with self._count_lock:
            aside = self._aside[kind]
            if not aside:
                self._busy[kind] -= 1
                return None
            raw, work = aside.popleft()
        buffer[: len(raw)] = raw
        return work

    def _finish(self, kind: Kind) -> None:
        with self._count_lock:
            self._busy[kind] -= 1

    def _let_lead(self) -> bool:
        """Let another thread lead; False when there is none and none can be started."""
        with self._count_lock:
            if not self._standing_by and not self._ended.is_set() and not self._start():
                return False
            self._lead.release()
            return True

    def _start(self) -> bool:
        thread = threading.Thread(target=self._serve, name=f"worker-{len(self._threads) + 1}", daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError as error:
            self._threads.discard(thread)
            logger.error("no thread for a request that may take long, others wait for it: %s", error)
            return False
        return True
