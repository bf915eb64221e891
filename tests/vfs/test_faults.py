"""Every call the committer makes fails in every way: what was closed is in one version or waits, readable, in order."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
from pathlib import Path

import pytest

import artifactfs
from artifactfs.errors import ArtifactError, StoreUnreachable
from mount import control
from mount.control import CommitState
from mount.faults import reason_of
from tests.mount.harness import eventually
from tests.scenarios import refused
from tests.vfs.faults import When
from tests.vfs.faulty_stage import (
    FAULTS,
    LABEL,
    TREES,
    Fault,
    Stage,
    accepted,
    check_all_published,
    check_waiting,
    failed,
    seal_trees,
    stage,
)

__all__ = ["stage"]
CALLS = ("commit_tree", "version_info", "manifest")
# What the drive learns after a commit.
LISTINGS = ("list_collection_names", "list_artifacts", "list_version_names", "aliases")
CASES = [
    pytest.param(call, when, FAULTS[name], id=f"{call}-{when.value}-{name}")
    for call, when, name in itertools.product(CALLS, (When.BEFORE, When.AFTER), FAULTS)
]
FEW = [
    pytest.param(call, when, FAULTS[name], id=f"{call}-{when.value}-{name}")
    for call, when, name in itertools.product(CALLS, (When.BEFORE, When.AFTER), ("unreachable", "denied"))
]


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
    assert set(stage.faulty.calls) == {*CALLS, *LISTINGS}


@pytest.mark.parametrize("name", ["unreachable", "disk", "denied"])
@pytest.mark.parametrize("call", LISTINGS)
def test_a_listing_that_fails_after_the_commit(stage: Stage, call: str, name: str) -> None:
    """C6: what was committed is not tried again for it."""
    drive = stage.open()
    stage.faulty.arm(call, When.BEFORE, FAULTS[name].error)
    seal_trees(drive)
    check_all_published(drive, stage)
    assert stage.faulty.failures
    assert stage.faulty.calls.count("commit_tree") == len(TREES)


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
    assert reason_of(fault.error) in warning
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
    eventually(lambda: accepted(lambda: drive.setxattr(discard, control.DISCARD, b"1")))
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


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_hangs(stage: Stage, call: str) -> None:
    """C3, C6: while a call hangs the drive works in full; when it has run into its bound it is as any failure."""
    fault = FAULTS["timeout"]
    drive = stage.open()
    stage.faulty.arm(call, When.HANG, fault.error)
    seal_trees(drive)
    assert stage.faulty.reached.wait(60)
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
