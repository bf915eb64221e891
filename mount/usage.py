"""The files and bytes of a tree on disk, however long its paths are.

Threading: a pure function of the disk, safe from any thread.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from artifactfs.longpaths import reach


def usage_of(root: str) -> tuple[int, int]:
    """Count the regular files below a directory, and their bytes. Raises OSError."""
    files = size_bytes = 0
    waiting = [root]
    while waiting:
        directory = waiting.pop()
        try:
            with reach(directory) as near, os.scandir(near) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{directory}/{entry.name}")
                        continue
                    with suppress(FileNotFoundError):
                        found = entry.stat(follow_symlinks=False)
                        if stat.S_ISREG(found.st_mode):
                            files += 1
                            size_bytes += found.st_size
        except (FileNotFoundError, PermissionError):
            continue  # gone, or closed to its owner too: then no version can be made of it, and the commit says so
    return files, size_bytes
