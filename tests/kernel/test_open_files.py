"""Open files that lose their name, and names of one file, on the native driver."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.harness import Mount, eventually
from tests.mount.shared import mounted

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """One mount for all."""
    with mounted(tmp_path_factory.mktemp("open"), "kernel", "--commit-after", "never", "--refresh", "0.2") as mount:
        yield mount


@pytest.fixture
def staging(mount: Mount, request: pytest.FixtureRequest) -> Path:
    """The staging of an artifact of its own."""
    return mount.make(f"open/{request.node.name.partition('[')[0]}")


def test_a_removed_file_leaves_nothing_behind(staging: Path) -> None:
    """D2: it goes on working while it is open, under no name."""
    with open(staging / "file", "w+b") as file:
        file.write(b"before")
        file.flush()
        (staging / "file").unlink()
        assert os.listdir(staging) == []
        file.write(b" and after")
        file.flush()
        os.fchmod(file.fileno(), 0o600)
        os.utime(file.fileno(), ns=(5, 7))
        os.ftruncate(file.fileno(), 12)
        found = os.fstat(file.fileno())
        assert (found.st_nlink, found.st_size, found.st_mode & 0o777) == (0, 12, 0o600)
        file.seek(0)
        assert file.read() == b"before and a"
        again = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY)
        assert os.read(again, 100) == b"before and a"
        os.close(again)
    assert os.listdir(staging) == []
    staging.joinpath("file").write_bytes(b"another")
    assert staging.joinpath("file").read_bytes() == b"another"


def test_a_replaced_file_lives_on_for_who_has_it_open(staging: Path) -> None:
    """D2: and nobody else ever meets a moment without one."""
    (staging / "target").write_bytes(b"0" * 1000)
    missing = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            try:
                data = (staging / "target").read_bytes()
            except FileNotFoundError:
                missing.append("no file")
                continue
            if len(set(data)) != 1:
                missing.append(data)

    looking = threading.Thread(target=look)
    looking.start()
    with open(staging / "target", "rb") as old:
        for number in range(1, 200):
            (staging / "new").write_bytes(bytes([number % 256]) * 1000)
            os.rename(staging / "new", staging / "target")
        stop.set()
        looking.join()
        assert old.read() == b"0" * 1000
        assert os.fstat(old.fileno()).st_nlink == 0
    assert not missing
    assert os.listdir(staging) == ["target"]


def test_names_of_one_file_are_one_file(staging: Path) -> None:
    """D2: what is changed by one name shows by the other at once."""
    (staging / "one").write_bytes(b"1")
    (staging / "sub").mkdir()
    os.link(staging / "one", staging / "sub/two")
    assert os.path.samefile(staging / "one", staging / "sub/two")
    with open(staging / "one", "ab") as file:
        file.write(b"2")
        file.flush()
        assert (staging / "sub/two").stat().st_size == 2
    os.chmod(staging / "sub/two", 0o640)
    assert (staging / "one").stat().st_mode & 0o777 == 0o640
    (staging / "one").unlink()
    assert (staging / "sub/two").stat().st_nlink == 1
    (staging / "sub").rename(staging / "moved")
    assert (staging / "moved/two").read_bytes() == b"12"
    with open(staging / "moved/two", "ab") as file:
        file.write(b"3")
    assert (staging / "moved/two").read_bytes() == b"123"


def test_a_sealed_file_goes_on_for_who_has_it_open(mount: Mount, staging: Path) -> None:
    """D2: fstat(2) tells of it, while another file takes its name."""
    (staging / "deep").mkdir()
    (staging / "deep/file").write_bytes(b"first")
    label = str(staging.parent.relative_to(mount.path))
    with open(staging / "deep/file", "rb") as file:
        inode = os.fstat(file.fileno()).st_ino
        mount.commit(label)
        (staging / "deep").mkdir()
        (staging / "deep/file").write_bytes(b"the second")
        assert os.fstat(file.fileno()).st_size == 5
        assert os.fstat(file.fileno()).st_ino == inode
        assert file.read() == b"first"
    assert (staging / "deep/file").stat().st_size == 10


def test_a_program_works_on_in_a_directory_that_was_sealed(mount: Mount, staging: Path) -> None:
    """C3: one that stands in `staging` itself writes into the new one."""
    (staging / "a").write_bytes(b"a")
    here = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
    try:
        mount.commit(str(staging.parent.relative_to(mount.path)))
        fd = os.open("b", os.O_WRONLY | os.O_CREAT, dir_fd=here)
        os.write(fd, b"b")
        os.close(fd)
        assert os.listdir(here) == ["b"]
    finally:
        os.close(here)
    assert os.listdir(staging) == ["b"]


def test_a_forced_commit_leaves_an_open_file_one_file(mount: Mount, staging: Path) -> None:
    """C10: who reads it by its name sees what is written through the descriptor from before the seal."""
    label = str(staging.parent.relative_to(mount.path))
    with open(staging / "log", "ab", buffering=0) as log:
        log.write(b"one\n")
        assert (staging / "log").read_bytes() == b"one\n"
        mount.commit(label, "--force")
        log.write(b"two\n")
        assert (staging / "log").read_bytes() == b"one\ntwo\n"
        assert (staging / "log").stat().st_size == 8
        with open(staging / "log", "rb") as again:
            assert os.path.sameopenfile(log.fileno(), again.fileno())
    assert (staging.parent / "v0/log").read_bytes() == b"one\n"
    assert eventually(lambda: mount.state(label).staged).files == 1
