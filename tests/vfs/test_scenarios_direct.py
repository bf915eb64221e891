"""Every scenario directly on the vfs, over a store on disk and one in memory."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from tests import scenarios
from tests.scenarios.harnesses import direct_drive

STORES = ("local", "memory")
ROWS = [
    pytest.param(row, kind, id=f"{row.name}-{kind}")
    for row in scenarios.ALL
    for kind in STORES
    # A store in memory has no files to look into.
    if not row.mounted and not (row.local and kind == "memory")
]


@pytest.mark.parametrize(("row", "kind"), ROWS)
def test_scenario(row: scenarios.Scenario, kind: str, tmp_path: Path) -> None:
    """See the scenario."""
    store = str(tmp_path / "store") if kind == "local" else f"memory://{uuid.uuid4().hex}"
    with direct_drive(store, tmp_path, automatic=row.automatic) as drive:
        row.run(drive)
