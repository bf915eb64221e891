"""What is measured against one S3 server, near and with 50 ms before each request."""

from __future__ import annotations

import os
import shutil
import time

from benchmarks import client
from benchmarks.ground import Ground, Sizes, make_many_files, make_small_files
from benchmarks.peers import Drive, Peer, Shown, drives
from benchmarks.programs import run_client, settle
from benchmarks.rows import Measured, Row, Target, check, daemon_usage, used_since
from benchmarks.s3 import (
    SITE,
    UPLOADS,
    AwsCopy,
    PlainGet,
    Put,
    RcloneCopy,
    S3Drive,
    S3fsFuse,
    S3Rclone,
    Uploader,
)

DRIVERS = list(dict.fromkeys(drive.driver for drive in drives()))
BEST = DRIVERS[0]
LIST_TIMEOUT_S = 300.0


class S3Row(Row):
    """A row with the server; `far` is with latency."""

    chosen_by_default = False

    def __init__(self, name: str, far: bool) -> None:
        self.name = name + (", 50 ms away" if far else "")
        self.far = far

    def takes(self, peer: Peer) -> bool:
        """All of its own peers."""
        return True

    def prepare(self, ground: Ground, sizes: Sizes) -> None:
        """Start the server."""
        SITE.start(ground)


class S3Read(S3Row):
    """A client program reads from a fresh mount with an empty cache."""

    def __init__(self, name: str, far: bool, operation: str, against: str, targets: tuple[Target, ...]) -> None:
        super().__init__(name, far)
        self.operation = operation
        self.against = against
        self.targets = targets
        self.peers = [
            *(S3Drive(driver, far) for driver in (DRIVERS[:1] if far else DRIVERS)),
            *(S3Rclone(cache, far) for cache in ("off", "full")),
            S3fsFuse(far),
            *([PlainGet()] if operation == "sequential" else []),
        ]

    def measure(self, peer: Peer, ground: Ground, sizes: Sizes, first: bool) -> Measured:
        """Mount, read, compare, unmount."""
        if isinstance(peer, PlainGet):
            return self._download(peer, ground)
        with peer.show(ground) as shown:
            before = daemon_usage(shown)
            seconds, digest = self.client(shown, ground, sizes, first)
            measured = used_since(before, shown, seconds)
        if digest is not None:
            check(digest, self.client(Shown(ground.data), ground, sizes, first)[1])
        return measured

    def client(self, shown: Shown, ground: Ground, sizes: Sizes, verify: bool) -> tuple[float, str | None]:
        """Run the client program of the row."""
        count = sizes.far_files if self.far else sizes.small_files
        arguments = {
            "files": (str(shown.data / "small"), str(count), "0"),
            "sequential": (str(shown.data / "big.bin"), str(int(verify))),
            "pages": (str(shown.data / "big.bin"), str(sizes.far_files if self.far else sizes.s3_pages)),
        }
        return run_client(self.operation, *arguments[self.operation], daemon=shown.pid)

    def _download(self, peer: PlainGet, ground: Ground) -> Measured:
        target = ground.directory / "downloaded"
        started = time.perf_counter()
        peer.download("big.bin", target, self.far)
        seconds = time.perf_counter() - started
        target.unlink()
        return Measured(seconds)


class S3Again(S3Read):
    """The second read, from a fresh mount with the cache of the first, beside the same drive on a local store."""

    def __init__(self, name: str, operation: str) -> None:
        super().__init__(name, False, operation, "local store", (Target("cached", "local store", 0.8),))
        local, cached = Drive(BEST, read_only=True), S3Drive(BEST, far=False, kept=True)
        local.name, cached.name = "local store", "cached"
        self.peers = [local, cached]

    def prepare(self, ground: Ground, sizes: Sizes) -> None:
        """Fill the cache."""
        super().prepare(ground, sizes)
        for peer in self.peers:
            if isinstance(peer, S3Drive):
                with peer.show(ground) as shown:
                    self.client(shown, ground, sizes, verify=False)


