"""A store on this machine's disk, with plain system calls.

An object is written to a temporary file beside it and renamed, so nobody sees half of one. A name is created
exclusively by linking a complete, synced temporary file to it: ``link`` fails where the name exists, and has done so
atomically on every file system for as long as there is NFS. A crash leaves at most temporary names.

Objects put are durable after `flush`. Before that, a power cut may leave an object empty under its final name, so
`put` never trusts an existing object that it has not compared, nor one that `unflushed` calls lost: that is written
anew, to a new file.

Everything is done beneath the directory that `objects.root` holds. Only regular files are read, and nothing through a
symlink. Files are the daemon's own and read-only, and files and directories let nobody in whom the directory of the
store, or the umask, keeps out.

Threading: any thread; the lock guards the directories known to be on disk and is not held across I/O.
"""

# ruff: noqa: D102 - ObjectStore documents the methods

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from artifactfs.beneath import NotRegular, not_regular, open_directory_beneath, open_regular, open_regular_and_stat
from artifactfs.durable import sync_directory, sync_file
from artifactfs.errors import ArtifactError, IntegrityError, UnsafeStore
from artifactfs.objects.bounds import MOST_WHOLE_BYTES
from artifactfs.objects.disk import (
    READ_ONLY,
    TemporaryName,
    copy_new,
    found_status,
    has_digest,
    holds,
    lstat_beneath,
    put_copy,
    put_data,
    put_link,
    read_all,
    read_file,
    renewed,
    same_inode,
    touch,
    umask,
    write_new,
)
from artifactfs.objects.hashing import HashedFile
from artifactfs.objects.layout import MAX_RECORD_BYTES, TEMPORARY_PREFIX
from artifactfs.objects.root import HeldRoot, StoreRoot, rename_error
from artifactfs.objects.store import Buffer, Listing, ObjectStore, OnFault, Outcome, StoredFile, raise_fault, translate
from artifactfs.objects.unflushed import Unflushed

# Above this many objects one syncfs costs less than a fsync each (10,000 on btrfs: 1 s against 19.5 s).
SYNC_EACH_LIMIT = 32
T = TypeVar("T")
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})


class _Place(NamedTuple):
    """A place to write to: a path that is good for now, permissions for a file there, the number of failed syncs."""

    path: str
    mode: int
    held: HeldRoot
    failures: int

    @property
    def since(self) -> tuple[HeldRoot, int]:
        """For `Unflushed`."""
        return self.held, self.failures


