"""A commit on request and a save that goes on: what was changed a moment ago is not sealed."""

from __future__ import annotations

import time

import pytest

from mount import control
from mount.control import CommitRequest
from mount.errors import Busy
from mount.staging import SETTLE_S
from tests.drives import DirectDrive
from tests.vfs.conftest import MakeDrive

TOP = "c/a/staging"
FORCED = control.encode(CommitRequest(force=True))


@pytest.fixture
def drive(make_drive: MakeDrive) -> DirectDrive:
    """With an artifact."""
    made = make_drive()
    made.mkdir("c")
    made.mkdir("c/a")
    return made


def test_a_seal_comes_a_moment_after_the_last_change(drive: DirectDrive) -> None:
    """C2: nothing has changed for a moment when staging is sealed, unless the commit is forced."""
    drive.write(f"{TOP}/f", b"1")
    changed = time.monotonic()
    drive.seal("c/a")
    assert time.monotonic() - changed > SETTLE_S * 0.9
    assert drive.area is not None
    staging = drive.area.artifact("c", "a")
    drive.write(f"{TOP}/f", b"2")
    staging.staged.last_change_ns = time.monotonic_ns() + 60_000_000_000
    with pytest.raises(Busy, match="is being changed"):
        staging.seal(CommitRequest())
    drive.setxattr(TOP, control.COMMIT, FORCED)
    assert drive.contents(TOP) == {}
