"""What stays out of versions: junk that systems and editors leave, and what a tree's ``.artifactignore`` names.

The rules are git's (`gitignore`), with the junk as if its patterns stood first, so that ``!._keep`` in
``.artifactignore`` keeps a file. Only the file at the top of the tree counts, and only a regular one. It may come from
anybody: it is read and applied within bounds, beyond which the tree is refused.

Safe from any thread; `prune` belongs to whoever commits the tree.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from artifactfs.beneath import NotRegular, open_regular
from artifactfs.errors import UnsupportedTree
from artifactfs.longpaths import reach, walk
from mount.gitignore import Rules, TooMany, parse_lines

IGNORE_FILE = ".artifactignore"
MAX_BYTES = 1 << 20
# As many lines with wildcards; names and paths without any are looked up, however many there are.
MAX_PATTERNS = 2000
# And so long altogether, which bounds what reading and compiling them takes.
MAX_PATTERN_BYTES = 100_000
# Of this thread's time, altogether and for each file. With twenty patterns a file takes a hundredth of it.
_MOST_S = 30.0
_MOST_S_A_FILE = 0.002

# Finder, Windows Explorer, GNOME and KDE trash, FUSE and NFS (files removed while open), Vim, LibreOffice.
JUNK = (
    b".DS_Store",
    b"._*",
    b".Trashes",
    b".Spotlight-V100",
    b".fseventsd",
    b"Thumbs.db",
    b"desktop.ini",
    b".Trash-*",
    b".fuse_hidden*",
    b".nfs*",
    b"*.swp",
    b".~lock.*#",
)

Ignores = Callable[[str, bool], bool]
"""Tell whether (path relative to the tree, is a directory) is ignored."""


def rules_of(root: Path) -> Ignores:
    """The rules for the tree at `root`. Raises OSError, UnsupportedTree when they are too many.

    What it returns raises UnsupportedTree when they take too long.
    """
    place = root / IGNORE_FILE
    try:
        lines = parse_lines(b"\n".join([*JUNK, b""])) + parse_lines(_read(place))
        rules = Rules(lines, MAX_PATTERNS, MAX_PATTERN_BYTES)
    except TooMany as error:
        raise UnsupportedTree(f"{place} has {error}: use fewer") from error
    spent_s, files = 0.0, 0

    def ignores(path: str, is_directory: bool) -> bool:
        nonlocal spent_s, files
        started = time.thread_time()
        found = rules.ignore(os.fsencode(path), is_directory=is_directory)
        spent_s += time.thread_time() - started
        files += 1
        if spent_s > _MOST_S + files * _MOST_S_A_FILE:
            raise UnsupportedTree(f"{place} takes too long to apply: use fewer lines, or fewer wildcards in them")
        return found

    return ignores


def _read(place: Path) -> bytes:
    """The text of the file; empty when there is none, or something else of that name, which git passes over as well."""
    try:
        fd = open_regular(str(place))
    except (FileNotFoundError, NotRegular):
        return b""
    with open(fd, "rb") as file:
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise UnsupportedTree(f"{place} is larger than {MAX_BYTES >> 20} MiB")
    return text


def prune(root: Path, aside: Path) -> int:
    """Move what is ignored from the tree at `root` to the same places below `aside`; returns how many files.

    Raises OSError, UnsupportedTree.
    """
    ignores = rules_of(root)
    moved = 0
    stack = [""]
    while stack:
        directory = stack.pop()
        with reach(_at(root, directory)) as near:
            ignored = []
            with os.scandir(near) as entries:
                for entry in entries:
                    path = f"{directory}/{entry.name}" if directory else entry.name
                    is_directory = entry.is_dir(follow_symlinks=False)
                    if ignores(path, is_directory):
                        ignored.append(entry)
                    elif is_directory:
                        stack.append(path)
            moved += sum(_files_in(entry) for entry in ignored)
            if ignored:
                _make(aside, directory)
                with reach(_at(aside, directory)) as target:
                    _move(near, [entry.name for entry in ignored], target)
    return moved


def put_back(aside: Path, root: Path) -> None:
    """Move what `prune` has moved back to its places. Raises OSError."""
    stack = [""] if aside.is_dir() else []
    while stack:
        directory = stack.pop()
        with reach(_at(aside, directory)) as source, reach(_at(root, directory)) as near:
            # A directory that is in the tree too was made here for what lay in it.
            names = os.listdir(source)
            between = [name for name in names if os.path.lexists(f"{near}/{name}")]
            _move(source, [name for name in names if name not in between], near)
        stack += [f"{directory}/{name}" if directory else name for name in between]


def _at(root: Path, directory: str) -> str:
    return f"{root}/{directory}" if directory else str(root)


def _files_in(entry: os.DirEntry[str]) -> int:
    if not entry.is_dir(follow_symlinks=False):
        return 1
    return sum(len(files) for _, _, files in walk(entry.path))


def _make(root: Path, directory: str) -> None:
    """Make a directory below `root`, and its parents, that may be there."""
    place = str(root)
    for name in ["", *directory.split("/")]:
        place = f"{place}/{name}" if name else place
        with reach(place) as near, suppress(FileExistsError):
            os.mkdir(near, 0o700)


def _move(source: str, names: list[str], target: str) -> None:
    """Move what lies in one directory to another; both look as before afterwards."""
    with _writable(source), _writable(target):
        for name in names:
            if os.path.isdir(place := f"{source}/{name}") and not os.path.islink(place):
                # A directory that changes its parent is written to.
                with _writable(place, moved_to=f"{target}/{name}"):
                    os.rename(place, f"{target}/{name}")
            else:
                os.rename(place, f"{target}/{name}")


@contextmanager
def _writable(directory: str, moved_to: str | None = None) -> Iterator[None]:
    """Let its owner change a directory, which has its mode and times again afterwards."""
    before = os.stat(directory)
    writable = os.access(directory, os.W_OK | os.X_OK)
    if not writable:
        os.chmod(directory, 0o700)
    try:
        yield
    finally:
        after = moved_to if moved_to is not None and os.path.lexists(moved_to) else directory
        if not writable:
            os.chmod(after, before.st_mode & 0o7777)
        os.utime(after, ns=(before.st_atime_ns, before.st_mtime_ns))
