"""What is called durable is whole, and a sync that failed is not forgotten."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from artifactfs import durable

# As a disk that is full and a signal that comes between, a limit of the file's size cuts a write short.
CUT_SHORT = """
import resource, signal, sys
from artifactfs import durable
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
durable.replace(sys.argv[1], b"x" * 30_000)
"""

DIES_IN_THE_MIDDLE = """
import os, signal, sys
from artifactfs import durable
os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)
durable.replace(sys.argv[1], b"x")
"""


def test_replace(tmp_path: Path) -> None:
    """A file is replaced as a whole and nothing is left beside it."""
    for data in (b"first", b"", b"x" * 100_000):
        durable.replace(tmp_path / "f", data)
        assert (tmp_path / "f").read_bytes() == data
        assert os.listdir(tmp_path) == ["f"]


def test_replace_in_nothing(tmp_path: Path) -> None:
    """Errors are those of the system."""
    with pytest.raises(FileNotFoundError):
        durable.replace(tmp_path / "missing/f", b"x")


def test_a_write_cut_short_replaces_nothing(tmp_path: Path) -> None:
    """What has no room as a whole is an error, and the old file stays."""
    (tmp_path / "f").write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", CUT_SHORT, str(tmp_path / "f")], capture_output=True, text=True, check=False
    )
    assert "File too large" in done.stderr
    assert (tmp_path / "f").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_two_replace_one_file(tmp_path: Path) -> None:
    """Threads and processes may: what is there is always what one of them put there, and nothing else is left."""
    texts = [bytes([65 + number]) * 70_000 for number in range(8)]

    def replace(text: bytes) -> None:
        for _ in range(30):
            durable.replace(tmp_path / "f", text)
            assert (tmp_path / "f").read_bytes() in texts

    with ThreadPoolExecutor(len(texts)) as pool:
        list(pool.map(replace, texts))
    assert os.listdir(tmp_path) == ["f"]


def test_what_the_dead_left_is_removed(tmp_path: Path) -> None:
    """A process that died in the middle leaves a name that is known, and no other file goes with it."""
    ended = subprocess.run(
        [sys.executable, "-c", DIES_IN_THE_MIDDLE, str(tmp_path / "f")], capture_output=True, check=False
    )
    assert ended.returncode == -9, ended.stderr
    for name in ("f", ".f.tmp", ".hidden", "x.1-2.tmp"):
        (tmp_path / name).write_bytes(b"kept")
    assert len(os.listdir(tmp_path)) == 5
    durable.remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".f.tmp", ".hidden", "f", "x.1-2.tmp"]


def test_write_all_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A short write goes on where it stopped, also at an offset and of wide items; one of nothing is an error."""
    write, pwrite = os.write, os.pwrite
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:7], offset))
    data = os.urandom(104)
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    try:
        durable.write_all(fd, data)
        durable.write_all(fd, memoryview(data).cast("Q"), 200)
        assert os.pread(fd, 1000, 0) == data + bytes(96) + data
        monkeypatch.setattr(os, "write", lambda fd, data: 0)
        with pytest.raises(OSError, match="put nothing on disk"):
            durable.write_all(fd, b"x")
    finally:
        os.close(fd)


def test_syncing(tmp_path: Path) -> None:
    """Directories and whole file systems; what is no directory is an error."""
    durable.sync_directory(tmp_path)
    assert durable.sync_filesystem(tmp_path)
    (tmp_path / "f").touch()
    durable.sync_file(str(tmp_path / "f"))
    for call in (durable.sync_directory, durable.sync_filesystem):
        with pytest.raises(NotADirectoryError):
            call(tmp_path / "f")
        with pytest.raises(FileNotFoundError):
            call(tmp_path / "missing")


def test_files_are_not_synced_through_symlinks(tmp_path: Path) -> None:
    """A symlink in the place of a file is told."""
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(OSError, match="symbolic links"):
        durable.sync_file(str(tmp_path / "link"))


def test_a_disk_counts_its_failures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A sync that succeeds after one that failed changes nothing about it."""
    disk = durable.Disk(tmp_path)
    disk.sync()
    with monkeypatch.context() as patch:
        patch.setattr(durable, "sync_filesystem", _fail)
        with pytest.raises(OSError, match="Input"):
            disk.sync()
    disk.sync()
    assert disk.failures == 1
    disk.check_since(1)
    with pytest.raises(OSError, match="written anew"):
        disk.check_since(0)


def _fail(where: object) -> bool:
    raise OSError(errno.EIO, os.strerror(errno.EIO))
