"""What is measured. A row mounts a peer afresh, runs one client program and gives seconds; the bench does the rest.

Every row says what must have been read; a peer that read something else ends the bench.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from artifactfs import connect
from artifactfs.managers.commit_id import new_commit_id
from benchmarks import client
from benchmarks.peers import ARTIFACT, COLLECTION, Ground, Native, Peer, Shown, artifactfs, run

MIB = 1 << 20
SMALL_BYTES = 16 << 10
READ_SHARE = 2
"""Of the small files, one in so many is read by the rows that open files."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    big_bytes: int = 1 << 30
    small_files: int = 10_000
    mapped_pages: int = 20_000
    many_files: int = 1_000_000


QUICK = Sizes(big_bytes=64 * MIB, small_files=1_000, mapped_pages=2_000, many_files=20_000)


class WrongContent(Exception):
    """A peer gave other bytes than were written."""


@dataclass(frozen=True)
class Target:
    """`speed` times as fast as `against`, or at most `seconds` and `rss_mib`, for peers whose name contains `peer`."""

    peer: str
    against: str = ""
    speed: float = 0.0
    seconds: float = 0.0
    rss_mib: float = 0.0


@dataclass
class Measured:
    """One measurement. `rss_mib` is the daemon's peak, where the row asks for it."""

    seconds: float
    rss_mib: float | None = None


class Row(ABC):
    """One line of the table."""

    name: str
    against: str
    targets: tuple[Target, ...] = ()
    opt_in = False

    def takes(self, peer: Peer) -> bool:
        """Whether this row can measure the peer."""
        return peer.mounts

    def prepare(self, ground: Ground, sizes: Sizes) -> None:  # noqa: B027 - most rows need nothing
        """What is done once, before the first run."""

    @abstractmethod
    def measure(self, peer: Peer, ground: Ground, sizes: Sizes) -> Measured:
        """One run. Raises WrongContent."""


