"""Descriptors that are open for as long as somebody uses them, and those of a local store's objects.

**The rule about numbers.** The kernel gives the number of a closed descriptor to the next file, so a thread that uses
a number while another thread closes it may read or change another file. Every descriptor that threads share is
therefore an `OwnedFd`: nobody closes it, it closes with the last reference. To let go of one, set the attribute that
holds it to `CLOSED`; a system call that was given the object keeps it open until it returns. Pass the object, never
a copy of the number.

Objects of a local store are shared by all who read them, and their bytes are mapped into memory.

Threading: `DescriptorCache` has one lock, never held while opening or reading a file. It is reentrant, because the
cycle collector may run code that gives a descriptor back while this thread holds it. A `Descriptor` has another,
which is a leaf and held for mapping, not for reading.
"""

from __future__ import annotations

import logging
import mmap
import os
import threading
from collections.abc import Callable

from cachetools import LRUCache

logger = logging.getLogger(__name__)

# <linux/mman.h>; Linux 5.14. Brings pages in and tells of errors, where a touch would be a signal.
_MADV_POPULATE_READ = 22
# How much of a file stays in the daemon's page tables. It takes no memory of its own, but counts as resident.
_MAPPED_BYTES = 4 << 20


class OwnedFd(int):
    """The number of an open descriptor, which is closed with the last reference to this object."""

    __slots__ = ()

    def __del__(self) -> None:
        if self < (1 << 31) - 1:
            try:
                os.close(self)
            except OSError as error:
                logger.error("a file could not be closed, its disk may have lost what was written last: %s", error)


CLOSED = OwnedFd((1 << 31) - 1)
"""In place of a descriptor that was let go of: a number that is never open, so system calls answer EBADF."""


class Descriptor:
    """One open object."""

    __slots__ = ("_lock", "_map", "_viewed_bytes", "evicted", "fd", "users")

    def __init__(self, fd: int) -> None:
        """Take the descriptor over."""
        self.fd = OwnedFd(fd)
        self.users = 0
        self.evicted = False
        self._lock = threading.Lock()
        self._map: mmap.mmap | None = None
        self._viewed_bytes = 0

    def view(self, size_bytes: int, offset: int) -> memoryview | None:
        """The bytes of the file in memory, without a copy; None where they cannot be had.

        They were there a moment ago. When the file has been cut since, a system call that is given them fails with
        EFAULT, and touching them is SIGBUS.
        """
        try:
            with self._lock:
                mapped = self._map
                if mapped is None:
                    mapped = self._map = mmap.mmap(self.fd, 0, prot=mmap.PROT_READ)
                self._viewed_bytes += size_bytes
                if self._viewed_bytes > _MAPPED_BYTES:
                    self._viewed_bytes = size_bytes
                    # What another thread hands to the kernel at this moment is mapped again by that.
                    mapped.madvise(mmap.MADV_DONTNEED)
            page = offset % mmap.PAGESIZE
            mapped.madvise(_MADV_POPULATE_READ, offset - page, page + size_bytes)
        except (OSError, ValueError):
            # An older kernel, no room for the map, a disk that fails, a file too short: read(2) tells which.
            return None
        return memoryview(mapped)[offset : offset + size_bytes]

    def close(self) -> None:
        """Let go of the file; views of it stay, and so does what is being read."""
        self._map = None
        self.fd = CLOSED


class _EvictingCache(LRUCache[str, Descriptor]):
    """Closes a descriptor when it falls out, or when its last user lets go after that. Used under the cache's lock."""

    def popitem(self) -> tuple[str, Descriptor]:
        path, descriptor = super().popitem()
        descriptor.evicted = True
        if descriptor.users == 0:
            descriptor.close()
        return path, descriptor


class DescriptorCache:
    """Open descriptors of a local store's objects, at most `size` idle ones; one is shared by all files in a pack."""

    def __init__(self, size: int, open_file: Callable[[str], int]) -> None:
        """`open_file` is that of the manager."""
        self._open_file = open_file
        self._lock = threading.RLock()
        self._open = _EvictingCache(size)

    def acquire(self, path: str) -> Descriptor:
        """A descriptor of `path`, opened when needed; give it back by `release`. Raises OSError, StoreUnreachable."""
        with self._lock:
            descriptor = self._open.get(path)
            if descriptor is not None:
                descriptor.users += 1
                return descriptor
        mine = Descriptor(self._open_file(path))
        with self._lock:
            descriptor = self._open.get(path)
            if descriptor is None:
                descriptor = self._open[path] = mine
            descriptor.users += 1
        if descriptor is not mine:
            mine.close()
        return descriptor

    def release(self, descriptor: Descriptor) -> None:
        """Let go of what `acquire` gave."""
        with self._lock:
            descriptor.users -= 1
            if descriptor.evicted and descriptor.users == 0:
                descriptor.close()

    def close(self) -> None:
        """Close everything that has no user."""
        with self._lock:
            while self._open:
                self._open.popitem()
