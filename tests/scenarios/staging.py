"""Scenarios of staging: S1 to S8."""

from __future__ import annotations

import errno
import os
import stat
import tempfile

from mount import control
from mount.control import CommitState
from mount.disk import RENAME_EXCHANGE, RENAME_NOREPLACE
from tests.drives import Drive
from tests.mount.harness import eventually
from tests.scenarios import is_root, refused, scenario

EXCLUSIVE = os.O_WRONLY | os.O_CREAT | os.O_EXCL


def staging(drive: Drive) -> str:
    """The staging directory of a new artifact."""
    return f"{drive.make_artifact()}/staging"


@scenario()
def errors_of_a_disk(drive: Drive) -> None:
    """S1: what goes wrong gives the errors of a local disk."""
    top = staging(drive)
    drive.write(f"{top}/file", b"x")
    drive.mkdir(f"{top}/dir")
    drive.write(f"{top}/dir/inside", b"x")
    for call, number in (
        (lambda: drive.open(f"{top}/missing"), errno.ENOENT),
        (lambda: drive.lstat(f"{top}/missing"), errno.ENOENT),
        (lambda: drive.write(f"{top}/no/such", b""), errno.ENOENT),
        (lambda: drive.open(f"{top}/file/below"), errno.ENOTDIR),
        (lambda: drive.mkdir(f"{top}/dir"), errno.EEXIST),
        (lambda: drive.mkdir(f"{top}/file"), errno.EEXIST),
        (lambda: drive.open(f"{top}/file", EXCLUSIVE), errno.EEXIST),
        (lambda: drive.rmdir(f"{top}/dir"), errno.ENOTEMPTY),
        (lambda: drive.rmdir(f"{top}/file"), errno.ENOTDIR),
        (lambda: drive.unlink(f"{top}/dir"), errno.EISDIR),
        (lambda: drive.unlink(f"{top}/missing"), errno.ENOENT),
        (lambda: drive.open(f"{top}/dir", os.O_WRONLY), errno.EISDIR),
        (lambda: drive.rename(f"{top}/missing", f"{top}/new"), errno.ENOENT),
        (lambda: drive.rename(f"{top}/dir", f"{top}/dir/inner"), errno.EINVAL),
        (lambda: drive.rename(f"{top}/file", f"{top}/dir"), errno.EISDIR),
        (lambda: drive.rename(f"{top}/dir", f"{top}/file"), errno.ENOTDIR),
        (lambda: drive.readlink(f"{top}/file"), errno.EINVAL),
        (lambda: drive.symlink("x", f"{top}/file"), errno.EEXIST),
        (lambda: drive.link(f"{top}/file", f"{top}/dir"), errno.EEXIST),
        (lambda: drive.link(f"{top}/dir", f"{top}/hard"), errno.EPERM),
        (lambda: drive.truncate(f"{top}/dir", 0), errno.EISDIR),
    ):
        with refused(number):
            call()


@scenario()
def reading_and_writing(drive: Drive) -> None:
    """S1: reads and writes at any place, beyond the end, after truncation and through a second descriptor."""
    top = staging(drive)
    with drive.open(f"{top}/f", os.O_RDWR | os.O_CREAT) as one, drive.open(f"{top}/f", os.O_RDWR) as two:
        assert one.write(b"hello world", 0) == 11
        assert two.read(100, 6) == b"world"
        assert two.read(100, 11) == b""
        two.write(b"W", 6)
        assert one.read(5, 6) == b"World"
        one.write(b"far", 100_000)
        assert two.stat().size_bytes == 100_003
        assert two.read(4, 11) == b"\0\0\0\0"
        two.truncate(5)
        assert one.read(100, 0) == b"hello"
        one.truncate(8)
        assert two.read(100, 0) == b"hello\0\0\0"
        one.fsync()
    assert drive.lstat(f"{top}/f").size_bytes == 8
    drive.truncate(f"{top}/f", 2)
    assert drive.read(f"{top}/f") == b"he"
    drive.write(f"{top}/f", b"new")
    assert drive.read(f"{top}/f") == b"new"


@scenario()
def many_opens_of_one_file(drive: Drive) -> None:
    """S1: fifty descriptors of one file see one file."""
    top = staging(drive)
    drive.write(f"{top}/f", b"")
    files = [drive.open(f"{top}/f", os.O_RDWR) for _ in range(50)]
    for number, file in enumerate(files):
        file.write(bytes([number]), number)
    assert {file.read(100, 0) for file in files} == {bytes(range(50))}
    for file in files:
        file.close()
    drive.commit(top.rpartition("/")[0])
    assert drive.read(f"{top.rpartition('/')[0]}/v0/f") == bytes(range(50))


