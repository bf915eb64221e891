"""Small file-system primitives Python lacks: renameat2, fallocate, a copy by reference.

Pure calls, no state, safe from any thread. Errors are OSError with the kernel's errno.
"""

from __future__ import annotations

import ctypes
import os
import shutil

_libc = ctypes.CDLL(None, use_errno=True)

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
# More than struct statfs has anywhere; its first field is the type.
_STATFS_BYTES = 512
# <linux/magic.h>: ext2 to ext4, XFS, btrfs, tmpfs, F2FS, ZFS, bcachefs, and overlays, whose upper layer is such a one.
_LOCAL_FILE_SYSTEMS = frozenset(
    {0xEF53, 0x58465342, 0x9123683E, 0x01021994, 0xF2F52010, 0x2FC12FC1, 0xCA451A4E, 0x794C7630}
)
_STACKED_FILE_SYSTEMS = frozenset({0x794C7630, 0xF15F})
# <linux/falloc.h>
_FALLOC_FL_PUNCH_HOLE = 2
_FALLOC_FL_COLLAPSE_RANGE = 8


def rename(directory: int, name: str, new_directory: int, new_name: str, flags: int = 0) -> None:
    """renameat2(2): a name in an open directory becomes one in another."""
    if flags == 0:
        os.rename(name, new_name, src_dir_fd=directory, dst_dir_fd=new_directory)
        return
    old, new = os.fsencode(name), os.fsencode(new_name)
    if _libc.renameat2(directory, old, new_directory, new, ctypes.c_uint(flags)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name, None, new_name)


def tells_late(path: str | os.PathLike[str]) -> bool:
    """Tell whether the file system of `path` may tell only when a file is closed that it did not keep what was written.

    Network file systems do (NFS, CIFS, AFS, those on FUSE), for want of room, of quota or of the server. Local ones
    write or refuse at once. Raises OSError.
    """
    return _file_system(path) not in _LOCAL_FILE_SYSTEMS


def is_stacked(path: str | os.PathLike[str]) -> bool:
    """Tell whether the file system of `path` shows files of others: an overlay, eCryptfs. Raises OSError."""
    return _file_system(path) in _STACKED_FILE_SYSTEMS


def _file_system(path: str | os.PathLike[str]) -> int:
    """The number of its kind, which Python's statvfs does not tell. Raises OSError."""
    found = ctypes.create_string_buffer(_STATFS_BYTES)
    if _libc.statfs(os.fsencode(path), found) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fspath(path))
    return ctypes.c_ulong.from_buffer(found).value & 0xFFFFFFFF


def gives_room(mode: int) -> bool:
    """Tell whether fallocate(2) with that mode takes no room on the disk: it punches a hole, or takes a range out."""
    return bool(mode & (_FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_COLLAPSE_RANGE))


def fallocate(fd: int, mode: int, offset: int, size_bytes: int) -> None:
    """fallocate(2), whose modes (punch a hole, keep the size …) os.posix_fallocate does not take."""
    if _libc.fallocate(fd, mode, ctypes.c_longlong(offset), ctypes.c_longlong(size_bytes)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def copy(source: str, target: str) -> None:
    """A copy of a file with its mode and times, by reference where the file system can (XFS, btrfs)."""
    with open(source, "rb") as reader, open(target, "xb") as writer:
        left = os.fstat(reader.fileno()).st_size
        while left > 0 and (done := os.copy_file_range(reader.fileno(), writer.fileno(), left)):
            left -= done
    shutil.copystat(source, target)