class LocalStore(ObjectStore):
    """A directory as a store; it need not exist before the first put."""

    local_root: str
    exclusive = True

    def __init__(self, root: str, *, single_writer: bool = False) -> None:
        self.local_root = os.path.abspath(root)
        self.url = self.local_root
        self.single_writer = single_writer
        self.root = StoreRoot(self.local_root)
        self._lock = threading.Lock()
        self._unflushed = Unflushed()

    def expect(self, witness: str, is_same: Callable[[int], bool]) -> None:
        self.root.expect(witness, is_same)

    def check_there(self) -> None:
        try:
            self.root.look()
        except ArtifactError:
            raise
        except OSError as error:
            raise translate(error, f"cannot look at {self.url}") from error

    # -- reading ----------------------------------------------------------------------------------------------------

    def local_path(self, key: str) -> str:
        return f"{self.local_root}/{key}" if key else self.local_root

    def open_local(self, path: str) -> int:
        return self._open(path[len(self.local_root) + 1 :])[0]

    def _open(self, key: str) -> tuple[int, os.stat_result]:
        """Open a file, which never changes, wherever the store is by now. Raises OSError, StoreUnreachable."""
        return self._asked(open_regular_and_stat, key)

    def _status(self, key: str) -> os.stat_result:
        """lstat(2), wherever the store is by now. Raises OSError, StoreUnreachable."""
        return self._asked(lstat_beneath, key)

    def _asked(self, call: Callable[[int, str], T], key: str) -> T:
        """Make a system call beneath the directory that is held; an error counts only where the store still is."""
        held = self.root.current()
        while True:
            try:
                if held is None:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.local_path(key))
                return call(held.fd, key)
            except NotRegular:
                raise
            except OSError:
                now = self.root.look()
                if now is held:
                    raise
                held = now

    def get(self, key: str) -> bytes:
        try:
            fd, status = self._open(key)
            try:
                if status.st_size > MOST_WHOLE_BYTES:
                    raise IntegrityError(f"{key} of {self.url} is larger than anything that is read whole")
                return read_all(fd, MOST_WHOLE_BYTES)
            finally:
                os.close(fd)
        except ArtifactError:
            raise
        except OSError as error:
            raise self._error(error, "cannot read", key) from error

    def get_range(self, key: str, offset: int, size_bytes: int) -> bytes:
        try:
            fd, status = self._open(key)
            try:
                # A damaged manifest may claim any size; what is read is bounded by what is there.
                size_bytes = min(size_bytes, max(0, status.st_size - offset))
                data = os.pread(fd, size_bytes, offset)
                while len(data) < size_bytes and (more := os.pread(fd, size_bytes - len(data), offset + len(data))):
                    data += more
                return data
            finally:
                os.close(fd)
        except ArtifactError:
            raise
        except OSError as error:
            raise self._error(error, "cannot read", key) from error

    def get_if_there(self, key: str) -> bytes | None:
        return self.get_many([key])[0]

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        found: list[bytes | None] = []
        key = ""
        try:
            # An alias may change, so it is read where the store is.
            self.root.look()
            for key in keys:
                try:
                    fd, _ = self._open(key)
                except FileNotFoundError:
                    found.append(None)
                    continue
                try:
                    found.append(read_all(fd, 2 * MAX_RECORD_BYTES))
                finally:
                    os.close(fd)
        except ArtifactError:
            raise
        except OSError as error:
            raise self._error(error, "cannot read", key) from error
        return found

    def listing(self, prefix: str) -> Listing:
        files: list[str] = []
        directories: list[str] = []
        try:
            with self._entries(prefix) as entries:
                for entry in entries:
                    if entry.name.startswith(TEMPORARY_PREFIX):
                        continue
                    is_directory = entry.is_dir(follow_symlinks=False)
                    # What a symlink stands for is shown, and is an error to who looks into it.
                    if is_directory or entry.is_symlink():
                        directories.append(entry.name)
                    if not is_directory:
                        files.append(entry.name)
        except ArtifactError:
            raise
        except (FileNotFoundError, NotADirectoryError):
            return Listing([], [])
        except OSError as error:
            raise self._error(error, "cannot list", prefix or "the top") from error
        return Listing(files, directories)

    @contextmanager
    def _entries(self, prefix: str) -> Iterator[Iterator[os.DirEntry[str]]]:
        """The entries of a directory of the store, which is there. Raises OSError, StoreUnreachable."""
        held = self.root.look()
        if held is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.local_root)
        fd = open_directory_beneath(held.fd, prefix, os.O_RDONLY)
        try:
            with os.scandir(fd) as entries:
                yield entries
        finally:
            os.close(fd)

    def walk(self, prefix: str) -> Iterator[StoredFile]:
        return self.walk_readable(prefix, raise_fault)

    def walk_readable(self, prefix: str, on_fault: OnFault) -> Iterator[StoredFile]:
        pending = [prefix]
        while pending:
            directory = pending.pop()
            try:
                with self._entries(directory) as entries:
                    for entry in entries:
                        key = f"{directory}/{entry.name}" if directory else entry.name
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(key)
                            continue
                        if (status := found_status(entry)) is None:
                            continue  # deleted since it was listed
                        yield StoredFile(key, status.st_size, status.st_ctime_ns)  # an adopted object keeps its mtime
            except ArtifactError:
                raise
            except FileNotFoundError:
                continue
            except OSError as error:
                on_fault(directory, self._error(error, "cannot list", directory))

    def exists(self, key: str) -> bool:
        try:
            self._status(key)
        except ArtifactError:
            raise
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise self._error(error, "cannot look for", key) from error
        return True

    def renew(self, key: str) -> bool:
        try:
            fd, _ = self._open(key)
        except ArtifactError:
            raise
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._error(error, "cannot renew", key) from error
        with self._writing("cannot renew", key) as place:
            try:
                renewed = touch(fd)
            finally:
                os.close(fd)
            # A file of somebody else cannot be touched: a copy takes its place.
            if not renewed:
                with TemporaryName(place.path) as temporary:
                    copy_new(place.path, temporary, place.mode)
                    os.rename(temporary, place.path)
        return True

    def size(self, key: str) -> int:
        try:
            status = self._status(key)
            if not stat.S_ISREG(status.st_mode):
                raise not_regular(status.st_mode, key)
        except ArtifactError:
            raise
        except OSError as error:
            raise self._error(error, "cannot look for", key) from error
        return status.st_size

    # -- writing ----------------------------------------------------------------------------------------------------

    def put(self, key: str, data: Buffer) -> None:
        with self._writing("cannot store", key) as place:
            if self._unflushed.is_lost(key, *place.since) or not holds(place.path, data):
                put_data(place.path, data, place.mode, sync=False)
            self._unflushed.note(key, *place.since)

    def put_file(self, key: str, file: HashedFile) -> None:
        with self._writing("cannot store", key) as place:
            if self._unflushed.is_lost(key, *place.since) or not has_digest(
                place.path, file.digest, file.status.st_size
            ):
                put_copy(file, place.path, place.mode)
            self._unflushed.note(key, *place.since)

    def adopt_file(self, key: str, file: HashedFile) -> bool:
        with self._writing("cannot store", key) as place:
            shared = None if self._unflushed.is_lost(key, *place.since) else self._adopt(file, place)
            if shared is None:
                put_copy(file, place.path, place.mode)
            self._unflushed.note(key, *place.since)
        return bool(shared)

    def _adopt(self, file: HashedFile, place: _Place) -> bool | None:
        """Tell whether the object is the file itself, now or since before; None when there is no good object yet."""
        file.check_unchanged()
        # Someone else's file would stay theirs to change.
        if same_inode(place.path, file.status):
            return renewed(place.path) if file.status.st_uid == os.geteuid() else None
        if has_digest(place.path, file.digest, file.status.st_size):
            return False
        return True if os.geteuid() in (file.status.st_uid, 0) and put_link(file, place.path, place.held.mode) else None

    def put_exclusive(self, key: str, data: Buffer) -> Outcome:
        with self._writing("cannot create", key) as place:
            with TemporaryName(place.path) as temporary:
                write_new(temporary, data, sync=True, mode=place.mode)
                try:
                    self._link_exclusive(temporary, place.path)
                    outcome = Outcome.CREATED
                except FileExistsError:
                    outcome = Outcome.CREATED if read_file(place.path, len(data) + 1) == data else Outcome.TAKEN
            # Also when the name is taken: what the caller reads there must not be lost by a power cut later.
            self._sync_chain(place.held, os.path.dirname(key))
            self.root.look()  # nobody would find it where the store is not any more
        return outcome

    def replace(self, key: str, data: Buffer) -> None:
        with self._writing("cannot write", key) as place:
            put_data(place.path, data, place.mode, sync=True)
            self._sync_chain(place.held, os.path.dirname(key))
            self.root.look()

    def delete(self, key: str) -> None:
        try:
            with self.root.directory(os.path.dirname(key)) as (_, near):
                os.unlink(f"{near}/{os.path.basename(key)}")
                sync_directory(near)
        except ArtifactError:
            raise
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._error(error, "cannot delete", key) from error

    def flush(self, keys: Sequence[str]) -> None:
        if not keys:
            return
        try:
            held = self.root.make()
            if len(keys) > SYNC_EACH_LIMIT:
                held.sync()
            else:
                self._sync_each(held, keys)
            self._unflushed.settle(held, keys)
            self.root.look()
        except ArtifactError:
            raise
        except OSError as error:
            raise translate(error, f"cannot write to {self.url}") from error

    def _sync_each(self, held: HeldRoot, keys: Sequence[str]) -> None:
        try:
            for key in keys:
                with self.root.directory(os.path.dirname(key)) as (_, near):
                    sync_file(f"{near}/{os.path.basename(key)}")
            for directory in {os.path.dirname(key) for key in keys}:
                self._sync_chain(held, directory)
        except OSError:
            held.note_failure()
            raise

    def settle(self, adopted: Iterable[tuple[str, str]]) -> None:
        mask = umask()
        for key, file in adopted:
            try:
                with self.root.directory(os.path.dirname(key)) as (held, near):
                    fd = open_regular(f"{near}/{os.path.basename(key)}")
                    try:
                        status = os.fstat(fd)
                        mode = READ_ONLY & held.mode & ~mask
                        # With more links than one, an object may be a file of a tree whose commit still needs its mode.
                        is_ours = status.st_uid == os.geteuid() and (status.st_nlink == 1 or same_inode(file, status))
                        if is_ours and status.st_mode & 0o777 != mode:
                            os.fchmod(fd, mode)
                    finally:
                        os.close(fd)
            except ArtifactError:
                raise
            except FileNotFoundError:
                continue  # a lost object is for whoever reads or verifies the version to report
            except OSError as error:
                raise self._error(error, "cannot make read-only", key) from error

    @contextmanager
    def _writing(self, what: str, key: str) -> Iterator[_Place]:
        """The place of a key to be written, in a directory that is there. Errors leave it as those of the store."""
        directory, _, name = key.rpartition("/")
        try:
            with self.root.directory(directory, make=True) as (held, near):
                yield _Place(f"{near}/{name}", READ_ONLY & held.mode, held, held.failures)
        except ArtifactError:
            raise
        except OSError as error:
            raise self._error(error, what, key) from error

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

    def _sync_chain(self, held: HeldRoot, directory: str) -> None:
        """Put a directory on disk, and its own name in its parent, up to the root: anybody may just have made it."""
        sync_directory(f"{held.path}/{directory}")
        while directory:
            with self._lock:
                if directory in held.durable_directories:
                    return
            parent = os.path.dirname(directory)
            sync_directory(f"{held.path}/{parent}")
            with self._lock:
                held.durable_directories[directory] = True
            directory = parent

    def _error(self, error: OSError, what: str, key: str) -> ArtifactError:
        rename_error(error, "", self.local_root)
        return translate(error, f"{what} {key} of {self.url}")
