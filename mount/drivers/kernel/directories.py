"""Requests about open directories. What READDIRPLUS tells of the files saves the kernel a LOOKUP for each.

An open directory keeps the names it was read with, so that offsets stay true while names come and go. Reading from
the start again reads it anew.

Threading: called from any worker; the kernel reads one open directory from one thread at a time.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate, groupby

from mount.drivers.kernel import protocol
from mount.drivers.kernel.context import Context, Request
from mount.drivers.kernel.protocol import FOPEN_CACHE_DIR, FOPEN_KEEP_CACHE, Malformed, pack_dirent
from mount.drivers.kernel.replies import FOREVER, NO_ENTRY, entry_out
from mount.tree import ROOT_INO, Node, StagedNode, VersionNode, join

AHEAD_BYTES = 64 << 10
"""Larger replies are not made before they are asked for."""

_OWN_NAMES = (b".", b"..")
# The kernel knows these two and shows their numbers; what is given here only must not be 0.
_OWN = (ROOT_INO, 0o040000)


class Listing(ABC):
    """The names of a directory, ``.`` and ``..`` first, at one moment."""

    def __init__(self, names: list[bytes]) -> None:
        self.names = names
        self._ends = array("Q", accumulate(len(name) + 7 & -8 for name in names))

    def end_of_room(self, first: int, room: int, head_bytes: int) -> int:
        """Where the names end, from `first` on, that fit into `room` bytes, padded and with so many before each."""
        ends = self._ends
        if first >= len(ends):
            return first
        room += ends[first - 1] if first else 0
        return bisect_right(
            range(len(ends)), room, lo=first, key=lambda index: ends[index] + (index + 1 - first) * head_bytes
        )

    @abstractmethod
    def identities(self, first: int, stop: int) -> Iterable[tuple[int, int]]:
        """(inode number, mode with the file type) of the names from `first` to before `stop`, if no more is known."""

    @abstractmethod
    def entries(self, first: int, stop: int) -> list[bytes]:
        """For each of them a fuse_direntplus, its name and the padding: pieces, to be joined.

        Counts a lookup for each, unless its entry is `NO_ENTRY`.
        """

    @abstractmethod
    def pack_ahead(self, first: int, stop: int) -> None:
        """Make ready what `entries` is likely to be asked for next; where that changes nothing and takes no time."""


class _Names(Listing):
    """Of the root, a collection, an artifact, or a staged directory.

    Of the first three only names are told: their attributes would load every version.
    """

    def __init__(self, context: Context, nodeid: int, node: Node) -> None:
        self._context = context
        self._nodeid = nodeid
        self._staged: StagedNode | None = None
        if isinstance(node, StagedNode):
            self._staged = node
            with node.tree.lock:
                found = list(context.vfs.readdir(context.spot(nodeid).node))
        else:
            found = list(context.vfs.readdir(node))
        super().__init__([*_OWN_NAMES, *(os.fsencode(dirent.name) for dirent in found)])
        self._identities = [_OWN, _OWN, *((dirent.ino, dirent.mode) for dirent in found)]

    def identities(self, first: int, stop: int) -> Iterable[tuple[int, int]]:
        return self._identities[first:stop]

    def entries(self, first: int, stop: int) -> list[bytes]:
        parts: list[bytes] = []
        for index in range(first, stop):
            ino, mode = self._identities[index]
            parts += (self._entry(index), pack_dirent(self.names[index], ino, index + 1, mode))
        return parts

    def pack_ahead(self, first: int, stop: int) -> None:
        """Nothing: these may change before they are asked for."""

    def _entry(self, index: int) -> bytes:
        if self._staged is None or index < len(_OWN_NAMES):
            return NO_ENTRY
        context = self._context
        with self._staged.tree.lock:
            try:
                spot = context.spot(self._nodeid)
                return context.staged_entry(spot, os.fsdecode(self.names[index]))[1]
            except OSError:
                # Removed since the names were read.
                return NO_ENTRY


class _VersionNames(Listing):
    """Of a directory of a version: what is told comes from the manifest's columns, and makes no object for a file."""

    def __init__(self, context: Context, nodeid: int, node: VersionNode) -> None:
        self._context = context
        self._node = node
        self._base = context.inodes.version_base(nodeid)
        found = node.version.manifest.raw_children(node.path)
        super().__init__([*_OWN_NAMES, *(name for name, _ in found)])
        self._positions = [None, None, *(position for _, position in found)]
        self._ahead: tuple[range, list[bytes]] | None = None

    def identities(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        vfs, version = self._context.vfs, self._node.version
        for indices, positions in self._stretches(first, stop):
            if positions:
                yield from ((ino, mode) for ino, mode, _, _ in vfs.stats_at(version, positions))
            else:
                yield from (self._unlisted(index)[1:] for index in indices)

    def entries(self, first: int, stop: int) -> list[bytes]:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == range(first, stop):
            self._context.inodes.note_lookups(self._base, stop - first)
            return ahead[1]
        parts: list[bytes] = []
        for indices, positions in self._stretches(first, stop):
            if positions:
                parts += self._listed(indices, positions)
                self._context.inodes.note_lookups(self._base, len(positions))
                continue
            for index in indices:
                entry, ino, mode = self._unlisted(index, is_entered=True)
                parts += (entry, pack_dirent(self.names[index], ino, index + 1, mode))
        return parts

    def pack_ahead(self, first: int, stop: int) -> None:
        for indices, positions in self._stretches(first, stop):
            # Directories that are only implied would be entered.
            if positions and indices == range(first, stop):
                self._ahead = indices, self._listed(indices, positions)
            return

    def _listed(self, indices: range, positions: list[int]) -> list[bytes]:
        names = self.names[indices.start : indices.stop]
        return self._context.named_entries_at(self._node.version, self._base, positions, names, indices.start)

    def _stretches(self, first: int, stop: int) -> Iterator[tuple[range, list[int]]]:
        """Neighbours that the manifest lists, with their positions in it; and such that it does not, without any."""
        start = first
        for _, found in groupby(self._positions[first:stop], key=lambda position: position is None):
            positions = list(found)
            indices = range(start, start + len(positions))
            yield indices, [position for position in positions if position is not None]
            start = indices.stop

    def _unlisted(self, index: int, *, is_entered: bool = False) -> tuple[bytes, int, int]:
        """(entry, inode number, mode) of a directory that is only implied, or of those that every directory names."""
        if index < len(_OWN_NAMES):
            return NO_ENTRY, *_OWN
        context = self._context
        node = VersionNode(self._node.version, join(self._node.path, os.fsdecode(self.names[index])), None)
        attrs = context.vfs.getattr(node)
        entry = entry_out(context.inodes.enter(node), attrs, FOREVER, FOREVER) if is_entered else NO_ENTRY
        return entry, attrs.ino, attrs.mode


class OpenDirectory:
    """A directory being read; `told` is how many of the names were in the last reply or before it."""

    __slots__ = ("listing", "nodeid", "told")

    def __init__(self, nodeid: int) -> None:
        self.nodeid = nodeid
        self.listing: Listing | None = None
        self.told = 0


class Directories:
    """See the module docstring."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._inodes = context.inodes

    def opendir(self, request: Request) -> bytes:
        """FUSE_OPENDIR."""
        node = self._inodes.node(request.nodeid)
        number = next(self._context.numbers)
        self._context.directories[number] = OpenDirectory(request.nodeid)
        # Only a version lists the same for ever.
        flags = FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE if isinstance(node, VersionNode) else 0
        return protocol.fuse_open_out.pack(number, flags, 0)

    def releasedir(self, request: Request) -> bytes:
        """FUSE_RELEASEDIR."""
        number, *_ = protocol.fuse_release_in.read(request.body)
        self._context.directories.pop(number, None)
        return b""

    def fsyncdir(self, request: Request) -> bytes:
        """FUSE_FSYNCDIR. Raises OSError."""
        node = self._inodes.node(request.nodeid)
        if isinstance(node, StagedNode):
            with node.tree.lock:
                spot = self._context.spot(request.nodeid)
                spot.node.tree.fsync_directory(spot.node.path)
        return b""

    def readdir(self, request: Request) -> bytes:
        """FUSE_READDIR."""
        _, listing, offset, room = self._reading(request)
        stop = listing.end_of_room(offset, room, protocol.fuse_dirent.size)
        named = zip(listing.names[offset:stop], listing.identities(offset, stop), strict=True)
        return b"".join(
            pack_dirent(name, ino, number, mode) for number, (name, (ino, mode)) in enumerate(named, offset + 1)
        )

    def readdirplus(self, request: Request) -> bytes:
        """FUSE_READDIRPLUS."""
        directory, listing, offset, room = self._reading(request)
        directory.told = listing.end_of_room(offset, room, protocol.fuse_direntplus.size)
        return b"".join(listing.entries(offset, directory.told))

    def undo_readdirplus(self, request: Request, reply: bytes) -> None:
        """The kernel was not told of the files that `readdirplus` found."""
        for entry in protocol.split_direntplus(reply):
            self._inodes.forget(protocol.nodeid_of(entry), 1)

    def pack_ahead(self, request: Request) -> None:
        """After `readdirplus`: while the program looks at what it got, the next reply is made."""
        number, _, room, *_ = protocol.fuse_read_in.read(request.body)
        directory = self._context.directories.get(number)
        # Other requests wait meanwhile. The C library reads 32 KiB at a time, 200 names, which take 0.2 ms.
        if directory is None or directory.listing is None or room > AHEAD_BYTES:
            return
        listing, first = directory.listing, directory.told
        listing.pack_ahead(first, listing.end_of_room(first, room, protocol.fuse_direntplus.size))

    def _reading(self, request: Request) -> tuple[OpenDirectory, Listing, int, int]:
        """The directory, its names, the position in them, and the room in the reply."""
        number, offset, size, *_ = protocol.fuse_read_in.read(request.body)
        directory = self._context.directories.get(number)
        if directory is None:
            raise Malformed(f"no open directory {number}")
        listing = directory.listing
        if offset == 0 or listing is None:
            node = self._inodes.node(directory.nodeid)
            if isinstance(node, VersionNode):
                listing = _VersionNames(self._context, directory.nodeid, node)
            else:
                listing = _Names(self._context, directory.nodeid, node)
            directory.listing = listing
        return directory, listing, offset, size
