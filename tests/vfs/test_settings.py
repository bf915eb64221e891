"""Mount settings: checked when made, and the same on the other side of a pipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mount.settings import MountSettings, SettingsError


def made(**changes: Any) -> MountSettings:
    return MountSettings(**({"url": "memory://x", "mountpoint": Path("/mnt/x"), "state_dir": Path("/var/x")} | changes))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"commit_after_s": -1.0}, "commit-after"),
        ({"commit_after_s": float("nan")}, "commit-after"),
        ({"commit_after_s": float("inf")}, "commit-after"),
        ({"refresh_s": -0.1}, "refresh"),
        ({"refresh_s": float("nan")}, "refresh"),
        ({"driver": "fusepy"}, "driver"),
        ({"reads": "fast"}, "reads"),
        ({"umask": 0o1000}, "umask"),
        ({"umask": -1}, "umask"),
        ({"min_free_bytes": -1}, "min-free"),
        ({"uid": -5}, "uid"),
        ({"gid": 1 << 32}, "gid"),
        ({"drain_timeout_s": -1.0}, "drain-timeout"),
        ({"mountpoint": Path("relative")}, "mountpoint"),
        ({"state_dir": Path("relative")}, "state_dir"),
    ],
)
def test_nonsense_is_refused(changes: dict[str, Any], named: str) -> None:
    """The message names the option."""
    with pytest.raises(SettingsError, match=named):
        made(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"commit_after_s": None},
        {"commit_after_s": 0.0, "refresh_s": 0.0, "umask": 0o777, "read_only": True, "uid": 7, "gid": 8},
        {"options": {"key": "secret", "nested": {"a": [1, 2.5, None, True]}}, "mountpoint": Path("/mnt/ünï code")},
    ],
)
def test_over_a_pipe(changes: dict[str, Any]) -> None:
    """The daemon gets exactly what the command was given."""
    settings = made(**changes)
    assert MountSettings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"{}", b'{"url": 3, "mountpoint": "/x"}'])
def test_damage_on_the_way(raw: bytes) -> None:
    """What cannot be read is a SettingsError."""
    with pytest.raises(SettingsError):
        MountSettings.from_json(raw)


def test_frozen() -> None:
    """Nobody changes options later."""
    with pytest.raises(AttributeError):
        made().url = "other"  # type: ignore[misc]
