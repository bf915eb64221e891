"""A disk with a volatile write cache whose power can be cut at any moment of its past.

``python -m tests.soak.power_disk IMAGE LOG DIRECTORY`` serves the image as the one file of a FUSE mount and notes every
write and every flush in the log. A loop device over that file is a block device: what the file system above it sends
is what the log holds, and a flush arrives as an fsync. `Disk` starts all that and mounts the file system.

The length of the log is the disk's time. `Cuts` goes through a log and makes the image that a loss of power at some
moment leaves: every write before the last flush is on it, and of the writes since then a random part, in blocks.

Threading: the served file is answered by one thread, so the log has an order. `Disk` and `Cuts` are for one thread.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import shutil
import stat
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import mfusepy

from mount.processes import users_of
from tests.mount.harness import eventually

IMAGE_BYTES = 768 << 20
MAKERS = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
}
# A disk writes blocks of this size whole or not at all.
_BLOCK_BYTES = 4096
_FILE = "/disk"
_CLONE_NEWNS = 0x20000  # <sched.h>
# Offset and length of a write; its bytes follow. A flush has the length 0.
_ENTRY = struct.Struct("<QI")


class _ServedFile(mfusepy.Operations):
    """The image, with a note of every change in the log before it is answered."""

    use_ns = True

    def __init__(self, image: Path, log: Path) -> None:
        self._image = os.open(image, os.O_RDWR)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
        if path != _FILE:
            raise mfusepy.FuseOSError(errno.ENOENT)
        return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": os.fstat(self._image).st_size}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", _FILE[1:]]

    def open(self, path: str, flags: int) -> int:
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(self._image, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self._note(offset, data)
        if os.pwrite(self._image, data, offset) != len(data):
            raise mfusepy.FuseOSError(errno.EIO)
        return len(data)

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self._note(0, b"")
        return 0

    def flush(self, path: str, fh: int) -> int:
        return 0

    def _note(self, offset: int, data: bytes) -> None:
        entry = _ENTRY.pack(offset, len(data)) + data
        if os.write(self._log, entry) != len(entry):
            raise mfusepy.FuseOSError(errno.EIO)


class Disk:
    """A file system on such a disk, mounted at `mountpoint`. As root only."""

    def __init__(self, directory: Path, kind: str, mountpoint: Path) -> None:
        self.mountpoint = mountpoint
        self.log = directory / "log"
        self.start = directory / "start.img"
        """The disk as it was made, before the log begins."""
        self._image = directory / "running.img"
        self._served = directory / "served"
        self._served.mkdir()
        mountpoint.mkdir(exist_ok=True)
        with open(self.start, "wb") as image:
            image.truncate(IMAGE_BYTES)
        subprocess.run([*MAKERS[kind], self.start], check=True, stdout=subprocess.DEVNULL)
        copy_sparse(self.start, self._image)
        self.log.touch()
        command = [sys.executable, "-m", "tests.soak.power_disk", self._image, self.log, self._served]
        self._server = subprocess.Popen(list(map(str, command)))
        eventually((self._served / _FILE[1:]).exists, what="the disk to be served")
        subprocess.run(["mount", "-o", "loop", self._served / _FILE[1:], mountpoint], check=True)

    def now(self) -> int:
        """The disk's time. What was acknowledged before this call was acknowledged before that."""
        return self.log.stat().st_size

    def close(self) -> None:
        """Unmount it; the log and the image of the start stay. The file system's own last writes are in the log."""
        unmount(self.mountpoint)
        unmount(self._served)
        self._server.wait(timeout=60)
        self._image.unlink()


