"""Requests about open files.

Threading: called from any worker; several at once on one file. Data of WRITE is taken from the worker's buffer
without a copy.
"""

from __future__ import annotations

import os
import stat
from typing import Any

from mount.asking import ASKING, WRITE_BACK
from mount.drivers.kernel import protocol
from mount.drivers.kernel.context import Context, NeverAskAgain, OpenFile, Request
from mount.drivers.kernel.protocol import (
    FOPEN_KEEP_CACHE,
    FOPEN_NOFLUSH,
    FOPEN_PASSTHROUGH,
    FUSE_FSYNC_FDATASYNC,
    FUSE_OPEN_KILL_SUIDGID,
    FUSE_WRITE_CACHE,
    FUSE_WRITE_KILL_SUIDGID,
    Malformed,
)
from mount.drivers.kernel.reading import Reading
from mount.drivers.kernel.staged_inodes import StagedInode
from mount.drivers.kernel.workers import Kind
from mount.handles import Handle, StagedFile, VersionFile
from mount.small_files import SmallFile
from mount.tree import StagedNode

_open_in = protocol.fuse_open_in
_read_in = protocol.fuse_read_in
_write_in = protocol.fuse_write_in
_open_out = protocol.fuse_open_out.pack
_write_out = protocol.fuse_write_out.pack

# More than any program reads or writes at once, but no more than a reply can tell.
_MOST_COPIED = 0x7FFFF000


