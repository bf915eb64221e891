"""What is staged is on disk before a name or a mark vouches for it, and a sync that failed is not forgotten."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import artifactfs
from artifactfs import durable
from mount import control
from mount.references import Reference, reference_of
from mount.settings import MountSettings
from tests.drives import DirectDrive
from tests.mount.harness import eventually
from tests.scenarios import refused
from tests.vfs.conftest import MakeDrive

TOP = "c/a/staging"
COMMIT = control.encode(control.CommitRequest())
FORCED = control.encode(control.CommitRequest(force=True))
LOST = OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture
def make(make_drive: MakeDrive) -> Callable[[], DirectDrive]:
    """Drives that commit almost at once."""
    return lambda: make_drive(commit_after_s=0.1)


def artifact(drive: DirectDrive, label: str) -> str:
    if not drive.exists(label.partition("/")[0]):
        drive.mkdir(label.partition("/")[0])
    drive.mkdir(label)
    return f"{label}/staging"


class FailingDisk:
    """Tells of lost bytes when it is armed, once, as the kernel does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told = 0
        self.armed = False
        for place, name in ((durable, "sync_filesystem"), (os, "fsync"), (os, "fdatasync")):
            monkeypatch.setattr(place, name, self._failing(getattr(place, name)))

    def _failing(self, sync: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            if self.armed:
                self.armed = False
                self.told += 1
                raise OSError(*LOST.args)
            return sync(*arguments)

        return call


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FailingDisk:
    """The disk below the drive."""
    return FailingDisk(monkeypatch)


def held(drive: DirectDrive, label: str) -> str | None:
    staged = drive.state(label).staged
    return staged.held if staged else None


@pytest.mark.parametrize("tell", ["fsync of a file", "sync of the drive"])
def test_lost_bytes_are_never_committed(make: Callable[[], DirectDrive], disk: FailingDisk, tell: str) -> None:
    """S12: a program was told that bytes are lost; a later sync succeeds, and still nothing of it is committed."""
    drive = make()
    top = artifact(drive, "c/a")
    with drive.open(f"{top}/f", os.O_RDWR | os.O_CREAT) as file:
        file.write(b"lost", 0)
        disk.armed = True
        with refused(errno.EIO):
            file.fsync() if tell == "fsync of a file" else drive.vfs.sync()
        file.fsync()
    assert disk.told == 1
    for request in (COMMIT, FORCED):
        with refused(errno.EIO):
            drive.setxattr(top, control.COMMIT, request)
    assert held(drive, "c/a") == "Input/output error"
    # Others go on, and the automatic commit of this one would have come before theirs.
    drive.write(f"{artifact(drive, 'c/b')}/g", b"fine")
    eventually(lambda: drive.versions("c/b") == ["v0"])
    assert drive.versions("c/a") == []
    assert drive.contents(top) == {"f": b"lost"}


def test_a_seal_that_is_told_holds_everything_staged(make_drive: MakeDrive, disk: FailingDisk) -> None:
    """S12: which files were lost, a sync of the disk does not tell; what is staged later is not concerned."""
    drive = make_drive()
    for label in ("c/a", "c/b"):
        drive.write(f"{artifact(drive, label)}/f", b"x")
    drive.setxattr("c/a/staging", control.COMMIT, COMMIT)
    eventually(lambda: drive.versions("c/a") == ["v0"])
    artifact(drive, "c/late")
    drive.write("c/a/staging/f", b"y")
    disk.armed = True
    with refused(errno.EIO):
        drive.vfs.sync()
    assert held(drive, "c/a")
    assert held(drive, "c/b")
    drive.write("c/late/staging/f", b"z")
    drive.setxattr("c/late/staging", control.COMMIT, COMMIT)
    eventually(lambda: drive.versions("c/late") == ["v0"])


@pytest.mark.parametrize("way", ["discard", "remove"])
def test_a_hold_ends(make: Callable[[], DirectDrive], disk: FailingDisk, tmp_path: Path, way: str) -> None:
    """S12: it lasts over remounts, and until nothing is left of what was staged."""
    settings = MountSettings(
        str(tmp_path / "store"), tmp_path / "mnt", commit_after_s=0.1, state_dir=tmp_path / "state", min_free_bytes=0
    )
    with DirectDrive(artifactfs.connect(settings.url), settings) as drive:
        top = artifact(drive, "c/a")
        drive.write(f"{top}/f", b"x")
        disk.armed = True
        with refused(errno.EIO):
            drive.vfs.sync()
    drive = make()
    assert held(drive, "c/a") == "Input/output error"
    if way == "discard":
        drive.setxattr(top, control.DISCARD, b"1")
    else:
        drive.unlink(f"{top}/f")
        assert drive.area is not None
        eventually(lambda: drive.area is not None and not drive.area.active())
    drive.write(f"{top}/f", b"new")
    eventually(lambda: drive.versions("c/a") == ["v0"])
    assert drive.contents("c/a/v0") == {"f": b"new"}


def test_sealed_after_the_last_change(make_drive: MakeDrive, monkeypatch: pytest.MonkeyPatch) -> None:
    """S2: however often something changes while the disk is synced, a sync begins after the last change."""
    drive = make_drive()
    top = artifact(drive, "c/a")
    drive.write(f"{top}/f", b"x")
    began: list[int] = []
    changed: list[int] = []
    sync = durable.sync_filesystem

    def slow(where: int | str) -> bool:
        began.append(time.monotonic_ns())
        done = sync(where)
        if len(began) <= 3:
            drive.chmod(f"{top}/f", 0o600 + len(began))
            changed.append(time.monotonic_ns())
            time.sleep(0.06)  # as a disk that takes longer than what counts as quiet
        return done

    monkeypatch.setattr(durable, "sync_filesystem", slow)
    drive.setxattr(top, control.COMMIT, COMMIT)
    eventually(lambda: drive.versions("c/a") == ["v0"])
    assert began[-1] > changed[-1]


def test_a_reference_is_marked_before_it_has_its_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S9: killed between the two steps, a file is empty and refers to nothing; it is never full of zeros."""

    def killed(fd: int, size_bytes: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "ftruncate", killed)
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    try:
        with pytest.raises(KeyboardInterrupt):
            Reference("c", "a", "v0", "f", 1000, "blake3", None, "object", 0).attach(fd)
        assert os.fstat(fd).st_size == 0
        assert reference_of(fd, 0) is None
    finally:
        os.close(fd)
