"""Open files: of versions (`VersionFile`) and of staging (`StagedFile`).

Threading: a handle may be used from several threads at once; reads and writes carry their offset. The lock of
`VersionReader` is a leaf, never held while opening or reading a file.
"""

from __future__ import annotations

import functools
import os
import resource
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from artifactfs import durable
from artifactfs.beneath import NotRegular
from artifactfs.content.cache import ContentCache
from artifactfs.content.inmemory import FEW_BYTES, read_in_memory
from artifactfs.content.integrity import check_digest
from artifactfs.content.metadata import place_of
from artifactfs.content.reader import CHECKED_BYTES, ContentReader
from artifactfs.errors import IntegrityError
from artifactfs.managers.base import ArtifactManager, LocalRange, VersionInfo
from artifactfs.manifest import Entry
from mount import disk
from mount.cached_content import CachedContent
from mount.control import Cache
from mount.descriptors import CLOSED, Descriptor, DescriptorCache, OwnedFd
from mount.errno_map import is_other_disk
from mount.errors import NoSuchOffset, ReadOnly
from mount.references import Reference
from mount.settings import MountSettings
from mount.tree import VersionNode

if TYPE_CHECKING:
    from mount.staged_tree import StagedTree

# As much as one request copies, so that it does not take long; the program asks again for the rest.
COPY_BYTES = 16 << 20
# Less is copied sooner than it is mapped.
VIEWED_BYTES = 64 << 10
# About 200 bytes each.
_REMEMBERED_CHECKS = 250_000
IS_ROOT = os.geteuid() == 0


