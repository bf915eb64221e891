"""Random I/O on one file against a copy of it in memory, as fsx does: every read must give what was written.

``Fsx(path, seed, donor).run(operations)``. The operations and their arguments depend on the seed alone, so a failure
can be had again; it says the seed and the last operations. `donor` is a file that is copied from, such as one of a
version, whose whole copy a drive may keep as a reference.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

from mount.disk import fallocate

LARGEST_BYTES = 256 << 10
PAGE_BYTES = mmap.PAGESIZE
_KEEP_SIZE = 1
_PUNCH_HOLE = 2
_ZERO_RANGE = 16
_REMEMBERED = 40
_CHECKED_EVERY = 50


class Mismatch(AssertionError):
    """The file is not what was written to it."""


class Fsx:
    """See the module docstring. One thread. `counts` tells which operations were done."""

    def __init__(self, path: Path, seed: int, donor: Path | None = None) -> None:
        self.path = path
        self.seed = seed
        self.donor = donor
        self.counts: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._done: deque[str] = deque(maxlen=_REMEMBERED)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        self.model = bytearray(path.read_bytes())
        self._operations: list[tuple[Callable[[], str], int]] = [
            (self._read, 20),
            (self._write, 20),
            (self._append, 5),
            (self._truncate, 8),
            (self._mapped_read, 10),
            (self._mapped_write, 12),
            (self._mapped_write_left_dirty, 6),
            (self._allocate, 4),
            (self._punch, 6),
            (self._zero, 4),
            (self._sync, 4),
            (self._reopen, 5),
            (self._copy_within, 6),
            (self._copy_whole, 4 if donor else 0),
            (self._copy_part, 4 if donor else 0),
            (self._holes, 4),
            (self._read_elsewhere, 5),
        ]

    def run(self, operations: int) -> bytes:
        """Do so many; returns what the file holds now. Raises Mismatch."""
        calls, weights = zip(*self._operations, strict=True)
        try:
            for number, call in enumerate(self._rng.choices(calls, weights, k=operations)):
                name = call.__name__.strip("_")
                # The arguments are known when it is over; when it raises, only the name is.
                self._done.append(f"{number} {name} …")
                self._done[-1] = f"{number} {name} {call()}"
                self.counts[name] += 1
                self._check_size()
                if number % _CHECKED_EVERY == 0:
                    self._check(0, len(self.model), os.pread(self._fd, len(self.model) + 1, 0))
            self._reopen()
            self._check(0, len(self.model), os.pread(self._fd, len(self.model) + 1, 0))
        except (OSError, AssertionError, ValueError) as error:
            done = "\n".join(self._done)
            raise Mismatch(f"seed {self.seed}, {self.path}: {error}\nthe last operations:\n{done}") from error
        finally:
            os.close(self._fd)
        return bytes(self.model)

    # -- checks

    def _check_size(self) -> None:
        size = os.fstat(self._fd).st_size
        assert size == len(self.model), f"{size} bytes instead of {len(self.model)}"

    def _check(self, offset: int, size: int, found: bytes) -> None:
        wanted = self.model[offset : offset + size]
        if found == wanted:
            return
        assert len(found) == len(wanted), f"{len(found)} bytes read at {offset} instead of {len(wanted)}"
        differ = [place for place in range(len(wanted)) if found[place] != wanted[place]]
        raise Mismatch(
            f"{len(differ)} bytes between {offset + differ[0]} and {offset + differ[-1]} differ: "
            f"{found[differ[0]]} instead of {wanted[differ[0]]}"
        )

    # -- arguments

    def _range(self) -> tuple[int, int]:
        """Some offset and length below the largest size, often at the edges of pages."""
        offset = self._rng.randrange(LARGEST_BYTES)
        if self._rng.random() < 0.3:
            offset -= offset % PAGE_BYTES
        most = min(LARGEST_BYTES - offset, self._rng.choice((10, PAGE_BYTES, 40_000, 150_000)))
        return offset, self._rng.randrange(1, most + 1)

    def _range_inside(self) -> tuple[int, int] | None:
        """Some offset and length within the file; None when it is empty."""
        if not self.model:
            return None
        offset = self._rng.randrange(len(self.model))
        return offset, self._rng.randrange(1, len(self.model) - offset + 1)

    def _bytes(self, size: int) -> bytes:
        # Not too random: a byte tells which operation wrote it.
        return self._rng.randbytes(min(16, size)).ljust(size, bytes([self._rng.randrange(1, 256)]))

    def _put(self, offset: int, data: bytes) -> None:
        self._grow(offset)
        self.model[offset : offset + len(data)] = data

    def _grow(self, size: int) -> None:
        self.model.extend(bytes(max(0, size - len(self.model))))

    # -- operations; each returns its arguments

    def _read(self) -> str:
        offset, size = self._range()
        self._check(offset, size, os.pread(self._fd, size, offset))
        return f"{offset}+{size}"

    def _read_elsewhere(self) -> str:
        """By another descriptor, or by name."""
        offset, size = self._range()
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._check(offset, size, os.pread(fd, size, offset))
        finally:
            os.close(fd)
        return f"{offset}+{size}"

    def _write(self) -> str:
        offset, size = self._range()
        data = self._bytes(size)
        done = os.pwrite(self._fd, data, offset)
        assert done == size, f"{done} of {size} bytes written"
        self._put(offset, data)
        return f"{offset}+{size}"

    def _append(self) -> str:
        size = self._rng.randrange(1, 20_000)
        if len(self.model) + size > LARGEST_BYTES:
            return "nothing"
        data = self._bytes(size)
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            # Two of them: the second must find the end that the first has moved.
            half = size // 2
            os.write(fd, data[:half])
            os.write(fd, data[half:])
        finally:
            os.close(fd)
        self.model += data
        return str(size)

    def _truncate(self) -> str:
        size = self._rng.choice((0, len(self.model) // 2, self._rng.randrange(LARGEST_BYTES)))
        by_name = self._rng.random() < 0.5
        os.truncate(self.path if by_name else self._fd, size)
        del self.model[size:]
        self._grow(size)
        return f"to {size} {'by name' if by_name else 'open'}"

    def _mapped_read(self) -> str:
        inside = self._range_inside()
        if inside is None:
            return "nothing"
        offset, size = inside
        with mmap.mmap(self._fd, len(self.model), prot=mmap.PROT_READ) as mapped:
            self._check(offset, size, mapped[offset : offset + size])
        return f"{offset}+{size}"

    def _mapped_write(self) -> str:
        return self._map_and_write(flush=True)

    def _mapped_write_left_dirty(self) -> str:
        return self._map_and_write(flush=False)

    def _map_and_write(self, *, flush: bool) -> str:
        offset, size = self._range()
        if offset + size > len(self.model):
            os.ftruncate(self._fd, offset + size)
            self._grow(offset + size)
        data = self._bytes(size)
        with mmap.mmap(self._fd, len(self.model)) as mapped:
            mapped[offset : offset + size] = data
            if flush:
                mapped.flush()
        self._put(offset, data)
        return f"{offset}+{size}"

    def _allocate(self) -> str:
        offset, size = self._range()
        keep_size = self._rng.random() < 0.5
        if self._fallocate(_KEEP_SIZE if keep_size else 0, offset, size) and not keep_size:
            self._grow(offset + size)
        return f"{offset}+{size} {'keeping the size' if keep_size else ''}"

    def _punch(self) -> str:
        offset, size = self._range()
        if self._fallocate(_PUNCH_HOLE | _KEEP_SIZE, offset, size):
            self._zero_model(offset, size)
        return f"{offset}+{size}"

    def _zero(self) -> str:
        offset, size = self._range()
        keep_size = self._rng.random() < 0.5
        if self._fallocate(_ZERO_RANGE | (_KEEP_SIZE if keep_size else 0), offset, size):
            if not keep_size:
                self._grow(offset + size)
            self._zero_model(offset, size)
        return f"{offset}+{size} {'keeping the size' if keep_size else ''}"

    def _fallocate(self, mode: int, offset: int, size: int) -> bool:
        """Whether the file system below can do that."""
        try:
            fallocate(self._fd, mode, offset, size)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            self.counts["not supported"] += 1
            return False
        return True

    def _zero_model(self, offset: int, size: int) -> None:
        end = min(offset + size, len(self.model))
        if end > offset:
            self.model[offset:end] = bytes(end - offset)

    def _sync(self) -> str:
        call = self._rng.choice((os.fsync, os.fdatasync))
        call(self._fd)
        return call.__name__

    def _reopen(self) -> str:
        os.close(self._fd)
        self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        return ""

    def _copy_within(self) -> str:
        inside = self._range_inside()
        if inside is None:
            return "nothing"
        offset, size = inside
        to = self._rng.randrange(LARGEST_BYTES - size + 1)
        if to < offset + size and offset < to + size:
            return "nothing: they overlap"
        data = bytes(self.model[offset : offset + size])
        self._copy(self._fd, offset, to, data)
        return f"{offset}+{size} to {to}"

    def _copy_whole(self) -> str:
        """The whole donor over the emptied file."""
        assert self.donor is not None
        data = self.donor.read_bytes()
        if self._rng.random() < 0.5:
            self._write()
        os.ftruncate(self._fd, 0)
        self.model.clear()
        self._from_donor(0, 0, data)
        return ""

    def _copy_part(self) -> str:
        assert self.donor is not None
        data = self.donor.read_bytes()
        offset = self._rng.randrange(len(data))
        data = data[offset : offset + self._rng.randrange(1, 50_000)]
        to = self._rng.randrange(LARGEST_BYTES - len(data))
        self._from_donor(offset, to, data)
        return f"{offset}+{len(data)} to {to}"

    def _from_donor(self, offset: int, to: int, data: bytes) -> None:
        assert self.donor is not None
        fd = os.open(self.donor, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._copy(fd, offset, to, data)
        finally:
            os.close(fd)

    def _copy(self, fd: int, offset: int, to: int, data: bytes) -> None:
        done = 0
        while done < len(data):
            count = os.copy_file_range(fd, self._fd, len(data) - done, offset + done, to + done)
            assert count > 0, f"copy_file_range stopped after {done} of {len(data)} bytes"
            done += count
        self._put(to, data)

    def _holes(self) -> str:
        """What is told to be a hole is full of zeros, and the end of the file is one."""
        offset = 0
        holes = 0
        while offset < len(self.model):
            hole = os.lseek(self._fd, offset, os.SEEK_HOLE)
            data = len(self.model)
            with contextlib.suppress(OSError):
                data = os.lseek(self._fd, hole, os.SEEK_DATA)
            assert offset <= hole <= data <= len(self.model), f"hole {hole}, data {data} after {offset}"
            assert not any(self.model[hole:data]), f"a hole from {hole} to {data} that is none"
            offset = data
            holes += 1
        return f"{holes} found"
