"""Putting the bytes of a scanned tree into objects.

A file of 1 MiB or more is an object of its own; smaller ones go, in the order of their paths, into packs of up to
16 MiB, so that one put and one get carry hundreds of files. A file whose digest is known, from an earlier version or
from earlier in the same tree, points at the bytes that are there. Those of earlier versions are looked at in the end
(`objects.relied`); where one is missing or damaged, its files are stored again, by themselves and in the order in which
they lay in it, so that an object of which the tree has everything gets its old name, and every version that needs it is
mended. The same tree and the same known digests always give the same objects, so a repeated commit finds what it stored
before. An empty file lies in no object.

Where a store takes several transfers at once, packs and files are put by threads of `objects.uploads`, which bounds how
many packs are in memory; elsewhere it is one. Threading: a Packer belongs to one thread; `_lock` guards what the
uploads add up.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from blake3 import blake3

from artifactfs.errors import UnsupportedTree
from artifactfs.managers.base import Progress, ReferenceOf
from artifactfs.manifest import EntryKind, Manifest
from artifactfs.objects.hashing import HashedFile, changed, hash_file, open_regular, unreadable
from artifactfs.objects.layout import object_key
from artifactfs.objects.relied import Relied, lost_references
from artifactfs.objects.scan import Scan
from artifactfs.objects.store import ObjectStore
from artifactfs.objects.uploads import Uploads

_log = logging.getLogger(__name__)

SMALL_FILE_BYTES = 1 << 20
PACK_BYTES = 16 << 20
_EMPTY_DIGEST = blake3().digest()


class KnownContents:
    """Where contents already stored lie: digest → (object, offset). Bounded by the manifests put in."""

    def __init__(self) -> None:
        self._objects: list[bytes] = []
        # One integer per digest, object number and offset in one: a tuple would double the memory of a million files.
        self._places: dict[bytes, int] = {}

    def add_manifest(self, manifest: Manifest) -> None:
        """Take in what an earlier version holds."""
        first = len(self._objects)
        self._objects.extend(bytes.fromhex(name) for name in manifest.objects)
        places = self._places
        for digest, number, offset, size_bytes in manifest.contents():
            if size_bytes and digest not in places:
                places[digest] = (first + number) << 64 | offset

    def add(self, digest: bytes, object_name: bytes, offset: int) -> None:
        """Take in one content."""
        if not self._objects or self._objects[-1] != object_name:
            self._objects.append(object_name)
        self._places[digest] = (len(self._objects) - 1) << 64 | offset

    def forget(self, digest: bytes) -> None:
        """Forget a content whose stored bytes are missing or damaged."""
        self._places.pop(digest, None)

    def find(self, digest: bytes) -> tuple[bytes, int] | None:
        """The object and the offset in it, None when the content is not known."""
        place = self._places.get(digest)
        return None if place is None else (self._objects[place >> 64], place & (1 << 64) - 1)


class Packer:
    """Stores the contents of one scanned tree and notes in its rows where they lie.

    After :meth:`run`, `stored` lists the keys that must be flushed, `adopted` those that
    share an inode with a file of the tree, and that file.
    """

    def __init__(
        self,
        store: ObjectStore,
        known: KnownContents,
        *,
        consume: bool = False,
        reference_of: ReferenceOf | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.stored: list[str] = []
        self.adopted: list[tuple[str, str]] = []
        self.sent_bytes = 0
        self.deduplicated_bytes = 0
        self._store = store
        self._known = known
        self._consume = consume
        self._reference_of = reference_of
        self._lock = threading.Lock()
        self._put: set[bytes] = set()
        self._progress = progress
        self._done_bytes = 0
        self._done_files = 0
        self._pack = bytearray()
        self._pack_files_bytes = 0
        self._in_pack: dict[bytes, int] = {}
        self._waiting: list[tuple[int, bytes]] = []

    def run(self, scan: Scan, last: Callable[[], tuple[str, bytes] | None] = lambda: None) -> None:
        """Store every file of the tree.

        `last` is called when all rows are filled in; the object that it gives, a hex name and bytes, is stored beside
        those that are still on their way.
        Raises UnsupportedTree when a file is not as it was scanned, StoreFull, StoreUnreachable, AccessDenied.
        """
        references = self._references(scan)
        self._relied = Relied(self._store, scan.builder.content)
        with Uploads(self._store, _expected_objects(scan)) as self._uploads:
            for row, kind in enumerate(scan.builder.kinds):
                if kind == EntryKind.FILE and row not in references:
                    self._file(scan, row)
            self._end_pack(scan)
            self._mend(scan)
            if (named := last()) is not None:
                name, data = named
                self.stored.append(object_key(name))
                self._uploads.put_always(lambda: self._store.put(object_key(name), data))
        self.sent_bytes = self._uploads.sent_bytes
        self.deduplicated_bytes += self._uploads.found_bytes
        self._report(0, 0)

    def _references(self, scan: Scan) -> set[int]:
        """Note where the bytes of the files lie that stand for bytes of a version; returns their rows."""
        if self._reference_of is None:
            return set()
        rows: set[int] = set()
        first_of: dict[str, int] = {}
        ends: dict[str, int] = {}
        for row, kind in enumerate(scan.builder.kinds):
            if kind != EntryKind.FILE or not scan.builder.sizes[row]:
                continue
            entry = self._reference_of(scan.path(row))
            if entry is None or entry.digest is None or entry.object is None:
                continue
            rows.add(row)
            first_of.setdefault(entry.object, row)
            ends[entry.object] = max(ends.get(entry.object, 0), entry.offset + entry.size_bytes)
            scan.builder.set_content(row, bytes.fromhex(entry.digest), bytes.fromhex(entry.object), entry.offset)
            self.deduplicated_bytes += entry.size_bytes
            self._report(entry.size_bytes, 1)
        if lost := lost_references(self._store, ends) if ends else set():
            path = scan.path(min(first_of[name] for name in lost))
            raise UnsupportedTree(f"{path} stands for bytes of a version that has been deleted from the store, or lost")
        return rows

    def _mend(self, scan: Scan) -> None:
        """Store again what earlier versions were thought to hold, and do not."""
        for rows in list(self._relied.damaged()):
            name = scan.builder.content(rows[0])[1].hex()
            _log.warning("%s of %s is missing or damaged: storing it again", object_key(name), self._store.url)
            for row in rows:
                self._known.forget(scan.builder.content(row)[0])
                self.deduplicated_bytes -= scan.builder.sizes[row]
                self._report(-scan.builder.sizes[row], -1)
            for row in rows:
                self._file(scan, row)
            self._end_pack(scan)

    def _file(self, scan: Scan, row: int) -> None:
        size_bytes = scan.builder.sizes[row]
        if size_bytes < SMALL_FILE_BYTES:
            self._small(scan, row, size_bytes)
        else:
            self._large(scan, row, size_bytes)

    def _is_known(self, scan: Scan, row: int, digest: bytes) -> bool:
        """Note where the bytes of a file lie if they are stored; they are looked at in the end."""
        place = self._known.find(digest)
        if place is None:
            return False
        scan.builder.set_content(row, digest, *place)
        if place[0] not in self._put:
            self._relied.add(row)
        self.deduplicated_bytes += scan.builder.sizes[row]
        self._report(scan.builder.sizes[row], 1)
        return True

    def _small(self, scan: Scan, row: int, size_bytes: int) -> None:
        if len(self._pack) + size_bytes > PACK_BYTES:
            self._end_pack(scan)
        data = read_small(scan, row, size_bytes)
        if not data:
            scan.builder.set_content(row, _EMPTY_DIGEST, None)
            self._report(0, 1)
            return
        digest = blake3(data).digest()
        if self._is_known(scan, row, digest):
            return
        self._pack_files_bytes += size_bytes
        if digest in self._in_pack:
            self.deduplicated_bytes += size_bytes
        else:
            self._in_pack[digest] = len(self._pack)
            self._pack += data
        self._waiting.append((row, digest))

    def _end_pack(self, scan: Scan) -> None:
        if not self._pack:
            return
        name = blake3(self._pack)
        key = object_key(name.hexdigest())
        pack, size_bytes, files = self._pack, self._pack_files_bytes, len(self._waiting)
        self._uploads.put(
            name.hexdigest(), len(pack), lambda: self._store.put(key, pack), lambda: self._report(size_bytes, files)
        )
        self.stored.append(key)
        self._put.add(name.digest())
        for digest, offset in self._in_pack.items():
            self._known.add(digest, name.digest(), offset)
        for row, digest in self._waiting:
            scan.builder.set_content(row, digest, name.digest(), self._in_pack[digest])
        self._pack = bytearray()
        self._pack_files_bytes = 0
        self._in_pack.clear()
        self._waiting.clear()

    def _large(self, scan: Scan, row: int, size_bytes: int) -> None:
        file = hash_file(scan.path(row))
        if not scan.is_as_found(row, file.status):
            raise changed(file.path)
        digest = bytes.fromhex(file.digest)
        if self._is_known(scan, row, digest):
            return
        key = object_key(file.digest)
        unsent = _Unsent(size_bytes)
        told = file._replace(on_sent=lambda sent_bytes: self._report(unsent.take(sent_bytes), 0))
        self._uploads.put(
            file.digest, size_bytes, lambda: self._send(key, told), lambda: self._report(unsent.take(size_bytes), 1)
        )
        self.stored.append(key)
        self._put.add(digest)
        self._known.add(digest, digest, 0)
        scan.builder.set_content(row, digest, digest, 0)

    def _send(self, key: str, file: HashedFile) -> None:
        if not self._consume:
            self._store.put_file(key, file)
        elif self._store.adopt_file(key, file):
            self.adopted.append((key, file.path))

    def _report(self, size_bytes: int, files: int) -> None:
        """So much more is done; called by uploads too."""
        with self._lock:
            self._done_bytes += size_bytes
            self._done_files += files
            if self._progress is not None:
                self._progress(self._done_bytes, self._done_files)


class _Unsent:
    """The bytes of a file that are not known to be in the store. Safe from any thread."""

    def __init__(self, size_bytes: int) -> None:
        self._lock = threading.Lock()
        self._left_bytes = size_bytes

    def take(self, size_bytes: int) -> int:
        """So many have arrived; returns how many of them are news."""
        with self._lock:
            news = min(size_bytes, self._left_bytes)
            self._left_bytes -= news
        return news


def _expected_objects(scan: Scan) -> int:
    """About how many objects a tree becomes when nothing of it is known."""
    small_bytes = large = 0
    for kind, size_bytes in zip(scan.builder.kinds, scan.builder.sizes, strict=True):
        if kind == EntryKind.FILE:
            if size_bytes < SMALL_FILE_BYTES:
                small_bytes += size_bytes
            else:
                large += 1
    return large - (-small_bytes // PACK_BYTES)


def read_small(scan: Scan, row: int, size_bytes: int) -> bytes:
    """The bytes of a small file. Raises UnsupportedTree when it is not the file that was scanned any more."""
    path = scan.path(row)
    fd = open_regular(path)
    try:
        data = os.read(fd, size_bytes + 1)
        while 0 < len(data) < size_bytes and (more := os.read(fd, size_bytes + 1 - len(data))):
            data += more
        status = os.fstat(fd)
    except OSError as error:
        raise unreadable(path, error) from error
    finally:
        os.close(fd)
    if len(data) != size_bytes or not scan.is_as_found(row, status):
        raise changed(path)
    return data
