"""Reading files of versions out of the content cache, filled from the store as reading goes on.

`ContentReader` turns (entry, offset, size) into granules of blobs: of the object that an entry lies in, or of the file
where it lies in none. What is missing is fetched by `content.fetching`: one granule where reading jumps about, with its
neighbours where that goes on for long and the store is far away; more and more ahead of a reader that goes straight on
(`FileRun`); the rest of the pack and the next files in the order of their paths where small files are read in that
order (`content.streams`). Files below `CHECKED_BYTES` are checked against their digest before their first byte is given
out, larger ones when all of them is there.

Neighbours: the mount opens its files here where `ArtifactManager.local_range` knows of no local bytes, and so do the
commands on a store. Threading: safe from any thread, an `OpenFile` too. `_lock` guards the tables; it is a leaf and
never held across I/O.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from blake3 import blake3
from cachetools import LRUCache

from artifactfs.content.blobs import Blob, FileBlob, SmallBlob
from artifactfs.content.cache import ContentCache
from artifactfs.content.fetching import READ_TIMEOUT_S, Fetcher, Request
from artifactfs.content.inmemory import FEW_BYTES, read_in_memory
from artifactfs.content.integrity import check_digest, digest_of
from artifactfs.content.segments import GRANULE_BYTES, GRANULE_SHIFT, Segment
from artifactfs.content.streams import REQUEST_BYTES, DirectoryStream, FileRun
from artifactfs.errors import ArtifactError, IntegrityError, StoreTimeout
from artifactfs.managers.base import ArtifactManager, VersionInfo
from artifactfs.manifest import Entry, Manifest

logger = logging.getLogger(__name__)

# Files below this size are checked against their digest as a whole before their first byte is given out.
CHECKED_BYTES = 1 << 20
# Blobs that no file has open are kept with their descriptors, two each.
_IDLE_BLOBS = 64
_STREAMS = 64
_REMEMBERED_CHECKS = 250_000
_REQUEST_GRANULES = REQUEST_BYTES // GRANULE_BYTES
# A read that finds what it waited for dropped or deleted again tries so often.
_ATTEMPTS = 3


class ContentReader:
    """See the module docstring."""

    def __init__(
        self, manager: ArtifactManager, cache: ContentCache, store: str, *, read_timeout_s: float = READ_TIMEOUT_S
    ) -> None:
        """Read the files of `manager` through `cache`; a read that the store keeps waiting fails in `read_timeout_s`.

        `store` tells the store from others (`metadata.place_of`): what it gives is cached under that too, since a part
        of a large file is given out before the whole was found to have its digest.
        """
        self.manager = manager
        self._store = store
        self._tag = f"s{blake3(store.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"
        self.cache = cache
        self.fetcher = Fetcher(read_timeout_s)
        self._lock = threading.Lock()
        self._blobs: weakref.WeakValueDictionary[str, Blob] = weakref.WeakValueDictionary()
        self._idle: LRUCache[str, Blob] = LRUCache(_IDLE_BLOBS)
        self._checked: LRUCache[int, bool] = LRUCache(_REMEMBERED_CHECKS)
        self._streams: LRUCache[tuple[str, str, str], DirectoryStream] = LRUCache(_STREAMS)

    def close(self) -> None:
        """Fetch nothing more."""
        self.fetcher.close()

    def open(
        self,
        info: VersionInfo,
        entry: Entry,
        algorithm: str,
        manifest: Manifest | None = None,
        position: int | None = None,
    ) -> OpenFile:
        """A file of a version; nothing is read yet. `algorithm` is that of its digest.

        With the manifest and the entry's position in it, files that are read in the order of their paths are fetched
        ahead.
        """
        stream = self.stream(info, manifest) if manifest is not None and position is not None else None
        return OpenFile(self, info, entry, algorithm, self.blob(info, entry, algorithm), stream, position)

    def stream(self, info: VersionInfo, manifest: Manifest) -> DirectoryStream:
        """Who reads a version's files in the order of their paths, and what is fetched ahead of them."""
        key = (info.collection, info.artifact, info.version)
        with self._lock:
            stream = self._streams.get(key)
            if stream is None:
                ahead = partial(self._prefetch, info, manifest.algorithm)
                stream = self._streams[key] = DirectoryStream(manifest, ahead)
        return stream

    def known_place(self, pack: bytes, offset: int, size_bytes: int) -> tuple[Segment, int] | None:
        """As `Blob.known_place`, of a pack (its raw name) that is being read, or was lately."""
        blob = self._blobs.get(f"blake3-{pack.hex()}-{self._tag}")
        return blob.known_place(offset, size_bytes) if blob is not None else None

    def blob(self, info: VersionInfo, entry: Entry, algorithm: str) -> Blob | SmallBlob:
        """Where the bytes of an entry are cached."""
        label = label_of(info, entry)
        size_bytes, digest = entry.size_bytes, None
        if entry.digest is not None:
            digest = (algorithm, entry.digest)
        if entry.object is not None:
            fetch = partial(self._read_object, entry.object, label)
            key = f"blake3-{entry.object}-{self._tag}"
            # An object by itself has the digest of the file; a pack is checked file by file.
            if entry.offset == 0 and digest == ("blake3", entry.object):
                return self._shared(f"{key}-{size_bytes}", FileBlob, key, size_bytes, fetch, label, digest)
            return self._shared(key, Blob, key, fetch, label)

        def read(offset: int, size_bytes: int) -> Iterator[bytes]:
            yield self.manager.read_entry(info, entry, offset, size_bytes)

        if digest is None:
            place = f"{self._store}\0{label}\0{entry.size_bytes}\0{entry.mtime_ns}"
            key = f"place-{blake3(place.encode('utf-8', 'surrogateescape')).hexdigest()}"
        elif size_bytes < CHECKED_BYTES:
            return SmallBlob(self.cache, size_bytes, read, label, digest=digest)
        else:
            key = f"{'-'.join(digest)}-{self._tag}"
        return self._shared(f"{key}-{size_bytes}", FileBlob, key, size_bytes, read, label, digest)

    def _read_object(self, name: str, label: str, offset: int, size_bytes: int) -> Iterator[bytes]:
        """As the manager does, but an error tells of a file for which the object was wanted."""
        try:
            yield from self.manager.read_object(name, offset, size_bytes)
        except IntegrityError as error:
            raise IntegrityError(f"{label} is damaged: {error}") from error

    def _shared(self, name: str, kind: Callable[..., Blob], *arguments: Any) -> Blob:
        """The blob of that name, the same for all who read it; made of a kind with these arguments where it is new."""
        with self._lock:
            blob = self._blobs.get(name)
            if blob is None:
                blob = self._blobs[name] = kind(self.cache, *arguments)
            self._idle[name] = blob
        return blob

    # -- reading ----------------------------------------------------------------------------------------------------

    def read(
        self,
        blob: Blob | SmallBlob,
        start: int,
        size_bytes: int,
        damages: int = 0,
        room: memoryview | None = None,
    ) -> bytes | memoryview:
        """Bytes of a blob that lie inside it, fetched where they are missing; `damages` are those known to the caller.

        They may be put into `room`.

        Raises IntegrityError, StoreTimeout and what the manager's `read_entry` raises.
        """
        first, end = start >> GRANULE_SHIFT, (start + size_bytes - 1 >> GRANULE_SHIFT) + 1
        for attempt in range(_ATTEMPTS):
            try:
                data = blob.read(start, size_bytes, room)
                if data is not None:
                    return data
                requests = []
                for part in range(first, end, _REQUEST_GRANULES):
                    until = min(part + _REQUEST_GRANULES, end)
                    requests += self.fetcher.want(blob, part, until, damages, is_urgent=True)
            except ArtifactError:
                raise
            except OSError as error:
                logger.info("reading %s past the cache: %s", blob.label, error)
                return self._read_past_cache(blob, start, size_bytes)
            try:
                self.fetcher.wait(requests, end)
            except StoreTimeout:
                raise
            except ArtifactError:
                # What was fetched ahead may have failed for a reason that is over.
                if attempt == 0 and any(request.is_ahead for request in requests):
                    continue
                raise
            data = _assembled(blob, start, start + size_bytes, requests)
            if data is not None:
                return data
        return self._read_past_cache(blob, start, size_bytes)

    def _read_past_cache(self, blob: Blob | SmallBlob, start: int, size_bytes: int) -> bytes:
        """The cache cannot be written, or loses things faster than they are read."""
        data = b"".join(blob.fetch(start, size_bytes))
        if len(data) != size_bytes:
            raise IntegrityError(f"{blob.label} is damaged: the store gave {len(data)} bytes of {size_bytes}")
        return data

    def is_checked(self, what: int) -> bool:
        """Tell whether `note_checked` was called for it lately."""
        with self._lock:
            return what in self._checked

    def note_checked(self, what: int) -> None:
        """Remember that a small file was found to have its digest, where it is cached."""
        with self._lock:
            self._checked[what] = True

    def forget_checks(self) -> None:
        """What is cached was changed after it was checked: check all of it again when it is read."""
        with self._lock:
            self._checked.clear()

    def drop(self, blob: Blob, entry: Entry) -> None:
        """Fetch anew, when they are wanted again, the bytes of a file that were found to be damaged."""
        self.fetcher.settle(blob)
        try:
            blob.drop_around(entry.offset, entry.size_bytes)
        except OSError as error:
            logger.warning("could not delete the damaged %s from the cache: %s", blob.label, error)

    def is_cached(self, blob: Blob, entry: Entry) -> bool:
        """Tell whether all bytes of a file are in the cache."""
        try:
            end = entry.offset + entry.size_bytes
            return blob.has(entry.offset >> GRANULE_SHIFT, (end - 1 >> GRANULE_SHIFT) + 1)
        except OSError:
            return False

    def finish(self, blob: Blob) -> None:
        """Raises IntegrityError when all of a blob has come and it does not have its digest; StoreTimeout."""
        if blob.is_verified:
            return
        self.fetcher.settle(blob)
        try:
            blob.finish()
        except ArtifactError:
            raise
        except OSError as error:
            logger.info("could not check %s in the cache: %s", blob.label, error)

    def check_later(self, blob: Blob) -> None:
        """Have a file checked, in the background, that was all cached by a process which did not come to check it."""
        try:
            if blob.is_unchecked():
                self.fetcher.check_later(blob)
        except OSError as error:
            logger.info("could not open %s in the cache: %s", blob.label, error)

    # -- fetching ahead ---------------------------------------------------------------------------------------------

    def ahead(self, blob: Blob | SmallBlob, first: int, end: int, damages: int = 0) -> None:
        """Have granules fetched that will be wanted soon."""
        try:
            self.fetcher.want(blob, first, end, damages, is_urgent=False)
        except OSError as error:
            logger.info("could not look for %s in the cache: %s", blob.label, error)

    def _prefetch(self, info: VersionInfo, algorithm: str, entry: Entry, first: int, end: int) -> None:
        blob = self.blob(info, entry, algorithm)
        self.ahead(blob, first, end, blob.damages)


