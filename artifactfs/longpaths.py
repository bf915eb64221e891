"""Trees with paths longer than one system call takes, which is 4,096 bytes with the end (PATH_MAX, path_resolution(7)).

A program can make such a tree by working from its current directory, and a path that just fits in a mount may not fit
at its place on the disk behind it. What lies too deep is reached through a descriptor of a directory on the way, as
``/proc/self/fd/N/rest``; a path of ordinary length is used as it is, at the cost of a look at its length.

The walks here use no recursion, because such trees may also be deeper than Python's stack.

Threading: pure functions on paths, safe from any thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import AnyStr, Generic

# Up to this length a path is used as it is: the name of a file in it, and what stands for the descriptor, still fit.
_SHORT_BYTES = 4096 - 256 - 32
# A character is at most four bytes in UTF-8.
_SHORT_CHARS = _SHORT_BYTES // 4
_ON_THE_WAY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class reach(Generic[AnyStr]):
    """Context: a path to the same place that a system call takes, also with the name of a file there added to it.

    It is good until the context ends. Raises OSError when a directory on the way cannot be entered.
    """

    __slots__ = ("_fd", "_path")

    def __init__(self, path: AnyStr) -> None:
        self._path: AnyStr = path
        self._fd: int | None = None

    def __enter__(self) -> AnyStr:
        path = self._path
        if len(path) <= _SHORT_CHARS:
            return path
        raw = os.fsencode(path)
        if len(raw) <= _SHORT_BYTES:
            return path
        self._fd, rest = _enter(raw)
        near = rest if self._fd is None else b"/proc/self/fd/%d/%s" % (self._fd, rest)
        if isinstance(path, str):
            return os.fsdecode(near)
        return near

    def __exit__(self, *exc: object) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _enter(path: bytes) -> tuple[int | None, bytes]:
    """A descriptor of a directory on the way, and what is left of the path from there."""
    fd: int | None = None
    while len(path) > _SHORT_BYTES:
        end = path.rfind(b"/", 1, _SHORT_BYTES)
        if end < 0:
            break  # a name that is too long: the system call says so
        before = fd
        try:
            fd = os.open(path[:end], _ON_THE_WAY, dir_fd=before)
        finally:
            if before is not None:
                os.close(before)
        path = path[end + 1 :].lstrip(b"/")
    return fd, path


def walk(root: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """(directory, names of the directories in it, names of all else in it), from `root` down; no symlink is followed.

    Raises OSError.
    """
    waiting = [root]
    while waiting:
        directory = waiting.pop()
        directories: list[str] = []
        others: list[str] = []
        with reach(directory) as near, os.scandir(near) as entries:
            for entry in entries:
                (directories if entry.is_dir(follow_symlinks=False) else others).append(entry.name)
        yield directory, directories, others
        waiting.extend(f"{directory}/{name}" for name in directories)


def make_directories(root: str, path: str, made: set[str]) -> None:
    """Make the directory `path` below `root` with the parents that it lacks; `made` are those that are there, and ''.

    Raises OSError.
    """
    missing = []
    while path not in made:
        missing.append(path)
        path = path.rpartition("/")[0]
    for each in reversed(missing):
        with reach(f"{root}/{each}") as near:
            os.mkdir(near)
        made.add(each)


def remove_tree(path: str | os.PathLike[str]) -> None:
    """Remove a directory that is the caller's own, whatever its permissions say. Raises OSError."""
    # By its descriptor: who may rename it must not lead this elsewhere. What is in it is the caller's alone.
    top = os.open(path, _ON_THE_WAY | os.O_NOFOLLOW)
    try:
        _empty(f"/proc/self/fd/{top}")
    finally:
        os.close(top)
    os.rmdir(path)


def _empty(top: str) -> None:
    directories = [top]
    for directory in directories:
        with reach(directory) as near:
            with suppress(PermissionError):  # opening says so if it matters
                os.chmod(near, 0o700)
            fd = os.open(near, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with os.scandir(fd) as entries:
                found = list(entries)
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    directories.append(f"{directory}/{entry.name}")
                else:
                    os.unlink(entry.name, dir_fd=fd)
        finally:
            os.close(fd)
    for directory in reversed(directories[1:]):
        with reach(directory) as near:
            os.rmdir(near)
