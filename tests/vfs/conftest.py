"""Fixtures for drives without a mount."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import artifactfs
from mount.settings import MountSettings
from tests.drives import DirectDrive
from tests.vfs.stores import Wrapped

MakeDrive = Callable[..., DirectDrive]


@pytest.fixture
def make_drive(tmp_path: Path) -> Iterator[MakeDrive]:
    """Drives of a local store, ``make_drive(before=…, commit_after_s=…)``; closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(before: Callable[[str], None] | None = None, **settings: Any) -> DirectDrive:
            manager = artifactfs.connect(str(tmp_path / "store"))
            manager.ensure_created()
            options = {"commit_after_s": None, "refresh_s": 0.0, "state_dir": tmp_path / "state", "min_free_bytes": 0}
            made = MountSettings(str(tmp_path / "store"), tmp_path / "mnt", **(options | settings))
            drive: DirectDrive = DirectDrive(Wrapped(manager, before) if before else manager, made)  # type: ignore[arg-type]
            return stack.enter_context(drive)

        yield make


@pytest.fixture
def drive(make_drive: MakeDrive) -> DirectDrive:
    """A drive of a local store that commits on request."""
    return make_drive()
