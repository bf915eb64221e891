"""Every call the committer makes fails in every way: what was closed is in one version or waits, readable, in order."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import artifactfs
from artifactfs.errors import AccessDenied, ArtifactError, StoreFull, StoreTimeout, StoreUnreachable
from artifactfs.manifest import EntryKind
from mount import committer, control
from mount.control import CommitState, Pending
from mount.settings import MountSettings
from tests.drives import DirectDrive
from tests.mount.harness import eventually
from tests.quick import quick_directory
from tests.scenarios import refused
from tests.vfs.faults import Faulty, When

LABEL = "c/a"
# What each sealed tree holds: a small file, one large enough to be an object of its own, and a symlink.
TREES = [{"small": f"{n}".encode() * 50, "d/large": f"{n}large".encode() * 250_000} for n in range(2)]
CALLS = ("commit_tree", "version_info", "manifest")


class Fault(NamedTuple):
    """An error, and whether it can pass by itself."""

    error: Exception
    passing: bool


FAULTS = {
    "unreachable": Fault(StoreUnreachable("no route to the store"), True),
    "timeout": Fault(StoreTimeout("no answer within the bound"), True),
    "full": Fault(StoreFull("no room left in the store"), True),
    "quota": Fault(OSError(errno.EDQUOT, "Disk quota exceeded"), True),
    "disk": Fault(OSError(errno.ENOSPC, "No space left on device"), True),
    "defect": Fault(RuntimeError("a defect"), True),
    "silent": Fault(ZeroDivisionError(), True),
    "denied": Fault(AccessDenied("the store says no"), False),
}
CASES = [
    pytest.param(call, when, FAULTS[name], id=f"{call}-{when.value}-{name}")
    for call, when, name in itertools.product(CALLS, (When.BEFORE, When.AFTER), FAULTS)
]
FEW = [
    pytest.param(call, when, FAULTS[name], id=f"{call}-{when.value}-{name}")
    for call, when, name in itertools.product(CALLS, (When.BEFORE, When.AFTER), ("unreachable", "denied"))
]

Open = Callable[..., DirectDrive]


class Stage:
    """A store, one drive after the other on it, and the faulty manager of the latest."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._drive: DirectDrive | None = None
        self.store = str(directory / "store")
        self.faulty = Faulty(artifactfs.connect(self.store))
        artifactfs.connect(self.store).ensure_created()

    def open(self) -> DirectDrive:
        """End the drive before this one and open the next on what it left."""
        self.close()
        self.faulty = Faulty(artifactfs.connect(self.store))
        settings = MountSettings(
            self.store,
            self._directory / "mnt",
            commit_after_s=None,
            refresh_s=0.0,
            state_dir=self._directory / "state",
            min_free_bytes=0,
        )
        self._drive = DirectDrive(self.faulty, settings)  # type: ignore[arg-type]
        return self._drive

    def close(self) -> None:
        """As the daemon ends; a call that hangs runs into its bound."""
        self.faulty.release()
        if self._drive is not None:
            self._drive.close()
            self._drive = None

    def versions(self) -> list[dict[str, bytes]]:
        """What another program finds in the store, oldest first; no commit made two of them."""
        manager = artifactfs.connect(self.store)
        if not manager.exists_in_collection("a", "c"):
            return []
        infos = manager.list_versions("a", "c")
        assert len({info.commit_id for info in infos}) == len(infos)
        found = []
        for info in infos:
            files = [entry for entry in manager.manifest("a", "c", info.version) if entry.kind is EntryKind.FILE]
            found.append({entry.path: manager.read_entry(info, entry) for entry in files})
        return found


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """Retries come at once."""
    monkeypatch.setattr(committer, "FIRST_RETRY_S", 0.01)
    with quick_directory() as directory, contextlib.closing(Stage(directory)) as made:
        yield made


def seal_trees(drive: DirectDrive) -> None:
    """Seal every one of TREES, while the first cannot be committed."""
    for path in ("c", LABEL):
        drive.mkdir(path)
    for tree in TREES:
        drive.mkdir(f"{LABEL}/staging/d")
        for path, data in tree.items():
            drive.write(f"{LABEL}/staging/{path}", data)
        drive.seal(LABEL)


