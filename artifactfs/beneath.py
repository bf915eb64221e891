"""Opening what lies beneath a directory that is held open, and regular files only.

A path given here names something beneath a directory: it is relative, has no empty part, ``.``, ``..`` or NUL, and no
part of it is followed through a symlink. The kernel keeps to that in one call, openat2(2). Where it has none (before
Linux 5.6) or a sandbox refuses it, and for paths longer than one call takes, the path is walked through descriptors.

Threading: pure calls, safe from any thread. Errors are OSError with the kernel's errno, InvalidName for a path that is
not allowed, and `NotRegular`.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from artifactfs.errors import InvalidName
from artifactfs.longpaths import reach

DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
"""Flags for holding a directory without reading it."""
# <linux/openat2.h>
_OPENAT2 = ctypes.c_long(437)
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_AT_FDCWD = -100
_PATH_MAX = 4096
# How often a directory is made anew that others remove. More often, it is the system that keeps it from being there.
_TRIES = 100
_NO_NAMES = frozenset({"", ".", ".."})
_SPECIAL = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a device", stat.S_IFCHR: "a device"}


class NotRegular(OSError):
    """A name that should be a regular file is a symlink, leads through one, or is something else."""


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_HOW_BYTES = ctypes.c_size_t(ctypes.sizeof(_OpenHow))
# Without argtypes: to convert the arguments would take as long as the call. They are given in the types of C.
_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


def open_beneath(directory: int, path: str | bytes, flags: int, mode: int = 0o600) -> int:
    """Open `path` beneath the directory with that descriptor, close-on-exec; a symlink anywhere is ELOOP.

    With O_PATH and O_NOFOLLOW in `flags`, a symlink at the end is opened itself. `mode` counts with O_CREAT.
    """
    text = checked(path)
    flags |= os.O_CLOEXEC
    if "/" not in text:
        return _open_name(directory, text, flags, mode)
    raw = os.fsencode(text)
    if len(raw) < _PATH_MAX and _has_openat2():
        return _openat2(directory, raw, flags, mode)
    here = directory
    try:
        *above, name = _parts(raw)
        for part in above:
            before, here = here, _step(here, part, DIRECTORY, 0)
            if before != directory:
                os.close(before)
        return _step(here, name, flags, mode)
    finally:
        if here != directory:
            os.close(here)


def open_directory_beneath(directory: int, path: str | bytes, flags: int = DIRECTORY) -> int:
    """Hold the directory `path` beneath the one with that descriptor; '' is that one itself."""
    if not path:
        return os.open(".", flags | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    return open_beneath(directory, path, flags | os.O_DIRECTORY)


def make_directory_beneath(directory: int, path: str | bytes, mode: int) -> int:
    """Hold a directory as `open_directory_beneath` does, made with `mode` within the umask where it is missing.

    Another may remove what is empty on the way there: then it is made again.
    """
    for left in reversed(range(_TRIES)):
        with suppress(FileNotFoundError):
            return open_directory_beneath(directory, path)
        above, _, name = checked(path).rpartition("/")
        parent = make_directory_beneath(directory, above, mode)
        try:
            with suppress(FileExistsError):
                os.mkdir(name, mode, dir_fd=parent)
            return open_beneath(parent, name, DIRECTORY)
        except FileNotFoundError:
            if not left:
                raise
        finally:
            os.close(parent)
    raise AssertionError("the last try returns or raises")


def open_regular(path: str | bytes, flags: int = os.O_RDONLY, *, beneath: int | None = None) -> int:
    """Open a regular file that is there, without waiting for whatever else it may be.

    `path` lies beneath the directory with the descriptor `beneath`; without one it is any path, of which only the last
    part must not be a symlink. Raises NotRegular. Reading and writing a regular file never ask for O_NONBLOCK.
    """
    return open_regular_and_stat(beneath, path, flags)[0]


def open_regular_and_stat(
    beneath: int | None, path: str | bytes, flags: int = os.O_RDONLY
) -> tuple[int, os.stat_result]:
    """Do as `open_regular`, and give what fstat(2) tells of the file too."""
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        if beneath is not None:
            fd = open_beneath(beneath, path, flags)
        else:
            with reach(os.fsencode(path)) as place:
                fd = os.open(place, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotRegular(errno.ELOOP, "is a symlink, or lies behind one", path) from error
        if error.errno == errno.ENXIO:
            raise NotRegular(errno.ENXIO, "is a socket, a FIFO or a device, not a regular file", path) from error
        if error.errno == errno.EISDIR:
            raise NotRegular(errno.EISDIR, "is a directory, not a regular file", path) from error
        raise
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode):
        return fd, status
    os.close(fd)
    raise not_regular(status.st_mode, path)


def not_regular(mode: int, path: str | bytes) -> NotRegular:
    """The error for something with that mode in the place of a regular file."""
    if stat.S_ISDIR(mode):
        return NotRegular(errno.EISDIR, "is a directory, not a regular file", path)
    if stat.S_ISLNK(mode):
        return NotRegular(errno.ELOOP, "is a symlink, not a regular file", path)
    return NotRegular(errno.EINVAL, f"is {_SPECIAL.get(stat.S_IFMT(mode), 'special')}, not a regular file", path)


def checked(path: str | bytes) -> str:
    """A path that names something beneath a directory, as text. Raises InvalidName."""
    # In text, because a look into bytes takes ten times as long.
    text = path if isinstance(path, str) else os.fsdecode(path)
    if "\0" in text or not _NO_NAMES.isdisjoint(text.split("/")):
        raise InvalidName(f"invalid path {text!r}: must be relative, without empty parts, '.', '..' or NUL")
    return text


@functools.cache
def _has_openat2() -> bool:
    """Tell whether this kernel knows openat2(2), and lets this process call it."""
    try:
        os.close(_openat2(_AT_FDCWD, b".", DIRECTORY, 0))
    except OSError:
        return False
    return True


def _openat2(directory: int, path: bytes, flags: int, mode: int) -> int:
    how = _how(flags, mode if flags & os.O_CREAT else 0)
    while True:
        fd: int = _syscall(_OPENAT2, directory, path, how, _HOW_BYTES)
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number), os.fsdecode(path))


@functools.lru_cache(maxsize=64)
def _how(flags: int, mode: int) -> Any:
    """The argument of openat2(2), which the kernel only reads."""
    resolve = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS
    return ctypes.byref(_OpenHow(flags, mode, resolve))


def _parts(path: bytes) -> Iterator[bytes]:
    """The path in pieces that `_step` takes."""
    names = path.split(b"/")
    if not _has_openat2():
        yield from names
        return
    piece = names[0]
    for name in names[1:]:
        if len(piece) + 1 + len(name) < _PATH_MAX:
            piece += b"/" + name
        else:
            yield piece
            piece = name
    yield piece


def _step(directory: int, part: bytes, flags: int, mode: int) -> int:
    """Open what `_parts` gave, as openat2 does."""
    return _openat2(directory, part, flags, mode) if _has_openat2() else _open_name(directory, part, flags, mode)


def _open_name(directory: int, name: str | bytes, flags: int, mode: int) -> int:
    """Open a name in a directory, as openat2 does. It leads through nothing, so the older call can do it too."""
    try:
        fd = os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=directory)
    except NotADirectoryError:
        # For a directory that is a symlink openat(2) says ENOTDIR.
        if stat.S_ISLNK(os.lstat(name, dir_fd=directory).st_mode):
            raise _is_symlink(name) from None
        raise
    # A symlink is no directory, so that with O_DIRECTORY none was opened.
    if flags & (os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW) == os.O_PATH and stat.S_ISLNK(os.fstat(fd).st_mode):
        os.close(fd)
        raise _is_symlink(name)
    return fd


def _is_symlink(name: str | bytes) -> OSError:
    return OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(name))
