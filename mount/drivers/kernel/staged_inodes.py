"""Inodes of staged files: known by their disk and their number on it, found by a path that renames change.

An inode remembers its names as (directory, name), so that a rename of a directory moves everything below it. Hard
links are one inode with several names. A file that loses the last name the kernel knows keeps a descriptor that stands
for it (O_PATH) for as long as the kernel knows it, so its number on disk is not given to another file meanwhile.

Trees are sealed and removed behind the kernel's back. Numbers are therefore looked up per tree (`Anchor`): what is made
in a new staging never meets the inode of a file that left with an old one. Only a file that is open is the same in
both, because its number is taken for sure; a forced seal carries such files over.

Threading: safe from any thread. `_lock` guards the table and the names and is a leaf. Who must rely on a path does so
with the lock of the tree held (`StagedTree.lock`), under which all names change; that one is taken first.
"""

from __future__ import annotations

import itertools
import stat
import threading

from mount.descriptors import OwnedFd
from mount.errors import Stale
from mount.handles import StagedFile
from mount.staged_tree import StagedTree
from mount.tree import Artifact, StagedNode

Name = tuple["StagedInode | None", str]
"""A directory (None: the top of the tree) and a name in it."""

Identity = tuple[int, int]
"""Which file it is: the number of its disk, and its inode number there. An overlay has files of several disks."""


class Anchor:
    """A staged or sealed tree as the kernel sees it, and the inodes looked up in it."""

    __slots__ = ("artifact", "by_identity", "pending", "tree")

    def __init__(self, top: StagedNode) -> None:
        self.tree: StagedTree = top.tree
        self.artifact: Artifact = top.artifact
        self.pending = top.pending
        self.by_identity: dict[Identity, StagedInode] = {}


class StagedInode:
    """A file or directory below the top of a staged tree."""

    __slots__ = ("anchor", "fd", "handles", "identity", "lookups", "mode", "name", "nodeid", "others", "writers")

    def __init__(self, nodeid: int, anchor: Anchor, name: Name, identity: Identity, mode: int) -> None:
        self.nodeid = nodeid
        self.anchor = anchor
        self.identity = identity
        self.mode = mode
        self.lookups = 0
        self.name: Name | None = name
        self.others: set[Name] = set()
        self.handles: list[StagedFile] = []
        self.writers = 0
        self.fd: OwnedFd | None = None

    @property
    def nameless_fd(self) -> OwnedFd | None:
        """What stands for the file when it has no name, or none that the kernel has looked up."""
        return self.fd if self.name is None else None

    def node(self) -> StagedNode:
        """Where it is at this moment. Raises Stale when it has no name."""
        parts = []
        inode: StagedInode | None = self
        while inode is not None:
            if inode.name is None:
                raise Stale("the file has no name any more")
            inode, name = inode.name
            parts.append(name)
        parts.reverse()
        anchor = self.anchor
        return StagedNode(anchor.tree, "/".join(parts), anchor.artifact, anchor.pending)


class StagedInodes:
    """See the module docstring."""

    def __init__(self, first: int) -> None:
        """Node ids are given out from `first` on."""
        self._lock = threading.Lock()
        self._numbers = itertools.count(first)
        self._by_id: dict[int, StagedInode] = {}
        self._open: dict[Identity, StagedInode] = {}

    def get(self, nodeid: int) -> StagedInode:
        """The inode of a node id. Raises Stale for one the kernel was never told of."""
        try:
            return self._by_id[nodeid]
        except KeyError:
            raise Stale(f"no inode {nodeid}") from None

    def find(self, anchor: Anchor, identity: Identity) -> StagedInode | None:
        """The inode of that file, if the kernel knows one."""
        with self._lock:
            return anchor.by_identity.get(identity) or self._open.get(identity)

    def enter(self, anchor: Anchor, name: Name, identity: Identity, mode: int) -> StagedInode:
        """The inode of the file found at `name`; counts one lookup."""
        with self._lock:
            inode = anchor.by_identity.get(identity) or self._open.get(identity)
            if inode is None:
                inode = StagedInode(next(self._numbers), anchor, name, identity, mode)
                self._by_id[inode.nodeid] = anchor.by_identity[identity] = inode
            elif inode.anchor is not anchor:
                # Open, and carried over to another tree.
                inode.anchor.by_identity.pop(identity, None)
                inode.others.clear()
                inode.anchor, inode.name = anchor, name
                anchor.by_identity[identity] = inode
            elif inode.name != name:
                self._add_name(inode, name)
            inode.lookups += 1
            return inode

    def _add_name(self, inode: StagedInode, name: Name) -> None:
        if inode.name is not None and not stat.S_ISDIR(inode.mode):
            inode.others.add(inode.name)
        inode.others.discard(name)
        inode.name = name

    def forget(self, nodeid: int, count: int) -> None:
        """The kernel lets go of so many lookups; with the last one of them the inode goes."""
        with self._lock:
            inode = self._by_id.get(nodeid)
            if inode is None:
                return
            inode.lookups -= count
            if inode.lookups > 0:
                return
            del self._by_id[nodeid]
            if inode.anchor.by_identity.get(inode.identity) is inode:
                del inode.anchor.by_identity[inode.identity]
            # Closing it may free a large file: let it go when the lock is free again.
            _held, inode.fd = inode.fd, None

    # -- names, with the tree's lock held ------------------------------------------------------------------------------

    def moved(self, inode: StagedInode, old: Name, new: Name) -> None:
        """The file was renamed."""
        with self._lock:
            inode.others.discard(old)
            if inode.name == old:
                inode.name = new
            else:
                self._add_name(inode, new)

    def lost(self, inode: StagedInode, name: Name, fd: OwnedFd) -> None:
        """The name was removed or given to another file. `fd` stands for the file (O_PATH)."""
        with self._lock:
            inode.others.discard(name)
            if inode.name == name:
                inode.name = inode.others.pop() if inode.others else None
            if inode.name is None and inode.fd is None and inode.nodeid in self._by_id:
                inode.fd = fd

    # -- open files ----------------------------------------------------------------------------------------------------

    def opened(self, inode: StagedInode, handle: StagedFile) -> None:
        """A handle of the file was opened."""
        with self._lock:
            inode.handles.append(handle)
            inode.writers += handle.writable
            self._open[inode.identity] = inode

    def closed(self, inode: StagedInode, handle: StagedFile) -> None:
        """A handle of the file is about to be closed."""
        with self._lock:
            inode.handles.remove(handle)
            inode.writers -= handle.writable
            if not inode.handles and self._open.get(inode.identity) is inode:
                del self._open[inode.identity]

    def __len__(self) -> int:
        return len(self._by_id)

    def close(self) -> None:
        """Let go of the descriptors of files without a name."""
        with self._lock:
            inodes, self._by_id = list(self._by_id.values()), {}
        for inode in inodes:
            inode.fd = None