@scenario()
def attributes_after_close(drive: Drive) -> None:
    """S1: chmod and utimens after the last close succeed, last, and are in the version (cp -p, tar, rsync)."""
    top = staging(drive)
    label = top.rpartition("/")[0]
    drive.write(f"{top}/f", b"x")
    drive.chmod(f"{top}/f", 0o640)
    drive.utime(f"{top}/f", (1, 1_234_567_890_123_456_789))
    assert drive.lstat(f"{top}/f").permissions == 0o640
    assert drive.lstat(f"{top}/f").mtime_ns == 1_234_567_890_123_456_789
    drive.commit(label)
    found = drive.lstat(f"{label}/v0/f")
    assert (found.permissions, found.mtime_ns) == (0o640, 1_234_567_890_123_456_789)


@scenario()
def read_only_files_are_written(drive: Drive) -> None:
    """S1: a file made without write permission can be written through the descriptor that made it (git, tar)."""
    top = staging(drive)
    with drive.open(f"{top}/f", EXCLUSIVE, 0o444) as file:
        file.write(b"once", 0)
    assert drive.lstat(f"{top}/f").permissions == 0o444
    assert drive.read(f"{top}/f") == b"once"


@scenario()
def owners(drive: Drive) -> None:
    """S3: as root a staged file keeps the owner that chown gave it; otherwise chown succeeds without effect."""
    top = staging(drive)
    drive.write(f"{top}/f", b"x")
    drive.chown(f"{top}/f", 1234, 2345) if is_root() else drive.chown(f"{top}/f", os.getuid(), os.getgid())
    found = drive.lstat(f"{top}/f")
    assert (found.uid, found.gid) == ((1234, 2345) if is_root() else (os.getuid(), os.getgid()))
    if is_root():
        drive.chown(f"{top}/f", -1, 99)
        assert (drive.lstat(f"{top}/f").uid, drive.lstat(f"{top}/f").gid) == (1234, 99)


@scenario()
def renames(drive: Drive) -> None:
    """S4: files and directories are renamed, over existing targets too."""
    top = staging(drive)
    drive.write(f"{top}/a", b"a")
    drive.write(f"{top}/b", b"b")
    drive.rename(f"{top}/a", f"{top}/b")
    assert drive.contents(top) == {"b": b"a"}
    drive.mkdir(f"{top}/d")
    drive.write(f"{top}/d/x", b"x")
    drive.mkdir(f"{top}/empty")
    drive.rename(f"{top}/d", f"{top}/empty")
    assert drive.contents(top) == {"b": b"a", "empty/x": b"x"}
    drive.mkdir(f"{top}/deep")
    drive.rename(f"{top}/empty", f"{top}/deep/moved")
    drive.rename(f"{top}/deep/moved/x", f"{top}/x")
    assert drive.contents(top) == {"b": b"a", "x": b"x"}
    with refused(errno.ENOTEMPTY, errno.EEXIST):
        drive.mkdir(f"{top}/other")
        drive.rename(f"{top}/other", f"{top}/deep")


@scenario()
def renames_with_flags(drive: Drive) -> None:
    """S4: RENAME_NOREPLACE spares the target, RENAME_EXCHANGE swaps two names."""
    top = staging(drive)
    drive.write(f"{top}/a", b"a")
    drive.write(f"{top}/b", b"b")
    with refused(errno.EEXIST):
        drive.rename(f"{top}/a", f"{top}/b", RENAME_NOREPLACE)
    drive.rename(f"{top}/a", f"{top}/c", RENAME_NOREPLACE)
    drive.rename(f"{top}/b", f"{top}/c", RENAME_EXCHANGE)
    assert drive.contents(top) == {"b": b"a", "c": b"b"}
    drive.mkdir(f"{top}/d")
    drive.rename(f"{top}/d", f"{top}/c", RENAME_EXCHANGE)
    assert stat.S_ISDIR(drive.lstat(f"{top}/c").mode)
    assert drive.read(f"{top}/d") == b"b"


