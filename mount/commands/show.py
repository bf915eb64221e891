"""How the commands show numbers and work under way: a bar on a terminal, plain lines elsewhere.

Threading: used by the one thread of a command. rich is imported only when there is a terminal to draw on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

from artifactfs.commands.show import count, size

if TYPE_CHECKING:
    from mount.control import ArtifactState, Hold, Pending, Status


def state_dir_option(given: str | None) -> Path:
    """The state directory asked for, or the default one."""
    from mount.settings import default_state_dir

    return Path(given).absolute() if given else default_state_dir()


def label(state: ArtifactState) -> str:
    """``models/bert``."""
    return f"{state.collection}/{state.artifact}"


def problem(of: str, pending: Pending) -> str | None:
    """What keeps a sealed tree from being committed, in one line; None when nothing does."""
    if pending.error is None:
        return None
    return f"{of} {pending.name}: {pending.state.value}: {' '.join(pending.error.split())}"


def retry(pending: Pending) -> str:
    """When a sealed tree is tried again; empty when no time is set."""
    if pending.next_retry is None:
        return ""
    return f"try {pending.attempts + 1} in {max(0.0, pending.next_retry - time.time()):.0f} s"


def left_over(status: Status) -> list[str]:
    """What a mount has staged or pending, one line for each artifact."""
    lines = []
    for state in status.artifacts:
        files = sum(pending.files for pending in state.pending) + (state.staged.files if state.staged else 0)
        size_bytes = sum(p.size_bytes for p in state.pending) + (state.staged.size_bytes if state.staged else 0)
        if state.staged or state.pending or state.problem:
            more = f" ({state.problem})" if state.problem else ""
            lines.append(f"{label(state)}: {count(files, 'file')}, {size(size_bytes)}{more}")
    if status.left_off:
        lines.append(f"and {count(status.left_off, 'further artifact')}")
    return lines


def hold(held: Hold) -> str:
    """The reason why staged files wait, and what to do."""
    at = time.strftime("%H:%M", time.localtime(held.at))
    if held.by_writer:
        return f"{held.why}, {at}; run it again, or 'artifactfs commit' or 'artifactfs discard' it"
    if held.lost:
        return f"{held.why}; copy what is whole to another place, then 'artifactfs discard'"
    return f"{held.why}; look at it, then 'artifactfs commit' or 'artifactfs discard'"


class Display(Protocol):
    """Shows work under way."""

    def update(self, text: str, done_bytes: int, total_bytes: int) -> None:
        """The work as it is at present."""

    def note(self, text: str) -> None:
        """Something worth telling once; the same text again is left out."""


@contextmanager
def display() -> Iterator[Display]:
    """A progress bar when stderr is a terminal, else lines."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Bar(progress)


class _Lines:
    def __init__(self) -> None:
        self._last = ""
        self._noted: set[str] = set()

    def update(self, text: str, done_bytes: int, total_bytes: int) -> None:
        if text != self._last:
            self._last = text
            click.echo(text, err=True)

    def note(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            click.echo(text, err=True)


class _Bar:
    def __init__(self, progress: object) -> None:
        from rich.progress import Progress

        assert isinstance(progress, Progress)
        self._progress = progress
        self._task = progress.add_task("", total=None)
        self._noted: set[str] = set()

    def update(self, text: str, done_bytes: int, total_bytes: int) -> None:
        self._progress.update(self._task, description=text, completed=done_bytes, total=total_bytes or None)

    def note(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self._progress.console.print(text, markup=False, highlight=False)
