"""A store that does not answer, or says no, under a drive that is in use."""

from __future__ import annotations

import errno
import logging
import time

import pytest

from artifactfs.errors import AccessDenied, StoreFull, StoreTimeout, StoreUnreachable
from mount import committer, control
from mount.control import CommitState
from tests.drives import DirectDrive
from tests.mount.harness import eventually
from tests.scenarios import refused
from tests.vfs.conftest import MakeDrive
from tests.vfs.stores import Gate, Outage

ERRORS = [StoreUnreachable("no route"), StoreTimeout("too slow")]


@pytest.fixture
def outage() -> Outage:
    """Switched on by setting its error."""
    return Outage()


@pytest.fixture
def known(make_drive: MakeDrive, outage: Outage) -> DirectDrive:
    """A drive that has seen c/a@v0, and knows of no other artifact."""
    drive = make_drive(outage)
    drive.mkdir("c")
    drive.mkdir("c/a")
    drive.write("c/a/staging/f", b"bytes")
    drive.write("c/a/staging/large", b"large" * 300_000)
    drive.commit("c/a", aliases=["best"])
    assert drive.contents("c/a/v0").keys() == {"f", "large"}
    assert sorted(drive.listdir("c/a")) == ["best", "latest", "staging", "v0"]
    assert drive.listdir("c") == ["a"]
    assert drive.listdir("") == ["c"]
    return drive


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_what_is_known_stays(known: DirectDrive, outage: Outage, error: Exception) -> None:
    """O1: known listings and loaded versions go on working, local bytes and new staging included."""
    outage.error = error
    assert known.listdir("") == ["c"]
    assert known.listdir("c") == ["a"]
    assert sorted(known.listdir("c/a")) == ["best", "latest", "staging", "v0"]
    assert known.read("c/a/latest/f") == b"bytes"
    assert known.readlink("c/a/best") == "v0"
    known.write("c/a/staging/g", b"new")
    assert known.read("c/a/staging/g") == b"new"
    assert not known.status().reachable
    outage.error = None
    assert known.listdir("") == ["c"]
    assert known.status().reachable


def test_the_unknown_is_an_error(make_drive: MakeDrive, known: DirectDrive, outage: Outage) -> None:
    """O1: what was never asked is EIO: neither an empty directory nor a missing file."""
    outage.error = StoreUnreachable("no route")
    with known.another() as fresh:
        for path in ("", "c", "c/a"):
            with refused(errno.EIO):
                fresh.listdir(path)
        with refused(errno.EIO):
            fresh.lstat("c/a/v0/f")
        outage.error = None
        assert fresh.read("c/a/v0/f") == b"bytes"


def test_an_unread_version_in_an_outage(known: DirectDrive, outage: Outage) -> None:
    """O1: a version that is listed but was never looked into is EIO, and readable afterwards."""
    known.write("c/a/staging/f", b"other")
    known.commit("c/a")
    with known.another() as fresh:
        assert "v1" in fresh.listdir("c/a")
        outage.error = StoreUnreachable("no route")
        with refused(errno.EIO):
            fresh.listdir("c/a/v1")
        outage.error = None
        assert fresh.contents("c/a/v1") == {"f": b"other"}


def test_one_warning_for_an_outage(known: DirectDrive, outage: Outage, caplog: pytest.LogCaptureFixture) -> None:
    """O1: the log says once that the store is gone and once that it is back."""
    caplog.set_level(logging.INFO, "mount.listing")
    outage.error = StoreUnreachable("no route")
    for _ in range(5):
        known.listdir("c")
    outage.error = None
    for _ in range(3):
        known.listdir("c")
    messages = [record.getMessage() for record in caplog.records if record.name == "mount.listing"]
    assert [("does not answer" in m, "answers again" in m) for m in messages] == [(True, False), (False, True)]


