"""A store on a web server, and readers of it with caches of their own."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from artifactfs import connect
from artifactfs.content.cache import ContentCache
from artifactfs.content.metadata import place_of
from artifactfs.content.reader import ContentReader, OpenFile
from artifactfs.managers.base import ArtifactManager, VersionInfo
from artifactfs.managers.filesystem import FileSystemArtifactManager
from artifactfs.managers.plain import PlainArtifactManager
from artifactfs.manifest import Manifest
from tests.content.ranged_server import RangedServer
from tests.mount.harness import eventually

MIB = 1 << 20
SMALL_FILES = 1000
SMALL_BYTES = 16 << 10
BIG_BYTES = 40 * MIB + 12_345


class Version:
    """One version of a store behind a web server, what is in it, and a place for caches."""

    def __init__(self, manager: ArtifactManager, local: ArtifactManager, tree: Path, server: RangedServer) -> None:
        self.manager = manager
        self.info: VersionInfo = local.version_info("model")
        self.manifest: Manifest = local.manifest("model")
        self.tree = tree
        self.server = server
        self.opened: list[ContentReader] = []

    def reader(self, directory: Path, size_bytes: int = 1 << 30, **options: Any) -> ContentReader:
        """A reader with the cache in `directory`."""
        cache = ContentCache(directory, size_bytes, options.pop("min_free_bytes", 0))
        cache.ensure_created()
        reader = ContentReader(self.manager, cache, place_of(self.server.url, {}), **options)
        self.opened.append(reader)
        return reader

    def settle(self) -> None:
        """End what earlier tests have under way, so that this one counts its own requests."""
        self.server.gate.set()
        for reader in self.opened:
            reader.close()
        eventually(lambda: not any(reader.fetcher.threads for reader in self.opened))
        self.opened.clear()
        self.server.reset()

    def open(self, reader: ContentReader, path: str) -> OpenFile:
        """Open a file of the version."""
        position = self.manifest.index(path)
        assert position is not None
        return reader.open(self.info, self.manifest[position], self.manifest.algorithm, self.manifest, position)

    def content(self, path: str) -> bytes:
        """What is in it."""
        return (self.tree / path).read_bytes()


def read_all(file: OpenFile, piece_bytes: int = 128 << 10) -> bytes:
    """A file in the order and the pieces that the kernel asks in."""
    pieces = []
    offset = 0
    while piece := file.read(piece_bytes, offset):
        pieces.append(piece)
        offset += len(piece)
    return b"".join(pieces)


@pytest.fixture(scope="session")
def _tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("content") / "tree"
    (tree / "small").mkdir(parents=True)
    chance = random.Random(6)
    for number in range(SMALL_FILES):
        (tree / "small" / f"{number:04}").write_bytes(chance.randbytes(SMALL_BYTES))
    (tree / "big").write_bytes(chance.randbytes(BIG_BYTES))
    (tree / "empty").write_bytes(b"")
    (tree / "own").write_bytes(chance.randbytes(MIB))
    return tree


def _serve(
    store: Path, tree: Path, kind: Callable[..., ArtifactManager], connected: ArtifactManager
) -> Iterator[Version]:
    connected.log_files("model", tree)
    server = RangedServer(store)
    try:
        version = Version(kind(server.url), connected, tree, server)
        yield version
        version.settle()
    finally:
        server.close()


@pytest.fixture(scope="session")
def _packed(_tree: Path) -> Iterator[Version]:
    store = _tree.parent / "packed"
    yield from _serve(store, _tree, FileSystemArtifactManager, connect(str(store)))


@pytest.fixture(scope="session")
def _plain(_tree: Path) -> Iterator[Version]:
    store = _tree.parent / "plain"
    yield from _serve(store, _tree, PlainArtifactManager, connect(f"plain+file://{store}"))


@pytest.fixture
def packed(_packed: Version) -> Version:
    """A version in a store of objects: small files lie in packs."""
    _packed.settle()
    return _packed


@pytest.fixture
def plain(_plain: Version) -> Version:
    """The same in squirrel's layout: every file by itself."""
    _plain.settle()
    return _plain
