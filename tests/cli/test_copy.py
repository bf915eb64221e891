"""Copying versions: within a store, between stores of the object layout, and between any other managers."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from artifactfs import ArtifactManager, connect
from artifactfs.commands.options import CommandError
from artifactfs.errors import IntegrityError, InvalidName, VersionNotFound
from artifactfs.managers.base import CommitResult, Progress, VersionInfo
from artifactfs.managers.browsable import BrowsableManager
from artifactfs.managers.filesystem import FileSystemArtifactManager
from artifactfs.manifest import Entry, Manifest
from artifactfs.objects import transfer
from artifactfs.parts import part_of, restore_part
from artifactfs.transfer import copy_version
from tests.cli.support import Commands
from tests.trees import assert_same


@pytest.fixture(params=["local", "memory"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Another store."""
    return str(tmp_path / "other") if request.param == "local" else f"memory://other-{uuid.uuid4().hex}"


@pytest.fixture
def history(run: Commands, tree: Path) -> Path:
    """models/bert with v0 (alias best), v1 and v2, which has the content of v0 again."""
    run("put", tree, "models/bert", "-m", "first", "--alias", "best", "--metadata", "lr=0.1")
    (tree / "more").write_bytes(b"more")
    run("put", tree, "models/bert", "-m", "second")
    (tree / "more").unlink()
    run("put", tree, "models/bert", "-m", "as at first")
    return tree


def objects_of(url: str) -> dict[str, int]:
    """Every object of a store, by its key."""
    manager = connect(url)
    assert isinstance(manager, FileSystemArtifactManager)
    return {file.key: file.size_bytes for file in manager.store.walk("objects")}


def told(url: str, address: str) -> list[tuple[str, str, dict[str, Any], str]]:
    """What a copy must keep of every version."""
    collection, artifact = address.split("/")
    infos = connect(url).list_versions(artifact, collection)
    return [(info.version, info.message, dict(info.metadata), str(info.digest)) for info in infos]


def test_an_artifact_into_another_store(run: Commands, history: Path, other: str, tmp_path: Path):
    copied = run.json("copy", "models/bert", "--to-store", other)
    assert [fields["version"] for fields in copied] == ["v0", "v1", "v2"]
    assert all(fields["created"] for fields in copied)
    assert copied[1]["source"] == {"collection": "models", "artifact": "bert", "version": "v1"}
    assert told(other, "models/bert") == told(run.url, "models/bert")
    assert connect(other).aliases("bert", "models") == {"best": "v0"}
    # The very same objects: nothing was packed again.
    assert objects_of(other) == objects_of(run.url)
    assert sum(fields["sent_bytes"] for fields in copied) < sum(objects_of(other).values())
    assert_same(history, Path(str(connect(other).download_artifact("bert", "models", "v2", tmp_path))))
    assert Commands(other).json("verify")["ok"] is True


def test_what_was_copied_is_not_copied_again(run: Commands, history: Path, other: str):
    run("copy", "models/bert", "--to-store", other)
    before = told(other, "models/bert")
    for fields in run.json("copy", "models/bert", "--to-store", other):
        assert (fields["created"], fields["sent_bytes"]) == (False, 0)
    assert run.lines("copy", "models/bert@v1", "--to-store", other) == [
        "models/bert v1 is there already: models/bert v1"
    ]
    assert told(other, "models/bert") == before


def test_what_is_there_is_not_sent(run: Commands, history: Path, other: str):
    run("copy", "models/bert@v1", "--to-store", other)
    for target in ("models/bert", "prod/bert", "models/renamed"):
        for fields in run.json("copy", "models/bert@v0", target, "--to-store", other):
            assert (fields["version"], fields["created"]) == ("v1" if target == "models/bert" else "v0", True)
            # A remote store is asked for versions of the same content; the pack of v1 is another than that of v0.
            if target != "models/bert" or "://" not in other:
                assert fields["deduplicated_bytes"] > 2_000_000
    assert told(other, "prod/bert")[0][1:] == told(run.url, "models/bert")[0][1:]


def test_within_a_store_nothing_is_sent(run: Commands, history: Path):
    before = objects_of(run.url)
    for fields in run.json("copy", "models/bert", "prod/best-bert"):
        assert (fields["created"], fields["sent_bytes"]) == (True, 0)
    assert objects_of(run.url) == before
    assert [kept[1:] for kept in told(run.url, "prod/best-bert")] == [kept[1:] for kept in told(run.url, "models/bert")]
    assert run.lines("copy", "models/bert@best", "prod") == [
        "models/bert v0 copied to prod/bert v0: 12 files, 0 B sent, 2.7 MiB already there"
    ]


def test_aliases_of_the_target_stay(run: Commands, history: Path, other: str):
    there = Commands(other)
    there("put", history, "models/bert", "--alias", "best", "-m", "was here before")
    run("alias", "models/bert@v1", "second")
    run("copy", "models/bert", "--to-store", other)
    assert connect(other).aliases("bert", "models")["best"] == "v0"
    assert there.json("log", "models/bert@second")[0]["message"] == "second"
    assert there.json("log", "models/bert@best")[0]["message"] == "was here before"


def test_a_copy_that_was_deleted_is_made_anew(run: Commands, history: Path, other: str):
    there = Commands(other)
    run("copy", "models/bert@v1", "--to-store", other)
    there("delete", "models/bert@v0", "--yes")
    for _ in range(2):
        (fields,) = run.json("copy", "models/bert@v1", "--to-store", other)
        assert fields["version"] == "v1"
    there("delete", "models/bert@v1", "--yes")
    assert run.json("copy", "models/bert@v1", "--to-store", other)[0]["version"] == "v2"


