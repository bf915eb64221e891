"""Requests about names: looking up, making, removing, renaming and linking.

Threading: called from any worker. What concerns a staged tree runs with that tree's lock held, so that the paths it
computes stay true until the vfs has used them.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from artifactfs.errors import NotFound
from mount.descriptors import OwnedFd
from mount.drivers.kernel import protocol
from mount.drivers.kernel.context import Context, Request, Spot
from mount.drivers.kernel.inodes import FIRST_VERSION
from mount.drivers.kernel.replies import FOREVER, negative_entry
from mount.drivers.kernel.staged_inodes import StagedInode
from mount.errors import CrossTree
from mount.tree import Artifact, Collection, Node, Root, StagedNode, join

RENAME_EXCHANGE = 2

_IN_VERSION_NO_SUCH_NAME = negative_entry(FOREVER)


class Names:
    """See the module docstring."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._vfs = context.vfs
        self._inodes = context.inodes

    def lookup(self, request: Request) -> bytes:
        """FUSE_LOOKUP."""
        nodeid = request.nodeid
        if nodeid >= FIRST_VERSION:
            return self._lookup_in_version(nodeid, request.raw_name())
        name, parent = request.name(), self._inodes.node(nodeid)
        if isinstance(parent, StagedNode):
            with parent.tree.lock:
                return self._context.staged_entry(self._context.spot(nodeid), name)[1]
        return self._context.entry(self._vfs.lookup(parent, name))

    def undo_lookup(self, request: Request, entry: bytes) -> None:
        """The kernel was not told what `lookup` found."""
        self._inodes.forget(protocol.nodeid_of(entry), 1)

    def _lookup_in_version(self, nodeid: int, name: bytes) -> bytes:
        """What the manifest lists is found there, and no object is made for it."""
        inodes = self._inodes
        version, directory = inodes.directory(nodeid)
        position = version.manifest.raw_index(directory + b"/" + name if directory else name)
        if position is not None:
            return self._context.entry_at(version, inodes.version_base(nodeid), position)
        try:
            return self._context.entry(self._vfs.lookup(inodes.node(nodeid), os.fsdecode(name)))
        except NotFound:
            return _IN_VERSION_NO_SUCH_NAME

    def readlink(self, request: Request) -> bytes:
        """FUSE_READLINK."""
        return os.fsencode(self._vfs.readlink(self._context.node(request.nodeid)))

    # -- making --------------------------------------------------------------------------------------------------------

    def mkdir(self, request: Request) -> bytes:
        """FUSE_MKDIR."""
        mode, _ = protocol.fuse_mkdir_in.read(request.body)
        name = request.name(protocol.fuse_mkdir_in.size)
        return self._make(request, name, lambda parent: self._vfs.mkdir(parent, name, mode, request.caller))

    def mknod(self, request: Request) -> bytes:
        """FUSE_MKNOD."""
        mode, device, *_ = protocol.fuse_mknod_in.read(request.body)
        name = request.name(protocol.fuse_mknod_in.size)
        rdev = protocol.decode_device(device)
        return self._make(request, name, lambda parent: self._vfs.mknod(parent, name, mode, request.caller, rdev))

    def symlink(self, request: Request) -> bytes:
        """FUSE_SYMLINK."""
        name, target = protocol.read_names(request.body, 2)
        return self._make(request, name, lambda parent: self._vfs.symlink(parent, name, target, request.caller))

    def _make(self, request: Request, name: str, make: Callable[[Node], None]) -> bytes:
        context = self._context
        parent = self._inodes.node(request.nodeid)
        if isinstance(parent, StagedNode):
            with parent.tree.lock:
                spot = context.spot(request.nodeid)
                make(spot.node)
                return context.staged_entry(spot, name)[1]
        make(parent)
        return context.entry(self._vfs.lookup(parent, name))

    def link(self, request: Request) -> bytes:
        """FUSE_LINK: the node is the directory."""
        context = self._context
        (old,) = protocol.fuse_link_in.read(request.body)
        name = request.name(protocol.fuse_link_in.size)
        parent = self._inodes.node(request.nodeid)
        inode = context.staged_inode(old)
        if not isinstance(parent, StagedNode) or inode is None:
            self._vfs.link(self._inodes.node(old), parent, name)
            raise CrossTree(f"linking {name}")
        with parent.tree.lock:
            spot = context.spot(request.nodeid)
            self._vfs.link(context.checked_node(inode), spot.node, name)
            return context.staged_entry(spot, name)[1]

    # -- removing ------------------------------------------------------------------------------------------------------

    def unlink(self, request: Request) -> bytes:
        """FUSE_UNLINK."""
        return self._remove(request, self._vfs.unlink)

    def rmdir(self, request: Request) -> bytes:
        """FUSE_RMDIR."""
        return self._remove(request, self._vfs.rmdir)

    def _remove(self, request: Request, remove: Callable[[Node, str], None]) -> bytes:
        context = self._context
        name = request.name()
        parent = self._inodes.node(request.nodeid)
        if not isinstance(parent, StagedNode):
            remove(parent, name)
            if isinstance(parent, Root):
                self._inodes.removed(Collection(name))
            elif isinstance(parent, Collection):
                self._inodes.removed(Artifact(parent.name, name))
            return b""
        with parent.tree.lock:
            spot = context.spot(request.nodeid)
            removed = _Removal(context, spot, name)
            remove(spot.node, name)
            removed.done()
        return b""

    # -- renaming ------------------------------------------------------------------------------------------------------

    def rename(self, request: Request) -> bytes:
        """FUSE_RENAME."""
        (new_parent,) = protocol.fuse_rename_in.read(request.body)
        return self._rename(request, new_parent, 0, protocol.fuse_rename_in.size)

    def rename2(self, request: Request) -> bytes:
        """FUSE_RENAME2."""
        new_parent, flags, _ = protocol.fuse_rename2_in.read(request.body)
        return self._rename(request, new_parent, flags, protocol.fuse_rename2_in.size)

    def _rename(self, request: Request, new_parent: int, flags: int, skip: int) -> bytes:
        context = self._context
        old, new = protocol.read_names(request.body[skip:], 2)
        source, target = self._inodes.node(request.nodeid), self._inodes.node(new_parent)
        if not isinstance(source, StagedNode) or not isinstance(target, StagedNode) or source.tree is not target.tree:
            self._vfs.rename(source, old, target, new, flags)
            return b""
        with source.tree.lock:
            here, there = context.spot(request.nodeid), context.spot(new_parent)
            moved = _known(context, here, old)
            removed = _Removal(context, there, new)
            self._vfs.rename(here.node, old, there.node, new, flags)
            old_name, new_name = (here.directory, old), (there.directory, new)
            if flags & RENAME_EXCHANGE:
                if removed.inode is not None:
                    self._inodes.staged.moved(removed.inode, new_name, old_name)
            elif removed.inode is moved:
                # Two names of one file: rename(2) leaves both.
                return b""
            else:
                removed.done()
            if moved is not None:
                self._inodes.staged.moved(moved, old_name, new_name)
        return b""


def _known(context: Context, spot: Spot, name: str) -> StagedInode | None:
    """The inode at a name, if the kernel knows it."""
    try:
        found = spot.node.tree.stat(join(spot.node.path, name))
    except OSError:
        return None
    return context.inodes.staged.find(spot.anchor, (found.st_dev, found.st_ino))


class _Removal:
    """A name about to go away: its file is held, so that it can be told of for as long as the kernel knows it."""

    def __init__(self, context: Context, spot: Spot, name: str) -> None:
        self._inodes = context.inodes.staged
        self._name = (spot.directory, name)
        self._fd: OwnedFd | None = None
        self.inode: StagedInode | None = None
        try:
            self._fd = spot.node.tree.pin(join(spot.node.path, name))
        except OSError:
            # Nothing is there, or so the removal itself will tell.
            return
        found = os.fstat(self._fd)
        self.inode = self._inodes.find(spot.anchor, (found.st_dev, found.st_ino))

    def done(self) -> None:
        """It happened."""
        if self._fd is not None and self.inode is not None:
            self._inodes.lost(self.inode, self._name, self._fd)
