"""A staged tree: what counts as a change, who keeps it from being sealed, and what a seal makes stale."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mount import control
from mount.asking import ASKING
from mount.errors import NoRoom, ReadOnly, Stale
from mount.handles import IS_ROOT, StagedFile
from mount.staged_tree import StagedTree
from mount.tree import Caller
from tests.drives import DirectDrive
from tests.mount.harness import eventually
from tests.scenarios import refused
from tests.vfs.conftest import MakeDrive

ME = Caller(os.getuid(), os.getgid())
WRITE = os.O_WRONLY
KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE = 1, 2, 8


class Told:
    """Counts how often the tree says that it became dirty."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


@pytest.fixture
def told() -> Told:
    """What the tree was told."""
    return Told()


@pytest.fixture
def tree(drive: DirectDrive, told: Told) -> StagedTree:
    """The staging of an artifact, not on disk yet."""
    assert drive.area is not None
    drive.area.on_dirty = told
    return drive.area.artifact("c", "a").staged


def make(tree: StagedTree, path: str, data: bytes = b"x") -> None:
    handle = tree.create(path, WRITE, 0o644, ME)
    handle.write(data, 0)
    handle.close()


def test_on_disk_with_the_first_change(tree: StagedTree) -> None:
    """Looking makes nothing; the first name makes the directories above it."""
    assert not tree.exists()
    assert tree.is_empty()
    assert tree.list("") == []
    assert tree.usage() == (0, 0)
    with refused(errno.ENOENT):
        tree.stat("")
    with refused(errno.ENOENT):
        tree.list("d")
    assert not tree.exists()
    tree.mkdir("d", 0o755, ME)
    assert tree.exists()
    assert not tree.is_empty()


def test_told_once(tree: StagedTree, told: Told) -> None:
    """Becoming dirty is told once, however much changes."""
    make(tree, "a")
    make(tree, "b")
    tree.unlink("a")
    assert told.times == 1
    assert tree.is_dirty()
    tree.unlink("b")
    assert not tree.is_dirty()


def test_every_change_restarts_the_quiet_time(tree: StagedTree) -> None:
    """S1: names, bytes and attributes count; reading does not."""
    make(tree, "f")
    tree.mkdir("d", 0o755, ME)
    reader, writer = tree.open("f", os.O_RDONLY), tree.open("f", WRITE)
    for change in (
        lambda: make(tree, "new"),
        lambda: tree.mkdir("d2", 0o755, ME),
        lambda: tree.symlink("s", "f", ME),
        lambda: tree.link("f", "hard"),
        lambda: tree.rename("new", "newer", 0),
        lambda: tree.unlink("newer"),
        lambda: tree.rmdir("d2"),
        lambda: tree.chmod("f", 0o600),
        lambda: tree.chown("f", -1, -1),
        lambda: tree.utime("f", (1, 1)),
        lambda: tree.truncate("f", 1),
        lambda: writer.write(b"y", 0),
        lambda: writer.truncate(1),
        lambda: writer.utime(None),
        writer.close,
    ):
        before = tree.last_change_ns
        change()
        assert tree.last_change_ns > before, change
    before = tree.last_change_ns
    for look in (
        lambda: tree.stat("f"),
        lambda: tree.list(""),
        lambda: tree.readlink("s"),
        lambda: reader.read(10, 0),
        lambda: reader.fsync(False),
        reader.close,
    ):
        look()
    assert tree.last_change_ns == before


def test_a_change_that_fails_is_none(tree: StagedTree) -> None:
    """S1: errors leave the quiet time alone."""
    make(tree, "f")
    before = tree.last_change_ns
    for attempt in (
        lambda: tree.mkdir("f", 0o755, ME),
        lambda: tree.unlink("missing"),
        lambda: tree.rmdir("f"),
        lambda: tree.rename("missing", "x", 0),
        lambda: tree.chmod("missing", 0o600),
        lambda: tree.truncate("missing", 0),
        lambda: tree.create("f", WRITE | os.O_EXCL, 0o644, ME),
        lambda: tree.open("missing", WRITE),
    ):
        with pytest.raises(OSError, match=r"Errno"):
            attempt()
    assert tree.last_change_ns == before


def test_who_is_writing(tree: StagedTree) -> None:
    """C1: every descriptor that may write counts by name, until it is closed or its file has no name."""
    make(tree, "f")
    reader = tree.open("f", os.O_RDONLY)
    assert tree.open_for_writing() == []
    one, two = tree.open("f", WRITE), tree.open("f", os.O_RDWR)
    assert tree.open_for_writing() == ["f", "f"]
    one.close()
    one.close()
    assert tree.open_for_writing() == ["f"]
    tree.unlink("f")
    assert tree.open_for_writing() == []
    two.write(b"still", 0)
    assert reader.read(10, 0) == b"still"
    two.close()
    reader.close()


