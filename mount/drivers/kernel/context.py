"""What the handlers of requests share: the connection, the inode table, the open files, and how names are answered.

Neighbours: `names`, `files`, `directories` and `metadata` hold the handlers, `session` calls them. Threading: one
`Context` for all workers. `files` and `directories` are changed by single dict operations; numbers come from an
iterator that is safe under the interpreter lock.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from mount.drivers.kernel import protocol
from mount.drivers.kernel.channel import Channel
from mount.drivers.kernel.inodes import FIRST_STAGED, FIRST_VERSION, Inodes
from mount.drivers.kernel.prefill import Prefill
from mount.drivers.kernel.protocol import Malformed
from mount.drivers.kernel.reading import Lending, Reading, UnopenedFiles
from mount.drivers.kernel.replies import FOREVER, NOT_AT_ALL, Validity, entry_out, lasting_entry_out, named_entries
from mount.drivers.kernel.staged_inodes import Anchor, StagedInode
from mount.errno_map import is_not_there
from mount.errors import Stale
from mount.handles import Handle, StagedFile
from mount.settings import MountSettings
from mount.tree import Attrs, Caller, LoadedVersion, Node, StagedNode, VersionNode, join
from mount.vfs import Vfs

STAGED_ATTRS = Validity.of(1.0)
"""Of staged files that nobody writes to. Every change goes through the kernel; this is for what nobody thought of."""


class Request:
    """One request; `body` is what follows the header, `room` the rest of the buffer: for the body of a reply.

    Both are valid until the reply is sent.
    """

    __slots__ = ("_buffer", "_size", "body", "gid", "nodeid", "opcode", "pid", "uid", "unique")

    def __init__(self, header: tuple[int, ...], buffer: memoryview) -> None:
        self._size, self.opcode, self.unique, self.nodeid, self.uid, self.gid, self.pid, _, _ = header
        self._buffer = buffer
        self.body = buffer[protocol.fuse_in_header.size : self._size]

    @property
    def room(self) -> memoryview:
        """See above."""
        return self._buffer[self._size :]

    @property
    def caller(self) -> Caller:
        """Who asks."""
        return Caller(self.uid, self.gid)

    def name(self, skip: int = 0) -> str:
        """The one name that follows `skip` bytes. Raises Malformed."""
        return os.fsdecode(self.raw_name(skip))

    def raw_name(self, skip: int = 0) -> bytes:
        """As `name`, as it came."""
        raw = bytes(self.body[skip:])
        if raw[-1:] != b"\0":
            raise Malformed("a name without an end")
        return raw[:-1]


class NeverAskAgain(Exception):
    """The kernel is to do without this kind of request from here on."""


class OpenFile(NamedTuple):
    """An open file, and its inode when it is a staged one."""

    handle: Handle
    inode: StagedInode | None


class Spot(NamedTuple):
    """A directory in a staged tree, as it is at this moment: rely on it with the tree's lock held only."""

    anchor: Anchor
    directory: StagedInode | None
    node: StagedNode


