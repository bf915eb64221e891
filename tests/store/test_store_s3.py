"""Stores on S3 servers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from store_helpers import contents, snapshot

from artifactfs import ArtifactManager, connect
from artifactfs.errors import StoreUnreachable
from tests.servers import Server


@pytest.fixture
def manager(s3_server: Server) -> ArtifactManager:
    return connect(s3_server.fresh(), **s3_server.options)


def test_round_trip(manager: ArtifactManager, tree: Path, tmp_path: Path):
    manager.commit_tree("model", tree, commit_id="a", aliases=["best"])
    assert not manager.commit_tree("model", tree, commit_id="b").created
    manager.download_artifact("model", version="best", to=tmp_path / "out")
    assert snapshot(tmp_path / "out" / "model") == snapshot(tree)
    assert manager.list_collection_names() == ["default"]
    assert manager.list_artifacts() == ["model"]
    manager.delete_version("model", "v0")
    assert manager.list_version_names("model") == []
    assert manager.aliases("model") == {}
    assert manager.commit_tree("model", tree, commit_id="a").info.version == "v0"
    assert manager.list_version_names("model") == []


def test_racing_writers(manager: ArtifactManager, tmp_path: Path):
    def work(number: int) -> None:
        tree = tmp_path / str(number)
        tree.mkdir()
        for i in range(4):
            (tree / "who").write_text(f"{number} {i}")
            manager.commit_tree("model", tree, commit_id=f"{number}-{i}", message=f"{number} {i}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    versions = manager.list_versions("model")
    assert [info.version for info in versions] == [f"v{i}" for i in range(16)]
    assert len({info.commit_id for info in versions}) == 16
    for info in versions:
        assert contents(manager, "model", info.version) == {"who": info.message.encode()}


def test_a_server_that_is_not_there():
    gone = connect(
        "s3://bucket/x",
        key="k",
        secret="s",
        client_kwargs={"endpoint_url": "http://127.0.0.1:9"},
        config_kwargs={"retries": {"max_attempts": 0}, "connect_timeout": 2},
    )
    with pytest.raises(StoreUnreachable):
        gone.list_collection_names()
