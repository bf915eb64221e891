"""Small files that come with being opened: what the kernel is asked for afterwards, and when it is not done."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.content import segments
from artifactfs.managers.filesystem import FileSystemArtifactManager
from mount.drivers.kernel import protocol
from mount.drivers.kernel.channel import Channel
from mount.drivers.kernel.prefill import PREFILL_BYTES
from mount.drivers.kernel.session import Session
from tests.kernel.serving import END_S, SlowStore, served
from tests.kernel.test_reading import counting, unless_pages_go
from tests.mount.harness import eventually

pytestmark = pytest.mark.fuse

SIZES = (1, 100, 4095, 4096, 4097, 16384, 40_000, PREFILL_BYTES - 1, PREFILL_BYTES)
SMALL = {f"s{size:06}": os.urandom(size) for size in SIZES}
OTHERS = {"empty": b"", "larger": os.urandom(PREFILL_BYTES + 1), "linked/twice": SMALL["s016384"]}
FILES = SMALL | OTHERS

# Opens a file, tells so, and reads it when asked to, from the page cache or past it, perhaps after the pages have gone.
PROGRAM = """
import os, sys
path, flags, drop = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
fd = os.open(path, os.O_RDONLY | flags)
print("open", flush=True)
sys.stdin.readline()
if drop:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
while data := os.read(fd, 1 << 20):
    sys.stdout.buffer.write(data)
"""


def write(directory: Path, files: dict[str, bytes]) -> None:
    """Make a tree."""
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@pytest.fixture
def store(tmp_path: Path) -> FileSystemArtifactManager:
    """A version of files that lie in one pack."""
    write(tmp_path / "source", FILES)
    store = FileSystemArtifactManager(str(tmp_path / "store"))
    store.log_files("a", tmp_path / "source", "c")
    return store


@contextlib.contextmanager
def opened(store: FileSystemArtifactManager, directory: Path) -> Iterator[tuple[Session, Path]]:
    """A mount whose files are opened through the daemon, and the version."""
    with served(store, directory, refresh_s=3600, reads="passthrough") as session:
        yield session, directory / "mnt/c/a/v0"
        eventually(lambda: not session.context.files, what="all files to be released")
        assert not session.context.prefill._opens


def cat(path: Path) -> bytes:
    """Read by a program of its own, which stats the file first and then reads to its end."""
    return subprocess.run(["cat", path], stdout=subprocess.PIPE, check=True, timeout=END_S).stdout


@contextlib.contextmanager
def program(path: Path, flags: int = 0, *, drop: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """`PROGRAM`, which has opened a file."""
    command = [sys.executable, "-c", PROGRAM, str(path), str(flags), str(int(drop))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"open\n"
        yield running


def read_on(running: subprocess.Popen[bytes]) -> bytes:
    """What it reads."""
    return running.communicate(b"\n", timeout=END_S)[0]


def test_what_is_opened_is_read_without_asking(store: FileSystemArtifactManager, tmp_path: Path) -> None:
    """D7, V7: to the byte, whatever is left of the last page; and the second program finds it there too."""
    seen: Counter[str] = Counter()
    for number in unless_pages_go(seen):
        with opened(store, tmp_path / str(number)) as (session, version):
            counting(session, seen)
            for name, data in SMALL.items():
                assert cat(version / name) == data
            for name, data in SMALL.items():
                assert cat(version / name) == data
                assert (version / name).stat().st_size == len(data)
            assert seen["FUSE_OPEN"] == 2 * len(SMALL)


def test_larger_files_are_not_put_there(store: FileSystemArtifactManager, tmp_path: Path) -> None:
    """D7: their programs may want a part only."""
    with opened(store, tmp_path) as (session, version):
        seen = counting(session)
        for name, data in OTHERS.items():
            assert cat(version / name) == data
        assert seen["FUSE_READ"] > 0


def test_pages_that_the_kernel_drops_are_read_again(store: FileSystemArtifactManager, tmp_path: Path) -> None:
    """D7: the ordinary way, without being opened again."""
    with opened(store, tmp_path) as (session, version):
        seen = counting(session)
        with program(version / "s040000", drop=True) as reader:
            assert read_on(reader) == SMALL["s040000"]
        assert seen["FUSE_READ"] > 0
        assert seen["FUSE_OPEN"] == 1


def test_it_is_not_done_while_another_has_the_file_open(
    store: FileSystemArtifactManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D7: that one might be waiting for a page, which would wait for us. Nor is it for O_DIRECT."""
    stored = []
    store_bytes = Channel.store

    def count(channel: Channel, nodeid: int, data: memoryview) -> bool:
        stored.append(nodeid)
        return store_bytes(channel, nodeid, data)

    monkeypatch.setattr(Channel, "store", count)
    with opened(store, tmp_path) as (session, version):
        file = version / "s016384"
        with program(file, os.O_DIRECT) as first, program(file) as second:
            assert not stored
            assert read_on(first) == read_on(second) == SMALL["s016384"]
        eventually(lambda: not session.context.files, what="both to be released")
        with program(file) as third, program(file) as fourth:
            assert len(stored) == 1
            assert read_on(third) == read_on(fourth) == SMALL["s016384"]
        assert cat(file) == SMALL["s016384"]
        assert len(stored) == 1


