"""Staged files that are only references to the bytes of a version, until they are written to.

``artifactfs stage`` fills staging from a version without moving bytes: each file is made at its full length as one
hole, and an extended attribute on the staging disk (`ATTRIBUTE`) says where its bytes lie in the store. Reading it
reads the store; the first write puts the bytes into the file, on disk, and then takes the attribute away, so a crash or
a loss of power at any moment leaves either a reference or a whole file. An attribute that tells another length than the
file has is void: the file was cut.

Neighbours: `staged_tree` and `handles` ask here before they touch a file's bytes, the committer hands references to a
manager that takes them. Threading: safe from any thread; the locks are leaves and never held while bytes are read. Of
several writers to one reference one puts the bytes in and the others wait.
"""

from __future__ import annotations

import os
import stat
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from artifactfs import durable
from artifactfs.longpaths import make_directories, reach, walk
from artifactfs.managers.base import VersionInfo
from artifactfs.manifest import Entry, EntryKind
from mount.errno_map import is_attribute_too_long, is_no_attribute

if TYPE_CHECKING:
    from mount.cached_content import CachedContent
    from mount.handles import Content, VersionReader
    from mount.tree import LoadedVersion

ATTRIBUTE = "user.artifactfs.reference"
# What a file without bytes takes on disk for its extended attribute, in blocks of 512 bytes.
ATTRIBUTE_BLOCKS = 8
_CHUNK_BYTES = 8 << 20
_SHOWN_CHARS = 256
_MOST_HAD = 4096


class Reference(msgspec.Struct, frozen=True, array_like=True):
    """Which bytes a staged file stands for: a file of a version, and where a store of objects keeps it."""

    collection: str
    artifact: str
    version: str
    path: str
    size_bytes: int
    algorithm: str
    digest: str | None
    object: str | None
    offset: int

    @classmethod
    def to_entry(cls, info: VersionInfo, entry: Entry, algorithm: str) -> Reference:
        """A reference to a file of a version."""
        # Where an object is named, the path is for messages only; a long one would not fit into the attribute.
        path = entry.path if entry.object is None else entry.path[-_SHOWN_CHARS:]
        return cls(
            info.collection,
            info.artifact,
            info.version,
            path,
            entry.size_bytes,
            algorithm,
            entry.digest,
            entry.object,
            entry.offset,
        )

    @property
    def entry(self) -> Entry:
        """The file in its version; mode and times are those of the staged file."""
        return Entry(self.path, EntryKind.FILE, self.size_bytes, self.digest, self.object, self.offset)

    def attach(self, fd: int) -> None:
        """Make an empty file stand for these bytes. Raises OSError where the disk keeps no such attributes."""
        # In this order the attribute is void until the file has its length; the other way it would be full of zeros.
        value = msgspec.msgpack.encode(self)
        _as_owner(fd, lambda: os.setxattr(fd, ATTRIBUTE, value))
        os.ftruncate(fd, self.size_bytes)


def _as_owner(fd: int, change: Callable[[], None]) -> None:
    """Change an attribute of an open file of ours, also of one that its owner may not write to. Raises OSError.

    The system asks for the permission to write, not for a descriptor that is open for writing.
    """
    try:
        change()
    except PermissionError:
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        if mode & stat.S_IWUSR:
            raise
        os.fchmod(fd, mode | stat.S_IWUSR)
        try:
            change()
        finally:
            os.fchmod(fd, mode)


def _attribute(where: int | str) -> Reference | None:
    """The reference in the attribute of a file, void or not; None where it has none. Raises OSError."""
    try:
        raw = os.getxattr(where, ATTRIBUTE, follow_symlinks=isinstance(where, int))
    except OSError as error:
        if is_no_attribute(error):
            return None
        raise
    return msgspec.msgpack.decode(raw, type=Reference)


def reference_of(where: int | str, size_bytes: int) -> Reference | None:
    """The reference of a file of that length; None for a file with bytes of its own. Raises OSError."""
    reference = _attribute(where)
    return reference if reference is not None and reference.size_bytes == size_bytes else None


def referred_entry(path: str) -> Entry | None:
    """The entry that a file on disk stands for; None for a file with bytes of its own. Raises OSError."""
    with reach(path) as place:
        reference = reference_of(place, os.lstat(place).st_size)
    return None if reference is None else reference.entry


def remove_attribute(fd: int) -> None:
    """Make the open file refer to nothing. Raises OSError."""
    try:
        _as_owner(fd, lambda: os.removexattr(fd, ATTRIBUTE))
    except OSError as error:
        if not is_no_attribute(error):
            raise