class VersionReader:
    """Opens the files of versions: in place for a local store, through the content cache otherwise."""

    def __init__(self, manager: ArtifactManager, settings: MountSettings) -> None:
        """Raises AccessDenied when the cache that the store needs cannot be made."""
        self.manager = manager
        self.cache = ContentCache(settings.cache_dir, settings.cache_size_bytes, settings.min_free_bytes)
        if manager.local_root is None:
            self.cache.ensure_created()
        place = place_of(settings.url, settings.options)
        self.contents = ContentReader(manager, self.cache, place, read_timeout_s=settings.read_timeout_s)
        soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.descriptors = DescriptorCache(max(16, min(1024, soft_limit // 4)), manager.open_local)
        self._checked: set[int] = set()
        self._checked_lock = threading.Lock()

    def open(self, node: VersionNode, entry: Entry) -> VersionFile:
        """Open the file of a node. Raises IntegrityError when its bytes are missing."""
        version = node.version
        return VersionFile(node, self._open(version.info, entry, version.manifest.algorithm, node))

    def open_content(self, info: VersionInfo, entry: Entry, algorithm: str) -> Content | CachedContent:
        """Open the bytes of an entry; `algorithm` is that of its digest. Raises IntegrityError when there are none."""
        return self._open(info, entry, algorithm, None)

    def _open(
        self, info: VersionInfo, entry: Entry, algorithm: str, node: VersionNode | None
    ) -> Content | CachedContent:
        where = self.manager.local_range(info, entry)
        if where is None:
            place = (node.version.manifest, node.position) if node is not None else (None, None)
            return CachedContent(info, algorithm, self.contents.open(info, entry, algorithm, *place))
        try:
            descriptor = self.descriptors.acquire(where.path)
        except FileNotFoundError as error:
            raise IntegrityError(f"{_label(info, entry)} is damaged: its object is missing") from error
        except NotRegular as error:
            raise IntegrityError(f"{_label(info, entry)} is damaged: its object {error.strerror}") from error
        return Content(self, info, entry, algorithm, where, descriptor)

    def close(self) -> None:
        """Let go of open descriptors, and fetch nothing more."""
        self.contents.close()
        self.descriptors.close()

    def describe_cache(self) -> Cache | None:
        """For the control surface; None for a local store."""
        if self.manager.local_root is not None:
            return None
        cache, fetcher = self.cache, self.contents.fetcher
        where = str(cache.directory)
        return Cache(where, cache.size_bytes, cache.used_bytes, fetcher.fetched_bytes, fetcher.requests)

    def is_checked(self, digest: str, where: LocalRange) -> bool:
        """Tell whether `note_checked` was called for that content in that place."""
        with self._checked_lock:
            return hash((digest, where)) in self._checked

    def note_checked(self, digest: str, where: LocalRange) -> None:
        """Remember that the bytes in that place were found to have that digest."""
        with self._checked_lock:
            if len(self._checked) >= _REMEMBERED_CHECKS:
                # Checked again when they are read again. To keep the latest would cost as much as a check.
                self._checked.clear()
            self._checked.add(hash((digest, where)))


def _label(info: VersionInfo, entry: Entry) -> str:
    return f"{info.collection}/{info.artifact}@{info.version}:{entry.path}"


class Content:
    """The open bytes of one file of a version in a local store, immutable."""

    __slots__ = ("_algorithm", "_descriptor", "_entry", "_info", "_reader", "_where")

    def __init__(
        self,
        reader: VersionReader,
        info: VersionInfo,
        entry: Entry,
        algorithm: str,
        where: LocalRange,
        descriptor: Descriptor,
    ) -> None:
        self._reader = reader
        self._info = info
        self._entry = entry
        self._algorithm = algorithm
        self._where = where
        self._descriptor: Descriptor | None = descriptor

    def read(self, size_bytes: int, offset: int) -> bytes:
        """At most `size_bytes` from `offset`; b"" past the end. Raises IntegrityError rather than give wrong bytes."""
        entry = self._entry
        size_bytes = min(size_bytes, entry.size_bytes - offset)
        if size_bytes <= 0:
            return b""
        where, fd = self._where, self._fd()
        digest = entry.digest
        if digest is None or entry.size_bytes >= CHECKED_BYTES or self._reader.is_checked(digest, where):
            return self._read_in_place(fd, size_bytes, where.offset + offset)
        whole = self._read_in_place(fd, entry.size_bytes, where.offset)
        check_digest(whole, digest, self._algorithm, _label(self._info, entry))
        self._reader.note_checked(digest, where)
        return whole[offset : offset + size_bytes]

    def read_at_once(self, size_bytes: int, offset: int) -> bytes | bytearray | None:
        """As `read`, of a small file or a few bytes; None where a disk has to be waited for. Raises IntegrityError."""
        entry, where = self._entry, self._where
        size_bytes = min(size_bytes, entry.size_bytes - offset)
        if size_bytes <= 0:
            return b""
        fd = self._fd()
        if entry.size_bytes >= CHECKED_BYTES:
            few = size_bytes <= FEW_BYTES
            return read_in_memory(fd, size_bytes, where.offset + offset) if few else None
        whole = read_in_memory(fd, entry.size_bytes, where.offset)
        if whole is None:
            return None
        if entry.digest is not None and not self._reader.is_checked(entry.digest, where):
            check_digest(whole, entry.digest, self._algorithm, _label(self._info, entry))
            self._reader.note_checked(entry.digest, where)
        return whole if size_bytes == entry.size_bytes else whole[offset : offset + size_bytes]

    def in_memory(self, size_bytes: int, offset: int, _room: memoryview) -> memoryview | None:
        """The bytes that `read` would give, mapped into memory: to be handed to the kernel, not touched.

        To touch them is to be killed (SIGBUS) when the file is cut meanwhile. None where `read` has to be asked: for
        small files, and for whatever is wrong.
        """
        if self._entry.size_bytes < CHECKED_BYTES:
            return None
        descriptor = self._descriptor
        size_bytes = min(size_bytes, self._entry.size_bytes - offset)
        if descriptor is None or size_bytes < VIEWED_BYTES:
            return None
        return descriptor.view(size_bytes, self._where.offset + offset)

    @property
    def size_bytes(self) -> int:
        """The length of the file."""
        return self._entry.size_bytes

    def is_cached(self, _size_bytes: int, _offset: int) -> bool:
        """Not: they lie in the store itself."""
        return False

    def to_reference(self) -> Reference:
        """What lets a staged file stand for these bytes."""
        return Reference.to_entry(self._info, self._entry, self._algorithm)

    def copy_to(self, fd: int, offset: int, fd_offset: int, size_bytes: int) -> int:
        """Put bytes into a file on the same disk, in the kernel; 0 where they do not lie there. Raises OSError."""
        try:
            return os.copy_file_range(self._fd(), fd, size_bytes, self._where.offset + offset, fd_offset)
        except OSError as error:
            if is_other_disk(error):
                return 0
            raise

    def whole_file(self) -> OwnedFd | None:
        """A descriptor of a local file with exactly these bytes; None where there is none.

        Raises IntegrityError when its bytes are wrong, as far as `read` would tell.
        """
        fd, entry = self._fd(), self._entry
        if self._where.offset or os.fstat(fd).st_size != entry.size_bytes:
            return None
        if entry.size_bytes < CHECKED_BYTES:
            self.read(1, 0)
        return fd

    def _read_in_place(self, fd: int, size_bytes: int, start: int) -> bytes:
        data = os.pread(fd, size_bytes, start)
        while len(data) < size_bytes:
            more = os.pread(fd, size_bytes - len(data), start + len(data))
            if not more:
                raise IntegrityError(f"{_label(self._info, self._entry)} is damaged: its object is too short")
            data += more
        return data

    def _fd(self) -> OwnedFd:
        """The open object. `CLOSED` for who reads on after a program that was killed has closed the file."""
        descriptor = self._descriptor
        return CLOSED if descriptor is None else descriptor.fd

    def close(self) -> None:
        """Let go of the descriptor."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self._reader.descriptors.release(descriptor)


class VersionFile:
    """An open file of a version. It stays on the version it was opened on, whatever is committed or deleted later."""

    __slots__ = ("_content", "_node")

    def __init__(self, node: VersionNode, content: Content | CachedContent) -> None:
        self._node = node
        self._content = content

    @property
    def node(self) -> VersionNode:
        """Where it lies."""
        return self._node

    @property
    def content(self) -> Content | CachedContent:
        """Its bytes."""
        return self._content

    def read(self, size_bytes: int, offset: int) -> bytes:
        """At most `size_bytes` from `offset`; b"" past the end. Raises IntegrityError rather than give wrong bytes."""
        return self.content.read(size_bytes, offset)

    def seek(self, offset: int, whence: int) -> int:
        """lseek(2) with SEEK_DATA or SEEK_HOLE: all of it counts as data. Raises NoSuchOffset past the end."""
        return _seek_in_data(offset, whence, self.content.size_bytes)

    def close(self) -> None:
        """Let go of the bytes."""
        self.content.close()


_Method = TypeVar("_Method", bound=Callable[..., Any])


def _telling(method: _Method) -> _Method:
    """A method of `StagedFile` by which a program changes it: what it is told when that fails, the tree is told too."""

    @functools.wraps(method)
    def telling(self: StagedFile, *args: Any) -> Any:
        try:
            return method(self, *args)
        except Exception as error:
            self.tree.told(error)
            raise

    return cast("_Method", telling)


class StagedFile:
    """An open file of a staged or sealed tree. What `write` has returned for survives the end of the daemon."""

    __slots__ = ("fd", "reference", "tree", "writable")

    def __init__(self, tree: StagedTree, fd: OwnedFd, writable: bool, *, is_new: bool = False) -> None:
        """`is_new`: it was made just now, so it has no attribute that says that it is a reference."""
        self.tree = tree
        self.fd = fd
        self.writable = writable
        self.reference = None if is_new else tree.references.find(fd)

    @property
    def is_reference(self) -> bool:
        """Tell whether the file stands for bytes of a version."""
        return self.reference is not None and not self.reference.resolved

    def read(self, size_bytes: int, offset: int) -> bytes:
        """At most `size_bytes` from `offset`; fewer only at the end of the file."""
        if self.reference is not None and not self.reference.resolved:
            return self.reference.read(size_bytes, offset)
        data = os.pread(self.fd, size_bytes, offset)
        while 0 < len(data) < size_bytes:
            more = os.pread(self.fd, size_bytes - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def write(self, data: Any, offset: int) -> int:
        """Write all of `data` (bytes-like) at `offset`; returns its length. Raises OSError (ENOSPC …)."""
        view = memoryview(data)
        # What `_telling` does, without its call: no other request comes as often.
        try:
            self.tree.touch()
            if self.reference is not None:
                self.reference.resolve(self.fd)
            self.tree.room.take(len(view))
            durable.write_all(self.fd, view, offset)
        except Exception as error:
            self.tree.told(error)
            raise
        return len(view)

    @_telling
    def truncate(self, size_bytes: int) -> None:
        """Cut or extend the file."""
        self.tree.touch()
        if size_bytes:
            self._resolve()
        os.ftruncate(self.fd, size_bytes)
        self.forget_reference()

    def seek(self, offset: int, whence: int) -> int:
        """lseek(2) with SEEK_DATA or SEEK_HOLE. Raises NoSuchOffset, OSError."""
        if self.reference is not None and not self.reference.resolved:
            return _seek_in_data(offset, whence, self.reference.reference.size_bytes)
        return os.lseek(self.fd, offset, whence)

    @_telling
    def copy_from(self, source: Handle, source_offset: int, offset: int, size_bytes: int) -> int:
        """copy_file_range(2): returns how many bytes were copied, 0 at the end of `source`.

        A version's whole file copied into an empty one becomes a reference to it: no bytes move.
        Raises as `read` and `write`.
        """
        self.tree.touch()
        content = source.content if isinstance(source, VersionFile) else None
        if content is not None:
            size_bytes = min(size_bytes, max(0, content.size_bytes - source_offset))
            whole = source_offset == offset == 0 and size_bytes == content.size_bytes
            if whole and size_bytes and self.tree.refer(self, content.to_reference()):
                return size_bytes
        size_bytes = min(size_bytes, COPY_BYTES)
        if content is not None and size_bytes:
            self._resolve()
            self.tree.room.take(size_bytes)
            done = content.copy_to(self.fd, source_offset, offset, size_bytes)
            if done:
                return done
        return self.write(source.read(size_bytes, source_offset), offset)

    @_telling
    def fallocate(self, mode: int, offset: int, size_bytes: int) -> None:
        """fallocate(2). Raises OSError."""
        self.tree.touch()
        self._resolve()
        if not disk.gives_room(mode):
            self.tree.room.take(size_bytes)
        disk.fallocate(self.fd, mode, offset, size_bytes)

    def chmod(self, mode: int) -> None:
        """fchmod(2). Raises ReadOnly, OSError."""
        with self.tree.lock:
            self._change_attributes()
            os.fchmod(self.fd, mode)

    def chown(self, uid: int, gid: int) -> None:
        """fchown(2), with the arguments of `StagedTree.chown`. Raises ReadOnly, OSError."""
        with self.tree.lock:
            self._change_attributes()
            if IS_ROOT:
                os.fchown(self.fd, uid, gid)

    def utime(self, times_ns: tuple[int | None, int | None] | None) -> None:
        """futimens(2), with the arguments of `StagedTree.utime`. Raises ReadOnly, OSError."""
        with self.tree.lock:
            self._change_attributes()
            set_times(self.fd, times_ns)

    def _change_attributes(self) -> None:
        """Note a change, with the tree's lock held. Raises ReadOnly: the file may be an object of the store by now."""
        if self.tree.sealed and os.fstat(self.fd).st_nlink:
            raise ReadOnly("the file has been sealed for its commit")
        self.tree.touch()

    def _resolve(self) -> None:
        """Before a change: put the bytes that are only referred to into the file. Raises what reading them raises."""
        if self.reference is not None:
            self.reference.resolve(self.fd)

    def forget_reference(self) -> None:
        """After the file was cut to nothing: the bytes it referred to are not its own any more."""
        if self.reference is not None:
            self.reference.forget(self.fd)

    @_telling
    def fsync(self, data_only: bool) -> None:
        """Make the file durable. Raises OSError."""
        try:
            # fdatasync(2) may leave behind that a file stopped being a reference; see `References.had`.
            (os.fdatasync if data_only and not self.tree.references.had(self.fd) else os.fsync)(self.fd)
        except OSError as error:
            self.tree.note_lost(error)
            raise

    @_telling
    def flush(self) -> None:
        """A program closes the file: on a disk that tells late, raise what it says of what was written. OSError."""
        if not self.writable:
            return
        self.tree.closes()
        if self.tree.room.tells_late:
            os.close(os.dup(self.fd))

    def close(self) -> None:
        """Close; the tree learns that a writer is gone."""
        self.tree.forget_handle(self)


Handle = VersionFile | StagedFile


def _seek_in_data(offset: int, whence: int, size_bytes: int) -> int:
    """Where data or the next hole is in a file that is all data."""
    if offset < 0 or offset >= size_bytes:
        raise NoSuchOffset(f"offset {offset} is past the end")
    return size_bytes if whence == os.SEEK_HOLE else offset


def set_times(
    where: int | str, times_ns: tuple[int | None, int | None] | None, directory: OwnedFd | None = None
) -> None:
    """utimensat(2) on a descriptor or a name in a directory: (atime, mtime) in nanoseconds, None in it for no change.

    Without the pair both become the current time. Raises OSError.
    """
    follow = isinstance(where, int)
    if times_ns is None:
        os.utime(where, dir_fd=directory, follow_symlinks=follow)
        return
    before = os.stat(where, dir_fd=directory, follow_symlinks=follow)
    atime_ns = before.st_atime_ns if times_ns[0] is None else times_ns[0]
    mtime_ns = before.st_mtime_ns if times_ns[1] is None else times_ns[1]
    os.utime(where, ns=(atime_ns, mtime_ns), dir_fd=directory, follow_symlinks=follow)
