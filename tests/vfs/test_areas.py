"""Whose a staging area is: what others may have made is refused, what waits is told of and taken on request."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import artifactfs
from mount import control
from mount.area import StagingArea, area_root
from mount.areas import AreaBusy
from mount.errors import AreaRefused
from mount.settings import MountSettings
from tests.drives import DirectDrive
from tests.mount.harness import eventually
from tests.scenarios import is_root

TOP = "c/a/staging"
COMMIT = control.encode(control.CommitRequest())


@pytest.fixture
def settings(tmp_path: Path) -> MountSettings:
    """Of a local store that is there."""
    artifactfs.connect(str(tmp_path / "store")).ensure_created()
    return MountSettings(
        str(tmp_path / "store"), tmp_path / "mnt", commit_after_s=None, state_dir=tmp_path / "state", min_free_bytes=0
    )


def root_of(settings: MountSettings) -> Path:
    return area_root(artifactfs.connect(settings.url), settings)


def drive_of(settings: MountSettings, **changes: object) -> DirectDrive:
    values = {name: getattr(settings, name) for name in ("url", "mountpoint", "commit_after_s", "state_dir")}
    return DirectDrive(artifactfs.connect(settings.url), MountSettings(min_free_bytes=0, **values | changes))  # type: ignore[arg-type]


def stage(drive: DirectDrive, data: bytes = b"staged") -> None:
    drive.mkdir("c")
    drive.mkdir("c/a")
    drive.write(f"{TOP}/f", data)


def open_to_others(root: Path) -> None:
    root.mkdir(parents=True)
    root.chmod(0o750)


def of_somebody_else(root: Path) -> None:
    root.mkdir(parents=True, mode=0o700)
    os.chown(root, 12345, 12345)


def a_symlink(root: Path) -> None:
    root.parent.mkdir()
    (root.parent.parent / "elsewhere").mkdir(mode=0o700)
    root.symlink_to("../elsewhere")


@pytest.mark.parametrize("plant", [open_to_others, of_somebody_else, a_symlink])
def test_an_area_that_others_may_have_made(settings: MountSettings, plant: Callable[[Path], None]) -> None:
    """S15: it is refused, with its name, and left as it is."""
    if plant is of_somebody_else and not is_root():
        pytest.skip("only root gives directories away")
    root = root_of(settings)
    plant(root)
    with pytest.raises(AreaRefused, match=re.escape(str(root))):
        StagingArea.open(artifactfs.connect(settings.url), settings)
    assert os.listdir(root) == []


@pytest.mark.parametrize(
    "place", ["artifacts", "artifacts/c/a/staging", "artifacts/c/a/pending.1", "artifacts/c/a/pending.1/tree"]
)
def test_a_symlink_in_the_place_of_a_tree(settings: MountSettings, tmp_path: Path, place: str) -> None:
    """S15: it is refused, and nothing is touched that it leads to."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "key").write_bytes(b"secret")
    (outside / "key").chmod(0o600)
    root = root_of(settings)
    root.mkdir(parents=True, mode=0o700)
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).symlink_to(outside)
    with pytest.raises(AreaRefused, match="is no directory"):
        StagingArea.open(artifactfs.connect(settings.url), settings)
    assert (outside / "key").stat().st_mode & 0o777 == 0o600
    assert os.listdir(outside) == ["key"]


def test_moved_away_while_in_use(settings: MountSettings) -> None:
    """S15: what lies in its place is never committed."""
    with drive_of(settings) as drive:
        stage(drive)
        root = root_of(settings)
        aside = root.with_name("aside")
        root.rename(aside)
        (root / "artifacts/c/a/staging").mkdir(parents=True)
        (root / "artifacts/c/a/staging/planted").write_bytes(b"planted")
        drive.setxattr(TOP, control.COMMIT, COMMIT)
        eventually(lambda: drive.versions("c/a") == ["v0"])
        assert drive.contents("c/a/v0") == {"f": b"staged"}


def test_what_another_host_has_staged(settings: MountSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """C8: after the host was renamed it is told how to get at what waits, and it is taken when asked for."""
    monkeypatch.setattr("socket.gethostname", lambda: "before")
    with drive_of(settings) as drive:
        stage(drive)
    name = root_of(settings).name
    monkeypatch.setattr("socket.gethostname", lambda: "after")
    with drive_of(settings) as drive:
        assert not drive.exists("c")
        assert drive.area is not None
        [told] = drive.area.waiting()
        for part in ("host before", str(settings.state_dir), f"--take-staging {name}"):
            assert part in told
    with drive_of(settings, take_staging=name) as drive:
        assert drive.contents(TOP) == {"f": b"staged"}
        drive.setxattr(TOP, control.COMMIT, COMMIT)
        eventually(lambda: drive.versions("c/a") == ["v0"])
        eventually(lambda: not drive.state("c/a").pending)
    with drive_of(settings) as drive:
        assert drive.area is not None
        assert drive.area.waiting() == []


def test_an_area_in_use_is_not_told_of_nor_taken(settings: MountSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """C8: what a living mount has staged is its own."""
    monkeypatch.setattr("socket.gethostname", lambda: "one")
    with drive_of(settings) as one:
        stage(one)
        name = root_of(settings).name
        monkeypatch.setattr("socket.gethostname", lambda: "two")
        with drive_of(settings) as two:
            assert two.area is not None
            assert two.area.waiting() == []
        with pytest.raises(AreaBusy, match=name):
            drive_of(settings, take_staging=name)


def test_an_area_that_is_left_while_another_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """O12: in squirrel's layout it goes with its mount, and who takes it at that moment gets a new one, alone."""
    url = f"plain+file://{tmp_path}/store"
    artifactfs.connect(url).ensure_created()
    settings = MountSettings(url, tmp_path / "mnt", state_dir=tmp_path / "state", min_free_bytes=0)
    first = StagingArea.open(artifactfs.connect(url), settings)
    flock, left = fcntl.flock, []

    def late(fd: int, operation: int) -> None:
        if not left:
            left.append(root_of(settings))
            first.close()
            assert not left[0].exists()
        flock(fd, operation)

    monkeypatch.setattr("mount.areas.fcntl.flock", late)
    second = StagingArea.open(artifactfs.connect(url), settings)
    assert left == [root_of(settings)]
    assert left[0].exists()
    with pytest.raises(AreaBusy):
        StagingArea.open(artifactfs.connect(url), settings)
    second.close()
    assert os.listdir(tmp_path / "store/.artifactfs/store") == []


@pytest.mark.parametrize("name", ["0-0123456789abcdef", "../../etc", "", "."])
def test_an_area_that_is_not_there(settings: MountSettings, name: str) -> None:
    """C8: a name that is none is refused, and nothing is made."""
    with pytest.raises(AreaRefused, match="there is no staging area"):
        drive_of(settings, take_staging=name)
    assert not root_of(settings).parent.exists()


def test_nothing_to_take_for_other_stores() -> None:
    """C8: what is staged for other stores lies in the state directory, and is found by that."""
    settings = MountSettings("memory://areas", Path("/mnt/areas"), take_staging="0-0123456789abcdef")
    with pytest.raises(AreaRefused, match="--state-dir"):
        area_root(artifactfs.connect(settings.url), settings)
