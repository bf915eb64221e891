"""Listing a tree that is to be logged: what is in it, in the order of the paths, nothing opened.

Regular files, directories (each with its mode and mtime, so that a tree comes back as it was) and symlinks that stay
inside; anything else refuses the tree. Paths are bytes throughout, so that names in any encoding work.

Threading: pure functions on a directory.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from artifactfs import names
from artifactfs.entry import EntryKind, nearest_time_ns
from artifactfs.errors import UnsupportedTree
from artifactfs.longpaths import reach
from artifactfs.manifest_builder import ManifestBuilder
from artifactfs.objects.hashing import unreadable
from artifactfs.symlinks import leading_out

# Of the target of a symlink, in a message.
_SHOWN_CHARS = 200


class Scan(NamedTuple):
    """A scanned tree: `builder` has a row for everything in it, in the order of the paths, files without content.

    The file of a row lies at :meth:`path`; what `prefix` says comes before its path in the version.
    """

    root: bytes
    prefix: bytes
    builder: ManifestBuilder

    def path(self, row: int) -> str:
        """Where the file of that row lies on disk."""
        below = self.builder.paths[row][len(self.prefix) :]
        return os.fsdecode(b"%s/%s" % (self.root, below) if below else self.root)

    def is_as_found(self, row: int, status: os.stat_result) -> bool:
        """Tell whether a file still has the size and the time that the scan has seen."""
        return (status.st_size, kept_mtime_ns(status)) == (self.builder.sizes[row], self.builder.mtimes[row])


def kept_mtime_ns(status: os.stat_result) -> int:
    """The modification time as a version keeps it."""
    return nearest_time_ns(status.st_mtime_ns)


def scan_tree(tree: str, below: str = "") -> Scan:
    """List the directory `tree`, or the single regular file `tree`.

    `below` is where in the version it goes, '' the top, where a file keeps its name. Raises UnsupportedTree (naming the
    path), AccessDenied, InvalidName (`below` breaks the rules).
    """
    root = os.fsencode(os.path.abspath(tree))
    top = os.fsencode(names.check_path(below)) if below else b""
    builder = ManifestBuilder()
    try:
        status = os.stat(root)
    except OSError as error:
        raise unreadable(root, error) from error
    if stat.S_ISREG(status.st_mode):
        root = os.path.realpath(root)  # a file named through a symlink is logged as the file
        path = top or os.path.basename(os.fsencode(os.path.abspath(tree)))
        _add(builder, path, b"", root, status)
        return Scan(root, path, builder)
    if not stat.S_ISDIR(status.st_mode):
        raise UnsupportedTree(f"{tree} is neither a directory nor a regular file")
    prefix = top + b"/" if top else b""
    links: dict[bytes, bytes] = {}
    for path, status in _walk(root):
        target = _add(builder, prefix + path, path, root, status)
        if target is not None:
            links[path] = target
    if out := leading_out(links):
        path = min(out)
        raise UnsupportedTree(
            f"symlink {os.fsdecode(root + b'/' + path)} leads to {_shown(links[path])}: only relative ones that "
            "stay inside the tree can be kept"
        )
    return Scan(root, prefix, builder)


def _walk(root: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """(path, lstat) of everything below `root` in the order of the paths' bytes.

    A directory is yielded at its own place, what is in it at the place of its path with "/": "a", "a.txt", "a/b".
    A stack instead of recursion, because trees may be deeper than Python's.
    """
    stack = [iter(_level(root, b""))]
    while stack:
        for path, status in stack[-1]:
            if status is None:
                stack.append(iter(_level(root, path)))
                break
            yield path, status
        else:
            stack.pop()


def _level(root: bytes, directory: bytes) -> list[tuple[bytes, os.stat_result | None]]:
    """What is directly in a directory, each subdirectory a second time, without status, where its contents belong."""
    place = root + b"/" + directory
    found: list[tuple[bytes, os.stat_result | None]] = []
    try:
        with reach(place) as near, os.scandir(near) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                path = directory + entry.name
                found.append((path, status))
                if stat.S_ISDIR(status.st_mode):
                    found.append((path + b"/", None))
    except OSError as error:
        raise unreadable(place, error) from error
    found.sort(key=lambda item: item[0])
    return found


def _add(builder: ManifestBuilder, path: bytes, below: bytes, root: bytes, status: os.stat_result) -> bytes | None:
    """Add a row; the target of what is a symlink."""
    mode, mtime_ns = status.st_mode, kept_mtime_ns(status)
    if stat.S_ISREG(mode):
        builder.add(path, EntryKind.FILE, size_bytes=status.st_size, mtime_ns=mtime_ns, mode=mode)
    elif stat.S_ISDIR(mode):
        builder.add(path, EntryKind.DIRECTORY, mtime_ns=mtime_ns, mode=mode)
    elif stat.S_ISLNK(mode):
        target = _target(root + b"/" + below)
        builder.add(path, EntryKind.SYMLINK, mtime_ns=mtime_ns, mode=mode, target=target)
        return target
    else:
        place = os.fsdecode(root + b"/" + below)
        raise UnsupportedTree(f"{place} is a {_kind_name(mode)}: a version keeps files, directories and symlinks")
    return None


def _target(place: bytes) -> bytes:
    try:
        with reach(place) as near:
            return os.readlink(near)
    except OSError as error:
        raise unreadable(place, error) from error


def _shown(target: bytes) -> str:
    """The target of a symlink for a message of one line."""
    text = os.fsdecode(target)
    return repr(text) if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]!r}… ({len(target):,} bytes)"


def _kind_name(mode: int) -> str:
    kinds = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFBLK: "block device", stat.S_IFCHR: "device"}
    return kinds.get(stat.S_IFMT(mode), "special file")
