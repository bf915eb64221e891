"""What is compared: a native directory, other file systems, and the drive with each of its drivers.

A new peer is a line in PEERS. A peer that is not installed is not left out: its line in the table says so.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ground import ARTIFACT, COLLECTION, Ground
from benchmarks.programs import PEER_PROGRAMS, Failed, artifactfs, mount_in_foreground
from mount import control
from mount.settings import DRIVERS, READS


@dataclass(frozen=True)
class Shown:
    """A mounted peer: `data` to read, `new()` makes a directory to write to, `pid` the daemon's process, if any."""

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
    ours = False

    @abstractmethod
    def show(self, ground: Ground) -> contextlib.AbstractContextManager[Shown]:
        """Mount it afresh; unmounted at the end. Raises Failed where it is not installed or does not mount."""


class Native(Peer):
    """The directory itself."""

    name = "native"

    @contextlib.contextmanager
    def show(self, ground: Ground) -> Iterator[Shown]:
        """Nothing to mount."""
        yield Shown(ground.data, ground.target / "native")


class Foreign(Peer):
    """A file system of another project, which shows the whole ground, so that it reads and writes the same disk."""

    @abstractmethod
    def command(self, ground: Ground, point: Path, scratch: Path) -> tuple[str, ...]:
        """The program and its arguments, to stay in the foreground. `scratch` is a directory for what it caches."""

    @contextlib.contextmanager
    def show(self, ground: Ground) -> Iterator[Shown]:
        """Mount the ground."""
        with (
            mountpoint() as point,
            tempfile.TemporaryDirectory(dir=ground.directory) as scratch,
            mount_in_foreground(point, *self.command(ground, point, Path(scratch))) as pid,
        ):
            yield Shown(point / "data", point / "target" / self.name.replace(" ", "-"), pid)


class Bindfs(Foreign):
    """A passthrough file system in C on libfuse, with its defaults."""

    name = "bindfs"

    def command(self, ground: Ground, point: Path, scratch: Path) -> tuple[str, ...]:
        return (installed("bindfs"), "-f", str(ground.directory), str(point))


class Rclone(Foreign):
    """``rclone mount`` of the directory, with one of its ``--vfs-cache-mode``."""

    def __init__(self, cache: str) -> None:
        self.name = f"rclone {cache}"
        self._cache = cache

    def command(self, ground: Ground, point: Path, scratch: Path) -> tuple[str, ...]:
        return rclone_mount(f":local:{ground.directory}", point, self._cache, scratch)


class FsspecFuse(Foreign):
    """fsspec's own mount over its local file system; without threads, for with them it gives wrong bytes."""

    name = "fsspec.fuse"

    def command(self, ground: Ground, point: Path, scratch: Path) -> tuple[str, ...]:
        if not list(PEER_PROGRAMS.parent.glob("lib/*/site-packages/fuse.py")):
            raise Failed("not installed")
        return (installed("python"), "-m", "fsspec.fuse", "local", f"{ground.directory}/", str(point), "-t")


class Ratarmount(Foreign):
    """A tar of the tree; the index is made beforehand, by the first mount."""

    name = "ratarmount"
    writable = False

    def command(self, ground: Ground, point: Path, scratch: Path) -> tuple[str, ...]:
        index = f"{ground.tar}.index"
        return (installed("ratarmount"), "-f", "--index-file", index, str(ground.tar), str(point))


class Drive(Peer):
    """artifactfs. `driver` is one of mount.settings.DRIVERS, `reads` what ``--reads`` takes, None leaves it out."""

    ours = True

    def __init__(self, driver: str, read_only: bool, reads: str | None = None) -> None:
        self.driver = driver
        self.reads = reads
        self.writable = self.commits = not read_only
        self.name = " ".join(filter(None, (driver, "ro" if read_only else "rw", reads)))

    @contextlib.contextmanager
    def show(self, ground: Ground) -> Iterator[Shown]:
        """Mount the store with automatic commits turned off."""
        with self.mounted(str(ground.store)) as shown:
            yield shown

    @contextlib.contextmanager
    def mounted(self, store: str, *arguments: str, environment: dict[str, str] | None = None) -> Iterator[Shown]:
        """Mount a store."""
        options = ["--driver", self.driver, "--commit-after", "never", *arguments]
        options += [] if self.writable else ["--read-only"]
        options += ["--reads", self.reads] if self.reads else []
        with mountpoint() as point, tempfile.TemporaryDirectory(prefix="artifactfs-bench-state-") as state:
            artifactfs("mount", store, str(point), "--state-dir", state, *options, environment=environment)
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
    ours = True

    @contextlib.contextmanager
    def show(self, ground: Ground) -> Iterator[Shown]:
        """Nothing to mount."""
        yield Shown(ground.data)


def drives() -> tuple[Drive, ...]:
    """The drive with each of its drivers, read-only and read-write; read-only by each way in which `kernel` reads."""
    found = []
    for driver in DRIVERS:
        if driver != "auto":
            ways = [way for way in READS if way != "auto"] if driver == "kernel" else [None]
            found += [Drive(driver, read_only=True, reads=way) for way in ways]
            found.append(Drive(driver, read_only=False))
    return tuple(found)


PEERS: tuple[Peer, ...] = (
    Native(),
    Store(),
    Bindfs(),
    Rclone("off"),
    Rclone("full"),
    FsspecFuse(),
    Ratarmount(),
    *drives(),
)


def rclone_mount(remote: str, point: Path, cache: str, scratch: Path, *arguments: str) -> tuple[str, ...]:
    """The command that mounts a remote of rclone."""
    caching = ("--vfs-cache-mode", cache, "--cache-dir", str(scratch))
    return (installed("rclone"), "mount", "--config", "/dev/null", remote, str(point), *caching, *arguments)


def installed(program: str) -> str:
    """The path of a program of the bench's own environment or of the system. Raises Failed where there is none."""
    found = shutil.which(program, path=str(PEER_PROGRAMS)) or shutil.which(program)
    if found is None or Path(found).parent == Path(sys.executable).parent:
        raise Failed("not installed")
    return found


@contextlib.contextmanager
def mountpoint() -> Iterator[Path]:
    """An empty directory; left alone when something is still mounted on it."""
    point = Path(tempfile.mkdtemp(prefix="artifactfs-bench-mount-"))
    try:
        yield point
    finally:
        with contextlib.suppress(OSError):
            point.rmdir()
