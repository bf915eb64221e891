"""What differs between two versions.

What counts is what makes a commit a new version (`manifest`): paths, kinds, bytes, permission bits, symlink targets and
empty directories. Times, and whether a directory that holds something is listed or only implied, are no difference and
are not reported. So two versions of one algorithm whose digests are all known differ here exactly when their content
digests differ or the permissions of something that both list.

Where a digest is unknown, or the two manifests name different algorithms, files of equal size cannot be told apart;
they are counted, not reported as changed.

Linear in the number of entries: blocks of rows that are equal in both are passed over column by column, and an Entry is
made for a difference only. Pure functions, safe from any thread.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from artifactfs.manifest import Entry, EntryKind, Manifest

# Small, because one directory or symlink makes a block be compared row by row.
_BLOCK_ROWS = 512


class Aspect(str, enum.Enum):
    """In what an entry changed."""

    KIND = "kind"
    """A file became a symlink or an empty directory, or the like; nothing else is compared then."""
    CONTENT = "content"
    """The bytes of a file."""
    MODE = "mode"
    """The permission bits of a file or directory."""
    TARGET = "target"
    """Where a symlink leads."""


class Change(NamedTuple):
    """An entry that both versions have, and in what it differs."""

    old: Entry
    new: Entry
    aspects: tuple[Aspect, ...]

    @property
    def path(self) -> str:
        """The path of both."""
        return self.new.path


class Added(NamedTuple):
    """An entry that only the new version has."""

    new: Entry


class Removed(NamedTuple):
    """An entry that only the old version has."""

    old: Entry


class Uncertain(NamedTuple):
    """A file that both have in the same size, with a digest that is not known or not comparable."""

    path: str


Difference = Added | Removed | Change | Uncertain


@dataclass(frozen=True)
class Diff:
    """All differences, each tuple in the order of the paths. False when there are none that are certain.

    `uncertain` counts the files of which nobody knows whether they changed (module docstring).
    """

    added: tuple[Entry, ...] = ()
    removed: tuple[Entry, ...] = ()
    changed: tuple[Change, ...] = ()
    uncertain: int = 0

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    @property
    def added_bytes(self) -> int:
        """Bytes of the added files."""
        return sum(entry.size_bytes for entry in self.added)

    @property
    def removed_bytes(self) -> int:
        """Bytes of the removed files."""
        return sum(entry.size_bytes for entry in self.removed)

    @property
    def grown_bytes(self) -> int:
        """How many bytes more the new version has; negative when it shrank."""
        grown = sum(change.new.size_bytes - change.old.size_bytes for change in self.changed)
        return self.added_bytes - self.removed_bytes + grown


def diff(old: Manifest, new: Manifest) -> Diff:
    """Everything that differs between two versions, in memory: see :func:`differences` for a million of them.

    Example:
        >>> diff(Manifest([Entry("a", size_bytes=1)]), Manifest([Entry("b", size_bytes=2)])).grown_bytes
        1
    """
    added: list[Entry] = []
    removed: list[Entry] = []
    changed: list[Change] = []
    uncertain = 0
    for found in differences(old, new):
        if isinstance(found, Added):
            added.append(found.new)
        elif isinstance(found, Removed):
            removed.append(found.old)
        elif isinstance(found, Change):
            changed.append(found)
        else:
            uncertain += 1
    return Diff(tuple(added), tuple(removed), tuple(changed), uncertain)


def differences(old: Manifest, new: Manifest) -> Iterator[Difference]:
    """The differences one by one, in the order of the paths."""
    comparable = old.algorithm == new.algorithm
    old_paths, new_paths = old._paths, new._paths
    old_count, new_count = len(old_paths), len(new_paths)
    i = j = 0
    while i < old_count and j < new_count:
        rows = min(_BLOCK_ROWS, old_count - i, new_count - j)
        if old_paths[i : i + rows] == new_paths[j : j + rows]:
            if not (comparable and _equal_block(old, i, new, j, rows)):
                for row in range(rows):
                    yield from _compare(old, i + row, new, j + row, comparable)
            i += rows
            j += rows
            continue
        # Somewhere in this block the paths part: go on row by row to the end of it.
        old_end, new_end = i + rows, j + rows
        while i < old_end and j < new_end:
            before, after = old_paths[i], new_paths[j]
            if before == after:
                yield from _compare(old, i, new, j, comparable)
                i += 1
                j += 1
            elif before < after:
                yield from _only_old(old, i, new)
                i += 1
            else:
                yield from _only_new(new, j, old)
                j += 1
    for row in range(i, old_count):
        yield from _only_old(old, row, new)
    for row in range(j, new_count):
        yield from _only_new(new, row, old)


def _only_old(old: Manifest, row: int, new: Manifest) -> Iterator[Removed]:
    if _counts(old, row, new):
        yield Removed(old[row])


def _only_new(new: Manifest, row: int, old: Manifest) -> Iterator[Added]:
    if _counts(new, row, old):
        yield Added(new[row])


def _counts(manifest: Manifest, row: int, other: Manifest) -> bool:
    """Tell if an entry that `other` does not list is missing there: a directory may be implied, or not be empty."""
    if manifest._kinds[row] != EntryKind.DIRECTORY:
        return True
    return _is_empty(manifest, row) and not other.is_directory(os.fsdecode(manifest._paths[row]))


def _is_empty(manifest: Manifest, row: int) -> bool:
    return not manifest._has_below(manifest._paths[row])


def _equal_block(old: Manifest, i: int, new: Manifest, j: int, rows: int) -> bool:
    """Tell whether that many rows are equal for certain. Only worth asking where the paths are."""
    if old._kinds[i : i + rows] != new._kinds[j : j + rows] or old._sizes[i : i + rows] != new._sizes[j : j + rows]:
        return False
    if old._modes[i : i + rows] != new._modes[j : j + rows]:
        return False
    width = _width(old)
    if not width or width != _width(new):
        return False
    digests = old._digests[i * width : (i + rows) * width]
    # A file without a digest has zeros there, and so has a symlink, whose target is not looked at here.
    return bytes(width) not in digests and digests == new._digests[j * width : (j + rows) * width]


def _compare(old: Manifest, i: int, new: Manifest, j: int, comparable: bool) -> Iterator[Difference]:
    """What differs between two rows of the same path."""
    kind, new_kind = old._kinds[i], new._kinds[j]
    if kind != new_kind:
        yield from _other_kind(old, i, new, j)
        return
    aspects: tuple[Aspect, ...] = ()
    if kind == EntryKind.FILE:
        same = _same_bytes(old, i, new, j, comparable)
        if same is False:
            aspects += (Aspect.CONTENT,)
        if same is None:
            yield Uncertain(os.fsdecode(new._paths[j]))
    elif kind == EntryKind.SYMLINK and old._targets[i] != new._targets[j]:
        aspects = (Aspect.TARGET,)
    if kind != EntryKind.SYMLINK and old._modes[i] != new._modes[j]:
        aspects += (Aspect.MODE,)
    if aspects:
        yield Change(old[i], new[j], aspects)


def _other_kind(old: Manifest, i: int, new: Manifest, j: int) -> Iterator[Difference]:
    """A path whose kind changed. A directory that holds something is told by what it holds."""
    if old._kinds[i] == EntryKind.DIRECTORY and not _is_empty(old, i):
        yield Added(new[j])
    elif new._kinds[j] == EntryKind.DIRECTORY and not _is_empty(new, j):
        yield Removed(old[i])
    else:
        yield Change(old[i], new[j], (Aspect.KIND,))


def _same_bytes(old: Manifest, i: int, new: Manifest, j: int, comparable: bool) -> bool | None:
    """Tell whether two files hold the same bytes, None when nobody knows."""
    size_bytes = old._sizes[i]
    if size_bytes != new._sizes[j]:
        return False
    if size_bytes == 0:
        return True
    if not comparable:
        return None
    before, after = _digest(old, i), _digest(new, j)
    return before == after if before and after else None


def _digest(manifest: Manifest, row: int) -> bytes:
    width = _width(manifest)
    digest = manifest._digests[row * width : (row + 1) * width]
    return digest if digest.strip(b"\0") else b""


def _width(manifest: Manifest) -> int:
    return len(manifest._digests) // len(manifest._paths) if manifest._paths else 0
