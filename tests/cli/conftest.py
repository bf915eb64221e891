"""Stores and trees for the tests of the store's commands."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from artifactfs import ArtifactManager, connect
from tests.cli.support import Commands
from tests.trees import make_tree


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that does not exist yet."""
    return str(tmp_path / "store") if request.param == "local" else f"memory://store-{uuid.uuid4().hex}"


@pytest.fixture
def local(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree")


@pytest.fixture
def manager(url: str) -> ArtifactManager:
    return connect(url)


@pytest.fixture
def run(url: str) -> Commands:
    return Commands(url)
