"""Scenarios of commits: C1 to C8 as far as a program on the drive sees them."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import time

from mount import control
from mount.control import CommitState
from tests.drives import Drive
from tests.mount.harness import eventually
from tests.scenarios import COMMIT_AFTER_S, refused, scenario


@scenario(automatic=True)
def committed_when_quiet(drive: Drive) -> None:
    """C1: staging becomes a version after the quiet time, once, and is empty again."""
    label = drive.make_artifact()
    started = time.monotonic()
    drive.write(f"{label}/staging/f", b"x")
    eventually(lambda: drive.versions(label) == ["v0"])
    assert time.monotonic() - started >= COMMIT_AFTER_S
    eventually(lambda: drive.is_idle(label))
    assert drive.listdir(f"{label}/staging") == []
    assert drive.contents(f"{label}/v0") == {"f": b"x"}


@scenario(automatic=True)
def changes_postpone(drive: Drive) -> None:
    """C1: every change starts the quiet time again; what is made step by step is one version."""
    label = drive.make_artifact()
    names = [f"f{number}" for number in range(8)]
    spans: list[tuple[float, float]] = []
    for name in names:
        began = time.monotonic()
        drive.write(f"{label}/staging/{name}", b"x")
        spans.append((began, time.monotonic()))
        time.sleep(COMMIT_AFTER_S / 4)
        with contextlib.suppress(FileNotFoundError):
            drive.chmod(f"{label}/staging/{name}", 0o600)
        time.sleep(COMMIT_AFTER_S / 4)

    def found() -> list[list[str]]:
        return [sorted(drive.listdir(f"{label}/{version}")) for version in drive.versions(label)]

    eventually(lambda: [name for version in found() for name in version] == names)
    ends = itertools.accumulate(map(len, found()[:-1]))
    # A busy machine pauses between two steps for longer than the quiet time, and there it may be two versions.
    assert all(spans[end][1] - spans[end - 1][0] >= COMMIT_AFTER_S for end in ends), (found(), spans)


@scenario(automatic=True)
def open_files_postpone(drive: Drive) -> None:
    """C1: a file held open for writing postpones the commit, one open for reading does not."""
    label = drive.make_artifact()
    writer = drive.open(f"{label}/staging/f", os.O_WRONLY | os.O_CREAT)
    with drive.open(f"{label}/staging/f") as reader:
        with writer as file:
            file.write(b"begun", 0)
            time.sleep(COMMIT_AFTER_S * 4)
            assert drive.versions(label) == []
            file.write(b" done", 5)
        eventually(lambda: drive.versions(label) == ["v0"])
        assert reader.read(100, 0) == b"begun done"
    assert drive.contents(f"{label}/v0") == {"f": b"begun done"}


@scenario(automatic=True)
def truncate_then_write(drive: Drive) -> None:
    """C1: a save by truncating and writing is never cut in two."""
    label = drive.make_artifact()
    drive.write(f"{label}/staging/f", b"old")
    eventually(lambda: drive.versions(label) == ["v0"])
    with drive.open(f"{label}/staging/f", os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
        time.sleep(COMMIT_AFTER_S * 3)
        file.write(b"new", 0)
    eventually(lambda: len(drive.versions(label)) == 2)
    assert drive.read(f"{label}/v1/f") == b"new"


@scenario()
def never_by_itself(drive: Drive) -> None:
    """C1: with `never`, nothing is committed until somebody asks."""
    label = drive.make_artifact()
    drive.write(f"{label}/staging/f", b"x")
    time.sleep(COMMIT_AFTER_S * 3)
    assert drive.versions(label) == []
    assert drive.commit(label).version == "v0"


@scenario()
def on_request(drive: Drive) -> None:
    """C2: a commit on request makes a version at once and tells what it made."""
    label = drive.make_artifact()
    drive.write(f"{label}/staging/f", b"x" * 1000)
    drive.mkdir(f"{label}/staging/d")
    finished = drive.commit(label, "first")
    assert (finished.version, finished.created, finished.files) == ("v0", True, 1)
    drive.write(f"{label}/staging/g", b"y")
    drive.write(f"{label}/staging/f", b"x" * 1000)
    finished = drive.commit(label)
    assert (finished.version, finished.files, finished.deduplicated_bytes) == ("v1", 2, 1000)


@scenario()
def not_while_writing(drive: Drive) -> None:
    """C2: a request is EBUSY while a file is open for writing, and nothing has happened."""
    label = drive.make_artifact()
    with drive.open(f"{label}/staging/f", os.O_WRONLY | os.O_CREAT) as file:
        file.write(b"x", 0)
        with refused(errno.EBUSY):
            drive.commit(label)
        staged = drive.state(label).staged
        assert staged is not None
        assert (staged.open_for_writing, staged.files) == (1, 1)
    assert drive.commit(label).version == "v0"


@scenario()
def not_without_files(drive: Drive) -> None:
    """C2, C5: with nothing staged a request is ENODATA and makes nothing."""
    label = drive.make_artifact()
    with refused(errno.ENODATA):
        drive.commit(label)
    drive.write(f"{label}/staging/f", b"x")
    drive.unlink(f"{label}/staging/f")
    with refused(errno.ENODATA):
        drive.commit(label)
    with refused(errno.ENODATA):
        drive.setxattr(f"{label}/staging", control.DISCARD, b"")
    assert drive.listdir(label) == ["staging"]


@scenario()
def bad_requests(drive: Drive) -> None:
    """C2: a request that is no request is EINVAL; there is nothing to commit in a version or at the top."""
    label = drive.make_artifact()
    drive.write(f"{label}/staging/f", b"x")
    for value in (b"{", b"[]", b'{"aliases": 3}', b"\xff"):
        with refused(errno.EINVAL):
            drive.setxattr(f"{label}/staging", control.COMMIT, value)
    for place in ("", label.split("/")[0]):
        with refused(errno.EPERM):
            drive.setxattr(place, control.COMMIT, b"{}")
    drive.commit(label)
    with refused(errno.EPERM, errno.EROFS):
        drive.setxattr(f"{label}/v0", control.COMMIT, b"{}")


@scenario()
def what_is_written_after_the_seal(drive: Drive) -> None:
    """C3: what is written after a seal is in the next version and not in this one."""
    label = drive.make_artifact()
    drive.write(f"{label}/staging/f", b"0")
    ids = [drive.seal(label)]
    for number in range(1, 4):
        drive.write(f"{label}/staging/f", str(number).encode())
        drive.write(f"{label}/staging/g{number}", b"x")
        ids.append(drive.seal(label))
    results = [drive.wait_for(label, commit_id).version for commit_id in ids]
    assert results == ["v0", "v1", "v2", "v3"]
    assert [drive.contents(f"{label}/{version}") for version in results] == [
        {"f": b"0"},
        {"f": b"1", "g1": b"x"},
        {"f": b"2", "g2": b"x"},
        {"f": b"3", "g3": b"x"},
    ]


@scenario()
def names_after_the_seal(drive: Drive) -> None:
    """C4: right after a seal the same names are made anew: files by O_CREAT, and directories."""
    label = drive.make_artifact()
    top = f"{label}/staging"
    for number in range(4):
        drive.mkdir(f"{top}/d")
        drive.mkdir(f"{top}/d/e")
        drive.write(f"{top}/d/e/f", str(number).encode())
        drive.write(f"{top}/f", str(number).encode())
        assert drive.lstat(f"{top}/d/e/f").size_bytes == 1
        drive.seal(label)
        with refused(errno.ENOENT):
            drive.open(f"{top}/f")
        # What makedirs(…, exist_ok=True) and cp -r ask before they write into a directory.
        for gone in ("d", "d/e", "d/e/f"):
            assert not drive.exists(f"{top}/{gone}")
    eventually(lambda: drive.is_idle(label))
    found = [drive.contents(f"{label}/{version}") for version in drive.versions(label)]
    assert found == [{"d/e/f": str(n).encode(), "f": str(n).encode()} for n in range(4)]


@scenario(automatic=True)
def emptiness_is_no_version(drive: Drive) -> None:
    """C5: making and removing files, or touching nothing, never makes a version."""
    label = drive.make_artifact()
    # While it is open there is no commit, however long the machine pauses.
    with drive.open(f"{label}/staging/f", os.O_WRONLY | os.O_CREAT) as file:
        file.write(b"x", 0)
        drive.mkdir(f"{label}/staging/d")
        drive.rmdir(f"{label}/staging/d")
        drive.unlink(f"{label}/staging/f")
    drive.chmod(f"{label}/staging", 0o700)
    time.sleep(COMMIT_AFTER_S * 3)
    assert drive.listdir(label) == ["staging"]
    assert drive.is_idle(label)


@scenario()
def equal_content_is_no_version(drive: Drive) -> None:
    """C5: content equal to the latest version makes no new one, other content or a mode does."""
    label = drive.make_artifact()
    for mtime in (1, 2):
        drive.write(f"{label}/staging/f", b"x")
        drive.utime(f"{label}/staging/f", (mtime, mtime))
        finished = drive.commit(label)
        assert (finished.version, finished.created) == ("v0", mtime == 1)
    assert drive.versions(label) == ["v0"]
    drive.write(f"{label}/staging/f", b"x")
    drive.chmod(f"{label}/staging/f", 0o755)
    assert drive.commit(label).version == "v1"
    drive.write(f"{label}/staging/f", b"x")
    assert drive.commit(label).version == "v2"
    for created in (True, False):
        drive.write(f"{label}/staging/f", b"x")
        drive.chmod(f"{label}/staging/f", 0o600)
        finished = drive.commit(label)
        assert (finished.version, finished.created) == ("v3", created)
    assert drive.lstat(f"{label}/v3/f").permissions == 0o600


@scenario()
def directories_only(drive: Drive) -> None:
    """C5: empty directories are something to commit."""
    label = drive.make_artifact()
    drive.mkdir(f"{label}/staging/d")
    assert drive.commit(label).version == "v0"
    assert drive.listdir(f"{label}/v0") == ["d"]


@scenario()
def odd_ignore_lines(drive: Drive) -> None:
    """C9: lines that mean nothing are passed over, and a line made to take for ever takes no time."""
    label = drive.make_artifact()
    lines = [b"*.log", b"!", b"[", b"a\\", b"\xff", b"*a" * 100 + b"*b", b""]
    drive.write(f"{label}/staging/.artifactignore", b"\n".join(lines))
    for name in ("f", "a" * 200, "x.log"):
        drive.write(f"{label}/staging/{name}", b"x")
    assert drive.commit(label).version == "v0"
    assert sorted(drive.listdir(f"{label}/v0")) == [".artifactignore", "a" * 200, "f"]


@scenario()
def ignore_lines_by_reference(drive: Drive) -> None:
    """C9, S9: an .artifactignore that was filled from a version by reference counts as any other."""
    label = drive.make_artifact()
    drive.write(f"{label}/staging/.artifactignore", b"*.log\n")
    drive.commit(label)
    drive.setxattr(f"{label}/staging", control.STAGE, b"v0")
    for name in ("f", "x.log"):
        drive.write(f"{label}/staging/{name}", b"x")
    assert drive.commit(label).version == "v1"
    assert sorted(drive.listdir(f"{label}/v1")) == [".artifactignore", "f"]


@scenario()
def too_many_ignore_lines(drive: Drive) -> None:
    """C6, C9: they block the commit, and the reason names the file on the drive."""
    label = drive.make_artifact()
    drive.write(f"{label}/staging/.artifactignore", b"".join(b"a%d*b\n" % number for number in range(3000)))
    drive.seal(label)
    [pending] = eventually(lambda: [p for p in drive.state(label).pending if p.state is CommitState.BLOCKED])
    assert f"{label}/pending.1/.artifactignore has more than 2,000 lines" in (pending.error or "")
    drive.setxattr(f"{label}/pending.1", control.DISCARD, b"1")


@scenario()
def escaping_symlinks_block(drive: Drive) -> None:
    """C6: a symlink that leaves the version blocks its commit, with the reason; later trees wait for it."""
    for target in ("/etc/passwd", "../../outside", "d/../../out"):
        label = drive.make_artifact()
        drive.symlink(target, f"{label}/staging/link")
        drive.write(f"{label}/staging/f", b"x")
        drive.seal(label)
        pending = eventually(
            lambda label=label: [p for p in drive.state(label).pending if p.state is CommitState.BLOCKED]
        )[0]
        assert pending.error is not None
        assert "link" in pending.error
        assert target in pending.error
        assert [s.artifact for s in drive.status().artifacts if s.pending and f"{s.collection}/{s.artifact}" == label]
        drive.write(f"{label}/staging/g", b"y")
        drive.seal(label)
        assert sorted(drive.listdir(label)) == ["pending.1", "pending.2", "staging"]
        drive.setxattr(f"{label}/pending.1", control.DISCARD, b"1")
        eventually(lambda label=label: drive.versions(label) == ["v0"])
        assert drive.contents(f"{label}/v0") == {"g": b"y"}


@scenario()
def sealed_trees_do_not_change(drive: Drive) -> None:
    """C3: a pending tree is readable and read-only."""
    label = drive.make_artifact()
    drive.symlink("/outside", f"{label}/staging/blocks")
    drive.mkdir(f"{label}/staging/d")
    drive.write(f"{label}/staging/d/f", b"x")
    drive.seal(label)
    tree = f"{label}/pending.1"
    eventually(lambda: drive.state(label).pending[0].state is CommitState.BLOCKED)
    assert drive.contents(tree) == {"d/f": b"x"}
    for change in (
        lambda: drive.write(f"{tree}/new", b"x"),
        lambda: drive.write(f"{tree}/d/f", b"x"),
        lambda: drive.truncate(f"{tree}/d/f", 0),
        lambda: drive.unlink(f"{tree}/d/f"),
        lambda: drive.rename(f"{tree}/d", f"{tree}/e"),
        lambda: drive.rename(f"{tree}/d/f", f"{label}/staging/f"),
        lambda: drive.chmod(f"{tree}/d/f", 0o777),
        lambda: drive.utime(f"{tree}/d/f", (1, 1)),
        lambda: drive.mkdir(f"{tree}/x"),
        lambda: drive.symlink("x", f"{tree}/x"),
    ):
        with refused(errno.EROFS):
            change()
    with refused(errno.EROFS, errno.EPERM, errno.ENOTEMPTY):
        drive.rmdir(tree)
    with refused(errno.EXDEV, errno.EROFS):
        drive.link(f"{tree}/d/f", f"{label}/staging/f")
    assert drive.contents(tree) == {"d/f": b"x"}
    assert drive.listdir(f"{label}/staging") == []
    drive.setxattr(tree, control.DISCARD, b"1")


@scenario()
def discarding(drive: Drive) -> None:
    """C2, C11: discarding throws staged files away; while one is open for writing it is EBUSY."""
    label = drive.make_artifact()
    drive.write(f"{label}/staging/f", b"x")
    with drive.open(f"{label}/staging/g", os.O_WRONLY | os.O_CREAT) as file:
        file.write(b"y", 0)
        with refused(errno.EBUSY):
            drive.setxattr(f"{label}/staging", control.DISCARD, b"1")
    eventually(lambda: not (drive.state(label).staged or _nobody).open_for_writing)
    drive.setxattr(f"{label}/staging", control.DISCARD, b"1")
    assert drive.listdir(f"{label}/staging") == []
    assert drive.is_idle(label)
    drive.write(f"{label}/staging/h", b"z")
    drive.commit(label)
    assert drive.contents(f"{label}/v0") == {"h": b"z"}


_nobody = control.Staged(0, 0, 0, 0.0)


@scenario()
def commits_of_one_artifact_at_once(drive: Drive) -> None:
    """C7: the same request twice seals and commits once."""
    label = drive.make_artifact()
    drive.write(f"{label}/staging/f", b"x")
    commit_id = drive.seal(label)
    again = control.encode(control.CommitRequest(commit_id))
    # Where the first is over already there is nothing left to commit.
    with contextlib.suppress(OSError):
        drive.setxattr(f"{label}/staging", control.COMMIT, again)
    assert drive.wait_for(label, commit_id).version == "v0"
    assert drive.versions(label) == ["v0"]


FORCED = control.encode(control.CommitRequest(force=True))


@scenario()
def forced_commits(drive: Drive) -> None:
    """C10: by force, what open files hold is committed at once, and what they write later is in the next version."""
    label = drive.make_artifact()
    top = f"{label}/staging"
    drive.mkdir(f"{top}/d")
    drive.write(f"{top}/closed", b"closed")
    with drive.open(f"{top}/d/log", os.O_RDWR | os.O_CREAT) as file, drive.open(f"{top}/d/log", os.O_RDWR) as second:
        file.write(b"one ", 0)
        drive.setxattr(top, control.COMMIT, FORCED)
        eventually(lambda: drive.versions(label) == ["v0"])
        assert drive.contents(f"{label}/v0") == {"closed": b"closed", "d/log": b"one "}
        file.write(b"two ", 4)
        second.write(b"three", 8)
        assert drive.read(f"{top}/d/log") == b"one two three"
        with refused(errno.EBUSY):
            drive.commit(label)
    assert drive.commit(label).version == "v1"
    assert drive.contents(f"{label}/v1") == {"d/log": b"one two three"}
    assert drive.contents(f"{label}/v0") == {"closed": b"closed", "d/log": b"one "}


@scenario()
def forced_commits_of_linked_files(drive: Drive) -> None:
    """C10, C3: a file with two names that is open for writing does not write into the sealed tree by its other name."""
    label = drive.make_artifact()
    top = f"{label}/staging"
    before = b"before" * 300_000
    drive.write(f"{top}/a", before)
    drive.link(f"{top}/a", f"{top}/b")
    with drive.open(f"{top}/b", os.O_RDWR) as file:
        drive.setxattr(top, control.COMMIT, FORCED)
        eventually(lambda: drive.versions(label) == ["v0"])
        file.write(b"AFTER!", 0)
        file.fsync()
        with drive.another() as other:
            assert other.contents(f"{label}/v0") == {"a": before, "b": before}
    drive.setxattr(top, control.DISCARD, b"1")
