"""The cache on disk: what it survives, what it shares, what it bounds."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from artifactfs.content import segments
from artifactfs.content.blobs import Blob, FileBlob, SmallBlob
from artifactfs.content.cache import ContentCache
from artifactfs.content.segments import Segment
from artifactfs.errors import AccessDenied, ArtifactError
from tests.content.conftest import MIB, Version, read_all

SIZES = (1, 4096, MIB - 1, MIB, MIB + 1, 3 * MIB + 77)
SMALL = (5, 9000)


def content(number: int, size_bytes: int) -> bytes:
    return blake3(bytes([number])).digest(size_bytes)


def never(_offset: int, _size_bytes: int) -> bytes:
    raise AssertionError("nothing is fetched here")


class Machine(RuleBasedStateMachine):
    """Two processes on one cache directory, and losses of power: a read gives the right bytes or says they are gone."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.directory = tempfile.TemporaryDirectory(prefix="artifactfs-test-")
        self.boot = segments.BOOT

    def teardown(self) -> None:
        segments.BOOT = self.boot
        self.directory.cleanup()

    @initialize(limit=st.sampled_from([3 * MIB, 40 * MIB]))
    def begin(self, limit: int) -> None:
        self.limit = limit
        self.processes = [self._process(), self._process()]

    def _process(self) -> list[Blob | SmallBlob]:
        cache = ContentCache(Path(self.directory.name), self.limit, 0)
        cache.ensure_created()
        self.cache = cache
        blobs: list[Blob | SmallBlob] = []
        for number, size_bytes in enumerate(SIZES):
            digest = blake3(content(number, size_bytes)).hexdigest()
            key = f"blake3-{digest}"
            is_pack = number % 2 == 1
            pack, file = Blob(cache, key, never, key), FileBlob(cache, key, size_bytes, never, key, ("blake3", digest))
            blobs.append(pack if is_pack else file)
        for number, size_bytes in enumerate(SMALL):
            digest = blake3(content(100 + number, size_bytes)).hexdigest()
            blobs.append(SmallBlob(cache, size_bytes, never, digest, digest=("blake3", digest)))
        return blobs

    @staticmethod
    def _content(which: int) -> bytes:
        if which < len(SIZES):
            return content(which, SIZES[which])
        return content(100 + which - len(SIZES), SMALL[which - len(SIZES)])

    which = st.integers(0, len(SIZES) + len(SMALL) - 1)

    @rule(process=st.integers(0, 1), which=which, first=st.integers(0, 3), count=st.integers(1, 4))
    def fill(self, process: int, which: int, first: int, count: int) -> None:
        blob, data = self.processes[process][which], self._content(which)
        part = memoryview(data[first * MIB : (first + count) * MIB])
        if part and blob.store(first, part):
            blob.check(first, part)
            assert blob.has(first, first + 1)

    @rule(process=st.integers(0, 1), which=which, at=st.floats(0, 1), size_bytes=st.sampled_from([1, 5000, 2 * MIB]))
    def read(self, process: int, which: int, at: float, size_bytes: int) -> None:
        data = self._content(which)
        start = int(at * (len(data) - 1))
        size_bytes = min(size_bytes, len(data) - start)
        found = self.processes[process][which].read(start, size_bytes)
        assert found is None or found == data[start : start + size_bytes]

    @rule(process=st.integers(0, 1), which=which)
    def whole(self, process: int, which: int) -> None:
        fd = self.processes[process][which].whole_fd()
        if fd is not None:
            data = self._content(which)
            assert os.pread(fd, len(data) + 1, 0) == data

    @rule(process=st.integers(0, 1))
    def restart(self, process: int) -> None:
        self.processes[process] = self._process()

    @rule(process=st.integers(0, 1), which=st.integers(0, len(SIZES) - 1))
    def drop(self, process: int, which: int) -> None:
        blob = self.processes[process][which]
        if isinstance(blob, FileBlob):
            blob.drop()
        elif isinstance(blob, Blob):
            blob.drop_around(0, SIZES[which])

    @rule()
    def clear(self) -> None:
        self.cache.clear()

    @rule(seed=st.integers(0, 1 << 30))
    def lose_power(self, seed: int) -> None:
        """Of what was written since, any page may be missing, of the data and of the maps; then another boot."""
        self.processes = []
        chance = random.Random(seed)
        for path in sorted(Path(self.directory.name).rglob("*")):
            if path.is_file() and path.stat().st_size and chance.random() < 0.6:
                how = chance.randrange(4)
                size_bytes = path.stat().st_size
                if how == 0:
                    path.unlink()
                elif how == 1:
                    os.truncate(path, chance.randrange(size_bytes))
                elif path.name != "table":
                    with path.open("r+b") as file:
                        file.seek(chance.randrange(size_bytes) & ~4095)
                        file.write(bytes(min(4096, size_bytes - file.tell())))
        segments.BOOT += 1
        self.processes = [self._process(), self._process()]

    @precondition(lambda self: hasattr(self, "limit"))
    @invariant()
    def is_bounded(self) -> None:
        # A segment is at least one granule, and its blocks are counted, not its bytes.
        assert self.cache.usage().size_bytes <= self.limit + MIB


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def run_filler(version: Version, directory: Path, size_bytes: int, reads: int, seed: int) -> subprocess.Popen[str]:
    script = Path(__file__).with_name("filler.py")
    arguments = [version.server.directory, version.server.url, directory, size_bytes, reads, seed]
    return subprocess.Popen([sys.executable, script, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def test_killed_in_the_middle_of_fills(packed: Version, tmp_path: Path):
    """After kill -9 nothing is served that was not wholly written, and what was written is there."""
    chance = random.Random(9)
    for seed in range(4):
        process = run_filler(packed, tmp_path, 1 << 30, 10_000, seed)
        assert process.stdout is not None
        for _ in range(chance.randrange(1, 12)):
            assert process.stdout.readline(), "it ended by itself"
        process.kill()
        process.communicate()
    packed.settle()
    packed.server.status = 404  # an error that is not tried again
    reader = packed.reader(tmp_path)
    served = 0
    for path in ("big", "own", *(f"small/{number:04}" for number in range(0, 1000, 50))):
        expected = packed.content(path)
        file = packed.open(reader, path)
        for offset in range(0, len(expected), MIB):
            try:
                assert file.read(4096, offset) == expected[offset : offset + 4096]
            except ArtifactError:
                continue
            served += 1
    assert served > 5
    packed.settle()
    again = packed.reader(tmp_path)
    assert read_all(packed.open(again, "big")) == packed.content("big")
    assert packed.open(again, "big").whole_file() is not None


def test_two_processes_share_a_cache_that_is_too_small(packed: Version, tmp_path: Path):
    limit = 24 * MIB
    processes = [run_filler(packed, tmp_path, limit, 150, seed) for seed in range(2)]
    for process in processes:
        process.communicate(timeout=240)
        assert process.returncode == 0
    # Each knows late of what the other has added: a part of the bound, and what is being written.
    assert packed.reader(tmp_path, limit).cache.usage().size_bytes <= limit + 16 * MIB


def test_what_is_used_goes_last(tmp_path: Path):
    cache = ContentCache(tmp_path, 8 * MIB, 0)
    cache.ensure_created()
    blobs = []
    for number in range(12):
        data = content(number, MIB)
        digest = blake3(data).hexdigest()
        blob = FileBlob(cache, f"blake3-{digest}", MIB, never, "x", ("blake3", digest))
        assert blob.store(0, memoryview(data))
        blobs.append(blob)
        for age, older in enumerate(reversed(blobs)):
            if not older.segment(0).is_removed():
                os.utime(older.segment(0).path + segments.MAP_SUFFIX, (10**9 - age, 10**9 - age))
        os.utime(blobs[0].segment(0).path + segments.MAP_SUFFIX)
    kept = [number for number, blob in enumerate(blobs) if blob.has(0, 1)]
    assert kept[0] == 0, "the one that was used again and again"
    assert kept[1:] == list(range(12 - len(kept) + 1, 12))
    assert 5 <= len(kept) <= 8


def test_a_map_that_is_being_made_is_not_what_goes_first(tmp_path: Path):
    cache = ContentCache(tmp_path, 2 * MIB, 0)
    cache.ensure_created()
    (tmp_path / "segments/aa").mkdir()
    coming = tmp_path / "segments/aa/blake3-aa-1.map.1-1"
    for number in range(6):
        coming.write_bytes(bytes(16))
        data = content(number, MIB)
        digest = blake3(data).hexdigest()
        blob = FileBlob(cache, f"blake3-{digest}", MIB, never, "x", ("blake3", digest))
        blob.store(0, memoryview(data))
    assert coming.exists()
    assert cache.usage().size_bytes <= 3 * MIB


@pytest.mark.parametrize("harm", ["the new map", "another's map", "another's map, made first"])
def test_a_segment_that_is_deleted_while_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str):
    """Whoever makes room takes away its map, or empties it first."""
    path = tmp_path / "aa/segment"
    pread, link = os.pread, os.link
    harmed: list[str] = []

    def link_late(aside: str, map_path: str) -> None:
        if not harmed and harm == "the new map":
            harmed.append(aside)
            os.unlink(aside)
        if not harmed and harm == "another's map, made first":
            harmed.append(aside)
            Segment(str(path), 4)
        link(aside, map_path)

    def read_late(fd: int, size_bytes: int, offset: int) -> bytes:
        found = pread(fd, size_bytes, offset)
        if not harmed and harm == "another's map":
            harmed.append("map")
            os.truncate(f"{path}.map", 0)
            segments.remove_segment(str(path))
        return found

    monkeypatch.setattr(segments.os, "link", link_late)
    monkeypatch.setattr(segments.os, "pread", read_late)
    segment = Segment(str(path), 4)
    assert harmed
    if segment.is_removed():
        segment = Segment(str(path), 4)
    segment.write(1, memoryview(b"x" * MIB))
    monkeypatch.undo()
    again = Segment(str(path), 4)
    assert again.has(1, 2)
    assert not again.has(0, 1)
    assert sorted(file.name for file in path.parent.iterdir()) == ["segment", "segment.map"]


def test_the_floor_of_free_space(tmp_path: Path):
    free = os.statvfs(tmp_path)
    floor = free.f_bavail * free.f_frsize + 512 * MIB
    cache = ContentCache(tmp_path, 1 << 40, floor)
    cache.ensure_created()
    digest = blake3(b"x").hexdigest()
    blob = FileBlob(cache, f"blake3-{digest}", MIB, never, "x", None)
    assert not blob.store(0, memoryview(bytes(MIB)))
    assert cache.usage().size_bytes == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a directory that root cannot make")
def test_a_directory_that_cannot_be_made():
    with pytest.raises(AccessDenied, match="--cache-dir"):
        ContentCache(Path("/proc/artifactfs")).ensure_created()


def test_readers_of_what_is_deleted_go_on(packed: Version, tmp_path: Path):
    """Clearing, or another process making room, breaks nobody who has a file open."""
    reader = packed.reader(tmp_path)
    file = packed.open(reader, "own")
    assert read_all(file) == packed.content("own")
    fd = file.whole_file()
    assert fd is not None
    assert packed.reader(tmp_path).cache.clear() >= MIB
    assert os.pread(fd, MIB, 0) == packed.content("own")
    assert read_all(file) == packed.content("own")
