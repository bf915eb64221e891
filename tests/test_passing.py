"""Every failure is one that may pass or one that does not, on purpose."""

from __future__ import annotations

import errno
import inspect
from types import ModuleType

import pytest

import artifactfs.errors
import mount.errors
from artifactfs.errors import ArtifactError
from artifactfs.passing import may_pass

PASSING = {"StoreUnreachable", "StoreTimeout", "StoreFull", "TreeUnreadable", "Busy", "NoRoom"}
LASTING = {
    *("ArtifactError", "InvalidName", "NotFound", "CollectionNotFound", "ArtifactNotFound", "VersionNotFound"),
    *("PathNotFound", "AlreadyExists", "AccessDenied", "IntegrityError", "FormatError", "UnsupportedTree"),
    *(
        "UnsafeStore",
        "UnknownScheme",
        "ArgumentError",
        "MissingDependency",
        "SerializationError",
        "Unsupported",
        "DriveError",
        "AreaRefused",
    ),
    *("ReadOnly", "NotPermitted", "Stale", "CrossTree", "Held", "NothingStaged", "StagingNotEmpty"),
    "NoSuchAttribute",
    *("AttributeTooLong", "NoSuchOffset", "AttributeUnsupported"),
}
SYSTEM_PASSING = (
    *("EIO", "ENOSPC", "EDQUOT", "EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "EINTR", "EBUSY", "ENOENT", "ESTALE"),
    *("EROFS", "ENODEV", "ENXIO", "ETIMEDOUT", "ECONNRESET", "ECONNREFUSED", "EPIPE", "ENETUNREACH", "EHOSTUNREACH"),
)
SYSTEM_LASTING = ("EACCES", "EPERM", "EINVAL", "ENAMETOOLONG", "ELOOP", "ENOTDIR", "EISDIR", "EOVERFLOW", "ENOTSUP")


def classes(module: ModuleType) -> list[type[Exception]]:
    """The exceptions that a module defines."""
    found = inspect.getmembers(module, lambda o: inspect.isclass(o) and issubclass(o, ArtifactError))
    return [kind for _, kind in found if kind.__module__ == module.__name__]


@pytest.mark.parametrize("kind", classes(artifactfs.errors) + classes(mount.errors), ids=lambda kind: kind.__name__)
def test_every_class_was_thought_of(kind: type[Exception]) -> None:
    """C6: a new exception class belongs to one of the two kinds."""
    assert (kind.__name__ in PASSING, kind.__name__ in LASTING) == (may_pass(kind("why")), not may_pass(kind("why")))


@pytest.mark.parametrize("name", SYSTEM_PASSING + SYSTEM_LASTING)
def test_answers_of_the_system(name: str) -> None:
    """C6: those about what was asked do not pass, those about a disk, the network or the machine may."""
    assert may_pass(OSError(getattr(errno, name), "why")) == (name in SYSTEM_PASSING)


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (MemoryError(), True),
        (RuntimeError("can't start new thread"), True),
        (ConnectionError("no number"), True),
        (PermissionError("no number"), False),
        (RuntimeError("a defect"), False),
        (OverflowError("int too big to convert"), False),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), False),
        (KeyError("x"), False),
        (RecursionError(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_python_raises(error: Exception, passing: bool) -> None:
    """C6: want of memory and of threads may pass, a defect does not."""
    assert may_pass(error) == passing
