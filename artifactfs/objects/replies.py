"""Bounds on an answer of a store: as many bytes as were asked for, and time that fits them.

The one rule for all that comes over a network, whichever client library fetches it: `asking` says how many bytes the
calls within may be answered with (anything that is no content: a page of a listing, an error, headers, has a fixed
bound), and an `Allowance` counts what has come of one answer and how long it was waited for. `objects.guards` puts it
into the libraries.

Threading: an Allowance belongs to one answer. What was asked for is kept in a context variable, which fsspec hands on
to the thread of its event loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from artifactfs.objects.bounds import CALL_TIMEOUT_S, MOST_REPLY_BYTES, SLOWEST_BYTES_PER_S

# Status line and headers: at most 100 lines of 64 KiB are read by Python's own client.
_HEADER_BYTES = 8 << 20

_asked: ContextVar[int] = ContextVar("asked_bytes", default=MOST_REPLY_BYTES)


class TooMuch(Exception):
    """An answer is larger than what was asked for."""


class TooSlow(TimeoutError):
    """An answer does not come in the time that its size allows."""


@contextmanager
def asking(size_bytes: int) -> Iterator[None]:
    """While calls are made whose answers hold so many bytes of content. Not to be held across a yield."""
    before = _asked.set(max(size_bytes, MOST_REPLY_BYTES))
    try:
        yield
    finally:
        _asked.reset(before)


class Allowance:
    """The bytes and the time that one answer may take. Made where the request is made, or in its context."""

    def __init__(self) -> None:
        self._most_bytes = _asked.get() + _HEADER_BYTES
        self._came_bytes = 0
        self._waited_s = 0.0

    def count(self, size_bytes: int, waited_s: float) -> None:
        """Count bytes that have come, and the time that was waited for them. Raises TooMuch, TooSlow."""
        self._came_bytes += size_bytes
        self._waited_s += waited_s
        if self._came_bytes > self._most_bytes:
            raise TooMuch("the answer is larger than what was asked for")
        if self._waited_s > CALL_TIMEOUT_S + self._came_bytes / SLOWEST_BYTES_PER_S:
            raise TooSlow(f"{self._came_bytes} bytes of the answer have come in {self._waited_s:.0f} s")
