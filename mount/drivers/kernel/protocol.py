"""The FUSE protocol of the Linux kernel: messages, opcodes and flags, as in ``include/uapi/linux/fuse.h`` up to 7.45.

Everything is named as in the header; a comment gives the minor version it came with where that is later than 7.31,
and the kernel in `KERNELS`. A `Layout` is one structure of the header: all of them are padded to 64 bits there, so none
needs padding here, and the byte order is the machine's. Pure: no state, no system calls, safe from any thread.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator
from typing import Any

FUSE_KERNEL_VERSION = 7
FUSE_KERNEL_MINOR_VERSION = 45
OLDEST_MINOR_VERSION = 31
"""The oldest this driver talks to: Linux 5.4. What came later is used only where the kernel offers it."""

KERNELS = {
    31: "5.4",
    32: "5.10",
    33: "5.11",
    34: "5.14",
    35: "5.16",
    36: "5.17",
    37: "6.1",
    38: "6.2",
    39: "6.6",
    40: "6.9",
    41: "6.12",
    42: "6.14",
    43: "6.15",
    44: "6.16",
    45: "6.18",
}
"""Minor protocol version → the first Linux that speaks it."""

DEVICE = "/dev/fuse"
FUSE_ROOT_ID = 1
FUSE_MIN_READ_BUFFER = 8192
FUSE_UNIQUE_RESEND = 1 << 63  # 7.40


class Layout:
    """One structure: its name, its fields with their struct codes, and how to pack and unpack it."""

    def __init__(self, name: str, fields: str) -> None:
        """`fields`: ``nodeid:Q attr:fuse_attr spare:6I``; another layout by its name, an array by its length."""
        self.name = name
        self.fields: list[tuple[str, str]] = []
        for field in fields.split():
            label, code = field.split(":")
            inner = LAYOUTS.get(code)
            self.fields += [(f"{label}.{sub}", kind) for sub, kind in inner.fields] if inner else [(label, code)]
        self._struct = struct.Struct("=" + "".join(code for _, code in self.fields))
        self.size = self._struct.size
        self.pack = self._struct.pack
        self.pack_into = self._struct.pack_into
        self.unpack_from = self._struct.unpack_from
        LAYOUTS[name] = self

    def offsets(self) -> Iterator[tuple[str, int]]:
        """(field, its offset in bytes), in order."""
        done = "="
        for label, code in self.fields:
            yield label, struct.calcsize(done)
            done += code

    def read(self, body: Any) -> tuple[Any, ...]:
        """The values at the start of a request's body. Raises Malformed when it is too short."""
        try:
            return self.unpack_from(body)
        except struct.error as error:
            raise Malformed(f"{self.name} takes {self.size} bytes, {len(body)} came") from error


class Malformed(ValueError):
    """A message that the protocol does not allow."""


LAYOUTS: dict[str, Layout] = {}

fuse_in_header = Layout("fuse_in_header", "len:I opcode:I unique:Q nodeid:Q uid:I gid:I pid:I total_extlen:H padding:H")
fuse_out_header = Layout("fuse_out_header", "len:I error:i unique:Q")

fuse_attr = Layout(
    "fuse_attr",
    "ino:Q size:Q blocks:Q atime:Q mtime:Q ctime:Q atimensec:I mtimensec:I ctimensec:I mode:I nlink:I uid:I gid:I "
    "rdev:I blksize:I flags:I",
)
fuse_sx_time = Layout("fuse_sx_time", "tv_sec:q tv_nsec:I __reserved:i")  # 7.39
fuse_statx = Layout(  # 7.39
    "fuse_statx",
    "mask:I blksize:I attributes:Q nlink:I uid:I gid:I mode:H __spare0:H ino:Q size:Q blocks:Q attributes_mask:Q "
    "atime:fuse_sx_time btime:fuse_sx_time ctime:fuse_sx_time mtime:fuse_sx_time rdev_major:I rdev_minor:I dev_major:I "
    "dev_minor:I __spare2:14Q",
)
fuse_kstatfs = Layout(
    "fuse_kstatfs",
    "blocks:Q bfree:Q bavail:Q files:Q ffree:Q bsize:I namelen:I frsize:I padding:I spare:6I",
)