@scenario()
def rename_over_an_open_file(drive: Drive) -> None:
    """S4, S6: what is open stays open when another file takes its name."""
    top = staging(drive)
    label = top.rpartition("/")[0]
    drive.write(f"{top}/f", b"old")
    with drive.open(f"{top}/f", os.O_RDWR) as file:
        drive.write(f"{top}/new", b"new")
        drive.rename(f"{top}/new", f"{top}/f")
        assert drive.listdir(top) == ["f"]
        assert drive.read(f"{top}/f") == b"new"
        assert file.read(10, 0) == b"old"
        file.write(b"OLD", 0)
        assert file.read(10, 0) == b"OLD"
        assert file.stat().size_bytes == 3
        drive.commit(label)
        assert file.read(10, 0) == b"OLD"
    assert drive.contents(f"{label}/v0") == {"f": b"new"}


@scenario()
def hard_links(drive: Drive) -> None:
    """S4: hard links share their bytes while they are staged (lock files, LanceDB)."""
    top = staging(drive)
    drive.write(f"{top}/a", b"one")
    drive.mkdir(f"{top}/d")
    drive.link(f"{top}/a", f"{top}/d/b")
    assert drive.lstat(f"{top}/d/b").nlink == 2
    assert drive.lstat(f"{top}/d/b").ino == drive.lstat(f"{top}/a").ino
    with refused(errno.EEXIST):
        drive.link(f"{top}/a", f"{top}/d/b")
    drive.unlink(f"{top}/a")
    assert drive.read(f"{top}/d/b") == b"one"


@scenario()
def across_stagings(drive: Drive) -> None:
    """S4: between two stagings rename and link are EXDEV, so that programs copy."""
    one, two = staging(drive), staging(drive)
    drive.write(f"{one}/f", b"x")
    drive.mkdir(f"{one}/d")
    with refused(errno.EXDEV):
        drive.rename(f"{one}/f", f"{two}/f")
    with refused(errno.EXDEV):
        drive.rename(f"{one}/d", f"{two}/d")
    with refused(errno.EXDEV):
        drive.link(f"{one}/f", f"{two}/f")
    assert drive.contents(one) == {"f": b"x"}
    assert drive.listdir(two) == []


@scenario()
def a_refused_rename_spares_its_target(drive: Drive) -> None:
    """S4: a rename that fails leaves the file at its target, also where that is open."""
    one, two = staging(drive), staging(drive)
    drive.write(f"{one}/f", b"mine")
    drive.write(f"{two}/f", b"theirs")
    drive.chmod(f"{two}/f", 0o640)
    with drive.open(f"{two}/f") as file:
        with refused(errno.EXDEV):
            drive.rename(f"{one}/f", f"{two}/f")
        assert file.read(10, 0) == b"theirs"
        assert drive.contents(two) == {"f": b"theirs"}
        assert drive.lstat(f"{two}/f").permissions == 0o640
        # One that was removed while open does not come back.
        drive.unlink(f"{two}/f")
        with refused(errno.EXDEV):
            drive.rename(f"{one}/f", f"{two}/f")
        assert drive.listdir(two) == []
    assert drive.contents(one) == {"f": b"mine"}


@scenario()
def special_bits(drive: Drive) -> None:
    """S1, V1: setuid, setgid and sticky bits are those of a local disk, and what is made in a setgid directory too."""
    top = staging(drive)
    for name, mode in (("u", 0o4755), ("g", 0o2755), ("both", 0o6711)):
        drive.write(f"{top}/{name}", b"x")
        drive.chmod(f"{top}/{name}", mode)
        assert drive.lstat(f"{top}/{name}").permissions == mode
    drive.mkdir(f"{top}/sticky")
    drive.chmod(f"{top}/sticky", 0o1777)
    assert drive.lstat(f"{top}/sticky").permissions == 0o1777
    drive.mkdir(f"{top}/shared")
    group = 2345 if is_root() else os.getgid()
    drive.chown(f"{top}/shared", -1, group)
    drive.chmod(f"{top}/shared", 0o2775)
    drive.mkdir(f"{top}/shared/d", 0o755)
    drive.write(f"{top}/shared/d/f", b"x", mode=0o640)
    drive.symlink("f", f"{top}/shared/link")
    assert drive.lstat(f"{top}/shared/d").permissions == 0o2755
    assert drive.lstat(f"{top}/shared/d/f").permissions == 0o640
    assert {drive.lstat(f"{top}/shared/{name}").gid for name in ("d", "d/f", "link")} == {group}


