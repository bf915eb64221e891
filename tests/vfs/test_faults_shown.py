"""Threads that must live live on, one artifact's fault costs no other, and the status tells of every fault."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from mount import control, faults, states
from mount.control import CommitState
from mount.disk import rename
from mount.faults import Faults, keep_alive
from mount.staged_tree import StagedTree
from tests.drives import DirectDrive
from tests.mount.harness import eventually
from tests.scenarios import refused
from tests.vfs.conftest import MakeDrive

# <fcntl.h>, <linux/fs.h>
AT_FDCWD = -100
RENAME_EXCHANGE = 2


@pytest.fixture(autouse=True)
def restarts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for a second."""
    monkeypatch.setattr(faults, "RESTART_S", 0.01)
    monkeypatch.setattr("mount.committer._LOOK_AGAIN_S", 0.05)


def make(drive: DirectDrive, *labels: str) -> None:
    """Artifacts with a staged file each."""
    for label in labels:
        collection = label.partition("/")[0]
        if not drive.exists(collection):
            drive.mkdir(collection)
        drive.mkdir(label)
        drive.write(f"{label}/staging/f", label.encode())


def on_disk(drive: DirectDrive, label: str) -> Path:
    """Where an artifact lies in the staging area."""
    assert drive.area is not None
    return drive.area.root / "artifacts" / label


def swap(directory: Path) -> None:
    """Make a directory one that gives errors to root too, or undo that; it is never missing meanwhile."""
    other = directory.with_name("other")
    if not other.exists():
        other.write_bytes(b"no directory")
    rename(AT_FDCWD, str(directory), AT_FDCWD, str(other), RENAME_EXCHANGE)


def errors(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    """What the log says of it at level ERROR."""
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR and text in r.getMessage()]


def test_a_thread_that_must_live(caplog: pytest.LogCaptureFixture) -> None:
    """It is run again after whatever it dies of; the fault is shown meanwhile, and logged once for each reason."""
    found, attempts, may_go_on = Faults(), itertools.count(), threading.Event()

    def body() -> None:
        number = next(attempts)
        if number < 5:
            raise (OSError(24, "Too many open files"), ZeroDivisionError("a defect"))[number >= 3]
        assert may_go_on.wait(60)
        found.clear("it")

    thread = keep_alive("it", body, found)
    eventually(lambda: found.present() == ["it: a defect"])
    may_go_on.set()
    thread.join(60)
    assert not thread.is_alive()
    assert found.present() == []
    assert errors(caplog, "it: ") == ["it: Too many open files", "it: a defect"]


def test_an_artifact_that_cannot_be_looked_at(make_drive: MakeDrive, caplog: pytest.LogCaptureFixture) -> None:
    """C14: it costs no other artifact, is shown with the drive's own path, and is committed when that is over."""
    drive = make_drive(commit_after_s=1.0)
    make(drive, "c/odd")
    swap(on_disk(drive, "c/odd") / "staging")
    [fault] = eventually(lambda: drive.status().faults)
    assert fault == f"c/odd: Not a directory: {drive.settings.mountpoint}/c/odd/staging"
    make(drive, "c/other")
    eventually(lambda: drive.versions("c/other") == ["v0"])
    eventually(lambda: drive.is_idle("c/other"))
    [shown] = drive.status().artifacts
    assert (shown.artifact, shown.problem) == ("odd", fault.partition(": ")[2])
    assert drive.state("c/odd").problem == shown.problem
    swap(on_disk(drive, "c/odd") / "staging")
    eventually(lambda: drive.versions("c/odd") == ["v0"])
    eventually(lambda: not drive.status().faults)
    assert errors(caplog, "c/odd") == [fault]


def test_it_costs_no_drain_either(make_drive: MakeDrive) -> None:
    """C12, C14: at the end of the daemon the others are committed."""
    drive = make_drive(commit_after_s=100.0)
    make(drive, "c/odd", "c/other")
    swap(on_disk(drive, "c/odd") / "staging")
    assert drive.committer is not None
    assert drive.committer.drain(20.0, give_up=lambda: False) == ["c/odd"]
    assert drive.versions("c/other") == ["v0"]


def test_leftovers_that_cannot_be_read(make_drive: MakeDrive) -> None:
    """C8, C14: the mount is made all the same, and what was left is committed once it can be read."""
    drive = make_drive()
    assert drive.committer is not None
    drive.committer.stop(60)
    make(drive, "c/odd", "c/other")
    for label in ("c/odd", "c/other"):
        drive.seal(label)
    record = on_disk(drive, "c/odd") / "pending.1/commit.json"
    assert drive.area is not None
    drive.area.close()
    drive.area = None
    saved = record.read_bytes()
    record.unlink()
    record.mkdir()
    again = make_drive()
    eventually(lambda: again.versions("c/other") == ["v0"])
    [fault] = eventually(lambda: again.status().faults)
    assert fault == f"c/odd: Is a directory: {again.settings.mountpoint}/c/odd/pending.1/commit.json"
    assert again.versions("c/odd") == []
    record.rmdir()
    record.write_bytes(saved)
    eventually(lambda: again.versions("c/odd") == ["v0"])
    assert again.read("c/odd/v0/f") == b"c/odd"
    eventually(lambda: not again.status().faults)


def test_staged_leftovers_that_cannot_be_read(make_drive: MakeDrive, monkeypatch: pytest.MonkeyPatch) -> None:
    """C8, C14: what an earlier daemon left staged is found when its directory can be read again."""
    drive = make_drive()
    make(drive, "c/odd")
    assert drive.area is not None
    drive.area.close()
    drive.area = None
    is_empty, is_sick = StagedTree.is_empty, threading.Event()
    is_sick.set()

    def fail_for_a_while(tree: StagedTree) -> bool:
        if is_sick.is_set():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return is_empty(tree)

    monkeypatch.setattr(StagedTree, "is_empty", fail_for_a_while)
    again = make_drive(commit_after_s=0.1)
    eventually(lambda: again.status().faults == ["c/odd: Input/output error"])
    is_sick.clear()
    eventually(lambda: again.versions("c/odd") == ["v0"])


