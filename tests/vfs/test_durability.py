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
from mount import area, control
from mount.disk import RENAME_EXCHANGE, RENAME_NOREPLACE
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


def held(drive: DirectDrive, label: str) -> control.Hold | None:
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
    hold = held(drive, "c/a")
    assert hold is not None
    assert hold.lost
    assert hold.why == "the staging disk did not keep all of it: Input/output error"
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
    hold = held(drive, "c/a")
    assert hold is not None
    assert hold.lost
    assert hold.why == "the staging disk did not keep all of it: Input/output error"
    if way == "discard":
        drive.setxattr(top, control.DISCARD, b"1")
    else:
        drive.unlink(f"{top}/f")
        assert drive.area is not None
        eventually(lambda: drive.area is not None and not drive.area.active())
    drive.write(f"{top}/f", b"new")
    eventually(lambda: drive.versions("c/a") == ["v0"])
    assert drive.contents("c/a/v0") == {"f": b"new"}


def in_the_trash(drive: DirectDrive) -> str:
    drive.mkdir(".Trash-7", 0o700)
    drive.mkdir(".Trash-7/files")
    return ".Trash-7/files"


def lose(drive: DirectDrive, disk: FailingDisk) -> None:
    disk.armed = True
    with refused(errno.EIO):
        drive.vfs.sync()


@pytest.mark.parametrize("what", ["file", "directory", "exchange", "lost in the trash", "into another artifact"])
def test_a_hold_goes_to_the_trash_and_back(
    make: Callable[[], DirectDrive], disk: FailingDisk, tmp_path: Path, what: str
) -> None:
    """S12, S16: what is deleted by moving it to the trash and taken back is held as before, over remounts too."""
    settings = MountSettings(
        str(tmp_path / "store"), tmp_path / "mnt", commit_after_s=0.1, state_dir=tmp_path / "state", min_free_bytes=0
    )
    with DirectDrive(artifactfs.connect(settings.url), settings) as drive:
        top, trash = artifact(drive, "c/a"), in_the_trash(drive)
        into = artifact(drive, "c/b") if what == "into another artifact" else top
        drive.mkdir(f"{top}/d") if what == "directory" else None
        drive.write(f"{top}/d/f" if what == "directory" else f"{top}/f", b"lost")
        name = "d" if what == "directory" else "f"
        if what == "exchange":
            drive.write(f"{trash}/f", b"other")
        if what != "lost in the trash":
            lose(drive, disk)
        drive.rename(f"{top}/{name}", f"{trash}/{name}", RENAME_EXCHANGE if what == "exchange" else 0)
        if what == "lost in the trash":
            lose(drive, disk)
        if what == "exchange":
            drive.unlink(f"{top}/f")
        assert drive.area is not None
        eventually(lambda: drive.area is not None and not drive.area.active())
        drive.rename(f"{trash}/{name}", f"{into}/{name}")
        label = into.removesuffix("/staging")
        for request in (COMMIT, FORCED):
            with refused(errno.EIO):
                drive.setxattr(into, control.COMMIT, request)
    drive = make()
    hold = held(drive, label)
    assert hold is not None
    assert hold.lost
    assert hold.why == "the staging disk did not keep all of it: Input/output error"
    drive.write(f"{artifact(drive, 'c/late')}/f", b"fine")
    eventually(lambda: drive.versions("c/late") == ["v0"])
    assert drive.versions(label) == []
    drive.unlink(f"{into}/f") if name == "f" else drive.setxattr(into, control.DISCARD, b"1")
    eventually(lambda: drive.area is not None and not drive.area.active())
    drive.write(f"{into}/f", b"new")
    eventually(lambda: drive.versions(label) == ["v0"])


def test_a_rename_that_fails_holds_nothing(make_drive: MakeDrive, disk: FailingDisk, tmp_path: Path) -> None:
    """S12: only what came from where bytes were lost; nor is the way of what came from elsewhere closed."""
    drive = make_drive()
    top, other, trash = artifact(drive, "c/a"), artifact(drive, "c/b"), in_the_trash(drive)
    drive.write(f"{top}/f", b"lost")
    lose(drive, disk)
    drive.rename(f"{top}/f", f"{trash}/f")
    drive.write(f"{other}/f", b"fine")
    with refused(errno.EEXIST):
        drive.rename(f"{trash}/f", f"{other}/f", RENAME_NOREPLACE)
    assert held(drive, "c/b") is None
    assert not list((tmp_path / "store/staging").glob("*/artifacts/c/b/held"))
    drive.setxattr(other, control.COMMIT, COMMIT)
    eventually(lambda: drive.versions("c/b") == ["v0"])


def test_leftovers_in_the_trash_are_held(make_drive: MakeDrive, monkeypatch: pytest.MonkeyPatch) -> None:
    """S12, S16: an earlier mount could not empty it, and nobody knows any more whether it was whole."""
    drive = make_drive()
    trash = in_the_trash(drive)
    drive.write(f"{trash}/f", b"x")
    with monkeypatch.context() as patch:
        patch.setattr(area, "remove_tree", failing)
        drive.close()
        drive = make_drive(commit_after_s=0.1)
    drive.rename(f"{trash}/f", f"{artifact(drive, 'c/a')}/f")
    hold = held(drive, "c/a")
    assert hold is not None
    assert hold.lost


def failing(*_: object) -> None:
    raise OSError(*LOST.args)


