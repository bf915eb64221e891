"""Files in a directory that are not of a version: a copy of the version there would be a mixture of the two.

Threading: pure functions. Nothing is followed out of the directory.
"""

from __future__ import annotations

import os
import stat

from artifactfs.longpaths import reach, remove_tree, walk
from artifactfs.manifest import Manifest


def extraneous(manifest: Manifest, top: str, directory: str) -> list[str]:
    """The paths below `directory` that are not below the directory `top` of the version; of a directory, it alone.

    Raises OSError.
    """
    found: list[str] = []

    def is_known(path: str, is_directory: bool) -> bool:
        kept = f"{top}/{path}" if top else path
        if manifest.is_directory(kept) or manifest.index(kept) is not None:
            # A file where the version has a directory, or the other way round, is told by whoever writes the version.
            return not is_directory or manifest.is_directory(kept)
        found.append(path)
        return False

    for where, directories, others in walk(directory):
        before = f"{where[len(directory) + 1 :]}/" if where != directory else ""
        for name in others:
            is_known(before + name, False)
        directories[:] = [name for name in directories if is_known(before + name, True)]
    return sorted(found)


def remove(directory: str, path: str) -> None:
    """Remove one of them, with all that is in it. Raises OSError."""
    with reach(f"{directory}/{path}") as near:
        if stat.S_ISDIR(os.lstat(near).st_mode):
            remove_tree(near)
        else:
            os.unlink(near)
