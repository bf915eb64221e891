"""Files of a tree that are open for writing while it is sealed by force: copies of them are sealed, they go on.

The store may take a sealed file as it is, and must not be written to through a hard link that stayed open. Every step
is a rename: killed in between, a file is whole in one of the two trees.

Neighbours: `staged_tree` gives the open files and the places. Threading: call with the lock of the trees held.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from artifactfs.longpaths import reach, walk
from mount import disk
from mount.descriptors import OwnedFd
from mount.errno_map import is_too_long
from mount.places import Places


class OpenFiles(NamedTuple):
    """The files of a tree that are open for writing: copies by path, and the paths at which the files go on."""

    copies: dict[str, str]
    kept: set[str]


def copy_open(places: Places, writers: Iterable[OwnedFd], directory: Path) -> OpenFiles:
    """Copy the files that are open for writing to `directory`, once for each of their names. Raises OSError."""
    opened: dict[tuple[int, int], set[str]] = {}
    linked = set()
    for fd in writers:
        found = os.fstat(fd)
        if found.st_nlink == 0:
            continue
        inode = found.st_dev, found.st_ino
        path = path_of(places, fd)
        opened.setdefault(inode, set()).update([path] if path is not None else [])
        if path is None or found.st_nlink > 1:
            linked.add(inode)
    names = _names_of(str(places.root), linked) if linked else {}
    for inode, paths in opened.items():
        if not paths:
            # The name it was opened by is gone, others are not.
            paths.add(min(names[inode]))
    kept = set().union(*opened.values())
    every = kept.union(*names.values())
    copies = {path: str(directory / f"open.{number}") for number, path in enumerate(sorted(every))}
    for path, copy in copies.items():
        with reach(f"{places.root}/{path}") as place:
            disk.copy(place, copy)
    return OpenFiles(copies, kept)


def told_path(places: Places, fd: OwnedFd) -> str | None:
    """The path in the tree where the kernel tells that an open file lies; None elsewhere, or too long to be told."""
    try:
        top = places.directory("")
        # Told of the same disk, and so alike where that is not in its place any more.
        where, above = os.readlink(f"/proc/self/fd/{fd}"), os.readlink(f"/proc/self/fd/{top}")
    except OSError as error:
        if not is_too_long(error):
            raise
        return None
    return where.removeprefix(f"{above}/") if where.startswith(f"{above}/") else None


def path_of(places: Places, fd: OwnedFd) -> str | None:
    """The path by which a file was opened; None when it is not the file's any more, or too long to be told."""
    try:
        path = told_path(places, fd)
        if path is None:
            return None
        place = places.at(path)
        is_same = os.path.samestat(os.lstat(place.name, dir_fd=place.directory), os.fstat(fd))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if not is_too_long(error):
            raise
        return None
    return path if is_same else None


def exchange(sealed: Places, staged: Places, files: OpenFiles) -> None:
    """Move the files that are open for writing to the tree `staged`, and put their copies here. Raises OSError."""
    # The other names of such files first: once a file is staged, none of them leads to it.
    for path in sorted(files.copies, key=lambda path: path in files.kept):
        if path in files.kept:
            _make_parents(staged.root, path)
            disk.rename(*sealed.at(path), *staged.at(path))
        place = sealed.at(path)
        os.rename(files.copies[path], place.name, dst_dir_fd=place.directory)


def _names_of(root: str, inodes: set[tuple[int, int]]) -> dict[tuple[int, int], set[str]]:
    """All paths of these files (device, inode) in the tree. Raises OSError."""
    names: dict[tuple[int, int], set[str]] = {inode: set() for inode in inodes}
    for directory, _, files in walk(root):
        with reach(directory) as near:
            for name in files:
                found = os.lstat(f"{near}/{name}")
                if (found.st_dev, found.st_ino) in names:
                    names[found.st_dev, found.st_ino].add(f"{directory}/{name}"[len(root) + 1 :])
    return names


def _make_parents(root: Path, path: str) -> None:
    directory = str(root)
    for name in ["", *path.split("/")[:-1]]:
        directory = f"{directory}/{name}" if name else directory
        with reach(directory) as place, suppress(FileExistsError):
            os.mkdir(place)