def test_a_file_is_held_where_it_lies_when_its_sync_fails(make: Callable[[], DirectDrive], disk: FailingDisk) -> None:
    """S12, S16: it was opened before it was moved to the trash."""
    drive = make()
    top, trash = artifact(drive, "c/a"), in_the_trash(drive)
    with drive.open(f"{top}/f", os.O_RDWR | os.O_CREAT) as file:
        file.write(b"lost", 0)
        drive.rename(f"{top}/f", f"{trash}/f")
        disk.armed = True
        with refused(errno.EIO):
            file.fsync()
    drive.rename(f"{trash}/f", f"{top}/f")
    hold = held(drive, "c/a")
    assert hold is not None
    assert hold.lost


def test_a_file_stays_open_for_writing_where_it_lies(make_drive: MakeDrive) -> None:
    """C2, S16: it was opened in another artifact, and is not sealed before it is closed."""
    drive = make_drive()
    top, other, trash = artifact(drive, "c/a"), artifact(drive, "c/b"), in_the_trash(drive)
    with drive.open(f"{top}/f", os.O_RDWR | os.O_CREAT) as file:
        file.write(b"before", 0)
        drive.rename(f"{top}/f", f"{trash}/f")
        drive.rename(f"{trash}/f", f"{other}/f")
        with refused(errno.EBUSY):
            drive.setxattr(other, control.COMMIT, COMMIT)
        file.write(b"after!", 0)
    drive.setxattr(other, control.COMMIT, COMMIT)
    eventually(lambda: drive.versions("c/b") == ["v0"])
    assert drive.contents("c/b/v0") == {"f": b"after!"}


@pytest.fixture
def lose_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[DirectDrive], None]:
    """Close a drive as a loss of power does: the mark of its boot stays, and the machine comes up anew."""
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("first\n")
    monkeypatch.setattr(area, "_KERNELS_BOOT", boot_id)

    def lose(drive: DirectDrive) -> None:
        assert drive.area is not None
        mark = drive.area.root / "boot"
        assert mark.read_text() == boot_id.read_text()
        drive.close()
        assert not mark.exists()
        mark.write_text(boot_id.read_text())
        boot_id.write_text("second\n")

    return lose


def test_staged_when_the_machine_went_down_is_committed_on_request_only(
    make_drive: MakeDrive, lose_power: Callable[[DirectDrive], None]
) -> None:
    """S13: it may be there in part. The hold lasts over remounts; what is staged after the commit is not concerned."""
    drive = make_drive()
    top = artifact(drive, "c/a")
    drive.write(f"{top}/f", b"x")
    lose_power(drive)
    make_drive(commit_after_s=0.1).close()
    drive = make_drive(commit_after_s=0.1)
    # Whatever is written to it now does not make it whole.
    drive.write(f"{top}/g", b"y")
    drive.write(f"{artifact(drive, 'c/b')}/f", b"fine")
    eventually(lambda: drive.versions("c/b") == ["v0"])
    hold = held(drive, "c/a")
    assert hold is not None
    assert not hold.lost
    assert hold.why == "the machine went down before all of it was on disk"
    assert drive.versions("c/a") == []
    drive.setxattr(top, control.COMMIT, COMMIT)
    eventually(lambda: drive.versions("c/a") == ["v0"])
    drive.write(f"{top}/f", b"z")
    eventually(lambda: drive.versions("c/a") == ["v0", "v1"])


@pytest.mark.parametrize("state", ["sealed", "nothing staged", "filled from a version and left so"])
def test_what_a_loss_of_power_does_not_harm_is_not_held(
    make_drive: MakeDrive, lose_power: Callable[[DirectDrive], None], state: str
) -> None:
    """S13: what was sealed is whole."""
    drive = make_drive()
    top = artifact(drive, "c/a")
    drive.write(f"{top}/f", b"x")
    if state == "sealed":
        assert drive.area is not None
        assert drive.committer is not None
        drive.committer.stop(0)
    drive.setxattr(top, control.COMMIT, COMMIT)
    if state != "sealed":
        eventually(lambda: drive.versions("c/a") == ["v0"])
    if state.startswith("filled"):
        drive.setxattr(top, control.STAGE, b"v0")
    lose_power(drive)
    drive = make_drive(commit_after_s=0.1)
    eventually(lambda: drive.versions("c/a") == ["v0"])
    assert held(drive, "c/a") is None


def test_an_orderly_end_holds_nothing(make_drive: MakeDrive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """S13: what it leaves staged is on disk, and another boot may commit it."""
    drive = make_drive()
    drive.write(f"{artifact(drive, 'c/a')}/f", b"x")
    drive.close()
    (tmp_path / "boot_id").write_text("another\n")
    monkeypatch.setattr(area, "_KERNELS_BOOT", tmp_path / "boot_id")
    drive = make_drive(commit_after_s=0.1)
    eventually(lambda: drive.versions("c/a") == ["v0"])


def test_an_end_that_cannot_put_staged_files_on_disk_holds_them(make_drive: MakeDrive, disk: FailingDisk) -> None:
    """S12: also when nobody is left to be told."""
    drive = make_drive()
    drive.write(f"{artifact(drive, 'c/a')}/f", b"x")
    disk.armed = True
    drive.close()
    hold = held(make_drive(), "c/a")
    assert hold is not None
    assert hold.lost


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
