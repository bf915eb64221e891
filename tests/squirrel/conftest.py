"""The real squirrel-core, in a process of its own: what it depends on holds back what we depend on."""

from __future__ import annotations

import os

import pytest

from tests.squirrel.client import Squirrel

VARIABLE = "ARTIFACTFS_SQUIRREL_PYTHON"


@pytest.fixture(scope="session")
def squirrel():
    python = os.environ.get(VARIABLE)
    if not python:
        reason = f"{VARIABLE} does not name a Python that has squirrel-core; scripts/test makes one"
        if os.environ.get("REQUIRE_FUSE") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    squirrel = Squirrel(python)
    yield squirrel
    squirrel.close()
