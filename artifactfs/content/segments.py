"""One file of the content cache on disk: some of its granules are there, and a map beside it says which.

A segment is a sparse data file, where every byte has the offset it has in the content, and a small map: a header that
ties it to the data file's inode, then one record for each granule (checksum, boot, length). The bytes are written
before the record, so after ``kill -9`` a record always means a whole granule: what was written is in the page cache.
A loss of power can lose either, in any order; so a record written in an earlier boot is believed only after the granule
was found to have its checksum. Nothing is ever synced.

Two processes may have the same segment open and fill it: they write the same bytes. Whoever deletes it takes the map
away first; open descriptors go on reading.

Threading: safe from any thread. The descriptors are closed when the last reference to a `Segment` goes, so that none is
closed under a reader. `_writing` is a leaf, held while bytes go to the file: the kernel lets in one writer after
another, and has those that wait spin (1 GiB by eight threads: 2.3 s of CPU without the lock, 1.8 s with it).
"""

from __future__ import annotations

import itertools
import os
import struct
import threading
import time
from contextlib import suppress

from blake3 import blake3

from artifactfs.errors import ArtifactError

GRANULE_BYTES = 1 << 20
GRANULE_SHIFT = 20

_HEADER = struct.Struct("<4sIQ")
"""magic, boot in which the whole was found to have its digest (0 for never), inode of the data file"""
_RECORD = struct.Struct("<QII")
"""checksum, boot, length in bytes; all zero where there is no granule"""
_MAGIC = b"AFM1"
_BOOT_FILE = "/proc/sys/kernel/random/boot_id"
_OPEN_ATTEMPTS = 16
# What is written at once. The page cache takes as much in one piece of memory where it can, and large pieces are those
# that nobody used lately: 768 MiB by 1 MiB cost 1.05 s of CPU on a virtual machine, by 128 KiB 0.25 (medians of five).
_WRITE_BYTES = 128 << 10
# How far the time of last use on disk may lag behind: telling it costs a system call.
_TOUCH_S = 30.0
MAP_SUFFIX = ".map"

_serials = itertools.count(1)


def _boot_tag() -> int:
    """A number for this boot of the machine, never 0; a new one for each process where the system does not tell."""
    try:
        with open(_BOOT_FILE, "rb") as file:
            boot = file.read()
    except OSError:
        boot = os.urandom(16)
    return int.from_bytes(blake3(boot).digest(4), "little") or 1


BOOT = _boot_tag()


def checksum(data: bytes | memoryview) -> int:
    """What a record keeps of a granule's bytes."""
    return int.from_bytes(blake3(data).digest(8), "little") or 1


