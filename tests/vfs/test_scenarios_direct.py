"""Every scenario directly on the vfs, over a store on disk and one in memory."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

import artifactfs
from mount.settings import MountSettings
from tests import scenarios
from tests.drives import DirectDrive

STORES = ("local", "memory")
ROWS = [
    pytest.param(row, kind, id=f"{row.name}-{kind}")
    for row in scenarios.ALL
    for kind in STORES
    # A store in memory has no files to look into.
    if not row.mounted and not (row.local and kind == "memory")
]


def _open(store: str, tmp_path: Path, commit_after_s: float | None) -> DirectDrive:
    manager = artifactfs.connect(store)
    manager.ensure_created()
    settings = MountSettings(
        store,
        tmp_path / "mnt",
        commit_after_s=commit_after_s,
        refresh_s=scenarios.REFRESH_S,
        state_dir=tmp_path / "state",
    )
    return DirectDrive(manager, settings)


@pytest.mark.parametrize(("row", "kind"), ROWS)
def test_scenario(row: scenarios.Scenario, kind: str, tmp_path: Path) -> None:
    """See the scenario."""
    store = str(tmp_path / "store") if kind == "local" else f"memory://{uuid.uuid4().hex}"
    with _open(store, tmp_path, scenarios.COMMIT_AFTER_S if row.automatic else None) as drive:
        row.run(drive)