fuse_entry_out = Layout(
    "fuse_entry_out",
    "nodeid:Q generation:Q entry_valid:Q attr_valid:Q entry_valid_nsec:I attr_valid_nsec:I attr:fuse_attr",
)
fuse_attr_out = Layout("fuse_attr_out", "attr_valid:Q attr_valid_nsec:I dummy:I attr:fuse_attr")
fuse_statx_out = Layout(  # 7.39
    "fuse_statx_out", "attr_valid:Q attr_valid_nsec:I flags:I spare:2Q stat:fuse_statx"
)
fuse_open_out = Layout("fuse_open_out", "fh:Q open_flags:I backing_id:i")  # backing_id 7.40, padding before
fuse_write_out = Layout("fuse_write_out", "size:I padding:I")
fuse_statfs_out = Layout("fuse_statfs_out", "st:fuse_kstatfs")
fuse_getxattr_out = Layout("fuse_getxattr_out", "size:I padding:I")
fuse_lseek_out = Layout("fuse_lseek_out", "offset:Q")
fuse_copy_file_range_out = Layout("fuse_copy_file_range_out", "bytes_copied:Q")  # 7.45
fuse_init_out = Layout(
    "fuse_init_out",
    # flags2 7.36, max_stack_depth 7.40, request_timeout 7.43; unused before
    "major:I minor:I max_readahead:I flags:I max_background:H congestion_threshold:H max_write:I time_gran:I "
    "max_pages:H map_alignment:H flags2:I max_stack_depth:I request_timeout:H unused:11H",
)
fuse_dirent = Layout("fuse_dirent", "ino:Q off:Q namelen:I type:I")
fuse_direntplus = Layout("fuse_direntplus", "entry_out:fuse_entry_out dirent:fuse_dirent")

fuse_init_in = Layout("fuse_init_in", "major:I minor:I max_readahead:I flags:I flags2:I unused:11I")  # flags2 on: 7.36
FUSE_COMPAT_INIT_IN_SIZE = 16
"""What fuse_init_in was before 7.36."""
fuse_forget_in = Layout("fuse_forget_in", "nlookup:Q")
fuse_forget_one = Layout("fuse_forget_one", "nodeid:Q nlookup:Q")
fuse_batch_forget_in = Layout("fuse_batch_forget_in", "count:I dummy:I")
fuse_getattr_in = Layout("fuse_getattr_in", "getattr_flags:I dummy:I fh:Q")
fuse_statx_in = Layout("fuse_statx_in", "getattr_flags:I reserved:I fh:Q sx_flags:I sx_mask:I")  # 7.39
fuse_mknod_in = Layout("fuse_mknod_in", "mode:I rdev:I umask:I padding:I")
fuse_mkdir_in = Layout("fuse_mkdir_in", "mode:I umask:I")
fuse_rename_in = Layout("fuse_rename_in", "newdir:Q")
fuse_rename2_in = Layout("fuse_rename2_in", "newdir:Q flags:I padding:I")
fuse_link_in = Layout("fuse_link_in", "oldnodeid:Q")
fuse_setattr_in = Layout(
    "fuse_setattr_in",
    "valid:I padding:I fh:Q size:Q lock_owner:Q atime:Q mtime:Q ctime:Q atimensec:I mtimensec:I ctimensec:I mode:I "
    "unused4:I uid:I gid:I unused5:I",
)
fuse_open_in = Layout("fuse_open_in", "flags:I open_flags:I")
fuse_create_in = Layout("fuse_create_in", "flags:I mode:I umask:I open_flags:I")
fuse_release_in = Layout("fuse_release_in", "fh:Q flags:I release_flags:I lock_owner:Q")
fuse_flush_in = Layout("fuse_flush_in", "fh:Q unused:I padding:I lock_owner:Q")
fuse_read_in = Layout("fuse_read_in", "fh:Q offset:Q size:I read_flags:I lock_owner:Q flags:I padding:I")
fuse_write_in = Layout("fuse_write_in", "fh:Q offset:Q size:I write_flags:I lock_owner:Q flags:I padding:I")
fuse_fsync_in = Layout("fuse_fsync_in", "fh:Q fsync_flags:I padding:I")
fuse_setxattr_in = Layout("fuse_setxattr_in", "size:I flags:I setxattr_flags:I padding:I")  # setxattr_flags on: 7.33
FUSE_COMPAT_SETXATTR_IN_SIZE = 8
"""What fuse_setxattr_in is unless FUSE_SETXATTR_EXT was agreed on."""
fuse_getxattr_in = Layout("fuse_getxattr_in", "size:I padding:I")
fuse_access_in = Layout("fuse_access_in", "mask:I padding:I")
fuse_interrupt_in = Layout("fuse_interrupt_in", "unique:Q")
fuse_fallocate_in = Layout("fuse_fallocate_in", "fh:Q offset:Q length:Q mode:I padding:I")
fuse_lseek_in = Layout("fuse_lseek_in", "fh:Q offset:Q whence:I padding:I")
fuse_copy_file_range_in = Layout(
    "fuse_copy_file_range_in", "fh_in:Q off_in:Q nodeid_out:Q fh_out:Q off_out:Q len:Q flags:Q"
)
fuse_syncfs_in = Layout("fuse_syncfs_in", "padding:Q")  # 7.34

