"""Scenarios of sealed trees that are taken back into staging."""

from __future__ import annotations

import errno
import os
import stat
import time

from mount import control
from mount.control import ArtifactState, CommitRequest, CommitState, Pending
from tests.drives import Drive
from tests.mount.harness import eventually
from tests.scenarios import COMMIT_AFTER_S, refused, scenario

LARGE = b"large!" * 250_000


def blocked(drive: Drive, label: str) -> Pending:
    """The sealed tree that a commit has given up on."""
    return eventually(lambda: next((p for p in drive.state(label).pending if p.state is CommitState.BLOCKED), None))


def block(drive: Drive, label: str, name: str = "bad") -> Pending:
    """Seal what is staged together with a fifo that no store takes, and wait for the commit to give up."""
    drive.mknod(f"{label}/staging/{name}", stat.S_IFIFO | 0o644)
    drive.seal(label, "the message", ["best"])
    return blocked(drive, label)


def reopen(drive: Drive, label: str, tree: str = "pending.1") -> ArtifactState:
    """Take a tree back; returns the state after that."""
    drive.setxattr(f"{label}/{tree}", control.REOPEN, b"1")
    return drive.state(label)


@scenario()
def reopened_and_mended(drive: Drive) -> None:
    """C19: a blocked tree goes back into staging whole, and becomes one version with its message once it is mended."""
    label = drive.make_artifact()
    drive.mkdir(f"{label}/staging/d")
    files = {"small": b"small", "d/large": LARGE}
    for path, data in files.items():
        drive.write(f"{label}/staging/{path}", data)
    drive.chmod(f"{label}/staging/small", 0o750)
    drive.symlink("small", f"{label}/staging/link")
    pending = block(drive, label)
    assert f"{label}/pending.1/bad" in (pending.error or "")
    state = reopen(drive, label)
    assert state.pending == []
    assert state.staged is not None
    assert state.staged.untouched
    assert state.staged.reopened is not None
    assert state.staged.reopened.name == "pending.1"
    assert f"{label}/staging/bad is a FIFO" in (state.staged.reopened.error or "")
    assert sorted(drive.listdir(label)) == ["staging"]
    assert drive.contents(f"{label}/staging") == files
    assert drive.lstat(f"{label}/staging/small").permissions == 0o750
    drive.unlink(f"{label}/staging/bad")
    drive.write(f"{label}/staging/new", b"new")
    finished = drive.commit(label)
    assert finished.version == "v0"
    assert drive.contents(f"{label}/v0") == {**files, "new": b"new"}
    assert drive.readlink(f"{label}/best") == "v0"
    assert drive.manager.version_info("a", label.split("/")[0], "v0").message == "the message"
    assert drive.state(label).staged is None


@scenario(automatic=True)
def reopened_is_committed_after_a_change(drive: Drive) -> None:
    """C19, C1: nothing is committed by itself before something was changed; removing the one bad file is enough."""
    label = drive.make_artifact()
    with drive.open(f"{label}/staging/f", os.O_WRONLY | os.O_CREAT) as file:
        file.write(b"x", 0)
        drive.mknod(f"{label}/staging/bad", stat.S_IFIFO | 0o644)
    blocked(drive, label)
    reopen(drive, label)
    time.sleep(COMMIT_AFTER_S * 3)
    state = drive.state(label)
    assert (state.pending, state.finished) == ([], [])
    assert state.staged is not None
    drive.unlink(f"{label}/staging/bad")
    eventually(lambda: drive.versions(label) == ["v0"])
    assert drive.contents(f"{label}/v0") == {"f": b"x"}


@scenario()
def reopening_is_refused(drive: Drive) -> None:
    """C19: with something staged it is ENOTEMPTY, and nothing has changed; what is not sealed is ENODATA or EPERM."""
    label = drive.make_artifact()
    drive.write(f"{label}/staging/f", b"old")
    block(drive, label)
    drive.write(f"{label}/staging/f", b"new")
    with refused(errno.ENOTEMPTY):
        reopen(drive, label)
    assert drive.read(f"{label}/pending.1/f") == b"old"
    assert drive.read(f"{label}/staging/f") == b"new"
    state = drive.state(label)
    assert state.staged is not None
    assert (state.staged.untouched, state.staged.reopened) == (False, None)
    with refused(errno.ENODATA):
        drive.setxattr(f"{label}/staging", control.REOPEN, b"1")
    for path in ("bad", "f"):
        with refused(errno.EPERM):
            drive.setxattr(f"{label}/pending.1/{path}", control.REOPEN, b"1")
    drive.setxattr(f"{label}/staging", control.DISCARD, b"1")
    drive.setxattr(f"{label}/pending.1", control.DISCARD, b"1")
    with refused(errno.ENOENT):
        reopen(drive, label)


