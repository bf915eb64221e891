"""Killed before every few system calls of a commit, and of taking back; `crash_sweep_drive` does it for each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long(12)
def test_killed_between_system_calls(tmp_path: Path) -> None:
    """C7, C8: wherever the daemon dies, the next one makes exactly one version of what was staged, whole."""
    command = [sys.executable, "-m", "tests.vfs.crash_sweep_drive", str(tmp_path / "sweep"), "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


def test_killed_while_a_tree_is_taken_back(tmp_path: Path) -> None:
    """C19, C7, C8: wherever the daemon dies, the tree is whole in one place, and becomes one version in its turn."""
    command = [sys.executable, "-m", "tests.vfs.crash_sweep_drive", str(tmp_path / "sweep"), "3", "reopen"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20
