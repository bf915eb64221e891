"""Every error has its errno, on purpose."""

from __future__ import annotations

import errno
import inspect
from types import ModuleType

import pytest

import artifactfs.errors
import mount.errors
from mount import errno_map
from mount.errno_map import errno_of, is_expected

# Bases: what is raised as one of them was not foreseen.
BASES = {"ArtifactError", "DriveError"}


def classes(module: ModuleType) -> list[type[Exception]]:
    """The exceptions a module defines."""
    found = inspect.getmembers(module, lambda o: inspect.isclass(o) and issubclass(o, Exception))
    return [kind for name, kind in found if kind.__module__ == module.__name__ and name not in BASES]


@pytest.mark.parametrize("kind", classes(artifactfs.errors) + classes(mount.errors), ids=lambda kind: kind.__name__)
def test_every_class_has_a_row(kind: type[Exception]) -> None:
    """A new exception class needs a row in the table, or one of its base's."""
    error = kind("what happened")
    assert is_expected(error)
    assert errno_of(error) > 0
    assert any(kind is row or (issubclass(kind, row) and row.__name__ not in BASES) for row, _ in errno_map._TABLE)


@pytest.mark.parametrize("number", [512, 524, 529, 4096, 1 << 31, -5, 0])
def test_no_number_that_the_kernel_refuses(number: int) -> None:
    """D8: those above 511 are the kernel's own, though some disks let them through."""
    assert errno_of(OSError(number, "")) == errno.EIO
    assert errno_of(OSError(511, "")) == 511


def test_no_row_is_hidden_by_another() -> None:
    """The most specific class comes first."""
    seen: list[type[BaseException]] = []
    for kind, _ in errno_map._TABLE:
        assert not any(issubclass(kind, earlier) for earlier in seen), kind
        seen.append(kind)


def test_the_important_ones() -> None:
    """Missing is ENOENT, unreachable and damaged are EIO, read-only is EROFS: never one for another."""
    expected = {
        artifactfs.errors.PathNotFound: errno.ENOENT,
        artifactfs.errors.StoreUnreachable: errno.EIO,
        artifactfs.errors.StoreTimeout: errno.EIO,
        artifactfs.errors.IntegrityError: errno.EIO,
        artifactfs.errors.StoreFull: errno.ENOSPC,
        artifactfs.errors.AccessDenied: errno.EACCES,
        mount.errors.ReadOnly: errno.EROFS,
        mount.errors.CrossTree: errno.EXDEV,
        mount.errors.Stale: errno.ESTALE,
    }
    assert {kind: errno_of(kind("x")) for kind in expected} == expected


def test_system_calls_keep_their_errno() -> None:
    """An OSError of the staging disk is passed on."""
    assert errno_of(OSError(errno.EDQUOT, "quota")) == errno.EDQUOT
    assert errno_of(FileNotFoundError(errno.ENOENT, "gone")) == errno.ENOENT
    assert errno_of(FileExistsError("name only")) == errno.EEXIST


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), KeyError("x"), AssertionError(), artifactfs.errors.ArtifactError()]
)
def test_the_unforeseen_is_eio(error: Exception) -> None:
    """A defect is EIO and not expected, so that it is logged."""
    assert errno_of(error) == errno.EIO
    assert not is_expected(error)