def test_many_programs_at_once(store: FileSystemArtifactManager, tmp_path: Path) -> None:
    """D7, V6: each gets its bytes, whoever opens first."""
    reader = """
import os, random, sys
directory, seed = sys.argv[1:]
names = sorted(name for name in os.listdir(directory) if name.startswith("s"))
for name in random.Random(int(seed)).choices(names, k=300):
    fd = os.open(f"{directory}/{name}", os.O_RDONLY | random.choice((0, 0, os.O_DIRECT)))
    if random.random() < 0.1:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    data = b""
    while more := os.read(fd, random.choice((4096, 1 << 20))):
        data += more
    os.close(fd)
    with open(f"{directory.replace('mnt/c/a/v0', 'source')}/{name}", "rb") as expected:
        assert data == expected.read(), name
"""
    with opened(store, tmp_path) as (_, version):
        readers = [subprocess.Popen([sys.executable, "-c", reader, version, str(seed)]) for seed in range(4)]
        assert [each.wait(END_S) for each in readers] == [0] * 4


def test_a_program_killed_between_opening_and_reading_leaves_nothing(
    store: FileSystemArtifactManager, tmp_path: Path
) -> None:
    """D3, D7: what it had open is released, and the file is read by others."""
    with opened(store, tmp_path) as (_, version):
        for _ in range(3):
            with program(version / "s004097") as victim:
                victim.kill()
        assert cat(version / "s004097") == SMALL["s004097"]


