"""Messages that name staged files as the drive shows them.

Threading: pure functions, safe from any thread.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from mount.control import printable

# How `artifactfs.longpaths` names directories whose paths are too long.
_HELD_DIRECTORY = re.compile(r"/proc/self/fd/\d+")


def shown_on_drive(artifacts: Path, mountpoint: Path) -> Callable[[str], str]:
    """A function that puts paths of the drive into a message, in place of those of the disk below `artifacts`.

    What is not UTF-8 in the message is made `printable`.
    """
    roots = {f"{artifacts}/", f"{os.path.realpath(artifacts)}/"}
    places = re.compile("|".join(map(re.escape, sorted(roots, key=len, reverse=True))))
    sealed = re.compile(f"({re.escape(str(mountpoint))}/[^/]+/[^/]+/pending\\.[0-9]+)/tree\\b")

    def shown(text: str) -> str:
        text = sealed.sub(r"\1", places.sub(lambda _: f"{mountpoint}/", text))
        return printable(_HELD_DIRECTORY.sub("…", text))

    return shown