@pytest.mark.parametrize("error", [*ERRORS, StoreFull("quota"), OSError(errno.EIO, "disk")])
def test_passing_failures_are_tried_again(
    make_drive: MakeDrive, outage: Outage, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C6: a commit that fails for now is shown as retrying, with the reason, and made once when it can be."""
    monkeypatch.setattr(committer, "FIRST_RETRY_S", 0.05)
    outage.only = {"commit_tree"}
    drive = make_drive(outage)
    drive.mkdir("c")
    drive.mkdir("c/a")
    drive.write("c/a/staging/f", b"x")
    outage.error = error
    drive.seal("c/a")
    pending = eventually(
        lambda: next(
            (p for p in drive.state("c/a").pending if p.state is CommitState.RETRYING and p.attempts > 1), None
        )
    )
    assert pending.error == error.args[-1]
    assert pending.next_retry is not None
    assert drive.read("c/a/pending.1/f") == b"x"
    outage.error = None
    eventually(lambda: drive.versions("c/a") == ["v0"])
    eventually(lambda: drive.is_idle("c/a"))


@pytest.mark.parametrize("days", [-2, 2])
def test_a_clock_that_is_set_does_not_move_the_next_try(
    make_drive: MakeDrive, outage: Outage, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    """C6: a commit that waits for its next try is made when the store is back, whatever the wall clock says by then."""
    monkeypatch.setattr(committer, "FIRST_RETRY_S", 0.2)
    monkeypatch.setattr(committer, "LONGEST_RETRY_S", 0.2)
    outage.only = {"commit_tree"}
    drive = make_drive(outage)
    drive.mkdir("c")
    drive.mkdir("c/a")
    drive.write("c/a/staging/f", b"x")
    outage.error = StoreUnreachable("no route")
    drive.seal("c/a")
    eventually(lambda: drive.state("c/a").pending[0].state is CommitState.RETRYING)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + days * 86_400)
    tried = drive.state("c/a").pending[0].attempts
    eventually(lambda: drive.state("c/a").pending[0].attempts > tried + 1)
    waiting = eventually(lambda: next((p for p in drive.state("c/a").pending if p.next_retry is not None), None))
    assert waiting.next_retry is not None
    assert waiting.next_retry - time.time() <= 0.2
    outage.error = None
    eventually(lambda: drive.versions("c/a") == ["v0"])


def test_lasting_failures_wait(make_drive: MakeDrive, outage: Outage) -> None:
    """C6, C11: without permission a commit is blocked, until somebody asks for another try."""
    outage.only = {"commit_tree"}
    drive = make_drive(outage)
    drive.mkdir("c")
    drive.mkdir("c/a")
    drive.write("c/a/staging/f", b"x")
    outage.error = AccessDenied("no")
    drive.seal("c/a")
    eventually(lambda: drive.state("c/a").pending[0].state is CommitState.BLOCKED)
    outage.error = None
    assert drive.versions("c/a") == []
    drive.setxattr("c/a/pending.1", control.RETRY, b"1")
    eventually(lambda: drive.versions("c/a") == ["v0"])


def test_a_commit_that_cannot_be_read_back(make_drive: MakeDrive, outage: Outage) -> None:
    """C7: staged files are deleted only after the version was read back; then it is one version all the same."""
    outage.only = {"manifest"}
    drive = make_drive(outage)
    drive.mkdir("c")
    drive.mkdir("c/a")
    drive.write("c/a/staging/f", b"x")
    outage.error = AccessDenied("no")
    drive.seal("c/a")
    eventually(lambda: drive.state("c/a").pending[0].state is CommitState.BLOCKED)
    assert drive.read("c/a/pending.1/f") == b"x"
    outage.error = None
    drive.setxattr("c/a/pending.1", control.RETRY, b"1")
    eventually(lambda: drive.is_idle("c/a"))
    assert drive.versions("c/a") == ["v0"]


def test_writers_do_not_wait_for_a_commit(make_drive: MakeDrive) -> None:
    """C3, C6: while a commit hangs, staging works, later trees queue behind it and other artifacts are committed."""
    gate = Gate("commit_tree")
    drive = make_drive(gate)
    drive.mkdir("c")
    drive.mkdir("c/a")
    ids = []
    for number in range(3):
        drive.write("c/a/staging/f", str(number).encode())
        ids.append(drive.seal("c/a"))
    assert gate.reached.wait(60)
    assert sorted(drive.listdir("c/a")) == ["pending.1", "pending.2", "pending.3", "staging"]
    assert [p.state for p in drive.state("c/a").pending] == [
        CommitState.COMMITTING,
        CommitState.SEALED,
        CommitState.SEALED,
    ]
    with refused(errno.EBUSY):
        drive.setxattr("c/a/pending.1", control.DISCARD, b"1")
    drive.write("c/a/staging/f", b"still writable")
    gate.open()
    assert [drive.wait_for("c/a", each).version for each in ids] == ["v0", "v1", "v2"]
    assert [drive.read(f"c/a/v{number}/f") for number in range(3)] == [b"0", b"1", b"2"]
    assert drive.contents("c/a/staging") == {"f": b"still writable"}