def test_what_cannot_be_sealed(make_drive: MakeDrive, caplog: pytest.LogCaptureFixture) -> None:
    """C14: tried again until it works; the reason is shown, and logged once."""
    drive = make_drive(commit_after_s=0.1)
    drive.mkdir("c")
    drive.mkdir("c/a")
    (on_disk(drive, "c/a") / "pending.1").write_bytes(b"in the way")
    drive.write("c/a/staging/f", b"x")
    [state] = eventually(lambda: [s for s in drive.status().artifacts if s.problem])
    assert state.problem == f"File exists: {drive.settings.mountpoint}/c/a/pending.1"
    eventually(lambda: drive.status().faults == [f"sealing c/a: {state.problem}"])
    (on_disk(drive, "c/a") / "pending.1").unlink()
    eventually(lambda: drive.versions("c/a") == ["v0"])
    eventually(lambda: not drive.status().faults)
    assert len(errors(caplog, "sealing c/a")) == 1


def test_no_more_threads(make_drive: MakeDrive, monkeypatch: pytest.MonkeyPatch) -> None:
    """C14: a system that gives no threads for a while delays commits and status, and loses none."""
    drive = make_drive(commit_after_s=0.1)
    start, limit = threading.Thread.start, threading.Event()

    def start_if_there_is_room(thread: threading.Thread) -> None:
        if thread.name.startswith(("commit ", "status")) and not limit.is_set():
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_if_there_is_room)
    make(drive, "c/a")
    eventually(lambda: any(fault.startswith("starting commits: ") for fault in drive.status().faults))
    [shown] = drive.status().artifacts
    assert (shown.artifact, bool(shown.problem)) == ("a", True)
    limit.set()
    eventually(lambda: drive.versions("c/a") == ["v0"])
    eventually(lambda: not drive.status().faults)


def test_a_scheduler_that_fails(make_drive: MakeDrive, monkeypatch: pytest.MonkeyPatch) -> None:
    """C14: whatever it fails of, it goes on."""
    drive = make_drive(commit_after_s=0.1)
    assert drive.area is not None
    active, failures = drive.area.active, itertools.count()

    def fail_for_a_while() -> Any:
        if threading.current_thread().name == "committer" and next(failures) < 5:
            raise ZeroDivisionError("a defect")
        return active()

    monkeypatch.setattr(drive.area, "active", fail_for_a_while)
    make(drive, "c/a")
    eventually(lambda: drive.versions("c/a") == ["v0"])
    eventually(lambda: not drive.status().faults)
    assert next(failures) >= 5


def test_status_while_the_disk_hangs(make_drive: MakeDrive, monkeypatch: pytest.MonkeyPatch) -> None:
    """C15: the status answers in time, says what it could not look at, and is right again afterwards."""
    monkeypatch.setattr(states, "WAIT_S", 0.3)
    drive = make_drive()
    make(drive, "c/a", "c/b")
    assert [state.staged and state.staged.files for state in drive.status().artifacts] == [1, 1]
    usage, released = StagedTree.usage, threading.Event()

    def hang(tree: StagedTree) -> tuple[int, int]:
        assert released.wait(60)
        return usage(tree)

    monkeypatch.setattr(StagedTree, "usage", hang)
    drive.write("c/b/staging/more", b"x")
    for _ in range(3):
        a, b = drive.status().artifacts
        assert a.staged is not None
        assert b.staged is not None
        assert (a.staged.files, b.staged.files) == (1, 1)
        assert a.problem == b.problem == "what is staged is still being looked at"
    assert sum(thread.name == "status" for thread in threading.enumerate()) == 1
    released.set()

    def shown() -> list[tuple[int, str | None]]:
        return [(state.staged.files, state.problem) for state in drive.status().artifacts if state.staged]

    eventually(lambda: shown() == [(1, None), (2, None)])


def test_a_sealed_tree_that_vanished(make_drive: MakeDrive) -> None:
    """C14: what the disk has lost costs no other artifact."""
    drive = make_drive()
    assert drive.committer is not None
    make(drive, "c/odd", "c/other")
    drive.symlink("/outside", "c/odd/staging/link")
    drive.seal("c/odd")
    eventually(lambda: drive.state("c/odd").pending[0].state is CommitState.BLOCKED)
    shutil.rmtree(on_disk(drive, "c/odd"))
    drive.commit("c/other")
    eventually(lambda: drive.is_idle("c/other"))
    assert [state.artifact for state in drive.status().artifacts] == ["odd"]


def test_names_that_are_no_utf8(make_drive: MakeDrive) -> None:
    """C6, C15: a commit that is blocked by one is shown, and no status, record or log is lost for it."""
    drive = make_drive()
    make(drive, "c/a")
    drive.symlink("/outside", f"c/a/staging/{os.fsdecode(bytes([255]))}")
    drive.seal("c/a")
    eventually(lambda: drive.state("c/a").pending[0].state is CommitState.BLOCKED)
    [shown] = drive.status().artifacts
    reason = shown.pending[0].error or ""
    assert f"{drive.settings.mountpoint}/c/a/pending.1/\\xff leads to '/outside'" in reason
    assert not drive.status().faults
    with refused(errno.EINVAL):
        drive.setxattr("c/a/staging", control.COMMIT, b'{"message": "\xff"}')
