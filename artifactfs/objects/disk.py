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

from artifactfs import beneath
from artifactfs.durable import write_all
from artifactfs.longpaths import reach
from artifactfs.objects.hashing import HashedFile, changed, digest_of, identity, open_regular, stored_digest
from artifactfs.objects.layout import TEMPORARY_PREFIX
from artifactfs.objects.store import Buffer

READ_ONLY = 0o444
# Linking a file may be impossible for these reasons; copying it is not.
CANNOT_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS})
# One system call takes 4,096 bytes, a character has at most four.
_SHORT_CHARS = 1000
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_COPY_CHUNK_BYTES = 1 << 30
_CANNOT_COPY_RANGE = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM})


class TemporaryName:
    """Context: a fresh temporary name beside `path`; what is left under it goes."""

    def __init__(self, path: str) -> None:
        self._name = f"{os.path.dirname(path)}/{TEMPORARY_PREFIX}{uuid.uuid4().hex}"

    def __enter__(self) -> str:
        return self._name

    def __exit__(self, *exc: object) -> None:
        try:
            os.unlink(self._name)
        except FileNotFoundError:
            return  # renamed to its final name, or never made


def read_all(fd: int, most_bytes: int) -> bytes:
    """Read what is left of a file, at most so many bytes; a small one takes one system call."""
    first_bytes = min(4096, most_bytes)
    data = os.read(fd, first_bytes)
    if len(data) < first_bytes:
        return data
    blocks = [data]
    left = most_bytes - len(data)
    while left > 0 and (block := os.read(fd, min(left, 1 << 24))):
        blocks.append(block)
        left -= len(block)
    return b"".join(blocks)


def read_file(path: str, most_bytes: int) -> bytes:
    """The first bytes of a regular file. Raises OSError."""
    fd = beneath.open_regular(path)
    try:
        return read_all(fd, most_bytes)
    finally:
        os.close(fd)


def found_status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """The status of what a directory listed, itself and not what it leads to; None when it is gone. Raises OSError."""
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None


def lstat_beneath(directory: int, path: str) -> os.stat_result:
    """lstat(2) of a path of any length beneath the directory with that descriptor. Raises OSError."""
    if len(path) < _SHORT_CHARS:
        return os.stat(path, dir_fd=directory, follow_symlinks=False)
    fd = beneath.open_beneath(directory, path, os.O_PATH | os.O_NOFOLLOW)
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def write_new(path: str, data: Buffer, *, sync: bool, mode: int = READ_ONLY) -> None:
    """Make a file with these bytes and with `mode` within the umask, on disk when this returns if `sync`."""
    with reach(path) as place:
        fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        write_all(fd, data)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def copy_new(source: str, target: str, mode: int = READ_ONLY) -> None:
    """Copy a regular file, by reference where the file system can (XFS, btrfs)."""
    reader = open_regular(source)
    try:
        with reach(target) as place:
            writer = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
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


def put_data(path: str, data: Buffer, mode: int, *, sync: bool) -> None:
    """Have `path` be a file with these bytes, whole or not at all. Raises OSError."""
    with TemporaryName(path) as temporary:
        write_new(temporary, data, sync=sync, mode=mode)
        os.rename(temporary, path)


def put_copy(file: HashedFile, path: str, mode: int) -> None:
    """Have `path` be a copy of a file of a tree. Raises UnsupportedTree, OSError."""
    with TemporaryName(path) as temporary:
        copy_new(file.path, temporary, mode)
        # The bytes that were written are what is checked: the source may have changed since it was hashed.
        if stored_digest(temporary) != file.digest:
            raise changed(file.path)
        os.rename(temporary, path)


def put_link(file: HashedFile, path: str, most: int) -> bool:
    """Have `path` be another name of a file that is given away; False where `link_new` says so. Raises as that."""
    with TemporaryName(path) as temporary:
        if not link_new(file, temporary, most):
            return False
        os.rename(temporary, path)
    return True


def holds(path: str, data: Buffer) -> bool:
    """Tell whether a regular file holds exactly `data`; then it counts as put just now, which gc goes by."""
    try:
        fd = beneath.open_regular(path)
    except (FileNotFoundError, beneath.NotRegular):
        return False
    try:
        if os.fstat(fd).st_size != len(data) or read_all(fd, len(data)) != data:
            return False
        return touch(fd)
    finally:
        os.close(fd)


def has_digest(path: str, digest: str, size_bytes: int | None = None) -> bool:
    """Do as `holds` for bytes that are not in memory but known by their digest, and perhaps their size."""
    try:
        fd = beneath.open_regular(path)
    except (FileNotFoundError, beneath.NotRegular):
        return False
    try:
        if size_bytes is not None and os.fstat(fd).st_size != size_bytes:
            return False
        return digest_of(fd) == digest and touch(fd)
    finally:
        os.close(fd)


def touch(fd: int) -> bool:
    """Renew a file's ctime, leaving its mtime: the inode may still be a file of the caller's tree.

    Answers False, for "write it again", where the file belongs to somebody else.
    """
    try:
        status = os.fstat(fd)
        os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
    except PermissionError:
        return False
    return True


def renewed(path: str) -> bool:
    """Do as `touch` for a path. Raises OSError."""
    fd = beneath.open_regular(path)
    try:
        return touch(fd)
    finally:
        os.close(fd)


def umask() -> int:
    """The permission bits that this process takes from new files; none where the system does not tell."""
    # Not os.umask, which tells by changing it, for all threads.
    try:
        with open("/proc/self/status", encoding="utf-8", errors="replace") as lines:
            return next((int(line.split()[1], 8) for line in lines if line.startswith("Umask:")), 0)
    except OSError:
        return 0


def same_inode(path: str, status: os.stat_result) -> bool:
    """Tell whether `path` is the file with that status."""
    try:
        with reach(path) as place:
            return os.path.samestat(os.lstat(place), status)
    except (FileNotFoundError, NotADirectoryError):
        return False


def link_new(file: HashedFile, target: str, most: int) -> bool:
    """Give a file of a tree that is given away another name, in a store with the permissions `most`.

    It becomes the caller's own first, and loses setuid, setgid and sticky bits: others may enter a store, and a version
    keeps none of them. False where linking cannot be done (another disk, not allowed, others could go on writing to it)
    though copying can. Raises OSError, UnsupportedTree.
    """
    directory = os.stat(os.path.dirname(target))
    owner = os.geteuid(), directory.st_gid if directory.st_mode & stat.S_ISGID else os.getegid()
    fd = open_regular(file.path)
    try:
        status = os.fstat(fd)
        mode = stat.S_IMODE(status.st_mode)
        if identity(status) != identity(file.status):
            raise changed(file.path)
        # Whoever has another name of it could write to it, and so could who may enter the store.
        if status.st_nlink > 1 or mode & exposed(most):
            return False
        if (status.st_uid, status.st_gid) != owner:
            os.fchown(fd, *owner)
        if mode & ~0o777:
            os.fchmod(fd, mode & 0o777)
        with reach(file.path) as old, reach(target) as new:
            os.link(old, new)
        if not same_inode(target, status):
            raise changed(file.path)
    except OSError as error:
        if error.errno not in CANNOT_LINK:
            raise
        return False
    finally:
        os.close(fd)
    return True


def exposed(most: int) -> int:
    """The permissions by which a file lets those do more who may enter a store than the permissions of that do."""
    found = 0
    for shift in (3, 0):
        if most >> shift & 1:
            found |= (~most >> shift & 0o6) << shift
    return found


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
