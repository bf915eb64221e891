"""Sealed trees taken back into staging: what the store may hold of them, restarts, and failures of the disk."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

import artifactfs
from artifactfs.errors import AccessDenied, StoreUnreachable
from artifactfs.objects.local import LocalStore
from mount import control
from mount.control import CommitState, Pending
from mount.reopening import REOPENED
from mount.staging import UNTOUCHED
from tests.drives import DirectDrive
from tests.mount.harness import eventually
from tests.scenarios import refused
from tests.scenarios.reopening import LARGE, block, blocked, reopen
from tests.vfs.conftest import MakeDrive
from tests.vfs.stores import Outage

LABEL = "c/a"


def make(drive: DirectDrive) -> None:
    drive.mkdir("c")
    drive.mkdir(LABEL)


def place(drive: DirectDrive, name: str) -> Path:
    assert drive.area is not None
    return drive.area.root / "artifacts" / LABEL / name


@pytest.mark.parametrize("layout", ["objects", "plain"])
def test_files_that_the_store_took_are_copied(
    tmp_path: Path, make_drive: MakeDrive, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    """C19, C7: an attempt may have put files into the store before it failed; they are never written to there."""
    outage = Outage()
    if layout == "plain":
        (tmp_path / "store/c/b/v0/files").mkdir(parents=True)
        (tmp_path / "store/c/b/v0/files/f").write_bytes(b"x")
    drive = make_drive(outage)
    drive.mkdir("c") if layout == "objects" else None
    drive.mkdir(LABEL)
    top = f"{LABEL}/staging"
    drive.write(f"{top}/large", LARGE)
    drive.write(f"{top}/small", b"small")
    drive.chmod(f"{top}/large", 0o600)
    drive.utime(f"{top}/large", (10**18, 10**18))
    if os.geteuid() == 0:
        for path in (top, f"{top}/large"):
            drive.chown(path, 1234, 1235)
    before = os.lstat(place(drive, "staging/large"))
    with monkeypatch.context() as patch:
        if layout == "objects":
            patch.setattr(LocalStore, "flush", _refuse)
        else:
            outage.error, outage.only = AccessDenied("not you"), {"version_info"}
        drive.seal(LABEL)
        blocked(drive, LABEL)
    outage.error = None
    assert os.lstat(place(drive, "pending.1/tree/large")).st_nlink == 2
    if layout == "plain":
        # As if it had not come as far as the last rename.
        (tmp_path / "store/c/a/v0").rename(tmp_path / "store/was v0")
    reopen(drive, LABEL)
    found = os.lstat(place(drive, "staging/large"))
    kept = ("st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_size", "st_nlink")
    assert [getattr(found, field) for field in kept] == [getattr(before, field) for field in kept]
    assert found.st_ino != before.st_ino
    with drive.open(f"{top}/large", os.O_WRONLY) as file:
        file.write(b"LARGE", 0)
    assert not [
        path for path in (tmp_path / "store").rglob("*") if _begins(path, b"LARGE") and "staging" not in str(path)
    ]
    assert drive.commit(LABEL).version is not None
    assert drive.read(f"{LABEL}/latest/large")[:5] == b"LARGE"


def _refuse(*_: object) -> None:
    raise AccessDenied("not you")


def _begins(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes()[: len(data)] == data


def test_a_version_is_not_taken_back(make_drive: MakeDrive) -> None:
    """C19, C7: a tree that an attempt has made a version of is EEXIST, and its commit is finished."""
    outage = Outage()
    drive = make_drive(outage)
    make(drive)
    drive.write(f"{LABEL}/staging/f", b"x")
    outage.error, outage.only = AccessDenied("not you"), {"version_info", "manifest"}
    drive.seal(LABEL)
    blocked(drive, LABEL)
    outage.error = None
    with refused(errno.EEXIST):
        reopen(drive, LABEL)
    eventually(lambda: drive.is_idle(LABEL))
    assert drive.versions(LABEL) == ["v0"]


def test_a_store_that_cannot_tell(make_drive: MakeDrive) -> None:
    """C19, C7: while the store cannot tell what became of an attempt, nothing is taken back; the tree stays whole."""
    outage = Outage()
    drive = make_drive(outage)
    make(drive)
    drive.write(f"{LABEL}/staging/f", b"x")
    outage.error = StoreUnreachable("away")
    drive.seal(LABEL)
    eventually(lambda: drive.state(LABEL).pending[0].state is CommitState.RETRYING)
    with refused(errno.EIO):
        reopen(drive, LABEL)
    assert drive.read(f"{LABEL}/pending.1/f") == b"x"
    outage.error = None
    eventually(lambda: drive.versions(LABEL) == ["v0"])


def test_a_tree_that_was_never_tried(make_drive: MakeDrive) -> None:
    """C19: one that waits behind another is taken back without asking the store, which may be away."""
    outage = Outage()
    drive = make_drive(outage)
    make(drive)
    drive.write(f"{LABEL}/staging/f", b"0")
    outage.error = StoreUnreachable("away")
    drive.seal(LABEL)
    drive.write(f"{LABEL}/staging/f", b"1")
    drive.seal(LABEL)
    eventually(lambda: drive.state(LABEL).pending[0].state is CommitState.RETRYING)
    eventually(lambda: _taken_back(drive, "pending.2"))
    assert drive.read(f"{LABEL}/staging/f") == b"1"
    outage.error = None
    eventually(lambda: drive.versions(LABEL) == ["v0"])
    assert drive.commit(LABEL).version == "v1"
    assert [drive.read(f"{LABEL}/v{number}/f") for number in range(2)] == [b"0", b"1"]


def _taken_back(drive: DirectDrive, tree: str) -> bool:
    try:
        reopen(drive, LABEL, tree)
    except OSError as error:
        # An attempt of the tree before it is under way.
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def test_not_while_it_is_committed(make_drive: MakeDrive) -> None:
    """C19: EBUSY while a commit is under way, and that goes on."""
    outage = Outage()
    go_on = False

    def before(name: str) -> None:
        if name == "commit_tree":
            eventually(lambda: go_on)

    drive = make_drive(before)
    make(drive)
    drive.write(f"{LABEL}/staging/f", b"x")
    commit_id = drive.seal(LABEL)
    eventually(lambda: drive.state(LABEL).pending[0].state is CommitState.COMMITTING)
    with refused(errno.EBUSY):
        reopen(drive, LABEL)
    go_on = True
    assert drive.wait_for(LABEL, commit_id).version == "v0"
    assert outage.error is None


@pytest.mark.parametrize("changed", [False, True])
def test_a_restart(make_drive: MakeDrive, changed: bool) -> None:
    """C19, C8: the next daemon finds it in staging, with its turn and its message, and commits what was changed."""
    first = make_drive()
    make(first)
    first.write(f"{LABEL}/staging/f", b"x")
    block(first, LABEL)
    first.write(f"{LABEL}/staging/f", b"later")
    first.seal(LABEL)
    reopen(first, LABEL)
    if changed:
        first.unlink(f"{LABEL}/staging/bad")
    first.close()
    second = make_drive(commit_after_s=0.1)
    state = second.state(LABEL)
    if not changed:
        assert state.staged is not None
        assert state.staged.untouched
        assert state.staged.reopened is not None
        assert "staging/bad is a FIFO" in (state.staged.reopened.error or "")
        assert [p.name for p in state.pending] == ["pending.2"]
        second.unlink(f"{LABEL}/staging/bad")
    eventually(lambda: second.versions(LABEL) == ["v0", "v1"])
    assert [second.read(f"{LABEL}/v{number}/f") for number in range(2)] == [b"x", b"later"]
    assert second.manager.version_info("a", "c", "v0").message == "the message"


def test_a_note_that_means_nothing(make_drive: MakeDrive) -> None:
    """C19, C8: a note left by a daemon that died before the rename, or after a seal, is forgotten."""
    first = make_drive()
    make(first)
    first.write(f"{LABEL}/staging/f", b"x")
    block(first, LABEL)
    note = place(first, REOPENED)
    note.write_bytes(b'{"number": 1}')
    place(first, UNTOUCHED).write_bytes(b"")
    first.write(f"{LABEL}/staging/f", b"new")
    first.close()
    second = make_drive()
    assert not place(second, REOPENED).exists()
    state = second.state(LABEL)
    assert state.staged is not None
    assert (state.staged.untouched, state.staged.reopened) == (False, None)
    pending = blocked(second, LABEL)
    second.setxattr(f"{LABEL}/{pending.name}", control.DISCARD, b"1")
    assert second.commit(LABEL).version == "v0"


def test_a_damaged_note(make_drive: MakeDrive) -> None:
    """C19: it costs the turn and the message, not the files."""
    first = make_drive()
    make(first)
    first.write(f"{LABEL}/staging/f", b"x")
    block(first, LABEL)
    reopen(first, LABEL)
    place(first, REOPENED).write_bytes(b"{")
    first.close()
    second = make_drive()
    second.unlink(f"{LABEL}/staging/bad")
    assert second.commit(LABEL).version == "v0"


@pytest.mark.parametrize("step", ["rename", "copy", "note"])
def test_a_disk_that_fails(make_drive: MakeDrive, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """C19: what the disk refuses is told, the tree stays where it was, and the next try succeeds."""
    drive = make_drive()
    make(drive)
    drive.write(f"{LABEL}/staging/large", LARGE)
    block(drive, LABEL)
    # As an attempt leaves it that had come as far as the store.
    os.link(place(drive, "pending.1/tree/large"), place(drive, "elsewhere"))

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    targets = {
        "rename": "mount.staging.os.rename",
        "copy": "mount.disk.copy",
        "note": "mount.reopening.durable.replace",
    }
    with monkeypatch.context() as patch:
        patch.setattr(targets[step], fails)
        with refused(errno.ENOSPC):
            reopen(drive, LABEL)
    assert drive.read(f"{LABEL}/pending.1/large") == LARGE
    assert drive.listdir(f"{LABEL}/staging") == []
    drive.write(f"{LABEL}/staging/new", b"new")
    assert not place(drive, UNTOUCHED).exists()
    drive.unlink(f"{LABEL}/staging/new")
    reopen(drive, LABEL)
    assert os.lstat(place(drive, "staging/large")).st_nlink == 1
    drive.unlink(f"{LABEL}/staging/bad")
    assert drive.commit(LABEL).version == "v0"


def test_an_area_of_its_own_for_every_kind(tmp_path: Path, make_drive: MakeDrive) -> None:
    """C19: fifos, sockets and symlinks come back as they were."""
    drive = make_drive()
    make(drive)
    top = f"{LABEL}/staging"
    drive.mknod(f"{top}/socket", stat.S_IFSOCK | 0o600)
    drive.symlink("/outside", f"{top}/link")
    drive.mkdir(f"{top}/empty", 0o711)
    pending: Pending = block(drive, LABEL)
    assert pending.name == "pending.1"
    reopen(drive, LABEL)
    assert drive.readlink(f"{top}/link") == "/outside"
    assert [stat.S_IFMT(drive.lstat(f"{top}/{name}").mode) for name in ("socket", "bad", "empty")] == [
        stat.S_IFSOCK,
        stat.S_IFIFO,
        stat.S_IFDIR,
    ]
    assert drive.lstat(f"{top}/empty").permissions == 0o711
    assert artifactfs.connect(str(tmp_path / "store")).list_collection_names() == []
