"""The primitives that Python lacks do what the kernel does."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mount import disk
from mount.descriptors import OwnedFd
from tests.scenarios import refused


def test_rename_flags(tmp_path: Path) -> None:
    """Plain, sparing and swapping renames; names in any bytes."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    a, b = here / "a", there / os.fsdecode(b"b\xff")
    a.write_text("a")
    b.write_text("b")
    source, target = OwnedFd(os.open(here, os.O_PATH)), OwnedFd(os.open(there, os.O_PATH))
    with refused(errno.EEXIST):
        disk.rename(source, a.name, target, b.name, disk.RENAME_NOREPLACE)
    disk.rename(source, a.name, target, b.name, disk.RENAME_EXCHANGE)
    assert (a.read_text(), b.read_text()) == ("b", "a")
    disk.rename(source, a.name, target, b.name)
    assert (os.listdir(here), os.listdir(there)) == ([], [b.name])
    with refused(errno.ENOENT):
        disk.rename(source, a.name, target, b.name, disk.RENAME_EXCHANGE)


def test_fallocate(tmp_path: Path) -> None:
    """Room beyond 4 GiB, holes, and the kernel's errors."""
    with open(tmp_path / "f", "w+b") as file:
        file.write(b"x" * 8192)
        file.flush()
        disk.fallocate(file.fileno(), 3, 0, 4096)
        file.seek(0)
        assert file.read() == bytes(4096) + b"x" * 4096
        with refused(errno.EINVAL):
            disk.fallocate(file.fileno(), 0, -1, 10)
        with refused(errno.EBADF):
            disk.fallocate(os.open(tmp_path, os.O_RDONLY | os.O_CLOEXEC), 0, 0, 10)


def test_copy(tmp_path: Path) -> None:
    """A copy has the bytes, the mode and the times, and does not replace anything."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3_000_000))
    source.chmod(0o640)
    os.utime(source, ns=(5, 1_234_567_890_123_456_789))
    disk.copy(str(source), str(tmp_path / "copy"))
    copy = tmp_path / "copy"
    assert copy.read_bytes() == source.read_bytes()
    assert copy.stat().st_mtime_ns == 1_234_567_890_123_456_789
    assert copy.stat().st_mode == source.stat().st_mode
    with pytest.raises(FileExistsError):
        disk.copy(str(source), str(copy))