class Files:
    """See the module docstring."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._vfs = context.vfs
        area = context.vfs.area
        self._tells_late = area is not None and area.room.tells_late
        self._inodes = context.inodes

    # -- opening and closing -------------------------------------------------------------------------------------------

    def open(self, request: Request) -> bytes:
        """FUSE_OPEN."""
        flags, open_flags = _open_in.read(request.body)
        inode = self._context.staged_inode(request.nodeid)
        if inode is None:
            return self._open_version(request, flags)
        staged = self._open_staged(inode, flags)
        if open_flags & FUSE_OPEN_KILL_SUIDGID:
            drop_set_ids(staged)
        return self._opened(staged, inode)

    def _open_version(self, request: Request, flags: int) -> bytes:
        context, nodeid = self._context, request.nodeid
        if context.reading is Reading.UNOPENED:
            raise NeverAskAgain
        handle: Handle | None = None
        if not flags & (os.O_ACCMODE | os.O_TRUNC):
            handle = context.prefill.open(nodeid, flags, request.room)
        if handle is not None:
            backing = None
        else:
            handle = self._vfs.open(self._inodes.node(nodeid), flags)
            assert isinstance(handle, VersionFile)
            backing = context.lending.enter(nodeid, handle) if context.reading is Reading.PASSTHROUGH else None
        context.prefill.opened(nodeid)
        number = self._add(handle, None)
        if backing is not None:
            return _open_out(number, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, backing)
        return _open_out(number, FOPEN_KEEP_CACHE | FOPEN_NOFLUSH, 0)

    def _open_staged(self, inode: StagedInode, flags: int) -> StagedFile:
        handle = self._context.open_staged(inode, flags)
        if handle.writable:
            # What the kernel was told before may be believed no longer: mapped memory changes a file unseen.
            self._context.forget_attrs(inode)
        return handle

    def create(self, request: Request) -> bytes:
        """FUSE_CREATE: the node is the directory."""
        context = self._context
        flags, mode, _, open_flags = protocol.fuse_create_in.read(request.body)
        name = request.name(protocol.fuse_create_in.size)
        parent = self._inodes.node(request.nodeid)
        if not isinstance(parent, StagedNode):
            self._vfs.create(parent, name, flags, mode, request.caller)
            raise Malformed("a file outside staging")
        with parent.tree.lock:
            spot = context.spot(request.nodeid)
            _, handle = self._vfs.create(spot.node, name, flags, mode, request.caller)
            try:
                inode, entry = context.staged_entry(spot, name, open_for_writing=handle.writable)
            except BaseException:
                handle.close()
                raise
        if open_flags & FUSE_OPEN_KILL_SUIDGID:
            drop_set_ids(handle)
        return entry + self._opened(handle, inode)

    def _opened(self, handle: StagedFile, inode: StagedInode) -> bytes:
        """What is in the page cache of a staged file stays true too: every change of it goes through the kernel."""
        flags = FOPEN_KEEP_CACHE if handle.writable else FOPEN_KEEP_CACHE | FOPEN_NOFLUSH
        self._inodes.staged.opened(inode, handle)
        return _open_out(self._add(handle, inode), flags, 0)

    def _add(self, handle: Handle, inode: StagedInode | None) -> int:
        number = next(self._context.numbers)
        self._context.files[number] = OpenFile(handle, inode)
        return number

    def flush(self, request: Request) -> bytes:
        """FUSE_FLUSH, at every close(2). Raises OSError: a network disk may say only now that it kept nothing."""
        number, *_ = protocol.fuse_flush_in.read(request.body)
        file = self._context.files.get(number)
        if file is not None and isinstance(file.handle, StagedFile):
            file.handle.flush()
        return b""

    def flush_at_once(self, request: Request) -> bytes | None:
        """FUSE_FLUSH where no disk has to be asked: that it is answered tells the program that we live."""
        if self._context.settings.read_only:
            raise NeverAskAgain
        if self._tells_late:
            return None
        number, *_ = protocol.fuse_flush_in.read(request.body)
        file = self._context.files.get(number)
        if file is not None and isinstance(file.handle, StagedFile):
            file.handle.tree.closes()
        return b""

    def release(self, request: Request) -> bytes:
        """FUSE_RELEASE."""
        number, *_ = protocol.fuse_release_in.read(request.body)
        file = self._context.files.pop(number, None)
        if file is not None:
            if file.inode is None:
                self._context.prefill.released(request.nodeid)
                if self._context.reading is Reading.PASSTHROUGH and not isinstance(file.handle, SmallFile):
                    self._context.lending.leave(request.nodeid)
            self._context.close_file(file)
        return b""

    # -- bytes ---------------------------------------------------------------------------------------------------------

    def read(self, request: Request) -> Any:
        """FUSE_READ."""
        number, offset, size, *_ = _read_in.read(request.body)
        handle = self._context.handle(number, request.nodeid)
        if isinstance(handle, VersionFile):
            # Half of the cost of a large read is to copy the bytes here and there again.
            view = handle.content.in_memory(size, offset, request.room)
            if view is not None:
                return view
        return handle.read(size, offset)

    def read_at_once(self, request: Request) -> bytes | bytearray | memoryview | None:
        """FUSE_READ of a small file or few bytes, local or cached; None where something has to be waited for."""
        number, offset, size, *_ = _read_in.read(request.body)
        context = self._context
        if number == 0 and context.reading is Reading.UNOPENED:
            return context.unopened.read_at_once(request.nodeid, size, offset, request.room)
        handle = context.file(number).handle
        if offset == 0 and isinstance(handle, SmallFile) and handle.size_bytes <= size:
            return handle.read_whole(request.room)
        return handle.content.read_at_once(size, offset) if isinstance(handle, VersionFile) else None

    def bytes_wait_for(self, request: Request) -> Kind:
        """The kind of thing that READ, WRITE or FALLOCATE may wait for: the store, of a version or a reference."""
        file = self._context.files.get(protocol.handle_of(request.body))
        needs_store = file is None or not isinstance(file.handle, StagedFile) or file.handle.is_reference
        return Kind.STORE if needs_store else Kind.LOCAL

    def are_bytes_here(self, request: Request) -> bool:
        """Tell whether READ finds all it asks for in the content cache. Raises OSError, ArtifactError."""
        number, offset, size, *_ = _read_in.read(request.body)
        handle = self._context.handle(number, request.nodeid)
        return isinstance(handle, VersionFile) and handle.content.is_cached(size, offset)

    def write(self, request: Request) -> bytes:
        """FUSE_WRITE. Raises OSError (ENOSPC …)."""
        number, offset, size, flags, *_ = _write_in.read(request.body)
        data = request.body[_write_in.size :]
        if len(data) != size:
            raise Malformed(f"{len(data)} bytes to write, {size} were announced")
        handle = self._context.staged_file(number)
        if flags & FUSE_WRITE_CACHE:
            ASKING.thread = WRITE_BACK
        if flags & FUSE_WRITE_KILL_SUIDGID:
            drop_set_ids(handle)
        return _write_out(handle.write(data, offset), 0)

    def fsync(self, request: Request) -> bytes:
        """FUSE_FSYNC. Raises OSError."""
        number, flags, _ = protocol.fuse_fsync_in.read(request.body)
        file = self._context.files.get(number)
        if file is not None and isinstance(file.handle, StagedFile):
            file.handle.fsync(bool(flags & FUSE_FSYNC_FDATASYNC))
        return b""

    def fallocate(self, request: Request) -> bytes:
        """FUSE_FALLOCATE. Raises OSError."""
        number, offset, size, mode, _ = protocol.fuse_fallocate_in.read(request.body)
        self._context.staged_file(number).fallocate(mode, offset, size)
        return b""

    def lseek(self, request: Request) -> bytes:
        """FUSE_LSEEK: SEEK_DATA and SEEK_HOLE, the kernel does the others. Raises NoSuchOffset."""
        number, offset, whence, _ = protocol.fuse_lseek_in.read(request.body)
        return protocol.fuse_lseek_out.pack(self._context.handle(number, request.nodeid).seek(offset, whence))

    def copy_file_range(self, request: Request) -> bytes:
        """FUSE_COPY_FILE_RANGE."""
        return _write_out(self._copy(request), 0)

    def copy_file_range_64(self, request: Request) -> bytes:
        """FUSE_COPY_FILE_RANGE_64."""
        return protocol.fuse_copy_file_range_out.pack(self._copy(request))

    def _copy(self, request: Request) -> int:
        number, offset, _, to, to_offset, size, _ = protocol.fuse_copy_file_range_in.read(request.body)
        source = self._context.file(number).handle
        return self._context.staged_file(to).copy_from(source, offset, to_offset, min(size, _MOST_COPIED))


def drop_set_ids(handle: StagedFile) -> None:
    """As a local disk does when somebody without CAP_FSETID writes (FUSE_HANDLE_KILLPRIV_V2). Raises OSError."""
    mode = stat.S_IMODE(os.fstat(handle.fd).st_mode)
    kept = mode & ~stat.S_ISUID
    if mode & stat.S_IXGRP:
        kept &= ~stat.S_ISGID
    if kept != mode:
        handle.chmod(kept)
