"""What is measured of writing: into a mount, and into a version; and the first look at a very large version."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from benchmarks import client
from benchmarks.ground import Ground, Sizes, make_many_files, make_small_files
from benchmarks.peers import Drive, Native, Peer, Shown
from benchmarks.programs import artifactfs, run, run_client, settle
from benchmarks.rows import Measured, Row, Target, check, daemon_usage, native_path, used_since


class Copy(Row):
    """``cp`` into a directory of the mount: on the drive, into staging. Written by so many copiers at once."""

    against = "bindfs"

    def __init__(self, name: str, source: str, copiers: int, targets: tuple[Target, ...] = ()) -> None:
        self.name = name
        self.targets = targets
        self._source = source
        self._copiers = str(copiers)

    def takes(self, peer: Peer) -> bool:
        """Only what can be written to."""
        return peer.mounts and peer.writable

    def measure(self, peer: Peer, ground: Ground, sizes: Sizes, first: bool) -> Measured:
        """Copy, compare, remove."""
        settle()
        source = ground.data / self._source
        try:
            with peer.show(ground) as shown:
                directory = shown.new()
                before = daemon_usage(shown)
                seconds, _ = run_client("copy", str(source), str(directory), self._copiers, daemon=shown.pid)
                measured = used_since(before, shown, seconds)
                if first:
                    _compare(source, directory, shown)
                if peer.commits:
                    artifactfs("discard", "--yes", str(directory))
        finally:
            shutil.rmtree(native_path(ground, peer), ignore_errors=True)
        return measured


def _compare(source: Path, directory: Path, shown: Shown) -> None:
    """Read back what was copied, through the mount."""
    if source.is_dir():
        pair = [run_client("hash", str(path), daemon=shown.pid)[1] for path in (source, directory)]
    else:
        files = (source, directory / source.name)
        pair = [run_client("sequential", str(path), "1", daemon=shown.pid)[1] for path in files]
    check(pair[1], pair[0])


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

    def measure(self, peer: Peer, ground: Ground, sizes: Sizes, first: bool) -> Measured:
        """Stage, settle, commit, compare."""
        source = ground.directory / "source"
        make_small_files(source, sizes.small_files)
        try:
            with peer.show(ground) as shown:
                directory = shown.new()
                measured = self._commit(source, directory, shown) if peer.commits else self._copy(source, directory)
                if first:
                    committed = directory.parent / "latest" if peer.commits else directory
                    check(run_client("hash", str(committed))[1], run_client("hash", str(source))[1])
        finally:
            shutil.rmtree(source)
            shutil.rmtree(native_path(ground, peer), ignore_errors=True)
        return measured

    def _commit(self, source: Path, staging: Path, shown: Shown) -> Measured:
        run("cp", "-a", f"{source}/.", str(staging))
        settle()
        before = daemon_usage(shown)
        started = time.perf_counter()
        artifactfs("commit", str(staging))
        return used_since(before, shown, time.perf_counter() - started)

    def _copy(self, source: Path, directory: Path) -> Measured:
        settle()
        started = time.perf_counter()
        run("cp", "-a", f"{source}/.", str(directory))
        run("sync", "--file-system", str(directory))
        return Measured(time.perf_counter() - started)


class ManyFiles(Row):
    """Mount a store and list a version of very many files; counts from the start of the mount command."""

    name = "mount and first ls of the version of very many files"
    against = ""
    targets = (Target("", seconds=2.0, rss_mib=700.0),)

    def takes(self, peer: Peer) -> bool:
        """Only the drive mounts a store."""
        return isinstance(peer, Drive)

    def prepare(self, ground: Ground, sizes: Sizes) -> None:
        """Write the version."""
        make_many_files(str(ground.store), "many", sizes.many_files)

    def measure(self, peer: Peer, ground: Ground, sizes: Sizes, first: bool) -> Measured:
        """Mount, list the version and its last directory."""
        directories = range(-(-sizes.many_files // 1000))
        files = range(directories[-1] * 1000, sizes.many_files)
        expected = [f"{number:04}\n" for number in directories] + [f"{number:07}\n" for number in files]
        started = time.perf_counter()
        with peer.show(ground) as shown:
            version = shown.data.parents[1] / "many" / "v0"
            digest = run_client("list", str(version), f"{directories[-1]:04}", daemon=shown.pid)[1]
            seconds = time.perf_counter() - started
            used = daemon_usage(shown)
        check(digest, client.hash_of([line.encode() for line in expected]))
        assert used is not None
        return Measured(seconds, used.peak_rss_mib, used.cpu_s)


def rows() -> dict[str, Row]:
    """Every row that writes, by the name that ``--rows`` takes."""
    return {
        "copy": Copy("cp of the big file", "big.bin", 1, (Target("rw", "bindfs", 1.0),)),
        "commit": Commit(),
        "many": ManyFiles(),
        "copy-small": Copy("cp -r of the small files", "small", 1),
        "copiers": Copy("4 copiers of the small files at once", "small", 4),
    }
