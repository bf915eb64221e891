"""The immutable list of a version's files.

A Manifest holds its entries in columns (one packed array per attribute, paths as sorted bytes), so that a version of
a million files costs about 100 MB and opens in well under a second; an Entry is made when it is asked for. Manifests
are immutable and safe from any thread.

On disk (`encode`/`decode`): a zstd frame around the MessagePack map of `Columns`. Paths are sorted by their bytes
and joined by NUL; numbers are little-endian arrays; a file's bytes are ``object[offset:offset+size]``. Directories
may be listed (then mode and mtime are known) or only implied by the files in them; an empty directory is always
listed. The content digest covers paths, kinds, sizes, digests, executable bits, symlink targets and empty
directories, and nothing else: a touched file is the same content.
"""

from __future__ import annotations

import enum
import os
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import islice
from operator import lt
from typing import NamedTuple

from blake3 import blake3

from artifactfs import names
from artifactfs.columns import MANIFEST_FORMAT, Columns, decode_columns, encode_columns, pack, unpack
from artifactfs.errors import FormatError, InvalidName

DIGEST_SIZE_BYTES = 32
_MAX_SIZE = 1 << 62
_NO_OBJECT = 0xFFFFFFFF
_BAD_PARTS = tuple(
    left + part + right for left in (b"\0", b"/") for part in (b"", b".", b"..") for right in (b"\0", b"/")
)


class EntryKind(enum.IntEnum):
    """What an entry of a manifest is."""

    FILE = 0
    DIRECTORY = 1
    SYMLINK = 2


# By value: calling the enum costs four times as much, which a listing of a million entries shows.
_KINDS = tuple(EntryKind)


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
        """Whether the owner may execute the file."""
        return bool(self.mode & 0o100)


def stays_inside(path: bytes, target: bytes) -> bool:
    """Whether the symlink at `path` is relative and, read literally, leads to a place inside the version."""
    if not target or target.startswith(b"/") or b"\0" in target:
        return False
    depth = path.count(b"/")
    for part in target.split(b"/"):
        if part == b"..":
            depth -= 1
        elif part not in (b"", b"."):
            depth += 1
        if depth < 0:
            return False
    return True


