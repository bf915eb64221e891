"""Small files of stores that do not pack them: many to one file on disk, found by their digest.

A drawer is a file of up to 16 MiB that small contents are appended to; a table, one file shared by all processes, says
where. The table is a hint and nothing more: what it points at is believed only when it has the digest that was asked
for. So it needs no locks and no order of writes, may be torn, overwritten or out of date, and a drawer is deleted
without looking into it.

Threading: safe from any thread. `_lock` is held while this process's drawer is appended to, which is local I/O.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from contextlib import suppress

from artifactfs.content.integrity import digest_of

DRAWER_BYTES = 16 << 20
SUFFIX = ".drawer"
TABLE = "table"

_BUCKETS = 1 << 18
_WAYS = 8
# Two million places, 32 MiB on disk where all are used: files of 5 KiB on average in 10 GiB.
_SLOT = struct.Struct("<QII")
"""first bytes of the digest (never 0), drawer, offset"""
_BUCKET = struct.Struct("<" + "QII" * _WAYS)
_TOUCH_S = 30.0


class Drawers:
    """See the module docstring. `directory` exists."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._table: mmap.mmap | None = None
        self._fd = -1
        self._number = 0
        self._filled = 0
        self._touched: dict[int, float] = {}

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def get(self, algorithm: str, digest: str, size_bytes: int) -> bytes | None:
        """The content with that digest, None when it is not here. Raises OSError."""
        tag, bucket = _place(digest)
        slots = _BUCKET.unpack_from(self._mapped(), bucket)
        for way in range(_WAYS):
            if slots[3 * way] == tag:
                data = self._read(slots[3 * way + 1], slots[3 * way + 2], size_bytes)
                if data is not None and digest_of(data, algorithm) == digest:
                    return data
        return None

    def _read(self, number: int, offset: int, size_bytes: int) -> bytes | None:
        path = self.path(number)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            now_s = time.monotonic()
            if now_s - self._touched.get(number, -_TOUCH_S) >= _TOUCH_S:
                self._touched[number] = now_s
                with suppress(PermissionError):
                    os.utime(path)
            return os.pread(fd, size_bytes, offset)
        finally:
            os.close(fd)

    def put(self, digest: str, data: bytes | memoryview) -> None:
        """Keep a content that was found to have its digest. Raises OSError."""
        tag, bucket = _place(digest)
        with self._lock:
            if self._fd < 0 or self._filled + len(data) > DRAWER_BYTES or os.fstat(self._fd).st_nlink == 0:
                self._begin()
            offset, number = self._filled, self._number
            self._filled += len(data)
            done = 0
            while done < len(data):
                done += os.pwrite(self._fd, data[done:], offset + done)
        table = self._mapped()
        slots = _BUCKET.unpack_from(table, bucket)
        tags = slots[::3]
        way = next((way for way in range(_WAYS) if tags[way] in (tag, 0)), offset % _WAYS)
        _SLOT.pack_into(table, bucket + way * _SLOT.size, tag, number, offset)

    def _begin(self) -> None:
        """Start a drawer of our own, with a number that nobody has."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        number = max((number for number in map(number_of, os.listdir(self._directory)) if number), default=0) + 1
        while self._fd < 0:
            try:
                self._fd = os.open(self.path(number), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except FileExistsError:
                number += 1
        self._number, self._filled = number, 0

    def path(self, number: int) -> str:
        """Where a drawer is."""
        return f"{self._directory}/{number}{SUFFIX}"

    def _mapped(self) -> mmap.mmap:
        table = self._table
        if table is None:
            fd = os.open(f"{self._directory}/{TABLE}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(fd).st_size < _BUCKETS * _BUCKET.size:
                    os.ftruncate(fd, _BUCKETS * _BUCKET.size)
                # Two threads may both map it: it is the same file.
                self._table = table = mmap.mmap(fd, _BUCKETS * _BUCKET.size)
            finally:
                os.close(fd)
        return table


def _place(digest: str) -> tuple[int, int]:
    """What a slot keeps of a digest, and where its bucket begins in the table."""
    raw = bytes.fromhex(digest)
    return int.from_bytes(raw[:8], "little") or 1, int.from_bytes(raw[8:16], "little") % _BUCKETS * _BUCKET.size


def number_of(name: str) -> int:
    """Which drawer the file of that name is, 0 for none."""
    stem = name.removesuffix(SUFFIX)
    return int(stem) if stem != name and stem.isdecimal() else 0