def test_deleted_versions_leave_no_hole_in_a_copy(run: Commands, history: Path, other: str):
    run("delete", "models/bert@v1", "--yes")
    copied = run.json("copy", "models/bert", "--to-store", other)
    # v2 has the content of v0, so beside it there is nothing new.
    assert [fields["version"] for fields in copied] == ["v0", "v0"]
    with pytest.raises(VersionNotFound):
        run("copy", "models/bert@v1", "--to-store", other)


def test_copy_refuses(run: Commands, history: Path, other: str):
    with pytest.raises(CommandError, match="copied to itself"):
        run("copy", "models/bert@v0", "models")
    with pytest.raises(CommandError, match="copied to itself"):
        run("copy", "models/bert", "--to-store", run.url)
    for wrong in (["models", "prod"], ["models/bert:src", "prod"], ["models/bert", "prod/bert@v0"]):
        with pytest.raises(InvalidName):
            run("copy", *wrong)
    run("copy", "models/bert", status=2)


def test_large_objects_go_through_a_file(
    run: Commands, history: Path, other: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(transfer, "_IN_MEMORY_BYTES", 1000)
    monkeypatch.setattr(transfer, "_CHUNK_BYTES", 1 << 16)
    run("copy", "models/bert@v0", "--to-store", other)
    assert_same(history, Path(str(connect(other).download_artifact("bert", "models", to=tmp_path))))


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_damage_is_not_copied(run: Commands, history: Path, other: str, damage: str):
    source = connect(run.url)
    assert isinstance(source, FileSystemArtifactManager)
    key = next(key for key, size_bytes in objects_of(run.url).items() if size_bytes > 1_000_000)
    source.store.delete(key)
    if damage == "changed":
        source.store.put(key, b"other bytes" * 200_000)
    with pytest.raises(IntegrityError):
        run("copy", "models/bert@v0", "--to-store", other)
    assert not connect(other).exists_in_collection("bert", "models")


def test_a_copy_that_was_cut_short_goes_on(run: Commands, history: Path, other: str, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patched:
        patched.setattr(transfer.Transfer, "_publish", lambda *_arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        run("copy", "models/bert@v0", "--to-store", other, status=1)
    assert objects_of(other)
    run("copy", "models/bert@v0", "--to-store", other)
    assert told(other, "models/bert")[0][1:] == told(run.url, "models/bert")[0][1:]


# -- other managers ----------------------------------------------------------------------------------------------------


class Foreign(BrowsableManager):
    """A manager of another kind, as far as anybody can see: entries by path, no objects, no commit ids."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self._inner = connect(url)

    def list_collection_names(self) -> list[str]:
        return self._inner.list_collection_names()

    def list_artifacts(self, collection: str | None = None) -> list[str]:
        return self._inner.list_artifacts(collection)

    def list_version_names(self, artifact: str, collection: str | None = None) -> list[str]:
        return self._inner.list_version_names(artifact, collection)

    def version_info(self, artifact: str, collection: str | None = None, version: str | None = None) -> VersionInfo:
        info = self._inner.version_info(artifact, collection, version)
        return VersionInfo(**{**info.__dict__, "commit_id": None})

    def manifest(self, artifact: str, collection: str | None = None, version: str | None = None) -> Manifest:
        entries = self._inner.manifest(artifact, collection, version)
        return Manifest(entry._replace(object=None, offset=0) for entry in entries)

    def read_entry(self, info: VersionInfo, entry: Entry, offset: int = 0, size_bytes: int | None = None) -> bytes:
        stored = self._inner.manifest(info.artifact, info.collection, info.version).find(entry.path)
        assert stored is not None
        return self._inner.read_entry(info, stored, offset, size_bytes)

    def commit_tree(self, artifact: str, tree: Path, collection: str | None = None, **more: Any) -> CommitResult:
        return self._inner.commit_tree(artifact, tree, collection, **more)

    def restore(self, info: VersionInfo, target: Path, progress: Progress | None = None) -> None:
        self._inner.download_artifact(info.artifact, info.collection, info.version, target.parent)


def metadata_of(manager: ArtifactManager, version: str) -> tuple[str, Mapping[str, Any]]:
    info = manager.version_info("bert", "models", version)
    return info.message, info.metadata


@pytest.mark.parametrize("foreign", ["source", "target"])
def test_between_other_managers_files_travel(run: Commands, history: Path, other: str, tmp_path: Path, foreign: str):
    source: ArtifactManager = Foreign(run.url) if foreign == "source" else connect(run.url)
    target: ArtifactManager = Foreign(other) if foreign == "target" else connect(other)
    connect(other).ensure_created()
    for info in source.list_versions("bert", "models")[:2]:
        first = copy_version(source, info, target, "models", "bert")
        again = copy_version(source, info, target, "models", "bert")
        assert (first.created, again.created) == (True, False)
        assert first.info.version == again.info.version == info.version
        assert metadata_of(target, info.version) == (info.message, info.metadata)
    path = target.download_artifact("bert", "models", "v0", tmp_path / "out")
    assert_same(history, Path(str(path)))


def test_a_part_of_a_version_of_another_manager(run: Commands, history: Path, tmp_path: Path):
    manager = Foreign(run.url)
    info = manager.version_info("bert", "models", "v0")
    part = part_of(manager.manifest("bert", "models", "v0"), "src/a")
    done: list[tuple[int, int]] = []
    path = restore_part(manager, info, part, tmp_path / "out", lambda *now: done.append(now))
    assert_same(history / "src/a", path)
    assert done[-1] == (part.manifest.size_bytes, part.manifest.file_count)
