"""Versions that somebody wrote to harm: each a manifest that is not what it should be, below an honest record."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import zstandard
from blake3 import blake3

from artifactfs.errors import ArtifactError, FormatError, IntegrityError
from artifactfs.managers.filesystem import FileSystemArtifactManager
from artifactfs.manifest import Entry, EntryKind, Manifest
from artifactfs.objects import layout
from artifactfs.objects.layout import Record

BYTES = b"ten bytes!"
OBJECT = blake3(BYTES).hexdigest()
HONEST = Manifest([Entry("file", size_bytes=len(BYTES), digest=OBJECT, object=OBJECT)])
LINK = Manifest([Entry("link", EntryKind.SYMLINK, target="there")])
THROUGH = Manifest(
    [
        Entry("a/b/c/top", EntryKind.SYMLINK, target="../../.."),
        Entry("data", EntryKind.SYMLINK, target="a/b/c/top/../../escaped"),
    ]
)
BOMB_BYTES = 1 << 30


def columns(manifest: Manifest = HONEST, **changes: Any) -> bytes:
    """A manifest with some of its columns put in place of."""
    plain = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(manifest.encode()), strict=False)
    return zstandard.ZstdCompressor().compress(msgspec.msgpack.encode({**plain, **changes}))


def _bomb(*, says_its_size: bool) -> bytes:
    """A thousand million zeros in some ten thousand bytes."""
    # Quickly: every process of tests makes it.
    compressor = zstandard.ZstdCompressor(level=1, write_content_size=says_its_size)
    block = bytes(1 << 20)
    stream = compressor.compressobj(BOMB_BYTES if says_its_size else -1)
    return b"".join([*(stream.compress(block) for _ in range(BOMB_BYTES >> 20)), stream.flush()])


def _size(number: int) -> bytes:
    return number.to_bytes(8, "little")


CASES: dict[str, tuple[bytes, type[ArtifactError]]] = {
    "a-path-that-leads-out": (columns(paths=b"../../escaped"), FormatError),
    "a-path-that-leads-out-from-within": (columns(paths=b"a/../../../escaped"), FormatError),
    "an-absolute-path": (columns(paths=b"/tmp/escaped"), FormatError),
    "a-symlink-that-leads-out": (columns(LINK, targets={0: b"../../escaped"}), FormatError),
    "a-symlink-that-leads-out-through-another": (THROUGH.encode(), FormatError),
    "a-symlink-longer-than-a-path": (columns(LINK, targets={0: b"a/" * 2048}), FormatError),
    "a-name-longer-than-a-name": (columns(paths=b"a" * 256), FormatError),
    "more-paths-than-entries": (columns(paths=bytes(100 << 20), padding=os.urandom(1 << 20)), FormatError),
    "frames-one-after-another": (columns() + columns(), FormatError),
    "no-digest": (columns(digests=bytes(32)), FormatError),
    "a-digest-of-other-bytes": (columns(digests=blake3(b"other").digest()), IntegrityError),
    "an-object-of-another-name": (columns(objects=bytes(32)), IntegrityError),
    "a-size-too-small": (columns(sizes=_size(9)), IntegrityError),
    "a-size-too-large": (columns(sizes=_size(11)), IntegrityError),
    "ten-gigabytes-in-ten-bytes": (columns(sizes=_size(10 << 30)), IntegrityError),
    "a-file-beyond-its-object": (columns(offsets=_size(10 << 30)), IntegrityError),
    "a-bomb": (_bomb(says_its_size=True), FormatError),
    "a-bomb-of-no-size": (_bomb(says_its_size=False), FormatError),
    "an-unknown-format": (columns(format=7), FormatError),
    "no-manifest": (b"nothing of the kind", FormatError),
}


def put_version(manager: FileSystemArtifactManager, artifact: str, manifest: bytes) -> None:
    """Write default/artifact@v0 with this manifest, past all checks, and a record that names it as it should."""
    manager.ensure_created()
    store = manager.store
    name = blake3(manifest).hexdigest()
    store.put(layout.object_key(OBJECT), BYTES)
    store.put(layout.object_key(name), manifest)
    record = Record("v0", 1, "c", HONEST.content_digest(), name, 1, len(BYTES))
    store.put_exclusive(layout.record_key(layout.artifact_prefix("default", artifact), 0), layout.encode(record))
