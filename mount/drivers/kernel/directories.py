"""Requests about open directories. What READDIRPLUS tells of the files saves the kernel a LOOKUP for each.

An open directory keeps the names it was read with, so that offsets stay true while names come and go. Reading from
the start again reads it anew.

Threading: called from any worker; the kernel reads one open directory from one thread at a time.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod

from mount.drivers.kernel import protocol
from mount.drivers.kernel.context import Context, Request
from mount.drivers.kernel.protocol import FOPEN_CACHE_DIR, FOPEN_KEEP_CACHE, Malformed, dirent_size, pack_dirent
from mount.drivers.kernel.replies import FOREVER, NO_ENTRY, entry_out
from mount.tree import ROOT_INO, Node, StagedNode, VersionNode, join

_DIRECTORY = 0o040000
_OWN_NAMES = (b".", b"..")


class _Listing(ABC):
    """The names of a directory, ``.`` and ``..`` first, at one moment."""

    names: list[bytes]

    @abstractmethod
    def identity(self, index: int) -> tuple[int, int]:
        """(inode number, mode with the file type) of the name at a position, without asking for more than is known."""

    @abstractmethod
    def entry(self, index: int) -> tuple[bytes, int, int]:
        """(fuse_entry_out, inode number, mode) of it. Counts a lookup, unless it is `NO_ENTRY`."""


class _Names(_Listing):
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
        # The kernel knows these two and shows their numbers; what is given here only must not be 0.
        own = (ROOT_INO, _DIRECTORY)
        self.names = [*_OWN_NAMES, *(os.fsencode(dirent.name) for dirent in found)]
        self._identities = [own, own, *((dirent.ino, dirent.mode) for dirent in found)]

    def identity(self, index: int) -> tuple[int, int]:
        return self._identities[index]

    def entry(self, index: int) -> tuple[bytes, int, int]:
        ino, mode = self._identities[index]
        if self._staged is None or index < len(_OWN_NAMES):
            return NO_ENTRY, ino, mode
        context = self._context
        with self._staged.tree.lock:
            try:
                spot = context.spot(self._nodeid)
                return context.staged_entry(spot, os.fsdecode(self.names[index]))[1], ino, mode
            except OSError:
                # Removed since the names were read.
                return NO_ENTRY, ino, mode


class _VersionNames(_Listing):
    """Of a directory of a version: what is told comes from the manifest's columns, and makes no object for a file."""

    def __init__(self, context: Context, nodeid: int, node: VersionNode) -> None:
        self._context = context
        self._node = node
        self._base = context.inodes.version_base(nodeid)
        found = node.version.manifest.raw_children(node.path)
        self.names = [*_OWN_NAMES, *(name for name, _ in found)]
        self._positions = [None, None, *(position for _, position in found)]

    def _child(self, index: int) -> VersionNode:
        path = join(self._node.path, os.fsdecode(self.names[index]))
        return VersionNode(self._node.version, path, self._positions[index])

    def identity(self, index: int) -> tuple[int, int]:
        if index < len(_OWN_NAMES):
            return ROOT_INO, _DIRECTORY
        attrs = self._context.vfs.getattr(self._child(index))
        return attrs.ino, attrs.mode

    def entry(self, index: int) -> tuple[bytes, int, int]:
        context = self._context
        position = self._positions[index]
        if position is not None:
            return context.entry_at(self._node.version, self._base, position)
        if index < len(_OWN_NAMES):
            return NO_ENTRY, ROOT_INO, _DIRECTORY
        node = self._child(index)
        attrs = context.vfs.getattr(node)
        return entry_out(context.inodes.enter(node), attrs, FOREVER, FOREVER), attrs.ino, attrs.mode


class OpenDirectory:
    """A directory being read."""

    __slots__ = ("listing", "nodeid")

    def __init__(self, nodeid: int) -> None:
        self.nodeid = nodeid
        self.listing: _Listing | None = None


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
        listing, offset, room = self._reading(request)
        names = listing.names
        parts: list[bytes] = []
        for index in range(min(offset, len(names)), len(names)):
            name = names[index]
            room -= dirent_size(name)
            if room < 0:
                break
            ino, mode = listing.identity(index)
            parts.append(pack_dirent(name, ino, index + 1, mode))
        return b"".join(parts)

    def readdirplus(self, request: Request) -> bytes:
        """FUSE_READDIRPLUS."""
        listing, offset, room = self._reading(request)
        names = listing.names
        parts: list[bytes] = []
        for index in range(min(offset, len(names)), len(names)):
            name = names[index]
            room -= len(NO_ENTRY) + dirent_size(name)
            if room < 0:
                break
            entry, ino, mode = listing.entry(index)
            parts += (entry, pack_dirent(name, ino, index + 1, mode))
        return b"".join(parts)

    def _reading(self, request: Request) -> tuple[_Listing, int, int]:
        """The names, the position in them, and the room in the reply."""
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
        return listing, offset, size
