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

import ctypes
import errno
import functools
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence

from cachetools import LRUCache

from artifactfs.errors import ArtifactError
from artifactfs.objects.hashing import HashedFile, changed, open_regular, own_file_digest
from artifactfs.objects.layout import TEMPORARY_PREFIX
from artifactfs.objects.store import Buffer, Listing, ObjectStore, Outcome, StoredFile, translate

# Above this many objects one syncfs costs less than a fsync each (10,000 on btrfs: 1 s against 19.5 s).
SYNC_EACH_LIMIT = 32
_READ_ONLY = 0o444
_COPY_CHUNK_BYTES = 1 << 30
# Linking a file may be impossible for these reasons; copying it is not.
_CANNOT_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS})
_CANNOT_COPY_RANGE = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM})


class LocalStore(ObjectStore):
    """A directory as a store; it need not exist before the first put."""

    local_root: str

    def __init__(self, root: str) -> None:
        self.local_root = os.path.abspath(root)
        self.url = self.local_root
        self._lock = threading.Lock()
        self._durable_directories: LRUCache[str, bool] = LRUCache(4096)

    # -- reading ----------------------------------------------------------------------------------------------------

    def local_path(self, key: str) -> str:
        return f"{self.local_root}/{key}" if key else self.local_root

    def get(self, key: str) -> bytes:
        try:
            fd = os.open(self.local_path(key), os.O_RDONLY | os.O_CLOEXEC)
            try:
                return _read_all(fd)
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
                    found.append(_read_all(fd))
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

    def size(self, key: str) -> int:
        try:
            return os.stat(self.local_path(key)).st_size
        except OSError as error:
            raise translate(error, f"cannot look for {key} of {self.url}") from error

    # -- writing ----------------------------------------------------------------------------------------------------

    def put(self, key: str, data: Buffer) -> None:
        path = self.local_path(key)
        try:
            if not _holds(path, data):
                self._write_whole(path, data, sync=False)
        except OSError as error:
            raise translate(error, f"cannot store {key} in {self.url}") from error

    def put_file(self, key: str, file: HashedFile) -> None:
        target = self.local_path(key)
        try:
            if not _has_digest(target, file.digest):
                self._copy_whole(file, target)
        except ArtifactError:
            raise
        except OSError as error:
            raise translate(error, f"cannot store {file.path} as {key} in {self.url}") from error

    def adopt_file(self, key: str, file: HashedFile) -> bool:
        target = self.local_path(key)
        try:
            file.check_unchanged()
            if _same_inode(target, file.status):
                return _touch(target)
            if _has_digest(target, file.digest):
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
                _write(temporary, data, sync=True)
                try:
                    os.link(temporary, path)
                    outcome = Outcome.CREATED
                except FileExistsError:
                    with open(path, "rb") as existing:
                        outcome = Outcome.CREATED if existing.read() == data else Outcome.TAKEN
                # Also when the name is taken: what the caller reads there must not be lost by a power cut later.
                self._sync_chain(os.path.dirname(path))
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
            _sync_directory(os.path.dirname(path))
        except FileNotFoundError:
            return
        except OSError as error:
            raise translate(error, f"cannot delete {key} of {self.url}") from error

    def flush(self, keys: Sequence[str]) -> None:
        if not keys:
            return
        try:
            if len(keys) > SYNC_EACH_LIMIT and _syncfs(self.local_root):
                return
            for key in keys:
                _sync_file(self.local_path(key))
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
                if status.st_mode & 0o222 and (status.st_nlink == 1 or _same_inode(file, status)):
                    os.chmod(path, _READ_ONLY)
            except FileNotFoundError:
                continue  # a lost object is for whoever reads or verifies the version to report
            except OSError as error:
                raise translate(error, f"cannot make {key} of {self.url} read-only") from error

    def require_exclusive(self) -> None:
        return None

    def _write_whole(self, path: str, data: Buffer, *, sync: bool) -> None:
        with self._temporary(path) as temporary:
            _write(temporary, data, sync=sync)
            os.rename(temporary, path)

    def _copy_whole(self, file: HashedFile, target: str) -> None:
        with self._temporary(target) as temporary:
            _copy(file.path, temporary)
            # The bytes that were written are what is checked: the source may have changed since it was hashed.
            if own_file_digest(temporary) != file.digest:
                raise changed(file.path)
            os.rename(temporary, target)

    def _link_whole(self, file: HashedFile, target: str) -> bool:
        with self._temporary(target) as temporary:
            try:
                os.link(file.path, temporary)
            except OSError as error:
                if error.errno not in _CANNOT_LINK:
                    raise
                return False
            os.rename(temporary, target)
        return True

    def _temporary(self, path: str) -> _Temporary:
        if not os.path.isdir(self.local_root):
            _make_durable_directories(self.local_root)
        return _Temporary(path)

    def _sync_chain(self, directory: str) -> None:
        """Put a directory on disk, and its own name in its parent, up to the root: anybody may just have made it."""
        _sync_directory(directory)
        while len(directory) > len(self.local_root):
            with self._lock:
                if directory in self._durable_directories:
                    return
            parent = os.path.dirname(directory)
            _sync_directory(parent)
            with self._lock:
                self._durable_directories[directory] = True
            directory = parent


