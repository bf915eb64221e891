"""Which driver ``auto`` takes."""

from __future__ import annotations

import os

import pytest

from mount import drivers


@pytest.mark.parametrize(
    ("release", "device_opens", "name"),
    [
        ("6.18.44-fc", True, "kernel"),
        ("5.4.0-1-amd64", True, "kernel"),
        ("5.3.18", True, "libfuse"),
        ("4.19.0", True, "libfuse"),
        ("unnamed", True, "libfuse"),
        ("6.18.44", False, "libfuse"),
    ],
)
def test_auto(monkeypatch: pytest.MonkeyPatch, release: str, device_opens: bool, name: str) -> None:
    """D1: the native driver where it works."""
    found = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((found[0], found[1], release, *found[3:])))
    monkeypatch.setattr(os, "access", lambda path, mode: device_opens)
    assert drivers.load("auto").name == name


@pytest.mark.parametrize("name", ["kernel", "libfuse"])
def test_by_name(name: str) -> None:
    """Each is what it is called."""
    assert drivers.load(name).name == name


def test_no_such_driver() -> None:
    """The message says which there are."""
    with pytest.raises(drivers.DriverUnavailable, match="auto, kernel or libfuse"):
        drivers.load("fusepy")