fuse_notify_inval_inode_out = Layout("fuse_notify_inval_inode_out", "ino:Q off:q len:q")
fuse_notify_inval_entry_out = Layout("fuse_notify_inval_entry_out", "parent:Q namelen:I flags:I")  # flags 7.38
fuse_notify_store_out = Layout("fuse_notify_store_out", "nodeid:Q offset:Q size:I padding:I")
fuse_notify_delete_out = Layout("fuse_notify_delete_out", "parent:Q child:Q namelen:I padding:I")

fuse_backing_map = Layout("fuse_backing_map", "fd:i flags:I padding:Q")  # 7.40

# -- opcodes -----------------------------------------------------------------------------------------------------------

FUSE_LOOKUP = 1
FUSE_FORGET = 2
FUSE_GETATTR = 3
FUSE_SETATTR = 4
FUSE_READLINK = 5
FUSE_SYMLINK = 6
FUSE_MKNOD = 8
FUSE_MKDIR = 9
FUSE_UNLINK = 10
FUSE_RMDIR = 11
FUSE_RENAME = 12
FUSE_LINK = 13
FUSE_OPEN = 14
FUSE_READ = 15
FUSE_WRITE = 16
FUSE_STATFS = 17
FUSE_RELEASE = 18
FUSE_FSYNC = 20
FUSE_SETXATTR = 21
FUSE_GETXATTR = 22
FUSE_LISTXATTR = 23
FUSE_REMOVEXATTR = 24
FUSE_FLUSH = 25
FUSE_INIT = 26
FUSE_OPENDIR = 27
FUSE_READDIR = 28
FUSE_RELEASEDIR = 29
FUSE_FSYNCDIR = 30
FUSE_GETLK = 31
FUSE_SETLK = 32
FUSE_SETLKW = 33
FUSE_ACCESS = 34
FUSE_CREATE = 35
FUSE_INTERRUPT = 36
FUSE_BMAP = 37
FUSE_DESTROY = 38
FUSE_IOCTL = 39
FUSE_POLL = 40
FUSE_NOTIFY_REPLY = 41
FUSE_BATCH_FORGET = 42
FUSE_FALLOCATE = 43
FUSE_READDIRPLUS = 44
FUSE_RENAME2 = 45
FUSE_LSEEK = 46
FUSE_COPY_FILE_RANGE = 47
FUSE_SETUPMAPPING = 48
FUSE_REMOVEMAPPING = 49
FUSE_SYNCFS = 50  # 7.34
FUSE_TMPFILE = 51  # 7.37
FUSE_STATX = 52  # 7.39
FUSE_COPY_FILE_RANGE_64 = 53  # 7.45

