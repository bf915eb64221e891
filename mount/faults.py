"""Faults of the daemon at present, and threads that go on in spite of them.

A fault is what no program can be told of: it is shown in the status for as long as it lasts, and logged once. Threads
that the drive cannot do without are started by `keep_alive`.

Threading: everything here is safe from any thread; the lock of `Faults` is a leaf.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from artifactfs.errors import ArtifactError

logger = logging.getLogger(__name__)

RESTART_S = 1.0


class Faults:
    """The faults at present, by the name of what is concerned."""

    def __init__(self, shown: Callable[[str], str] = lambda text: text) -> None:
        """`shown` makes of a reason what a user is to read."""
        self._shown = shown
        self._lock = threading.Lock()
        self._present: dict[str, str] = {}

    def note(self, concerned: str, error: BaseException) -> None:
        """Something does not work; the log is told when that is news."""
        reason = self._shown(reason_of(error))
        with self._lock:
            is_news = self._present.get(concerned) != reason
            self._present[concerned] = reason
        if is_news:
            expected = isinstance(error, (ArtifactError, OSError))
            logger.error("%s: %s", concerned, reason, exc_info=None if expected else error)

    def clear(self, concerned: str) -> None:
        """It works."""
        with self._lock:
            was_there = self._present.pop(concerned, None) is not None
        if was_there:
            logger.info("%s works again", concerned)

    def of(self, concerned: str) -> str | None:
        """The fault of what is concerned, None when it has none."""
        with self._lock:
            return self._present.get(concerned)

    def present(self) -> list[str]:
        """Every fault in one line each, in the order in which they came."""
        with self._lock:
            return [f"{concerned}: {reason}" for concerned, reason in self._present.items()]


def reason_of(error: BaseException) -> str:
    """The text of an error in one line; its kind when it has none."""
    if isinstance(error, OSError) and not isinstance(error, ArtifactError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename is not None else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def keep_alive(name: str, body: Callable[[], None], faults: Faults) -> threading.Thread:
    """Start a thread that runs `body` until it returns, and runs it again a second after it has failed.

    `body` clears the fault `name` when it has done some of its work.
    """

    def run() -> None:
        while True:
            try:
                body()
            except Exception as error:  # noqa: BLE001 - whatever it is, the thread is needed
                faults.note(name, error)
                time.sleep(RESTART_S)
            else:
                return

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread
