"""The text of a status, for people: what lines and rows a mount is shown by, once or again and again.

Pure functions of what `status` found, but for the local time zone. Threading: safe from any thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from artifactfs.commands.show import count, size
from mount.commands import show

if TYPE_CHECKING:
    from mount.control import ArtifactState, Cache, Pending, Staged, Status

# Those who wrote themselves come first, then what leads their jobs.
_MOST_WRITERS = 3


@dataclass(frozen=True)
class Row:
    """The files of one artifact in one place; `fraction` is the part of them in the store, while they go there."""

    label: str
    where: str
    files: str = ""
    size: str = ""
    doing: str = ""
    fraction: float | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """The texts of the row."""
        return self.label, self.where, self.files, self.size, self.doing


@dataclass(frozen=True)
class View:
    """A mount as it is shown: lines, then rows, then lines."""

    above: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    below: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Everything as text."""
        yield from self.above
        yield from _table([row.cells for row in self.rows])
        yield from self.below


def view(found: dict[str, Any]) -> View:
    """Make the text of one mount, as `status` found it."""
    answer: Status | None = found["status"]
    above, rows, below = [f"{found['mountpoint']}  {found['store']}"], [], []
    if answer is None:
        above.append(f"  {found['state'].value}: {found['problem']}")
        if found["state"].value == "dead":
            above.append(f"  mount it again to go on: artifactfs mount {found['store']} {found['mountpoint']}")
    else:
        above += [f"  {line}" for line in _facts(answer)]
        rows = [row for state in answer.artifacts for row in _rows(state)]
        if answer.left_off:
            below.append(f"  and {count(answer.left_off, 'further artifact')}")
    if found["log_file"]:
        below.append(f"  log: {found['log_file']}")
    return View(above, rows, below)


def _facts(answer: Status) -> Iterator[str]:
    yield _mounted(answer)
    if answer.cache is not None:
        yield _cache(answer.cache)
    if answer.exclusive_create:
        yield f"exclusive create: {answer.exclusive_create}"
    yield from answer.waiting
    if not answer.reachable:
        yield "the store does not answer"
    for fault in answer.faults:
        yield f"fault: {' '.join(fault.split())}"


def _mounted(answer: Status) -> str:
    if answer.read_only:
        way = "read-only"
    elif answer.commit_after_s is None:
        way = "commits on request only"
    else:
        way = f"commits after {answer.commit_after_s:g} s of quiet"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(answer.started_at))
    driver = f"driver {answer.driver}" + (f", reads by {answer.reads}" if answer.reads else "")
    return f"mounted since {since}, {way}, {driver}, process {answer.pid}"


def _cache(cache: Cache) -> str:
    held = "" if cache.used_bytes is None else f"{size(cache.used_bytes)} of "
    fetched = f"{size(cache.fetched_bytes)} fetched in {count(cache.requests, 'request')}"
    return f"cache {cache.directory}: {held}{size(cache.limit_bytes)}, {fetched}"


def _rows(state: ArtifactState) -> Iterator[Row]:
    label = show.label(state)
    for pending in state.pending:
        yield Row(
            label,
            pending.name,
            count(pending.files, "file"),
            size(pending.size_bytes),
            show.progress_of(pending),
            _fraction(pending),
        )
    if state.staged:
        staged = state.staged
        doing = state.problem or _waiting(staged)
        yield Row(label, "staging", count(staged.files, "file"), size(staged.size_bytes), doing)
    elif state.problem:
        yield Row(label, "", doing=state.problem)


def _waiting(staged: Staged) -> str:
    """Tell who writes there, and when it is committed or why not: ``cp (pid 4711) writes; commits in 12 s``."""
    if staged.held is not None:
        return f"held: {show.hold(staged.held)}"
    if staged.reopened is not None and staged.untouched:
        why = staged.reopened.error
        return f"{staged.reopened.name} taken back{f': {why}' if why else ''}; mend it, or 'artifactfs commit'"
    when = f"waits for {staged.waits_for}"
    if staged.commits_in_s is not None:
        when = f"commits in {show.duration(staged.commits_in_s)}"
    return f"by {', '.join(staged.writers[:_MOST_WRITERS])}; {when}" if staged.writers else when


def _fraction(pending: Pending) -> float | None:
    if pending.state.value != "committing" or not pending.size_bytes:
        return None
    return min(1.0, pending.done_bytes / pending.size_bytes)


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
