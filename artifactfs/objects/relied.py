"""Looking at the stored objects that a commit relies on instead of putting them.

A file whose content an earlier version has is not sent again; its bytes are then worth what the stored ones are worth,
for whoever commits deletes the copy at hand. So every object relied on is looked at once before the record is written:
that it is there, and long enough. On this machine's disk the bytes are compared with their digests too, where the
commit read the file itself: that costs one more reading of them, at the speed of the disk or of the page cache. A
remote store is asked for sizes: many at once, or by pages of a listing where that takes fewer requests. A file staged
by reference has no bytes to be stored again, so its object is asked for its size everywhere.

Threading: a `Relied` belongs to one thread; the rest are functions on a store, safe from any thread.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence

from blake3 import blake3

from artifactfs.errors import IntegrityError, NotFound
from artifactfs.manifest import Manifest
from artifactfs.objects.gc import unreferenced_since
from artifactfs.objects.inventory import listed_sizes
from artifactfs.objects.layout import object_key
from artifactfs.objects.store import ObjectStore

Content = tuple[bytes, bytes, int, int]
"""A file's raw digest, the raw name of the object it lies in, its offset there and its size."""

# Files that lie one after another are read together, up to this size.
_SPAN_BYTES = 8 << 20
# Of a larger file: what stays in the processor's cache until it is hashed.
_BLOCK_BYTES = 1 << 20
# One page of a listing costs about as much as this many small calls, of which many run at once.
_CALLS_PER_PAGE = 32


class Relied:
    """The rows of a manifest whose bytes were not put by this commit; `content_of` tells where those of a row lie."""

    def __init__(self, store: ObjectStore, content_of: Callable[[int], Content]) -> None:
        self._store = store
        self._content_of = content_of
        self._rows: dict[bytes, array[int]] = {}

    def add(self, row: int) -> None:
        """Note a row that says where its bytes lie."""
        _, name, _, _ = self._content_of(row)
        self._rows.setdefault(name, array("L")).append(row)

    def damaged(self) -> Iterator[list[int]]:
        """The rows of each object that is missing, or damaged where it is relied on, in the order they have in it."""
        lost = lost_objects(self._store, {name.hex(): self._end(rows) for name, rows in self._rows.items()})
        for name, rows in self._rows.items():
            in_order = sorted(rows, key=lambda row: self._content_of(row)[2])
            if name.hex() in lost or (self._store.local_root is not None and not self._is_sound(name.hex(), in_order)):
                yield in_order

    def _end(self, rows: Sequence[int]) -> int:
        return max(offset + size_bytes for _, _, offset, size_bytes in map(self._content_of, rows))

    def _is_sound(self, name: str, rows: list[int]) -> bool:
        """Tell whether the bytes of rows of an object, in the order they have in it, are what their digests say."""
        for span in self._spans(rows):
            digest, _, first, size_bytes = self._content_of(span[0])
            if len(span) == 1:
                if _digest(self._store, name, first, size_bytes) != digest:
                    return False
                continue
            data = memoryview(_read(self._store, name, first, self._end(span) - first))
            for digest, _, offset, size_bytes in map(self._content_of, span):
                if blake3(data[offset - first :][:size_bytes]).digest() != digest:
                    return False
        return True

    def _spans(self, rows: list[int]) -> Iterator[list[int]]:
        """Rows that lie one after another, by no more bytes than are read at once; a larger one comes alone."""
        span: list[int] = []
        begin = end = 0
        for row in rows:
            _, _, offset, size_bytes = self._content_of(row)
            after = offset + size_bytes
            if span and (offset > end or after - begin > _SPAN_BYTES):
                yield span
                span = []
            if not span:
                begin = offset
            span.append(row)
            end = max(end, after)
        yield span


def lost_objects(store: ObjectStore, needed: Mapping[str, int], *, renew: bool = False) -> set[str]:
    """Those of the objects that are not there, or hold fewer bytes than are needed of them.

    `renew` has the others count as put just now, which gc goes by.
    """
    listed = listed_sizes(store, len(needed) // _CALLS_PER_PAGE)
    names = [name for name, end in needed.items() if renew or listed.get(bytes.fromhex(name), -1) < end]

    def is_lost(name: str) -> bool:
        key = object_key(name)
        try:
            return store.size(key) < needed[name] or (renew and not store.renew(key))
        except NotFound:
            return True

    return {name for name, lost in zip(names, store.at_once(is_lost, names), strict=True) if lost}


def lost_references(store: ObjectStore, needed: Mapping[str, int]) -> set[str]:
    """Find lost objects among those that no live version may need; gc keeps the others until the record is written.

    It deletes what it has found unreferenced for its grace period; that is renewed here as by a put.
    """
    due = unreferenced_since(store)
    renewed = {name: end for name, end in needed.items() if name in due}
    kept = {name: end for name, end in needed.items() if name not in due}
    return lost_objects(store, renewed, renew=True) | lost_objects(store, kept)


def ends_of(manifest: Manifest) -> dict[str, int]:
    """Object → how many bytes of it a manifest needs."""
    objects = manifest.objects
    ends = dict.fromkeys(objects, 0)
    for _, number, offset, size_bytes in manifest.contents():
        name = objects[number]
        ends[name] = max(ends[name], offset + size_bytes)
    return ends


def is_whole(store: ObjectStore, manifest: Manifest) -> bool:
    """Tell whether everything that a manifest needs can be relied on."""
    relied = Relied(store, lambda row: manifest.content_at(row) or (b"", b"", 0, 0))
    for row, _, _ in manifest.places():
        if manifest.content_at(row) is not None:
            relied.add(row)
    return next(relied.damaged(), None) is None


def _digest(store: ObjectStore, name: str, offset: int, size_bytes: int) -> bytes:
    """The digest of what lies at a place of an object."""
    found = blake3()
    end = offset + size_bytes
    while offset < end and (data := _read(store, name, offset, min(_BLOCK_BYTES, end - offset))):
        found.update(data)
        offset += len(data)
    return found.digest()


def _read(store: ObjectStore, name: str, offset: int, size_bytes: int) -> bytes:
    """Bytes of an object, none where it cannot be read as one."""
    try:
        return store.get_range(object_key(name), offset, size_bytes)
    except (NotFound, IntegrityError):
        return b""
