"""System calls on the files of a local store: what `local` is made of.

Pure functions on paths; they raise OSError, which `local` translates, and what `hashing` raises about a tree's files.
Safe from any thread.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import shutil
import stat
import uuid
from collections.abc import Callable

from artifactfs.durable import sync_directory, write_all
from artifactfs.longpaths import reach
from artifactfs.objects.hashing import HashedFile, open_regular, stored_digest
from artifactfs.objects.layout import TEMPORARY_PREFIX
from artifactfs.objects.store import Buffer

READ_ONLY = 0o444
# Linking a file may be impossible for these reasons; copying it is not.
CANNOT_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS})
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_COPY_CHUNK_BYTES = 1 << 30
_CANNOT_COPY_RANGE = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM})


def make_durable_directories(path: str) -> None:
    """Make a directory and the parents it lacks, on disk when this returns."""
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        make_durable_directories(parent)
    os.makedirs(path, exist_ok=True)
    sync_directory(parent)


class TemporaryName:
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


def read_all(fd: int) -> bytes:
    """All that is left of a file; one system call for a small one."""
    data = os.read(fd, 4096)
    if len(data) < 4096:
        return data
    blocks = [data]
    while block := os.read(fd, 1 << 24):
        blocks.append(block)
    return b"".join(blocks)


def write_new(path: str, data: Buffer, *, sync: bool) -> None:
    """Make a read-only file with these bytes, on disk when this returns if `sync`."""
    with reach(path) as place:
        fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, READ_ONLY)
    try:
        write_all(fd, data)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def copy_new(source: str, target: str) -> None:
    """Copy a regular file, by reference where the file system can (XFS, btrfs)."""
    reader = open_regular(source)
    try:
        with reach(target) as place:
            writer = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, READ_ONLY)
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


def holds(path: str, data: Buffer) -> bool:
    """Whether the file holds exactly `data`; then it counts as put just now, which gc goes by."""
    try:
        if os.stat(path).st_size != len(data):
            return False
        with open(path, "rb") as existing:
            if existing.read() != data:
                return False
    except FileNotFoundError:
        return False
    return touch(path)


def has_digest(path: str, digest: str) -> bool:
    """As `holds`, for a file that is not in memory."""
    if not os.path.exists(path) or stored_digest(path) != digest:
        return False
    return touch(path)


def touch(path: str) -> bool:
    """Renew a file's ctime, leaving its mtime: the inode may still be a file of the caller's tree.

    Answers False, for "write it again", where the file belongs to somebody else.
    """
    try:
        status = os.stat(path)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    except (PermissionError, FileNotFoundError):
        return False
    return True


def same_inode(path: str, status: os.stat_result) -> bool:
    """Whether `path` is the file with that status."""
    try:
        with reach(path) as place:
            return os.path.samestat(os.lstat(place), status)
    except (FileNotFoundError, NotADirectoryError):
        return False


def link_new(file: HashedFile, target: str) -> bool:
    """Give a file of a tree that is given away another name, in the store.

    It loses setuid, setgid and sticky bits first: others may enter a store, and a version keeps none of them. False
    where linking cannot be done (another disk, not allowed) though copying can. Raises OSError.
    """
    mode = stat.S_IMODE(file.status.st_mode)
    try:
        with reach(file.path) as old, reach(target) as new:
            if mode & ~0o777:
                os.chmod(old, mode & 0o777)
            os.link(old, new)
    except OSError as error:
        if error.errno not in CANNOT_LINK:
            raise
        return False
    return True


def rename_new(source: str, target: str) -> bool:
    """Rename a directory to a name that is free, in one step; False when it is taken, by an empty directory too."""
    try:
        if (function := _libc("renameat2")) is not None:
            _call(function, target, _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE)
            return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
    # Elsewhere (NFS, some FUSE) the name is claimed by making it, which only one can; then an empty directory is
    # replaced. Who dies in between leaves the empty directory.
    try:
        os.mkdir(target)
        os.rename(source, target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return False
    return True


@functools.cache
def _libc(name: str) -> Callable[..., int] | None:
    """A function of the C library, None where it has none of that name."""
    try:
        function: Callable[..., int] = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None
    return function


def _call(function: Callable[..., int], path: str, *arguments: int | bytes) -> None:
    """Call a function of the C library; `path` is what an error names. Raises OSError."""
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
