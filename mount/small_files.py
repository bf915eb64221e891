"""Small files in objects of a local store or, cached, of another: found by the manifest's columns, read whole, at once.

A cold epoch over a version is made of such reads, and to make an object or a system call too many for each file is
what costs most. So nothing is opened for a file: the object that it shares with others stays open, or the segment of
the content cache that holds it, and the bytes go into a buffer of the caller's. What is unusual (a store or a disk that
has to be waited for, files to be fetched ahead, bytes that are missing or wrong) is left to the ordinary way, which
waits and tells.

Beside `handles`, which opens every file of every store. Threading: safe from any thread. `_lock` is held to change the
table of open objects, not to look into it, and not while one is opened or read; the locks of `DescriptorCache` and, to
note which file is read, of `DirectoryStream` are leaves. None is held while a store or a disk is waited for.
"""

from __future__ import annotations

import threading

from cachetools import FIFOCache

from artifactfs.content.inmemory import fill_in_memory
from artifactfs.content.integrity import raw_digest_of
from artifactfs.content.reader import CHECKED_BYTES
from artifactfs.content.segments import Segment
from artifactfs.content.streams import DirectoryStream
from artifactfs.errors import ArtifactError
from artifactfs.managers.base import LocalRange
from mount.cached_content import CachedContent
from mount.handles import Content, VersionFile, VersionReader
from mount.tree import LoadedVersion, VersionNode

# Each holds hundreds of small files; programs read them in the order of their names, or at random.
_OPEN_OBJECTS = 256


class _OpenObject:
    """A local file that is an object of the store. It is given back with the last reference to it."""

    __slots__ = ("_reader", "descriptor", "path")

    def __init__(self, reader: VersionReader, path: str) -> None:
        """Raises OSError, StoreUnreachable."""
        self._reader = reader
        self.path = path
        self.descriptor = reader.descriptors.acquire(path)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            self._reader.descriptors.release(self.descriptor)


class SmallFile(VersionFile):
    """An open small file. What is rarely asked for, its node and its content, is made when it is.

    It holds what it lies in for as long as there is a reference to it, closed or not.
    """

    __slots__ = ("_digest", "_fd", "_made", "_offset", "_owner", "_position", "_reader", "_version", "size_bytes")

    def __init__(
        self,
        reader: VersionReader,
        version: LoadedVersion,
        position: int,
        digest: bytes,
        owner: _OpenObject | Segment,
        fd: int,
        offset: int,
        size_bytes: int,
    ) -> None:
        """Its bytes begin at `offset` of the file `fd`, which belongs to `owner`."""
        self._reader = reader
        self._version = version
        self._position = position
        self._digest = digest
        self._owner = owner
        self._fd = fd
        self._offset = offset
        self.size_bytes = size_bytes
        self._made: Content | CachedContent | None = None

    def read_whole(self, buffer: memoryview) -> memoryview | None:
        """All bytes of the file, checked against their digest: the beginning of `buffer`.

        None where they do not fit, where a disk would have to be waited for, and where they are not what they should
        be: `content` waits, or tells.
        """
        whole = buffer[: self.size_bytes]
        if len(whole) < self.size_bytes or not fill_in_memory(self._fd, whole, self._offset):
            return None
        if raw_digest_of(whole, self._version.manifest.algorithm) == self._digest:
            return whole
        self._reader.contents.forget_checks()
        return None

    @property
    def node(self) -> VersionNode:
        """As `VersionFile.node`."""
        return VersionNode(self._version, self._version.manifest.path(self._position), self._position)

    @property
    def content(self) -> Content | CachedContent:
        """As `VersionFile.content`."""
        if self._made is None:
            manifest, where = self._version.manifest, self._owner
            entry = manifest[self._position]
            if isinstance(where, Segment):
                self._made = self._reader.open(self.node, entry).content
            else:
                in_object = LocalRange(where.path, self._offset, self.size_bytes)
                # Never closed: the descriptor is the object's.
                self._made = Content(
                    self._reader, self._version.info, entry, manifest.algorithm, in_object, where.descriptor
                )
        return self._made

    def close(self) -> None:
        """As `VersionFile.close`; nothing is held that does not go with the last reference."""


class SmallFiles:
    """See the module docstring."""

    def __init__(self, reader: VersionReader) -> None:
        self._reader = reader
        self._is_local = reader.manager.local_root is not None
        self._lock = threading.Lock()
        # The order in which they were opened is kept, not that of their use: so to find one changes nothing.
        self._objects: FIFOCache[bytes, _OpenObject] = FIFOCache(_OPEN_OBJECTS)
        # Of the version that was read last.
        self._stream: tuple[LoadedVersion | None, DirectoryStream | None] = (None, None)

    def open(self, version: LoadedVersion, position: int) -> SmallFile | None:
        """The file at a position of a version, below CHECKED_BYTES. None where the ordinary way has to be asked."""
        try:
            place = version.manifest.content_at(position)
        except IndexError:
            return None
        if place is None:
            return None
        digest, name, offset, size_bytes = place
        if not 0 < size_bytes < CHECKED_BYTES:
            return None
        if not self._is_local:
            # An object of its own may be lent to the kernel, and then each time that it is opened.
            is_own = offset == 0 and digest == name
            return None if is_own else self._open_cached(version, position, digest, name, offset, size_bytes)
        try:
            where = self._objects[name]
        except KeyError:
            found = self._open_object(version, position, offset)
            if found is None:
                return None
            where = found
            with self._lock:
                self._objects[name] = where
        return SmallFile(self._reader, version, position, digest, where, where.descriptor.fd, offset, size_bytes)

    def _open_cached(
        self, version: LoadedVersion, position: int, digest: bytes, name: bytes, offset: int, size_bytes: int
    ) -> SmallFile | None:
        contents = self._reader.contents
        place = contents.known_place(name, offset, size_bytes)
        if place is None:
            return None
        last, stream = self._stream
        if last is not version or stream is None:
            stream = contents.stream(version.info, version.manifest)
            self._stream = version, stream
        if not stream.pass_by(position):
            return None
        segment, within = place
        return SmallFile(self._reader, version, position, digest, segment, segment.fd, within, size_bytes)

    def _open_object(self, version: LoadedVersion, position: int, offset: int) -> _OpenObject | None:
        try:
            where = self._reader.manager.local_range(version.info, version.manifest[position])
            return _OpenObject(self._reader, where.path) if where is not None and where.offset == offset else None
        except (ArtifactError, OSError):
            # The ordinary way meets it too.
            return None

    def close(self) -> None:
        """Let go of all objects that no file has open."""
        with self._lock:
            self._objects.clear()