def test_closing_wakes_who_waits(tree: StagedTree) -> None:
    """C2: the end of the last writer is told through the condition."""
    handle = tree.create("f", WRITE, 0o644, ME)
    changed = tree._changed
    threading.Timer(0.05, handle.close).start()
    deadline = time.monotonic() + 10
    with changed:
        while tree.open_for_writing():
            assert changed.wait(deadline - time.monotonic())


def test_sealed(tree: StagedTree, tmp_path: Path) -> None:
    """C3, C4: after the move every change is Stale, reading goes on at the new place, and nothing is made anew."""
    make(tree, "f", b"kept")
    reader, before = tree.open("f", os.O_RDONLY), tree.root
    tree.move(tmp_path / "sealed")
    for change in (
        lambda: make(tree, "new"),
        lambda: tree.open("f", WRITE),
        lambda: tree.open("f", os.O_RDONLY | os.O_TRUNC),
        lambda: tree.mkdir("d", 0o755, ME),
        lambda: tree.mknod("n", 0o100644, ME),
        lambda: tree.symlink("s", "f", ME),
        lambda: tree.link("f", "g"),
        lambda: tree.unlink("f"),
        lambda: tree.rmdir("d"),
        lambda: tree.rename("f", "g", 0),
        lambda: tree.chmod("f", 0o600),
        lambda: tree.chown("f", 1, 1),
        lambda: tree.utime("f", None),
        lambda: tree.truncate("f", 0),
    ):
        with pytest.raises(Stale):
            change()
    assert reader.read(10, 0) == b"kept"
    with_another = tree.open("f", os.O_RDONLY)
    assert with_another.read(10, 0) == b"kept"
    with_another.close()
    reader.close()
    assert os.listdir(tmp_path / "sealed") == ["f"]
    assert not before.exists()


def test_usage(tree: StagedTree) -> None:
    """Files and bytes without symlinks and directories, counted again after changes."""
    make(tree, "f", b"x" * 1000)
    tree.mkdir("d", 0o755, ME)
    make(tree, "d/g", b"y" * 10)
    tree.symlink("s", "f", ME)
    assert tree.usage() == (2, 1010)
    tree.unlink("f")
    assert tree.usage() == (1, 10)


def test_symlinks_are_not_followed(tree: StagedTree, tmp_path: Path) -> None:
    """S1: the daemon never follows a symlink that a user made: the kernel resolves them."""
    outside = tmp_path / "outside"
    outside.write_text("mine")
    tree.symlink("s", str(outside), ME)
    for attempt in (lambda: tree.open("s", os.O_RDONLY), lambda: tree.truncate("s", 0), lambda: tree.open("s", WRITE)):
        with refused(errno.ELOOP):
            attempt()
    tree.utime("s", (5, 5))
    tree.chown("s", -1, -1)
    assert outside.read_text() == "mine"
    assert outside.stat().st_mtime_ns != 5


def test_writing_in_pieces(tree: StagedTree) -> None:
    """S1: a write of many megabytes is written whole, from any kind of buffer."""
    handle = tree.create("f", os.O_RDWR, 0o600, ME)
    data = os.urandom(5_000_000)
    assert handle.write(memoryview(data), 3) == len(data)
    assert handle.read(len(data) + 10, 3) == data
    assert handle.read(10, len(data) + 3) == b""
    handle.close()


CALLS: dict[str, Callable[[StagedFile], object]] = {
    "read": lambda file: file.read(10, 0),
    "write": lambda file: file.write(b"wrong", 0),
    "truncate": lambda file: file.truncate(3),
    "seek": lambda file: file.seek(0, os.SEEK_DATA),
    "fallocate": lambda file: file.fallocate(0, 0, 10_000),
    "copy": lambda file: file.copy_from(file, 0, 4, 4),
    "chmod": lambda file: file.chmod(0o777),
    "chown": lambda file: file.chown(12345, 12345),
    "utime": lambda file: file.utime((1, 1)),
    "fsync": lambda file: file.fsync(False),
}


@pytest.mark.parametrize("call", [name for name in CALLS if name != "chown" or IS_ROOT])
def test_a_closed_file_leads_to_no_other(tree: StagedTree, tmp_path: Path, call: str) -> None:
    """S1: a request that comes too late changes nothing, also when another file has got the descriptor's number."""
    handle = tree.create("f", os.O_RDWR, 0o644, ME)
    number = int(handle.fd)
    handle.close()
    path = tmp_path / "other"
    path.write_bytes(b"other bytes")
    before = path.stat()
    other = os.open(path, os.O_RDWR)
    try:
        assert other == number
        with refused(errno.EBADF):
            CALLS[call](handle)
    finally:
        os.close(other)
    after = path.stat()
    assert path.read_bytes() == b"other bytes"
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (before.st_mode, before.st_uid, before.st_mtime_ns)


