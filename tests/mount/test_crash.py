"""Killed at random moments while files are written and committed; `scripts/soak crash` does it far more often."""

from __future__ import annotations

import pytest

from tests.mount.shared import mounted
from tests.quick import quick_directory
from tests.soak.crash import CrashLoop

pytestmark = [pytest.mark.fuse, pytest.mark.long(25)]

KILLS = 10
SEED = 4


def test_ten_kills(driver: str) -> None:
    """S2, C7, C8: what was closed or synced is found after every kill, and is in exactly one version at the end."""
    arguments = ("--commit-after", "0.2", "--on-failure", "commit", "--refresh", "0.5", "--min-free", "0")
    with quick_directory() as directory, mounted(directory, driver, *arguments) as mount:
        counts = CrashLoop(mount, SEED).run(KILLS)
        assert counts.kills == KILLS
        assert counts.closed_files > KILLS
        assert counts.versions > KILLS / 2
