"""What is measured of a mount. A row mounts a peer afresh, runs one client program and gives seconds.

Every row says what must have been read; a peer that read something else has failed. `write_rows`, `store_rows` and
`s3_rows` have the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.ground import Ground, Sizes, warm
from benchmarks.peers import PEERS, Peer, Shown
from benchmarks.programs import Failed, Usage, can_drop_page_cache, drop_page_cache, run, run_client, usage

READ_SHARE = 2
"""Of the small files, one in so many is read by the rows that open files."""


@dataclass(frozen=True)
class Target:
    """`speed` times as fast as `against`, or at most `seconds` and `rss_mib`, for those of ours that `peer` names.

    Each word of `peer` is to be one of the peer's name; `without` is not to be.
    """

    peer: str
    against: str = ""
    speed: float = 0.0
    seconds: float = 0.0
    rss_mib: float = 0.0
    without: str = ""

    def concerns(self, peer: str) -> bool:
        """Whether a peer with this name is to reach it."""
        words = peer.split()
        return set(self.peer.split()) <= set(words) and self.without not in words


@dataclass
class Measured:
    """One measurement. `cpu_s` is what the daemon used in that time, `rss_mib` its peak since it was started."""

    seconds: float
    rss_mib: float | None = None
    cpu_s: float | None = None


class Row(ABC):
    """One part of the table. `peers` are those that may take part, `chosen_by_default` says whether it runs unasked."""

    name: str
    against: str
    targets: tuple[Target, ...] = ()
    peers: Sequence[Peer] = PEERS
    chosen_by_default = True

    def takes(self, peer: Peer) -> bool:
        """Whether this row can measure the peer."""
        return peer.mounts

    def prepare(self, ground: Ground, sizes: Sizes) -> None:  # noqa: B027 - most rows need nothing
        """What is done once, before the first run."""

    @abstractmethod
    def measure(self, peer: Peer, ground: Ground, sizes: Sizes, first: bool) -> Measured:
        """One run; what costs much to compare is compared in the peer's first. Raises Failed."""


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
        if "repository" in self.arguments:
            _make_repository(ground)
        self.expected = self._client(Shown(ground.data), ground, sizes, verify=True)[1]
        if not self.dropped:
            warm(ground.directory)

    def measure(self, peer: Peer, ground: Ground, sizes: Sizes, first: bool) -> Measured:
        """Mount, read, compare, unmount."""
        if self.dropped:
            drop_page_cache()
        with peer.show(ground) as shown:
            before = daemon_usage(shown)
            seconds, digest = self._client(shown, ground, sizes, verify=first)
            measured = used_since(before, shown, seconds)
        check(digest, self.expected if digest or first else None)
        return measured

    def _client(self, shown: Shown, ground: Ground, sizes: Sizes, verify: bool) -> tuple[float, str | None]:
        values = {
            "big": str(shown.data / "big.bin"),
            "model": str(shown.data / "model.safetensors"),
            "small": str(shown.data / "small"),
            "native-small": str(ground.data / "small"),
            "repository": str(ground.directory / "repository"),
            "pages": str(sizes.mapped_pages),
            "half": str(sizes.small_files // READ_SHARE),
            "readers": str(sizes.readers),
            "reads": str(sizes.reads_each),
            "verify": str(int(verify)),
        }
        arguments = (values.get(argument, argument) for argument in self.arguments)
        return run_client(self.operation, *arguments, daemon=shown.pid)


def _make_repository(ground: Ground) -> None:
    """A git repository of the small files, outside of them."""
    # Without gc.auto=0 git packs what was added in the background, beside the rows that follow.
    settings = ("user.name=bench", "user.email=bench@localhost", "core.looseCompression=0", "gc.auto=0")
    git = ("git", *(word for setting in settings for word in ("-c", setting)))
    paths = ("--git-dir", str(ground.directory / "repository"), "--work-tree", str(ground.data / "small"))
    if not (ground.directory / "repository").exists():
        run("git", "init", "-q", "--bare", str(ground.directory / "repository"))
        run(*git, *paths, "add", "-A", str(ground.data / "small"))
        run(*git, *paths, "commit", "-q", "-m", "small files")


def daemon_usage(shown: Shown) -> Usage | None:
    """What the daemon has used so far; None where there is none."""
    return usage(shown.pid) if shown.pid else None


def used_since(before: Usage | None, shown: Shown, seconds: float) -> Measured:
    """The measurement of a client that has just ended."""
    if before is None or shown.pid is None:
        return Measured(seconds)
    after = usage(shown.pid)
    return Measured(seconds, after.peak_rss_mib, after.cpu_s - before.cpu_s)


def check(digest: str | None, expected: str | None) -> None:
    """Raises Failed when something else was given than was written."""
    if digest != expected:
        raise Failed("gave other content than was written")


def possible(row: Row) -> bool:
    """Only root can drop the page cache."""
    return can_drop_page_cache() or not (isinstance(row, Read) and row.dropped)


def rows() -> dict[str, Row]:
    """Every row that reads a mount, by the name that ``--rows`` takes."""
    sequential = ("sequential", ("big", "verify"))
    files = ("files", ("small", "half", "0"))
    tensors = ("tensors", ("model", "verify"))
    return {
        "sequential": Read(
            "sequential read of the big file, cold mount",
            "bindfs",
            *sequential,
            (
                Target("kernel rw", "bindfs", 3.0),
                Target("kernel passthrough", "bindfs", 3.0),
                Target("ro", "bindfs", 1.2, without="passthrough"),
            ),
        ),
        "mapped": Read(
            "random pages by mmap, cold mount",
            "bindfs",
            "mapped",
            ("big", "pages"),
            (Target("kernel rw", "bindfs", 5.0), Target("kernel passthrough", "bindfs", 5.0)),
        ),
        "hot": Read(
            "open+read+close of small files, second time",
            "native",
            "files",
            ("small", "half", "1"),
            (Target("kernel ro", "native", 0.6, without="passthrough"), Target("rw", "bindfs", 0.9)),
        ),
        "cold": Read("open+read+close of small files, cold mount", "bindfs", *files, (Target("", "bindfs", 1.0),)),
        "walk": Read(
            "walk with stat of the small files, cold mount", "bindfs", "walk", ("small",), (Target("", "bindfs", 3.0),)
        ),
        "tensors": Read("load of safetensors by mmap, cold mount", "bindfs", *tensors),
        "processes": Read(
            "4 processes reading small files at once, cold mount", "bindfs", "processes", ("small", "half", "4")
        ),
        "readers": Read(
            "many random readers of the big file at once, cold mount", "bindfs", "readers", ("big", "readers", "reads")
        ),
        "git": Read("git status of the small files, cold mount", "bindfs", "git", ("repository", "small")),
        "rsync": Read("rsync -an of the small files, cold mount", "bindfs", "rsync", ("small", "native-small")),
    }


def dropped_rows() -> dict[str, Row]:
    """The same with the page cache dropped, for what reads a disk."""
    return {
        f"{name}-dropped": Read(row.name.replace("cold mount", "no page cache"), *rest, dropped=True)
        for name, row in rows().items()
        if name in ("sequential", "cold", "walk", "tensors") and isinstance(row, Read)
        for rest in [(row.against, row.operation, row.arguments)]
    }


def native_path(ground: Ground, peer: Peer) -> Path:
    """Where what a peer of another project wrote lies on the disk."""
    return ground.target / peer.name.replace(" ", "-")
