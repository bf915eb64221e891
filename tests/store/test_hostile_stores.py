"""Stores that somebody wrote to harm: refused by a named error, and nothing is written but where it was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from blake3 import blake3

from artifactfs import ArtifactManager, connect
from artifactfs.errors import ArtifactError, FormatError, IntegrityError
from artifactfs.manifest import Entry, Manifest
from artifactfs.objects import layout
from artifactfs.objects.layout import Record
from tests.servers import Server
from tests.servers.fixtures import StartServer

BYTES = b"ten bytes!"
OBJECT = blake3(BYTES).hexdigest()
HONEST = Manifest([Entry("file", size_bytes=len(BYTES), digest=OBJECT, object=OBJECT)])


def columns(**changes: Any) -> bytes:
    """The honest manifest with some of its columns put in place of."""
    plain = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(HONEST.encode()))
    return zstandard.ZstdCompressor().compress(msgspec.msgpack.encode({**plain, **changes}))


HUGE = (10 << 30).to_bytes(8, "little")
CASES: dict[str, tuple[bytes, type[ArtifactError]]] = {
    "a path that leads out": (columns(paths=b"../../escaped"), FormatError),
    "a path that leads out from within": (columns(paths=b"a/../../../escaped"), FormatError),
    "an absolute path": (columns(paths=b"/tmp/escaped"), FormatError),
    "a digest of other bytes": (columns(digests=bytes(32)), IntegrityError),
    "an object of another name": (columns(objects=bytes(32)), IntegrityError),
    "ten gigabytes in ten bytes": (columns(sizes=HUGE), IntegrityError),
    "a file beyond its object": (columns(offsets=HUGE), IntegrityError),
    "a bomb": (zstandard.ZstdCompressor().compress(bytes(64 << 20)), FormatError),
    "an unknown format": (columns(format=7), FormatError),
    "no manifest": (b"nothing of the kind", FormatError),
}


@pytest.fixture(params=["local", "moto"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any]]:
    if request.param == "local":
        return str(tmp_path / "store"), {}
    start_server: StartServer = request.getfixturevalue("start_server")
    server: Server = start_server(request.param)
    return server.fresh(), server.options


def hostile_store(place: tuple[str, dict[str, Any]], manifest: bytes) -> ArtifactManager:
    """A store whose default/m@v0 has this manifest, and a record that names it as it should."""
    url, options = place
    manager = connect(url, **options)
    manager.ensure_created()
    store = manager.store  # type: ignore[attr-defined]
    name = blake3(manifest).hexdigest()
    store.put(layout.object_key(OBJECT), BYTES)
    store.put(layout.object_key(name), manifest)
    record = Record("v0", 1, "c", HONEST.content_digest(), name, 1, len(BYTES))
    store.put_exclusive(layout.record_key(layout.artifact_prefix("default", "m"), 0), layout.encode(record))
    return connect(url, **options)


def everything_below(directory: Path) -> set[Path]:
    return {path for path in directory.rglob("*") if "store" not in path.parts}


@pytest.mark.parametrize("case", sorted(CASES))
def test_hostile_versions(case: str, place: tuple[str, dict[str, Any]], tmp_path: Path):
    manifest, error = CASES[case]
    manager = hostile_store(place, manifest)
    outside = everything_below(tmp_path)
    with pytest.raises(error) as caught:
        manager.download_artifact("m", to=tmp_path / "deep" / "down" / "to")
    assert str(caught.value)
    assert "Traceback" not in str(caught.value)
    made = everything_below(tmp_path) - outside
    assert all(path.is_dir() for path in made), made
    assert not Path("/tmp/escaped").exists()
    with pytest.raises(error):
        read_all(manager)


def read_all(manager: ArtifactManager) -> None:
    info = manager.version_info("m")
    for entry in manager.manifest("m"):
        manager.read_entry(info, entry, 0, 4096 if entry.size_bytes > 1 << 30 else None)


def test_the_honest_one_is_read(place: tuple[str, dict[str, Any]], tmp_path: Path):
    manager = hostile_store(place, columns())
    manager.download_artifact("m", to=tmp_path / "to")
    assert (tmp_path / "to/m/file").read_bytes() == BYTES
