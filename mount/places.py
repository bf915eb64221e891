"""The places of a staged tree's files, for system calls: reached from the top of the tree, never through a symlink.

A path that was right a moment ago, or that a driver made up, may lead through a symlink that a user has put in a
directory's place. So the directory of a file is opened beneath the top of its tree first, in a way that follows none,
and a system call is given that directory and a name. What a symlink of that name means is for the call: those of
`StagedTree` follow none.

Directories that were found lately stay open, because programs make many files in one directory.

Threading: safe from any thread. `_lock` is a leaf; no file is opened under it. Without the tree's lock a place is that
of the directory that was found, wherever that has been moved since.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import ClassVar, NamedTuple

from artifactfs.beneath import DIRECTORY, open_directory_beneath
from artifactfs.names import check_name
from mount.descriptors import OwnedFd

# Of the whole process: a drive may have thousands of trees, and no more than a thousand descriptors.
_HELD_DIRECTORIES = 32


class Place(NamedTuple):
    """A name in a directory, '.' for that itself. Good for as long as it is held."""

    directory: OwnedFd
    name: str

    @property
    def path(self) -> str:
        """A path to the same place, for the few system calls that take nothing else."""
        return f"/proc/self/fd/{self.directory}/{self.name}"


class Places:
    """The places of one tree. `root` changes when the tree is sealed."""

    # How many moves there had been, and the directory that was found after them.
    _known: ClassVar[dict[tuple[Places, str], tuple[int, OwnedFd]]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, root: Path) -> None:
        self.root = root
        self._moves = 0

    def note_move(self) -> None:
        """Directories may lie elsewhere, or be gone. Call after it has happened."""
        self._moves += 1

    def at(self, path: str) -> Place:
        """The place of a file, '' for the top. Raises OSError, InvalidName."""
        if not path:
            # By its name: whoever closes it to themselves must find it again, and "." in it is closed then.
            return Place(OwnedFd(os.open(os.path.dirname(self.root), DIRECTORY)), os.path.basename(self.root))
        directory, _, name = path.rpartition("/")
        return Place(self.directory(directory), check_name(name))

    def directory(self, path: str) -> OwnedFd:
        """Hold a directory of the tree, '' for its top. Raises OSError, InvalidName."""
        key, moves = (self, path), self._moves
        known = Places._known.get(key)
        if known is not None and known[0] == moves:
            return known[1]
        fd = OwnedFd(os.open(self.root, DIRECTORY | os.O_NOFOLLOW))
        if path:
            fd = OwnedFd(open_directory_beneath(fd, path))
        with Places._lock:
            held = Places._known
            if len(held) >= _HELD_DIRECTORIES:
                del held[next(iter(held))]
            # Found before a move, it is not taken for found after it.
            held[key] = moves, fd
        return fd
