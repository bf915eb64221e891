"""What is left of staged files when the power fails: a copy of a disk in use, as its device has it at that moment."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.harness import Mount, artifactfs
from tests.mount.shared import mounted

pytestmark = [pytest.mark.fuse, pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a disk")]

LABEL = "c/a"
SIZE_BYTES = 3_000_000
ARGUMENTS = ("--commit-after", "never", "--min-free", "0", "--refresh", "0.2")


class PowerDisk:
    """An ext4 disk in a file."""

    def __init__(self, directory: Path) -> None:
        self.image = directory / "image"
        self.path = directory / "disk"
        self.path.mkdir()
        with open(self.image, "wb") as file:
            file.truncate(64 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", self.image], check=True)
        subprocess.run(["mount", "-o", "loop", self.image, self.path], check=True)

    def commit_journal(self) -> None:
        """Have the disk write what it knows of its files, as it does by itself every few seconds.

        That an unrelated file is synced does not put the bytes of others on disk.
        """
        fd = os.open(self.path / "unrelated", os.O_WRONLY | os.O_CREAT)
        try:
            os.write(fd, b"x")
            os.fsync(fd)
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def after_loss_of_power(self) -> Iterator[Path]:
        """The disk as it comes back."""
        copy, after = self.image.with_name("copy"), self.path.with_name("after")
        subprocess.run(["cp", "--sparse=always", self.image, copy], check=True)
        after.mkdir()
        subprocess.run(["mount", "-o", "loop", copy, after], check=True)
        try:
            yield after
        finally:
            subprocess.run(["umount", after], check=True)

    def close(self) -> None:
        subprocess.run(["umount", self.path], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[PowerDisk]:
    """A disk whose power can fail."""
    disk = PowerDisk(tmp_path)
    try:
        yield disk
    finally:
        disk.close()


@pytest.fixture
def mount(disk: PowerDisk, tmp_path: Path, driver: str) -> Iterator[Mount]:
    """A store on it."""
    with mounted(tmp_path / "mount", driver, *ARGUMENTS, store=disk.path / "store") as mount:
        yield mount


def staged_on(disk: Path, name: str) -> Path:
    [found] = disk.glob(f"store/staging/*/artifacts/{LABEL}/*/**/{name}")
    return found


@pytest.mark.parametrize("change", ["append", "overwrite"])
def test_a_reference_that_is_written_to(
    mount: Mount, disk: PowerDisk, tmp_path: Path, driver: str, change: str
) -> None:
    """S9: the bytes of the version are in the file, or it still stands for them; never are they zeros."""
    data = os.urandom(SIZE_BYTES)
    staging = mount.make(LABEL)
    (staging / "weights").write_bytes(data)
    mount.commit(LABEL)
    artifactfs("stage", f"{mount / LABEL}@v0")
    os.sync()
    with open(staging / "weights", "ab" if change == "append" else "r+b", buffering=0) as file:
        file.write(b"more")
    disk.commit_journal()
    with disk.after_loss_of_power() as after:
        found = staged_on(after, "weights")
        if not os.listxattr(found):
            assert found.read_bytes()[4:SIZE_BYTES] == data[4:]


def test_fdatasync_of_what_was_a_reference(mount: Mount, disk: PowerDisk) -> None:
    """S2, S9: what fdatasync was told of in a staged copy of a version survives, also when the length is as before."""
    data = os.urandom(SIZE_BYTES)
    staging = mount.make(LABEL)
    (staging / "weights").write_bytes(data)
    mount.commit(LABEL)
    artifactfs("stage", f"{mount / LABEL}@v0")
    with open(staging / "weights", "r+b", buffering=0) as file:
        file.write(b"more")
        os.fdatasync(file.fileno())
    with disk.after_loss_of_power() as after:
        found = staged_on(after, "weights")
        assert os.listxattr(found) == []
        assert found.read_bytes() == b"more" + data[4:]


@pytest.mark.parametrize("options", [(), ("--force",)], ids=["closed", "forced"])
def test_sealed_files(mount: Mount, disk: PowerDisk, options: tuple[str, ...]) -> None:
    """S2: what is sealed is on disk, also what a forced commit copies from files that are open."""
    mount.expect_warning("cannot commit pending")
    data = os.urandom(SIZE_BYTES)
    staging = mount.make(LABEL)
    # The store refuses this, so that the sealed tree stays where it is.
    (staging / "leads-out").symlink_to("/etc")
    with open(staging / "log", "wb", buffering=0) as file:
        file.write(data)
        if not options:
            file.close()
        artifactfs("commit", mount / LABEL, "--no-wait", *options)
        with disk.after_loss_of_power() as after:
            [sealed] = after.glob(f"store/staging/*/artifacts/{LABEL}/pending.1/tree/log")
            assert sealed.read_bytes() == data
