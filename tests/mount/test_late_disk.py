"""Staging on a disk that tells late that it did not keep what was written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mount import disk, mounts
from tests.mount import late_disk
from tests.mount.harness import EVENTUALLY_S, Mount, eventually
from tests.mount.shared import mounted
from tests.scenarios import refused

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory, driver: str) -> Iterator[Mount]:
    """A store on such a disk."""
    directory = tmp_path_factory.mktemp("late")
    behind, lower = directory / "behind", directory / "lower"
    behind.mkdir()
    lower.mkdir()
    serving = subprocess.Popen([sys.executable, late_disk.__file__, behind, lower])
    try:
        eventually(lambda: mounts.entry_at(lower) is not None, what="the disk")
        with mounted(directory, driver, "--commit-after", "never", "--min-free", "0", store=lower / "store") as mount:
            yield mount
    finally:
        mounts.unmount(lower, lazy=True)
        serving.wait(EVENTUALLY_S)


def test_close_tells_what_the_disk_tells(mount: Mount) -> None:
    """S2: a program that was told nothing may rely on its bytes."""
    staging = mount.make("late/closed")
    fd = os.open(staging / "refused", os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"bytes")
    with refused(errno.EDQUOT):
        os.close(fd)
    (staging / "kept").write_bytes(b"bytes")
    assert (staging / "kept").read_bytes() == b"bytes"


def test_each_close_is_told(mount: Mount) -> None:
    """S2: the first of two descriptors that is closed hears of it; reading asks for nothing."""
    staging = mount.make("late/duplicated")
    fd = os.open(staging / "refused", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"bytes")
    with refused(errno.EDQUOT):
        os.close(os.dup(fd))
    os.close(fd)
    assert (staging / "refused").read_bytes() == b""


def test_which_disks_tell_late(mount: Mount, tmp_path: Path) -> None:
    """S2: those of this machine take or refuse at once, and are asked for nothing."""
    assert disk.tells_late(mount.store)
    assert not disk.tells_late("/dev/shm")
    with refused(errno.ENOENT):
        disk.tells_late(tmp_path / "missing")
