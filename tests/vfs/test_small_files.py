"""Small files of a local store, read whole: the same as by the ordinary way, or left to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.content.reader import CHECKED_BYTES
from artifactfs.managers.filesystem import FileSystemArtifactManager
from mount import small_files
from mount.handles import VersionFile
from mount.settings import MountSettings
from mount.small_files import SmallFile
from mount.tree import VersionNode
from mount.vfs import Vfs
from tests.descriptors import open_below

# Each fills a pack nearly alone, so that there are several.
LARGE = {f"large{number:02}": os.urandom(CHECKED_BYTES - 1 - number) for number in range(40)}
FILES = {"a": b"a", "empty": b"", "whole": os.urandom(CHECKED_BYTES), **LARGE}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FileSystemArtifactManager:
    """A version with files of every kind."""
    directory = tmp_path_factory.mktemp("small")
    source = directory / "source"
    (source / "directory").mkdir(parents=True)
    (source / "link").symlink_to("a")
    for name, data in FILES.items():
        (source / name).write_bytes(data)
    store = FileSystemArtifactManager(str(directory / "store"))
    store.log_files("a", source, "c")
    return store


@pytest.fixture
def vfs(store: FileSystemArtifactManager, tmp_path: Path) -> Iterator[Vfs]:
    """A read-only drive that leaves no descriptor behind."""
    settings = MountSettings(
        "store", tmp_path, read_only=True, state_dir=tmp_path / "state", cache_dir=tmp_path / "cache"
    )
    vfs = Vfs(store, settings, None, None, driver="kernel", log_file=None)
    yield vfs
    vfs.close()
    assert store.local_root is not None
    # The manager, which outlives the drive, holds the directory of the store itself.
    held = [path for path in open_below(store.local_root) if path != str(store.local_root)]
    assert held == open_below(tmp_path) == []


def find(vfs: Vfs, name: str) -> SmallFile | None:
    """A file of the version."""
    node = vfs.resolve(f"/c/a/v0/{name}")
    assert isinstance(node, VersionNode)
    assert node.position is not None
    return vfs.small_files.open(node.version, node.position)


def test_the_same_bytes_as_by_the_ordinary_way(vfs: Vfs) -> None:
    """V6: whole in a buffer that may be larger, and what it is besides is told too."""
    buffer = memoryview(bytearray(CHECKED_BYTES))
    for name in ("a", *LARGE):
        file = find(vfs, name)
        assert file is not None
        assert file.read_whole(buffer) == FILES[name]
        assert file.node == vfs.resolve(f"/c/a/v0/{name}")
        assert file.content.size_bytes == file.size_bytes == len(FILES[name])
        assert file.read(100, 1) == FILES[name][1:101]
        assert file.read_whole(buffer[: file.size_bytes - 1]) is None


def test_few_bytes_of_a_large_file(vfs: Vfs) -> None:
    """V1: they are had at once where they lie in memory; more of them are left to the ordinary way."""
    whole, data = vfs.open(vfs.resolve("/c/a/v0/whole"), os.O_RDONLY), FILES["whole"]
    assert isinstance(whole, VersionFile)
    for size_bytes, offset in ((4096, 5000), (64 << 10, 0), (4096, len(data) - 100), (4096, len(data))):
        assert whole.content.read_at_once(size_bytes, offset) == data[offset : offset + size_bytes]
    assert whole.content.read_at_once((64 << 10) + 1, 0) is None
    whole.close()


@pytest.mark.parametrize("name", ["empty", "whole", "directory", "link"])
def test_what_is_not_for_here(vfs: Vfs, name: str) -> None:
    """V1: nothing in an object, too large, no file."""
    assert find(vfs, name) is None


def test_positions_of_nothing(vfs: Vfs) -> None:
    """V1: the kernel, or somebody who plays it, may ask for any."""
    node = vfs.resolve("/c/a/v0")
    assert isinstance(node, VersionNode)
    assert vfs.small_files.open(node.version, 10**6) is None


def test_objects_that_fall_out_are_held_while_a_file_is_open(
    store: FileSystemArtifactManager, vfs: Vfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V5: and given back after that."""
    monkeypatch.setattr(small_files, "_OPEN_OBJECTS", 1)
    few = small_files.SmallFiles(vfs.reader)
    node = vfs.resolve("/c/a/v0")
    assert isinstance(node, VersionNode)
    manifest = node.version.manifest
    positions = [manifest.index(name) for name in sorted(LARGE)]
    files = [few.open(node.version, position) for position in positions if position is not None]
    objects = {file._owner for file in files if file is not None}
    assert len(objects) > 2
    buffer = memoryview(bytearray(CHECKED_BYTES))
    for name, file in zip(sorted(LARGE), files, strict=True):
        assert file is not None
        assert file.read_whole(buffer) == LARGE[name]
    descriptors = {where.descriptor for where in objects}
    assert all(descriptor.users for descriptor in descriptors)
    del objects, files, file
    few.close()
    assert not any(descriptor.users for descriptor in descriptors)


def test_bytes_that_are_not_in_memory(store: FileSystemArtifactManager, vfs: Vfs) -> None:
    """V6: are left to who may wait for a disk, whichever way the kernel tells."""
    file = find(vfs, "large00")
    assert file is not None
    buffer = memoryview(bytearray(CHECKED_BYTES))
    for path in Path(store.url, "objects").rglob("*"):
        if path.is_file():
            with open(path, "rb") as pack:
                os.fsync(pack.fileno())
                os.posix_fadvise(pack.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    seen = file.read_whole(buffer)
    assert seen is None or seen == FILES["large00"]
    assert file.read(1 << 20, 0) == FILES["large00"]
    assert file.read_whole(buffer) == FILES["large00"]
