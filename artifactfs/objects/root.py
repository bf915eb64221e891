"""The directory of a local store, held open, and the look whether it is still what lies at its path.

A disk may be unmounted, pulled or moved away beneath a program, and what is then found at the path is the empty
directory that it was mounted on, or another store. So a store's directory is held by a descriptor from the first look
on, everything is done beneath that, and before a listing, before a write and after one that is acknowledged, one
stat(2) tells whether the path still leads there. Once it is known what makes the directory the store (`expect`), it is
never begun anew: it is gone, which is StoreUnreachable, until it is back.

A file system that was unmounted lazily still works through the descriptor, where nobody would find what is written. So
what the path leads to decides, not whether the descriptor works; but immutable bytes may be read through it.

Threading: any thread, without a lock: what is known is one tuple, replaced as a whole, and whoever uses a directory
holds it by a reference, which closes the descriptor when it goes.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from cachetools import LRUCache

from artifactfs.beneath import make_directory_beneath, open_directory_beneath
from artifactfs.durable import Disk, sync_directory
from artifactfs.errors import StoreUnreachable

# Nobody else's, unless whoever makes the directory beforehand says otherwise.
_NEW_ROOT_MODE = 0o700

_numbers = itertools.count()

IsSame = Callable[[int], bool]
"""Tells if the directory with that descriptor is the store that was there before."""


class HeldRoot(Disk):
    """An open directory of a store, and the disk it lies on. Closed with the last reference to it."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.number = next(_numbers)
        status = os.fstat(self.fd)
        self.inode = status.st_dev, status.st_ino
        self.durable_directories: LRUCache[str, bool] = LRUCache(4096)
        """The directories whose names are on disk; guarded by the store's lock."""

    def note_failure(self) -> None:
        """Count a sync of a part of it that failed as a failure of all: what was lost cannot be told."""
        with self._lock:
            self.failures += 1

    @property
    def path(self) -> str:
        """A path that leads here whatever becomes of the name. Good while this object is referred to."""
        return f"/proc/self/fd/{self.fd}"

    @property
    def mode(self) -> int:
        """The permissions that everything in the store stays within."""
        return os.fstat(self.fd).st_mode & 0o777


class _Seen(NamedTuple):
    held: HeldRoot
    place: str
    token: tuple[int, ...]


class StoreRoot:
    """The directory at `path`, which need not exist yet. Methods raise OSError, and StoreUnreachable as said above."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._seen: _Seen | None = None
        self._witness = ""
        self._is_same: IsSame | None = None

    def expect(self, witness: str, is_same: IsSame) -> None:
        """From now on only the directory that is held is the store, and one of which `is_same` says so.

        `witness` is the file in it that makes it the store and is never changed, '' for the directory itself.
        """
        self._witness, self._is_same = witness, is_same
        if self._seen is not None:
            self._keep(self._seen.held)

    def look(self) -> HeldRoot | None:
        """The directory, after a look whether it is still there. None where there is none yet."""
        seen = self._seen
        if seen is not None and _token(seen.place, self._witness) == seen.token:
            return seen.held
        try:
            held = HeldRoot(self.path)
        except (FileNotFoundError, NotADirectoryError) as error:
            if self._is_same is not None:
                raise self._gone() from error
            self._seen = None
            return None
        if self._is_same is not None and not self._is_same(held.fd):
            raise self._gone()
        if seen is not None and seen.held.inode == held.inode:
            held = seen.held  # which knows what was written to it
        self._keep(held)
        return held

    def current(self) -> HeldRoot | None:
        """The directory as it is held, without a look: for bytes that never change."""
        seen = self._seen
        return self.look() if seen is None else seen.held

    def make(self) -> HeldRoot:
        """The directory, as :meth:`look`; made where there was none yet."""
        held = self.look()
        if held is None:
            _make_durable(self.path, _NEW_ROOT_MODE)
            held = self.look()
        if held is None:
            raise FileNotFoundError(f"{self.path} went as soon as it was made")
        return held

    @contextmanager
    def directory(self, key: str, *, make: bool = False) -> Iterator[tuple[HeldRoot, str]]:
        """Hold the directory `key` of the store, made where it is missing if `make`: a path that leads to it.

        An OSError that leaves the block names the place in the store. Raises FileNotFoundError.
        """
        held = self.make() if make else self.look()
        real = f"{self.path}/{key}" if key else self.path
        if held is None:
            raise FileNotFoundError(2, os.strerror(2), real)
        try:
            fd = make_directory_beneath(held.fd, key, held.mode) if make else open_directory_beneath(held.fd, key)
        except OSError as error:
            rename_error(error, held.path, self.path)
            raise
        near = f"/proc/self/fd/{fd}"
        try:
            yield held, near
        except OSError as error:
            rename_error(error, near, real)
            raise
        finally:
            os.close(fd)

    def _keep(self, held: HeldRoot) -> None:
        place = f"{self.path}/{self._witness}" if self._witness else self.path
        token = _token(f"{held.path}/{self._witness}" if self._witness else held.path, self._witness)
        self._seen = _Seen(held, place, token)

    def _gone(self) -> StoreUnreachable:
        return StoreUnreachable(f"{self.path}: the store was there and is gone (is its disk still mounted?)")


def rename_error(error: OSError, near: str, real: str) -> None:
    """Have an error of a system call name the place that a user knows."""
    name = error.filename
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    if not isinstance(name, str) or not name:
        error.filename = real
    elif near and name.startswith(near):
        error.filename = real + name[len(near) :]
    elif not name.startswith("/"):
        error.filename = f"{real}/{name}"
    with suppress(AttributeError):
        del error.filename2


def _token(place: str, witness: str) -> tuple[int, ...]:
    """Numbers that tell a store's directory, or the file that makes it one, from another; none where nothing is."""
    try:
        status = os.stat(place, follow_symlinks=not witness)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    if not witness:
        return status.st_dev, status.st_ino
    # A number that became free is given to the next file.
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _make_durable(path: str, mode: int = 0o777) -> None:
    """Make a directory and the parents it lacks, on disk when this returns."""
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        _make_durable(parent)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    sync_directory(parent)