class Context:
    """See the module docstring."""

    def __init__(self, channel: Channel, vfs: Vfs, settings: MountSettings) -> None:
        self.channel = channel
        self.vfs = vfs
        self.settings = settings
        self._owner = settings.uid, settings.gid
        self.inodes = Inodes(lambda artifact: vfs.lookup(artifact, "staging"))
        self.files: dict[int, OpenFile] = {}
        self.directories: dict[int, Any] = {}
        self.numbers = itertools.count(1)
        self.minor = protocol.FUSE_KERNEL_MINOR_VERSION
        self.flags = 0
        self.reading = Reading.ORDINARY
        self.lending = Lending(channel)
        self.prefill = Prefill(channel, self.inodes, vfs.small_files)
        self.unopened = UnopenedFiles(vfs, self.inodes)

    def close(self) -> None:
        """Let go of everything that is open: after the end, nobody will ask for it."""
        files, self.files = list(self.files.values()), {}
        for file in files:
            self.close_file(file)
        self.unopened.close()
        self.inodes.close()

    def file(self, number: int) -> OpenFile:
        """The open file of a request. Raises Malformed."""
        try:
            return self.files[number]
        except KeyError:
            raise Malformed(f"no open file {number}") from None

    def handle(self, number: int, nodeid: int) -> Handle:
        """The open file of a request that reads; opened for it where programs open without us. Raises Malformed."""
        if number == 0 and self.reading is Reading.UNOPENED:
            return self.unopened.get(nodeid, self.inodes.node(nodeid)).file
        return self.file(number).handle

    def staged_file(self, number: int) -> StagedFile:
        """The open file of a request that writes. Raises Malformed."""
        handle = self.file(number).handle
        if not isinstance(handle, StagedFile):
            raise Malformed(f"open file {number} is not in staging")
        return handle

    def close_file(self, file: OpenFile) -> None:
        """Close an open file. Raises OSError."""
        if file.inode is not None:
            assert isinstance(file.handle, StagedFile)
            self.inodes.staged.closed(file.inode, file.handle)
        file.handle.close()

    # -- staged trees --------------------------------------------------------------------------------------------------

    def staged_inode(self, nodeid: int) -> StagedInode | None:
        """The inode when the id is that of something below the top of a staged tree. Raises Stale."""
        return self.inodes.staged.get(nodeid) if FIRST_STAGED <= nodeid < FIRST_VERSION else None

    def spot(self, nodeid: int) -> Spot:
        """Where names are made or removed in the staged directory `nodeid`. Raises Stale."""
        inode = self.staged_inode(nodeid)
        if inode is not None:
            return Spot(inode.anchor, inode, inode.node())
        node = self.inodes.node(nodeid)
        if not isinstance(node, StagedNode):
            raise Stale("the directory is not in staging any more")
        return Spot(self.inodes.anchor(node), None, node)

    def checked_node(self, inode: StagedInode) -> StagedNode:
        """The node of a staged inode, proven to be the same file. Call with the tree's lock held. Raises Stale."""
        while True:
            node = inode.node()
            try:
                found = node.tree.stat(node.path)
            except OSError as error:
                if not is_not_there(error):
                    raise
            else:
                if (found.st_dev, found.st_ino) == inode.identity:
                    return node
            # The name went with a tree that was taken away, or the kernel has let go of the directory it was in, and
            # something else, a symlink even, has that directory's name by now.
            if not inode.others:
                raise Stale("the file has gone with its tree")
            inode.name = inode.others.pop()

    def node(self, nodeid: int) -> Node:
        """The node that the kernel means, proven to be the same file where it is staged. Raises Stale."""
        inode = self.staged_inode(nodeid)
        if inode is None:
            return self.inodes.node(nodeid)
        with inode.anchor.tree.lock:
            return self.checked_node(inode)

    def open_staged(self, inode: StagedInode, flags: int) -> StagedFile:
        """Open a staged file, whether or not it has a name. Raises Stale, ReadOnly, OSError."""
        tree = inode.anchor.tree
        with tree.lock:
            fd = inode.nameless_fd
            if fd is not None:
                return tree.reopen(fd, flags)
            handle = self.vfs.open(self.checked_node(inode), flags)
        assert isinstance(handle, StagedFile)
        return handle

    # -- answering names -----------------------------------------------------------------------------------------------

    def entry(self, node: Node) -> bytes:
        """The entry of anything that is not below the top of a staged tree; counts a lookup."""
        attrs = self.vfs.getattr(node)
        if isinstance(node, VersionNode) and node.path:
            return entry_out(self.inodes.enter(node), attrs, FOREVER, FOREVER)
        if isinstance(node, StagedNode):
            # A sealed tree goes away by itself; `staging` stays as long as its artifact.
            valid = NOT_AT_ALL if node.pending is not None else Validity.of(self.vfs.lifetime_s(node))
            return entry_out(self.inodes.enter(node), attrs, valid, NOT_AT_ALL)
        return entry_out(self.inodes.enter(node), attrs, Validity.of(self.vfs.lifetime_s(node)), FOREVER)

    def entry_at(self, version: LoadedVersion, base: int, position: int) -> bytes:
        """The entry of what the manifest has at a position; counts a lookup. No object is made.

        `base` is that of `Inodes.version_base`.
        """
        ino, mode, size_bytes, mtime_ns = self.vfs.stat_at(version, position)
        nodeid = self.inodes.enter_at(base, position)
        return lasting_entry_out(nodeid, ino, mode, size_bytes, mtime_ns, *self._owner)

    def named_entries_at(
        self, version: LoadedVersion, base: int, positions: Sequence[int], names: Sequence[bytes], offset: int
    ) -> list[bytes]:
        """Pieces of the reply to READDIRPLUS: as `entry_at` of many positions, with the names they have.

        `offset` is where the first is read from. Lookups are not counted: see `Inodes.note_lookups`.
        """
        nodeids = self.inodes.ids_at(base, positions)
        return named_entries(nodeids, self.vfs.stats_at(version, positions), names, offset, *self._owner)

    def staged_entry(self, spot: Spot, name: str, *, open_for_writing: bool = False) -> tuple[StagedInode, bytes]:
        """The inode and entry of a name in a staged directory, with the tree's lock held. Counts a lookup."""
        attrs = self.vfs.getattr(spot.node._replace(path=join(spot.node.path, name)))
        identity = attrs.device, attrs.ino
        inode = self.inodes.staged.enter(spot.anchor, (spot.directory, name), identity, attrs.mode)
        # A seal takes everything in staging away at once, behind the kernel's back. It has to ask again for the names
        # at the top, and with those it drops what is below them.
        entry_valid = NOT_AT_ALL if spot.directory is None else FOREVER
        attr_valid = NOT_AT_ALL if open_for_writing else self.staged_validity(inode)
        return inode, entry_out(inode.nodeid, attrs, entry_valid, attr_valid)

    def forget_attrs(self, inode: StagedInode) -> None:
        """Have the kernel ask for the attributes again. Of attributes alone, it does so without waiting for anybody."""
        attrs_only = protocol.fuse_notify_inval_inode_out.pack(inode.nodeid, -1, 0)
        self.channel.notify(protocol.FUSE_NOTIFY_INVAL_INODE, attrs_only)

    def staged_validity(self, inode: StagedInode) -> Validity:
        """How long attributes of a staged file stay true: what is mapped to memory changes unseen while it is open."""
        return NOT_AT_ALL if inode.writers else STAGED_ATTRS

    def staged_attrs(self, inode: StagedInode) -> Attrs:
        """What stat(2) tells of a staged inode, whether or not it has a name. Raises Stale, OSError."""
        handles = inode.handles
        if handles:
            # Another worker may close it at this moment.
            with contextlib.suppress(IndexError, OSError):
                return self.vfs.getattr_of(handles[-1])
        fd = inode.nameless_fd
        if fd is not None:
            return self.vfs.getattr_of_fd(fd)
        with inode.anchor.tree.lock:
            return self.vfs.getattr(self.checked_node(inode))
