"""Requests about open directories. What READDIRPLUS tells of the files saves the kernel a LOOKUP for each.

An open directory keeps the names it was read with, so that offsets stay true while names come and go. Reading from
the start again reads it anew.

Threading: called from any worker; the kernel reads one open directory from one thread at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from mount.drivers.kernel import protocol
from mount.drivers.kernel.context import Context, Request
from mount.drivers.kernel.protocol import FOPEN_CACHE_DIR, FOPEN_KEEP_CACHE, Malformed
from mount.drivers.kernel.replies import FOREVER, NO_ENTRY, entry_out
from mount.tree import ROOT_INO, Dirent, Node, StagedNode, VersionNode

_DIRECTORY = 0o040000
_OWN_NAMES = (".", "..")


class OpenDirectory:
    """A directory being read."""

    __slots__ = ("entries", "nodeid")

    def __init__(self, nodeid: int) -> None:
        self.nodeid = nodeid
        self.entries: list[Dirent] = []


class Directories:
    """See the module docstring."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._vfs = context.vfs
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
        directory, offset, room = self._reading(request)
        parts = []
        for number, (name, ino, mode) in enumerate(directory.entries[offset:], offset + 1):
            raw = os.fsencode(name)
            room -= protocol.dirent_size(raw)
            if room < 0:
                break
            parts.append(protocol.pack_dirent(raw, ino, number, mode))
        return b"".join(parts)

    def readdirplus(self, request: Request) -> bytes:
        """FUSE_READDIRPLUS."""
        directory, offset, room = self._reading(request)
        entry_of = self._entries(directory.nodeid)
        parts = []
        for number, dirent in enumerate(directory.entries[offset:], offset + 1):
            raw = os.fsencode(dirent.name)
            room -= len(NO_ENTRY) + protocol.dirent_size(raw)
            if room < 0:
                break
            parts.append(NO_ENTRY if dirent.name in _OWN_NAMES else entry_of(dirent))
            parts.append(protocol.pack_dirent(raw, dirent.ino, number, dirent.mode))
        return b"".join(parts)

    def _reading(self, request: Request) -> tuple[OpenDirectory, int, int]:
        """The open directory, the position in it, and the room in the reply."""
        number, offset, size, *_ = protocol.fuse_read_in.read(request.body)
        directory = self._context.directories.get(number)
        if directory is None:
            raise Malformed(f"no open directory {number}")
        if offset == 0:
            directory.entries = self._list(directory.nodeid)
        return directory, offset, size

    def _list(self, nodeid: int) -> list[Dirent]:
        node = self._inodes.node(nodeid)
        own = Dirent(".", self._vfs.getattr(node).ino if not isinstance(node, StagedNode) else ROOT_INO, _DIRECTORY)
        # The kernel knows the parent and shows its number; what is given here only must not be 0.
        return [own, Dirent("..", ROOT_INO, _DIRECTORY), *self._dirents(nodeid, node)]

    def _dirents(self, nodeid: int, node: Node) -> list[Dirent]:
        if not isinstance(node, StagedNode):
            return list(self._vfs.readdir(node))
        with node.tree.lock:
            return list(self._vfs.readdir(self._context.spot(nodeid).node))

    def _entries(self, nodeid: int) -> Callable[[Dirent], bytes]:
        """What tells of an entry of this directory. Where that would load every version, only names are told."""
        node = self._inodes.node(nodeid)
        if isinstance(node, VersionNode):
            return lambda dirent: self._version_entry(node, dirent.name)
        if isinstance(node, StagedNode):
            return lambda dirent: self._staged_entry(nodeid, node, dirent.name)
        return lambda dirent: NO_ENTRY

    def _version_entry(self, directory: VersionNode, name: str) -> bytes:
        node = self._vfs.lookup(directory, name)
        return entry_out(self._inodes.enter(node), self._vfs.getattr(node), FOREVER, FOREVER)

    def _staged_entry(self, nodeid: int, directory: StagedNode, name: str) -> bytes:
        with directory.tree.lock:
            try:
                return self._context.staged_entry(self._context.spot(nodeid), name)[1]
            except OSError:
                # Removed since the names were read.
                return NO_ENTRY