def failed(drive: DirectDrive, fault: Fault, attempts: int = 1) -> Pending:
    """Wait for the first sealed tree to have failed so often and to say why."""
    state = CommitState.RETRYING if fault.passing else CommitState.BLOCKED
    pending = eventually(
        lambda: next((p for p in drive.state(LABEL).pending[:1] if p.state is state and p.attempts >= attempts), None),
        what=f"a failure of pending.1: {drive.state(LABEL)}",
    )
    assert pending.name == "pending.1"
    assert pending.error == (str(fault.error) or type(fault.error).__name__)
    assert (pending.next_retry is not None) == fault.passing
    return pending


def check_waiting(drive: DirectDrive, stage: Stage, fault: Fault, *, published: bool) -> None:
    """Everything is readable where it waits, shown as failed, and on disk; at most the first is a version."""
    for number, tree in enumerate(TREES, 1):
        assert drive.contents(f"{LABEL}/pending.{number}") == tree
    assert drive.state(LABEL).pending[1].state is CommitState.SEALED
    [shown] = drive.status().artifacts
    assert shown.pending[0].error == (str(fault.error) or type(fault.error).__name__)
    assert drive.area is not None
    for number, tree in enumerate(TREES, 1):
        on_disk = drive.area.root / f"artifacts/{LABEL}/pending.{number}/tree"
        assert {path: (on_disk / path).read_bytes() for path in tree} == tree
    assert stage.versions() == (TREES[:1] if published else [])


def check_all_published(drive: DirectDrive, stage: Stage) -> None:
    """Each tree is one version, in order, and nothing is left of it here."""
    eventually(lambda: drive.is_idle(LABEL), what=str(drive.state(LABEL)))
    assert stage.versions() == TREES
    assert drive.versions(LABEL) == ["v0", "v1"]
    assert [drive.contents(f"{LABEL}/v{number}") for number in range(2)] == TREES
    assert drive.area is not None
    own = drive.area.root / "artifacts" / LABEL
    eventually(lambda: set(os.listdir(own)) <= {"staging"}, what=str(os.listdir(own)))


def is_published(call: str, when: When) -> bool:
    """Whether the first version is in the store although its commit fails."""
    return call != "commit_tree" or when is When.AFTER


def warnings(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    """What the log says of a sealed tree."""
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and f"{name} of" in r.getMessage()]


def test_these_are_all_the_calls(stage: Stage) -> None:
    """The calls that fail here are those the committer makes."""
    drive = stage.open()
    seal_trees(drive)
    check_all_published(drive, stage)
    assert set(stage.faulty.calls) == set(CALLS)