@scenario()
def reopened_keeps_its_turn(drive: Drive) -> None:
    """C19, C6: what was sealed after it waits, and says so, until it is sealed again."""
    label = drive.make_artifact()
    drive.write(f"{label}/staging/f", b"0")
    block(drive, label)
    later = []
    for number in (1, 2):
        drive.write(f"{label}/staging/f", str(number).encode())
        later.append(drive.seal(label))
    reopen(drive, label)
    waiting = drive.state(label).pending
    assert [(p.name, p.state) for p in waiting] == [(f"pending.{n}", CommitState.BLOCKED) for n in (2, 3)]
    assert all("pending.1 is in staging again" in (p.error or "") for p in waiting)
    drive.unlink(f"{label}/staging/bad")
    assert drive.commit(label).version == "v0"
    assert [drive.wait_for(label, commit_id).version for commit_id in later] == ["v1", "v2"]
    assert [drive.read(f"{label}/v{number}/f") for number in range(3)] == [b"0", b"1", b"2"]


@scenario()
def reopened_and_thrown_away(drive: Drive) -> None:
    """C19, C6: what waits for it goes on when it is discarded, or its last file removed."""
    for by_hand in (False, True):
        label = drive.make_artifact()
        drive.write(f"{label}/staging/f", b"0")
        block(drive, label)
        drive.write(f"{label}/staging/f", b"1")
        later = drive.seal(label)
        reopen(drive, label)
        if by_hand:
            for name in ("bad", "f"):
                drive.unlink(f"{label}/staging/{name}")
        else:
            drive.setxattr(f"{label}/staging", control.DISCARD, b"1")
        assert drive.wait_for(label, later).version == "v0"
        assert drive.read(f"{label}/v0/f") == b"1"
        drive.write(f"{label}/staging/f", b"2")
        assert drive.commit(label).version == "v1"
        assert drive.manager.version_info("a", label.split("/")[0], "v1").message == ""


@scenario()
def reopened_again_and_again(drive: Drive) -> None:
    """C19, C7: a tree that is not mended is refused again, can be taken back again, and still gives one version."""
    label = drive.make_artifact()
    drive.write(f"{label}/staging/large", LARGE)
    block(drive, label)
    for _ in range(3):
        reopen(drive, label)
        drive.setxattr(f"{label}/staging", control.COMMIT, control.encode(CommitRequest()))
        assert blocked(drive, label).name == "pending.1"
    reopen(drive, label)
    drive.unlink(f"{label}/staging/bad")
    assert drive.commit(label, "another").version == "v0"
    assert drive.versions(label) == ["v0"]
    assert drive.manager.version_info("a", label.split("/")[0], "v0").message == "another"


@scenario()
def files_open_while_reopened(drive: Drive) -> None:
    """C19: a file that is open below a pending directory stays open, and is the one in staging."""
    label = drive.make_artifact()
    drive.mkdir(f"{label}/staging/d")
    drive.write(f"{label}/staging/d/f", b"before")
    drive.write(f"{label}/staging/gone", b"gone")
    block(drive, label)
    tree = f"{label}/pending.1"
    assert drive.lstat(f"{tree}/d/f").size_bytes == 6
    with drive.open(f"{tree}/d/f") as file, drive.open(f"{tree}/gone") as gone:
        reopen(drive, label)
        for path in (tree, f"{tree}/d", f"{tree}/d/f"):
            eventually(lambda path=path: not drive.exists(path), 5)
        assert file.read(100, 0) == b"before"
        drive.write(f"{label}/staging/d/f", b"afterwards")
        # Through another name a file may be believed to be as it was, for as long as a driver allows.
        eventually(lambda: file.read(100, 0) == b"afterwards")
        drive.unlink(f"{label}/staging/gone")
        drive.rename(f"{label}/staging/d", f"{label}/staging/e")
        assert gone.read(100, 0) == b"gone"
        drive.unlink(f"{label}/staging/bad")
        # Readers stand in nobody's way.
        assert drive.commit(label).version == "v0"
        assert file.read(100, 0) == b"afterwards"
    assert drive.contents(f"{label}/v0") == {"e/f": b"afterwards"}
