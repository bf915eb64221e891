"""The bodies of replies that tell of files: attributes, entries, room. And how long the kernel may believe them.

Pure, safe from any thread.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import NamedTuple

from mount import tree
from mount.drivers.kernel import protocol
from mount.tree import Attrs

BLOCK_BYTES = 4096
"""st_blksize: what programs should read at a time at least."""

_NS = 1_000_000_000
_REGULAR = stat.S_IFREG >> 12
_64_BITS = (1 << 64) - 1
_STATX_BASIC_STATS = 0x7FF  # <linux/stat.h>

_attr_out = protocol.fuse_attr_out.pack
_entry_out = protocol.fuse_entry_out.pack
_direntplus = protocol.fuse_direntplus.pack
_PADDINGS = tuple(bytes(-length % 8) for length in range(8))
"""What follows a name whose length has this rest by 8."""


class Validity(NamedTuple):
    """How long an answer stays true."""

    seconds: int
    nanoseconds: int

    @classmethod
    def of(cls, seconds: float) -> Validity:
        """From seconds ≥ 0."""
        return cls(int(seconds), int(seconds % 1 * _NS))


NOT_AT_ALL = Validity(0, 0)
FOREVER = Validity(1 << 32, 0)
"""Until the kernel is told otherwise."""
_LASTING = FOREVER.seconds


def attr(a: Attrs) -> tuple[int, ...]:
    """The fields of fuse_attr."""
    ino, mode, size_bytes, mtime_ns, ctime_ns, atime_ns, uid, gid, nlink, blocks, rdev, _ = a
    mtime, mtime_rest = divmod(mtime_ns, _NS)
    # Times before 1970 are negative; the kernel takes the 64 bits as signed.
    mtime &= _64_BITS
    rdev = protocol.encode_device(rdev) if rdev else 0
    if mtime_ns == ctime_ns == atime_ns:
        times = (mtime, mtime, mtime, mtime_rest, mtime_rest, mtime_rest)
    else:
        ctime, ctime_rest = divmod(ctime_ns, _NS)
        atime, atime_rest = divmod(atime_ns, _NS)
        times = (atime & _64_BITS, mtime, ctime & _64_BITS, atime_rest, mtime_rest, ctime_rest)
    return ino, size_bytes, blocks, *times, mode, nlink, uid, gid, rdev, BLOCK_BYTES, 0


def attr_out(attrs: Attrs, valid: Validity) -> bytes:
    """The reply to GETATTR and SETATTR."""
    return _attr_out(*valid, 0, *attr(attrs))


def entry_out(nodeid: int, attrs: Attrs, entry_valid: Validity, attr_valid: Validity) -> bytes:
    """The reply to LOOKUP and what makes files. Node ids are never used twice, so the generation is always 0."""
    return _entry_out(
        nodeid,
        0,
        entry_valid.seconds,
        attr_valid.seconds,
        entry_valid.nanoseconds,
        attr_valid.nanoseconds,
        *attr(attrs),
    )


def lasting_entry_out(nodeid: int, ino: int, mode: int, size_bytes: int, mtime_ns: int, uid: int, gid: int) -> bytes:
    """As `entry_out`, for ever, of what has one link and one time: in half of its time."""
    seconds, rest = divmod(mtime_ns, _NS)
    seconds &= _64_BITS
    blocks = -(-size_bytes // tree.BLOCK_BYTES) if mode >> 12 == _REGULAR else 0
    # fmt: off
    return _entry_out(
        nodeid, 0, _LASTING, _LASTING, 0, 0,
        ino, size_bytes, blocks, seconds, seconds, seconds, rest, rest, rest,
        mode, 1, uid, gid, 0, BLOCK_BYTES, 0,
    )
    # fmt: on


def named_entries(
    nodeids: Iterable[int],
    stats: Iterable[tuple[int, int, int, int]],
    names: Iterable[bytes],
    offset: int,
    uid: int,
    gid: int,
) -> list[bytes]:
    """For each of many names what `lasting_entry_out` and `protocol.pack_dirent` give, as pieces to be joined.

    `stats` are (inode number, mode, size in bytes, mtime_ns). One call for all: a listing of a million files is made of
    this loop, and calls are what it would cost.
    """
    parts: list[bytes] = []
    add, pack, paddings, block_bytes = parts.append, _direntplus, _PADDINGS, tree.BLOCK_BYTES
    before_ns = seconds = rest = 0
    for nodeid, (ino, mode, size_bytes, mtime_ns), name in zip(nodeids, stats, names, strict=True):
        offset += 1
        length, kind = len(name), mode >> 12
        if mtime_ns != before_ns:
            before_ns = mtime_ns
            seconds, rest = divmod(mtime_ns, _NS)
            seconds &= _64_BITS
        blocks = -(-size_bytes // block_bytes) if kind == _REGULAR else 0
        # fmt: off
        add(pack(
            nodeid, 0, _LASTING, _LASTING, 0, 0,
            ino, size_bytes, blocks, seconds, seconds, seconds, rest, rest, rest,
            mode, 1, uid, gid, 0, BLOCK_BYTES, 0,
            ino, offset, length, kind,
        ))
        # fmt: on
        add(name)
        add(paddings[length % 8])
    return parts


NO_ENTRY = bytes(protocol.fuse_entry_out.size)
"""In READDIRPLUS: nothing is told of this entry but its name."""


def negative_entry(valid: Validity) -> bytes:
    """The reply to LOOKUP of a name that does not exist and will not for that time."""
    return _entry_out(0, 0, valid.seconds, 0, valid.nanoseconds, 0, *([0] * 16))


def statx_out(a: Attrs, valid: Validity) -> bytes:
    """The reply to STATX: what stat(2) tells, and no time of birth."""
    times: list[int] = []
    for time_ns in (a.atime_ns, 0, a.ctime_ns, a.mtime_ns):
        seconds, nanoseconds = divmod(time_ns, _NS)
        times += [seconds, nanoseconds, 0]
    return protocol.fuse_statx_out.pack(
        *valid,
        *(0, 0, 0),
        *(_STATX_BASIC_STATS, BLOCK_BYTES, 0, a.nlink, a.uid, a.gid, a.mode, 0),
        *(a.ino, a.size_bytes, a.blocks, 0),
        *times,
        *(os.major(a.rdev), os.minor(a.rdev), 0, 0),
        *([0] * 14),
    )


def statfs_out(room: os.statvfs_result) -> bytes:
    """The reply to STATFS."""
    return protocol.fuse_statfs_out.pack(
        *(room.f_blocks, room.f_bfree, room.f_bavail, room.f_files, room.f_ffree),
        *(room.f_bsize, room.f_namemax, room.f_frsize, 0),
        *([0] * 6),
    )
