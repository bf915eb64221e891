"""Reading one object and checking it against its name and against the files that lie in it.

A file in an object is a row of 48 bytes: offset, size, digest, in an order in which rows sort as numbers do. Pure
functions, safe from any thread; a `Needed` belongs to one thread while it is filled.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple

from blake3 import blake3

from artifactfs.manifest import EntryKind, Manifest
from artifactfs.objects import layout
from artifactfs.objects.store import ObjectStore

ROW = struct.Struct(">QQ32s")
# A pack and one byte, so that a pack takes one read and nothing needs to be asked for its size.
_CHUNK_BYTES = (16 << 20) + 1
_NO_DIGEST = bytes(32)
_EMPTY_DIGEST = blake3().digest()


class Needed:
    """What versions need of one object: the files in it, as sorted rows, and by which manifests."""

    __slots__ = ("manifests", "rows")

    def __init__(self) -> None:
        self.rows = b""
        self.manifests: array[int] = array("I")

    def add(self, rows: bytes, manifest: int) -> None:
        """Take in what one manifest says. Versions that share an object mostly agree on all of it."""
        self.manifests.append(manifest)
        if rows != self.rows:
            self.rows = b"".join(sorted({*split(self.rows), *split(rows)})) if self.rows else rows


class ObjectRead(NamedTuple):
    """What reading an object gave: whether it matches its name, and the rows that do not match their digests."""

    size_bytes: int
    intact: bool
    bad: list[bytes]


def split(rows: bytes) -> Iterator[bytes]:
    """The single rows."""
    return (rows[i : i + ROW.size] for i in range(0, len(rows), ROW.size))


def rows_of(manifest: Manifest) -> tuple[dict[str, bytes], int]:
    """The rows of each object, by its name, and how many files lie nowhere though they should."""
    objects = manifest.objects
    found: list[list[bytes]] = [[] for _ in objects]
    pack = ROW.pack
    inside = 0
    for digest, number, offset, size_bytes in manifest.contents():
        inside += 1
        found[number].append(pack(offset, size_bytes, digest or _NO_DIGEST))
    rows = {name: b"".join(sorted(set(some))) for name, some in zip(objects, found, strict=True)}
    return rows, 0 if inside == manifest.file_count else _nowhere(manifest)


def _nowhere(manifest: Manifest) -> int:
    """How many files lie in no object though they are not empty."""
    count = 0
    empty = _EMPTY_DIGEST.hex()
    for entry in manifest:
        if entry.kind is EntryKind.FILE and entry.object is None:
            count += entry.size_bytes != 0 or entry.digest not in (empty, None)
    return count


def paths_in(manifest: Manifest, object_name: str, bad: frozenset[bytes]) -> Iterator[str]:
    """The paths of the files whose rows of that object are among `bad`."""
    wanted = manifest.objects.index(object_name)
    for row, number, _ in manifest.places():
        if number == wanted:
            entry = manifest[row]
            digest = bytes.fromhex(entry.digest) if entry.digest else _NO_DIGEST
            if ROW.pack(entry.offset, entry.size_bytes, digest) in bad:
                yield entry.path


def read_object(store: ObjectStore, name: str, rows: bytes) -> ObjectRead:
    """Read an object once and check it. Raises NotFound and what else the store raises."""
    whole = blake3()
    files = _Files(rows, bytes.fromhex(name))
    size_bytes = 0
    for chunk in _chunks(store, layout.object_key(name)):
        whole.update(chunk)
        files.feed(memoryview(chunk), size_bytes)
        size_bytes += len(chunk)
    intact = whole.hexdigest() == name
    return ObjectRead(size_bytes, intact, files.bad(size_bytes, intact))


def _chunks(store: ObjectStore, key: str) -> Iterator[bytes]:
    chunk = store.get_range(key, 0, _CHUNK_BYTES)
    yield chunk
    if len(chunk) < _CHUNK_BYTES:
        return
    # Some backends refuse to read from where an object ends.
    size_bytes = store.size(key)
    offset = len(chunk)
    while offset < size_bytes and (chunk := store.get_range(key, offset, min(_CHUNK_BYTES, size_bytes - offset))):
        yield chunk
        offset += len(chunk)


class _Files:
    """Hashes the files of an object as its bytes go by."""

    def __init__(self, rows: bytes, name: bytes) -> None:
        self._bad: list[bytes] = []
        # A file that is the whole object has the object's digest, so it need not be hashed twice.
        self._same: list[bytes] = []
        self._waiting: list[bytes] = []
        for row in split(rows):
            offset, _, digest = ROW.unpack(row)
            (self._same if offset == 0 and digest == name else self._waiting).append(row)
        self._next = 0
        self._open: list[tuple[int, Any, bytes]] = []

    def feed(self, chunk: memoryview, position: int) -> None:
        """Take in the bytes at a position; they come in order."""
        after = position + len(chunk)
        still: list[tuple[int, Any, bytes]] = []
        for end, hasher, row in self._open:
            hasher.update(chunk[: end - position])
            if end > after:
                still.append((end, hasher, row))
            else:
                self._compare(row, hasher)
        while self._next < len(self._waiting):
            row = self._waiting[self._next]
            offset, size_bytes, _ = ROW.unpack(row)
            if offset >= after and not (offset == after and size_bytes == 0):
                break
            self._next += 1
            end = offset + size_bytes
            hasher = blake3(chunk[offset - position : end - position])
            if end > after:
                still.append((end, hasher, row))
            else:
                self._compare(row, hasher)
        self._open = still

    def _compare(self, row: bytes, hasher: Any) -> None:
        digest = ROW.unpack(row)[2]
        if digest not in (_NO_DIGEST, hasher.digest()):
            self._bad.append(row)

    def bad(self, size_bytes: int, intact: bool) -> list[bytes]:
        """The rows that do not match, when all of the object has gone by."""
        for row in self._same:
            if not intact or ROW.unpack(row)[1] != size_bytes:
                self._bad.append(row)
        return [*self._bad, *(row for _, _, row in self._open), *self._waiting[self._next :]]
