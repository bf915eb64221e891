"""The open bytes of a file of a version that lie in no local store: read through the content cache.

Stands beside `handles.Content`, with the same methods. Threading: safe from any thread.
"""

from __future__ import annotations

from artifactfs.content.reader import OpenFile
from artifactfs.managers.base import VersionInfo
from mount.references import Reference


class CachedContent:
    """See the module docstring."""

    __slots__ = ("_algorithm", "_file", "_info", "read", "read_at_once")

    def __init__(self, info: VersionInfo, algorithm: str, file: OpenFile) -> None:
        self._info = info
        self._algorithm = algorithm
        self._file = file
        self.read = file.read
        self.read_at_once = file.read_at_once

    @property
    def size_bytes(self) -> int:
        """The length of the file."""
        return self._file.entry.size_bytes

    def to_reference(self) -> Reference:
        """What lets a staged file stand for these bytes."""
        return Reference.to_entry(self._info, self._file.entry, self._algorithm)

    def in_memory(self, size_bytes: int, offset: int, room: memoryview) -> bytes | memoryview:
        """The bytes that `read` would give, those of the cache in `room`: memory that is used again and again."""
        return self._file.read_into(room, size_bytes, offset)

    def copy_to(self, _fd: int, _offset: int, _fd_offset: int, _size_bytes: int) -> int:
        """Nothing: what is cached may be in pieces, and goes through memory."""
        return 0

    def is_cached(self, size_bytes: int, offset: int) -> bool:
        """Tell whether `read` would find these bytes in the cache. May look at a disk."""
        return self._file.is_cached(size_bytes, offset)

    def whole_file(self) -> int | None:
        """A descriptor, owned by this content, of a local file with exactly these bytes; None where there is none."""
        return self._file.whole_file()

    def close(self) -> None:
        """Nothing is held but memory and what others share."""
