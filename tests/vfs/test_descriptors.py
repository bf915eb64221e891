"""Open descriptors: shared, bounded, never closed under a reader, and views of their bytes."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.beneath import open_regular
from mount.descriptors import CLOSED, Descriptor, DescriptorCache, OwnedFd
from tests.descriptors import open_below
from tests.mount.harness import eventually


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """Ten files, each holding its own number."""
    paths = [tmp_path / str(number) for number in range(10)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 10)
    return [str(path) for path in paths]


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[DescriptorCache]:
    """A cache of three that leaks nothing."""
    cache = DescriptorCache(3, open_regular)
    yield cache
    cache.close()
    assert open_below(tmp_path) == []


def test_one_descriptor_for_many_users(cache: DescriptorCache, paths: list[str], tmp_path: Path) -> None:
    """Users of one file share its descriptor, which stays open for the next."""
    used = [cache.acquire(paths[0]) for _ in range(5)]
    assert len({descriptor.fd for descriptor in used}) == 1
    for descriptor in used:
        cache.release(descriptor)
    assert open_below(tmp_path) == [paths[0]]
    again = cache.acquire(paths[0])
    assert again is used[0]
    cache.release(again)


def test_idle_ones_are_bounded(cache: DescriptorCache, paths: list[str], tmp_path: Path) -> None:
    """Of many files that were read, three stay open."""
    for path in paths * 2:
        cache.release(cache.acquire(path))
    assert len(open_below(tmp_path)) == 3


def test_evicted_while_in_use(cache: DescriptorCache, paths: list[str], tmp_path: Path) -> None:
    """What is in use survives its eviction and is closed with its last user."""
    first, second = cache.acquire(paths[0]), cache.acquire(paths[0])
    for path in paths[1:]:
        cache.release(cache.acquire(path))
    assert os.pread(first.fd, 10, 0) == bytes(10)
    cache.release(first)
    assert os.pread(second.fd, 10, 0) == bytes(10)
    fresh = cache.acquire(paths[0])
    assert fresh is not second
    cache.release(second)
    cache.release(fresh)
    assert len(open_below(tmp_path)) == 3


def test_more_in_use_than_fit(cache: DescriptorCache, paths: list[str]) -> None:
    """The bound is on idle ones: any number may be in use."""
    used = [cache.acquire(path) for path in paths]
    assert [os.pread(descriptor.fd, 1, 0)[0] for descriptor in used] == list(range(10))
    for descriptor in used:
        cache.release(descriptor)


def test_a_missing_file(cache: DescriptorCache, tmp_path: Path) -> None:
    """A file that is not there leaves nothing behind."""
    with pytest.raises(FileNotFoundError):
        cache.acquire(str(tmp_path / "missing"))
    assert open_below(tmp_path) == []


def test_many_threads(cache: DescriptorCache, paths: list[str]) -> None:
    """Threads that acquire, read and release at random always read the right file."""
    wrong: list[object] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(500):
            number = rng.randrange(len(paths))
            descriptor = cache.acquire(paths[number])
            if os.pread(descriptor.fd, 1, 5) != bytes([number]):
                wrong.append(number)
            cache.release(descriptor)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


MIB = 1 << 20


def test_views_are_the_bytes_and_outlive_the_descriptor(tmp_path: Path) -> None:
    """Wherever they begin and end; a reader that holds one is not disturbed when the file is closed or deleted."""
    data = os.urandom(3 * MIB + 5)
    path = tmp_path / "file"
    path.write_bytes(data)
    descriptor = Descriptor(os.open(path, os.O_RDONLY))
    views = []
    for offset, size_bytes in ((0, MIB), (1, 4096), (MIB + 4095, MIB), (3 * MIB, 5), (0, len(data))):
        view = descriptor.view(size_bytes, offset)
        if view is None:
            assert os.uname().release < "5.14"
            descriptor.close()
            return
        views.append((view, data[offset : offset + size_bytes]))
    descriptor.close()
    path.unlink()
    assert all(view == expected for view, expected in views)


def test_no_view_of_what_is_not_there(tmp_path: Path) -> None:
    """Neither past the end nor after the file was cut, where a touch would kill."""
    path = tmp_path / "file"
    path.write_bytes(bytes(MIB))
    descriptor = Descriptor(os.open(path, os.O_RDONLY))
    assert descriptor.view(MIB, MIB) is None
    os.truncate(path, MIB // 2)
    assert descriptor.view(MIB, 0) is None
    descriptor.close()
    (tmp_path / "empty").touch()
    empty = Descriptor(os.open(tmp_path / "empty", os.O_RDONLY))
    assert empty.view(1, 0) is None
    empty.close()


def resident_files_bytes() -> int:
    """How much of files this process has mapped and in memory."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssFile:")[2].split()[0]) << 10


def test_what_stays_mapped_is_bounded(tmp_path: Path) -> None:
    """Else reading a large file would make the daemon look as large."""
    with open(tmp_path / "file", "wb") as file:
        file.truncate(64 * MIB)
    descriptor = Descriptor(os.open(tmp_path / "file", os.O_RDONLY))
    before = resident_files_bytes()
    for offset in range(0, 64 * MIB, MIB):
        descriptor.view(MIB, offset)
    assert resident_files_bytes() - before < 16 * MIB
    descriptor.close()


def test_a_number_in_use_is_given_to_no_other_file(tmp_path: Path) -> None:
    """A call under way keeps its descriptor open, whoever lets go of it meanwhile."""
    ours, theirs = os.pipe()
    held = [OwnedFd(ours)]
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(os.read(held[0], 10)))
    reader.start()
    wait = Path(f"/proc/self/task/{reader.native_id}/syscall")
    eventually(lambda: wait.read_text().startswith(f"{(os.uname().machine == 'x86_64' and '0') or '63'} 0x{ours:x} "))
    held[0] = CLOSED
    with open(tmp_path / "other", "xb") as other:
        assert other.fileno() != ours
        os.write(theirs, b"bytes")
        reader.join()
    assert got == [b"bytes"]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(ours)
    os.close(theirs)


def test_a_failing_close_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What a disk says when a file is closed for the last time reaches the log: no program hears of it."""
    fd = OwnedFd(os.open(tmp_path, os.O_RDONLY))
    os.close(int(fd))
    del fd
    assert "could not be closed" in caplog.text
