"""The open descriptors of this process that concern a test.

Counting all of them fails at random: what earlier tests left to the garbage collector goes in between, and threads of
libraries open and close files of their own.
"""

from __future__ import annotations

import os
from pathlib import Path


def open_below(directory: str | os.PathLike[str]) -> list[str]:
    """What is open at and below a directory, also what was removed there since; sorted, once for each descriptor."""
    top = Path(os.path.realpath(directory))
    return sorted(target for target in _targets() if Path(target).is_relative_to(top))


def _targets() -> list[str]:
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            # Closed meanwhile, as that of the listing itself.
            continue
    return found
