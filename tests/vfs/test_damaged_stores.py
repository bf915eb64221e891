"""Stores with damage in them, under a drive that commits and lists."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from artifactfs.objects import layout
from tests.drives import DirectDrive
from tests.scenarios import refused

LARGE = bytes(range(256)) * 5000


def flip(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)


@pytest.fixture
def store(drive: DirectDrive) -> Path:
    """The directory of the store of a drive that has c/a@v0."""
    drive.mkdir("c")
    drive.mkdir("c/a")
    drive.write("c/a/staging/large", LARGE)
    drive.write("c/a/staging/small", b"small")
    drive.commit("c/a")
    return Path(drive.status().store)


def large_object(store: Path) -> Path:
    (found,) = [
        path for path in (store / layout.OBJECTS).rglob("*") if path.is_file() and path.stat().st_size == len(LARGE)
    ]
    return found


@pytest.mark.parametrize("damage", [flip, Path.unlink])
@pytest.mark.parametrize("is_equal", [True, False], ids=["equal", "more"])
def test_staged_files_mend_what_the_store_lost(
    drive: DirectDrive, store: Path, damage: Callable[[Path], None], is_equal: bool
) -> None:
    """C17: the good copy is not deleted for bytes that the store has not."""
    damage(large_object(store))
    drive.write("c/a/staging/large", LARGE)
    drive.write("c/a/staging/small", b"small")
    if not is_equal:
        drive.write("c/a/staging/more", b"more")
    done = drive.commit("c/a")
    assert (done.version, done.created) == (("v0", False) if is_equal else ("v1", True))
    assert large_object(store).read_bytes() == LARGE
    assert drive.contents(f"c/a/{done.version}")["large"] == LARGE
    assert drive.read("c/a/v0/large") == LARGE


@pytest.mark.parametrize("raw", [b"garbage", b'{"format": 9}'])
def test_a_version_whose_record_cannot_be_read(drive: DirectDrive, store: Path, raw: bytes) -> None:
    """C18: it is EIO, and its neighbours are as before."""
    (store / "collections/c/a/v1.version").write_bytes(raw)
    assert {"v0", "v1", "latest"} <= set(drive.listdir("c/a"))
    with refused(errno.EIO):
        drive.listdir("c/a/v1")
    assert drive.read("c/a/v0/small") == b"small"
    drive.write("c/a/staging/f", b"third")
    assert drive.commit("c/a").version == "v2"
    assert drive.read("c/a/latest/f") == b"third"
