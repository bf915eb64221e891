"""One file, directory or symlink of a version. Immutable values, safe from any thread."""

from __future__ import annotations

import enum
from typing import NamedTuple

# A version keeps times as 64-bit numbers of nanoseconds: from 1677-09-21 to 2262-04-11.
_EARLIEST_NS, _LATEST_NS = -(1 << 63), (1 << 63) - 1


class EntryKind(enum.IntEnum):
    """The kinds of entries in a manifest."""

    FILE = 0
    DIRECTORY = 1
    SYMLINK = 2


class Entry(NamedTuple):
    """One file, directory or symlink of a version.

    `path` is relative to the version, decoded like every file name of the system (surrogateescape). `digest` is the
    hex digest of the content (of the manifest's algorithm), None where a backend does not know it. `object` is the
    hex name of the stored object that holds the bytes at `offset`, None where the backend addresses files by path.
    `mode` holds the nine permission bits, `target` a symlink's target.
    """

    path: str
    kind: EntryKind = EntryKind.FILE
    size_bytes: int = 0
    digest: str | None = None
    object: str | None = None
    offset: int = 0
    mtime_ns: int = 0
    mode: int = 0o644
    target: str | None = None

    @property
    def executable(self) -> bool:
        """Tell whether the owner may execute the file."""
        return bool(self.mode & 0o100)


def nearest_time_ns(time_ns: int) -> int:
    """The time itself where a version can keep it, else the nearest that it can."""
    return max(_EARLIEST_NS, min(time_ns, _LATEST_NS))
