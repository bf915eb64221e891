"""The content cache: bytes of remote stores on the local disk, under the digests that name them.

Parts of large files and packs are kept apart by the store they came from, because they are given out unchecked or
checked in part: what a store gives stays its own. Small files in drawers, each checked, are everybody's.

::

    <directory>/segments/<2 hex>/<name>[.map]     granules of objects and files (`content.segments`)
    <directory>/drawers/<n>.drawer, table         small files of stores that do not pack (`content.drawers`)
    <directory>/stores/<id>/…                     listings and manifests, for when a store is away (`content.metadata`)
    <directory>/lock                              held by the process that makes room

Bounded by bytes and by what must stay free on the disk. When either is passed, what was not used for longest goes,
file by file; whoever has it open goes on reading it. Any number of processes share a directory: each counts what it
adds itself, and looks at the disk now and then for what the others did.

Threading: safe from any thread. `_making_room` is held by the one thread that deletes. `_lock` guards the counters and
the table of open segments; it is taken inside `_making_room`, and is a leaf. Neither is held across network I/O.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from artifactfs.content.drawers import SUFFIX as DRAWER_SUFFIX
from artifactfs.content.drawers import Drawers
from artifactfs.content.segments import GRANULE_BYTES, MAP_SUFFIX, Segment, remove_segment
from artifactfs.errors import AccessDenied

logger = logging.getLogger(__name__)

VERSION_SUFFIX = ".v"
"""Of the files below ``stores`` that hold a version's manifest."""
DEFAULT_SIZE_BYTES = 10 << 30
DEFAULT_MIN_FREE_BYTES = 1 << 30
# What is larger than this part of the cache lies in several segments, so that it can be cached in part.
_WHOLE_PART = 8
_SEGMENT_BYTES = 64 << 20
# How much a process adds before it looks again at what the others have added; and how long it goes on without.
_LOOK_AGAIN_PART = 32
_LOOK_AGAIN_S = 30.0
# Making room goes on until so much of the bound is free, so that it is not done for every granule.
_SLACK_PART = 16


def default_cache_dir() -> Path:
    """Where the content cache lies unless ``--cache-dir`` says otherwise."""
    return Path(platformdirs.user_cache_dir("artifactfs"))


@dataclass(frozen=True)
class Usage:
    """What a cache holds. `files` counts files of the cache, not those of versions."""

    directory: str
    size_bytes: int
    free_bytes: int
    files: int


@dataclass(frozen=True)
class _Item:
    """Something that can be deleted on its own."""

    path: str
    used_ns: int
    size_bytes: int


