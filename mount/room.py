"""The room on the staging disk: how much of it stages may fill.

Threading: safe from any thread; the lock is a leaf, held across one statvfs(2) at most.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from mount import disk
from mount.errors import NoRoom

# The disk is asked again after so many bytes, because others fill it too.
_ASK_AFTER_BYTES = 64 << 20


class DiskRoom:
    """Keeps `min_free_bytes` free on the disk that holds `path`."""

    def __init__(self, path: Path, min_free_bytes: int) -> None:
        self._path = path
        self._min_free_bytes = min_free_bytes
        self._lock = threading.Lock()
        self._granted_bytes = 0
        self.tells_late = disk.tells_late(path)
        """The answer of `disk.tells_late` for this disk."""

    def take(self, size_bytes: int) -> None:
        """Before writing so much. Raises NoRoom when that would leave too little free."""
        with self._lock:
            if size_bytes > self._granted_bytes:
                free = self.free_bytes()
                if free < size_bytes:
                    raise NoRoom(f"less than {self._min_free_bytes >> 20} MiB would stay free on the staging disk")
                # Near the bound every write asks, far from it few do.
                self._granted_bytes = min(_ASK_AFTER_BYTES, free // 2) + size_bytes
            self._granted_bytes -= size_bytes

    def free_bytes(self) -> int:
        """What may still be written."""
        return max(0, self._on_disk() - self._min_free_bytes)

    def shortage(self, shown: Path) -> str | None:
        """The reason why nothing can be staged at `shown`, in one line; None while there is room. Raises OSError."""
        free_bytes = self._on_disk()
        if free_bytes > self._min_free_bytes:
            return None
        free, kept = free_bytes >> 20, self._min_free_bytes >> 20
        return f"no room to stage: {free:,} MiB are free on the disk of {shown}, and --min-free keeps {kept:,} MiB"

    def _on_disk(self) -> int:
        found = os.statvfs(self._path)
        return found.f_bavail * found.f_frsize
