"""The drives that the scenarios run on: mounted, and directly on the vfs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import artifactfs
from mount.settings import MountSettings
from tests import scenarios
from tests.drives import DirectDrive, Drive
from tests.mount.shared import drive_on, mounted

# What the scenarios provoke: blocked commits and damaged objects.
EXPECTED = (r"cannot commit pending\.\d+ of", r"is damaged", r"is cut short", r"is missing from")


@contextlib.contextmanager
def mounted_drives(directory: Path, driver: str) -> Iterator[dict[bool, Drive]]:
    """One mount that commits by itself (True) and one that does not (False), for all scenarios."""
    arguments = ("--refresh", str(scenarios.REFRESH_S), "--commit-after")
    with (
        mounted(directory / "automatic", driver, *arguments, str(scenarios.COMMIT_AFTER_S)) as automatic,
        mounted(directory / "manual", driver, *arguments, "never") as manual,
    ):
        for mount in (automatic, manual):
            for pattern in EXPECTED:
                mount.expect_warning(pattern)
        yield {True: drive_on(automatic, directory / "automatic"), False: drive_on(manual, directory / "manual")}


def direct_drive(store: str, directory: Path, *, automatic: bool) -> DirectDrive:
    """A drive of a store, which is made, without a mount."""
    manager = artifactfs.connect(store)
    manager.ensure_created()
    settings = MountSettings(
        store,
        directory / "mnt",
        commit_after_s=scenarios.COMMIT_AFTER_S if automatic else None,
        refresh_s=scenarios.REFRESH_S,
        state_dir=directory / "state",
    )
    return DirectDrive(manager, settings)