@pytest.mark.parametrize(("call", "when", "fault"), CASES)
def test_failed_and_tried_again(
    stage: Stage, call: str, when: When, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    """C6, C7: the reason is shown, and told to the log once; then retrying gives exactly one version each."""
    drive = stage.open()
    stage.faulty.arm(call, when, fault.error)
    seal_trees(drive)
    failed(drive, fault, attempts=3 if fault.passing else 1)
    check_waiting(drive, stage, fault, published=is_published(call, when))
    if not fault.passing:
        drive.setxattr(f"{LABEL}/pending.1", control.RETRY, b"1")
        failed(drive, fault, attempts=2)
    [warning] = warnings(caplog, "pending.1")
    assert str(fault.error) in warning
    assert warnings(caplog, "pending.2") == []
    stage.faulty.heal()
    if drive.state(LABEL).pending:
        # It may have been tried by itself in between.
        with contextlib.suppress(FileNotFoundError):
            drive.setxattr(f"{LABEL}/pending.1", control.RETRY, b"1")
    check_all_published(drive, stage)


@pytest.mark.parametrize(("call", "when", "fault"), FEW)
def test_failed_and_restarted(stage: Stage, call: str, when: When, fault: Fault) -> None:
    """C7, C8: the next daemon finds every tree, in a failing store too, and publishes each once when it can."""
    drive = stage.open()
    stage.faulty.arm(call, when, fault.error)
    seal_trees(drive)
    failed(drive, fault)
    stage.close()
    still = stage.open()
    stage.faulty.arm(call, when, fault.error)
    drive = still
    if fault.passing:
        # The daemon may have been faster than the fault.
        eventually(lambda: not drive.state(LABEL).pending or drive.state(LABEL).pending[0].attempts > 1)
    stage.close()
    check_all_published(stage.open(), stage)


@pytest.mark.parametrize(("call", "when", "fault"), FEW)
def test_failed_and_discarded(stage: Stage, call: str, when: When, fault: Fault) -> None:
    """C6: discarding takes away that tree only; the one behind it is committed, once."""
    drive = stage.open()
    stage.faulty.arm(call, when, fault.error)
    seal_trees(drive)
    failed(drive, fault)
    discard = f"{LABEL}/pending.1"
    eventually(lambda: _accepted(lambda: drive.setxattr(discard, control.DISCARD, b"1")))
    with refused(errno.ENOENT):
        drive.listdir(discard)
    assert drive.contents(f"{LABEL}/pending.2") == TREES[1]
    if not fault.passing:
        # A retry leaves an attempt under way alone, and that one still meets the fault.
        eventually(lambda: drive.state(LABEL).pending[0].state is CommitState.BLOCKED)
    stage.faulty.heal()
    with contextlib.suppress(FileNotFoundError):
        drive.setxattr(f"{LABEL}/pending.2", control.RETRY, b"1")
    eventually(lambda: drive.is_idle(LABEL), what=str(drive.state(LABEL)))
    assert stage.versions() == (TREES if is_published(call, when) else TREES[1:])


def _accepted(call: Callable[[], Any]) -> bool:
    """Whether the call is not EBUSY, which it is while a retry is under way."""
    try:
        call()
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_hangs(stage: Stage, call: str) -> None:
    """C3, C6: while a call hangs the drive works in full; when it has run into its bound it is as any failure."""
    fault = FAULTS["timeout"]
    drive = stage.open()
    stage.faulty.arm(call, When.HANG, fault.error)
    seal_trees(drive)
    assert stage.faulty.reached.wait(20)
    assert [p.state for p in drive.state(LABEL).pending] == [CommitState.COMMITTING, CommitState.SEALED]
    for number, tree in enumerate(TREES, 1):
        assert drive.contents(f"{LABEL}/pending.{number}") == tree
    with refused(errno.EBUSY):
        drive.setxattr(f"{LABEL}/pending.1", control.DISCARD, b"1")
    drive.write(f"{LABEL}/staging/f", b"meanwhile")
    assert drive.contents(f"{LABEL}/staging") == {"f": b"meanwhile"}
    drive.unlink(f"{LABEL}/staging/f")
    stage.faulty.release()
    failed(drive, fault)
    check_waiting(drive, stage, fault, published=call != "commit_tree")
    stage.faulty.heal()
    check_all_published(drive, stage)


@pytest.mark.parametrize("when", [When.BEFORE, When.AFTER])
def test_another_host_commits_in_between(stage: Stage, when: When, tmp_path: Path) -> None:
    """C6, C7: versions of others between a failure and its retry stand between nobody's files and their version."""
    fault = FAULTS["unreachable"]
    drive = stage.open()
    stage.faulty.arm("commit_tree", when, fault.error)
    seal_trees(drive)
    failed(drive, fault)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "f").write_bytes(b"theirs")
    other = artifactfs.connect(stage.store)
    other.commit_tree("a", theirs, "c", commit_id="0" * 32)
    stage.faulty.heal()
    eventually(lambda: drive.is_idle(LABEL), what=str(drive.state(LABEL)))
    first = [TREES[0], {"f": b"theirs"}] if when is When.AFTER else [{"f": b"theirs"}, TREES[0]]
    assert stage.versions() == [*first, TREES[1]]


def test_its_version_was_deleted_in_between(stage: Stage) -> None:
    """C7: a version that others deleted before it was acknowledged does not rise again; the files wait, with why."""
    fault = FAULTS["unreachable"]
    drive = stage.open()
    stage.faulty.arm("manifest", When.BEFORE, fault.error)
    seal_trees(drive)
    failed(drive, fault)
    artifactfs.connect(stage.store).delete_version("a", "v0", "c")
    stage.faulty.heal()
    pending = eventually(
        lambda: next((p for p in drive.state(LABEL).pending[:1] if p.state is CommitState.BLOCKED), None)
    )
    assert pending.error is not None
    assert "v0" in pending.error
    assert drive.contents(f"{LABEL}/pending.1") == TREES[0]
    assert stage.versions() == []
    drive.setxattr(f"{LABEL}/pending.1", control.DISCARD, b"1")
    eventually(lambda: drive.is_idle(LABEL))
    assert stage.versions() == TREES[1:]
    assert drive.versions(LABEL) == ["v1"]


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
    """C6: longer each time, at most 5 minutes, for as many attempts as it takes, and not all at the same moment."""
    delays = [[committer.retry_delay_s(attempts) for _ in range(50)] for attempts in (1, 2, 3, 9, 10, 100, 10**6)]
    longest = [1.0, 2.0, 4.0, 256.0, 300.0, 300.0, 300.0]
    for some, bound in zip(delays, longest, strict=True):
        assert bound / 2 <= min(some) < max(some) <= bound


