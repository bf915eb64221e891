"""Stores that somebody wrote to harm: refused by a named error, and nothing is written but where it was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from artifactfs import ArtifactManager, connect
from artifactfs.managers.filesystem import FileSystemArtifactManager
from tests.hostile import BYTES, CASES, columns, put_version
from tests.servers import Server
from tests.servers.fixtures import StartServer


@pytest.fixture(params=["local", "moto", "azurite", "sftp"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any]]:
    if request.param == "local":
        return str(tmp_path / "store"), {}
    start_server: StartServer = request.getfixturevalue("start_server")
    server: Server = start_server(request.param)
    return server.fresh(), server.options


def hostile_store(place: tuple[str, dict[str, Any]], manifest: bytes) -> ArtifactManager:
    """A store whose default/m@v0 has this manifest."""
    url, options = place
    manager = connect(url, **options)
    assert isinstance(manager, FileSystemArtifactManager)
    put_version(manager, "m", manifest)
    return connect(url, **options)


def everything_below(directory: Path) -> set[Path]:
    return {path for path in directory.rglob("*") if "store" not in path.parts}


@pytest.mark.parametrize("case", sorted(CASES))
def test_hostile_versions(case: str, place: tuple[str, dict[str, Any]], tmp_path: Path):
    manifest, error = CASES[case]
    manager = hostile_store(place, manifest)
    outside = everything_below(tmp_path)
    with pytest.raises(error) as caught:
        manager.download_artifact("m", to=tmp_path / "deep" / "down" / "to")
    assert str(caught.value)
    assert "Traceback" not in str(caught.value)
    made = everything_below(tmp_path) - outside
    assert all(path.is_dir() for path in made), made
    assert not Path("/tmp/escaped").exists()
    with pytest.raises(error):
        read_all(manager)


def read_all(manager: ArtifactManager) -> None:
    info = manager.version_info("m")
    for entry in manager.manifest("m"):
        manager.read_entry(info, entry, 0, 4096 if entry.size_bytes > 1 << 30 else None)


def test_the_honest_one_is_read(place: tuple[str, dict[str, Any]], tmp_path: Path):
    manager = hostile_store(place, columns())
    manager.download_artifact("m", to=tmp_path / "to")
    assert (tmp_path / "to/m/file").read_bytes() == BYTES
