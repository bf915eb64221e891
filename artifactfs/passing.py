"""Failures that may pass by themselves, and those that do not, told apart in one place.

A failure of a store, a disk, the network or the machine may pass. What lies in the files, the answer of a store or a
system that refuses, and a defect do not.

Threading: pure, safe from any thread.
"""

from __future__ import annotations

import errno

from artifactfs.errors import ArtifactError
from artifactfs.threads import is_for_want_of_threads

# Answers about names, kinds of files, rights and arguments: the same call gives the same answer again.
_REFUSALS = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR),
        *(errno.EEXIST, errno.ENOTEMPTY, errno.EFBIG, errno.EOVERFLOW, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS),
        *(errno.EXDEV, errno.EMLINK, errno.EILSEQ, errno.ERANGE, errno.E2BIG, errno.EFAULT),
    }
)


def may_pass(error: BaseException) -> bool:
    """Tell whether the same thing may succeed later with nothing done about it."""
    if isinstance(error, ArtifactError):
        return error.transient
    if isinstance(error, OSError):
        return not isinstance(error, PermissionError) and error.errno not in _REFUSALS
    return is_for_want_of_threads(error)
