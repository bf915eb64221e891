"""Exception → errno: the only place with errno numbers.

Pure, safe from any thread. An OSError that carries an errno (from a system call on the staging disk) keeps it; the
rest is looked up by class, most specific first. What is in no row is a defect: it becomes EIO and is logged with its
traceback by the driver (`is_expected` tells).
"""

from __future__ import annotations

import errno
import os

from artifactfs import errors as store
from mount import errors as drive

_TABLE: tuple[tuple[type[BaseException], int], ...] = (
    (drive.ReadOnly, errno.EROFS),
    (drive.NotPermitted, errno.EPERM),
    (drive.Stale, errno.ESTALE),
    (drive.CrossTree, errno.EXDEV),
    (drive.AreaRefused, errno.EIO),
    (drive.Busy, errno.EBUSY),
    (drive.StagingNotEmpty, errno.ENOTEMPTY),
    (drive.Held, errno.EIO),
    (drive.NoRoom, errno.ENOSPC),
    (drive.NothingStaged, errno.ENODATA),
    (drive.NoSuchAttribute, errno.ENODATA),
    (drive.AttributeTooLong, errno.ERANGE),
    (drive.NoSuchOffset, errno.ENXIO),
    (drive.AttributeUnsupported, errno.ENOTSUP),
    (store.ArgumentError, errno.EINVAL),
    (store.InvalidName, errno.EINVAL),
    (store.NotFound, errno.ENOENT),
    (store.AlreadyExists, errno.EEXIST),
    (store.AccessDenied, errno.EACCES),
    (store.StoreFull, errno.ENOSPC),
    (store.StoreUnreachable, errno.EIO),
    (store.IntegrityError, errno.EIO),
    (store.FormatError, errno.EIO),
    (store.UnsupportedTree, errno.EINVAL),
    (store.TreeUnreadable, errno.EIO),
    (store.UnsafeStore, errno.EROFS),
    (store.UnknownScheme, errno.EINVAL),
    (store.MissingDependency, errno.EIO),
    (store.SerializationError, errno.EINVAL),
    (store.Unsupported, errno.ENOTSUP),
    (NotADirectoryError, errno.ENOTDIR),
    (IsADirectoryError, errno.EISDIR),
    (FileNotFoundError, errno.ENOENT),
    (FileExistsError, errno.EEXIST),
)


# Answers that the kernel gives a meaning of its own.
NEVER_ASK_AGAIN = errno.ENOSYS
INTERRUPTED = errno.EINTR
BAD_MESSAGE = errno.EINVAL
UNKNOWN_PROTOCOL = errno.EPROTO
IO_ERROR = errno.EIO

# The numbers that a program may be told; the kernel ends no request with another. Above are those of its own, some of
# which network file systems let through (ENOTSUPP is 524).
_LARGEST = 511


def errno_of(error: BaseException) -> int:
    """The errno a program gets for `error`, a number that the kernel takes; EIO for what is in no row."""
    if isinstance(error, OSError) and error.errno:
        return error.errno if 0 < error.errno <= _LARGEST else errno.EIO
    return next((number for kind, number in _TABLE if isinstance(error, kind)), errno.EIO)


def is_expected(error: BaseException) -> bool:
    """Tell whether `error` is one the drive or a system call raises on purpose."""
    return (isinstance(error, OSError) and bool(error.errno)) or any(isinstance(error, kind) for kind, _ in _TABLE)


# Others are answers, which programs live with: ENOENT, EEXIST.
_KEPT_NOTHING = frozenset(
    (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
        errno.EFBIG,
        errno.ENOMEM,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENXIO,
        errno.ENODEV,
    )
)


def is_failure_to_keep(error: BaseException) -> bool:
    """Tell whether a program that asks for a change and is told `error` lacks something it meant to keep."""
    return errno_of(error) in _KEPT_NOTHING


def unsupported(path: str) -> OSError:
    """The error of a system call that a file of that kind does not know."""
    return OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), path)


def is_other_disk(error: OSError) -> bool:
    """Tell if copy_file_range(2) failed because it cannot copy between these two files, so that bytes must be read."""
    return error.errno in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)


def is_too_long(error: OSError) -> bool:
    """Tell whether a path, or a name in it, is longer than the system call takes or tells."""
    return error.errno == errno.ENAMETOOLONG


def is_not_there(error: OSError) -> bool:
    """Tell whether a path leads to no file beneath the directory it starts from: a part is missing, or a symlink."""
    return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV)


def is_no_attribute(error: OSError) -> bool:
    """Tell whether an extended attribute is not there, or the disk keeps none."""
    return error.errno in (errno.ENODATA, errno.ENOTSUP)


def is_attribute_too_long(error: OSError) -> bool:
    """Tell whether an extended attribute does not fit (ext4 and btrfs: ENOSPC), or nothing does any more."""
    return error.errno in (errno.ENOSPC, errno.E2BIG, errno.ERANGE)