class ManifestBuilder:
    """The columns of a manifest that is being made, one row per entry, in any order.

    Costs about what the manifest does. Not thread-safe. Paths are not checked before :meth:`build`.
    """

    def __init__(self, algorithm: str = "blake3") -> None:
        self.algorithm = algorithm
        self.paths: list[bytes] = []
        self.sizes: array[int] = array("Q")
        self.mtimes: array[int] = array("q")
        self.kinds = bytearray()
        self.modes: array[int] = array("H")
        self._offsets: array[int] = array("Q")
        self._object_index: array[int] = array("I")
        self._objects: dict[bytes, int] = {}
        self._targets: dict[int, bytes] = {}
        self._digests = bytearray()
        self._width = 0

    def __len__(self) -> int:
        return len(self.paths)

    def add(
        self,
        path: bytes,
        kind: EntryKind,
        *,
        size_bytes: int = 0,
        mtime_ns: int = 0,
        mode: int = 0o644,
        target: bytes | None = None,
    ) -> int:
        """Add an entry without content and return its row."""
        row = len(self.paths)
        self.paths.append(path)
        self.kinds.append(kind)
        self.sizes.append(size_bytes)
        self.mtimes.append(mtime_ns)
        self.modes.append(mode & 0o777)
        self._offsets.append(0)
        self._object_index.append(_NO_OBJECT)
        if kind is EntryKind.SYMLINK:
            self._targets[row] = target or b""
        return row

    def set_content(self, row: int, digest: bytes | None, object_name: bytes | None, offset: int = 0) -> None:
        """Say where a file's bytes lie: raw digest, raw name of the object (None: nowhere), offset in it."""
        if digest:
            self._width = self._width or len(digest)
            if len(digest) != self._width:
                raise InvalidName(f"digest of {os.fsdecode(self.paths[row])!r} has another length than the others")
            end = (row + 1) * self._width
            if len(self._digests) < end:
                self._digests.extend(bytes(end - len(self._digests)))
            self._digests[end - self._width : end] = digest
        if object_name is not None:
            self._object_index[row] = self._objects.setdefault(object_name, len(self._objects))
            self._offsets[row] = offset

    def add_entry(self, entry: Entry) -> None:
        """Add an entry with its content."""
        row = self.add(
            os.fsencode(entry.path),
            entry.kind,
            size_bytes=entry.size_bytes,
            mtime_ns=entry.mtime_ns,
            mode=entry.mode,
            target=os.fsencode(entry.target or "") if entry.kind is EntryKind.SYMLINK else None,
        )
        name = None if entry.object is None else bytes.fromhex(entry.object)
        self.set_content(row, bytes.fromhex(entry.digest or ""), name, entry.offset)

    def build(self) -> Manifest:
        """The manifest; the builder is of no use afterwards. Raises InvalidName as :class:`Manifest`."""
        manifest = Manifest.__new__(Manifest)
        self.fill(manifest)
        return manifest

    def fill(self, manifest: Manifest) -> None:
        """Give the columns, sorted by path, to a manifest that has none."""
        count = len(self.paths)
        if self._width:
            self._digests.extend(bytes(count * self._width - len(self._digests)))
        if not all(map(lt, self.paths, islice(self.paths, 1, None))):
            self._sort()
        fenced = b"\0" + b"\0".join(self.paths) + b"\0"
        if count and (fenced.count(b"\0") != count + 1 or any(bad in fenced for bad in _BAD_PARTS)):
            for path in self.paths:
                names.check_path(os.fsdecode(path))
        for before, after in zip(self.paths, islice(self.paths, 1, None), strict=False):
            if before == after:
                raise InvalidName(f"path {os.fsdecode(after)!r} occurs twice")
        self._hand_over(manifest)

    def _sort(self) -> None:
        """Put the rows in the order of their paths."""
        order = sorted(range(len(self.paths)), key=self.paths.__getitem__)
        width = self._width
        self.paths = [self.paths[row] for row in order]
        self.kinds = bytearray(self.kinds[row] for row in order)
        for name in ("sizes", "mtimes", "modes", "_offsets", "_object_index"):
            column = getattr(self, name)
            setattr(self, name, array(column.typecode, (column[row] for row in order)))
        self._digests = bytearray().join(self._digests[row * width : (row + 1) * width] for row in order)
        if self._targets:
            position = {row: i for i, row in enumerate(order) if row in self._targets}
            self._targets = {position[row]: target for row, target in self._targets.items()}

    def _hand_over(self, manifest: Manifest) -> None:
        # Objects are numbered in the order of the paths, so that equal entries always encode to equal bytes.
        raw_names = list(self._objects)
        renumbered: dict[int, int] = {}
        for i, number in enumerate(self._object_index):
            if number != _NO_OBJECT:
                self._object_index[i] = renumbered.setdefault(number, len(renumbered))
        manifest.algorithm = self.algorithm
        manifest._paths = self.paths
        manifest._kinds = bytes(self.kinds)
        manifest._modes = self.modes
        manifest._sizes = self.sizes
        manifest._mtimes = self.mtimes
        manifest._offsets = self._offsets
        manifest._digests = bytes(self._digests)
        manifest._object_index = self._object_index
        manifest._objects = [raw_names[number] for number in renumbered]
        manifest._targets = dict(sorted(self._targets.items()))
        manifest._count()


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
        builder.fill(self)

    def _count(self) -> None:
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
            object=None if number == _NO_OBJECT else self._objects[number].hex(),
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
        if number == _NO_OBJECT or self._kinds[index] != EntryKind.FILE:
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
        """Whether `path` ('' is the top) is a directory, listed or implied by a file in it."""
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
            if number != _NO_OBJECT and self._kinds[i] == EntryKind.FILE:
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
        """Whether there is a file whose bytes no digest vouches for."""
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
            targets=self._targets,
        )
        return encode_columns(columns)

    @classmethod
    def decode(cls, raw: bytes) -> Manifest:
        """Read the stored form, trusting nothing in it.

        Raises:
            FormatError: damaged, hostile (paths that leave the version, absurd sizes) or of a newer format.
        """
        return cls._from_columns(decode_columns(raw))

    @classmethod
    def _from_columns(cls, columns: Columns) -> Manifest:
        self = cls.__new__(cls)
        self.algorithm = columns.algorithm
        self._paths = columns.paths.split(b"\0") if columns.paths else []
        count = len(self._paths)
        if len(columns.kinds) != count or (columns.kinds and max(columns.kinds) > max(EntryKind)):
            raise FormatError("damaged manifest: entry kinds")
        fenced = b"\0" + columns.paths + b"\0"
        if count and any(bad in fenced for bad in _BAD_PARTS):
            raise FormatError("hostile manifest: a path is absolute, empty or leaves the version")
        if not all(map(lt, self._paths, islice(self._paths, 1, None))):
            raise FormatError("damaged manifest: paths are not sorted")
        self._kinds = columns.kinds
        self._modes = unpack("H", columns.modes, count, "modes")
        self._sizes = unpack("Q", columns.sizes, count, "sizes")
        self._mtimes = unpack("q", columns.mtimes, count, "mtimes")
        self._offsets = unpack("Q", columns.offsets, count, "offsets")
        self._object_index = unpack("I", columns.object_index, count, "object_index")
        self._digests = columns.digests
        if columns.digests and len(columns.digests) % max(count, 1):
            raise FormatError("damaged manifest: digests")
        raw = columns.objects
        if len(raw) % DIGEST_SIZE_BYTES:
            raise FormatError("damaged manifest: objects")
        self._objects = [raw[i : i + DIGEST_SIZE_BYTES] for i in range(0, len(raw), DIGEST_SIZE_BYTES)]
        if any(number != _NO_OBJECT and number >= len(self._objects) for number in set(self._object_index)):
            raise FormatError("damaged manifest: an entry names an object that is not listed")
        links = (
            {i for i, kind in enumerate(self._kinds) if kind == EntryKind.SYMLINK}
            if EntryKind.SYMLINK in self._kinds
            else set()
        )
        if links != set(columns.targets):
            raise FormatError("damaged manifest: symlink targets")
        for row, target in columns.targets.items():
            if not stays_inside(self._paths[row], target):
                raise FormatError(f"hostile manifest: a symlink leads out of the version, to {target!r}")
        if count and (max(self._sizes) >= _MAX_SIZE or max(self._offsets) >= _MAX_SIZE or max(self._modes) > 0o777):
            raise FormatError("damaged manifest: a size, offset or mode is absurd")
        self._targets = columns.targets
        self._count()
        return self
