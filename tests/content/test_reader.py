"""Reading through the cache from a real server: what it is asked for, and what happens when it misbehaves."""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from artifactfs.content.blobs import Blob
from artifactfs.content.fetching import Pace
from artifactfs.content.reader import ContentReader
from artifactfs.content.streams import PARALLEL, REQUEST_BYTES, FileRun
from artifactfs.errors import ArtifactError, IntegrityError, StoreTimeout, StoreUnreachable
from tests.content.conftest import BIG_BYTES, MIB, SMALL_BYTES, SMALL_FILES, Version, read_all
from tests.mount.harness import eventually

MakeReader = Callable[..., ContentReader]


def test_a_file_is_read_straight_on_in_few_large_requests(packed: Version, tmp_path: Path):
    reader = packed.reader(tmp_path)
    assert read_all(packed.open(reader, "big")) == packed.content("big")
    asked = packed.server.requests
    assert sum(end - start for _, start, end in asked) == BIG_BYTES
    assert len(asked) <= 20
    assert max(end - start for _, start, end in asked) > 4 * MIB
    assert packed.server.most_at_once > 1


def test_requests_grow_with_what_was_read_and_several_are_under_way():
    run, asked, most = FileRun(1 << 30), [], 0
    for start in range(0, 1 << 30, MIB):
        asked += run.advance(start, MIB)
        most = max(most, sum(end * MIB > start for _, end in asked))
    assert all(end == first for (_, end), (first, _) in itertools.pairwise(asked))
    assert asked[0][0] == 1
    assert asked[-1][1] == 1024
    assert max(end - first for first, end in asked) * MIB == REQUEST_BYTES
    assert len(asked) <= 80
    assert most >= PARALLEL


def test_the_second_reading_asks_for_nothing_also_in_another_process(packed: Version, tmp_path: Path):
    for path in ("small/0007", "own", "empty", "big"):
        assert read_all(packed.open(packed.reader(tmp_path), path)) == packed.content(path)
    packed.settle()
    reader = packed.reader(tmp_path)  # as another process: it knows nothing but what is on the disk
    for path in ("small/0007", "own", "empty", "big"):
        assert read_all(packed.open(reader, path)) == packed.content(path)
    assert packed.server.requests == []


