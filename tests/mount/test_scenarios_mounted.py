"""Every scenario through a real mount, with the calls any program makes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import scenarios
from tests.drives import Drive
from tests.mount.harness import Mount
from tests.mount.shared import drive_on, mounted

pytestmark = pytest.mark.fuse

# What the scenarios provoke: blocked commits and damaged objects.
EXPECTED = (r"cannot commit pending\.\d+ of", r"is damaged", r"is cut short", r"is missing from")


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory, driver: str) -> Iterator[dict[bool, Drive]]:
    """One mount that commits by itself and one that does not, for all scenarios."""
    directory = tmp_path_factory.mktemp("scenarios")
    arguments = ("--refresh", str(scenarios.REFRESH_S), "--commit-after")
    with (
        mounted(directory / "automatic", driver, *arguments, str(scenarios.COMMIT_AFTER_S)) as automatic,
        mounted(directory / "manual", driver, *arguments, "never") as manual,
    ):
        for mount in (automatic, manual):
            for pattern in EXPECTED:
                mount.expect_warning(pattern)
        yield {True: _drive(automatic), False: _drive(manual)}


def _drive(mount: Mount) -> Drive:
    return drive_on(mount, mount.path.parent)


@pytest.mark.parametrize("row", scenarios.ALL, ids=lambda row: row.name)
def test_scenario(row: scenarios.Scenario, drives: dict[bool, Drive]) -> None:
    """See the scenario."""
    row.run(drives[row.automatic])