def test_wrong_bytes_are_not_put_there(
    store: FileSystemArtifactManager, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """V6: the file opens and reading it is EIO, as in any other way; its neighbours in the object are well."""
    (the_pack,) = [path for path in Path(store.url, "objects").rglob("*") if path.is_file() and holds(path, "s016384")]
    damaged = the_pack.read_bytes().replace(SMALL["s016384"], bytes(16384))
    the_pack.chmod(0o644)
    the_pack.write_bytes(damaged)
    with opened(store, tmp_path) as (_, version):
        failed = subprocess.run(["cat", version / "s016384"], capture_output=True, timeout=END_S)
        assert (failed.stdout, failed.returncode) == (b"", 1)
        assert b"Input/output error" in failed.stderr
        assert "is damaged" in caplog.text
        assert cat(version / "s000100") == SMALL["s000100"]


def holds(path: Path, name: str) -> bool:
    """Whether an object has the bytes of a file."""
    return SMALL[name] in path.read_bytes()


def test_an_object_that_is_missing(store: FileSystemArtifactManager, tmp_path: Path) -> None:
    """V6: opening a file of it is EIO."""
    for path in Path(store.url, "objects").rglob("*"):
        if path.is_file() and holds(path, "s016384"):
            path.unlink()
    with opened(store, tmp_path) as (_, version):
        failed = subprocess.run(["cat", version / "s000100"], capture_output=True, timeout=END_S)
        assert b"Input/output error" in failed.stderr


def test_an_open_file_outlives_its_version(store: FileSystemArtifactManager, tmp_path: Path) -> None:
    """V5: also when its object and its pages have gone; what it was opened on is held."""
    with opened(store, tmp_path) as (_, version), program(version / "s040000", drop=True) as reader:
        for path in Path(store.url, "objects").rglob("*"):
            if path.is_file() and holds(path, "s040000"):
                path.unlink()
        assert read_on(reader) == SMALL["s040000"]


@pytest.fixture
def slow_store(tmp_path: Path) -> SlowStore:
    """The same version, in a store that is not local."""
    write(tmp_path / "source", FILES)
    store = SlowStore(str(tmp_path / "store"))
    store.log_files("a", tmp_path / "source", "c")
    return store


def test_nothing_is_fetched_to_open_a_file(slow_store: SlowStore, tmp_path: Path) -> None:
    """D7, O3: of a store that is not local, bytes come when they are read."""
    with opened(slow_store, tmp_path) as (_, version), program(version / "s016384") as reader:
        assert not slow_store.asked.acquire(blocking=False)
        slow_store.may_answer.set()
        assert read_on(reader) == SMALL["s016384"]


def settle(session: Session) -> None:
    """Until what was fetched is cached: who waits for it gets it before that."""
    fetcher = session.context.vfs.reader.contents.fetcher
    eventually(lambda: not fetcher._under_way, what="what was fetched to be cached")


def test_what_is_cached_is_read_without_asking(slow_store: SlowStore, tmp_path: Path) -> None:
    """D7, O2: the neighbours of a file that was read, which came with it, and all of them in another mount."""
    seen: Counter[str] = Counter()
    # By the ordinary way, which looks for what is to be fetched ahead.
    for number in unless_pages_go(seen, most=1):
        slow_store.may_answer.set()
        with opened(slow_store, tmp_path / str(number)) as (session, version):
            assert cat(version / "s000001") == SMALL["s000001"]
            settle(session)
            slow_store.may_answer.clear()
            counting(session, seen)
            for name, data in list(SMALL.items())[1:]:
                assert cat(version / name) == data
    # The first to be read finds out what the cache has.
    for _ in unless_pages_go(seen, most=2):
        (tmp_path / f"{number}/mnt").rmdir()
        with opened(slow_store, tmp_path / str(number)) as (session, version):
            counting(session, seen)
            for name, data in SMALL.items():
                assert cat(version / name) == data


@pytest.mark.parametrize("reads", ["passthrough", "auto"])
@pytest.mark.parametrize("harm", ["cleared", "deleted", "emptied", "damaged", "damaged and forgotten"])
def test_a_cache_that_is_changed_meanwhile(slow_store: SlowStore, tmp_path: Path, harm: str, reads: str) -> None:
    """D7, V6, O2: by this process or another; what is not there any more, or is wrong, is fetched anew."""
    slow_store.may_answer.set()
    with served(slow_store, tmp_path, refresh_s=3600, reads=reads) as session:
        version = tmp_path / "mnt/c/a/v0"
        for name in ("s000001", "s000100", "s016384"):
            assert cat(version / name) == SMALL[name]
        if harm == "cleared":
            session.context.vfs.reader.cache.clear()
        for path in (tmp_path / "cache/segments").rglob("*"):
            if path.is_dir():
                continue
            if harm == "deleted":
                path.unlink()
            elif harm == "emptied" or (harm == "damaged and forgotten" and path.suffix == ".map"):
                os.truncate(path, 0)
            elif path.suffix != ".map":
                path.write_bytes(bytes(path.stat().st_size))
        names = [*SMALL, *SMALL]
        random.Random(1).shuffle(names)
        for name in names:
            with program(version / name, drop=True) as reader:
                assert read_on(reader) == SMALL[name]


def test_files_that_come_with_being_opened_count_as_used(
    slow_store: SlowStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O2: what was read lately is not what goes when room is made in the cache."""
    slow_store.may_answer.set()
    monkeypatch.setattr(segments, "_TOUCH_S", 0.0)
    seen: Counter[str] = Counter()
    for number in unless_pages_go(seen):
        with opened(slow_store, tmp_path / str(number)) as (session, version):
            assert cat(version / "s000001") == SMALL["s000001"]
            settle(session)
            (used,) = (tmp_path / f"{number}/cache/segments").rglob("*.map")
            counting(session, seen)
            os.utime(used, ns=(0, 0))
            assert cat(version / "s000100") == SMALL["s000100"]
            assert used.stat().st_mtime_ns > 0


def test_the_message_byte_for_byte() -> None:
    """As fuse_notify_store of Linux 6.18 takes it: the header names the notification where an errno would be."""
    read_end, write_end = os.pipe()
    try:
        assert Channel(write_end).store(0x400000002, memoryview(b"bytes"))
        assert os.read(read_end, 100) == (
            (16 + 24 + 5).to_bytes(4, "little")
            + protocol.FUSE_NOTIFY_STORE.to_bytes(4, "little")
            + bytes(8)
            + bytes.fromhex("0200000004000000 0000000000000000 05000000 00000000")
            + b"bytes"
        )
    finally:
        os.close(read_end)
        os.close(write_end)
