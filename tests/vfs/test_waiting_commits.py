"""Commits that wait: for their turn, for a store that takes them, for somebody to put right what blocks them."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

import artifactfs
from mount import committer, control
from mount.control import CommitState
from mount.settings import MountSettings
from tests.drives import DirectDrive
from tests.mount.harness import eventually
from tests.scenarios import refused
from tests.vfs.faults import When
from tests.vfs.faulty_stage import FAULTS, LABEL, Stage, accepted, failed, stage

__all__ = ["stage"]


def test_other_artifacts_go_on(stage: Stage) -> None:
    """C6: a blocked artifact keeps no other waiting."""
    drive = stage.open()
    drive.mkdir("c")
    for artifact, target in (("a", "/outside"), ("b", "f")):
        drive.mkdir(f"c/{artifact}")
        drive.symlink(target, f"c/{artifact}/staging/link")
        drive.seal(f"c/{artifact}")
    eventually(lambda: drive.versions("c/b") == ["v0"])
    [pending] = eventually(lambda: [p for p in drive.state(LABEL).pending if p.state is CommitState.BLOCKED])
    assert isinstance(pending.error, str)
    assert drive.readlink(f"{LABEL}/pending.1/link") == "/outside"


def test_artifacts_are_committed_beside_each_other(stage: Stage) -> None:
    """C6: different artifacts at the same time, up to a bound, and those of one in their order."""
    drive = stage.open()
    labels = [f"c/{name}" for name in "abcdef"]
    stage.faulty.arm("commit_tree", When.HANG, FAULTS["timeout"].error)
    drive.mkdir("c")
    for label, number in itertools.product(labels, range(2)):
        if number == 0:
            drive.mkdir(label)
        drive.write(f"{label}/staging/f", f"{label} {number}".encode())
        drive.seal(label)

    def under_way() -> list[list[CommitState]]:
        return [[p.state for p in drive.state(label).pending] for label in labels]

    eventually(lambda: [states[0] for states in under_way()].count(CommitState.COMMITTING) == committer.MAX_JOBS)
    assert [states[1] for states in under_way()] == [CommitState.SEALED] * len(labels)
    stage.faulty.heal()
    for label in labels:
        eventually(lambda label=label: drive.is_idle(label))
        assert [drive.read(f"{label}/v{number}/f") for number in range(2)] == [
            f"{label} {number}".encode() for number in range(2)
        ]


def test_a_name_that_the_store_refuses(tmp_path: Path) -> None:
    """C6: it blocks the commit, with the name in the reason; under another name the files are a version."""
    url = f"plain+memory://{tmp_path.name}"
    settings = MountSettings(
        url,
        tmp_path / "mnt",
        commit_after_s=None,
        refresh_s=0.0,
        state_dir=tmp_path / "state",
        cache_dir=tmp_path / "cache",
        min_free_bytes=0,
    )
    with DirectDrive(artifactfs.connect(url, single_writer=True), settings) as drive:
        drive.mkdir("c")
        drive.mkdir(LABEL)
        name = os.fsdecode(b"no-utf8-\xff")
        drive.write(f"{LABEL}/staging/{name}", b"x")
        drive.seal(LABEL)
        [pending] = eventually(lambda: [p for p in drive.state(LABEL).pending if p.state is CommitState.BLOCKED])
        assert "is not named in UTF-8" in (pending.error or "")
        assert drive.read(f"{LABEL}/pending.1/{name}") == b"x"
        assert drive.versions(LABEL) == []
        drive.write(f"{LABEL}/staging/name", drive.read(f"{LABEL}/pending.1/{name}"))
        drive.setxattr(f"{LABEL}/pending.1", control.DISCARD, b"1")
        assert drive.commit(LABEL).version == "v0"


def test_waiting_between_attempts() -> None:
    """C6: longer each time, at most a minute, for as many attempts as it takes, and not all at the same moment."""
    delays = [[committer.retry_delay_s(attempts) for _ in range(50)] for attempts in (1, 2, 3, 9, 10, 100, 10**6)]
    longest = [1.0, 2.0, 4.0, 60.0, 60.0, 60.0, 60.0]
    for some, bound in zip(delays, longest, strict=True):
        assert bound / 2 <= min(some) < max(some) <= bound


def test_a_message_that_comes_later(stage: Stage) -> None:
    """C13: what was sealed by itself takes a message while it waits, not while it is committed."""
    drive = stage.open()
    stage.faulty.arm("commit_tree", When.HANG, FAULTS["unreachable"].error)
    seal_automatically(drive)
    assert stage.faulty.reached.wait(60)
    request = control.encode(control.CommitRequest("", "later", ["best"]))
    with refused(errno.EBUSY):
        drive.setxattr(f"{LABEL}/pending.1", control.COMMIT, request)
    stage.faulty.release()
    failed(drive, FAULTS["unreachable"])
    eventually(lambda: accepted(lambda: drive.setxattr(f"{LABEL}/pending.1", control.COMMIT, request)))
    with refused(errno.EPERM, errno.EBUSY):
        drive.setxattr(f"{LABEL}/pending.1", control.COMMIT, request)
    stage.faulty.heal()
    eventually(lambda: drive.is_idle(LABEL), what=str(drive.state(LABEL)))
    [finished] = drive.state(LABEL).finished
    assert (finished.version, finished.automatic, finished.message_recorded) == ("v0", False, True)
    assert artifactfs.connect(stage.store).version_info("a", "c").message == "later"
    assert drive.readlink(f"{LABEL}/best") == "v0"


def test_a_message_that_comes_too_late(stage: Stage) -> None:
    """C7, C13: the attempt whose answer was lost had made the version; it stays the one, and gets the message."""
    drive = stage.open()
    stage.faulty.arm("commit_tree", When.AFTER, FAULTS["unreachable"].error)
    seal_automatically(drive)
    failed(drive, FAULTS["unreachable"])
    request = control.encode(control.CommitRequest("", "later", ["best"]))
    eventually(lambda: accepted(lambda: drive.setxattr(f"{LABEL}/pending.1", control.COMMIT, request)))
    stage.faulty.heal()
    eventually(lambda: drive.is_idle(LABEL), what=str(drive.state(LABEL)))
    [finished] = drive.state(LABEL).finished
    assert (finished.version, finished.message_recorded) == ("v0", True)
    assert [info.message for info in artifactfs.connect(stage.store).list_versions("a", "c")] == ["later"]
    assert drive.getxattr(f"{LABEL}/v0", control.MESSAGE) == b"later"
    assert drive.readlink(f"{LABEL}/best") == "v0"


def seal_automatically(drive: DirectDrive) -> None:
    """Seal a tree as the end of its quiet time does."""
    for path in ("c", LABEL):
        drive.mkdir(path)
    drive.write(f"{LABEL}/staging/f", b"x")
    assert drive.area is not None
    drive.area.artifact("c", "a").seal(control.CommitRequest(), automatic=True)
