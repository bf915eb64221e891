"""A short run of ``scripts/soak power``: what was acknowledged survives a loss of power at random moments."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.soak.power_disk import why_no_disk

pytestmark = [pytest.mark.fuse, pytest.mark.long(15)]


@pytest.mark.skipif(why_no_disk("ext4") is not None, reason=str(why_no_disk("ext4")))
def test_acknowledged_commits_survive_a_loss_of_power() -> None:
    """S2, S13, C7."""
    # In a process of its own, because it enters a mount namespace.
    command = [sys.executable, "-m", "tests.soak", "power", "--file-systems", "ext4", "--cuts", "4", "--seconds", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 cuts" in done.stdout
