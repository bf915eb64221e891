"""A directory in memory for tests that seal and commit hundreds of times: on a disk, each waits for all its writers."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_MEMORY = "/dev/shm"
# Beside others' use, and far more than such a test keeps.
_ENOUGH_BYTES = 2 << 30


@contextlib.contextmanager
def quick_directory() -> Iterator[Path]:
    """A temporary directory, in memory where that has room and keeps extended attributes (Linux 6.6)."""
    with tempfile.TemporaryDirectory(prefix="artifactfs-", dir=_MEMORY if _is_usable() else None) as directory:
        yield Path(directory)


def _is_usable() -> bool:
    try:
        with tempfile.NamedTemporaryFile(dir=_MEMORY) as file:
            os.setxattr(file.fileno(), "user.artifactfs.probe", b"x")
        room = os.statvfs(_MEMORY)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize > _ENOUGH_BYTES
