"""Copiers at work while their files are committed; ``scripts/soak copiers`` runs the same for longer."""

from __future__ import annotations

import os

import pytest

from tests.mount.conftest import MakeMount
from tests.soak import copiers

pytestmark = [pytest.mark.fuse, pytest.mark.long(12)]

SECONDS = float(os.environ.get("SOAK_SECONDS", "10"))


def test_four_copiers_lose_and_mix_nothing(make_mount: MakeMount) -> None:
    """S2, C3, C7: every closed file is in exactly one version of its own artifact, byte for byte."""
    mount = make_mount("--commit-after", "0.5", "--refresh", "0.5")
    print(copiers.soak(mount, copiers.Plan(seconds=SECONDS)))


def test_copiers_outlive_the_daemon(make_mount: MakeMount) -> None:
    """S2, C7, C8: the same while the daemon is killed again and again."""
    mount = make_mount("--commit-after", "0.3", "--on-failure", "commit", "--refresh", "0.5")
    print(copiers.soak(mount, copiers.Plan(seconds=SECONDS / 2, copiers=2, kill_every_s=1.5)))
