"""A store on this machine's disk, with plain system calls.

An object is written to a temporary file beside it and renamed, so nobody sees half of one. A name is created
exclusively by linking a complete, synced temporary file to it: ``link`` fails where the name exists, and has done so
atomically on every file system for as long as there is NFS. A crash leaves at most temporary names.

Objects put are durable after `flush`. Before that, a power cut may leave an object empty under its final name, so
`put` never trusts an existing object that it has not compared.

Threading: any thread; the lock guards the set of directories known to be on disk and is not held across I/O.
"""

# ruff: noqa: D102 - ObjectStore documents the methods

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable, Iterator, Sequence

from cachetools import LRUCache

from artifactfs.durable import sync_directory, sync_file, sync_filesystem
from artifactfs.errors import ArtifactError, UnsafeStore
from artifactfs.objects.disk import (
    READ_ONLY,
    TemporaryName,
    copy_new,
    has_digest,
    holds,
    link_new,
    make_durable_directories,
    read_all,
    same_inode,
    touch,
    write_new,
)
from artifactfs.objects.hashing import HashedFile, changed, stored_digest
from artifactfs.objects.layout import TEMPORARY_PREFIX
from artifactfs.objects.store import Buffer, Listing, ObjectStore, Outcome, StoredFile, translate

# Above this many objects one syncfs costs less than a fsync each (10,000 on btrfs: 1 s against 19.5 s).
SYNC_EACH_LIMIT = 32
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})


