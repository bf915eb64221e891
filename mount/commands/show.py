"""How the commands show numbers and work under way: a bar on a terminal, plain lines elsewhere.

Threading: used by the one thread of a command. rich is imported only when there is a terminal to draw on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import click

from artifactfs.commands.show import count, one_line, size

if TYPE_CHECKING:
    from mount.control import ArtifactState, Hold, Pending
    from mount.left import Left

AFTER_FAILURE = "run it again, or decide with 'artifactfs commit' or 'artifactfs discard'"
"""What to do about what a program left that failed; 'it' is the program."""


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


def progress_of(pending: Pending) -> str:
    """How far a sealed tree is: ``committing, 45 %, 12.3 MiB/s, 1:23 left`` or ``retrying: … (try 4 in 12 s)``."""
    text = pending.state.value
    if pending.error is not None:
        text += f": {one_line(pending.error)}"
    if when := retry(pending):
        return f"{text} ({when})"
    transfer = Transfer.of([pending])
    if transfer.done_bytes and transfer.total_bytes:
        text += f", {100 * transfer.done_bytes // transfer.total_bytes} %"
    return f"{text}, {transfer.pace}" if transfer.pace else text


def left(found: Left) -> str:
    """What an artifact has that is no version, in one line: ``models/bert staging: 2 files, 2.0 KiB: held: …``."""
    if not found.where:
        return one_line(f"{found.label}: {found.why}")
    return one_line(f"{found.label} {found.where}: {count(found.files, 'file')}, {size(found.size_bytes)}: {found.why}")


def hold(held: Hold) -> str:
    """The reason why staged files wait, and what to do."""
    at = time.strftime("%H:%M", time.localtime(held.at))
    if held.by_writer:
        return f"{held.why}, {at}; {AFTER_FAILURE}"
    if held.lost:
        return f"{held.why}; copy what is whole to another place, then 'artifactfs discard'"
    return f"{held.why}; look at it, then 'artifactfs commit' or 'artifactfs discard'"


class Transfer(NamedTuple):
    """How far one or several commits are; the last two are None where that cannot be told."""

    done_bytes: int = 0
    total_bytes: int = 0
    bytes_s: float | None = None
    seconds_left: float | None = None

    @classmethod
    def of(cls, trees: Iterable[Pending]) -> Transfer:
        """The sum of several, which go on at the same time where they are under way."""
        trees = list(trees)
        speeds = [tree.bytes_s for tree in trees if tree.bytes_s is not None]
        total, done = sum(tree.size_bytes for tree in trees), sum(tree.done_bytes for tree in trees)
        bytes_s = sum(speeds) if speeds else None
        return cls(done, total, bytes_s, (total - done) / bytes_s if bytes_s else None)

    @property
    def pace(self) -> str:
        """``12.3 MiB/s, 1:23 left``; empty where neither can be told."""
        if self.bytes_s is None:
            return ""
        left = "" if self.seconds_left is None else f", {duration(self.seconds_left)} left"
        return f"{size(self.bytes_s)}/s{left}"


def duration(seconds: float) -> str:
    """``42 s``, ``1:23`` (minutes), ``2:01:23`` (hours), ``3 days``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} days"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Display(Protocol):
    """Shows work under way."""

    def update(self, text: str, transfer: Transfer) -> None:
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

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TextColumn("{task.fields[pace]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Bar(progress)


class _Lines:
    def __init__(self) -> None:
        self._last = ""
        self._noted: set[str] = set()

    def update(self, text: str, _transfer: Transfer) -> None:
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
        self._task = progress.add_task("", total=None, pace="")
        self._noted: set[str] = set()

    def update(self, text: str, transfer: Transfer) -> None:
        self._progress.update(
            self._task,
            description=text,
            completed=transfer.done_bytes,
            total=transfer.total_bytes or None,
            pace=transfer.pace,
        )

    def note(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self._progress.console.print(text, markup=False, highlight=False)
