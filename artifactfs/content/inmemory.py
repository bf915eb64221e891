"""Bytes of a file that lie in the page cache, read without waiting for a disk. Safe from any thread."""

from __future__ import annotations

import os

FEW_BYTES = 64 << 10
"""To copy more takes longer than to have another thread do it."""


def read_in_memory(fd: int, size_bytes: int, offset: int) -> bytearray | None:
    """These bytes; None where not all of them are in memory, and on file systems that cannot tell."""
    data = bytearray(size_bytes)
    return data if fill_in_memory(fd, data, offset) else None


def fill_in_memory(fd: int, room: bytearray | memoryview, offset: int) -> bool:
    """As `read_in_memory`, into all of `room`; whether it was filled."""
    try:
        return os.preadv(fd, (room,), offset, os.RWF_NOWAIT) == len(room)
    except OSError:
        return False
