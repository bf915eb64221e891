"""Scenarios of versions: V1 to V8."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

from artifactfs.managers.commit_id import new_commit_id
from mount import control
from mount.disk import RENAME_EXCHANGE
from tests.drives import Drive
from tests.mount.harness import eventually
from tests.scenarios import is_root, refused, scenario

OLD_NS = 1_500_000_000_987_654_321
KEPT_NOT = 1_700_000_000_000_000_000


def version_of(drive: Drive, files: dict[str, bytes], label: str = "") -> str:
    """Commit files; returns the path of the version."""
    label = label or drive.make_artifact()
    for path, data in files.items():
        parts = path.split("/")
        for depth in range(1, len(parts)):
            directory = f"{label}/staging/{'/'.join(parts[:depth])}"
            if not drive.exists(directory):
                drive.mkdir(directory)
        drive.write(f"{label}/staging/{path}", data)
    return f"{label}/{drive.commit(label).version}"


@scenario()
def round_trip(drive: Drive) -> None:
    """V1: a version has the bytes, modes, times, symlinks and empty directories that were staged."""
    label = drive.make_artifact()
    top = f"{label}/staging"
    drive.mkdir(f"{top}/d")
    drive.mkdir(f"{top}/d/empty", 0o711)
    big = bytes(range(256)) * 8192
    for path, data, mode in (
        ("plain", b"hello", 0o644),
        ("d/run", b"#!", 0o750),
        ("d/big", big, 0o600),
        ("nil", b"", 0o444),
    ):
        drive.write(f"{top}/{path}", data)
        drive.chmod(f"{top}/{path}", mode)
    drive.symlink("d/run", f"{top}/link")
    drive.symlink("../nil", f"{top}/d/up")
    drive.symlink("nowhere", f"{top}/dangling")
    for number, path in enumerate(("plain", "d/run", "d/big", "nil", "link", "d/up", "d/empty", "d")):
        drive.utime(f"{top}/{path}", (OLD_NS, OLD_NS + number))
    staged = dict(drive.walk(top))
    contents = drive.contents(top)
    drive.commit(label)
    found = dict(drive.walk(f"{label}/v0"))
    assert found.keys() == staged.keys()
    for path, before in staged.items():
        after = found[path]
        size = None if stat.S_ISDIR(before.mode) else before.size_bytes
        expected_mtime = before.mtime_ns
        assert after.mode == before.mode, path
        assert after.mtime_ns == expected_mtime, path
        assert size is None or after.size_bytes == size, path
    assert drive.contents(f"{label}/v0") == contents
    assert [drive.readlink(f"{label}/v0/{p}") for p in ("link", "d/up", "dangling")] == ["d/run", "../nil", "nowhere"]
    assert drive.listdir(f"{label}/v0/d/empty") == []
    assert not drive.exists(top + "/plain")


@scenario()
def what_is_not_kept(drive: Drive) -> None:
    """V1: hard links become files of their own; setuid, setgid and sticky bits and owners are not kept."""
    label = drive.make_artifact()
    top = f"{label}/staging"
    drive.write(f"{top}/a", b"same")
    drive.link(f"{top}/a", f"{top}/b")
    drive.write(f"{top}/s", b"x")
    drive.chmod(f"{top}/s", 0o6755)
    drive.mkdir(f"{top}/d")
    drive.chmod(f"{top}/d", 0o1777)
    if is_root():
        drive.chown(f"{top}/a", 1234, 2345)
    drive.commit(label)
    a, b = drive.lstat(f"{label}/v0/a"), drive.lstat(f"{label}/v0/b")
    assert a.ino != b.ino
    assert (a.nlink, b.nlink) == (1, 1)
    assert (a.uid, a.gid) == (os.getuid(), os.getgid())
    assert drive.read(f"{label}/v0/b") == b"same"
    assert drive.lstat(f"{label}/v0/s").permissions == 0o755
    assert drive.lstat(f"{label}/v0/d").permissions == 0o777


@scenario()
def nothing_changes_under_a_version(drive: Drive) -> None:
    """V2: every change under a version is EROFS and leaves it as it was."""
    version = version_of(drive, {"f": b"one", "d/g": b"two"})
    before = [*drive.walk(version)]
    file, directory = f"{version}/f", f"{version}/d"
    with refused(errno.EROFS):
        drive.write(f"{version}/new", b"x")
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
        with refused(errno.EROFS):
            drive.open(file, flags)
    with refused(errno.EROFS):
        drive.truncate(file, 0)
    with refused(errno.EROFS):
        drive.rename(file, f"{version}/h")
    with refused(errno.EROFS):
        drive.rename(directory, f"{version}/h")
    with refused(errno.EROFS):
        drive.unlink(file)
    with refused(errno.EROFS):
        drive.rmdir(directory)
    with refused(errno.EROFS):
        drive.mkdir(f"{version}/new")
    for path in (file, directory, version):
        with refused(errno.EROFS):
            drive.chmod(path, 0o777)
        with refused(errno.EROFS):
            drive.utime(path, (OLD_NS, OLD_NS))
        if is_root():
            with refused(errno.EROFS):
                drive.chown(path, 1, 1)
    with refused(errno.EROFS):
        drive.symlink("f", f"{version}/new")
    with refused(errno.EROFS):
        drive.link(file, f"{version}/new")
    with refused(errno.EROFS):
        drive.mknod(f"{version}/new", stat.S_IFIFO | 0o644)
    with refused(errno.ENOTSUP, errno.EROFS):
        drive.setxattr(file, "user.comment", b"x")
    assert [*drive.walk(version)] == before
    assert drive.contents(version) == {"f": b"one", "d/g": b"two"}


@scenario()
def an_open_file_of_a_version_keeps_its_name(drive: Drive) -> None:
    """V2: removing or renaming a file of a version is refused while it is open, too."""
    version = version_of(drive, {"f": b"one"})
    with drive.open(f"{version}/f") as file:
        with refused(errno.EROFS, errno.EBUSY):
            drive.unlink(f"{version}/f")
        with refused(errno.EROFS, errno.EBUSY):
            drive.rename(f"{version}/f", f"{version}/g")
        assert file.read(10, 0) == b"one"
    assert drive.contents(version) == {"f": b"one"}


@scenario()
def files_only_in_staging(drive: Drive) -> None:
    """V2: a file, symlink or fifo cannot be made at the top, in a collection or in an artifact."""
    label = drive.make_artifact()
    for place in ("", label.split("/")[0] + "/", label + "/"):
        before = drive.listdir(place.rstrip("/"))
        with refused(errno.EROFS):
            drive.write(f"{place}file", b"x")
        with refused(errno.EROFS):
            drive.symlink("x", f"{place}file")
        with refused(errno.EROFS):
            drive.mknod(f"{place}file", stat.S_IFIFO | 0o644)
        with refused(errno.EROFS):
            drive.mknod(f"{place}file", stat.S_IFREG | 0o644)
        assert set(before) <= set(drive.listdir(place.rstrip("/")))
        assert "file" not in drive.listdir(place.rstrip("/"))


@scenario()
def nothing_is_renamed(drive: Drive) -> None:
    """V3: collections, artifacts, versions, aliases and staging keep their names."""
    label = drive.make_artifact()
    collection = label.split("/")[0]
    version = version_of(drive, {"f": b"one"}, label)
    drive.write(f"{label}/staging/g", b"x")
    for old, new in (
        (collection, f"{collection}x"),
        (label, f"{collection}/b"),
        (version, f"{label}/v9"),
        (version, f"{label}/staging/v"),
        (f"{label}/latest", f"{label}/newest"),
        (f"{label}/staging", f"{label}/stage"),
        (f"{label}/staging", f"{label}/staging/x"),
    ):
        with refused(errno.EPERM, errno.EINVAL):
            drive.rename(old, new)
    with refused(errno.EROFS, errno.EPERM):
        drive.rename(f"{label}/staging/g", f"{label}/g")
    with refused(errno.EROFS):
        drive.rename(f"{version}/f", f"{label}/staging/f")
    with refused(errno.EROFS):
        drive.rename(f"{label}/staging/g", f"{version}/g")
    with refused(errno.EPERM, errno.EROFS):
        drive.rename(version, f"{label}/staging", RENAME_EXCHANGE)
    assert drive.contents(f"{label}/staging") == {"g": b"x"}
    assert drive.contents(version) == {"f": b"one"}


@scenario()
def nothing_published_is_removed(drive: Drive) -> None:
    """V3: versions, aliases and artifacts with versions stay (EROFS), and so does staging (EPERM)."""
    label = drive.make_artifact()
    drive.write(f"{label}/staging/f", b"one")
    drive.commit(label, aliases=["best"])
    for path in (f"{label}/v0", label, label.split("/")[0]):
        with refused(errno.EROFS, errno.ENOTEMPTY):
            drive.rmdir(path)
    for path in (f"{label}/latest", f"{label}/best"):
        with refused(errno.EROFS):
            drive.unlink(path)
    with refused(errno.EPERM):
        drive.rmdir(f"{label}/staging")
    assert drive.read(f"{label}/best/f") == b"one"


@scenario()
def the_same_everywhere(drive: Drive) -> None:
    """V4: inode numbers, sizes and times of a version are the same in another mount, and later."""
    version = version_of(drive, {"f": b"one", "d/e/g": b"two", "h": b"x" * 3_000_000})
    before = [("", drive.lstat(version)), *drive.walk(version)]
    assert len({found.ino for _, found in before}) == len(before)
    with drive.another() as other:
        assert [("", other.lstat(version)), *other.walk(version)] == before
    assert [("", drive.lstat(version)), *drive.walk(version)] == before


@scenario()
def an_open_file_stays_on_its_version(drive: Drive) -> None:
    """V5: what is open stays readable and the same whatever is committed or deleted."""
    label = drive.make_artifact()
    data = bytes(range(256)) * 10_000
    version_of(drive, {"f": data, "g": b"small"}, label)
    with drive.open(f"{label}/latest/f") as file, drive.open(f"{label}/latest/g") as small:
        assert file.read(10, 0) == data[:10]
        version_of(drive, {"f": b"new", "g": b"newer"}, label)
        collection, artifact = label.split("/")
        drive.manager.delete_version(artifact, "v0", collection)
        assert file.read(1000, 2_000_000) == data[2_000_000:2_001_000]
        assert small.read(10, 0) == b"small"
    assert drive.read(f"{label}/latest/f") == b"new"


@scenario(local=True)
def damaged_small_files(drive: Drive) -> None:
    """V6: a small file that does not match its digest is EIO, not wrong bytes; its neighbours are readable."""
    version = version_of(drive, {"a": b"a" * 5000, "b": b"b" * 5000})
    _flip(drive, version, "a")
    with refused(errno.EIO):
        drive.read(f"{version}/a")
    assert drive.read(f"{version}/b") == b"b" * 5000


@scenario(local=True)
def damaged_large_files(drive: Drive) -> None:
    """V6: a large file whose object is too short or gone is EIO."""
    version = version_of(drive, {"a": b"a" * 3_000_000, "b": b"b" * 3_000_000})
    for name, size_bytes in (("a", 2_999_999), ("b", None)):
        path = _object_of(drive, version, name)[0]
        os.chmod(path, 0o644)
        if size_bytes is None:
            os.unlink(path)
        else:
            os.truncate(path, size_bytes)
        with refused(errno.EIO):
            drive.read(f"{version}/{name}")


def _object_of(drive: Drive, version: str, name: str) -> tuple[str, int]:
    """Where the store keeps a file."""
    assert drive.store_root is not None
    collection, artifact, number = version.split("/")
    entry = drive.manager.manifest(artifact, collection, number).find(name)
    assert entry is not None
    assert entry.object is not None
    return f"{drive.store_root}/objects/{entry.object[:2]}/{entry.object}", entry.offset


def _flip(drive: Drive, version: str, name: str) -> None:
    path, offset = _object_of(drive, version, name)
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        file.seek(offset + 17)
        file.write(b"!")


@scenario()
def latest_and_aliases(drive: Drive) -> None:
    """V8: latest is a symlink to the highest version, aliases lead where they were set; both at once."""
    label = drive.make_artifact()
    assert not drive.exists(f"{label}/latest")
    drive.write(f"{label}/staging/f", b"0")
    drive.commit(label, aliases=["best"])
    assert drive.readlink(f"{label}/latest") == "v0"
    drive.write(f"{label}/staging/f", b"1")
    drive.commit(label)
    assert drive.readlink(f"{label}/latest") == "v1"
    assert drive.readlink(f"{label}/best") == "v0"
    assert sorted(drive.listdir(label)) == ["best", "latest", "staging", "v0", "v1"]
    assert stat.S_ISLNK(drive.lstat(f"{label}/latest").mode)
    assert drive.read(f"{label}/latest/f") == b"1"
    drive.write(f"{label}/staging/f", b"2")
    drive.commit(label, aliases=["best"])
    assert drive.readlink(f"{label}/best") == "v2"


@scenario()
def commits_made_elsewhere(drive: Drive) -> None:
    """V8: versions and aliases made by another program show within the refresh time."""
    version_label = drive.make_artifact()
    version_of(drive, {"f": b"0"}, version_label)
    collection, artifact = version_label.split("/")
    assert drive.versions(version_label) == ["v0"]
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "f").write_bytes(b"elsewhere")
        tree = Path(directory)
        drive.manager.commit_tree(artifact, tree, collection, commit_id=new_commit_id(), aliases=["theirs"])
    eventually(lambda: drive.exists(f"{version_label}/v1"), what="v1")
    eventually(lambda: drive.readlink(f"{version_label}/latest") == "v1", what="latest to be v1")
    assert drive.read(f"{version_label}/latest/f") == b"elsewhere"
    eventually(lambda: drive.exists(f"{version_label}/theirs"), what="the alias")
    assert drive.readlink(f"{version_label}/theirs") == "v1"


@scenario()
def what_versions_tell(drive: Drive) -> None:
    """V1: a version's attributes tell its number, message, time, aliases and the digest of each file."""
    label = drive.make_artifact()
    drive.write(f"{label}/staging/f", b"one")
    drive.commit(label, message="first light", aliases=["best"])
    version = f"{label}/v0"
    assert drive.getxattr(version, control.VERSION) == b"v0"
    assert drive.getxattr(version, control.MESSAGE) == b"first light"
    assert drive.getxattr(version, control.ALIASES) == b'["best","latest"]'
    assert drive.getxattr(version, control.CREATED).startswith(b"20")
    collection, artifact = label.split("/")
    entry = drive.manager.manifest(artifact, collection, "v0").find("f")
    assert entry is not None
    assert drive.getxattr(f"{version}/f", control.DIGEST).decode() == entry.digest
    assert drive.getxattr(f"{version}/f", control.VERSION) == b"v0"
    with refused(errno.ENODATA):
        drive.getxattr(f"{version}/f", control.MESSAGE)
    with refused(errno.ENODATA):
        drive.getxattr(f"{label}/staging", control.VERSION)


@scenario()
def times_that_no_version_keeps(drive: Drive) -> None:
    """V1: what was changed before 1677 or after 2262 has the first or the last moment of these; it is committed."""
    label = drive.make_artifact()
    drive.mkdir(f"{label}/staging/d")
    for path, seconds in (("late", 13_569_465_600), ("early", -11_676_096_000), ("before", -1), ("d", 13_569_465_600)):
        if path != "d":
            drive.write(f"{label}/staging/{path}", path.encode())
        drive.utime(f"{label}/staging/{path}", (seconds * 10**9, seconds * 10**9))
    staged = {name: found.mtime_ns for name, found in drive.walk(f"{label}/staging")}
    assert drive.commit(label).version == "v0"
    kept = {name: max(-(1 << 63), min(mtime_ns, (1 << 63) - 1)) for name, mtime_ns in staged.items()}
    assert {name: found.mtime_ns for name, found in drive.walk(f"{label}/v0")} == kept
