"""What the cache keeps under one digest: a pack, a file (or an object that is one), a small file without an object.

A blob knows which of its granules are cached and takes in what was fetched. A `FileBlob`, whose length and mostly
whose digest are known, is checked once all of it is there. A `Blob` as it is stands for a pack: how long that is, is
known to the store alone, and nothing is believed of what versions say about it, since another's may be wrong.
`SmallBlob` is a small file of a store that does not pack; it goes into a drawer.

Neighbours: `content.fetching` fills blobs, `content.reader` reads them, `content.cache` holds their files. Threading:
safe from any thread. `_hash_lock` guards the running digest and is held while hashing; `_drop_lock`, taken inside it,
is held while a damaged blob is deleted, so that nobody opens it before that is done. Neither is held across network
I/O; the cache's locks are taken inside them.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from artifactfs.content.cache import ContentCache
from artifactfs.content.integrity import check_digest, hasher
from artifactfs.content.segments import GRANULE_BYTES, GRANULE_SHIFT, Segment
from artifactfs.errors import IntegrityError

logger = logging.getLogger(__name__)

Fetch = Callable[[int, int], Iterator[bytes]]
"""(offset, size in bytes) → those bytes of the blob from the store, in pieces of any size; fewer only at its end."""

# The length of a pack is not known; it is at most this where artifactfs wrote it.
_PACK_GRANULES = 16


class Blob:
    """A pack. See the module docstring."""

    def __init__(self, cache: ContentCache, key: str, fetch: Fetch, label: str) -> None:
        """`key` is ``<algorithm>-<hex digest>-s<hex of the store>``, and what may follow after another dash."""
        self.key = key
        self.fetch = fetch
        self.label = label
        self.segment_granules = min(_PACK_GRANULES, cache.segment_granules(_PACK_GRANULES << GRANULE_SHIFT))
        self._is_whole = False
        self._cache = cache
        self._segments: dict[int, Segment] = {}

    @property
    def damages(self) -> int:
        """How often the whole was found not to have its digest. Who has read of it before that is to be told."""
        return 0

    def is_as_known(self, _damages: int) -> bool:
        """Tell whether `damages` is still what it was; without waiting, for those who read."""
        return True

    @property
    def is_verified(self) -> bool:
        """Tell if what is cached was found to have the digest of the whole; the files in a pack are checked each."""
        return True

    def segment(self, number: int) -> Segment:
        """Its `number`-th segment. Raises OSError."""
        found = self._segments.get(number)
        if found is None or found.is_gone:
            found = self._cache.segment(self.key, self.segment_granules, None if self._is_whole else number)
            self._segments[number] = found
        else:
            found.touch()
        return found

    def known_place(self, start: int, size_bytes: int) -> tuple[Segment, int] | None:
        """The segment that holds these bytes, and where they begin in it; asks no disk.

        None unless they lie in one, open already, whose granules are known to be there.
        """
        number, within = divmod(start, self.segment_granules << GRANULE_SHIFT)
        segment = self._segments.get(number)
        if segment is None or segment.is_gone:
            return None
        end = (within + size_bytes - 1 >> GRANULE_SHIFT) + 1
        if end > self.segment_granules or segment.ready.find(0, within >> GRANULE_SHIFT, end) >= 0:
            return None
        segment.touch()
        return segment, within

    def has(self, first: int, end: int) -> bool:
        """Tell whether granules can be read from the cache. Raises OSError."""
        size = self.segment_granules
        while first < end:
            number, within = divmod(first, size)
            take = min(end - first, size - within)
            if not self.segment(number).has(within, within + take):
                return False
            first += take
        return True

    def read(self, start: int, size_bytes: int, room: memoryview | None = None) -> bytes | memoryview | None:
        """Bytes from the cache, None unless all of them are there; in `room` where that is enough. Raises OSError."""
        pieces = []
        end = start + size_bytes
        segment_bytes = self.segment_granules << GRANULE_SHIFT
        while start < end:
            number, within = divmod(start, segment_bytes)
            take = min(end - start, segment_bytes - within)
            segment = self.segment(number)
            first, last = within >> GRANULE_SHIFT, within + take - 1 >> GRANULE_SHIFT
            if not segment.has(first, last + 1):
                return None
            data = _read_file(segment.fd, take, within, room if take == size_bytes else None)
            if len(data) != take:
                # Another process found it damaged and emptied it; or the store gave less than there is of a pack.
                if not segment.is_removed():
                    segment.forget_granules(first, last + 1)
                return None
            pieces.append(data)
            start += take
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # -- taking in --------------------------------------------------------------------------------------------------

    def request_bytes(self, first: int, end: int) -> int:
        """How many bytes to ask the store for, for these granules."""
        return (end - first) << GRANULE_SHIFT

    def check_length(self, first: int, end: int, data: bytes) -> None:
        """Raises IntegrityError when an answer of the store is too short, as far as is known, or too long."""
        if len(data) > self.request_bytes(first, end):
            raise IntegrityError(f"{self.label} is damaged: the store gave {len(data)} bytes, more than were asked for")

    def store(self, first: int, data: memoryview) -> bool:
        """Put granules into the cache, if there is room. Raises OSError."""
        with self._cache.room(len(data)) as has_room:
            size = self.segment_granules
            while data and has_room:
                number, within = divmod(first, size)
                take = min(len(data), (size - within) << GRANULE_SHIFT)
                segment = self.segment(number)
                if segment.is_removed():
                    segment = self.segment(number)
                segment.write(within, data[:take])
                data = data[take:]
                first += size - within
        return has_room

    def forget(self, first: int, end: int) -> None:
        """Count granules as not there. Raises OSError."""
        size = self.segment_granules
        while first < end:
            number, within = divmod(first, size)
            take = min(end - first, size - within)
            self.segment(number).forget_granules(within, within + take)
            first += take

    def finish(self) -> None:
        """Nothing: what is read of a pack is checked."""

    def check(self, _first: int, _data: memoryview, *, may_wait: bool = False) -> None:
        """Nothing: what is read of a pack is checked."""

    def is_unchecked(self) -> bool:
        """Tell whether all of it was cached before, perhaps by a process that was killed before it could check it.

        Raises OSError.
        """
        return False

    def whole_fd(self) -> int | None:
        """A descriptor of a file that holds exactly the blob, checked; owned by the blob. Raises OSError."""
        return None

    def serials(self, start: int, size_bytes: int) -> list[int]:
        """The numbers of the segments that bytes lie in: others once those were dropped or deleted."""
        segment_bytes = self.segment_granules << GRANULE_SHIFT
        numbers = range(start // segment_bytes, (start + size_bytes - 1) // segment_bytes + 1)
        return [segment.serial if (segment := self._segments.get(number)) else 0 for number in numbers]

    def drop_around(self, start: int, size_bytes: int) -> None:
        """Keep nothing of the segments that these bytes lie in. Raises OSError."""
        segment_bytes = self.segment_granules << GRANULE_SHIFT
        for number in range(start // segment_bytes, (start + size_bytes - 1) // segment_bytes + 1):
            self.segment(number).forget()


def _read_file(fd: int, size_bytes: int, offset: int, room: memoryview | None) -> bytes | memoryview:
    if room is None or len(room) < size_bytes:
        return os.pread(fd, size_bytes, offset)
    return room[: os.preadv(fd, [room[:size_bytes]], offset)]


class FileBlob(Blob):
    """A file, or an object that is one, of `size_bytes`. One of another length is another blob, whatever its digest."""

    def __init__(
        self, cache: ContentCache, key: str, size_bytes: int, fetch: Fetch, label: str, digest: tuple[str, str] | None
    ) -> None:
        """`digest` is (algorithm, hex), None where it is not known."""
        super().__init__(cache, f"{key}-{size_bytes}", fetch, label)
        self.size_bytes = size_bytes
        self.segment_granules = cache.segment_granules(size_bytes)
        self._is_whole = self.segment_granules << GRANULE_SHIFT >= size_bytes
        self._digest = digest
        self._hash_lock = threading.Lock()
        self._hasher: Any = None
        self._hashed = 0
        self._verified: list[int] | None = None
        self._drop_lock = threading.Lock()
        self._damages = 0

    @property
    def damages(self) -> int:
        """As `Blob.damages`."""
        with self._drop_lock:
            return self._damages

    def is_as_known(self, damages: int) -> bool:
        """As `Blob.is_as_known`."""
        return self._damages == damages

    @property
    def granules(self) -> int:
        """How many granules it has."""
        return -(-self.size_bytes // GRANULE_BYTES)

    def request_bytes(self, first: int, end: int) -> int:
        """As `Blob.request_bytes`."""
        return min(end << GRANULE_SHIFT, self.size_bytes) - (first << GRANULE_SHIFT)

    def check_length(self, first: int, end: int, data: bytes) -> None:
        """As `Blob.check_length`."""
        needed = self.request_bytes(first, end)
        if len(data) != needed:
            raise IntegrityError(f"{self.label} is damaged: the store gave {len(data)} bytes where {needed} should be")

    def finish(self) -> None:
        """Where all of it is cached, or was when it was hashed, see to it that it has its digest.

        Raises IntegrityError, OSError.
        """
        if self._digest is not None and not self.is_verified and self._can_be_checked():
            self.check(0, memoryview(b""), may_wait=True)

    def _can_be_checked(self) -> bool:
        hashed, size = self._hashed, self.segment_granules
        return all(
            segment is not None and segment.ready.find(0, max(0, hashed - number * size), self._length_of(number)) < 0
            for number in range(hashed // size, -(-self.granules // size))
            for segment in (self._segments.get(number),)
        )

    def _length_of(self, number: int) -> int:
        """How many granules the segment has that belong to the blob."""
        return min(self.segment_granules, self.granules - number * self.segment_granules)

    def check(self, first: int, data: memoryview, *, may_wait: bool = False) -> None:
        """Take the digest further, over what was fetched and what is cached after it; at the end compare it.

        Where another thread is about it, it is left to that one, unless `may_wait`.
        Raises IntegrityError when the whole does not have its digest: then nothing of it is kept. Raises OSError.
        """
        if self._digest is None or self.is_verified:
            return
        if not self._hash_lock.acquire(blocking=may_wait):
            return
        try:
            self._check(self._digest, first, data)
        finally:
            self._hash_lock.release()

    def _check(self, digest: tuple[str, str], first: int, data: memoryview) -> None:
        if self.is_verified:
            return
        algorithm, wanted = digest
        if self._hasher is None:
            self._hasher, self._hashed = hasher(algorithm), 0
        behind = (self._hashed - first) << GRANULE_SHIFT
        if 0 <= behind < len(data):
            self._hasher.update(data[behind:])
            self._hashed = first + -(-len(data) // GRANULE_BYTES)
        self._catch_up()
        if self._hashed < self.granules:
            return
        found, self._hasher = self._hasher.hexdigest(), None
        self._hashed = 0
        if found == wanted:
            self._verified = self._all_serials()
            if self._is_whole:
                self.segment(0).note_verified()
            return
        with self._drop_lock:
            self._damages += 1
            self.drop()
        raise IntegrityError(f"{self.label} is damaged: its digest is {found[:16]}…, should be {wanted[:16]}…")

    def _catch_up(self) -> None:
        room = None
        while self._hashed < self.granules and self.has(self._hashed, self._hashed + 1):
            start = self._hashed << GRANULE_SHIFT
            room = room or memoryview(bytearray(GRANULE_BYTES))
            data = self.read(start, min(GRANULE_BYTES, self.size_bytes - start), room)
            if data is None:
                return
            self._hasher.update(data)
            self._hashed += 1

    @property
    def is_verified(self) -> bool:
        """As `Blob.is_verified`."""
        if self._is_whole:
            return (segment := self._segments.get(0)) is not None and segment.verified
        return self._verified is not None and self._verified == self._all_serials()

    def _all_serials(self) -> list[int]:
        return self.serials(0, self.size_bytes)

    def is_unchecked(self) -> bool:
        """As `Blob.is_unchecked`."""
        if not self._is_whole or self._digest is None:
            return False
        segment = self.segment(0)
        return not segment.verified and segment.present == self.granules

    def whole_fd(self) -> int | None:
        """As `Blob.whole_fd`."""
        if not self._is_whole:
            return None
        segment = self.segment(0)
        if not segment.verified or os.fstat(segment.fd).st_size != self.size_bytes:
            return None
        return segment.fd

    def drop(self) -> None:
        """Keep nothing of it: it was found to be damaged. Raises OSError."""
        for number in range(-(-self.granules // self.segment_granules)):
            segment = self._segments.pop(number, None)
            if segment is not None:
                segment.forget()


class SmallBlob:
    """A small file by itself, whose digest is known: checked when it comes and when it is found again."""

    granules = 1
    damages = 0  # each fetch is checked by itself

    def __init__(
        self, cache: ContentCache, size_bytes: int, fetch: Fetch, label: str, *, digest: tuple[str, str]
    ) -> None:
        """`digest` is (algorithm, hex)."""
        self.key = "-".join(digest)
        self.size_bytes = size_bytes
        self.fetch = fetch
        self.label = label
        self._cache = cache
        self._digest = digest

    def has(self, _first: int, _end: int) -> bool:
        """Tell whether it is cached. Raises OSError."""
        return self.read(0, self.size_bytes) is not None

    def read(self, start: int, size_bytes: int, _room: memoryview | None = None) -> bytes | None:
        """Bytes from the cache, None when it is not there. Raises OSError."""
        data = self._cache.drawers.get(*self._digest, self.size_bytes)
        return None if data is None else data[start : start + size_bytes]

    def request_bytes(self, _first: int, _end: int) -> int:
        """All of it."""
        return self.size_bytes

    def check_length(self, _first: int, _end: int, data: bytes) -> None:
        """Raises IntegrityError unless the store gave exactly the file."""
        algorithm, digest = self._digest
        check_digest(data, digest, algorithm, self.label)

    def store(self, _first: int, data: memoryview) -> bool:
        """Put it into the cache, if there is room. Raises OSError."""
        with self._cache.room(len(data)) as has_room:
            if has_room:
                self._cache.drawers.put(self._digest[1], data)
        return has_room

    def is_as_known(self, _damages: int) -> bool:
        """It is never given out damaged."""
        return True

    def forget(self, _first: int, _end: int) -> None:
        """Nothing of it is kept damaged."""

    def check(self, _first: int, _data: memoryview) -> None:
        """It was checked when it came."""

    def finish(self) -> None:
        """It was checked when it came."""

    def whole_fd(self) -> int | None:
        """It shares a file with others."""
        return None
