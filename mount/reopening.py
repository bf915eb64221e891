"""Taking a sealed tree back into staging, so that what the store refuses can be mended where it is.

One rename moves the tree back and is the moment. A note, ``reopened``, is written beside staging before it and says
which tree staging is, and what its commit was told; while that tree is still in its sealed place the note means
nothing. It keeps the tree's turn: the trees that were sealed after it wait until it is sealed again or gone, and it
gets its number back.

A store on the same disk may have taken files of the tree by hard links, in an attempt that failed later. To write to
such a file would be to write into the store, so `take_apart` gives each a copy of its own bytes first.

Neighbours: `staging` calls this, the committer keeps its jobs away meanwhile. Threading: called with the artifact's
sealing lock held; a sealed tree changes for nobody else.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import msgspec

from artifactfs import durable
from artifactfs.longpaths import reach, walk
from artifactfs.names import PENDING_PREFIX, STAGING
from mount import disk, wire
from mount.handles import IS_ROOT
from mount.pending import PendingTree
from mount.room import DiskRoom

logger = logging.getLogger(__name__)

REOPENED = "reopened"
"""The name of the note; see the module docstring."""


class Reopened(msgspec.Struct, frozen=True):
    """The sealed tree that staging was, why it was not committed, and what its commit was told."""

    number: int
    error: str | None = None
    message: str = ""
    aliases: list[str] = []
    automatic: bool = True

    @property
    def name(self) -> str:
        """``pending.3``."""
        return f"{PENDING_PREFIX}.{self.number}"


def note(directory: Path, pending: PendingTree) -> Reopened:
    """Write the note for a tree of the artifact at `directory`; durable when this returns. Raises OSError."""
    record = pending.record
    # The reason names files by their paths on the drive.
    above = f"{directory.parent.name}/{directory.name}"
    error = record.error and record.error.replace(f"{above}/{pending.name}/", f"{above}/{STAGING}/")
    made = Reopened(pending.number, error, record.message, record.aliases, record.automatic)
    durable.replace(directory / REOPENED, wire.encode(made))
    return made


def recovered(directory: Path, *, is_empty: bool) -> Reopened | None:
    """Read back the note that an earlier daemon left, if it still says something of staging. Raises OSError.

    Call before the sealed trees are looked at: one that was committed is removed then.
    """
    place = directory / REOPENED
    try:
        found = wire.decode(place.read_bytes(), Reopened)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        # Cannot happen by a crash. The files are in staging and are committed as such.
        logger.error("the note of which tree was reopened in %s is damaged: %s", directory, error)
        found = None
    if found is None or is_empty or (directory / found.name / "tree").is_dir():
        place.unlink()
        return None
    return found


def take_apart(pending: PendingTree, room: DiskRoom) -> int:
    """Copy each file of a sealed tree that has names elsewhere, and put the copy in its place; returns how many.

    The copies are on disk before that, so the tree is whole whenever this dies. Raises NoRoom, OSError.
    """
    root = str(pending.tree.root)
    copies: list[tuple[str, list[str]]] = []
    for number, (found, paths) in enumerate(_shared(root)):
        room.take(found.st_size)
        copy = str(pending.directory / f"apart.{number}")
        with reach(paths[0]) as place:
            _copy(place, copy, stat.S_IMODE(found.st_mode))
        copies.append((copy, paths))
    for copy, (first, *others) in copies:
        with reach(first) as place:
            os.rename(copy, place)
            for other in others:
                _replace_by_link(place, other, copy)
    return len(copies)


def _shared(root: str) -> list[tuple[os.stat_result, list[str]]]:
    """Each file of a tree that has more names than it has in the tree, and those it has there."""
    found: dict[tuple[int, int], tuple[os.stat_result, list[str]]] = {}
    try:
        for directory, _, files in walk(root):
            with reach(directory) as near:
                for name in files:
                    status = os.lstat(f"{near}/{name}")
                    if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
                        paths = found.setdefault((status.st_dev, status.st_ino), (status, []))[1]
                        paths.append(f"{directory}/{name}")
    except PermissionError:
        # A commit lists the whole tree before it takes a file, and did not come past this directory either.
        return []
    return [(status, paths) for status, paths in found.values() if status.st_nlink > len(paths)]


def _copy(source: str, target: str, mode: int) -> None:
    if os.path.lexists(target):
        os.unlink(target)  # of an attempt that was killed
    disk.copy(source, target)
    if IS_ROOT:
        # A store makes a file that it takes its own, so the owner is not known any more: that of its directory is.
        above = os.lstat(os.path.dirname(source))
        os.chown(target, above.st_uid, above.st_gid)
        os.chmod(target, mode)
    durable.sync_file(target)


def _replace_by_link(source: str, path: str, temporary: str) -> None:
    os.link(source, temporary)
    with reach(path) as place:
        os.rename(temporary, place)