class ContentCache:
    """See the module docstring. Nothing is touched before the first use, so it may be made before a fork."""

    def __init__(
        self,
        directory: Path | None = None,
        size_bytes: int = DEFAULT_SIZE_BYTES,
        min_free_bytes: int = DEFAULT_MIN_FREE_BYTES,
    ) -> None:
        """A cache in `directory` (that of the user when None) of at most `size_bytes`, leaving `min_free_bytes`."""
        self.directory = directory or default_cache_dir()
        self.size_bytes = size_bytes
        self.min_free_bytes = min_free_bytes
        self.drawers = Drawers(f"{self.directory}/drawers")
        self._root = os.fspath(self.directory)
        self._lock = threading.Lock()
        self._making_room = threading.Lock()
        self._segments: weakref.WeakValueDictionary[str, Segment] = weakref.WeakValueDictionary()
        self._used_bytes: int | None = None
        self._coming_bytes = 0
        self._looked_s = 0.0
        self._added_bytes = 0

    def ensure_created(self) -> None:
        """Make the directories. Raises AccessDenied when that is not possible."""
        try:
            for name in ("segments", "drawers", "stores"):
                os.makedirs(f"{self._root}/{name}", mode=0o700, exist_ok=True)
            os.close(os.open(f"{self._root}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise AccessDenied(f"the cache directory {self._root} cannot be used: {error}; see --cache-dir") from error

    @property
    def used_bytes(self) -> int | None:
        """What it holds, as far as this process knows; None before it has put anything in."""
        with self._lock:
            return self._used_bytes

    # -- segments ---------------------------------------------------------------------------------------------------

    def segment_granules(self, size_bytes: int) -> int:
        """How many granules a segment of a content of that size has; where it is one for all, as many as that needs."""
        whole = -(-size_bytes // GRANULE_BYTES)
        part = max(1, self.size_bytes // _WHOLE_PART // GRANULE_BYTES)
        return max(1, whole) if whole <= part else min(part, _SEGMENT_BYTES // GRANULE_BYTES)

    def segment(self, key: str, granules: int, number: int | None) -> Segment:
        """A segment of the content `key`: the `number`-th of those of so many granules, None for the only one.

        The same object for everybody in this process, while it is in use and not deleted. Raises OSError.
        """
        name = key if number is None else f"{key}-{granules}-{number}"
        path = f"{self._root}/segments/{key.split('-', 2)[1][:2]}/{name}"
        with self._lock:
            found = self._segments.get(path)
        if found is not None and len(found.ready) >= granules and not found.is_removed():
            found.touch()
            return found
        made = Segment(path, granules)
        with self._lock:
            current = self._segments.get(path)
            if current is not None and current is not found and len(current.ready) >= granules and not current.is_gone:
                return current
            self._segments[path] = made
        return made

    # -- room -------------------------------------------------------------------------------------------------------

    @contextmanager
    def room(self, size_bytes: int) -> Iterator[bool]:
        """While so many bytes are written: what is used least is deleted when there is no room for them.

        Gives False when there is none all the same: then they are not to be written. Raises OSError.
        """
        with self._lock:
            self._coming_bytes += size_bytes
        try:
            yield self._make_room(size_bytes)
        finally:
            with self._lock:
                self._coming_bytes -= size_bytes

    def _make_room(self, size_bytes: int) -> bool:
        with self._lock:
            self._added_bytes += size_bytes
            look = (
                self._used_bytes is None
                or self._added_bytes > self.size_bytes // _LOOK_AGAIN_PART
                or time.monotonic() - self._looked_s > _LOOK_AGAIN_S
            )
            if self._used_bytes is not None:
                self._used_bytes += size_bytes
        if not look and not self._is_over():
            return True
        with self._making_room:
            # Another thread may have made it while this one waited.
            if look or self._is_over():
                self._delete_least_used()
        return not self._is_over()

    def _is_over(self) -> bool:
        with self._lock:
            used, coming = self._used_bytes or 0, self._coming_bytes
        return used > self.size_bytes or self._free_bytes() - coming < self.min_free_bytes

    def _free_bytes(self) -> int:
        found = os.statvfs(self._root)
        return found.f_bavail * found.f_frsize

    def _delete_least_used(self) -> None:
        """Look at what is there, and delete the least recently used until there is room."""
        lock = os.open(f"{self._root}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # What others write at this moment may be counted twice, and is never left out.
            with self._lock:
                coming = self._coming_bytes
            items = list(self._items())
            used = sum(item.size_bytes for item in items) + coming
            short = self.min_free_bytes + coming - self._free_bytes()
            goal = self.size_bytes if used <= self.size_bytes else self.size_bytes - self.size_bytes // _SLACK_PART
            items.sort(key=lambda item: item.used_ns)
            for item in items:
                if used <= goal and short <= 0:
                    break
                self._remove(item.path)
                used -= item.size_bytes
                short -= item.size_bytes
        finally:
            os.close(lock)
        with self._lock:
            self._used_bytes = used
            self._added_bytes = 0
            self._looked_s = time.monotonic()

    def _remove(self, path: str) -> None:
        with self._lock:
            segment = self._segments.pop(path, None)
        if segment is not None:
            segment.is_gone = True
        remove_segment(path)

    def _items(self) -> Iterator[_Item]:
        for entry in _files(f"{self._root}/segments"):
            if entry.name.endswith(MAP_SUFFIX):
                continue
            with suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                try:
                    used_ns = os.stat(entry.path + MAP_SUFFIX).st_mtime_ns
                except FileNotFoundError:
                    # Without a map it is of no use, unless that is being made, or is this.
                    used_ns = status.st_mtime_ns
                yield _Item(entry.path, used_ns, status.st_blocks * 512)
        for entry in _files(f"{self._root}/drawers", f"{self._root}/stores"):
            with suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                if entry.name.endswith((DRAWER_SUFFIX, VERSION_SUFFIX)):
                    yield _Item(entry.path, status.st_mtime_ns, status.st_blocks * 512)

    # -- telling and clearing ---------------------------------------------------------------------------------------

    def usage(self) -> Usage:
        """What is there, counted on the disk. Raises AccessDenied."""
        self.ensure_created()
        items = list(self._items())
        used = sum(item.size_bytes for item in items)
        return Usage(self._root, used, self._free_bytes(), len(items))

    def clear(self) -> int:
        """Delete everything, for all processes; returns the bytes. Readers of open files go on. Raises AccessDenied."""
        freed = self.usage().size_bytes
        for item in list(self._items()):
            self._remove(item.path)
        shutil.rmtree(f"{self._root}/stores", ignore_errors=True)
        self.ensure_created()
        with self._lock:
            self._used_bytes = None
        return freed


def _files(*directories: str) -> Iterator[os.DirEntry[str]]:
    """Every file below, those left out that go away meanwhile."""
    waiting = list(directories)
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except FileNotFoundError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            else:
                yield entry