OPCODES = {
    value: name
    for name, value in list(globals().items())
    if name.startswith("FUSE_")
    and isinstance(value, int)
    and "_".join(name.split("_")[:2])
    not in (
        "FUSE_KERNEL",
        "FUSE_ROOT",
        "FUSE_MIN",
        "FUSE_UNIQUE",
        "FUSE_COMPAT",
    )
}
"""Opcode → its name, for messages."""

# -- notifications -----------------------------------------------------------------------------------------------------

FUSE_NOTIFY_INVAL_INODE = 2
FUSE_NOTIFY_INVAL_ENTRY = 3
FUSE_NOTIFY_STORE = 4
FUSE_NOTIFY_DELETE = 6

FUSE_EXPIRE_ONLY = 1 << 0  # 7.38, in fuse_notify_inval_entry_out.flags

# -- INIT flags --------------------------------------------------------------------------------------------------------

FUSE_ASYNC_READ = 1 << 0
FUSE_POSIX_LOCKS = 1 << 1
FUSE_FILE_OPS = 1 << 2
FUSE_ATOMIC_O_TRUNC = 1 << 3
FUSE_EXPORT_SUPPORT = 1 << 4
FUSE_BIG_WRITES = 1 << 5
FUSE_DONT_MASK = 1 << 6
FUSE_SPLICE_WRITE = 1 << 7
FUSE_SPLICE_MOVE = 1 << 8
FUSE_SPLICE_READ = 1 << 9
FUSE_FLOCK_LOCKS = 1 << 10
FUSE_HAS_IOCTL_DIR = 1 << 11
FUSE_AUTO_INVAL_DATA = 1 << 12
FUSE_DO_READDIRPLUS = 1 << 13
FUSE_READDIRPLUS_AUTO = 1 << 14
FUSE_ASYNC_DIO = 1 << 15
FUSE_WRITEBACK_CACHE = 1 << 16
FUSE_NO_OPEN_SUPPORT = 1 << 17
FUSE_PARALLEL_DIROPS = 1 << 18
FUSE_HANDLE_KILLPRIV = 1 << 19
FUSE_POSIX_ACL = 1 << 20
FUSE_ABORT_ERROR = 1 << 21
FUSE_MAX_PAGES = 1 << 22
FUSE_CACHE_SYMLINKS = 1 << 23
FUSE_NO_OPENDIR_SUPPORT = 1 << 24
FUSE_EXPLICIT_INVAL_DATA = 1 << 25
FUSE_MAP_ALIGNMENT = 1 << 26
FUSE_SUBMOUNTS = 1 << 27  # 7.32
FUSE_HANDLE_KILLPRIV_V2 = 1 << 28  # 7.33
FUSE_SETXATTR_EXT = 1 << 29  # 7.33
FUSE_INIT_EXT = 1 << 30  # 7.36
# The rest travels in flags2, shifted down by 32 bits.
FUSE_SECURITY_CTX = 1 << 32  # 7.36
FUSE_HAS_INODE_DAX = 1 << 33  # 7.36
FUSE_CREATE_SUPP_GROUP = 1 << 34  # 7.38
FUSE_HAS_EXPIRE_ONLY = 1 << 35  # 7.38
FUSE_DIRECT_IO_ALLOW_MMAP = 1 << 36  # 7.39
FUSE_PASSTHROUGH = 1 << 37  # 7.40
FUSE_NO_EXPORT_SUPPORT = 1 << 38  # 7.40
FUSE_HAS_RESEND = 1 << 39  # 7.40
FUSE_ALLOW_IDMAP = 1 << 40  # 7.41
FUSE_OVER_IO_URING = 1 << 41  # 7.42
FUSE_REQUEST_TIMEOUT = 1 << 42  # 7.43

# -- other flags -------------------------------------------------------------------------------------------------------

