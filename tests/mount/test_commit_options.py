"""What commits leave out, wait for, force and postpone; the room staging keeps free; the end of a daemon."""

from __future__ import annotations

import errno
import itertools
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import artifactfs as store
from mount.control import CommitState
from tests.mount.harness import Mount, artifactfs, eventually
from tests.mount.shared import mounted
from tests.scenarios import refused

pytestmark = pytest.mark.fuse

_numbers = itertools.count()


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory, driver: str) -> Iterator[Mount]:
    """Commits on request only."""
    directory = tmp_path_factory.mktemp("options")
    with mounted(directory, driver, "--commit-after", "never", "--refresh", "0.2") as mount:
        yield mount


@pytest.fixture
def label(mount: Mount) -> str:
    """A fresh artifact."""
    label = f"options/a{next(_numbers)}"
    mount.make(label)
    return label


def names_in(version: Path) -> list[str]:
    """Every file of a version."""
    return sorted(str(path.relative_to(version)) for path in version.rglob("*") if path.is_file())


def test_junk_stays_out(mount: Mount, label: str) -> None:
    """C9: what systems and editors leave is taken and left out, wherever it lies."""
    staging = mount / label / "staging"
    (staging / "d").mkdir()
    for name in (".DS_Store", "._data", "d/.DS_Store", "x.swp", ".nfs0001", "Thumbs.db", "data", "d/kept"):
        (staging / name).write_text(name)
    (staging / ".Trash-1000" / "files").mkdir(parents=True)
    (staging / ".Trash-1000" / "files" / "old").write_text("old")
    assert mount.commit(label)["files"] == 2
    assert names_in(mount / label / "v0") == ["d/kept", "data"]
    assert "7 ignored files left out" in mount.state(label).finished[-1].note


def test_only_junk_makes_no_version(mount: Mount, label: str) -> None:
    """C9, C5: staging with nothing but junk gives no version and is empty afterwards."""
    (mount / label / "staging" / ".DS_Store").write_text("x")
    assert mount.commit(label)["version"] is None
    assert os.listdir(mount / label) == ["staging"]
    assert os.listdir(mount / label / "staging") == []


def test_artifactignore(mount: Mount, label: str) -> None:
    """C9: gitignore's patterns, with negation and directories; the file itself is part of the version."""
    staging = mount / label / "staging"
    (staging / ".artifactignore").write_text("# comment\n*.tmp\n!keep.tmp\n/cache/\n!._kept\n")
    (staging / "cache" / "deep").mkdir(parents=True)
    (staging / "sub" / "cache").mkdir(parents=True)
    for name in ("a.tmp", "keep.tmp", "cache/deep/x", "sub/cache/y", "sub/b.tmp", "._kept", "._left"):
        (staging / name).write_text(name)
    mount.commit(label)
    assert names_in(mount / label / "v0") == ["._kept", ".artifactignore", "keep.tmp", "sub/cache/y"]


def test_force_does_not_wait_for_writers(mount: Mount, label: str) -> None:
    """C10: what is in an open file is committed, what is written later is in the next version."""
    staging = mount / label / "staging"
    (staging / "whole").write_text("whole")
    (staging / "d").mkdir()
    with open(staging / "d" / "log", "w") as log, open(staging / "d" / "log", "a") as second:
        log.write("one\n")
        log.flush()
        assert mount.commit(label, "--force")["version"] == "v0"
        assert names_in(mount / label / "v0") == ["d/log", "whole"]
        assert (mount / label / "v0" / "d" / "log").read_text() == "one\n"
        second.write("two\n")
    assert mount.commit(label)["version"] == "v1"
    assert names_in(mount / label / "v1") == ["d/log"]
    assert (mount / label / "v1" / "d" / "log").read_text() == "one\ntwo\n"
    assert (mount / label / "v0" / "d" / "log").read_text() == "one\n"


def test_retry_after_the_cause_is_gone(mount: Mount, label: str) -> None:
    """C11, C6: a blocked commit is tried again on request, and the files stay readable until then."""
    staging = mount / label / "staging"
    (staging / "link").symlink_to("/etc/hostname")
    mount.expect_warning("it waits for .artifactfs reopen")
    done = artifactfs("commit", mount / label, check=False)
    assert done.returncode == 1
    assert "link" in done.stderr
    eventually(lambda: mount.state(label).pending[0].state is CommitState.BLOCKED)
    with refused(errno.EROFS):
        (mount / label / "pending.1" / "link").unlink()
    done = artifactfs("retry", mount / label / "pending.1")
    assert "trying 1 commit" in done.stdout
    eventually(lambda: mount.state(label).pending[0].attempts == 2)
    eventually(lambda: mount.state(label).pending[0].state is CommitState.BLOCKED)
    artifactfs("discard", mount / label / "pending.1", "--yes")
    done = artifactfs("retry", mount / label, check=False)
    assert done.returncode == 1
    assert "no commit of" in done.stderr