@scenario()
def devices(drive: Drive) -> None:
    """S5: root can make devices; they stay closed, and refuse the commit."""
    top = staging(drive)
    label = top.rpartition("/")[0]
    if not may_make_devices():
        with refused(errno.EPERM):
            drive.mknod(f"{top}/dev", stat.S_IFCHR | 0o644)
        assert drive.listdir(top) == []
        return
    for name, kind in (("char", stat.S_IFCHR), ("block", stat.S_IFBLK)):
        drive.mknod(f"{top}/{name}", kind | 0o644)
        found = drive.lstat(f"{top}/{name}")
        assert (found.mode, found.rdev) == (kind | 0o644, os.makedev(1, 3))
    if drive.is_mounted:
        with refused(errno.EACCES):
            drive.open(f"{top}/char")
    drive.unlink(f"{top}/char")
    drive.seal(label)
    pending = eventually(lambda: [p for p in drive.state(label).pending if p.state is CommitState.BLOCKED])[0]
    assert pending.error is not None
    assert "block is a block device" in pending.error
    drive.setxattr(f"{label}/{pending.name}", "user.artifactfs.discard", b"1")
    assert drive.is_idle(label)


def may_make_devices() -> bool:
    """Whether this process may, in a directory of its own: not every root may, in a container."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            os.mknod(f"{directory}/null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        except PermissionError:
            return False
    return True


@scenario()
def fifos_refuse_the_commit(drive: Drive) -> None:
    """S5: fifos and sockets can be made; one that is still there refuses the commit, and says so."""
    top = staging(drive)
    label = top.rpartition("/")[0]
    drive.write(f"{top}/f", b"x")
    drive.mknod(f"{top}/pipe", stat.S_IFIFO | 0o644)
    drive.mknod(f"{top}/sock", stat.S_IFSOCK | 0o644)
    assert stat.S_ISFIFO(drive.lstat(f"{top}/pipe").mode)
    drive.unlink(f"{top}/sock")
    drive.seal(label)
    pending = eventually(lambda: [p for p in drive.state(label).pending if p.state is CommitState.BLOCKED])[0]
    assert pending.error is not None
    assert "pipe" in pending.error
    assert drive.read(f"{label}/{pending.name}/f") == b"x"
    drive.setxattr(f"{label}/{pending.name}", "user.artifactfs.discard", b"1")
    assert drive.is_idle(label)
    assert drive.versions(label) == []
    drive.write(f"{top}/f", b"y")
    drive.mknod(f"{top}/pipe", stat.S_IFIFO | 0o644)
    drive.unlink(f"{top}/pipe")
    assert drive.commit(label).version == "v0"


@scenario()
def removed_while_open(drive: Drive) -> None:
    """S6: a removed file works until it is closed, and is in no version."""
    top = staging(drive)
    label = top.rpartition("/")[0]
    drive.write(f"{top}/kept", b"x")
    with drive.open(f"{top}/f", os.O_RDWR | os.O_CREAT) as file:
        file.write(b"before", 0)
        drive.unlink(f"{top}/f")
        assert drive.listdir(top) == ["kept"]
        assert file.read(10, 0) == b"before"
        file.write(b"after!", 0)
        assert file.read(10, 0) == b"after!"
        assert file.stat().size_bytes == 6
        file.truncate(2)
        assert file.stat().size_bytes == 2
        file.fsync()
        drive.write(f"{top}/f", b"another")
        assert file.read(10, 0) == b"af"
        assert drive.commit(label).version == "v0"
        assert sorted(drive.listdir(f"{label}/v0")) == ["f", "kept"]
        assert file.read(10, 0) == b"af"
        file.write(b"still", 0)
        assert file.read(10, 0) == b"still"
    assert drive.contents(f"{label}/v0") == {"f": b"another", "kept": b"x"}
    assert drive.is_idle(label)
    assert drive.listdir(top) == []


@scenario()
def directory_removed_with_open_files(drive: Drive) -> None:
    """S6: a directory whose only file was removed while open can be removed, and renamed."""
    top = staging(drive)
    drive.mkdir(f"{top}/d")
    with drive.open(f"{top}/d/f", os.O_RDWR | os.O_CREAT) as file:
        file.write(b"data", 0)
        drive.unlink(f"{top}/d/f")
        drive.rename(f"{top}/d", f"{top}/e")
        assert file.stat().size_bytes == 4
        assert drive.listdir(f"{top}/e") == []
        drive.rmdir(f"{top}/e")
        assert file.read(10, 0) == b"data"
        assert drive.listdir(top) == []
    assert drive.listdir(top) == []


@scenario()
def extended_attributes(drive: Drive) -> None:
    """S7: other extended attributes cannot be set, and are not there."""
    top = staging(drive)
    drive.write(f"{top}/f", b"x")
    for path in (f"{top}/f", top):
        with refused(errno.ENOTSUP):
            drive.setxattr(path, "user.comment", b"x")
        with refused(errno.ENODATA, errno.ENOTSUP):
            drive.getxattr(path, "user.comment")
        for name in ("system.posix_acl_access", "security.selinux"):
            with refused(errno.ENOTSUP):
                drive.getxattr(path, name)
    assert drive.contents(top) == {"f": b"x"}


@scenario()
def appending(drive: Drive) -> None:
    """S8: O_APPEND appends, from several descriptors too."""
    top = staging(drive)
    drive.write(f"{top}/f", b"0")
    flags = os.O_WRONLY | os.O_APPEND
    with drive.open(f"{top}/f", flags) as one, drive.open(f"{top}/f", flags) as two:
        for number in range(50):
            one.write(b"1", 0)
            two.write(b"2", 0)
            assert drive.lstat(f"{top}/f").size_bytes == 3 + 2 * number
    assert drive.read(f"{top}/f") == b"0" + b"12" * 50


@scenario()
def exclusive_creation(drive: Drive) -> None:
    """S8: O_EXCL makes a name once."""
    top = staging(drive)
    drive.open(f"{top}/lock", EXCLUSIVE).close()
    with refused(errno.EEXIST):
        drive.open(f"{top}/lock", EXCLUSIVE)
    drive.unlink(f"{top}/lock")
    drive.open(f"{top}/lock", EXCLUSIVE).close()


@scenario()
def holes(drive: Drive) -> None:
    """S8: holes take no room while staged, read as zeros, and are in the version as zeros."""
    top = staging(drive)
    label = top.rpartition("/")[0]
    with drive.open(f"{top}/f", os.O_RDWR | os.O_CREAT) as file:
        file.write(b"end", 8 << 20)
    found = drive.lstat(f"{top}/f")
    assert found.size_bytes == (8 << 20) + 3
    assert found.blocks * 512 < 1 << 20
    with drive.open(f"{top}/f") as file:
        assert file.read(8, (8 << 20) - 5) == b"\0" * 5 + b"end"
    drive.commit(label)
    assert drive.lstat(f"{label}/v0/f").size_bytes == (8 << 20) + 3
    assert drive.read(f"{label}/v0/f") == bytes(8 << 20) + b"end"


@scenario()
def stale_times(drive: Drive) -> None:
    """S1: mtimes stay as they are while nothing changes, and a write moves them."""
    top = staging(drive)
    drive.write(f"{top}/f", b"x")
    drive.utime(f"{top}/f", (5, 5))
    assert drive.lstat(f"{top}/f").mtime_ns == drive.lstat(f"{top}/f").mtime_ns == 5
    with drive.open(f"{top}/f", os.O_WRONLY) as file:
        file.write(b"y", 0)
    eventually(lambda: drive.lstat(f"{top}/f").mtime_ns > 5)


@scenario()
def trash(drive: Drive) -> None:
    """S16: what is staged can be moved to the trash and back; no other change of the drive is possible by it."""
    label = drive.make_artifact()
    drive.write(f"{label}/staging/f", b"x")
    for name in (".Trash", ".Trash-", ".Trash-me", ".Trash-1 "):
        with refused(errno.EINVAL):
            drive.mkdir(name)
    drive.mkdir(".Trash-77", 0o700)
    with refused(errno.EEXIST):
        drive.mkdir(".Trash-77")
    assert drive.lstat(".Trash-77").permissions == 0o700
    assert ".Trash-77" not in drive.listdir("")
    drive.mkdir(".Trash-77/files")
    drive.write(".Trash-77/note", b"note")
    drive.rename(f"{label}/staging/f", ".Trash-77/files/f")
    assert drive.listdir(f"{label}/staging") == []
    assert drive.read(".Trash-77/files/f") == b"x"
    with refused(errno.EPERM):
        drive.setxattr(".Trash-77", control.COMMIT, b"")
    with refused(errno.EPERM):
        drive.rmdir(".Trash-77")
    drive.rename(".Trash-77/files/f", f"{label}/staging/f")
    drive.rename(".Trash-77/note", f"{label}/staging/note")
    drive.commit(label)
    assert drive.contents(f"{label}/v0") == {"f": b"x", "note": b"note"}
    with refused(errno.EROFS):
        drive.rename(f"{label}/v0/f", ".Trash-77/files/f")
    assert drive.listdir(".Trash-77/files") == []
