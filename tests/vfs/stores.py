"""Stores that misbehave on purpose, around a real one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from artifactfs.managers.base import ArtifactManager


class Wrapped:
    """A manager whose every call first goes through `before(name)`, which may wait or raise.

    Stands in for an ArtifactManager: the drive asks it for attributes and calls them, and that is all it does.
    """

    def __init__(self, manager: ArtifactManager, before: Callable[[str], None]) -> None:
        self._manager = manager
        self._before = before

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._manager, name)
        # Where local bytes lie is answered without asking the store.
        if not callable(found) or name in ("local_range", "open_local"):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self._before(name)
            return found(*args, **kwargs)

        return call


class Outage:
    """For `Wrapped`: raises `error` while there is one."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.only: set[str] = set()
        self.calls: list[str] = []

    def __call__(self, name: str) -> None:
        self.calls.append(name)
        if self.error is not None and (not self.only or name in self.only):
            raise type(self.error)(*self.error.args)


class Gate:
    """For `Wrapped`: holds the calls of one name until it is opened."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._open = threading.Event()
        self.reached = threading.Event()

    def __call__(self, name: str) -> None:
        if name == self._name:
            self.reached.set()
            assert self._open.wait(60)

    def open(self) -> None:
        """Let everybody through from now on."""
        self._open.set()
