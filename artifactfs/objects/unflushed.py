"""Objects that were put in a local store and are not known to be on disk.

The kernel tells of bytes that it lost once, and calls the next sync a success. So what was put before a sync that
failed is lost, whatever is read there, until it has been written anew; and so is what was put on a disk that has been
replaced by another since.

Threading: any thread; the lock is a leaf.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence

from cachetools import LRUCache

from artifactfs.objects.root import HeldRoot

# Those of commits that were given up stay until they are put again.
_MOST_KEPT = 100_000


class Unflushed:
    """The keys put since they were last flushed, each with the disk and how many of its syncs had failed before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._put: LRUCache[str, tuple[int, int]] = LRUCache(_MOST_KEPT)

    def note(self, key: str, held: HeldRoot, failures: int) -> None:
        """Remember what was put; `failures` is the count from before it was written."""
        with self._lock:
            self._put[key] = held.number, failures

    def is_lost(self, key: str, held: HeldRoot, failures: int) -> bool:
        """Tell whether what lies there may not be what is on disk."""
        with self._lock:
            now = held.number, failures
            return self._put.get(key, now) != now

    def settle(self, held: HeldRoot, keys: Sequence[str]) -> None:
        """Forget what a sync has put on disk. Raises OSError when some of it is lost."""
        with self._lock:
            now = held.number, held.failures
            lost = [key for key in keys if self._put.get(key, now) != now]
            if not lost:
                for key in keys:
                    self._put.pop(key, None)
        if lost:
            raise OSError(errno.EIO, "the disk did not take what was written; it is written anew", lost[0])
