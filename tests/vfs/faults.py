"""A manager over a real one that fails on purpose: before a call, after its effect, or when its time bound is over."""

from __future__ import annotations

import enum
import threading
from typing import Any

from artifactfs.managers.base import ArtifactManager


class When(enum.Enum):
    """At which moment of a call it fails."""

    BEFORE = "before"
    """Nothing has happened."""
    AFTER = "after"
    """Everything has happened, and the answer is lost."""
    HANG = "hang"
    """No answer until `Faulty.release` is called, then the error; nothing has happened."""


class Faulty:
    """Stands in for an ArtifactManager. Only calls from the committer's jobs fail, so that the drive can be looked at.

    With `committing` False it is the other way round: all calls fail but those. `calls` are the names of the calls that
    might have failed. Threading: `arm` and `heal` may be called while calls are under way.
    """

    def __init__(self, manager: ArtifactManager, *, committing: bool = True) -> None:
        self._manager = manager
        self._committing = committing
        self._released = threading.Event()
        self._fault: tuple[str, When, Exception] | None = None
        self.calls: list[str] = []
        self.failures = 0
        self.reached = threading.Event()

    def arm(self, name: str, when: When, error: Exception) -> None:
        """From now on calls of `name` fail with `error`."""
        self._fault = name, when, error
        self._released.clear()
        self.reached.clear()

    def heal(self) -> None:
        """From now on nothing fails."""
        self._fault = None
        self._released.set()

    def release(self) -> None:
        """The time bound of calls that hang is over."""
        self._released.set()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._manager, name)
        is_job = threading.current_thread().name.startswith("commit ")
        if not callable(found) or is_job != self._committing:
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            fault = self._fault
            if fault is None or fault[0] != name:
                return found(*args, **kwargs)
            _, when, error = fault
            if when is When.AFTER:
                found(*args, **kwargs)
            elif when is When.HANG:
                self.reached.set()
                assert self._released.wait(60)
            self.failures += 1
            raise type(error)(*error.args)

        return call
