"""A disk that goes away beneath a mounted local store, and comes back."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import artifactfs as library
from mount.control import CommitState
from tests.mount.harness import Mount, artifactfs, eventually
from tests.mount.shared import mounted
from tests.scenarios import refused

pytestmark = [pytest.mark.fuse, pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a disk")]

LABEL = "c/a"
GONE = "was there and is gone"


class Disk:
    """A disk that can be taken away from its place, even while it is in use, and put there again."""

    def __init__(self, directory: Path) -> None:
        self.place = directory / "disk"
        self._kept = directory / "kept"
        for path in (self.place, self._kept):
            path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64M", "disk", self._kept], check=True)
        self.put()

    def put(self) -> None:
        subprocess.run(["mount", "--bind", self._kept, self.place], check=True)

    def take(self) -> None:
        subprocess.run(["umount", "-l", self.place], check=True)

    def close(self) -> None:
        subprocess.run(["umount", "-l", self.place], check=False)
        subprocess.run(["umount", "-l", self._kept], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    try:
        yield disk
    finally:
        disk.close()


@pytest.fixture(params=["", "plain+"], ids=["native", "plain"])
def mount(disk: Disk, tmp_path: Path, driver: str, request: pytest.FixtureRequest) -> Iterator[Mount]:
    """A store on it, whose every listing is asked for again after 0.2 s."""
    arguments = ("--commit-after", "never", "--min-free", "0", "--refresh", "0.2")
    store = f"{request.param}file://{disk.place}/store"
    with mounted(tmp_path / "mount", driver, *arguments, store=store) as mount:
        mount.expect_warning(GONE)
        yield mount


def test_nothing_is_lost_or_begun_anew_while_the_disk_is_away(mount: Mount, disk: Disk) -> None:
    """O1, O8, C7: what is known is shown, the unknown is EIO, a commit waits, and is made exactly once."""
    staging = mount.make(LABEL)
    (staging / "f").write_bytes(b"first")
    mount.commit(LABEL)
    (mount.make("c/other") / "f").write_bytes(b"other")
    mount.commit("c/other")
    assert (mount / LABEL / "v0" / "f").read_bytes() == b"first"
    assert os.listdir(mount.path) == ["c"]
    assert "v0" in os.listdir(mount / LABEL)
    disk.take()
    assert os.listdir(disk.place) == []
    (staging / "g").write_bytes(b"second")
    artifactfs("commit", mount / LABEL, "--no-wait")
    [pending] = eventually(lambda: [p for p in mount.state(LABEL).pending if p.state is CommitState.RETRYING])
    assert GONE in (pending.error or "")
    assert "c" in os.listdir(mount.path)
    assert "v0" in os.listdir(mount / LABEL)
    assert (mount / LABEL / "v0" / "f").read_bytes() == b"first"
    assert (mount / LABEL / "pending.1" / "g").read_bytes() == b"second"
    with refused(errno.EIO):
        os.listdir(mount / "c/other/v0")  # not looked into yet
    (staging / "h").write_bytes(b"third")
    # What was listed just before is believed for `--refresh`.
    eventually(lambda: "v0" in os.listdir(mount / LABEL) and not mount.status().reachable)
    assert os.listdir(disk.place) == []
    disk.put()
    assert (mount.committed(LABEL, "v1", 70.0) / "g").read_bytes() == b"second"
    assert mount.commit(LABEL)["version"] == "v2"
    assert mount.status().reachable
    manager = library.connect(mount.store)
    assert [info.version for info in manager.list_versions("a", "c")] == ["v0", "v1", "v2"]


def test_a_mount_that_ends_while_the_disk_is_away_leaves_everything_for_the_next(mount: Mount, disk: Disk) -> None:
    """C8, O8: what was staged and sealed meanwhile lies where the store is."""
    staging = mount.make(LABEL)
    (staging / "f").write_bytes(b"first")
    disk.take()
    artifactfs("commit", mount / LABEL, "--no-wait")
    eventually(lambda: [p for p in mount.state(LABEL).pending if p.state is CommitState.RETRYING])
    (staging / "g").write_bytes(b"second")
    mount.kill9()
    assert os.listdir(disk.place) == []
    disk.put()
    mount.mount()
    assert (mount.committed(LABEL, "v0") / "f").read_bytes() == b"first"
    assert (staging / "g").read_bytes() == b"second"


def test_a_store_that_is_moved_away(mount: Mount, disk: Disk) -> None:
    """O1, O8: the same goes for a directory that somebody renames, and makes again."""
    store = disk.place / "store"
    staging = mount.make(LABEL)
    (staging / "f").write_bytes(b"first")
    mount.commit(LABEL)
    store.rename(disk.place / "moved")
    store.mkdir()
    (staging / "g").write_bytes(b"second")
    artifactfs("commit", mount / LABEL, "--no-wait")
    eventually(lambda: [p for p in mount.state(LABEL).pending if p.state is CommitState.RETRYING])
    assert os.listdir(store) == []
    store.rmdir()
    (disk.place / "moved").rename(store)
    assert (mount.committed(LABEL, "v1", 70.0) / "g").read_bytes() == b"second"


@pytest.mark.parametrize(
    ("arguments", "url"), [((), "as it was"), (("--read-only",), "as it was"), ((), "without a layout")]
)
def test_a_mount_while_the_disk_is_away_is_refused(
    mount: Mount, disk: Disk, arguments: tuple[str, ...], url: str
) -> None:
    """O8: nothing is begun in the directory beneath, whatever layout is asked for, and nothing shows as empty."""
    mount.expect_warning("holds no store now")
    (mount.make(LABEL) / "f").write_bytes(b"first")
    mount.commit(LABEL)
    mount.umount()
    disk.take()
    store = mount.store
    if url != "as it was":
        mount.store = store.removeprefix("plain+")
    told = mount.mount("--min-free", "0", *arguments, check=False)
    assert told.returncode != 0
    assert f"{disk.place}/store held " in told.stderr
    assert "mount its disk" in told.stderr
    if not store.startswith("plain+"):
        disk.put()
        assert library.connect(store).store_id in told.stderr
        disk.take()
    assert os.listdir(disk.place) == []
    disk.put()
    mount.store = store
    mount.mount("--min-free", "0", *arguments)
    assert (mount / LABEL / "v0" / "f").read_bytes() == b"first"


def test_a_new_store_in_the_place_of_one_that_is_gone(mount: Mount, disk: Disk) -> None:
    """O8: it is begun when the note that the refusal names is removed; another store that is there is mounted."""
    mount.expect_warning("holds no store now")
    mount.umount()
    (disk.place / "store").rename(disk.place / "old")
    told = mount.mount(check=False)
    [note] = (mount.state_dir / "stores").iterdir()
    assert str(note) in told.stderr
    assert not (disk.place / "store").exists()
    note.unlink()
    mount.mount()
    (mount.make(LABEL) / "f").write_bytes(b"new")
    mount.commit(LABEL)
    mount.umount()
    (disk.place / "store").rename(disk.place / "new")
    (disk.place / "old").rename(disk.place / "store")
    mount.mount()
    assert os.listdir(mount.path) == []