def _make_durable_directories(path: str) -> None:
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        _make_durable_directories(parent)
    os.makedirs(path, exist_ok=True)
    _sync_directory(parent)


class _Temporary:
    """Context: a fresh temporary name beside `path`, in a directory that exists; what is left under it goes."""

    def __init__(self, path: str) -> None:
        directory = os.path.dirname(path)
        os.makedirs(directory, exist_ok=True)
        self._name = f"{directory}/{TEMPORARY_PREFIX}{uuid.uuid4().hex}"

    def __enter__(self) -> str:
        return self._name

    def __exit__(self, *exc: object) -> None:
        try:
            os.unlink(self._name)
        except FileNotFoundError:
            return  # renamed to its final name, or never made


def _read_all(fd: int) -> bytes:
    data = os.read(fd, 4096)
    if len(data) < 4096:
        return data
    blocks = [data]
    while block := os.read(fd, 1 << 24):
        blocks.append(block)
    return b"".join(blocks)


def _write(path: str, data: Buffer, *, sync: bool) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _READ_ONLY)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def _copy(source: str, target: str) -> None:
    """Copy a regular file, by reference where the file system can (XFS, btrfs)."""
    reader = open_regular(source)
    try:
        writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _READ_ONLY)
        try:
            try:
                while os.copy_file_range(reader, writer, _COPY_CHUNK_BYTES):
                    pass
            except OSError as error:
                if error.errno not in _CANNOT_COPY_RANGE:
                    raise
            # Goes on where copy_file_range stopped; some file systems of the kernel (procfs) answer it with nothing.
            with open(reader, "rb", closefd=False) as plain_in, open(writer, "wb", closefd=False) as plain_out:
                shutil.copyfileobj(plain_in, plain_out, 1 << 20)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _holds(path: str, data: Buffer) -> bool:
    """Whether the file holds exactly `data`; then it counts as put just now, which gc goes by."""
    try:
        if os.stat(path).st_size != len(data):
            return False
        with open(path, "rb") as existing:
            if existing.read() != data:
                return False
    except FileNotFoundError:
        return False
    return _touch(path)


def _has_digest(path: str, digest: str) -> bool:
    """As `_holds`, for a file that is not in memory."""
    if not os.path.exists(path) or own_file_digest(path) != digest:
        return False
    return _touch(path)


def _touch(path: str) -> bool:
    """Renew a file's ctime, leaving its mtime: the inode may still be a file of the caller's tree.

    Answers False, for "write it again", where the file belongs to somebody else.
    """
    try:
        status = os.stat(path)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    except (PermissionError, FileNotFoundError):
        return False
    return True


def _same_inode(path: str, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.lstat(path), status)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems without fsync for directories (some FUSE ones)
            raise
    finally:
        os.close(fd)


def _sync_file(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@functools.cache
def _libc_syncfs() -> Callable[[int], int] | None:
    try:
        function = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int]
    function.restype = ctypes.c_int
    return function


def _syncfs(path: str) -> bool:
    """Put everything on the file system of `path` on disk; False where the system cannot."""
    function = _libc_syncfs()
    if function is None:
        return False
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if function(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
    finally:
        os.close(fd)
    return True
