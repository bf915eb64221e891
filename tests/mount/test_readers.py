"""Programs that read versions: what they print is what they print of the source."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import trees
from tests.mount.harness import EVENTUALLY_S, Mount, run
from tests.mount.shared import mounted

pytestmark = pytest.mark.fuse

SQL = "SELECT count(*), sum(a), max(b) FROM t"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with an array and a database in it."""
    source = trees.make_tree(tmp_path_factory.mktemp("source") / "tree")
    code = "import numpy, sys; numpy.save(sys.argv[1], numpy.arange(1_000_000.0))"
    run(sys.executable, "-c", code, source / "array.npy")
    run("sqlite3", source / "db.sqlite", "CREATE TABLE t(a, b); INSERT INTO t VALUES(1, 'x'), (41, 'y')")
    return source


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory, driver: str) -> Iterator[Mount]:
    """A store to read from."""
    with mounted(tmp_path_factory.mktemp("readers"), driver, "--commit-after", "never") as mount:
        yield mount


@pytest.fixture(scope="module")
def version(mount: Mount, source: Path) -> Path:
    """The tree as a version; read through ``latest``, as people do."""
    staging = mount.make("data/set")
    run("cp", "-a", f"{source}/.", staging)
    mount.commit("data/set")
    return mount / "data/set/latest"


def both(source: Path, version: Path, *command: str) -> str:
    """The program run in both trees prints the same."""
    expected, found = (
        subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, check=True).stdout for cwd in (source, version)
    )
    assert found == expected
    return os.fsdecode(expected)


def test_sha256sum(source: Path, version: Path) -> None:
    """V1: every byte is there."""
    script = "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum"
    assert both(source, version, "sh", "-c", script).count("\n") == 14


def test_grep(source: Path, version: Path) -> None:
    """V1: grep -r finds the same lines."""
    assert "src/a/b/c/deep.txt:deep" in both(source, version, "sh", "-c", "grep -rI e . | LC_ALL=C sort")


def test_find(source: Path, version: Path) -> None:
    """V1: kinds, modes, sizes, links and times as find sees them; also with the tests that need no stat."""
    listing = r"find . -mindepth 1 ! -type d -printf '%y %m %s %T@ %p %l\0' | LC_ALL=C sort -z | tr '\0' '\n'"
    both(source, version, "sh", "-c", listing)
    both(source, version, "sh", "-c", r"find . -mindepth 1 -type d -printf '%m %T@ %p\n' | LC_ALL=C sort")
    both(source, version, "sh", "-c", "find . -empty | LC_ALL=C sort")
    both(source, version, "sh", "-c", "find -L . -name '*.txt' | LC_ALL=C sort")


def test_du(source: Path, version: Path) -> None:
    """V1: sizes by name, and a total on disk that is not nothing."""
    both(source, version, "sh", "-c", "find . -type f -exec du --apparent-size -b {} + | LC_ALL=C sort")
    total_kib = int(run("du", "-s", "-k", f"{version}/").split()[0])
    assert total_kib * 1024 >= (version / "array.npy").stat().st_size


def test_ls(source: Path, version: Path) -> None:
    """V1: long listings agree but for blocks, owners and link counts."""
    script = """ls -lnR --time-style=full-iso -b | grep -v ^total | awk '!/^d/ {$2=$3=$4=""; print}'"""
    both(source, version, "sh", "-c", script)


def test_tar(source: Path, version: Path, tmp_path: Path) -> None:
    """V1: an archive of a version unpacks to the source."""
    archive = tmp_path / "version.tar"
    run("tar", "--format=posix", "-cf", archive, "-C", version, ".")
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    run("tar", "-xpf", archive, "-C", unpacked)
    trees.assert_same(source, unpacked)


def test_rsync_sees_no_difference(source: Path, version: Path) -> None:
    """V1: rsync would send nothing, by size and time, and by checksum; only the top has a time of its own."""
    for options in (["-an"], ["-anc", "--omit-dir-times"]):
        listed = run("rsync", *options, "--delete", "--itemize-changes", f"{source}/", f"{version}/").splitlines()
        assert [line for line in listed if not line.endswith(" ./")] == []


def test_cp_back(source: Path, version: Path, tmp_path: Path) -> None:
    """V1: a copy out of the drive is the source again."""
    run("cp", "-a", f"{version}/.", tmp_path / "back")
    trees.assert_same(source, tmp_path / "back")


def test_numpy_maps(version: Path) -> None:
    """V1: arrays are mapped and read in any order."""
    code = (
        "import numpy, sys; a = numpy.load(sys.argv[1], mmap_mode='r'); "
        "assert a[999_999] == 999_999 and a[::-7777].sum() == numpy.arange(1_000_000.0)[::-7777].sum(); print(a.sum())"
    )
    assert run(sys.executable, "-c", code, version / "array.npy") == "499999500000.0\n"


def test_sqlite_reads(version: Path) -> None:
    """V1: a database is queried where it lies; nothing appears beside it."""
    before = sorted(os.listdir(version))
    assert run("sqlite3", "-readonly", version / "db.sqlite", SQL) == "2|42|y\n"
    assert sorted(os.listdir(version)) == before


def test_pages_are_kept(version: Path) -> None:
    """V7: after a close and another open, the pages that were read are still in memory."""
    path = version.resolve() / "array.npy"
    path.read_bytes()
    fd = os.open(path, os.O_RDONLY)
    try:
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
            resident = _resident_pages(mapped)
    finally:
        os.close(fd)
    assert sum(resident) >= 0.9 * len(resident)


def _resident_pages(mapped: mmap.mmap) -> list[int]:
    """mincore(2) of a mapping, without touching it."""
    libc = ctypes.CDLL(None, use_errno=True)
    pages = -(-len(mapped) // mmap.PAGESIZE)
    answer = (ctypes.c_ubyte * pages)()
    view = memoryview(mapped)
    # numpy gives the address of a buffer that may not be written to; ctypes refuses it.
    import numpy

    address = numpy.frombuffer(view, dtype=numpy.uint8).ctypes.data
    assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(mapped)), answer) == 0
    view.release()
    return [page & 1 for page in answer]


def test_readers_of_latest_while_versions_appear(mount: Mount) -> None:
    """V5, V8: who opens files through latest always gets a whole version, and one not older than the one before."""
    staging = mount.make("data/moving")
    script = (
        "import sys, os\n"
        "latest, last, seen = sys.argv[1], int(sys.argv[2]), -1\n"
        "while seen < last:\n"
        "    fd = os.open(latest, os.O_RDONLY | os.O_DIRECTORY)\n"
        "    texts = {open(f'f{n}', opener=lambda p, f: os.open(p, f, dir_fd=fd)).read() for n in range(3)}\n"
        "    os.close(fd)\n"
        "    assert len(texts) == 1, texts\n"
        "    number = int(texts.pop())\n"
        "    assert number >= seen, (number, seen)\n"
        "    seen = number\n"
    )
    last = 8

    def log(number: int) -> None:
        for name in range(3):
            (staging / f"f{name}").write_text(str(number))
        mount.commit("data/moving")

    log(0)
    readers = [
        subprocess.Popen([sys.executable, "-c", script, mount / "data/moving/latest", str(last)]) for _ in range(3)
    ]
    for number in range(1, last + 1):
        log(number)
    assert [reader.wait(EVENTUALLY_S) for reader in readers] == [0, 0, 0]
