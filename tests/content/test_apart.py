"""What a store gives is given out as its own alone: the cache is shared by stores, and their bytes are not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs import connect
from artifactfs.content.blobs import FileBlob
from artifactfs.content.cache import ContentCache
from artifactfs.content.metadata import place_of
from artifactfs.content.reader import ContentReader
from artifactfs.managers.filesystem import FileSystemArtifactManager
from artifactfs.objects import layout
from tests.content.conftest import BIG_BYTES, MIB, Version, read_all
from tests.content.ranged_server import RangedServer

PAGE = 4096


@pytest.fixture
def hostile(packed: Version, tmp_path: Path) -> Iterator[Version]:
    """A store that claims to be the other one, with other bytes in every object."""
    root = tmp_path / "hostile"
    shutil.copytree(packed.tree.parent / "packed", root)
    version = packed.manifest
    for name in version.objects:
        path = root / layout.object_key(name)
        size_bytes = path.stat().st_size
        path.unlink()
        path.write_bytes(b"E" * size_bytes)
    server = RangedServer(root)
    try:
        manager = FileSystemArtifactManager(server.url)
        assert manager.store_id == packed.manager.store_id
        found = Version(manager, connect(str(packed.tree.parent / "packed")), packed.tree, server)
        yield found
        found.settle()
    finally:
        server.close()


@pytest.mark.parametrize("size_bytes", [1 << 30, 16 * MIB], ids=["in-one-segment", "in-several"])
def test_a_page_of_a_hostile_store_stays_its_own(packed: Version, hostile: Version, tmp_path: Path, size_bytes: int):
    page = hostile.open(hostile.reader(tmp_path / "cache", size_bytes), "big").read(PAGE, 3 * MIB)
    assert page == b"E" * PAGE, "unless it is read first, this shows nothing"
    file = packed.open(packed.reader(tmp_path / "cache", size_bytes), "big")
    assert file.read(PAGE, 3 * MIB) == packed.content("big")[3 * MIB : 3 * MIB + PAGE]
    assert read_all(file) == packed.content("big")


def test_the_same_with_a_file_without_an_object_of_its_own(plain: Version, tmp_path: Path):
    """A store of another URL, in squirrel's layout: the digest alone would name both."""
    cache = ContentCache(tmp_path / "cache", 1 << 30, 0)
    position = plain.manifest.index("big")
    assert position is not None
    entry = plain.manifest[position]
    blobs = {
        ContentReader(plain.manager, cache, place_of(url, {})).blob(plain.info, entry, "blake3").key
        for url in (plain.server.url, plain.server.url + "/", "http://elsewhere")
    }
    assert len(blobs) == 2, "one for each store, whichever way its URL is written"


def test_unchecked_bytes_of_an_earlier_release_are_not_believed(packed: Version, tmp_path: Path):
    entry = packed.manifest.find("big")
    assert entry is not None
    assert entry.digest is not None
    cache = ContentCache(tmp_path / "cache", 1 << 30, 0)
    cache.ensure_created()
    old = FileBlob(cache, f"blake3-{entry.digest}", BIG_BYTES, lambda _offset, _size: iter(()), "old", None)
    old.store(0, memoryview(b"E" * BIG_BYTES))
    held = cache.usage().size_bytes
    file = packed.open(packed.reader(tmp_path / "cache"), "big")
    assert file.read(PAGE, 3 * MIB) == packed.content("big")[3 * MIB : 3 * MIB + PAGE]
    assert cache.clear() > held, "what an earlier release left is counted, and goes as everything does"
    assert cache.usage().size_bytes == 0


def test_stores_are_told_apart_by_where_they_are_and_not_by_credentials():
    place = place_of("s3://bucket/store", {"endpoint_url": "http://one", "key": "a", "secret": "b"})
    assert place == place_of("s3://bucket/store/", {"endpoint_url": "http://one", "key": "c"})
    assert place != place_of("s3://bucket/store", {"endpoint_url": "http://two", "key": "a", "secret": "b"})
    assert place != place_of("s3://bucket/store2", {"endpoint_url": "http://one"})