class LocalStore(ObjectStore):
    """A directory as a store; it need not exist before the first put."""

    local_root: str
    exclusive = True

    def __init__(self, root: str, *, single_writer: bool = False) -> None:
        self.local_root = os.path.abspath(root)
        self.url = self.local_root
        self.single_writer = single_writer
        self._lock = threading.Lock()
        self._durable_directories: LRUCache[str, bool] = LRUCache(4096)

    # -- reading ----------------------------------------------------------------------------------------------------

    def local_path(self, key: str) -> str:
        return f"{self.local_root}/{key}" if key else self.local_root

    def get(self, key: str) -> bytes:
        try:
            fd = os.open(self.local_path(key), os.O_RDONLY | os.O_CLOEXEC)
            try:
                return read_all(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise translate(error, f"cannot read {key} of {self.url}") from error

    def get_range(self, key: str, offset: int, size_bytes: int) -> bytes:
        try:
            fd = os.open(self.local_path(key), os.O_RDONLY | os.O_CLOEXEC)
            try:
                # A damaged manifest may claim any size; what is read is bounded by what is there.
                size_bytes = min(size_bytes, max(0, os.fstat(fd).st_size - offset))
                data = os.pread(fd, size_bytes, offset)
                while len(data) < size_bytes and (more := os.pread(fd, size_bytes - len(data), offset + len(data))):
                    data += more
                return data
            finally:
                os.close(fd)
        except OSError as error:
            raise translate(error, f"cannot read {key} of {self.url}") from error

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        found: list[bytes | None] = []
        key = ""
        try:
            for key in keys:
                try:
                    fd = os.open(self.local_path(key), os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    found.append(None)
                    continue
                try:
                    found.append(read_all(fd))
                finally:
                    os.close(fd)
        except OSError as error:
            raise translate(error, f"cannot read {key} of {self.url}") from error
        return found

    def listing(self, prefix: str) -> Listing:
        files: list[str] = []
        directories: list[str] = []
        try:
            with os.scandir(self.local_path(prefix)) as entries:
                for entry in entries:
                    if not entry.name.startswith(TEMPORARY_PREFIX):
                        (directories if entry.is_dir() else files).append(entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return Listing([], [])
        except OSError as error:
            raise translate(error, f"cannot list {prefix or 'the top'} of {self.url}") from error
        return Listing(files, directories)

    def walk(self, prefix: str) -> Iterator[StoredFile]:
        pending = [prefix]
        while pending:
            directory = pending.pop()
            try:
                with os.scandir(self.local_path(directory)) as entries:
                    for entry in entries:
                        key = f"{directory}/{entry.name}" if directory else entry.name
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(key)
                            continue
                        try:
                            status = entry.stat(follow_symlinks=False)
                        except FileNotFoundError:
                            continue  # deleted since it was listed
                        # ctime, because an adopted object keeps the mtime of the file it was.
                        yield StoredFile(key, status.st_size, status.st_ctime_ns)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise translate(error, f"cannot list {directory} of {self.url}") from error

    def exists(self, key: str) -> bool:
        try:
            os.lstat(self.local_path(key))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise translate(error, f"cannot look for {key} of {self.url}") from error
        return True

    def renew(self, key: str) -> bool:
        path = self.local_path(key)
        try:
            if not os.path.exists(path):
                return False
            # A file of somebody else cannot be touched: a copy takes its place.
            if not touch(path):
                with self._temporary(path) as temporary:
                    copy_new(path, temporary)
                    os.rename(temporary, path)
        except OSError as error:
            raise translate(error, f"cannot renew {key} of {self.url}") from error
        return True

    def size(self, key: str) -> int:
        try:
            return os.stat(self.local_path(key)).st_size
        except OSError as error:
            raise translate(error, f"cannot look for {key} of {self.url}") from error

    # -- writing ----------------------------------------------------------------------------------------------------

    def put(self, key: str, data: Buffer) -> None:
        path = self.local_path(key)
        try:
            if not holds(path, data):
                self._write_whole(path, data, sync=False)
        except OSError as error:
            raise translate(error, f"cannot store {key} in {self.url}") from error

    def put_file(self, key: str, file: HashedFile) -> None:
        target = self.local_path(key)
        try:
            if not has_digest(target, file.digest):
                self._copy_whole(file, target)
        except ArtifactError:
            raise
        except OSError as error:
            raise translate(error, f"cannot store {file.path} as {key} in {self.url}") from error

    def adopt_file(self, key: str, file: HashedFile) -> bool:
        target = self.local_path(key)
        try:
            file.check_unchanged()
            if same_inode(target, file.status):
                return touch(target)
            if has_digest(target, file.digest):
                return False
            # Someone else's file could not be made read-only later.
            if os.geteuid() in (file.status.st_uid, 0) and self._link_whole(file, target):
                return True
            self._copy_whole(file, target)
        except ArtifactError:
            raise
        except OSError as error:
            raise translate(error, f"cannot store {file.path} as {key} in {self.url}") from error
        return False

    def put_exclusive(self, key: str, data: Buffer) -> Outcome:
        path = self.local_path(key)
        try:
            with self._temporary(path) as temporary:
                write_new(temporary, data, sync=True)
                try:
                    self._link_exclusive(temporary, path)
                    outcome = Outcome.CREATED
                except FileExistsError:
                    with open(path, "rb") as existing:
                        outcome = Outcome.CREATED if existing.read() == data else Outcome.TAKEN
                # Also when the name is taken: what the caller reads there must not be lost by a power cut later.
                self._sync_chain(os.path.dirname(path))
        except UnsafeStore:
            raise
        except OSError as error:
            raise translate(error, f"cannot create {key} in {self.url}") from error
        return outcome

    def replace(self, key: str, data: Buffer) -> None:
        path = self.local_path(key)
        try:
            self._write_whole(path, data, sync=True)
            self._sync_chain(os.path.dirname(path))
        except OSError as error:
            raise translate(error, f"cannot write {key} in {self.url}") from error

    def delete(self, key: str) -> None:
        path = self.local_path(key)
        try:
            os.unlink(path)
            sync_directory(os.path.dirname(path))
        except FileNotFoundError:
            return
        except OSError as error:
            raise translate(error, f"cannot delete {key} of {self.url}") from error

    def flush(self, keys: Sequence[str]) -> None:
        if not keys:
            return
        try:
            if len(keys) > SYNC_EACH_LIMIT and sync_filesystem(self.local_root):
                return
            for key in keys:
                sync_file(self.local_path(key))
            for directory in {os.path.dirname(self.local_path(key)) for key in keys}:
                self._sync_chain(directory)
        except OSError as error:
            raise translate(error, f"cannot write to {self.url}") from error

    def settle(self, adopted: Iterable[tuple[str, str]]) -> None:
        for key, file in adopted:
            path = self.local_path(key)
            try:
                status = os.lstat(path)
                # With more links than one, an object may be a file of a tree whose commit still needs its mode.
                if status.st_mode & 0o222 and (status.st_nlink == 1 or same_inode(file, status)):
                    os.chmod(path, READ_ONLY)
            except FileNotFoundError:
                continue  # a lost object is for whoever reads or verifies the version to report
            except OSError as error:
                raise translate(error, f"cannot make {key} of {self.url} read-only") from error

    def _write_whole(self, path: str, data: Buffer, *, sync: bool) -> None:
        with self._temporary(path) as temporary:
            write_new(temporary, data, sync=sync)
            os.rename(temporary, path)

    def _link_exclusive(self, temporary: str, path: str) -> None:
        try:
            os.link(temporary, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if not self.single_writer:
                raise UnsafeStore(
                    f"{self.url} is on a file system without hard links, where two writers could overwrite each "
                    "other's versions; pass single_writer=True if nothing else ever writes to this store"
                ) from error
            if os.path.lexists(path):
                raise FileExistsError(path) from error
            os.rename(temporary, path)

    def _copy_whole(self, file: HashedFile, target: str) -> None:
        with self._temporary(target) as temporary:
            copy_new(file.path, temporary)
            # The bytes that were written are what is checked: the source may have changed since it was hashed.
            if stored_digest(temporary) != file.digest:
                raise changed(file.path)
            os.rename(temporary, target)

    def _link_whole(self, file: HashedFile, target: str) -> bool:
        with self._temporary(target) as temporary:
            if not link_new(file, temporary):
                return False
            os.rename(temporary, target)
        return True

    def _temporary(self, path: str) -> TemporaryName:
        if not os.path.isdir(self.local_root):
            make_durable_directories(self.local_root)
        return TemporaryName(path)

    def _sync_chain(self, directory: str) -> None:
        """Put a directory on disk, and its own name in its parent, up to the root: anybody may just have made it."""
        sync_directory(directory)
        while len(directory) > len(self.local_root):
            with self._lock:
                if directory in self._durable_directories:
                    return
            parent = os.path.dirname(directory)
            sync_directory(parent)
            with self._lock:
                self._durable_directories[directory] = True
            directory = parent
