"""The files that a drive leaves uncommitted at its end, and the reasons.

It is read from the disk of the staging area, because nothing else tells it exactly: whoever asked the drive before it
was unmounted does not know what was written, or committed, after that; and a daemon that was killed tells nothing.

Neighbours: `area`, `staging` and `pending` write what is read here; the daemon tells the log, ``artifactfs umount`` the
user. Pure functions, safe from any thread. Nothing is reached through a symlink.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import msgspec

from artifactfs.beneath import open_regular
from artifactfs.names import PENDING_PREFIX, STAGING
from mount import wire
from mount.areas import ARTIFACTS, subdirectories
from mount.control import ArtifactState, CommitState, Hold
from mount.faults import reason_of
from mount.holding import HELD
from mount.pending import SealRecord
from mount.reopening import REOPENED, Reopened
from mount.staging import COMMIT_AFTER, UNTOUCHED
from mount.usage import usage_of

ON_REQUEST = "it is committed on request only"
_MAX_MARK_BYTES = 1 << 20


@dataclass(frozen=True)
class Left:
    """The files of one artifact in ``staging``, or in sealed trees. `why` tells why they are no version."""

    label: str
    where: str
    files: int
    size_bytes: int
    why: str


def left_in(
    area: Path, in_time: str, *, on_request: bool, unfinished: Mapping[str, str] = MappingProxyType({})
) -> list[Left]:
    """List what lies in the staging area at `area`, in the order of the labels.

    `in_time` is the reason where nothing else is: why the commit was not made before the end; `unfinished` has such
    reasons of single artifacts' staging, by their labels. `on_request`: staging is not committed by itself. What was
    filled from a version and not changed since is nothing. An artifact that cannot be looked at is told as one that has
    something. Raises OSError when the area itself cannot be looked at.
    """
    found: list[Left] = []
    for collection in subdirectories(area / ARTIFACTS):
        for artifact in subdirectories(area / ARTIFACTS / collection):
            directory, label = area / ARTIFACTS / collection / artifact, f"{collection}/{artifact}"
            try:
                found += _left_of(directory, label, in_time, on_request, unfinished.get(label))
            except OSError as error:
                found.append(Left(label, "", 0, 0, f"cannot be looked at: {reason_of(error)}"))
    return found


def left_of(states: list[ArtifactState], in_time: str) -> list[Left]:
    """Do as `left_in`, from what a drive told of itself: for a staging area that cannot be seen from here."""
    found = []
    for state in states:
        label = f"{state.collection}/{state.artifact}"
        if state.pending:
            first = state.pending[0]
            files, size_bytes = (sum(getattr(p, of) for p in state.pending) for of in ("files", "size_bytes"))
            where = _range([pending.name for pending in state.pending])
            found.append(Left(label, where, files, size_bytes, _of_commit(first.state, first.error, in_time)))
        staged = state.staged
        if staged is not None and (staged.reopened is not None or not staged.untouched):
            why = ON_REQUEST if staged.on_request else in_time
            if staged.reopened is not None:
                why = _of_reopened(staged.reopened.name, staged.reopened.error)
            if staged.held is not None:
                why = f"held: {staged.held.why}"
            found.append(Left(label, STAGING, staged.files, staged.size_bytes, why))
        if state.problem and not (staged or state.pending):
            found.append(Left(label, "", 0, 0, state.problem))
    return found


def _left_of(directory: Path, label: str, in_time: str, on_request: bool, unfinished: str | None) -> Iterator[Left]:
    trees = list(_sealed(directory))
    if trees:
        used = [usage_of(str(tree)) for tree, _ in trees]
        _, record = trees[0]
        yield Left(
            label,
            _range([tree.parent.name for tree, _ in trees]),
            sum(files for files, _ in used),
            sum(size_bytes for _, size_bytes in used),
            # What comes later waits for the first.
            _of_commit(record.state, record.error, in_time) if record is not None else in_time,
        )
    staged = directory / STAGING
    back = _taken_back(directory)
    if _is_filled(staged) and (back is not None or not (directory / UNTOUCHED).exists()):
        files, size_bytes = usage_of(str(staged))
        is_asked_for = _is_on_request(directory, on_request)
        why = _why_held(directory) or (_of_reopened(back.name, back.error) if back is not None else None)
        yield Left(label, STAGING, files, size_bytes, why or (ON_REQUEST if is_asked_for else unfinished or in_time))


def _of_reopened(name: str, error: str | None) -> str:
    return f"{name} was taken back" + (f": {error}" if error else "")


def _taken_back(directory: Path) -> Reopened | None:
    """The sealed tree that staging was, if it was one: see `reopening`."""
    try:
        found = wire.decode(_read(directory / REOPENED), Reopened)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return None if (directory / found.name / "tree").is_dir() else found


def _is_on_request(directory: Path, otherwise: bool) -> bool:
    """Tell whether staging is committed on request only; `otherwise` where the artifact was told nothing of its own."""
    try:
        return msgspec.json.decode(_read(directory / COMMIT_AFTER), type=float | None) is None
    except (FileNotFoundError, msgspec.DecodeError):
        return otherwise


def _sealed(directory: Path) -> Iterator[tuple[Path, SealRecord | None]]:
    """The sealed trees that are no versions yet, in the order of their commits, each with its record if it has one."""
    names = [name for name in subdirectories(directory) if name.startswith(f"{PENDING_PREFIX}.")]
    for name in sorted(names, key=lambda name: int(name.rpartition(".")[2])):
        tree = directory / name / "tree"
        if not tree.is_dir():
            continue
        try:
            record = wire.decode(_read(directory / name / "commit.json"), SealRecord)
        except (FileNotFoundError, msgspec.DecodeError):
            yield tree, None
            continue
        if record.state is not CommitState.COMMITTED:
            yield tree, record


def _of_commit(state: CommitState, error: str | None, in_time: str) -> str:
    return f"{state.value}: {error}" if error is not None else in_time


def _why_held(directory: Path) -> str | None:
    try:
        return f"held: {msgspec.json.decode(_read(directory / HELD), type=Hold).why}"
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        return f"held: the note of why it is held is damaged: {error}"


def _is_filled(directory: Path) -> bool:
    try:
        with os.scandir(directory) as entries:
            return next(entries, None) is not None
    except FileNotFoundError:
        return False


def _range(names: list[str]) -> str:
    """``pending.3``, or the first and last of several."""
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _read(path: Path) -> bytes:
    with open(open_regular(os.fspath(path)), "rb") as file:
        return file.read(_MAX_MARK_BYTES)
