"""What stays out of versions: junk that systems and editors leave, and what a tree's ``.artifactignore`` names.

The rules are gitignore's (package pathspec), with the junk as if its patterns stood first, so that ``!._keep`` in
``.artifactignore`` keeps a file. Only the file at the top of the tree counts. Safe from any thread; `prune` belongs to
whoever commits the tree.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable
from pathlib import Path

from artifactfs.longpaths import reach, remove_tree, walk

IGNORE_FILE = ".artifactignore"

# Finder, Windows Explorer, GNOME and KDE trash, FUSE and NFS (files removed while open), Vim, LibreOffice.
JUNK = (
    ".DS_Store",
    "._*",
    ".Trashes",
    ".Spotlight-V100",
    ".fseventsd",
    "Thumbs.db",
    "desktop.ini",
    ".Trash-*",
    ".fuse_hidden*",
    ".nfs*",
    "*.swp",
    ".~lock.*#",
)
_JUNK = re.compile("|".join(map(fnmatch.translate, JUNK)))

Ignores = Callable[[str, bool], bool]
"""Whether (path relative to the tree, is a directory) is ignored."""


def rules_of(root: Path) -> Ignores:
    """The rules for the tree at `root`. Raises OSError; patterns that mean nothing raise ValueError."""
    try:
        lines = (root / IGNORE_FILE).read_text("utf-8", "surrogateescape").splitlines()
    except (FileNotFoundError, IsADirectoryError):
        return lambda path, _: _JUNK.match(path.rpartition("/")[2]) is not None
    import pathspec

    spec = pathspec.GitIgnoreSpec.from_lines([*JUNK, *lines])
    return lambda path, is_directory: bool(spec.match_file(path + "/" if is_directory else path))


def prune(root: Path) -> int:
    """Remove what is ignored from the tree at `root`; returns how many files. Raises OSError, ValueError."""
    ignores = rules_of(root)
    removed = 0
    stack = [""]
    while stack:
        directory = stack.pop()
        with reach(f"{root}/{directory}" if directory else str(root)) as near:
            ignored = []
            with os.scandir(near) as entries:
                for entry in entries:
                    path = f"{directory}/{entry.name}" if directory else entry.name
                    is_directory = entry.is_dir(follow_symlinks=False)
                    if ignores(path, is_directory):
                        ignored.append(entry)
                    elif is_directory:
                        stack.append(path)
            removed += _remove(near, ignored) if ignored else 0
    return removed


def _remove(directory: str, ignored: list[os.DirEntry[str]]) -> int:
    """Remove what lies in a directory, which looks as before afterwards; returns how many files."""
    before = os.stat(directory)
    writable = os.access(directory, os.W_OK | os.X_OK)
    if not writable:
        os.chmod(directory, 0o700)
    removed = 0
    for entry in ignored:
        if entry.is_dir(follow_symlinks=False):
            removed += sum(len(files) for _, _, files in walk(entry.path))
            remove_tree(entry.path)
        else:
            os.unlink(entry.path)
            removed += 1
    if not writable:
        os.chmod(directory, before.st_mode & 0o7777)
    os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))
    return removed
