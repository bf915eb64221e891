"""Mounts that several tests share, each test with artifacts of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import artifactfs
from tests.drives import Drive, MountedDrive
from tests.mount.harness import Mount


@contextlib.contextmanager
def mounted(directory: Path, driver: str, *arguments: str, store: str | Path | None = None) -> Iterator[Mount]:
    """A mount of its own, with nothing wrong in its log and nothing left over at the end."""
    mount = Mount(directory, store, driver=driver)
    try:
        mount.mount(*arguments)
        yield mount
    finally:
        wrong = mount.tear_down()
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


def drive_on(mount: Mount, directory: Path) -> MountedDrive:
    """The drive behind a mount; `directory` is for further mounts of the same store."""

    @contextlib.contextmanager
    def another() -> Iterator[Drive]:
        where = directory / "another"
        with mounted(where, mount.driver, "--read-only", store=mount.store) as other:
            yield drive_on(other, where)

    return MountedDrive(mount.path, artifactfs.connect(mount.store), another)