class Cuts:
    """Images that losses of power leave. The moments are taken in their order."""

    def __init__(self, start: Path, log: Path, rng: random.Random) -> None:
        self._flushed = os.open(start, os.O_RDWR)
        self._start = start
        self._log = open(log, "rb")  # noqa: SIM115 - closed by `close`
        self._rng = rng
        self._unflushed: list[tuple[int, bytes]] = []

    def close(self) -> None:
        os.close(self._flushed)
        self._log.close()

    def image_at(self, moment: int, target: Path) -> str:
        """Write the image that a loss of power at `moment` leaves to `target`; says what was lost.

        Moments must not go back.
        """
        for offset, data in self._until(moment):
            if data:
                self._unflushed.append((offset, data))
                continue
            for write in self._unflushed:
                _write(self._flushed, *write)
            self._unflushed.clear()
        copy_sparse(self._start, target)
        kept_share = self._rng.choice((0.0, 0.5, 0.9, 1.0))
        blocks = [block for write in self._unflushed for block in _blocks(*write)]
        kept = [block for block in blocks if self._rng.random() < kept_share]
        fd = os.open(target, os.O_RDWR)
        try:
            for block in kept:
                _write(fd, *block)
        finally:
            os.close(fd)
        return f"{len(blocks) - len(kept)} of {len(blocks)} unflushed blocks lost"

    def _until(self, moment: int) -> Iterator[tuple[int, bytes]]:
        while self._log.tell() + _ENTRY.size <= moment:
            offset, length = _ENTRY.unpack(self._log.read(_ENTRY.size))
            if self._log.tell() + length > moment:
                self._log.seek(-_ENTRY.size, os.SEEK_CUR)
                return
            yield offset, self._log.read(length)


class Boot:
    """The kernel's boot id, which another takes the place of when the power comes back.

    It is changed in a mount namespace of this process and what it starts. As root only.
    """

    _KERNELS_OWN = Path("/proc/sys/kernel/random/boot_id")

    def __init__(self, file: Path) -> None:
        self._file = file
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) != 0:
            raise OSError(ctypes.get_errno(), "cannot have a mount namespace")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        self.again()
        subprocess.run(["mount", "--bind", file, self._KERNELS_OWN], check=True)

    def again(self) -> None:
        """Come up anew."""
        self._file.write_text(f"{uuid.uuid4()}\n")

    def close(self) -> None:
        unmount(self._KERNELS_OWN)


def moments(log: Path, begin: int, end: int, count: int, rng: random.Random) -> list[int]:
    """So many moments between two times, each just after a write or a flush; every entry is as likely as the next."""
    ends = []
    with open(log, "rb") as entries:
        while header := entries.read(_ENTRY.size):
            _, length = _ENTRY.unpack(header)
            entries.seek(length, os.SEEK_CUR)
            if begin <= entries.tell() <= end:
                ends.append(entries.tell())
    assert ends, "nothing was written to the disk in that time"
    return sorted(rng.choices(ends, k=count))


def copy_sparse(source: Path, target: Path) -> None:
    """Copy an image without its holes."""
    subprocess.run(["cp", "--sparse=always", source, target], check=True)


def unmount(mountpoint: Path) -> None:
    """Unmount a file system that may be busy for a moment."""
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(["umount", mountpoint], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        users = ", ".join(users_of(mountpoint)) or "this process"
        assert time.monotonic() < deadline, f"{done.stderr}it is used by {users}"
        time.sleep(0.1)


def _blocks(offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    for start in range(0, len(data), _BLOCK_BYTES):
        yield offset + start, data[start : start + _BLOCK_BYTES]


def _write(fd: int, offset: int, data: bytes) -> None:
    if os.pwrite(fd, data, offset) != len(data):
        raise OSError(errno.EIO, "a short write to an image")


def why_no_disk(*kinds: str) -> str | None:
    """What this machine lacks for disks with these file systems; None when it lacks nothing."""
    if os.geteuid() != 0:
        return "only root mounts disks"
    missing = [MAKERS[kind][0] for kind in kinds if shutil.which(MAKERS[kind][0]) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


def _serve() -> None:
    image, log, directory = map(Path, sys.argv[1:4])
    # Past the page cache: the log would miss what the kernel keeps to itself.
    mfusepy.FUSE(_ServedFile(image, log), str(directory), foreground=True, nothreads=True, direct_io=True)


if __name__ == "__main__":
    _serve()
