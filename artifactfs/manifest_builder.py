"""Making the columns of a manifest, one row for each entry, in any order.

A builder belongs to one thread.
"""

from __future__ import annotations

import os
from array import array
from itertools import islice
from operator import lt

from artifactfs import names
from artifactfs.columns import MAX_SIZE, NO_OBJECT, Rows, has_bad_part, has_long_name
from artifactfs.entry import Entry, EntryKind, nearest_time_ns
from artifactfs.errors import InvalidName


class ManifestBuilder:
    """The columns of a manifest that is being made, one row per entry, in any order.

    Costs about what the manifest does. Not thread-safe. Paths are not checked before :meth:`rows`.
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
        self._object_names: list[bytes] = []
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
        """Add an entry without content and return its row; an mtime out of range becomes the nearest in it.

        Raises InvalidName when the size is out of range.
        """
        row = len(self.paths)
        self.paths.append(path)
        self.kinds.append(kind)
        try:
            self.sizes.append(size_bytes)
        except OverflowError as error:
            raise InvalidName(f"{os.fsdecode(path)!r} has a size of {size_bytes}, which no version can hold") from error
        try:
            self.mtimes.append(mtime_ns)
        except OverflowError:
            # Disks and stores hold times that a nanosecond clock of 64 bits cannot tell.
            self.mtimes.append(nearest_time_ns(mtime_ns))
        self.modes.append(mode & 0o777)
        self._offsets.append(0)
        self._object_index.append(NO_OBJECT)
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
            if object_name not in self._objects:
                self._objects[object_name] = len(self._object_names)
                self._object_names.append(object_name)
            self._object_index[row] = self._objects[object_name]
            self._offsets[row] = offset

    def content(self, row: int) -> tuple[bytes, bytes, int, int]:
        """The content of a file in the form of `Manifest.content_at`, once :meth:`set_content` has said all of it."""
        digest = bytes(self._digests[row * self._width : (row + 1) * self._width])
        return digest, self._object_names[self._object_index[row]], self._offsets[row], self.sizes[row]

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

    def rows(self) -> Rows:
        """The columns, sorted by path; the builder is of no use afterwards.

        Raises:
            InvalidName: a path is absolute, has '..' or the like, or occurs twice.
        """
        count = len(self.paths)
        if self._width:
            self._digests.extend(bytes(count * self._width - len(self._digests)))
        if count and max(self.sizes) >= MAX_SIZE:
            path = self.paths[self.sizes.index(max(self.sizes))]
            raise InvalidName(f"{os.fsdecode(path)!r} has a size of {max(self.sizes)}, which no version can hold")
        if not all(map(lt, self.paths, islice(self.paths, 1, None))):
            self._sort()
        joined = b"\0".join(self.paths)
        if count and (joined.count(b"\0") != count - 1 or has_bad_part(joined) or has_long_name(self.paths)):
            for path in self.paths:
                names.check_path(os.fsdecode(path))
        for before, after in zip(self.paths, islice(self.paths, 1, None), strict=False):
            if before == after:
                raise InvalidName(f"path {os.fsdecode(after)!r} occurs twice")
        return self._rows()

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

    def _rows(self) -> Rows:
        # Objects are numbered in the order of the paths, so that equal entries always encode to equal bytes.
        raw_names = self._object_names
        renumbered: dict[int, int] = {}
        for i, number in enumerate(self._object_index):
            if number != NO_OBJECT:
                self._object_index[i] = renumbered.setdefault(number, len(renumbered))
        return Rows(
            self.algorithm,
            self.paths,
            bytes(self.kinds),
            self.modes,
            self.sizes,
            self.mtimes,
            self._offsets,
            bytes(self._digests),
            self._object_index,
            [raw_names[number] for number in renumbered],
            dict(sorted(self._targets.items())),
        )
