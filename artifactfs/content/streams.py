"""How programs read, and so what is worth fetching ahead: straight on through a file, or file after file.

Pure bookkeeping: what is to be fetched is returned, or handed to a callback. Threading: a `FileRun` may be used by
several threads at once, and then at worst fetches ahead what another has asked for too; a `DirectoryStream` has a lock,
held while it walks entries in memory, never across I/O of the store.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from artifactfs.content.segments import GRANULE_BYTES, GRANULE_SHIFT
from artifactfs.manifest import Entry, EntryKind, Manifest

REQUEST_BYTES = 16 << 20
"""The most that one request asks for: as much as a pack has. A request to S3 costs 1.8 ms of CPU, more than 1 MiB."""
PARALLEL = 8
"""How many such requests are kept under way for one reader, if the store is not close."""
WINDOW_BYTES = PARALLEL * REQUEST_BYTES

_REQUEST_GRANULES = REQUEST_BYTES // GRANULE_BYTES
# Straight on is what begins this close after the furthest byte read (the kernel's own readahead asks out of order) …
_GAP_BYTES = 256 << 10
# … or this far before it.
_OVERLAP_BYTES = 2 << 20
# So many bytes straight on are proof enough to fetch ahead, this many times as much as was read.
_PROOF_BYTES = 512 << 10
_AHEAD_FACTOR = 4
# … which is divided among this many requests while it is little, so that a distant store is not waited for.
_FIRST_PARALLEL = 4

# So many times reading has to have jumped to what is not there, before more is fetched than it asks for.
_PROOF_JUMPS = 4
LEAST_AROUND = 8
"""The smallest block of granules that is fetched together when reading jumps about."""

# So many files in the order of their paths are proof enough to fetch the next ones.
_PROOF_FILES = 3
# How many files a program may leave out, and still read in order.
_SKIPPED_FILES = 32
_TRACKS = 8
# What is fetched ahead of such readers at first; twice as much each time, to WINDOW_BYTES.
_FIRST_WINDOW_BYTES = 8 << 20
# Of a large file that comes next, its beginning; a program that goes on with it is a run of its own.
_LARGE_AHEAD_BYTES = 8 << 20
_AHEAD_FILES = 64


class FileRun:
    """What one open file's reader has read straight on."""

    __slots__ = ("_begin", "_end", "_frontier", "_granules", "_jumps", "_size_bytes", "is_through")

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._granules = -(-size_bytes // GRANULE_BYTES)
        self._begin = self._end = -1
        self._frontier = 0
        self._jumps = 0
        self.is_through = False
        """Tell whether it was read from its beginning to its end."""

    def advance(self, start: int, size_bytes: int, parallel: int = PARALLEL) -> Iterator[tuple[int, int]]:
        """Note a read; gives the runs of granules (first, end) to be fetched ahead, by `parallel` requests at once."""
        end = start + size_bytes
        if self._end - _OVERLAP_BYTES <= start <= self._end + _GAP_BYTES and start >= self._begin >= 0:
            self._end = max(self._end, end)
        else:
            self._begin, self._end = start, end
            self._frontier = 0
        if self._begin == 0 and self._end >= self._size_bytes:
            self.is_through = True
        read_bytes = self._end - self._begin
        if read_bytes < _PROOF_BYTES:
            return
        window = min(parallel * REQUEST_BYTES, read_bytes * _AHEAD_FACTOR)
        unit = max(1, min(_REQUEST_GRANULES, window // min(parallel, _FIRST_PARALLEL) >> GRANULE_SHIFT))
        position = (self._end - 1 >> GRANULE_SHIFT) + 1
        self._frontier = max(self._frontier, position)
        limit = min(self._granules, position + (window >> GRANULE_SHIFT))
        while self._frontier < limit and (self._frontier + unit <= limit or limit == self._granules):
            first, self._frontier = self._frontier, min(self._frontier + unit, self._granules)
            yield first, self._frontier

    def jump(self, granule: int, in_wait: int) -> list[tuple[int, int]]:
        """Note that a granule is not there, after `advance`; gives the runs (first, end) to be fetched besides.

        Where the store is far away, others come in the time that this one is waited for: `in_wait`, as `Fetcher` tells.
        Who jumps about in a file for long gets its neighbours, more each time, and so at last all of the file; that
        costs no more time than what was asked for has cost.
        """
        if self._end - self._begin >= _PROOF_BYTES:
            return []
        self._jumps += 1
        around = min(in_wait, self._jumps - _PROOF_JUMPS, _REQUEST_GRANULES)
        if around < LEAST_AROUND:
            return []
        size = 1 << around.bit_length() - 1
        first = granule & -size
        runs = ((first, granule), (granule + 1, min(first + size, self._granules)))
        return [(start, end) for start, end in runs if start < end]


class _Track:
    """One reader's way through a version's files."""

    __slots__ = ("ahead_bytes", "files", "frontier", "is_owed", "last", "window_bytes")

    def __init__(self, position: int) -> None:
        self.last = position
        self.files = 1
        self.frontier = position + 1
        self.ahead_bytes = 0
        self.window_bytes = _FIRST_WINDOW_BYTES
        self.is_owed = False


Ahead = Callable[[Entry, int, int], None]
"""Called with an entry and the granules of its blob that are to be fetched."""


class DirectoryStream:
    """Readers of a version's files in the order of their paths."""

    def __init__(self, manifest: Manifest, ahead: Ahead) -> None:
        self._manifest = manifest
        self._ahead = ahead
        self._lock = threading.Lock()
        self._tracks: list[_Track] = []

    def touch(self, position: int) -> None:
        """Note that the file at this position of the manifest is being read; fetches the next ones ahead."""
        with self._lock:
            track = self._note(position)
            runs = list(self._walk(track)) if track is not None else []
        for entry, first, end in runs:
            self._ahead(entry, first, end)

    def pass_by(self, position: int) -> bool:
        """Note the same, and fetch nothing; False where there is something to fetch: then `touch` has to be called."""
        with self._lock:
            track = self._note(position)
            if track is not None:
                track.is_owed = True
        return track is None

    def _note(self, position: int) -> _Track | None:
        """The track whose next files are to be fetched, if any."""
        for track in self._tracks:
            if track.last < position <= track.last + _SKIPPED_FILES:
                self._advance(track, position)
                is_due = track.files >= _PROOF_FILES and track.ahead_bytes <= track.window_bytes // 2
                return track if is_due and track.frontier < len(self._manifest) else None
        for track in self._tracks:
            if track.last == position:
                return track if track.is_owed else None
        self._tracks = [*self._tracks[1 - _TRACKS :], _Track(position)]
        return None

    def _advance(self, track: _Track, position: int) -> None:
        track.files += 1
        for passed in range(track.last + 1, min(position + 1, track.frontier)):
            track.ahead_bytes -= self._manifest.size_at(passed)
        if track.frontier <= position:
            track.frontier, track.ahead_bytes = position + 1, 0
        track.last = position

    def _walk(self, track: _Track) -> Iterator[tuple[Entry, int, int]]:
        """Go on from the frontier until enough is ahead: runs of granules, neighbours in a pack together."""
        track.is_owed = False
        manifest = self._manifest
        run: tuple[Entry, int, int] | None = None
        files = 0
        while track.frontier < len(manifest):
            is_enough = track.ahead_bytes >= track.window_bytes or files >= _AHEAD_FILES
            if is_enough and (run is None or run[0].object is None):
                break
            entry = manifest[track.frontier]
            track.frontier += 1
            track.ahead_bytes += entry.size_bytes
            if entry.kind is not EntryKind.FILE or entry.size_bytes == 0:
                continue
            size_bytes = min(entry.size_bytes, _LARGE_AHEAD_BYTES)
            first = entry.offset >> GRANULE_SHIFT
            end = (entry.offset + size_bytes - 1 >> GRANULE_SHIFT) + 1
            if run is not None and entry.object == run[0].object is not None and run[1] <= first <= run[2]:
                # The entry that reaches furthest tells how long the pack is at least.
                run = (entry, run[1], max(end, run[2]))
            else:
                if run is not None:
                    yield run
                    files += 1
                    if is_enough:
                        track.frontier -= 1
                        track.ahead_bytes -= entry.size_bytes
                        run = None
                        break
                run = (entry, first, end)
            if run[2] - run[1] >= _REQUEST_GRANULES:
                yield run
                files += 1
                run = None
        if run is not None:
            yield run
        track.window_bytes = min(2 * track.window_bytes, WINDOW_BYTES)
