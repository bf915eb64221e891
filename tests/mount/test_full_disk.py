"""A disk that is really full, for what is staged and for the store."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mount.control import CommitState
from tests.mount.harness import Mount, artifactfs, eventually
from tests.mount.shared import mounted
from tests.scenarios import refused

pytestmark = [pytest.mark.fuse, pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")]

DISK_BYTES = 24 << 20
LABEL = "full/disk"
SMALL = {f"small{number}": os.urandom(100_000) for number in range(10)}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "small-disk", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.fixture
def mount(disk: Path, tmp_path: Path, driver: str) -> Iterator[Mount]:
    """A store on it, which keeps no room free for others."""
    arguments = ("--commit-after", "never", "--min-free", "0", "--refresh", "0.2")
    with mounted(tmp_path / "mount", driver, *arguments, store=disk / "store") as mount:
        yield mount


def fill(disk: Path, left_bytes: int) -> Path:
    """Take all the room but so much."""
    ballast = disk / "ballast"
    with open(ballast, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - left_bytes)
    return ballast


def test_writing_and_committing_on_a_full_disk(mount: Mount, disk: Path) -> None:
    """S1, C6, C7: the writer is told; what was closed waits, readable, with the reason, until there is room again."""
    mount.expect_warning(r"cannot commit pending\.1 of full/disk")
    staging = mount.make(LABEL)
    for name, data in SMALL.items():
        (staging / name).write_bytes(data)
    ballast = fill(disk, 4 << 20)
    with refused(errno.ENOSPC), open(staging / "large", "wb", buffering=0) as file:
        for _ in range(8):
            file.write(bytes(1 << 20))
    (staging / "large").unlink()
    assert {name: (staging / name).read_bytes() for name in SMALL} == SMALL
    ballast.unlink()
    # Room for the notes of a commit, not for the bytes of the small files, which are packed together.
    ballast = fill(disk, 200_000)
    artifactfs("commit", mount / LABEL, "--no-wait")
    [pending] = eventually(lambda: [p for p in mount.state(LABEL).pending if p.state is CommitState.RETRYING])
    assert "No space left" in (pending.error or "") or "full" in (pending.error or "")
    assert str(pending.error) in artifactfs("status", mount.path).stdout
    assert {name: (mount / LABEL / "pending.1" / name).read_bytes() for name in SMALL} == SMALL
    assert not (mount / LABEL / "v0").exists()
    mount.kill9()
    mount.mount()
    ballast.unlink()
    version = mount.committed(LABEL, "v0")
    assert {path.name: path.read_bytes() for path in version.iterdir()} == SMALL
    eventually(lambda: not mount.state(LABEL).pending)
    assert mount.status().artifacts == []


def test_sealing_on_a_full_disk(mount: Mount, disk: Path) -> None:
    """C2: where not even the note of a commit can be written, the command says so and everything stays staged."""
    staging = mount.make(LABEL)
    (staging / "f").write_bytes(b"precious")
    ballast = fill(disk, 0)
    done = artifactfs("commit", mount / LABEL, check=False)
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert (staging / "f").read_bytes() == b"precious"
    assert mount.state(LABEL).pending == []
    ballast.unlink()
    assert mount.commit(LABEL)["version"] == "v0"


def test_a_copy_that_did_not_fit_is_held(disk: Path, tmp_path: Path, driver: str) -> None:
    """C21: ``cp`` was told, and what it left is no version until it is copied again."""
    big = tmp_path / "big"
    big.write_bytes(os.urandom(DISK_BYTES))
    arguments = ("--commit-after", "0.2", "--min-free", "0", "--refresh", "0.2")
    with mounted(tmp_path / "mount", driver, *arguments, store=disk / "store") as mount:
        staging = mount.make(LABEL)

        def copy() -> subprocess.CompletedProcess[str]:
            command = ["cp", big, staging / "weights.bin"]
            return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

        done = copy()
        assert done.returncode == 1
        assert "No space left on device" in done.stderr
        eventually(lambda: (staged := mount.state(LABEL).staged) is not None and staged.held is not None)
        assert "was told 'No space left on device' while writing weights.bin" in artifactfs("status", mount.path).stdout
        assert not (mount / LABEL / "v0").exists()
        os.truncate(big, 1 << 20)
        eventually(lambda: copy().returncode == 0)
        assert (mount.committed(LABEL, "v0") / "weights.bin").read_bytes() == big.read_bytes()
