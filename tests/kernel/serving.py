"""The native driver in the test's own process, on a real mount, so that a test can hold up the store behind it.

What touches the mount must be another process, or a thread that the interpreter lock is free for: a call that holds
it would wait for itself.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from artifactfs.managers.base import LocalRange, VersionInfo
from artifactfs.managers.filesystem import FileSystemArtifactManager
from artifactfs.manifest import Entry
from mount import mounts
from mount.drivers.kernel import mounting
from mount.drivers.kernel.channel import Channel
from mount.drivers.kernel.session import Session
from mount.settings import MountSettings
from mount.vfs import Vfs

END_S = 120.0


class SlowStore(FileSystemArtifactManager):
    """A store whose bytes are not on this machine, and come only once the test lets them."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.may_answer = threading.Event()
        self.asked = threading.Semaphore(0)

    @property
    def local_root(self) -> Path | None:
        return None

    def local_range(self, info: VersionInfo, entry: Entry) -> LocalRange | None:
        return None

    def read_object(self, name: str, offset: int, size_bytes: int) -> Iterator[bytes]:
        self.asked.release()
        assert self.may_answer.wait(END_S)
        yield from super().read_object(name, offset, size_bytes)


@contextlib.contextmanager
def served(manager: FileSystemArtifactManager, directory: Path, **options: Any) -> Iterator[Session]:
    """A session of a read-only mount at ``directory/mnt``, served until the block ends."""
    mountpoint = directory / "mnt"
    mountpoint.mkdir(parents=True)
    settings = MountSettings(
        "store", mountpoint, read_only=True, state_dir=directory / "state", cache_dir=directory / "cache", **options
    )
    vfs = Vfs(manager, settings, None, None, driver="kernel", log_file=None)
    channel = Channel(mounting.mount(settings))
    session = Session(channel, vfs, settings)
    ready = threading.Event()
    thread = threading.Thread(target=session.serve, args=(ready.set,), name="serve", daemon=True)
    thread.start()
    try:
        assert ready.wait(END_S)
        yield session
    finally:
        mounts.unmount(mountpoint, lazy=True)
        thread.join(END_S)
        assert not thread.is_alive(), "the session did not end with its mount"
        channel.close()
        vfs.close()
