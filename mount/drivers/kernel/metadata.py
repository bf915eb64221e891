"""Requests about attributes, extended attributes and room.

Threading: called from any worker.
"""

from __future__ import annotations

import os
import struct
import time

from mount import control
from mount.drivers.kernel import protocol
from mount.drivers.kernel.context import Context, Request
from mount.drivers.kernel.protocol import (
    FATTR_ATIME,
    FATTR_ATIME_NOW,
    FATTR_FH,
    FATTR_GID,
    FATTR_MODE,
    FATTR_MTIME,
    FATTR_MTIME_NOW,
    FATTR_SIZE,
    FATTR_UID,
    FUSE_GETATTR_FH,
    FUSE_SETXATTR_EXT,
    Malformed,
)
from mount.drivers.kernel.replies import FOREVER, NOT_AT_ALL, Validity, attr_out, statfs_out, statx_out
from mount.drivers.kernel.staged_inodes import StagedInode
from mount.drivers.kernel.workers import Kind
from mount.errors import AttributeTooLong, AttributeUnsupported, NoSuchAttribute
from mount.handles import StagedFile
from mount.tree import Attrs, Node, StagedNode
from mount.vfs import Vfs

_NS = 1_000_000_000
_NO_CHANGE = -1
_OF_THE_STORE = frozenset({control.ALIASES, control.MESSAGE, control.METADATA, control.STAGE, control.REOPEN})


class Metadata:
    """See the module docstring."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._vfs = context.vfs
        self._inodes = context.inodes

    # -- attributes ----------------------------------------------------------------------------------------------------

    def getattr(self, request: Request) -> bytes:
        """FUSE_GETATTR."""
        flags, _, number = protocol.fuse_getattr_in.read(request.body)
        return attr_out(*self._attrs(request.nodeid, number if flags & FUSE_GETATTR_FH else None))

    def statx(self, request: Request) -> bytes:
        """FUSE_STATX."""
        flags, _, number, _, _ = protocol.fuse_statx_in.read(request.body)
        return statx_out(*self._attrs(request.nodeid, number if flags & FUSE_GETATTR_FH else None))

    def _attrs(self, nodeid: int, number: int | None) -> tuple[Attrs, Validity]:
        context = self._context
        inode = context.staged_inode(nodeid)
        if inode is not None:
            file = context.files.get(number) if number is not None else None
            attrs = self._vfs.getattr_of(file.handle) if file is not None else context.staged_attrs(inode)
            return attrs, context.staged_validity(inode)
        node = self._inodes.node(nodeid)
        return self._vfs.getattr(node), NOT_AT_ALL if isinstance(node, StagedNode) else FOREVER

    def setattr(self, request: Request) -> bytes:
        """FUSE_SETATTR."""
        context = self._context
        fields = protocol.fuse_setattr_in.read(request.body)
        valid, number = fields[0], fields[2]
        inode = context.staged_inode(request.nodeid)
        if inode is None:
            node = self._inodes.node(request.nodeid)
            _change(fields, _OfNode(self._vfs, node))
            return attr_out(self._vfs.getattr(node), NOT_AT_ALL)
        file = context.files.get(number) if valid & FATTR_FH else None
        self._change_staged(fields, inode, file.handle if file is not None else None)
        return attr_out(context.staged_attrs(inode), context.staged_validity(inode))

    def setattr_waits_for(self, request: Request) -> Kind:
        """The kind of thing that SETATTR may wait for: the store, to cut a file that refers to a version."""
        fields = protocol.fuse_setattr_in.read(request.body)
        valid, number = fields[0], fields[2]
        file = self._context.files.get(number) if valid & FATTR_FH else None
        is_sure = file is not None and isinstance(file.handle, StagedFile) and not file.handle.is_reference
        return Kind.STORE if valid & FATTR_SIZE and not is_sure else Kind.LOCAL

    def _change_staged(self, fields: tuple[int, ...], inode: StagedInode, handle: object) -> None:
        valid, size = fields[0], fields[3]
        if valid & FATTR_SIZE:
            # Not with the tree's lock held: a file that is a reference first gets its bytes from the store.
            if isinstance(handle, StagedFile):
                handle.truncate(size)
            else:
                self._truncate(inode, size)
            valid &= ~FATTR_SIZE
        with inode.anchor.tree.lock:
            self._change_attributes((valid, *fields[1:]), inode)

    def _truncate(self, inode: StagedInode, size: int) -> None:
        opened = self._context.open_staged(inode, os.O_WRONLY)
        try:
            opened.truncate(size)
        finally:
            opened.close()

    def _change_attributes(self, fields: tuple[int, ...], inode: StagedInode) -> None:
        """Through an open file where there is one, which may have lost its name. Call with the tree's lock held."""
        # No file is closed while the lock is held.
        open_one = next(iter(inode.handles), None)
        fd = inode.nameless_fd
        if open_one is not None and inode.anchor.pending is None:
            _change(fields, open_one)
        elif fd is None:
            _change(fields, _OfNode(self._vfs, self._context.checked_node(inode)))
        else:
            again = inode.anchor.tree.reopen(fd, os.O_RDONLY)
            try:
                _change(fields, again)
            finally:
                again.close()

    def statfs(self, request: Request) -> bytes:
        """FUSE_STATFS."""
        return statfs_out(self._vfs.statfs())

    # -- extended attributes -------------------------------------------------------------------------------------------

    def getxattr(self, request: Request) -> bytes:
        """FUSE_GETXATTR; with size 0 the length is asked for."""
        size, _ = protocol.fuse_getxattr_in.read(request.body)
        name = request.name(protocol.fuse_getxattr_in.size)
        if not name.startswith("user."):
            # Capabilities, access lists, labels. Where they are said to be none, ls asks for two of each file: half of
            # the time of ls -lR. Where they are not supported, it asks once for each device.
            raise AttributeUnsupported(name)
        inode = self._context.staged_inode(request.nodeid)
        if inode is not None and inode.name is None:
            raise NoSuchAttribute(name)
        value = self._vfs.getxattr(self._context.node(request.nodeid), name)
        if size == 0:
            return protocol.fuse_getxattr_out.pack(len(value), 0)
        if size < len(value):
            raise AttributeTooLong(f"{name} takes {len(value)} bytes")
        return value

    def setxattr(self, request: Request) -> bytes:
        """FUSE_SETXATTR."""
        name, value = self._named_value(request)
        self._vfs.setxattr(self._context.node(request.nodeid), name, value)
        return b""

    def setxattr_waits_for(self, request: Request) -> Kind:
        """The kind of thing that SETXATTR may wait for: some attributes need the store at once."""
        return Kind.NAMES if self._named_value(request)[0] in _OF_THE_STORE else Kind.LOCAL

    def _named_value(self, request: Request) -> tuple[str, bytes]:
        """The name and the value of SETXATTR. Raises Malformed."""
        extended = self._context.flags & FUSE_SETXATTR_EXT
        skip = protocol.fuse_setxattr_in.size if extended else protocol.FUSE_COMPAT_SETXATTR_IN_SIZE
        body = request.body
        if len(body) < skip:
            raise Malformed(f"setxattr with {len(body)} bytes")
        (size,) = struct.unpack_from("=I", body)
        name, separator, value = bytes(body[skip:]).partition(b"\0")
        if not separator or len(value) != size:
            raise Malformed(f"an attribute of {size} bytes with {len(value)}")
        return os.fsdecode(name), value

    def listxattr(self, request: Request) -> bytes:
        """FUSE_LISTXATTR: the attributes of `control` are not listed."""
        size, _ = protocol.fuse_getxattr_in.read(request.body)
        return b"" if size else protocol.fuse_getxattr_out.pack(0, 0)

    def removexattr(self, request: Request) -> bytes:
        """FUSE_REMOVEXATTR."""
        raise NoSuchAttribute(request.name())


