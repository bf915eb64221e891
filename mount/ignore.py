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
        with reach(f"{root}/{directory}" if directory else str(root)) as near, os.scandir(near) as entries:
            for entry in list(entries):
                path = f"{directory}/{entry.name}" if directory else entry.name
                is_directory = entry.is_dir(follow_symlinks=False)
                if not ignores(path, is_directory):
                    if is_directory:
                        stack.append(path)
                elif is_directory:
                    removed += sum(len(files) for _, _, files in walk(entry.path))
                    remove_tree(entry.path)
                else:
                    os.unlink(entry.path)
                    removed += 1
    return removed
