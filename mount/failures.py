"""Commits that failed: whether trying again may help, and what the user is told.

A failure of the store, of a disk or of the machine may pass, and is tried again. What lies in the files, the answer of
a store that refuses, and a defect do not pass: they wait for the user.

Threading: pure functions, safe from any thread.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from artifactfs.errors import ArtifactError
from artifactfs.threads import is_for_want_of_threads
from mount.control import printable
from mount.errno_map import is_refusal

# How `artifactfs.longpaths` names directories whose paths are too long.
_HELD_DIRECTORY = re.compile(r"/proc/self/fd/\d+")


def may_pass(error: BaseException) -> bool:
    """Whether the same commit may succeed later with nothing done about it."""
    if isinstance(error, ArtifactError):
        return error.transient
    if isinstance(error, OSError):
        return not is_refusal(error)
    return is_for_want_of_threads(error)


def shown_on_drive(artifacts: Path, mountpoint: Path) -> Callable[[str], str]:
    """What puts the paths of the drive into a message, in place of those of the disk below the directory `artifacts`.

    What is not UTF-8 in the message is made `printable`.
    """
    roots = {f"{artifacts}/", f"{os.path.realpath(artifacts)}/"}
    places = re.compile("|".join(map(re.escape, sorted(roots, key=len, reverse=True))))
    sealed = re.compile(f"({re.escape(str(mountpoint))}/[^/]+/[^/]+/pending\\.[0-9]+)/tree\\b")

    def shown(text: str) -> str:
        text = sealed.sub(r"\1", places.sub(lambda _: f"{mountpoint}/", text))
        return printable(_HELD_DIRECTORY.sub("…", text))

    return shown
