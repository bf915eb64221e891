"""A store with a faulty manager, and drives on it one after the other, for tests of what a commit may meet."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import artifactfs
from artifactfs.errors import AccessDenied, StoreFull, StoreTimeout, StoreUnreachable
from artifactfs.manifest import EntryKind
from mount import committer
from mount.control import CommitState, Pending
from mount.faults import reason_of
from mount.settings import MountSettings
from tests.drives import DirectDrive
from tests.mount.harness import eventually
from tests.quick import quick_directory
from tests.vfs.faults import Faulty

LABEL = "c/a"
# What each sealed tree holds: a small file, and one large enough to be an object of its own.
TREES = [{"small": f"{n}".encode() * 50, "d/large": f"{n}large".encode() * 250_000} for n in range(2)]


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
    "memory": Fault(MemoryError(), True),
    "defect": Fault(RuntimeError("a defect"), False),
    "denied": Fault(AccessDenied("the store says no"), False),
}


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
    assert pending.error == reason_of(fault.error)
    assert (pending.next_retry is not None) == fault.passing
    return pending


def check_waiting(drive: DirectDrive, stage: Stage, fault: Fault, *, published: bool) -> None:
    """Everything is readable where it waits, shown as failed, and on disk; at most the first is a version."""
    for number, tree in enumerate(TREES, 1):
        assert drive.contents(f"{LABEL}/pending.{number}") == tree
    assert drive.state(LABEL).pending[1].state is CommitState.SEALED
    [shown] = drive.status().artifacts
    assert shown.pending[0].error == reason_of(fault.error)
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


def accepted(call: Callable[[], Any]) -> bool:
    """Whether the call is not EBUSY, which it is while a retry is under way."""
    try:
        call()
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True
