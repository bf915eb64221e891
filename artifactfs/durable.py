"""Facts that survive a loss of power: whole writes, syncs, and the memory of syncs that failed.

Bytes are on disk before the name or mark that vouches for them. The kernel tells of bytes that it could not put on disk
once, to each open description; then it counts them as clean. A second sync that succeeds proves nothing, so what a sync
failed for is remembered (`Disk.failures`) until it has been written anew, to a new file.

Threading: the functions are pure calls. `Disk` is safe from any thread; its lock is a leaf and held during a sync, so
that a second one starts after the first. Errors are OSError with the kernel's errno.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress

from artifactfs.longpaths import reach

_libc = ctypes.CDLL(None, use_errno=True)
_TEMPORARY_SUFFIX = ".tmp"
_TEMPORARY = re.compile(rf"\..+\.[0-9]+-[0-9]+{re.escape(_TEMPORARY_SUFFIX)}", re.DOTALL)


def write_all(fd: int, data: bytes | bytearray | memoryview, offset: int | None = None) -> None:
    """Write all of `data`, at the position of the file or at `offset`; a short write goes on. Raises OSError."""
    view = memoryview(data).cast("B")
    while view:
        done = os.write(fd, view) if offset is None else os.pwrite(fd, view, offset)
        if not done:
            raise OSError(errno.EIO, "a write put nothing on disk and told no error")
        if done == len(view):
            return
        view = view[done:]
        offset = None if offset is None else offset + done


def sync_file(where: str | int) -> None:
    """Put the bytes of a file, given by path or descriptor, on disk. Raises OSError."""
    if isinstance(where, int):
        os.fsync(where)
        return
    with reach(where) as place:
        fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Put the names in a directory on disk. Raises OSError."""
    with reach(os.fspath(path)) as place:
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems without fsync for directories (some FUSE ones)
            raise
    finally:
        os.close(fd)


def sync_filesystem(where: str | os.PathLike[str] | int) -> bool:
    """Put everything on the file system of a directory, given by path or descriptor, on disk; False where none can.

    A descriptor that was opened before the bytes were written is told of every error since (Linux 5.8). Raises OSError.
    """
    function = _syncfs()
    if function is None:
        return False
    fd = where if isinstance(where, int) else os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if function(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), None if isinstance(where, int) else os.fspath(where))
    finally:
        if fd is not where:
            os.close(fd)
    return True


def replace(path: str | os.PathLike[str], data: bytes | bytearray | memoryview, mode: int = 0o600) -> None:
    """Replace the file `path` by `data`, whole or not at all, on disk when this returns. Raises OSError."""
    directory, name = os.path.split(os.fspath(path))
    # Of this thread alone: two may replace one file at once, and each puts a whole one there.
    temporary = f"{directory}/.{name}.{os.getpid()}-{threading.get_ident()}{_TEMPORARY_SUFFIX}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(directory)


def remove_leftovers(directory: str | os.PathLike[str]) -> None:
    """Remove what processes left in a directory that died in `replace`, when nobody else replaces files in it.

    Raises OSError.
    """
    for name in os.listdir(directory):
        if _TEMPORARY.fullmatch(name):
            os.unlink(os.path.join(directory, name))


class Disk:
    """A file system that is synced as a whole, by a descriptor that is held from before anything is written.

    The descriptor is closed with the last reference, so that nobody uses its number for another file.

    `failures` counts the syncs that failed. Who wrote something before such a sync, and finds the count changed since,
    must not take the bytes for being on disk.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Raises OSError."""
        self.fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.failures = 0
        self._lock = threading.Lock()

    def sync(self) -> None:
        """Put everything on disk. Raises OSError."""
        with self._lock:
            try:
                if not sync_filesystem(self.fd):
                    os.sync()
            except OSError:
                self.failures += 1
                raise

    def check_since(self, failures: int) -> None:
        """Raises OSError when a sync has failed since the count was `failures`."""
        if self.failures != failures:
            raise OSError(errno.EIO, "the disk did not take what was written; it is to be written anew")

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)


@functools.cache
def _syncfs() -> Callable[[int], int] | None:
    """The function of the C library, None where it has none of that name."""
    try:
        function: Callable[[int], int] = _libc.syncfs
    except AttributeError:
        return None
    return function
