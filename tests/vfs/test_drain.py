"""The end of a daemon, without one: what the committer does in its last seconds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from artifactfs.errors import StoreUnreachable
from artifactfs.managers.base import CommitResult
from artifactfs.managers.filesystem import FileSystemArtifactManager
from mount.area import StagingArea
from mount.committer import Committer
from mount.settings import MountSettings
from mount.tree import Caller


class Unreachable(FileSystemArtifactManager):
    """A store that can be listed and does not take commits while `down`."""

    down = True

    def commit_tree(self, *args: Any, **options: Any) -> CommitResult:
        if self.down:
            raise StoreUnreachable("the store is down")
        return super().commit_tree(*args, **options)


@pytest.fixture
def settings(tmp_path: Path) -> MountSettings:
    """Nothing is committed by itself within a test."""
    return MountSettings(str(tmp_path / "store"), tmp_path, commit_after_s=1000.0, state_dir=tmp_path / "state")


@pytest.fixture
def manager(settings: MountSettings) -> Unreachable:
    """A store that is down."""
    manager = Unreachable(settings.url)
    manager.ensure_created()
    return manager


def staged(manager: Unreachable, settings: MountSettings) -> tuple[StagingArea, Committer]:
    """An area with one staged file, and its committer at work."""
    area = StagingArea.open(manager, settings)
    committer = Committer(area, manager, settings, on_commit=lambda *_: None)
    committer.start()
    tree = area.artifact("c", "a").staged
    handle = tree.create("f", 0o1, 0o644, Caller(0, 0))
    handle.write(b"x", 0)
    handle.close()
    return area, committer


def test_what_cannot_be_committed_in_time_is_left(manager: Unreachable, settings: MountSettings) -> None:
    """C12: a drain ends after its time, says what is left, and the next daemon commits it."""
    area, committer = staged(manager, settings)
    started = time.monotonic()
    assert committer.drain(0.5, give_up=lambda: False) == ["c/a"]
    assert 0.4 < time.monotonic() - started < 30
    committer.stop(5.0)
    area.close()
    manager.down = False
    area = StagingArea.open(manager, settings)
    committer = Committer(area, manager, settings, on_commit=lambda *_: None)
    committer.start()
    assert committer.drain(20.0, give_up=lambda: False) == []
    committer.stop(5.0)
    area.close()
    assert manager.list_version_names("a", "c") == ["v0"]


def test_a_second_signal_cuts_it_short(manager: Unreachable, settings: MountSettings) -> None:
    """C12: whoever is in a hurry need not wait for the whole time."""
    area, committer = staged(manager, settings)
    started = time.monotonic()
    assert committer.drain(60.0, give_up=lambda: time.monotonic() - started > 0.3) == ["c/a"]
    assert time.monotonic() - started < 30
    committer.stop(5.0)
    area.close()


def test_leaving_commits_nothing(manager: Unreachable, settings: MountSettings) -> None:
    """C12: told to leave it, a drain neither seals nor waits."""
    manager.down = False
    area, committer = staged(manager, settings)
    committer.leave()
    assert committer.drain(60.0, give_up=lambda: False) == ["c/a"]
    committer.stop(5.0)
    area.close()
    assert manager.list_collection_names() == []


@pytest.mark.parametrize("how", ["taken back", "lapsed"])
def test_leaving_that_came_to_nothing(
    manager: Unreachable, settings: MountSettings, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C12: when no unmount followed, the end of the daemon commits as ever."""
    manager.down = False
    area, committer = staged(manager, settings)
    if how == "lapsed":
        monkeypatch.setattr("mount.committer.LEAVE_S", 0.0)
    committer.leave()
    if how == "taken back":
        committer.leave(is_meant=False)
    assert committer.drain(60.0, give_up=lambda: False) == []
    committer.stop(5.0)
    area.close()
    assert manager.list_version_names("a", "c") == ["v0"]