def read_randomly(packed: Version, reader: ContentReader, count: int) -> set[int]:
    """Pages of the large file in random order; gives the granules that they lie in."""
    file, content = packed.open(reader, "big"), packed.content("big")
    chance = random.Random(1)
    granules = set()
    for _ in range(count):
        offset = chance.randrange(BIG_BYTES - 4096) & ~4095
        granules.add(offset // MIB)
        assert file.read(4096, offset) == content[offset : offset + 4096]
    return granules


def test_random_reads_near_a_store_move_one_granule_each(packed: Version, tmp_path: Path):
    reader = packed.reader(tmp_path)
    reader.fetcher._pace.note(1, 0.04, 0.04)
    reader.fetcher._pace.note(7, 10.0, 0.04)
    granules = read_randomly(packed, reader, 30)
    assert len(packed.server.requests) == len(granules)
    assert all(end - start <= MIB for _, start, end in packed.server.requests)


def test_random_reads_far_from_a_store_move_what_comes_in_the_time_of_one(packed: Version, tmp_path: Path):
    packed.server.latency_s = 0.1
    reader = packed.reader(tmp_path)
    granules = read_randomly(packed, reader, 200)
    assert len(granules) > 35
    fetched = [granule for _, start, end in packed.server.requests for granule in range(start // MIB, -(-end // MIB))]
    assert len(fetched) == len(set(fetched))
    assert len(packed.server.requests) < len(granules) * 3 // 4


@pytest.mark.parametrize(
    ("in_wait", "jumps", "runs"),
    [
        (100, 11, []),
        (100, 12, [(96, 101), (102, 104)]),
        (100, 19, [(96, 101), (102, 104)]),
        (100, 20, [(96, 101), (102, 112)]),
        (100, 100, [(96, 101), (102, 112)]),
        (8, 100, [(96, 101), (102, 104)]),
        (1, 100, []),
    ],
)
def test_who_jumps_about_for_long_gets_the_neighbours(in_wait: int, jumps: int, runs: list[tuple[int, int]]):
    run = FileRun(1 << 30)
    for number in range(jumps - 1):
        assert not list(run.advance((500 + 2 * number) * MIB, 4096))
        run.jump(500 + 2 * number, in_wait)
    assert not list(run.advance(101 * MIB, 4096))
    assert run.jump(101, in_wait) == runs


def test_how_many_granules_come_in_the_time_of_one():
    pace = Pace()
    assert pace.in_wait == 1
    pace.note(1, 0.4, 0.4)  # the first makes the connection
    pace.note(1, 0.055, 0.055)
    assert pace.in_wait == 8  # to find out
    pace.note(5, 0.075, 0.055)
    assert pace.in_wait == 16
    pace.note(10, 0.150, 0.055)
    assert pace.in_wait == 8
    pace.note(10, 0.090, 0.055)
    assert pace.in_wait == 32
    near = Pace()
    near.note(1, 0.005, 0.005)
    near.note(4, 0.011, 0.005)
    assert near.in_wait == 1


def test_how_many_requests_at_once_a_store_is_asked_by_how_far_away_it_is():
    pace = Pace()
    assert pace.parallel == PARALLEL
    pace.note(1, 0.4, 0.4)
    assert pace.parallel == PARALLEL
    pace.note(16, 0.06, 0.004)
    assert pace.parallel == 2
    for _ in range(3):
        pace.note(16, 0.2, 0.02)
    assert pace.parallel == 2
    for _ in range(50):
        pace.note(16, 0.2, 0.06)
    assert pace.parallel == PARALLEL


@pytest.mark.parametrize("parallel", [2, 4, PARALLEL])
def test_so_many_requests_are_under_way(parallel: int):
    run, asked, most = FileRun(1 << 30), [], 0
    for start in range(0, 1 << 30, MIB):
        asked += run.advance(start, MIB, parallel)
        if start > 256 * MIB:  # smaller ones, and more of them, come first
            most = max(most, sum(end * MIB > start for _, end in asked))
    assert [asked[0][0], asked[-1][1]] == [1, 1024]
    assert all(end == first for (_, end), (first, _) in itertools.pairwise(asked))
    assert parallel <= most <= parallel + 1


def test_who_reads_straight_on_gets_no_neighbours():
    run = FileRun(1 << 30)
    for granule in range(100):
        list(run.advance(granule * MIB, MIB))
        assert run.jump(granule, 100) == []


def test_few_cached_bytes_are_read_at_once(packed: Version, tmp_path: Path):
    """Never waiting for the store, and not what comes with more to be done."""
    file, content = packed.open(packed.reader(tmp_path), "big"), packed.content("big")
    assert file.read_at_once(4096, 2 * MIB) is None
    assert packed.server.requests == []
    for offset in (0, 2 * MIB, BIG_BYTES - 4096):
        assert file.read(4096, offset) == content[offset : offset + 4096]
    packed.settle()
    packed.server.requests.clear()
    for size_bytes, offset in ((4096, 2 * MIB + 100), (64 << 10, 100), (1, MIB - 1)):
        assert file.read_at_once(size_bytes, offset) == content[offset : offset + size_bytes]
    assert file.read_at_once(2 * 4096, MIB - 4096) is None  # the next granule is not there
    assert file.read_at_once((64 << 10) + 1, 0) is None
    assert file.read_at_once(4096, BIG_BYTES - 4096) is None  # the whole is checked with its end
    assert file.read_at_once(4096, BIG_BYTES) == b""
    assert packed.server.requests == []


def test_few_bytes_read_straight_on_are_fetched_ahead(packed: Version, tmp_path: Path):
    backwards = packed.open(packed.reader(tmp_path), "big")
    for granule in reversed(range(4)):
        backwards.read(4096, granule * MIB)
    packed.settle()
    file, content = packed.open(packed.reader(tmp_path), "big"), packed.content("big")
    assert file.read(4096, 0) == content[:4096]
    assert packed.server.requests == []
    for offset in range(4096, 4 * MIB, 64 << 10):
        assert file.read_at_once(32 << 10, offset) == content[offset : offset + (32 << 10)]
    eventually(lambda: packed.server.requests, what="something fetched ahead")


def test_small_files_in_the_order_of_their_paths_cost_their_packs(packed: Version, tmp_path: Path):
    """About total size / 8 MiB requests; the first granule and the ends of packs are requests of their own."""
    reader = packed.reader(tmp_path)
    for number in range(SMALL_FILES):
        path = f"small/{number:04}"
        assert read_all(packed.open(reader, path)) == packed.content(path)
    total = SMALL_FILES * SMALL_BYTES
    assert len(packed.server.requests) <= total / (8 * MIB) + 3
    assert sum(end - start for _, start, end in packed.server.requests) <= total


def test_files_that_are_found_in_the_cache_keep_what_is_ahead_coming(packed: Version, tmp_path: Path):
    """Who reads cached files without opening them tells so, and opens those after which there is something to fetch."""
    reader = packed.reader(tmp_path)
    stream = reader.stream(packed.info, packed.manifest)

    def opened() -> int:
        count = 0
        for number in range(SMALL_FILES):
            path = f"small/{number:04}"
            position = packed.manifest.index(path)
            assert position is not None
            place = packed.manifest.content_at(position)
            assert place is not None
            _, pack, offset, size_bytes = place
            known = reader.known_place(pack, offset, size_bytes)
            if known is None or not stream.pass_by(position):
                assert read_all(packed.open(reader, path)) == packed.content(path)
                count += 1
            else:
                segment, within = known
                assert os.pread(segment.fd, size_bytes, within) == packed.content(path)
        return count

    assert opened() < SMALL_FILES
    assert len(packed.server.requests) <= SMALL_FILES * SMALL_BYTES / (8 * MIB) + 3
    assert 0 < opened() <= 8


def test_a_small_file_brings_its_neighbours_in_the_pack(packed: Version, tmp_path: Path):
    reader = packed.reader(tmp_path)
    read_all(packed.open(reader, "small/0500"))
    assert [end - start for _, start, end in packed.server.requests] == [MIB]
    read_all(packed.open(reader, "small/0495"))
    assert len(packed.server.requests) == 1


def test_files_that_lie_in_no_pack_are_fetched_ahead_at_once(plain: Version, tmp_path: Path):
    reader = plain.reader(tmp_path)
    paths = [f"small/{number:04}" for number in range(100)]
    for path in paths[:2]:
        assert read_all(plain.open(reader, path)) == plain.content(path)
    plain.server.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_all, plain.open(reader, paths[2]))
        eventually(lambda: plain.server.now > 8)  # the third file is proof enough
        plain.server.gate.set()
        assert reading.result() == plain.content(paths[2])
    for path in paths[3:]:
        assert read_all(plain.open(reader, path)) == plain.content(path)
    names = [name for name, _, _ in plain.server.requests]
    assert len(names) == len(set(names))


def test_files_read_in_no_order_are_not_fetched_ahead(plain: Version, tmp_path: Path):
    reader = plain.reader(tmp_path)
    for number in (900, 100, 700, 40, 610):
        read_all(plain.open(reader, f"small/{number:04}"))
    assert len(plain.server.requests) == 5


def test_small_files_share_files_of_the_cache(plain: Version, tmp_path: Path):
    reader = plain.reader(tmp_path)
    for number in range(200):
        read_all(plain.open(reader, f"small/{number:04}"))
    assert reader.cache.usage().files <= 2
    plain.settle()
    again = plain.reader(tmp_path)
    assert read_all(plain.open(again, "small/0123")) == plain.content("small/0123")
    assert plain.server.requests == []


@pytest.mark.parametrize("claimed", [1, 5000, 3 * MIB, 100 * MIB])
@pytest.mark.parametrize("path", ["small/0999", "own"])
def test_what_another_version_claims_of_an_object_is_that_versions_trouble(
    packed: Version, tmp_path: Path, path: str, claimed: int
):
    """V6: that it is longer or shorter, that it is one file, that there is something behind its end."""
    position = packed.manifest.index(path)
    assert position is not None
    honest = packed.manifest[position]
    lies = [
        honest._replace(offset=honest.offset + honest.size_bytes + claimed, size_bytes=claimed),
        honest._replace(offset=0, size_bytes=claimed, digest=honest.object),
        honest._replace(size_bytes=claimed),
    ]
    reader = packed.reader(tmp_path)
    for lie in lies:
        with pytest.raises(IntegrityError):
            read_all(reader.open(packed.info, lie, "blake3"))
        open_lie = reader.open(packed.info, lie, "blake3")
        for _ in range(2):
            assert read_all(packed.open(reader, path)) == packed.content(path)
            with pytest.raises(IntegrityError):
                read_all(open_lie)
    packed.settle()
    again = packed.reader(tmp_path)
    assert read_all(packed.open(again, path)) == packed.content(path)


@pytest.mark.parametrize("path", ["big", "small/0250"])
def test_one_request_however_many_readers_wait(packed: Version, tmp_path: Path, path: str):
    reader = packed.reader(tmp_path)
    packed.server.gate.clear()
    with ThreadPoolExecutor(50) as pool:
        reading = [pool.submit(packed.open(reader, path).read, 4096, 0) for _ in range(50)]
        eventually(lambda: packed.server.requests)
        packed.server.gate.set()
        expected = packed.content(path)[:4096]
        assert [done.result() for done in reading] == [expected] * 50
    assert len(packed.server.requests) == 1


def test_a_reader_that_gives_up_leaves_the_request_to_the_others(packed: Version, tmp_path: Path):
    reader = packed.reader(tmp_path, read_timeout_s=60.0)
    packed.server.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        patient = pool.submit(packed.open(reader, "own").read, 100, 0)
        eventually(lambda: packed.server.requests)
        reader.fetcher.timeout_s = 0.05
        with pytest.raises(StoreTimeout):
            packed.open(reader, "own").read(100, 0)
        packed.server.gate.set()
        assert patient.result() == packed.content("own")[:100]


def test_what_came_while_it_was_looked_for_is_not_fetched_again(
    packed: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    reader = packed.reader(tmp_path)
    file, other, content = packed.open(reader, "big"), packed.open(reader, "big"), packed.content("big")
    has = Blob.has
    came: list[bytes] = []

    def look_slowly(blob: Blob, first: int, end: int) -> bool:
        found = has(blob, first, end)
        if first == 1 and not came:
            came.append(b"")
            came[0] = other.read(4096, MIB)
            eventually(lambda: has(blob, first, end), what="what another has fetched to be cached")
            eventually(lambda: not reader.fetcher._under_way)
        return found

    monkeypatch.setattr(Blob, "has", look_slowly)
    assert file.read(4 * MIB, 0) == content[: 4 * MIB]
    assert came == [content[MIB : MIB + 4096]]
    asked = [(start, end) for _, start, end in packed.server.requests if start < 4 * MIB]
    assert sorted(asked) == [(0, MIB), (MIB, 2 * MIB), (2 * MIB, 4 * MIB)]


def test_a_store_that_stalls_is_an_error_in_time_and_the_next_try_succeeds(packed: Version, tmp_path: Path):
    reader = packed.reader(tmp_path, read_timeout_s=0.3)
    assert packed.open(reader, "small/0001").read(100, 0)
    packed.server.gate.clear()
    file = packed.open(reader, "big")
    for _ in range(40):  # more than there are threads: none of them may be needed for the next try
        with pytest.raises(StoreTimeout):
            file.read(100, 20 * MIB)
        if len(packed.server.requests) > 20:
            break
        reader.fetcher.timeout_s = 0.02
    # What is cached is served as if nothing were wrong.
    assert packed.open(reader, "small/0002").read(100, 0) == packed.content("small/0002")[:100]
    reader.fetcher.timeout_s = 20.0
    packed.server.gate.set()
    assert file.read(100, 20 * MIB) == packed.content("big")[20 * MIB :][:100]


@pytest.mark.parametrize("path", ["big", "small/0300"])
def test_a_broken_connection_or_an_answer_of_another_length_is_an_error(packed: Version, tmp_path: Path, path: str):
    reader = packed.reader(tmp_path)
    packed.server.cut = True
    with pytest.raises(StoreUnreachable):
        packed.open(reader, path).read(4096, 0)
    packed.server.cut = False
    packed.server.change = lambda data: data[:1000]
    with pytest.raises(ArtifactError):
        packed.open(reader, path).read(4096, 0)
    packed.server.reset()
    assert read_all(packed.open(reader, path)) == packed.content(path)


def flipped(data: bytes) -> bytes:
    """The same with one bit wrong."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def test_a_small_file_with_wrong_bytes_is_never_given_out(packed: Version, plain: Version, tmp_path: Path):
    """V6: checked before the first byte; the neighbours that are right stay."""
    for version in (packed, plain):
        reader = version.reader(tmp_path / version.server.url.rpartition(":")[2])
        damaged = version.content("small/0010")
        version.server.change = lambda data, damaged=damaged: data.replace(damaged, flipped(damaged))
        for _ in range(2):
            with pytest.raises(IntegrityError):
                version.open(reader, "small/0010").read(1, 0)
        assert read_all(version.open(reader, "small/0011")) == version.content("small/0011")
        version.server.reset()
        assert read_all(version.open(reader, "small/0010")) == version.content("small/0010")


@pytest.mark.parametrize("size_bytes", [1 << 30, 64 * MIB], ids=["whole", "in segments"])
def test_a_large_file_with_wrong_bytes_is_an_error_at_its_end_and_is_not_kept(
    packed: Version, tmp_path: Path, size_bytes: int
):
    reader = packed.reader(tmp_path, size_bytes)
    packed.server.change = flipped
    with pytest.raises(IntegrityError):
        read_all(packed.open(reader, "big"))
    eventually(lambda: packed.server.now == 0)
    packed.server.reset()
    file = packed.open(reader, "big")
    assert read_all(file) == packed.content("big")
    assert packed.server.requests
    assert (file.whole_file() is None) == (size_bytes < 1 << 30)


def test_a_whole_file_is_given_once_it_is_complete_and_checked(packed: Version, tmp_path: Path):
    import os

    reader = packed.reader(tmp_path)
    file = packed.open(reader, "own")
    assert file.whole_file() is None
    assert read_all(file) == packed.content("own")
    fd = file.whole_file()
    assert fd is not None
    assert os.fstat(fd).st_size == MIB
    assert os.pread(fd, MIB, 0) == packed.content("own")
    assert packed.open(reader, "small/0000").whole_file() is None
    assert packed.open(reader, "empty").whole_file() is None


def test_a_file_larger_than_the_cache_is_read_right(packed: Version, tmp_path: Path):
    reader = packed.reader(tmp_path, 16 * MIB)
    for _ in range(2):
        assert read_all(packed.open(reader, "big")) == packed.content("big")
    assert reader.cache.usage().size_bytes <= 17 * MIB


def test_without_room_or_a_place_the_store_is_read_past_the_cache(packed: Version, tmp_path: Path):
    reader = packed.reader(tmp_path, min_free_bytes=1 << 60)
    assert packed.open(reader, "big").read(4096, 5000) == packed.content("big")[5000:9096]
    assert read_all(packed.open(reader, "small/0003")) == packed.content("small/0003")
    assert reader.cache.usage().size_bytes == 0
    gone = packed.reader(tmp_path / "gone")
    (tmp_path / "gone").rename(tmp_path / "elsewhere")
    (tmp_path / "gone").write_bytes(b"in the way")
    assert packed.open(gone, "big").read(4096, 5000) == packed.content("big")[5000:9096]
    assert read_all(packed.open(gone, "small/0003")) == packed.content("small/0003")


def test_readers_of_everything_at_once(packed: Version, tmp_path: Path):
    """Threads that read at random while a cache that is much too small evicts under them."""
    reader = packed.reader(tmp_path, 20 * MIB)
    paths = ["big", "own", *(f"small/{number:04}" for number in range(0, SMALL_FILES, 9))]
    stop = threading.Event()

    def work(seed: int) -> int:
        chance = random.Random(seed)
        reads = 0
        while not stop.is_set() and reads < 150:
            path = chance.choice(paths)
            content = packed.content(path)
            offset = chance.randrange(len(content))
            size_bytes = chance.choice([1, 4096, 128 << 10, 3 * MIB])
            assert packed.open(reader, path).read(size_bytes, offset) == content[offset : offset + size_bytes]
            reads += 1
        return reads

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == 8 * 150
