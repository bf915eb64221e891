"""Fetching granules from the store: each once, however many readers wait for it, by a bounded number of threads.

A `Request` is a run of granules of one blob. Readers wait for requests and do not make them: one that gives up leaves
the request to the others. What somebody waits for goes before what is only fetched ahead.

Threading: safe from any thread. `_lock` guards the queue, the table of what is under way and the counts; it is a leaf
and held across no I/O.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator

from artifactfs.content.blobs import Blob, SmallBlob
from artifactfs.content.segments import GRANULE_BYTES
from artifactfs.content.streams import LEAST_AROUND, PARALLEL
from artifactfs.errors import ArtifactError, StoreTimeout, StoreUnreachable
from artifactfs.threads import try_start

logger = logging.getLogger(__name__)

READ_TIMEOUT_S = 60.0
THREADS = 16
"""How many requests are under way at once."""
# Threads that wait for a store which does not answer are replaced, so that the next try can succeed; to this many.
_MOST_THREADS = 64
# So many requests at once are not much slower than one.
_FEW = 6
# A store that gives a granule in this time is on the same machine, or next to it.
_CLOSE_S = 0.004
# A thread without work ends after this time.
_IDLE_S = 10.0


class Request:
    """Granules of one blob that are being fetched, and then put into the cache.

    `pieces` are the granules that have come so far: readers take them from here and do not wait for the disk. One that
    is cached becomes None, so that the same little memory is used again and again. `is_ahead`: nobody waited for it
    when it was made. `_changed` guards `pieces` and what follows it, and is held across no I/O.
    """

    __slots__ = (
        "_changed",
        "_seen_to",
        "blob",
        "damages",
        "end",
        "error",
        "first",
        "has_come",
        "is_ahead",
        "is_given_up",
        "is_started",
        "is_urgent",
        "pieces",
    )

    def __init__(self, blob: Blob | SmallBlob, first: int, end: int, damages: int, is_urgent: bool) -> None:
        self.blob = blob
        self.damages = damages
        self.first = first
        self.end = end
        self.is_ahead = not is_urgent
        self.is_urgent = is_urgent
        self.is_started = False
        self.is_given_up = False
        self._changed = threading.Condition(threading.Lock())
        self.pieces: list[bytes | None] = []
        self._seen_to = 0
        self.has_come = False
        self.error: Exception | None = None

    def take(self, piece: bytes) -> None:
        """The next granule has come."""
        with self._changed:
            self.pieces.append(piece)
            self.has_come = self.has(self.end)
            self._changed.notify_all()

    def skip(self, end: int) -> None:
        """The granules before `end` are cached already."""
        with self._changed:
            self.pieces += [None] * (end - self.first - len(self.pieces))
            self._seen_to = len(self.pieces)
            self.has_come = self.has(self.end)
            self._changed.notify_all()

    def see_to(self, is_cached: bool) -> None:
        """The last granule that came is cached, or cannot be."""
        with self._changed:
            if is_cached:
                self.pieces[-1] = None
            self._seen_to = len(self.pieces)
            self._changed.notify_all()

    def finish(self, error: Exception | None) -> None:
        """Nothing more will come, nor be done."""
        with self._changed:
            if not self.has_come:
                self.has_come, self.error = True, error
            self._seen_to = len(self.pieces)
            self._changed.notify_all()

    def has(self, end: int) -> bool:
        """Tell whether the granules before `end` have come."""
        return self.first + len(self.pieces) >= end

    def wait(self, end: int, timeout_s: float) -> bool:
        """Until the granules before `end` have come, or no more will; False when neither is so in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self.has_come or self.has(end), timeout_s)

    def settle(self, timeout_s: float) -> bool:
        """Until what has come so far is cached, or cannot be; False when that is not so in time."""
        with self._changed:
            come = len(self.pieces)
            return self._changed.wait_for(lambda: self._seen_to >= come, timeout_s)