class S3Commit(S3Row):
    """A tree, or one big file, brought into the bucket. Content is new in every run."""

    peers = (Put(), RcloneCopy(), AwsCopy())

    def __init__(self, name: str, far: bool, big: bool, targets: tuple[Target, ...]) -> None:
        super().__init__(name, far)
        self._big = big
        self.against = targets[0].against
        self.targets = targets

    def measure(self, peer: Peer, ground: Ground, sizes: Sizes, first: bool) -> Measured:
        """Make new content, upload it."""
        assert isinstance(peer, Uploader)
        source = ground.directory / "source"
        if self._big:
            shutil.copyfile(ground.data / "big.bin", source)
            with open(source, "r+b") as file:
                file.write(os.urandom(4096))
        else:
            make_small_files(source, sizes.far_commit_files if self.far else sizes.small_files)
        peer.prepare()
        settle()
        try:
            started = time.perf_counter()
            peer.upload(source, self.far)
            return Measured(time.perf_counter() - started)
        finally:
            SITE.empty(UPLOADS)
            if self._big:
                source.unlink()
            else:
                shutil.rmtree(source)


class S3Many(S3Row):
    """``ls -lR`` of a version of very many files, from a fresh mount with an empty cache."""

    against = ""
    targets = (Target("", seconds=10.0, rss_mib=700.0),)

    def __init__(self, far: bool) -> None:
        super().__init__("ls -lR of the version of very many files", far)
        self.peers = [S3Drive(BEST, far)]

    def prepare(self, ground: Ground, sizes: Sizes) -> None:
        """Write the version."""
        super().prepare(ground, sizes)
        make_many_files(SITE.store, "many", sizes.many_files, **SITE.options())

    def measure(self, peer: Peer, ground: Ground, sizes: Sizes, first: bool) -> Measured:
        """Mount, list."""
        with peer.show(ground) as shown:
            before = daemon_usage(shown)
            version = shown.data.parents[1] / "many" / "v0"
            seconds, digest = run_client("list-long", str(version), daemon=shown.pid, timeout_s=LIST_TIMEOUT_S)
            measured = used_since(before, shown, seconds)
        check(digest, client.hash_of([b"%d" % sizes.many_files]))
        return measured


def rows() -> dict[str, Row]:
    """Every row with the S3 server, by the name that ``--rows`` takes."""
    found: dict[str, Row] = {}
    for far in (False, True):
        end = "-far" if far else ""
        files = (Target("", "rclone off", 10.0),)
        found[f"s3-small{end}"] = S3Read("S3: cold read of small files", far, "files", "rclone off", files)
        ahead = (Target("", "rclone off", 1.0), Target("", "s3fs-fuse", 1.0), Target("", "plain s3fs.get", 0.9))
        found[f"s3-sequential{end}"] = S3Read(
            "S3: cold sequential read of the big file", far, "sequential", "plain s3fs.get", ahead
        )
        found[f"s3-pages{end}"] = S3Read("S3: random 4 KiB reads of the big file", far, "pages", "s3fs-fuse", ())
        found[f"s3-commit-small{end}"] = S3Commit(
            "S3: commit of small files",
            far,
            False,
            (Target("artifactfs", "aws s3 cp", 10.0), Target("artifactfs", "rclone copy", 10.0)),
        )
        found[f"s3-commit-big{end}"] = S3Commit(
            "S3: commit of the big file", far, True, (Target("artifactfs", "aws s3 cp", 0.8),)
        )
    found["s3-again-small"] = S3Again("S3: second read of small files, from the cache", "files")
    found["s3-again-sequential"] = S3Again("S3: second read of the big file, from the cache", "sequential")
    found["s3-again-pages"] = S3Again("S3: second read of random 4 KiB of the big file, from the cache", "pages")
    found["s3-many"] = S3Many(far=False)
    return found


def stop() -> None:
    """End the server."""
    SITE.stop()
