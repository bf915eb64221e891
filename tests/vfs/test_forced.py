"""Forced commits in the corners: names that are gone, a disk that is full, the daemon killed between two steps."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mount import control, disk
from tests.drives import DirectDrive
from tests.mount.harness import eventually
from tests.scenarios import refused
from tests.vfs.conftest import MakeDrive

FORCED = control.encode(control.CommitRequest(force=True))
TOP = "c/a/staging"


@pytest.fixture
def drive(make_drive: MakeDrive) -> DirectDrive:
    """With an artifact."""
    made = make_drive()
    made.mkdir("c")
    made.mkdir("c/a")
    return made


def test_the_name_it_was_opened_by_is_gone(drive: DirectDrive) -> None:
    """C2, S6: an open file goes on under the name that it still has."""
    with drive.open(f"{TOP}/a", os.O_RDWR | os.O_CREAT) as file:
        file.write(b"one", 0)
        drive.link(f"{TOP}/a", f"{TOP}/b")
        drive.unlink(f"{TOP}/a")
        drive.setxattr(TOP, control.COMMIT, FORCED)
        eventually(lambda: drive.versions("c/a") == ["v0"])
        file.write(b"two", 3)
    assert drive.contents("c/a/v0") == {"b": b"one"}
    assert drive.contents(TOP) == {"b": b"onetwo"}


def test_a_disk_without_room_for_the_copies(drive: DirectDrive, monkeypatch: pytest.MonkeyPatch) -> None:
    """C2: a forced commit that cannot copy what is open is ENOSPC and has changed nothing."""
    copy = disk.copy

    def full(source: str, target: str) -> None:
        Path(target).write_bytes(b"par")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target)

    drive.write(f"{TOP}/closed", b"closed")
    with drive.open(f"{TOP}/f", os.O_RDWR | os.O_CREAT) as file:
        file.write(b"partial no more", 0)
        monkeypatch.setattr(disk, "copy", full)
        with refused(errno.ENOSPC):
            drive.setxattr(TOP, control.COMMIT, FORCED)
        assert drive.state("c/a").pending == []
        assert drive.contents(TOP) == {"closed": b"closed", "f": b"partial no more"}
        monkeypatch.setattr(disk, "copy", copy)
        drive.setxattr(TOP, control.COMMIT, FORCED)
        eventually(lambda: drive.versions("c/a") == ["v0"])
        file.write(b"P", 0)
    assert drive.contents("c/a/v0") == {"closed": b"closed", "f": b"partial no more"}
    assert drive.contents(TOP) == {"f": b"Partial no more"}
    assert drive.area is not None
    own = drive.area.root / "artifacts/c/a"
    eventually(lambda: os.listdir(own) == ["staging"])
