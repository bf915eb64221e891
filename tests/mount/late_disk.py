"""A disk that tells only when a file is closed that it did not keep it, as NFS does when a quota is used up.

``python late_disk.py BEHIND MOUNTPOINT`` shows the directory BEHIND; closing a file called ``refused`` that has bytes
empties it and fails.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from typing import Any

import mfusepy

_STAT = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks")
_ROOM = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_ffree", "f_files", "f_frsize", "f_namemax", "f_favail")


class LateDisk(mfusepy.Operations):  # type: ignore[misc]
    """See the module docstring. Threads share nothing."""

    use_ns = True

    def __init__(self, behind: str) -> None:
        self._behind = behind

    def _at(self, path: str) -> str:
        return f"{self._behind}{path}"

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        found = os.lstat(self._at(path))
        times = {f"st_{which}time": getattr(found, f"st_{which}time_ns") for which in "amc"}
        return {key: getattr(found, key) for key in _STAT} | times

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *os.listdir(self._at(path))]

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._at(path))
        return {key: getattr(found, key) for key in _ROOM}

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._at(path), mode)

    def rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))

    def unlink(self, path: str) -> None:
        os.unlink(self._at(path))

    def rename(self, old: str, new: str) -> None:
        os.rename(self._at(old), self._at(new))

    def link(self, new: str, old: str) -> None:
        os.link(self._at(old), self._at(new))

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._at(path), stat.S_IMODE(mode))

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.lchown(self._at(path), uid, gid)

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        os.utime(self._at(path), ns=times)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        os.truncate(self._at(path), length)

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        return os.open(self._at(path), os.O_RDWR | os.O_CREAT, mode)

    def open(self, path: str, flags: int) -> int:
        return os.open(self._at(path), flags & os.O_ACCMODE)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)

    def flush(self, path: str, fh: int) -> None:
        if path.endswith("/refused") and os.fstat(fh).st_size:
            os.ftruncate(fh, 0)
            raise mfusepy.FuseOSError(errno.EDQUOT)

    def release(self, path: str, fh: int) -> None:
        os.close(fh)

    def fsync(self, path: str, data_only: int, fh: int) -> None:
        os.fsync(fh)


if __name__ == "__main__":
    mfusepy.FUSE(LateDisk(sys.argv[1]), sys.argv[2], foreground=True)