def test_min_free(tmp_path: Path, driver: str) -> None:
    """S10: the room that is to stay free is not written into, and statfs does not count it."""
    room = os.statvfs(tmp_path)
    free_bytes = room.f_bavail * room.f_frsize
    keep = free_bytes - (200 << 20)
    with mounted(tmp_path / "m", driver, "--min-free", str(keep), "--commit-after", "never") as mount:
        staging = mount.make("room/a")
        assert os.statvfs(staging).f_bavail * room.f_frsize <= 220 << 20
        with refused(errno.ENOSPC), open(staging / "big", "wb", buffering=0) as file:
            for _ in range(40):
                file.write(bytes(10 << 20))
        assert (staging / "big").stat().st_size > 20 << 20
        (staging / "big").unlink()
        (staging / "small").write_text("x")


def test_less_than_min_free_is_told(tmp_path: Path, driver: str) -> None:
    """S10: a mount whose staging disk has less room already says so at once, in the status too, and reads."""
    mount = Mount(tmp_path / "m", driver=driver)
    assert mount.mount("--commit-after", "never").stderr == ""
    (mount.make("room/a") / "f").write_text("x")
    mount.commit("room/a")
    mount.umount()
    (told,) = mount.mount("--min-free", "1000T").stderr.splitlines()
    try:
        assert told.startswith("artifactfs: no room to stage: ")
        assert f"the disk of {mount.store}" in told
        # How much is free changes while others use the disk.
        shown = re.escape(told.removeprefix("artifactfs: "))
        assert re.search(re.sub(r"[\d,]+\\ MiB", r"[\\d,]+ MiB", shown), artifactfs("status", mount.path).stdout)
        assert (mount / "room/a/v0/f").read_text() == "x"
        with refused(errno.ENOSPC), open(mount / "room/a/staging/f", "wb", buffering=0) as file:
            file.write(b"x")
    finally:
        assert mount.tear_down() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_it_commits_first(tmp_path: Path, driver: str, number: signal.Signals) -> None:
    """C12: a daemon told to end commits what is staged."""
    with mounted(tmp_path / "m", driver, "--commit-after", "1000") as mount:
        (mount.make("end/a") / "f").write_text("x")
        daemon = mount.daemon
        daemon.send(number)
        assert daemon.wait_gone(20.0)
        assert store.connect(mount.store).list_version_names("a", "end") == ["v0"]
        assert not mount.is_mounted()


def test_now_leaves_everything(tmp_path: Path, driver: str) -> None:
    """C12: umount --now commits nothing and says what it leaves; the next mount has it."""
    with mounted(tmp_path / "m", driver, "--commit-after", "1000") as mount:
        (mount.make("end/a") / "f").write_text("x")
        done = mount.umount("--now")
        assert "end/a staging: 1 file" in done.stderr
        assert store.connect(mount.store).list_collection_names() == []
        mount.mount()
        assert (mount / "end/a/staging/f").read_text() == "x"


def test_holes_are_told(mount: Mount, label: str) -> None:
    """S11: SEEK_DATA and SEEK_HOLE find the data of a sparse file; a version counts as all data."""
    path = mount / label / "staging" / "sparse"
    with open(path, "wb") as file:
        file.truncate(8 << 20)
        file.seek(4 << 20)
        file.write(b"x" * 65536)
    fd = os.open(path, os.O_RDONLY)
    try:
        assert os.lseek(fd, 0, os.SEEK_DATA) == 4 << 20
        assert os.lseek(fd, 4 << 20, os.SEEK_HOLE) == (4 << 20) + 65536
        with refused(errno.ENXIO):
            os.lseek(fd, 9 << 20, os.SEEK_DATA)
    finally:
        os.close(fd)
    mount.commit(label)
    fd = os.open(mount / label / "v0" / "sparse", os.O_RDONLY)
    try:
        assert os.lseek(fd, 0, os.SEEK_DATA) == 0
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 8 << 20
    finally:
        os.close(fd)
