"""The speed of a transfer, and the time that is left of it, from what it had done at moments of the last seconds.

Pure arithmetic on the times it is given. Threading: `note` is called by whoever moves the transfer on, the questions
by others; `_lock` keeps the moments together and is a leaf.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

WINDOW_S = 10.0
"""A speed is that of so many seconds: shorter ones jump about, longer ones follow a change late."""
FEWEST_STEPS = 4
"""The least number of steps that a speed is taken from: parts of many MiB on a slow line outlast the window."""
STEP_S = 0.2
"""Bytes that come sooner after the last moment are added to it, so a million small files cost no more than a few."""
SOONEST_S = 0.5
"""A speed of less time is none."""


class _Moment(NamedTuple):
    at_s: float
    done_bytes: int


class Rate:
    """See the module docstring. All times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._moments: deque[_Moment] = deque()
        self._done_bytes = 0

    def begin(self, now_s: float) -> None:
        """A transfer begins (again) with nothing done."""
        with self._lock:
            self._restart(0, now_s)

    def note(self, done_bytes: int, now_s: float) -> None:
        """So much is done by now. Less than before means that something has to be done again."""
        with self._lock:
            if not self._moments or done_bytes < self._done_bytes:
                self._restart(done_bytes, now_s)
                return
            is_news = done_bytes > self._done_bytes
            self._done_bytes = done_bytes
            if is_news and now_s - self._moments[-1].at_s >= STEP_S:
                self._moments.append(_Moment(now_s, done_bytes))
                self._forget(now_s)

    def bytes_s(self, now_s: float) -> float | None:
        """Bytes a second, the time since the last step included; None before that can be told."""
        with self._lock:
            if not self._moments:
                return None
            self._forget(now_s)
            since = self._moments[0]
            if now_s - since.at_s < SOONEST_S:
                return None
            return (self._done_bytes - since.done_bytes) / (now_s - since.at_s)

    def seconds_left(self, total_bytes: int, now_s: float) -> float | None:
        """Seconds until all is done at this speed; None where that cannot be told, such as when nothing moves."""
        bytes_s = self.bytes_s(now_s)
        return max(0, total_bytes - self._done_bytes) / bytes_s if bytes_s else None

    def _restart(self, done_bytes: int, now_s: float) -> None:
        self._moments.clear()
        self._moments.append(_Moment(now_s, done_bytes))
        self._done_bytes = done_bytes

    def _forget(self, now_s: float) -> None:
        """Drop the moments before the window, but for the last of them and the last few of all."""
        moments = self._moments
        while len(moments) > FEWEST_STEPS and moments[1].at_s <= now_s - WINDOW_S:
            moments.popleft()