def label_of(info: VersionInfo, entry: Entry) -> str:
    """A file's address, for messages."""
    return f"{info.collection}/{info.artifact}@{info.version}:{entry.path}"


def _assembled(blob: Blob | SmallBlob, start: int, end: int, requests: list[Request]) -> bytes | memoryview | None:
    """Bytes of a blob, as they came with requests and, for the others, from the cache; None when some have gone."""
    pieces: list[bytes | memoryview] = []
    for request in sorted(requests, key=lambda request: request.first):
        for granule, data in enumerate(list(request.pieces), request.first):
            begin = granule << GRANULE_SHIFT
            if data is None or start >= begin + len(data):
                continue
            if begin >= end:
                break
            if begin > start:
                between = blob.read(start, begin - start)
                if between is None:
                    return None
                pieces.append(between)
                start = begin
            piece = data[start - begin : end - begin]
            pieces.append(piece)
            start += len(piece)
    if start < end:
        rest = blob.read(start, end - start)
        if rest is None:
            return None
        pieces.append(rest)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class OpenFile:
    """The open bytes of one file of a version, immutable."""

    __slots__ = (
        "_algorithm",
        "_blob",
        "_check_needed",
        "_damages",
        "_info",
        "_position",
        "_reader",
        "_run",
        "_stream",
        "entry",
    )

    def __init__(
        self,
        reader: ContentReader,
        info: VersionInfo,
        entry: Entry,
        algorithm: str,
        blob: Blob | SmallBlob,
        stream: DirectoryStream | None,
        position: int | None,
    ) -> None:
        self.entry = entry
        self._reader = reader
        self._info = info
        self._algorithm = algorithm
        self._blob = blob
        self._stream = stream
        self._position = position
        self._check_needed = entry.digest is not None and entry.size_bytes < CHECKED_BYTES
        self._run: FileRun | None = None
        self._damages = 0
        if isinstance(blob, Blob) and not self._check_needed:
            self._damages = blob.damages
            self._run = FileRun(entry.offset + entry.size_bytes)
            reader.check_later(blob)

    def read(self, size_bytes: int, offset: int) -> bytes:
        """At most `size_bytes` from `offset`; b"" past the end. Raises as `ContentReader.read`."""
        return bytes(self.read_into(None, size_bytes, offset))

    def read_into(self, room: memoryview | None, size_bytes: int, offset: int) -> bytes | memoryview:
        """As `read`, perhaps in `room`."""
        entry = self.entry
        size_bytes = min(size_bytes, entry.size_bytes - offset)
        if size_bytes <= 0:
            return b""
        start = entry.offset + offset
        if self._check_needed:
            return self._read_checked(offset, size_bytes)
        blob, run = self._blob, self._run
        assert isinstance(blob, Blob)
        if run is not None:
            self._ahead(blob, run.advance(start, size_bytes, self._reader.fetcher.parallel))
            if blob.known_place(start, size_bytes) is None:
                self._ahead(blob, run.jump(start >> GRANULE_SHIFT, self._reader.fetcher.in_wait))
            if run.is_through and self._stream is not None and self._position is not None:
                self._stream.touch(self._position)
                self._stream = None
        data = self._reader.read(blob, start, size_bytes, self._damages, room)
        if offset + size_bytes == entry.size_bytes:
            # Nobody comes to the end of a file that is wrong.
            self._reader.finish(blob)
        if not blob.is_as_known(self._damages):
            raise IntegrityError(f"{label_of(self._info, entry)} is damaged: what was read of it may be wrong")
        return data

    def read_at_once(self, size_bytes: int, offset: int) -> bytes | bytearray | None:
        """As `read`, of few bytes; None where a store or a disk has to be waited for, or there is more to be done.

        That is so for small files, which are checked, and at the end of a file.
        """
        entry, blob, run = self.entry, self._blob, self._run
        size_bytes = min(size_bytes, entry.size_bytes - offset)
        if size_bytes <= 0:
            return b""
        is_end = offset + size_bytes == entry.size_bytes
        if run is None or isinstance(blob, SmallBlob) or size_bytes > FEW_BYTES or is_end:
            return None
        start = entry.offset + offset
        place = blob.known_place(start, size_bytes)
        if place is None:
            return None
        segment, within = place
        data = read_in_memory(segment.fd, size_bytes, within)
        if data is None or not blob.is_as_known(self._damages):
            return None
        self._ahead(blob, run.advance(start, size_bytes, self._reader.fetcher.parallel))
        return data

    def _ahead(self, blob: Blob, runs: Iterable[tuple[int, int]]) -> None:
        """As `ContentReader.ahead`, for runs of granules (first, end)."""
        for first, end in runs:
            self._reader.ahead(blob, first, end, self._damages)

    def _read_checked(self, offset: int, size_bytes: int) -> bytes | memoryview:
        entry, blob, reader = self.entry, self._blob, self._reader
        if self._stream is not None and self._position is not None:
            self._stream.touch(self._position)
            self._stream = None
        if isinstance(blob, SmallBlob):
            # It was checked when it was fetched, and is each time it is found.
            return reader.read(blob, 0, entry.size_bytes)[offset : offset + size_bytes]
        if reader.is_checked(self._mark(blob)):
            return reader.read(blob, entry.offset + offset, size_bytes)
        assert entry.digest is not None
        whole = reader.read(blob, entry.offset, entry.size_bytes)
        if digest_of(whole, self._algorithm) != entry.digest:
            # Perhaps it is the cache that is wrong.
            reader.drop(blob, entry)
            whole = reader.read(blob, entry.offset, entry.size_bytes)
            try:
                check_digest(whole, entry.digest, self._algorithm, label_of(self._info, entry))
            except IntegrityError:
                reader.drop(blob, entry)
                raise
        if reader.is_cached(blob, entry):
            reader.note_checked(self._mark(blob))
        return whole[offset : offset + size_bytes]

    def _mark(self, blob: Blob) -> int:
        """Stands for these bytes where they are cached; another once they are fetched anew."""
        place = (self.entry.offset, self.entry.size_bytes)
        return hash((self.entry.digest, *place, *blob.serials(*place)))

    def is_cached(self, size_bytes: int, offset: int) -> bool:
        """Tell whether `read` would find these bytes in the cache. May look at a disk."""
        entry, whole = self.entry, self._check_needed
        start = entry.offset if whole else entry.offset + offset
        end = entry.offset + (entry.size_bytes if whole else min(offset + size_bytes, entry.size_bytes))
        try:
            return start >= end or self._blob.has(start >> GRANULE_SHIFT, (end - 1 >> GRANULE_SHIFT) + 1)
        except OSError:
            return False

    def whole_file(self) -> int | None:
        """A descriptor, owned by this file, of a local file that holds exactly these bytes, checked; None without."""
        if not self.entry.size_bytes:
            return None
        try:
            return self._blob.whole_fd()
        except OSError as error:
            logger.info("could not open %s in the cache: %s", self._blob.label, error)
            return None