FATTR_MODE = 1 << 0
FATTR_UID = 1 << 1
FATTR_GID = 1 << 2
FATTR_SIZE = 1 << 3
FATTR_ATIME = 1 << 4
FATTR_MTIME = 1 << 5
FATTR_FH = 1 << 6
FATTR_ATIME_NOW = 1 << 7
FATTR_MTIME_NOW = 1 << 8
FATTR_LOCKOWNER = 1 << 9
FATTR_CTIME = 1 << 10
FATTR_KILL_SUIDGID = 1 << 11  # 7.33

FOPEN_DIRECT_IO = 1 << 0
FOPEN_KEEP_CACHE = 1 << 1
FOPEN_NONSEEKABLE = 1 << 2
FOPEN_CACHE_DIR = 1 << 3
FOPEN_STREAM = 1 << 4
FOPEN_NOFLUSH = 1 << 5  # 7.35
FOPEN_PARALLEL_DIRECT_WRITES = 1 << 6  # 7.38
FOPEN_PASSTHROUGH = 1 << 7  # 7.40

FUSE_GETATTR_FH = 1 << 0
FUSE_FSYNC_FDATASYNC = 1 << 0
FUSE_WRITE_CACHE = 1 << 0
FUSE_WRITE_LOCKOWNER = 1 << 1
FUSE_WRITE_KILL_SUIDGID = 1 << 2
FUSE_OPEN_KILL_SUIDGID = 1 << 0  # 7.33

# -- ioctls of the device ----------------------------------------------------------------------------------------------

FUSE_DEV_IOC_MAGIC = 229
_IOC_WRITE = 1
_IOC_READ = 2


def _ioc(direction: int, number: int, size: int) -> int:
    """The number of an ioctl, as <asm-generic/ioctl.h> makes it."""
    return direction << 30 | size << 16 | FUSE_DEV_IOC_MAGIC << 8 | number


FUSE_DEV_IOC_CLONE = _ioc(_IOC_READ, 0, 4)
FUSE_DEV_IOC_BACKING_OPEN = _ioc(_IOC_WRITE, 1, fuse_backing_map.size)  # 7.40
FUSE_DEV_IOC_BACKING_CLOSE = _ioc(_IOC_WRITE, 2, 4)  # 7.40

# -- names, devices and directories ------------------------------------------------------------------------------------


def read_names(body: Any, count: int) -> list[str]:
    """The names at the end of a request, each ended by NUL. Raises Malformed."""
    parts = bytes(body).split(b"\0", count)
    if len(parts) <= count:
        raise Malformed(f"{count} names expected, each ended by NUL")
    return [os.fsdecode(part) for part in parts[:count]]


def handle_of(body: Any) -> int:
    """The number of the open file, with which READ, WRITE, FALLOCATE and others begin. Raises Malformed."""
    if len(body) < 8:
        raise Malformed(f"a request about an open file with {len(body)} bytes")
    return int.from_bytes(body[:8], sys.byteorder)


def nodeid_of(entry: bytes) -> int:
    """The node id in a fuse_entry_out, 0 in one that tells of nothing."""
    return int.from_bytes(entry[:8], sys.byteorder)


def split_direntplus(reply: bytes) -> Iterator[bytes]:
    """The entries in a reply to READDIRPLUS."""
    start = 0
    while start < len(reply):
        yield reply[start : start + fuse_entry_out.size]
        length = fuse_direntplus.unpack_from(reply, start)[-2]
        start += (fuse_direntplus.size + length + 7) & -8


def encode_device(rdev: int) -> int:
    """A device number (as of os.makedev) in the 32 bits that the kernel's new_encode_dev makes of it."""
    major, minor = os.major(rdev), os.minor(rdev)
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


def decode_device(encoded: int) -> int:
    """The reverse."""
    return os.makedev(encoded >> 8 & 0xFFF, encoded & 0xFF | encoded >> 12 & 0xFFF00)


def pack_dirent(name: bytes, ino: int, offset: int, mode: int) -> bytes:
    """One entry of READDIR; `offset` is where the next one is read from, `mode` has the file type bits."""
    size = len(name)
    padding = -size % 8
    return fuse_dirent.pack(ino, offset, size, mode >> 12 & 15) + name + bytes(padding)