def test_a_sealed_file_keeps_its_attributes(tree: StagedTree) -> None:
    """V6: who still has it open cannot change what may be an object of the store by now."""
    make(tree, "f")
    handle = tree.open("f", os.O_RDONLY)
    before = tree.stat("f")
    tree.move(tree.root.with_name("sealed"))
    for change in (lambda: handle.chmod(0o777), lambda: handle.chown(12345, 12345), lambda: handle.utime((1, 1))):
        with pytest.raises(ReadOnly):
            change()
    after = tree.stat("f")
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (before.st_mode, before.st_uid, before.st_mtime_ns)
    os.unlink(tree.disk_path("f"))
    handle.chmod(0o600)
    handle.close()


def test_a_hole_takes_no_room(make_drive: MakeDrive) -> None:
    """S10: on a full disk a file can still be given back in parts."""
    drive = make_drive(min_free_bytes=1 << 60)
    assert drive.area is not None
    tree = drive.area.artifact("c", "a").staged
    handle = tree.create("f", os.O_RDWR, 0o644, ME)
    os.truncate(tree.disk_path("f"), 1 << 20)
    for mode in (PUNCH_HOLE | KEEP_SIZE, COLLAPSE_RANGE):
        handle.fallocate(mode, 0, 65536)
    with pytest.raises(NoRoom):
        handle.fallocate(0, 0, 65536)
    handle.close()


def test_no_room(make_drive: MakeDrive) -> None:
    """S10: where the disk must keep room for others, writing is refused before it takes that room."""
    drive = make_drive(min_free_bytes=1 << 60)
    assert drive.area is not None
    tree = drive.area.artifact("c", "a").staged
    handle = tree.create("f", WRITE, 0o644, ME)
    with pytest.raises(NoRoom):
        handle.write(b"x", 0)
    handle.close()
    assert tree.usage() == (1, 0)


def test_what_cannot_be_noted_keeps_no_lock(drive: DirectDrive, monkeypatch: pytest.MonkeyPatch) -> None:
    """C16, C21: where no more files can be opened, a change fails as it would, and the next one waits for nobody."""

    def hinder(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    assert drive.area is not None
    tree = drive.area.artifact("c", "a").staged
    make(tree, "f")
    monkeypatch.setattr(ASKING, "thread", threading.get_native_id())
    monkeypatch.setattr(tree.writers, "was_told", hinder)
    with refused(errno.EEXIST):
        tree.mkdir("f", 0o755, ME)
    monkeypatch.setattr(tree, "touch", hinder)
    with refused(errno.EMFILE):
        tree.mkdir("d", 0o755, ME)
    monkeypatch.undo()
    other = threading.Thread(target=tree.mkdir, args=("e", 0o755, ME), daemon=True)
    other.start()
    other.join(60)
    assert not other.is_alive()


def test_removed_and_made_again(drive: DirectDrive) -> None:
    """S17: one object has the lock of an artifact, whatever becomes of it, and the old staging takes nothing."""
    assert drive.area is not None
    drive.mkdir("c")
    drive.mkdir("c/a")
    staging = drive.area.artifact("c", "a")
    before = [staging.staged]
    make(before[0], "f")
    before[0].unlink("f")
    for _ in range(2):
        drive.rmdir("c/a")
        drive.mkdir("c/a")
        assert drive.area.artifact("c", "a") is staging
        before.append(staging.staged)
    drive.write("c/a/staging/new", b"new")
    for tree in before[:-1]:
        assert tree is not staging.staged
        assert tree.lock is staging.staged.lock
        assert tree.is_empty()
        with pytest.raises(Stale):
            make(tree, "f")
        with pytest.raises(Stale):
            tree.mkdir("d", 0o755, ME)
        with refused(errno.ENOENT):
            tree.open("new", os.O_RDONLY)
    assert drive.contents("c/a/staging") == {"new": b"new"}
    with refused(errno.ENOTEMPTY):
        drive.rmdir("c/a")
    assert drive.contents("c/a/staging") == {"new": b"new"}


def test_many_references_are_not_remembered_one_by_one(drive: DirectDrive, monkeypatch: pytest.MonkeyPatch) -> None:
    """S9: of more than can be remembered each counts as one that has been a reference."""
    monkeypatch.setattr("mount.references._MOST_HAD", 2)
    drive.mkdir("c")
    drive.mkdir("c/a")
    for number in range(4):
        drive.write(f"c/a/staging/f{number}", b"x")
    drive.setxattr("c/a/staging", control.COMMIT, control.encode(control.CommitRequest()))
    eventually(lambda: drive.versions("c/a") == ["v0"])
    drive.setxattr("c/a", control.STAGE, b"v0")
    assert drive.area is not None
    tree = drive.area.artifact("c", "a").staged
    had = []
    for number in range(4):
        handle = tree.open(f"f{number}", os.O_RDWR)
        had.append(tree.references.had(handle.fd))
        handle.close()
    assert had == [True] * 4
    make(tree, "g")
    handle = tree.open("g", os.O_RDWR)
    assert tree.references.had(handle.fd)
    handle.close()
