"""The immutable list of a version's files.

A Manifest holds its entries in columns (one packed array per attribute, paths as sorted bytes), so that a version of
a million files costs about 100 MB and opens in well under a second; an Entry is made when it is asked for. Manifests
are immutable and safe from any thread.

On disk (`encode`/`decode`): a zstd frame around the MessagePack map of `Columns`. Paths are sorted by their bytes
and joined by NUL; numbers are little-endian arrays; a file's bytes are ``object[offset:offset+size]``. Directories
may be listed (then mode and mtime are known) or only implied by the files in them; an empty directory is always
listed. The content digest covers paths, kinds, sizes, digests, executable bits, symlink targets and empty
directories, and nothing else: a touched file is the same content. A commit makes a new version for other permission
bits too (`Manifest.has_modes_of`), which then has the digest of the version before it.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator

from blake3 import blake3

from artifactfs.columns import (
    MANIFEST_FORMAT,
    NO_OBJECT,
    Columns,
    Rows,
    checked,
    decode_columns,
    encode_columns,
    encode_targets,
    pack,
)
from artifactfs.entry import Entry, EntryKind
from artifactfs.manifest_builder import ManifestBuilder

__all__ = ["Entry", "EntryKind", "Manifest"]

# By value: calling the enum costs four times as much, which a listing of a million entries shows.
_KINDS = tuple(EntryKind)


class Manifest:
    """The files of one version, sorted by path. See the module docstring for cost and format."""

    __slots__ = (
        "_digests",
        "_kinds",
        "_modes",
        "_mtimes",
        "_object_index",
        "_objects",
        "_offsets",
        "_paths",
        "_sizes",
        "_targets",
        "algorithm",
        "file_count",
        "size_bytes",
    )
    algorithm: str
    file_count: int
    size_bytes: int
    _paths: list[bytes]
    _kinds: bytes
    _modes: array[int]
    _sizes: array[int]
    _mtimes: array[int]
    _offsets: array[int]
    _object_index: array[int]
    _objects: list[bytes]
    _targets: dict[int, bytes]
    _digests: bytes

    def __init__(self, entries: Iterable[Entry] = (), *, algorithm: str = "blake3") -> None:
        """Build from entries in any order, without keeping them.

        Raises:
            InvalidName: a path is absolute, has '..' or the like, or occurs twice.
        """
        builder = ManifestBuilder(algorithm)
        for entry in entries:
            builder.add_entry(entry)
        self._take(builder.rows())

    @classmethod
    def of(cls, rows: Rows) -> Manifest:
        """The manifest of rows that are sorted and checked, as a builder and :func:`columns.checked` give them."""
        self = cls.__new__(cls)
        self._take(rows)
        return self

    def _take(self, rows: Rows) -> None:
        self.algorithm = rows.algorithm
        self._paths = rows.paths
        self._kinds = rows.kinds
        self._modes = rows.modes
        self._sizes = rows.sizes
        self._mtimes = rows.mtimes
        self._offsets = rows.offsets
        self._digests = rows.digests
        self._object_index = rows.object_index
        self._objects = rows.objects
        self._targets = rows.targets
        self.file_count = self._kinds.count(EntryKind.FILE)
        self.size_bytes = sum(self._sizes)

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[Entry]:
        return (self[i] for i in range(len(self._paths)))

    def __getitem__(self, index: int) -> Entry:
        width = len(self._digests) // len(self._paths) if self._paths else 0
        kind = _KINDS[self._kinds[index]]
        number = self._object_index[index]
        digest = self._digests[index * width : (index + 1) * width] if kind is EntryKind.FILE else b""
        return Entry(
            path=os.fsdecode(self._paths[index]),
            kind=kind,
            size_bytes=self._sizes[index],
            digest=digest.hex() if digest.strip(b"\0") else None,
            object=None if number == NO_OBJECT else self._objects[number].hex(),
            offset=self._offsets[index],
            mtime_ns=self._mtimes[index],
            mode=self._modes[index],
            target=os.fsdecode(self._targets[index]) if kind is EntryKind.SYMLINK else None,
        )

    def kind(self, index: int) -> EntryKind:
        """What the entry at a position is; cheaper than the whole entry."""
        return _KINDS[self._kinds[index]]

    def path_at(self, index: int) -> str:
        """The path of the entry at a position; cheaper than the whole entry."""
        return os.fsdecode(self._paths[index])

    def size_at(self, index: int) -> int:
        """The length of the entry at a position; cheaper than the whole entry."""
        return self._sizes[index]

    def stat_at(self, index: int) -> tuple[EntryKind, int, int, int]:
        """(kind, mode, size in bytes, mtime_ns) of the entry at a position; the size of a symlink is its target's."""
        kind = _KINDS[self._kinds[index]]
        if kind is EntryKind.SYMLINK:
            return kind, 0o777, len(self._targets[index]), self._mtimes[index]
        return kind, self._modes[index], self._sizes[index], self._mtimes[index]

    def content_at(self, index: int) -> tuple[bytes, bytes, int, int] | None:
        """(raw digest, raw name of the object, offset, size in bytes) of the file at a position.

        None for what is no file, lies in no object, or has no digest. Cheaper than the whole entry. Raises IndexError.
        """
        number = self._object_index[index]
        if number == NO_OBJECT or self._kinds[index] != EntryKind.FILE:
            return None
        width = len(self._digests) // len(self._paths)
        digest = self._digests[index * width : (index + 1) * width]
        if not digest.strip(b"\0"):
            return None
        return digest, self._objects[number], self._offsets[index], self._sizes[index]

    def raw_path(self, index: int) -> bytes:
        """As `path`, as it is stored."""
        return self._paths[index]

    def path(self, index: int) -> str:
        """Where the entry at a position lies; cheaper than the whole entry. Raises IndexError."""
        return os.fsdecode(self._paths[index])

    def index(self, path: str) -> int | None:
        """The position of `path`, None when no entry has it. Stable for the life of the version."""
        return self.raw_index(os.fsencode(path))

    def raw_index(self, path: bytes) -> int | None:
        """As `index`, of a path as it is stored."""
        i = bisect_left(self._paths, path)
        return i if i < len(self._paths) and self._paths[i] == path else None

    def find(self, path: str) -> Entry | None:
        """The entry at `path`, None when there is none (an implied directory has none)."""
        i = self.index(path)
        return None if i is None else self[i]

    def is_directory(self, path: str) -> bool:
        """Tell whether `path` ('' is the top) is a directory, listed or implied by a file in it."""
        if path == "":
            return True
        raw = os.fsencode(path)
        i = bisect_left(self._paths, raw)
        if i < len(self._paths) and self._paths[i] == raw:
            return self._kinds[i] == EntryKind.DIRECTORY
        return self._has_below(raw)

    def _has_below(self, directory: bytes) -> bool:
        prefix = directory + b"/"
        i = bisect_left(self._paths, prefix)
        return i < len(self._paths) and self._paths[i].startswith(prefix)

    def children(self, directory: str = "") -> Iterator[tuple[str, int | None]]:
        """The names directly in `directory` ('' is the top), sorted by bytes, each with its position.

        The position is None for a directory that is only implied.
        """
        return ((os.fsdecode(name), position) for name, position in self.raw_children(directory))

    def raw_children(self, directory: str = "") -> list[tuple[bytes, int | None]]:
        """As `children`, the names as they are stored."""
        paths, count = self._paths, len(self._paths)
        prefix = os.fsencode(directory) + b"/" if directory else b""
        skip = len(prefix)
        i = bisect_left(paths, prefix) if prefix else 0
        pending: dict[bytes, int | None] = {}
        while i < count and paths[i].startswith(prefix):
            name, slash, _ = paths[i][skip:].partition(b"/")
            if slash:
                pending.setdefault(name, None)
                # "0" follows "/": jump over everything below this directory.
                i = bisect_left(paths, prefix + name + b"0", i)
            else:
                pending[name] = i
                i += 1
        # "a.b" comes before "a/x" but after "a".
        return sorted(pending.items())

    def contents(self) -> Iterator[tuple[bytes, int, int, int]]:
        """(digest, position in :attr:`objects`, offset, size) of every file that lies in an object, cheaply."""
        width = len(self._digests) // len(self._paths) if self._paths else 0
        for i, number in enumerate(self._object_index):
            if number != NO_OBJECT and self._kinds[i] == EntryKind.FILE:
                yield self._digests[i * width : (i + 1) * width], number, self._offsets[i], self._sizes[i]

    def places(self) -> Iterator[tuple[int, int, int]]:
        """(position, position of its object in :attr:`objects`, offset) of every file, cheaply."""
        for i, kind in enumerate(self._kinds):
            if kind == EntryKind.FILE:
                yield i, self._object_index[i], self._offsets[i]

    @property
    def objects(self) -> list[str]:
        """The hex names of the stored objects the files lie in, each once."""
        return [name.hex() for name in self._objects]

    @property
    def memory_bytes(self) -> int:
        """About how much memory this manifest holds, for caches bounded by size."""
        return 256 + sum(map(len, self._paths)) + 110 * len(self._paths)

    def lacks_digests(self) -> bool:
        """Tell whether there is a file whose bytes no digest vouches for."""
        width = len(self._digests) // len(self._paths) if self._paths else 0
        none = bytes(width)
        if width and none not in self._digests:
            return False
        return any(
            kind == EntryKind.FILE and size and self._digests[row * width : (row + 1) * width] == none
            for row, (kind, size) in enumerate(zip(self._kinds, self._sizes, strict=True))
        )

    def content_digest(self) -> str:
        """The hex BLAKE3 that two versions share exactly when their content is the same (module docstring)."""
        empty = blake3()
        for i, path in enumerate(self._paths):
            if self._kinds[i] == EntryKind.DIRECTORY and not self._has_below(path):
                empty.update(path + b"\0")
        keep = [i for i, kind in enumerate(self._kinds) if kind != EntryKind.DIRECTORY]
        width = len(self._digests) // len(self._paths) if self._paths else 0
        digest = blake3(b"artifactfs content 1\0" + self.algorithm.encode() + b"\0")
        columns = (
            b"\0".join(self._paths[i] for i in keep),
            bytes(self._kinds[i] for i in keep),
            bytes(self._modes[i] >> 6 & 1 if self._kinds[i] == EntryKind.FILE else 0 for i in keep),
            pack(array("Q", (self._sizes[i] if self._kinds[i] == EntryKind.FILE else 0 for i in keep))),
            b"".join(self._digests[i * width : (i + 1) * width] for i in keep),
            b"\0".join(self._targets[i] for i in keep if i in self._targets),
            empty.digest(),
        )
        for column in columns:
            digest.update(len(column).to_bytes(8, "little"))
            digest.update(column)
        return digest.hexdigest()

    def has_modes_of(self, other: Manifest) -> bool:
        """Tell whether files and directories that both list have the same permission bits.

        The content digest counts the owner's executable bit alone, and goes on doing so: old versions keep theirs.
        """
        if self._paths == other._paths and self._modes == other._modes:
            return True
        mine, theirs = self._permissions(), other._permissions()
        return all(theirs.get(path, mode) == mode for path, mode in mine.items())

    def _permissions(self) -> dict[bytes, int]:
        rows = zip(self._paths, self._kinds, self._modes, strict=True)
        return {path: mode for path, kind, mode in rows if kind != EntryKind.SYMLINK}

    def encode(self) -> bytes:
        """The stored form. The same entries always give the same bytes (for one zstd library)."""
        columns = Columns(
            format=MANIFEST_FORMAT,
            algorithm=self.algorithm,
            paths=b"\0".join(self._paths),
            kinds=self._kinds,
            modes=pack(self._modes),
            sizes=pack(self._sizes),
            mtimes=pack(self._mtimes),
            digests=self._digests,
            objects=b"".join(self._objects),
            object_index=pack(self._object_index),
            offsets=pack(self._offsets),
            targets=encode_targets(self._targets),
        )
        return encode_columns(columns)

    @classmethod
    def decode(cls, raw: bytes) -> Manifest:
        """Read the stored form, trusting nothing in it.

        Raises:
            FormatError: damaged, hostile (paths that leave the version, absurd sizes) or of a newer format.
        """
        return cls.of(checked(decode_columns(raw)))
