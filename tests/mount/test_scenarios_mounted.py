"""Every scenario through a real mount, with the calls any program makes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import scenarios
from tests.drives import Drive
from tests.scenarios.harnesses import mounted_drives

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory, driver: str) -> Iterator[dict[bool, Drive]]:
    """One mount that commits by itself and one that does not, for all scenarios."""
    with mounted_drives(tmp_path_factory.mktemp("scenarios"), driver) as drives:
        yield drives


@pytest.mark.parametrize("row", scenarios.ALL, ids=lambda row: row.name)
def test_scenario(row: scenarios.Scenario, drives: dict[bool, Drive]) -> None:
    """See the scenario."""
    row.run(drives[row.automatic])
