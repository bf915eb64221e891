"""What is compared: a native directory, bindfs, and the drive with each of its drivers. A new peer is a line in PEERS.

`Ground` holds the data all of them show: a native tree, and a store with that tree as one version.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mount import control
from mount.settings import DRIVERS

COLLECTION = "bench"
ARTIFACT = "data"


@dataclass(frozen=True)
class Ground:
    """The directory of a run of the bench. `data` is the native tree, `store` has it as bench/data/v0."""

    directory: Path

    @property
    def data(self) -> Path:
        """What every peer shows for reading."""
        return self.directory / "data"

    @property
    def target(self) -> Path:
        """Where native peers are written to."""
        return self.directory / "target"

    @property
    def store(self) -> Path:
        """A store on the same file system."""
        return self.directory / "store"


@dataclass(frozen=True)
class Shown:
    """A mounted peer: `data` to read, `new()` makes a directory to write to, `pid` the daemon's process, if known."""

    data: Path
    new_directory: Path | None = None
    pid: int | None = None

    def new(self) -> Path:
        """An empty, writable directory."""
        assert self.new_directory is not None
        self.new_directory.mkdir(parents=True)
        staging = self.new_directory / "staging"
        return staging if staging.is_dir() else self.new_directory


class Peer(ABC):
    """One thing to measure."""

    name: str
    mounts = True
    writable = True
    commits = False

    @abstractmethod
    def show(self, ground: Ground) -> contextlib.AbstractContextManager[Shown]:
        """Mount it afresh; unmounted at the end."""


class Native(Peer):
    """The directory itself."""

    name = "native"

    @contextlib.contextmanager
    def show(self, ground: Ground) -> Iterator[Shown]:
        """Nothing to mount."""
        yield Shown(ground.data, ground.target / "native")


class Bindfs(Peer):
    """A passthrough file system in C on libfuse, with its defaults."""

    name = "bindfs"

    @contextlib.contextmanager
    def show(self, ground: Ground) -> Iterator[Shown]:
        """Mount the whole ground, so that it reads and writes the same disk."""
        with mountpoint() as point:
            run("bindfs", str(ground.directory), str(point))
            try:
                yield Shown(point / "data", point / "target" / "bindfs")
            finally:
                run("fusermount3", "-u", str(point))


class Drive(Peer):
    """artifactfs. `driver` is one of mount.settings.DRIVERS."""

    def __init__(self, driver: str, read_only: bool) -> None:
        self.driver = driver
        self.writable = self.commits = not read_only
        self.name = f"{driver} {'ro' if read_only else 'rw'}"

    @contextlib.contextmanager
    def show(self, ground: Ground) -> Iterator[Shown]:
        """Mount the store with automatic commits turned off."""
        options = ["--driver", self.driver, "--commit-after", "never"]
        if not self.writable:
            options.append("--read-only")
        with mountpoint() as point, tempfile.TemporaryDirectory(prefix="artifactfs-bench-state-") as state:
            artifactfs("mount", str(ground.store), str(point), "--state-dir", state, *options)
            try:
                status = control.decode(os.getxattr(point, control.STATUS), control.Status)
                written = f"written-{os.urandom(4).hex()}"
                yield Shown(point / COLLECTION / ARTIFACT / "v0", point / COLLECTION / written, status.pid)
            finally:
                artifactfs("umount", "--now", str(point), "--state-dir", state)


class Store(Peer):
    """The store without a mount: the commands on it, and its manager."""

    name = "store"
    mounts = writable = False

    @contextlib.contextmanager
    def show(self, ground: Ground) -> Iterator[Shown]:
        """Nothing to mount."""
        yield Shown(ground.data)


PEERS: tuple[Peer, ...] = (
    Native(),
    Store(),
    Bindfs(),
    *(Drive(driver, read_only) for driver in DRIVERS if driver != "auto" for read_only in (True, False)),
)


@contextlib.contextmanager
def mountpoint() -> Iterator[Path]:
    """An empty directory; left alone when something is still mounted on it."""
    point = Path(tempfile.mkdtemp(prefix="artifactfs-bench-mount-"))
    try:
        yield point
    finally:
        with contextlib.suppress(OSError):
            point.rmdir()


def artifactfs(*arguments: str) -> None:
    """Run the command that is installed beside this Python."""
    run(str(Path(sys.executable).with_name("artifactfs")), *arguments)


def run(*command: str) -> None:
    """Run a program; what it says is shown only when it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
