"""Stores of every kind that needs no server."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from store_helpers import make_tree

from artifactfs import connect
from artifactfs.managers.filesystem import FileSystemArtifactManager


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "store")
    return f"memory://store-{uuid.uuid4().hex}"


@pytest.fixture
def manager(url: str) -> FileSystemArtifactManager:
    found = connect(url)
    assert isinstance(found, FileSystemArtifactManager)
    return found


@pytest.fixture
def local(tmp_path: Path) -> FileSystemArtifactManager:
    return FileSystemArtifactManager(str(tmp_path / "store"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree")