class Segment:
    """See the module docstring. `ready` has a 1 for every granule that may be read with ``os.pread(fd, …)``."""

    __slots__ = (
        "__weakref__",
        "_map_fd",
        "_touched_s",
        "_writing",
        "fd",
        "is_gone",
        "path",
        "present",
        "ready",
        "serial",
        "verified",
    )

    def __init__(self, path: str, granules: int) -> None:
        """Open the segment of at most so many granules, made when it is not there. Raises OSError."""
        self.path = path
        self.fd = self._map_fd = -1
        self.is_gone = False
        self.serial = next(_serials)
        self._touched_s = 0.0
        self._writing = threading.Lock()
        for _ in range(_OPEN_ATTEMPTS):
            raw = self._open(granules)
            if raw:
                break
            # The data of one and the map of another: somebody was stopped, or is busy, between the two.
            remove_segment(path)
            self._close()
        else:
            raise ArtifactError(f"{path} and its map do not belong together, and keep not to: delete them")
        self.ready = bytearray(granules)
        self.verified = _HEADER.unpack_from(raw)[1] == BOOT
        self.present = 0  # records found when it was opened, of whichever boot
        for granule in range((len(raw) - _HEADER.size) // _RECORD.size):
            found, boot, _ = _RECORD.unpack_from(raw, _HEADER.size + granule * _RECORD.size)
            self.present += bool(found)
            self.ready[granule] = bool(found) and boot == BOOT
        self.touch()

    def _open(self, granules: int) -> bytes:
        """Open both files; what is in the map, nothing where it is not that of the data."""
        self.fd = _open_made(self.path)
        inode = os.fstat(self.fd).st_ino
        map_path = self.path + MAP_SUFFIX
        try:
            self._map_fd = os.open(map_path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            aside = f"{map_path}.{os.getpid()}-{self.serial}"
            self._map_fd = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(self._map_fd, _HEADER.pack(_MAGIC, 0, inode), 0)
                os.link(aside, map_path)
            except FileExistsError:
                aside_fd, self._map_fd = self._map_fd, -1
                os.close(aside_fd)
                self._map_fd = os.open(map_path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                return b""  # somebody who makes room has deleted it
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(aside)
        raw = os.pread(self._map_fd, _HEADER.size + granules * _RECORD.size, 0)
        is_of_data = len(raw) >= _HEADER.size and _HEADER.unpack_from(raw)[::2] == (_MAGIC, inode)
        return raw if is_of_data else b""

    def has(self, first: int, end: int) -> bool:
        """Tell if the granules from `first` to before `end` can be read; looks at what other processes have filled."""
        granule = self.ready.find(0, first, end)
        while granule >= 0:
            if not self._look(granule):
                return False
            granule = self.ready.find(0, granule + 1, end)
        return True

    def _look(self, granule: int) -> bool:
        """Read one granule's record again, and its bytes if it is of an earlier boot. Raises OSError."""
        raw = os.pread(self._map_fd, _RECORD.size, _HEADER.size + granule * _RECORD.size)
        if len(raw) < _RECORD.size:
            return False
        found, boot, size_bytes = _RECORD.unpack(raw)
        if not found or not 0 < size_bytes <= GRANULE_BYTES:
            return False
        if boot != BOOT:
            data = os.pread(self.fd, size_bytes, granule << GRANULE_SHIFT)
            if len(data) != size_bytes or checksum(data) != found:
                self.forget_granules(granule, granule + 1)
                return False
            self._record(granule, _RECORD.pack(found, BOOT, size_bytes))
        self.ready[granule] = 1
        return True

    def write(self, first: int, data: memoryview) -> None:
        """Put in granules from `first` on; only the last of them may be short. Raises OSError, StoreFull of nothing."""
        done, offset = 0, first << GRANULE_SHIFT
        with self._writing:
            while done < len(data):
                done += os.pwrite(self.fd, data[done : done + _WRITE_BYTES], offset + done)
        records = bytearray()
        for start in range(0, len(data), GRANULE_BYTES):
            granule = data[start : start + GRANULE_BYTES]
            records += _RECORD.pack(checksum(granule), BOOT, len(granule))
        self._record(first, records)
        for granule_number in range(first, first + len(records) // _RECORD.size):
            self.ready[granule_number] = 1

    def _record(self, granule: int, records: bytes | bytearray) -> None:
        os.pwrite(self._map_fd, records, _HEADER.size + granule * _RECORD.size)

    def forget_granules(self, first: int, end: int) -> None:
        """Count these granules as not there. Raises OSError."""
        self._record(first, b"\0" * (_RECORD.size * (end - first)))
        self.ready[first:end] = bytes(end - first)

    def forget(self) -> None:
        """Serve nothing of it any more, and delete it; a process that has it open finds it empty. Raises OSError."""
        self.ready[:] = bytes(len(self.ready))
        self.verified = False
        self.is_gone = True
        os.ftruncate(self._map_fd, 0)
        os.ftruncate(self.fd, 0)
        remove_segment(self.path)

    def note_verified(self) -> None:
        """Remember, for this boot, that the whole content was found to have its digest. Raises OSError."""
        os.pwrite(self._map_fd, _HEADER.pack(_MAGIC, BOOT, os.fstat(self.fd).st_ino), 0)
        self.verified = True

    def is_removed(self) -> bool:
        """Tell whether somebody has deleted it: what is written to it now is lost."""
        if not self.is_gone:
            self.is_gone = os.fstat(self.fd).st_nlink == 0
        return self.is_gone

    def touch(self) -> None:
        """Count as used now. The time of last use is the mtime of the map."""
        now_s = time.monotonic()
        if now_s - self._touched_s > _TOUCH_S:
            self._touched_s = now_s
            os.utime(self._map_fd)

    def _close(self) -> None:
        for fd in (self.fd, self._map_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self._map_fd = -1

    def __del__(self) -> None:
        self._close()


def _open_made(path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        return os.open(path, flags, 0o600)


def remove_segment(path: str) -> None:
    """Delete a segment; who has it open goes on reading. Raises OSError."""
    for name in (path + MAP_SUFFIX, path):
        with suppress(FileNotFoundError):
            os.unlink(name)
