"""Bytes of a file that lie in the page cache, read without waiting for a disk. Safe from any thread."""

from __future__ import annotations

import os

FEW_BYTES = 64 << 10
"""To copy more takes longer than to have another thread do it."""


def read_in_memory(fd: int, size_bytes: int, offset: int) -> bytearray | None:
    """These bytes; None where not all of them are in memory, and on file systems that cannot tell."""
    data = bytearray(size_bytes)
    try:
        done = os.preadv(fd, (data,), offset, os.RWF_NOWAIT)
    except OSError:
        return None
    return data if done == size_bytes else None
