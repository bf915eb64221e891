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

import functools
import os
import resource
import threading
from pathlib import Path
from typing import ClassVar, NamedTuple

from artifactfs.beneath import DIRECTORY, open_directory_beneath
from artifactfs.names import check_name
from mount.descriptors import OwnedFd

# Of the whole process, because a drive may have thousands of trees: one sixteenth of its descriptors, within bounds.
_HELD_DIRECTORIES = 32, 512


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

    _held: ClassVar[dict[tuple[Places, str], OwnedFd]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, root: Path) -> None:
        self.root = root
        self._changes = 0

    def note_move(self) -> None:
        """Directories may lie elsewhere, or be gone. Call after it has happened."""
        with Places._lock:
            self._changes += 1
            # Closed when the lock is free again.
            _let_go = [Places._held.pop(key) for key in list(Places._held) if key[0] is self]

    def note_removal(self, path: str) -> None:
        """One empty directory is gone. Call after it has happened."""
        with Places._lock:
            self._changes += 1
            _let_go = Places._held.pop((self, path), None)

    def holds_top(self) -> bool:
        """Tell whether the top is held, so that it need not be looked for: no change is known that took it away."""
        return (self, "") in Places._held

    def at(self, path: str) -> Place:
        """The place of a file, '' for the top. Raises OSError, InvalidName."""
        if not path:
            # By its name: whoever closes it to themselves must find it again, and "." in it is closed then.
            return Place(OwnedFd(os.open(os.path.dirname(self.root), DIRECTORY)), os.path.basename(self.root))
        directory, _, name = path.rpartition("/")
        return Place(self.directory(directory), check_name(name))

    def directory(self, path: str) -> OwnedFd:
        """Hold a directory of the tree, '' for its top. Raises OSError, InvalidName."""
        held = Places._held.get((self, path))
        if held is not None:
            return held
        changes = self._changes
        fd = self._open(path)
        with Places._lock:
            # Found before a change, it is not taken for found after it.
            if changes == self._changes:
                if len(Places._held) >= _most_held():
                    _let_go = Places._held.pop(next(iter(Places._held)))
                Places._held[self, path] = fd
        return fd

    def _open(self, path: str) -> OwnedFd:
        if not path:
            return OwnedFd(os.open(self.root, DIRECTORY | os.O_NOFOLLOW))
        above, _, name = path.rpartition("/")
        near = Places._held.get((self, above))
        if near is not None:
            return OwnedFd(open_directory_beneath(near, name))
        return OwnedFd(open_directory_beneath(self.directory(""), path))


@functools.cache
def _most_held() -> int:
    least, most = _HELD_DIRECTORIES
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(least, min(most, soft_limit // 16))
