"""Trying a store's call again: for throttling, broken connections and time-outs, for a bounded time.

The client libraries are told to try once, so that this is the one place that decides, for every backend alike. Their
own retries lie about an exclusive create: when the answer to a successful one is lost, they report that the name was
taken, by themselves. Pure but for the waiting; safe from any thread.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from artifactfs.errors import AlreadyExists, ArtifactError, StoreFull, StoreUnreachable
from artifactfs.objects.store import Outcome

ATTEMPTS = 6
PATIENCE_S = 30.0
"""No attempt begins later than this after the first, so that even a store that hangs is told of within a minute."""
_FIRST_PAUSE_S = 0.1
_THROTTLED_PAUSE_S = 0.4
_THROTTLING = (
    "slowdown",
    "reduce your request rate",
    "too many requests",
    "toomanyrequests",
    "serverbusy",
    "code: 503",
    "code: 429",
    "(503)",
    "(429)",
)

T = TypeVar("T")


def since_boot_s() -> float:
    """Seconds by a clock that nobody sets and that goes on while the machine is suspended, where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def patiently(action: Callable[[], T]) -> T:
    """What `action` returns, tried again when it raises StoreUnreachable. Anything else is raised at once."""
    began = time.monotonic()
    for attempt in range(ATTEMPTS - 1):
        try:
            return action()
        except StoreUnreachable as error:
            if time.monotonic() - began > PATIENCE_S:
                raise
            pause(attempt, error)
    return action()


def patient_pieces(read_from: Callable[[int], Iterator[bytes]]) -> Iterator[bytes]:
    """The pieces that `read_from` (bytes that have come) gives, taken up where they broke off with StoreUnreachable."""
    done_bytes = failures = 0
    last_s = time.monotonic()
    while True:
        try:
            for piece in read_from(done_bytes):
                done_bytes += len(piece)
                yield piece
                failures, last_s = 0, time.monotonic()
            return
        except StoreUnreachable as error:
            failures += 1
            if failures == ATTEMPTS or time.monotonic() - last_s > PATIENCE_S:
                raise
            pause(failures - 1, error)


def create_and_read_back(data: bytes, create: Callable[[], None], read: Callable[[], bytes | None]) -> Outcome:
    """The outcome of an exclusive create of which the client's word is not believed: what lies there afterwards is.

    `create` raises ArtifactError for whatever went wrong, a name that is taken included; `read` gives what is there.
    """
    for attempt in range(ATTEMPTS):
        try:
            create()
            return Outcome.CREATED
        except ArtifactError as error:
            found = read()
            if found is not None:
                return Outcome.CREATED if found == data else Outcome.TAKEN
            # "Already exists" with nothing there is a lost race with a conflict (409), worth another try.
            hopeless = not (error.transient or isinstance(error, AlreadyExists))
            if hopeless or attempt == ATTEMPTS - 1:
                raise
            pause(attempt, error)
    raise AssertionError("the last attempt returns or raises")


def pause(attempt: int, error: Exception) -> None:
    """Wait before the next attempt: twice as long each time, longer where the store asks for it, never in step."""
    first_s = _THROTTLED_PAUSE_S if is_throttling(error) else _FIRST_PAUSE_S
    time.sleep(first_s * 2.0**attempt * random.uniform(0.5, 1.0))


def is_throttling(error: Exception) -> bool:
    """Tell whether the store said that it is asked too much."""
    text = str(error).lower()
    return not isinstance(error, StoreFull) and any(word in text for word in _THROTTLING)