class Pace:
    """How long requests take by their size, in seconds: soon what is less, slowly what is more. Not locked."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._first: float | None = None

    def note(self, granules: int, seconds: float, first: float) -> None:
        """A request of so many granules took so long, and the first of them came after `first`."""
        size = 1 if granules == 1 else 1 << granules.bit_length()
        before = self._seconds.get(size, seconds)
        self._seconds[size] = min(seconds, before + (seconds - before) / 4)
        before = first if self._first is None else self._first
        self._first = min(first, before + (first - before) / 16)

    @property
    def in_wait(self) -> int:
        """How many granules come in less than twice the time of one: a power of two, or the next, to find out."""
        one = self._seconds.get(1)
        size = 1
        while one is not None:
            larger = max(LEAST_AROUND, 2 * size)
            seconds = self._seconds.get(larger)
            if seconds is None:
                return larger
            if seconds >= 2 * one:
                break
            size = larger
        return size

    @property
    def parallel(self) -> int:
        """How many requests it takes to have the bytes of one file at the speed of the way to the store.

        Two from a store that is close: with more, bytes come out of order, and wait in the cache for those before
        them. A connection to one that is farther away gives a part of what the way could carry.
        """
        return PARALLEL if self._first is None else max(2, min(PARALLEL, round(self._first / _CLOSE_S)))


class Fetcher:
    """See the module docstring."""

    def __init__(self, timeout_s: float) -> None:
        """A reader waits at most `timeout_s` for one request."""
        self.timeout_s = timeout_s
        self.fetched_bytes = 0
        self.requests = 0
        self._pace = Pace()
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._under_way: dict[tuple[str, int], Request] = {}
        self._urgent: deque[Request] = deque()
        self._ahead: deque[Request] = deque()
        self._threads = self._idle = self._stuck = 0
        self._is_closed = False

    def want(self, blob: Blob | SmallBlob, first: int, end: int, damages: int, *, is_urgent: bool) -> list[Request]:
        """Have these granules fetched, but for those that are cached; returns the requests that bring them.

        They are cached while the blob has no more damages than the caller knows of. Raises OSError.
        """
        missing = [granule for granule in range(first, end) if not blob.has(granule, granule + 1)]
        requests: list[Request] = []
        with self._lock:
            mine: Request | None = None
            for granule in missing:
                request = self._under_way.get((blob.key, granule))
                if request is None:
                    if mine is None or mine.end != granule:
                        mine = Request(blob, granule, granule, damages, is_urgent)
                        self._enqueue(mine)
                    mine.end = granule + 1
                    request = self._under_way[blob.key, granule] = mine
                elif is_urgent and not request.is_urgent:
                    request.is_urgent = True
                    if not request.is_started:
                        # It stays in the other queue as well, where it will be found started.
                        self._urgent.append(request)
                if not requests or requests[-1] is not request:
                    requests.append(request)
        return requests

    def check_later(self, blob: Blob) -> None:
        """Have a blob that is all cached checked against its digest; damage is logged, and the blob dropped."""
        with self._lock:
            if (blob.key, -1) not in self._under_way:
                request = self._under_way[blob.key, -1] = Request(blob, -1, -1, blob.damages, False)
                self._enqueue(request)

    def _enqueue(self, request: Request) -> None:
        (self._urgent if request.is_urgent else self._ahead).append(request)
        if self._idle:
            self._work.notify()
        if self._threads - self._stuck < THREADS and self._threads < _MOST_THREADS and self._idle < self._waiting():
            self._threads += 1
            if not try_start(threading.Thread(target=self._run, name="fetch", daemon=True)):
                self._threads -= 1
                if not self._threads:
                    (self._urgent if request.is_urgent else self._ahead).remove(request)
                    raise StoreUnreachable(f"the system gives no thread to fetch {request.blob.label} with")

    def _waiting(self) -> int:
        return len(self._urgent) + len(self._ahead)

    @property
    def threads(self) -> int:
        """How many threads there are."""
        return self._threads

    @property
    def _active(self) -> int:
        return self._threads - self._idle

    @property
    def parallel(self) -> int:
        """As `Pace.parallel`."""
        return self._pace.parallel

    @property
    def in_wait(self) -> int:
        """How many granules may be fetched in the time that one is waited for; 1 while several are being fetched."""
        return 1 if self._active > _FEW // 2 else self._pace.in_wait

    def wait(self, requests: Iterable[Request], end: int) -> None:
        """Until all granules before `end` have come. Raises what fetching raised; StoreTimeout."""
        deadline = time.monotonic() + self.timeout_s
        for request in requests:
            until = min(end, request.end)
            if not request.wait(until, max(0.0, deadline - time.monotonic())):
                self._give_up(request)
                raise StoreTimeout(f"the store did not give {request.blob.label} within {self.timeout_s:g} s")
            if request.error is not None and not request.has(until):
                raise _copy(request.error) from request.error

    def settle(self, blob: Blob) -> None:
        """Until what has come of the blob is cached. Raises StoreTimeout."""
        with self._lock:
            requests = {id(found): found for (key, _), found in self._under_way.items() if key == blob.key}
        deadline = time.monotonic() + self.timeout_s
        for request in requests.values():
            if not request.settle(max(0.0, deadline - time.monotonic())):
                raise StoreTimeout(f"the cache did not take {blob.label} within {self.timeout_s:g} s")

    def _give_up(self, request: Request) -> None:
        """Nobody is to join a request that has taken too long; the next reader makes its own."""
        with self._lock:
            if not request.is_given_up and not request.has_come:
                request.is_given_up = True
                self._stuck += request.is_started
                self._forget(request)

    def _forget(self, request: Request) -> None:
        for granule in range(request.first, max(request.end, request.first + 1)):
            if self._under_way.get((request.blob.key, granule)) is request:
                del self._under_way[request.blob.key, granule]

    def close(self) -> None:
        """Take no more work; what is under way is left to itself."""
        with self._lock:
            self._is_closed = True
            self._urgent.clear()
            self._ahead.clear()
            self._work.notify_all()

    # -- the threads ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (request := self._next()) is not None:
            problem: Exception | None = None
            try:
                self._fetch(request)
            except Exception as error:  # noqa: BLE001 - told to those who wait
                problem = error
                if request.has_come or request.first == request.end:
                    # Nobody waits any more: who reads on fetches anew what was dropped.
                    logger.warning("%s", error)
                elif not request.is_urgent:
                    logger.info("could not fetch %s ahead: %s", request.blob.label, error)
            with self._lock:
                self._forget(request)
                self._stuck -= request.is_given_up
            request.finish(problem)

    def _next(self) -> Request | None:
        """The next request to be made; None when this thread is to end."""
        with self._lock:
            while True:
                while self._urgent or self._ahead:
                    request = (self._urgent or self._ahead).popleft()
                    if not request.is_started and not request.is_given_up:
                        request.is_started = True
                        return request
                excess = self._threads - self._stuck > THREADS
                self._idle += 1
                is_called = not (self._is_closed or excess) and self._work.wait(_IDLE_S)
                self._idle -= 1
                if not is_called and not self._urgent and not self._ahead:
                    self._threads -= 1
                    return None

    def _fetch(self, request: Request) -> None:
        blob = request.blob
        if request.first == request.end:
            blob.finish()
            return
        for first, end in self._missing(request):
            request.skip(first)
            granule = first
            is_quiet, started_s = self._active <= _FEW, time.monotonic()
            first_s = 0.0
            for piece in _granules(blob.fetch(first * GRANULE_BYTES, blob.request_bytes(first, end))):
                first_s = first_s or time.monotonic() - started_s
                blob.check_length(granule, min(granule + 1, end), piece)
                self._take(request, granule, piece)
                granule += 1
            with self._lock:
                self.requests += 1
                if granule > first and is_quiet and self._active <= _FEW:
                    self._pace.note(granule - first, time.monotonic() - started_s, first_s)
            if granule < end:
                blob.check_length(granule, end, b"")
                return
        request.skip(request.end)

    def _missing(self, request: Request) -> list[tuple[int, int]]:
        """The runs of its granules that no other brought between the look into the cache and the making of this one."""
        runs: list[tuple[int, int]] = []
        for granule in range(request.first, request.end):
            try:
                if request.blob.has(granule, granule + 1):
                    continue
            except OSError as error:
                logger.info("could not look for %s in the cache: %s", request.blob.label, error)
            if runs and runs[-1][1] == granule:
                runs[-1] = runs[-1][0], granule + 1
            else:
                runs.append((granule, granule + 1))
        return runs

    def _take(self, request: Request, granule: int, piece: bytes) -> None:
        """One granule has come: tell who waits for it, then cache it. Raises IntegrityError when it is the damage."""
        blob, view = request.blob, memoryview(piece)
        request.take(piece)
        with self._lock:
            self.fetched_bytes += len(piece)
        try:
            # What was asked for before the whole was found damaged may be the damage.
            is_stored = blob.is_as_known(request.damages) and blob.store(granule, view)
            if is_stored and not blob.is_as_known(request.damages):
                blob.forget(granule, granule + 1)
                is_stored = False
        except OSError as error:
            # The bytes are good: who waits for them gets them, from memory.
            logger.info("could not cache %s: %s", blob.label, error)
            is_stored = False
        request.see_to(is_stored)
        if is_stored:
            try:
                blob.check(granule, view)
            except OSError as error:
                # Who comes to its end tries again.
                logger.info("could not check %s in the cache: %s", blob.label, error)


def _granules(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes by the granule; the last one may be short."""
    rest = b""
    for piece in pieces:
        joined = rest + piece if rest else piece
        whole = len(joined) // GRANULE_BYTES * GRANULE_BYTES
        for start in range(0, whole, GRANULE_BYTES):
            yield joined[start : start + GRANULE_BYTES]
        rest = joined[whole:]
    if rest:
        yield rest


def _copy(error: Exception) -> Exception:
    """One for each of several readers that raise it: each adds its own traceback."""
    if isinstance(error, ArtifactError):
        return type(error)(*error.args)
    return error