class _OfNode:
    """A node, changed as an open file is."""

    def __init__(self, vfs: Vfs, node: Node) -> None:
        self._vfs = vfs
        self._node = node

    def chmod(self, mode: int) -> None:
        self._vfs.chmod(self._node, mode)

    def chown(self, uid: int, gid: int) -> None:
        self._vfs.chown(self._node, uid, gid)

    def truncate(self, size_bytes: int) -> None:
        self._vfs.truncate(self._node, size_bytes)

    def utime(self, times_ns: tuple[int | None, int | None] | None) -> None:
        self._vfs.utime(self._node, times_ns)


def _change(fields: tuple[int, ...], target: _OfNode | StagedFile) -> None:
    """Make the changes that a fuse_setattr_in asks for. Owner before mode: chown(2) takes the set-id bits away."""
    valid, _, _, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _ = fields
    if valid & FATTR_SIZE:
        target.truncate(size)
    if valid & (FATTR_UID | FATTR_GID):
        target.chown(uid if valid & FATTR_UID else _NO_CHANGE, gid if valid & FATTR_GID else _NO_CHANGE)
    if valid & FATTR_MODE:
        target.chmod(mode)
    if valid & (FATTR_ATIME | FATTR_MTIME):
        target.utime(
            (
                _time_ns(valid & FATTR_ATIME, valid & FATTR_ATIME_NOW, atime, atime_ns),
                _time_ns(valid & FATTR_MTIME, valid & FATTR_MTIME_NOW, mtime, mtime_ns),
            )
        )


def _time_ns(is_given: int, is_now: int, seconds: int, nanoseconds: int) -> int | None:
    if not is_given:
        return None
    if is_now:
        return time.time_ns()
    # The kernel's 64 bits are signed: times before 1970.
    return (seconds - (seconds >> 63 << 64)) * _NS + nanoseconds
