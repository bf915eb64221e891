"""INIT: the version and the abilities that the kernel and this driver agree on.

Pure, safe from any thread.
"""

from __future__ import annotations

from typing import NamedTuple

from mount.drivers.kernel import protocol
from mount.drivers.kernel.protocol import (
    FUSE_ABORT_ERROR,
    FUSE_ASYNC_READ,
    FUSE_ATOMIC_O_TRUNC,
    FUSE_BIG_WRITES,
    FUSE_CACHE_SYMLINKS,
    FUSE_DIRECT_IO_ALLOW_MMAP,
    FUSE_DO_READDIRPLUS,
    FUSE_EXPLICIT_INVAL_DATA,
    FUSE_HANDLE_KILLPRIV_V2,
    FUSE_HAS_EXPIRE_ONLY,
    FUSE_INIT_EXT,
    FUSE_KERNEL_MINOR_VERSION,
    FUSE_KERNEL_VERSION,
    FUSE_MAX_PAGES,
    FUSE_PARALLEL_DIROPS,
    FUSE_PASSTHROUGH,
    FUSE_READDIRPLUS_AUTO,
    FUSE_SETXATTR_EXT,
)

MAX_WRITE = 1 << 20
"""The most that one WRITE carries; the same bound holds for READ through `_MAX_PAGES`."""
_MAX_PAGES = MAX_WRITE >> 12
_MAX_READAHEAD = MAX_WRITE
# How many requests the kernel sends that no program waits for (readahead, writing back of mapped memory), and from
# how many on it holds back.
_MAX_BACKGROUND = 64
_CONGESTION_THRESHOLD = 48
# Times are kept to the nanosecond.
_TIME_GRAN_NS = 1
# How many file systems lie one on another where a file that is lent lies on a disk; one more where that is an overlay
# (the root of a container). The kernel allows two: with one, an overlay can still be put over the versions.
_STACK_DEPTH = 1

# Not FUSE_ASYNC_DIO: the kernel waits for such reads in a way that nothing ends but our answer, not even SIGKILL.
WANTED = (
    FUSE_ASYNC_READ
    | FUSE_ATOMIC_O_TRUNC
    | FUSE_BIG_WRITES
    | FUSE_DO_READDIRPLUS
    | FUSE_READDIRPLUS_AUTO
    | FUSE_PARALLEL_DIROPS
    | FUSE_ABORT_ERROR
    | FUSE_MAX_PAGES
    # Symlinks of versions do not change, those of staging are made anew, and an alias that moves gets another inode.
    | FUSE_CACHE_SYMLINKS
    # Every change of a file goes through the kernel, so its pages are right whatever a time stamp says.
    | FUSE_EXPLICIT_INVAL_DATA
    # Without it the kernel asks for the attribute security.capability before every write.
    | FUSE_HANDLE_KILLPRIV_V2
    | FUSE_SETXATTR_EXT
    | FUSE_INIT_EXT
    | FUSE_HAS_EXPIRE_ONLY
    | FUSE_DIRECT_IO_ALLOW_MMAP
    | FUSE_PASSTHROUGH
)


class Agreement(NamedTuple):
    """What came out of a hello. Unless `is_final` the kernel will say hello again, in our major version."""

    reply: bytes
    minor: int
    flags: int
    is_final: bool


def agree(hello: memoryview, *, lends_stacked: bool = False) -> Agreement | None:
    """Answer the body of INIT; None when the kernel is too old. Raises Malformed.

    `lends_stacked`: the files to be lent lie on an overlay or the like.
    """
    if len(hello) < protocol.FUSE_COMPAT_INIT_IN_SIZE:
        raise protocol.Malformed(f"INIT with {len(hello)} bytes")
    padded = bytes(hello[: protocol.fuse_init_in.size]).ljust(protocol.fuse_init_in.size, b"\0")
    major, minor, max_readahead, low, high, *_ = protocol.fuse_init_in.unpack_from(padded)
    if major > FUSE_KERNEL_VERSION:
        return Agreement(_reply(FUSE_KERNEL_MINOR_VERSION, 0, 0, 0), FUSE_KERNEL_MINOR_VERSION, 0, False)
    if major < FUSE_KERNEL_VERSION or minor < protocol.OLDEST_MINOR_VERSION:
        return None
    minor = min(minor, FUSE_KERNEL_MINOR_VERSION)
    offered = low | (high << 32 if low & FUSE_INIT_EXT else 0)
    flags = offered & WANTED
    depth = _STACK_DEPTH + lends_stacked if flags & FUSE_PASSTHROUGH else 0
    return Agreement(_reply(minor, flags, min(max_readahead, _MAX_READAHEAD), depth), minor, flags, True)


def _reply(minor: int, flags: int, max_readahead: int, stack_depth: int) -> bytes:
    return protocol.fuse_init_out.pack(
        FUSE_KERNEL_VERSION,
        minor,
        max_readahead,
        flags & 0xFFFFFFFF,
        _MAX_BACKGROUND,
        _CONGESTION_THRESHOLD,
        MAX_WRITE,
        _TIME_GRAN_NS,
        _MAX_PAGES,
        0,
        flags >> 32,
        stack_depth,
        0,
        *([0] * 11),
    )
