"""Our managers where squirrel-core's are asked for: its own tests' demands, its type, its methods, its drivers."""

from __future__ import annotations

import inspect
from pathlib import Path

import fs_logging
import pytest

from artifactfs import ArtifactManager, DirectoryLogger, TmpArtifact, connect
from artifactfs.errors import NotFound


@pytest.mark.parametrize("kind", ["objects", "plain"])
@pytest.mark.parametrize("scenario", fs_logging.SCENARIOS)
def test_what_squirrels_tests_demand(kind: str, scenario: str, tmp_path: Path):
    fs_logging.run(kind, scenario, str(tmp_path))


@pytest.mark.parametrize("kind", ["objects", "plain", "squirrel"])
def test_what_squirrels_tests_demand_beside_squirrel(squirrel, kind: str, tmp_path: Path):
    for scenario in fs_logging.SCENARIOS:
        (tmp_path / scenario).mkdir()
        squirrel.call("log_as_squirrel", kind, scenario, str(tmp_path / scenario))


def test_our_classes_have_the_methods_of_theirs(squirrel):
    ours = {"ArtifactManager": ArtifactManager, "DirectoryLogger": DirectoryLogger, "TmpArtifact": TmpArtifact}
    for kind, methods in squirrel.call("public_face").items():
        for name, parameters in methods.items():
            mine = getattr(ours[kind], name)
            if parameters is not None:
                assert list(inspect.signature(mine).parameters)[: len(parameters)] == parameters, f"{kind}.{name}"


@pytest.mark.parametrize("first", ["nothing", "managers", "plug-ins", "catalogs"])
def test_our_managers_are_of_squirrels_type(squirrel, first: str, tmp_path: Path):
    assert squirrel.fresh("is_of_squirrels_type", first, str(tmp_path / "store")) == [True, True, False]


@pytest.mark.parametrize("url", ["{}", "plain+file://{}"])
def test_squirrels_catalog_loads_what_ours_describes(squirrel, url: str, tmp_path: Path):
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "a.txt").write_text("alpha")
    (tmp_path / "tree" / "sub" / "b").write_bytes(b"\0\1")
    manager = connect(url.format(tmp_path / "store"))
    manager.log_files("model", tmp_path / "tree")
    manager.store_to_catalog().to_file(str(tmp_path / "catalog.yaml"))
    found = squirrel.fresh("load_catalog", str(tmp_path / "catalog.yaml"), "default/model")
    assert found == [b"alpha".hex(), b"\0\1".hex()]


def test_the_source_of_one_artifact(tmp_path: Path):
    (tmp_path / "a.txt").write_text("1")
    manager = connect(tmp_path / "store")
    manager.log_files("model", tmp_path / "a.txt", aliases=["best"])
    (tmp_path / "a.txt").write_text("2")
    manager.log_files("model", tmp_path / "a.txt")
    for version, number in ((None, 2), ("latest", 2), ("v0", 1), ("best", 1)):
        source = manager.get_artifact_source("model", version=version)
        assert (source.identifier, source.version) == ("default/model", number)
        assert source.get_driver().get("a.txt") == str(number).encode()
    for artifact, version in (("none", None), ("model", "v7"), ("model", "none")):
        with pytest.raises(NotFound):
            manager.get_artifact_source(artifact, version=version)