@dataclass
class Read(Row):
    """A client program reads the version, from a fresh mount.

    The files behind the mount are in the page cache, or, with `dropped`, nothing is.
    """

    name: str
    against: str
    operation: str
    arguments: tuple[str, ...]
    targets: tuple[Target, ...] = ()
    dropped: bool = False
    expected: str | None = field(default=None, init=False)

    def prepare(self, ground: Ground, sizes: Sizes) -> None:
        """Learn from the native directory what is to be read."""
        self.expected = self._client(ground.data, sizes)[1]
        warm(ground.data)
        warm(ground.store)

    def measure(self, peer: Peer, ground: Ground, sizes: Sizes) -> Measured:
        """Mount, read, compare, unmount."""
        if self.dropped:
            drop_page_cache()
        with peer.show(ground) as shown:
            seconds, digest = self._client(shown.data, sizes)
        check(self.name, peer, digest, self.expected)
        return Measured(seconds)

    def _client(self, data: Path, sizes: Sizes) -> tuple[float, str]:
        values = {
            "big": str(data / "big.bin"),
            "small": str(data / "small"),
            "pages": str(sizes.mapped_pages),
            "half": str(sizes.small_files // READ_SHARE),
        }
        return run_client(self.operation, *(values.get(argument, argument) for argument in self.arguments))


class CopyBig(Row):
    """``cp`` of one big file into a directory: on the drive, into staging."""

    name = "cp of the big file"
    against = "bindfs"
    targets = (Target("rw", "bindfs", 1.0),)

    def takes(self, peer: Peer) -> bool:
        """Only what can be written to."""
        return peer.writable

    def measure(self, peer: Peer, ground: Ground, sizes: Sizes) -> Measured:
        """Copy, compare, remove."""
        settle()
        with peer.show(ground) as shown:
            directory = shown.new()
            source, copy = ground.data / "big.bin", directory / "big.bin"
            started = time.perf_counter()
            run("cp", str(source), str(copy))
            seconds = time.perf_counter() - started
            digests = [run_client("sequential", str(path))[1] for path in (source, copy)]
            check(self.name, peer, digests[1], digests[0])
            throw_away(peer, directory)
        return Measured(seconds)


class Commit(Row):
    """``artifactfs commit`` of many small files, beside ``cp -a`` of the same tree with a sync of the file system.

    Content is new in every run, so that nothing is there already.
    """

    name = "commit of the small files, against cp -a + sync"
    against = "native"
    targets = (Target("rw", "native", 0.5),)

    def takes(self, peer: Peer) -> bool:
        """The drive, and the native directory to compare with."""
        return peer.commits or isinstance(peer, Native)

    def measure(self, peer: Peer, ground: Ground, sizes: Sizes) -> Measured:
        """Stage, settle, commit, compare."""
        source = ground.directory / "source"
        make_small_files(source, sizes.small_files)
        expected = run_client("hash", str(source))[1]
        with peer.show(ground) as shown:
            directory = shown.new()
            seconds = self._commit(source, directory) if peer.commits else self._copy(source, directory)
            committed = directory.parent / "latest" if peer.commits else directory
            check(self.name, peer, run_client("hash", str(committed))[1], expected)
        shutil.rmtree(source)
        if not peer.commits:
            shutil.rmtree(directory)
        return Measured(seconds)

    def _commit(self, source: Path, staging: Path) -> float:
        run("cp", "-a", f"{source}/.", str(staging))
        settle()
        started = time.perf_counter()
        artifactfs("commit", str(staging))
        return time.perf_counter() - started

    def _copy(self, source: Path, directory: Path) -> float:
        settle()
        started = time.perf_counter()
        run("cp", "-a", f"{source}/.", str(directory))
        run("sync", "--file-system", str(directory))
        return time.perf_counter() - started


class ManyFiles(Row):
    """Mount a store and list a version of very many files; counts from the start of the mount command."""

    name = "mount and first ls of the version of very many files"
    against = ""
    targets = (Target("rw", seconds=2.0, rss_mib=700.0),)
    opt_in = True

    def takes(self, peer: Peer) -> bool:
        """Only the drive mounts a store."""
        return peer.commits

    def prepare(self, ground: Ground, sizes: Sizes) -> None:
        """Commit the version, 1,000 files in a directory."""
        tree = ground.directory / "many"
        for number in range(sizes.many_files):
            directory = tree / f"{number // 1000:04}"
            if number % 1000 == 0:
                directory.mkdir(parents=True)
            (directory / f"{number:07}").write_bytes(b"%d" % number)
        connect(str(ground.store)).commit_tree("many", tree, COLLECTION, commit_id=new_commit_id())
        shutil.rmtree(tree)

    def measure(self, peer: Peer, ground: Ground, sizes: Sizes) -> Measured:
        """Mount, list the version and its last directory."""
        directories = range(-(-sizes.many_files // 1000))
        files = range(directories[-1] * 1000, sizes.many_files)
        expected = [f"{number:04}\n" for number in directories] + [f"{number:07}\n" for number in files]
        started = time.perf_counter()
        with peer.show(ground) as shown:
            digest = run_client("list", str(shown.data.parent.parent / "many" / "v0"), f"{directories[-1]:04}")[1]
            seconds = time.perf_counter() - started
            rss_mib = peak_rss_mib(shown)
        check(self.name, peer, digest, client.hash_of([line.encode() for line in expected]))
        return Measured(seconds, rss_mib)


def rows() -> dict[str, Row]:
    """Every row, by the name that ``--rows`` takes."""
    sequential = ("sequential", ("big",))
    files = ("files", ("small", "half", "0"))
    return {
        "sequential": Read(
            "sequential read, cold mount",
            "bindfs",
            *sequential,
            (Target("kernel rw", "bindfs", 3.0), Target("ro", "bindfs", 1.2)),
        ),
        "mapped": Read(
            "random pages by mmap, cold mount",
            "bindfs",
            "mapped",
            ("big", "pages"),
            (Target("kernel rw", "bindfs", 5.0),),
        ),
        "hot": Read(
            "open+read+close of small files, second time",
            "native",
            "files",
            ("small", "half", "1"),
            (Target("kernel ro", "native", 0.6), Target("rw", "bindfs", 0.9)),
        ),
        "cold": Read("open+read+close of small files, cold mount", "bindfs", *files, (Target("", "bindfs", 1.0),)),
        "walk": Read(
            "walk with stat of the small files, cold mount", "bindfs", "walk", ("small",), (Target("", "bindfs", 3.0),)
        ),
        "copy": CopyBig(),
        "commit": Commit(),
        "many": ManyFiles(),
        "sequential-dropped": Read("sequential read, no page cache", "bindfs", *sequential, dropped=True),
        "cold-dropped": Read("open+read+close of small files, no page cache", "bindfs", *files, dropped=True),
        "walk-dropped": Read("walk with stat, no page cache", "bindfs", "walk", ("small",), dropped=True),
    }


def prepare_ground(ground: Ground, sizes: Sizes) -> None:
    """Write the native tree and commit it to the store."""
    ground.target.mkdir(parents=True)
    make_small_files(ground.data / "small", sizes.small_files)
    with open(ground.data / "big.bin", "wb") as big:
        for _ in range(sizes.big_bytes // MIB):
            big.write(os.urandom(MIB))
    connect(str(ground.store)).commit_tree(ARTIFACT, ground.data, COLLECTION, commit_id=new_commit_id())


def make_small_files(directory: Path, count: int) -> None:
    """`count` files of random content, 100 in a directory."""
    for path in map(Path, client.small_files(count, str(directory))):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.randbytes(SMALL_BYTES))


def run_client(*arguments: str) -> tuple[float, str]:
    """Seconds and digest of one client program."""
    command = [sys.executable, "-I", "-S", client.__file__, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise WrongContent(f"the client program failed: {' '.join(arguments)}")
    answer = json.loads(done.stdout)
    return answer["seconds"], answer["digest"]


def check(row: str, peer: Peer, digest: str, expected: str | None) -> None:
    """Raises WrongContent when the peer gave something else."""
    if digest != expected:
        raise WrongContent(f"{row}: {peer.name} gave other content than was written")


def throw_away(peer: Peer, directory: Path) -> None:
    """Remove what a row wrote, so that unmounting leaves nothing to commit."""
    if peer.commits:
        artifactfs("discard", "--yes", str(directory))
    else:
        shutil.rmtree(directory)


def warm(directory: Path) -> None:
    """Bring every file into the page cache."""
    for path in directory.rglob("*"):
        if path.is_file():
            with open(path, "rb", buffering=0) as file:
                while file.read(MIB):
                    pass


def settle() -> None:
    """Write out what earlier work left, so that it is not counted here."""
    os.sync()


def can_drop_page_cache() -> bool:
    """Root may."""
    return os.access("/proc/sys/vm/drop_caches", os.W_OK)


def drop_page_cache() -> None:
    """Forget every clean page, directory entry and inode."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def peak_rss_mib(shown: Shown) -> float:
    """The most memory the daemon has had so far."""
    status = Path(f"/proc/{shown.pid}/status").read_text()
    kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kib) / 1024