class OpenReference:
    """The bytes behind one referring file, shared by all its open handles. `resolved` once the file has its own."""

    def __init__(self, reference: Reference, open_content: Callable[[Reference], Content | CachedContent]) -> None:
        self.reference = reference
        self.resolved = False
        self._open_content = open_content
        self._lock = threading.Lock()
        self._content: Content | CachedContent | None = None
        self._resolving: Future[None] | None = None

    def read(self, size_bytes: int, offset: int) -> bytes:
        """At most `size_bytes` from `offset` of the version's file. Raises IntegrityError, StoreUnreachable."""
        with self._lock:
            content = self._content
        if content is None:
            content = self._open_content(self.reference)
            with self._lock:
                if self._content is None:
                    self._content = content
                    weakref.finalize(self, content.close)
                else:
                    content.close()
                    content = self._content
        return content.read(size_bytes, offset)

    def resolve(self, fd: int) -> None:
        """Put the bytes into the file open as `fd`, unless they are there. Raises as `read`, OSError."""
        with self._lock:
            if self.resolved:
                return
            resolving = self._resolving
            if resolving is None:
                mine = self._resolving = Future()
        if resolving is not None:
            resolving.result()
            return
        try:
            self._fill(fd)
            # The attribute vouches for the bytes until they are on disk.
            os.fdatasync(fd)
            self.forget(fd)
            mine.set_result(None)
        except BaseException as error:
            with self._lock:
                self._resolving = None
            mine.set_exception(error)
            raise

    def _fill(self, fd: int) -> None:
        times = os.fstat(fd)
        for offset in range(0, self.reference.size_bytes, _CHUNK_BYTES):
            durable.write_all(fd, self.read(_CHUNK_BYTES, offset), offset)
        os.utime(fd, ns=(times.st_atime_ns, times.st_mtime_ns))

    def forget(self, fd: int) -> None:
        """The file has bytes of its own from here on. Raises OSError."""
        if not self.resolved:
            remove_attribute(fd)
            self.resolved = True


class References:
    """The references of one staged tree, found by the files that hold them."""

    def __init__(self, reader: VersionReader) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        # By device and inode: overlayfs may show files of two layers with one number.
        self._open: weakref.WeakValueDictionary[tuple[int, int], OpenReference] = weakref.WeakValueDictionary()
        # Which files have been references; None when too many have been to remember them.
        self._had: set[tuple[int, int]] | None = set()

    def find(self, fd: int) -> OpenReference | None:
        """What the open file refers to; None for one with bytes of its own. Raises OSError."""
        found = os.fstat(fd)
        reference = _attribute(fd)
        if reference is None:
            return None
        if reference.size_bytes != found.st_size:
            # Void after a crash in the middle of a truncate; it must not come true again when the file grows.
            remove_attribute(fd)
            return None
        inode = found.st_dev, found.st_ino
        with self._lock:
            if self._had is not None:
                self._had.add(inode)
                if len(self._had) > _MOST_HAD:
                    self._had = None
            shared = self._open.get(inode)
            if shared is None or shared.reference != reference:
                shared = self._open[inode] = OpenReference(reference, self._open_content)
            return shared

    def had(self, fd: int) -> bool:
        """Tell whether the open file may have been one: that it is none any more is on disk only after fsync(2).

        Where an artifact has had thousands of references it is said of all its files.
        """
        found = os.fstat(fd)
        with self._lock:
            return self._had is None or (found.st_dev, found.st_ino) in self._had

    def renew(self, fd: int) -> OpenReference | None:
        """As `find`, for a file that was made to refer just now: what was known of it before is over."""
        found = os.fstat(fd)
        with self._lock:
            self._open.pop((found.st_dev, found.st_ino), None)
        return self.find(fd)

    def resolve_all(self, root: Path) -> None:
        """Give every referring file below `root` bytes of its own. Raises what reading them raises, OSError."""
        for directory, _, names in walk(str(root)):
            with reach(directory) as near:
                for name in names:
                    self.resolve(f"{near}/{name}")

    def resolve(self, path: str) -> None:
        """Give one file bytes of its own, if it is one that refers. Raises as `resolve_all`, FileNotFoundError."""
        mode = os.lstat(path).st_mode
        if not stat.S_ISREG(mode) or referred_entry(path) is None:
            return
        # A file that may not be written to is opened all the same: it is ours, in a sealed tree.
        os.chmod(path, mode | 0o200)
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            reference = self.find(fd)
            if reference is not None:
                reference.resolve(fd)
            os.fchmod(fd, mode & 0o7777)
        finally:
            os.close(fd)

    def fill(self, root: Path, loaded: LoadedVersion) -> None:
        """Make a directory tree of a version in which every file refers to its bytes. Raises OSError, FileExistsError.

        A file whose reference does not fit into an attribute gets its bytes; raises what reading them raises.
        """
        root.mkdir()
        made = {""}
        directories: list[Entry] = []
        for entry in loaded.manifest:
            if entry.kind is EntryKind.DIRECTORY:
                make_directories(str(root), entry.path, made)
                directories.append(entry)
                continue
            make_directories(str(root), entry.path.rpartition("/")[0], made)
            with reach(f"{root}/{entry.path}") as path:
                if entry.kind is EntryKind.SYMLINK:
                    os.symlink(entry.target or "", path)
                    os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)
                else:
                    self._make_referring(path, entry, loaded)
        for entry in reversed(directories):
            with reach(f"{root}/{entry.path}") as path:
                os.chmod(path, entry.mode)
                os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))

    def _make_referring(self, path: str, entry: Entry, loaded: LoadedVersion) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if entry.size_bytes:
                reference = Reference.to_entry(loaded.info, entry, loaded.manifest.algorithm)
                try:
                    reference.attach(fd)
                except OSError as error:
                    if not is_attribute_too_long(error):
                        raise
                    OpenReference(reference, self._open_content).resolve(fd)
            os.fchmod(fd, entry.mode)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _open_content(self, reference: Reference) -> Content | CachedContent:
        info = VersionInfo(reference.collection, reference.artifact, reference.version, 0, 0, 0)
        return self._reader.open_content(info, reference.entry, reference.algorithm)