def test_bytes_by_reference_that_cannot_be_read(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """C6, C7: where the manager takes no references, bytes are read for the commit; that failing loses nothing."""
    drive = stage.open()
    stage.faulty.heal()
    seal_trees(drive)
    check_all_published(drive, stage)
    monkeypatch.setattr(type(artifactfs.connect(stage.store)), "takes_references", False)
    drive.setxattr(f"{LABEL}/staging", control.STAGE, b"v0")
    drive.write(f"{LABEL}/staging/more", b"more")
    error: ArtifactError = StoreUnreachable("no route to the store")
    stage.faulty.arm("local_range", When.BEFORE, error)
    drive.seal(LABEL)
    eventually(lambda: stage.faulty.failures > 1)
    assert drive.read(f"{LABEL}/pending.1/small") == TREES[0]["small"]
    assert drive.state(LABEL).pending[0].error == str(error)
    stage.faulty.heal()
    eventually(lambda: drive.is_idle(LABEL), what=str(drive.state(LABEL)))
    assert stage.versions() == [*TREES, TREES[0] | {"more": b"more"}]


def test_a_message_that_comes_later(stage: Stage) -> None:
    """C13: what was sealed by itself takes a message while it waits, not while it is committed."""
    drive = stage.open()
    stage.faulty.arm("commit_tree", When.HANG, FAULTS["unreachable"].error)
    seal_automatically(drive)
    assert stage.faulty.reached.wait(20)
    request = control.encode(control.CommitRequest("", "later", ["best"]))
    with refused(errno.EBUSY):
        drive.setxattr(f"{LABEL}/pending.1", control.COMMIT, request)
    stage.faulty.release()
    failed(drive, FAULTS["unreachable"])
    eventually(lambda: _accepted(lambda: drive.setxattr(f"{LABEL}/pending.1", control.COMMIT, request)))
    with refused(errno.EPERM, errno.EBUSY):
        drive.setxattr(f"{LABEL}/pending.1", control.COMMIT, request)
    stage.faulty.heal()
    eventually(lambda: drive.is_idle(LABEL), what=str(drive.state(LABEL)))
    [finished] = drive.state(LABEL).finished
    assert (finished.version, finished.automatic, finished.message_recorded) == ("v0", False, True)
    assert artifactfs.connect(stage.store).version_info("a", "c").message == "later"
    assert drive.readlink(f"{LABEL}/best") == "v0"


def test_a_message_that_comes_too_late(stage: Stage) -> None:
    """C7, C13: the attempt whose answer was lost had made the version; it stays the one, and the answer says so."""
    drive = stage.open()
    stage.faulty.arm("commit_tree", When.AFTER, FAULTS["unreachable"].error)
    seal_automatically(drive)
    failed(drive, FAULTS["unreachable"])
    request = control.encode(control.CommitRequest("", "later", ["best"]))
    eventually(lambda: _accepted(lambda: drive.setxattr(f"{LABEL}/pending.1", control.COMMIT, request)))
    stage.faulty.heal()
    eventually(lambda: drive.is_idle(LABEL), what=str(drive.state(LABEL)))
    [finished] = drive.state(LABEL).finished
    assert (finished.version, finished.message_recorded) == ("v0", False)
    assert [info.message for info in artifactfs.connect(stage.store).list_versions("a", "c")] == [""]
    assert drive.readlink(f"{LABEL}/best") == "v0"


def seal_automatically(drive: DirectDrive) -> None:
    """Seal a tree as the end of its quiet time does."""
    for path in ("c", LABEL):
        drive.mkdir(path)
    drive.write(f"{LABEL}/staging/f", b"x")
    assert drive.area is not None
    drive.area.artifact("c", "a").seal(control.CommitRequest(), automatic=True)
