"""Ends of mounts: what holds on to a connection, and what a mount leaves behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.managers.filesystem import FileSystemArtifactManager
from mount import mounts
from mount.drivers.kernel.notifier import FLUSH_S
from mount.tree import Artifact
from tests.kernel.serving import served
from tests.mount.harness import eventually
from tests.mount.shared import mounted

pytestmark = pytest.mark.fuse


@pytest.fixture
def fusectl() -> Iterator[None]:
    """The control file system of FUSE, mounted for the test if it is not."""
    if os.listdir(mounts.FUSE_CONNECTIONS):
        yield
        return
    done = subprocess.run(["mount", "-t", "fusectl", "fusectl", mounts.FUSE_CONNECTIONS], check=False)
    if done.returncode:
        pytest.skip("the control file system of FUSE cannot be mounted")
    try:
        yield
    finally:
        # Lazily: daemons that were mounted meanwhile hold descriptors in it.
        subprocess.run(["umount", "--lazy", mounts.FUSE_CONNECTIONS], check=True)


def test_a_connection_that_a_namespace_pins_is_aborted(fusectl: None, tmp_path: Path) -> None:
    """The daemon ends in order, although a mount namespace has a copy of its mount."""
    with mounted(tmp_path, "kernel", "--commit-after", "never") as mount:
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 1000"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            daemon = mount.daemon
            mount.umount()
            assert not daemon.is_alive()
            holder.kill()
        assert "something still holds the connection: aborted it" in mount.log()
        assert "it ends with this process" not in mount.log()


def test_commits_after_the_unmount_wait_for_no_kernel(tmp_path: Path) -> None:
    """The daemon drains then; telling a kernel that is gone would hold up each commit."""
    store = FileSystemArtifactManager(str(tmp_path / "store"))
    (tmp_path / "file").write_bytes(b"content")
    store.log_files("a", tmp_path / "file", "c")
    with served(store, tmp_path) as session:
        subprocess.run(["stat", tmp_path / "mnt/c/a/latest"], stdout=subprocess.DEVNULL, check=True)
        assert session.context.inodes.aliases_of(Artifact("c", "a")) == ["latest"]
        session.context.vfs.on_commit("c", "a")
    started = time.monotonic()
    session.context.vfs.on_commit("c", "a")
    assert time.monotonic() - started < FLUSH_S


def _held() -> tuple[int, int]:
    """(descriptors, threads) of this process."""
    return len(os.listdir("/proc/self/fd")), threading.active_count()


def test_fifty_mounts_leave_nothing_behind(tmp_path: Path) -> None:
    """No descriptor, no thread, no mount; each has been read from and walked."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(20):
        (source / f"file{number}").write_bytes(os.urandom(100))
    store = FileSystemArtifactManager(str(tmp_path / "store"))
    store.log_files("a", source, "c")
    before = None
    for number in range(50):
        directory = tmp_path / f"mount{number}"
        directory.mkdir()
        with served(store, directory, reads=("cache", "passthrough")[number % 2]) as session:
            version = directory / "mnt/c/a/v0"
            subprocess.run(["grep", "-rc", "x", version], stdout=subprocess.DEVNULL, check=False, timeout=60)
            eventually(lambda session=session: not session.context.files, what="files to be released")  # type: ignore[misc]
            assert len(session.context.inodes) <= 8
        before = before or _held()
    assert before is not None
    with contextlib.suppress(AssertionError):
        # A thread of the last session may be ending.
        eventually(lambda: all(now <= then for now, then in zip(_held(), before, strict=True)))
    descriptors, threads = _held()
    assert descriptors <= before[0]
    assert threads <= before[1]
    assert not [entry for entry in mounts.our_entries() if entry.mountpoint.is_relative_to(tmp_path)]
