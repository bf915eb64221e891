"""What every manager promises: names, versions, logging, downloading, objects, aliases, catalogs, errors.

Each class is run for every Subject by `test_conformance`; ``needs`` names what a backend must keep for a test to apply.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from subjects import Keeps, Subject, contents, write

from artifactfs import ArtifactManager, TmpArtifact, connect
from artifactfs.catalog import Catalog
from artifactfs.errors import (
    ArtifactError,
    ArtifactNotFound,
    CollectionNotFound,
    InvalidName,
    NotFound,
    SerializationError,
    UnsupportedTree,
    VersionNotFound,
)
from artifactfs.managers.commit_id import new_commit_id

needs = pytest.mark.needs
BAD_COLLECTIONS = ["", "a/b", "../x", ".", "..", "a b", "ünï", "x\n", "a\0", "c" * 129]
BAD_ARTIFACTS = ["", "a/b", "../x", ".", "..", "a b", "ünï", "x\n", "a\0", "c" * 129]
BAD_VERSIONS = ["../v0", "v", "v-1", "v01", "0", "V0", "v0/..", "v0\n", "v99999999999999999999", "", "no-such"]


def commit(manager: ArtifactManager, tree: Path, artifact: str = "model", **more: Any) -> Any:
    return manager.commit_tree(artifact, tree, commit_id=more.pop("commit_id", new_commit_id()), **more)


class Names:
    def test_the_active_collection(self, subject: Subject, manager: ArtifactManager, tree: Path):
        assert manager.active_collection == "default"
        other = "other:1_x-Y" if Keeps.COLONS in subject.keeps else "other1_x-Y"
        manager.active_collection = other
        manager.log_files("model", tree)
        assert manager.list_collection_names() == [other]
        for bad in BAD_COLLECTIONS:
            with pytest.raises(ValueError, match="collection"):
                manager.active_collection = bad
        assert manager.active_collection == other

    def test_bad_collections_reach_nothing(self, manager: ArtifactManager, tree: Path, tmp_path: Path):
        commit(manager, tree)
        before = set(tmp_path.rglob("*"))
        for bad in BAD_COLLECTIONS[1:]:
            with pytest.raises(InvalidName):
                manager.log_files("model", tree, bad)
            for call in (
                lambda bad=bad: manager.list_artifacts(bad),
                lambda bad=bad: manager.collection_to_catalog(bad),
                lambda bad=bad: manager.version_info("model", bad),
                lambda bad=bad: manager.download_artifact("model", bad, to=tmp_path / "out"),
            ):
                with pytest.raises((InvalidName, NotFound)):
                    call()
        assert set(tmp_path.rglob("*")) == before

    def test_bad_artifacts_reach_nothing(self, manager: ArtifactManager, tree: Path, tmp_path: Path):
        commit(manager, tree)
        before = set(tmp_path.rglob("*"))
        for bad in BAD_ARTIFACTS:
            for write_call in (lambda bad=bad: manager.log_files(bad, tree), lambda bad=bad: manager.log_folder(bad)):
                with pytest.raises(InvalidName):
                    write_call()
            for call in (
                lambda bad=bad: manager.version_info(bad),
                lambda bad=bad: manager.manifest(bad),
                lambda bad=bad: manager.download_artifact(bad, to=tmp_path / "out"),
            ):
                with pytest.raises((InvalidName, NotFound)):
                    call()
            assert not manager.exists_in_collection(bad)
            assert not manager.exists(bad)
        assert set(tmp_path.rglob("*")) == before

    def test_bad_versions(self, manager: ArtifactManager, tree: Path, tmp_path: Path):
        commit(manager, tree)
        for bad in BAD_VERSIONS:
            for call in (
                lambda bad=bad: manager.version_info("model", version=bad),
                lambda bad=bad: manager.manifest("model", version=bad),
                lambda bad=bad: manager.download_artifact("model", version=bad, to=tmp_path / "out"),
            ):
                with pytest.raises((VersionNotFound, InvalidName)):
                    call()
        assert not (tmp_path / "out").exists()

    def test_bad_artifact_paths(self, manager: ArtifactManager, tree: Path):
        manager.ensure_created()
        for bad in ("../x", "/x", "a/../../x", "a//b/..", "a\0b"):
            with pytest.raises(InvalidName):
                manager.log_files("model", tree, artifact_path=Path(bad))
        assert not manager.exists("model")


class Versions:
    def test_what_is_not_there(self, manager: ArtifactManager, tree: Path):
        commit(manager, tree)
        with pytest.raises(CollectionNotFound):
            manager.list_artifacts("none")
        for call in (manager.list_version_names, manager.version_info, manager.manifest, manager.list_versions):
            with pytest.raises(ArtifactNotFound):
                call("none")
        with pytest.raises(VersionNotFound):
            manager.version_info("model", version="v7")
        assert not manager.exists("none")
        assert not manager.exists_in_collection("model", "none")
        assert manager.exists("model")
        assert manager.exists_in_collection("model")

    def test_finding_a_commit(self, subject: Subject, manager: ArtifactManager, tmp_path: Path):
        assert manager.find_commit("model", "first") is None
        commit(manager, write(tmp_path / "t", f="a"), commit_id="first")
        commit(manager, write(tmp_path / "t", f="b"), commit_id="second")
        found = [manager.find_commit("model", which) for which in ("first", "second", "third")]
        names_commits = manager.version_info("model").commit_id is not None
        assert [info and info.version for info in found] == (["v0", "v1", None] if names_commits else [None] * 3)
        assert manager.find_commit("none", "first") is None
        assert manager.find_commit("model", "first", "none") is None

    def test_addresses(self, subject: Subject, manager: ArtifactManager, tmp_path: Path):
        for text in "abc":
            commit(manager, write(tmp_path / "t", f=text))
        assert manager.list_version_names("model") == ["v0", "v1", "v2"]
        assert [info.number for info in manager.list_versions("model")] == [0, 1, 2]
        for version, expected in ((None, b"c"), ("latest", b"c"), ("v0", b"a"), ("v1", b"b"), ("v2", b"c")):
            info = manager.version_info("model", version=version)
            entry = manager.manifest("model", version=version).find("f")
            assert entry is not None
            assert manager.read_entry(info, entry) == expected
        if Keeps.ALIASES in subject.keeps:
            manager.set_alias("model", "best", "v1")
            assert manager.version_info("model", version="best").version == "v1"

    def test_what_is_known_of_a_version(self, manager: ArtifactManager, tree: Path):
        result = commit(manager, tree)
        assert result.created
        info = manager.version_info("model")
        assert info == result.info
        assert (info.collection, info.artifact, info.version) == ("default", "model", "v0")
        assert info.file_count == 4
        assert info.size_bytes == sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
        manifest = manager.manifest("model")
        assert (manifest.file_count, manifest.size_bytes) == (info.file_count, info.size_bytes)
        assert info.digest in (None, manifest.content_digest())

    def test_equal_content_is_the_same_version(self, manager: ArtifactManager, tmp_path: Path):
        for text, version, created in (("1", "v0", True), ("1", "v0", False), ("2", "v1", True), ("1", "v2", True)):
            result = commit(manager, write(tmp_path / "t", f=text))
            assert (result.info.version, result.created) == (version, created)

    @needs(Keeps.MODES)
    @pytest.mark.parametrize("name", ["a.txt", "sub"])
    def test_permission_bits_alone_make_a_version(self, manager: ArtifactManager, tree: Path, name: str):
        for mode, version, created in ((0o750, "v0", True), (0o750, "v0", False), (0o700, "v1", True)):
            (tree / name).chmod(mode)
            result = commit(manager, tree)
            assert (result.info.version, result.created) == (version, created)
        modes = [manager.manifest("model", version=version).find(name) for version in ("v0", "v1")]
        assert [entry and entry.mode for entry in modes] == [0o750, 0o700]

    def test_a_repeated_commit(self, manager: ArtifactManager, tree: Path):
        first = commit(manager, tree, commit_id="once")
        assert commit(manager, tree, commit_id="once").info == first.info
        assert manager.list_version_names("model") == ["v0"]

    @needs(Keeps.REPEATED_COMMITS)
    def test_a_repeated_commit_after_others(self, subject: Subject, manager: ArtifactManager, tmp_path: Path):
        commit(manager, write(tmp_path / "t", f="1"), commit_id="once")
        commit(manager, write(tmp_path / "t", f="2"))
        again = commit(subject.open(), write(tmp_path / "t", f="3"), commit_id="once")
        assert (again.info.version, again.created) == ("v0", True)
        assert manager.list_version_names("model") == ["v0", "v1"]

    @needs(Keeps.METADATA)
    def test_message_and_metadata(self, subject: Subject, manager: ArtifactManager, tree: Path):
        manager.log_files("model", tree, message="first\nline", metadata={"lr": 0.1, "tags": ["ä", None]})
        info = subject.open().version_info("model")
        assert (info.message, info.metadata) == ("first\nline", {"lr": 0.1, "tags": ["ä", None]})
        with pytest.raises(SerializationError):
            manager.log_files("model", tree, metadata={"x": object()})

    def test_what_is_not_kept_is_told(self, subject: Subject, manager: ArtifactManager, tree: Path):
        note = commit(manager, tree, message="m", aliases=["best"]).note
        assert ("message" in note) != (Keeps.METADATA in subject.keeps)
        assert ("aliases" in note) != (Keeps.ALIASES in subject.keeps)


class Logging:
    def test_a_folder_a_file_and_a_path(self, manager: ArtifactManager, tree: Path, tmp_path: Path):
        source = manager.log_files("folder", tree)
        assert (source.identifier, source.version) == ("default/folder", 1)
        manager.log_files("file", tree / "a.txt")
        manager.log_files("both", tree / "a.txt", "other", Path("x/y"))
        manager.log_files("renamed", tree / "a.txt", artifact_path=Path("b.txt"))
        manager.log_files("below", str(tree), artifact_path="top")  # type: ignore[arg-type]
        for artifact, collection, expected in (
            ("folder", None, contents(tree)),
            ("file", None, {"a.txt": b"alpha"}),
            ("both", "other", {"x/y": b"alpha"}),
            ("renamed", None, {"b.txt": b"alpha"}),
            ("below", None, {f"top/{path}": data for path, data in contents(tree).items()}),
        ):
            path = manager.download_artifact(artifact, collection, to=tmp_path / "out")
            assert contents(Path(str(path))) == expected
        with pytest.raises(ValueError, match="missing"):
            manager.log_files("none", tmp_path / "missing")
        assert not manager.exists("none")

    def test_log_folder(self, manager: ArtifactManager, tmp_path: Path):
        with manager.log_folder("model", "other") as path:
            write(path / "sub", f="1")
        assert not path.exists()
        assert [entry.path for entry in manager.manifest("model", "other") if entry.size_bytes] == ["sub/f"]
        logger = manager.log_folder("raised")
        write(logger.__enter__(), f="1")
        logger.__exit__(RuntimeError, RuntimeError(), None)
        assert not path.exists()
        with manager.log_folder("empty") as path:
            assert list(path.iterdir()) == []
        assert not manager.exists("raised")
        assert not manager.exists("empty")

    def test_trees_that_no_version_can_hold(self, manager: ArtifactManager, tmp_path: Path):
        manager.ensure_created()
        for name, make in (
            ("absolute", lambda path: path.symlink_to("/etc/passwd")),
            ("escaping", lambda path: path.symlink_to("../../x")),
            ("fifo", os.mkfifo),
        ):
            tree = write(tmp_path / name, f="1")
            make(tree / "odd")
            with pytest.raises(UnsupportedTree, match="odd"):
                commit(manager, tree)
        assert not manager.exists("model")

    def test_a_tree_given_away_stays_readable(self, manager: ArtifactManager, tree: Path, tmp_path: Path):
        before = contents(tree)
        commit(manager, tree, consume=True)
        assert contents(tree) == before
        (tree / "a.txt").unlink()
        assert contents(Path(str(manager.download_artifact("model", to=tmp_path / "out")))) == before

    @needs(Keeps.OBJECTS)
    def test_objects(self, subject: Subject, manager: ArtifactManager):
        for name, serializer, obj in (
            ("text", "json", {"a": [1, 2.5, None]}),
            ("binary", "messagepack", {"a": b"\0", "b": 1j}),
            ("chosen", None, [1]),
        ):
            source = manager.log_artifact(obj, name, serializer=serializer, metadata={"mine": 1})
            assert source.identifier == f"default/{name}"
            assert subject.open().get_artifact(name) == obj
            assert manager.version_info(name).metadata["mine"] == 1
            assert manager.log_artifact(obj, name, serializer=serializer).version == 1

    @needs(Keeps.OBJECTS)
    def test_arrays_and_pickles(self, manager: ArtifactManager, tree: Path):
        numpy = pytest.importorskip("numpy")
        manager.log_artifact(numpy.arange(6).reshape(2, 3), "array")
        assert manager.get_artifact("array").tolist() == [[0, 1, 2], [3, 4, 5]]
        manager.log_artifact({1, 2}, "set", serializer="pickle")
        with pytest.raises(SerializationError, match="pickle"):
            manager.get_artifact("set")
        assert manager.get_artifact("set", serializer="pickle") == {1, 2}
        with pytest.raises(SerializationError):
            manager.log_artifact({1, 2}, "set")
        manager.log_files("files", tree)
        with pytest.raises(SerializationError):
            manager.get_artifact("files")


class Downloading:
    def test_to_a_path(self, manager: ArtifactManager, tree: Path, tmp_path: Path):
        commit(manager, tree)
        for _ in range(2):
            path = manager.download_artifact("model", to=tmp_path / "out")
            assert path == tmp_path / "out" / "model"
            assert contents(tmp_path / "out" / "model") == contents(tree)
        assert os.listdir(tmp_path / "out") == ["model"]

    def test_temporarily(self, manager: ArtifactManager, tmp_path: Path):
        for text in "ab":
            commit(manager, write(tmp_path / "t", f=text))
        download = manager.download_artifact("model", version="v0")
        assert isinstance(download, TmpArtifact)
        with download as path:
            assert path.name == "model"
            assert contents(path) == {"f": b"a"}
        assert not path.exists()
        with pytest.raises(RuntimeError), manager.download_artifact("model") as path:  # type: ignore[union-attr]
            raise RuntimeError
        assert not path.exists()

    def test_a_collection(self, manager: ArtifactManager, tree: Path, tmp_path: Path):
        for artifact in ("one", "two"):
            commit(manager, write(tmp_path / "t", f=artifact), artifact, collection="c")
        commit(manager, tree, "three")
        catalog = manager.download_collection("c", tmp_path / "out")
        assert sorted(catalog.keys()) == ["c/one", "c/two"]
        assert contents(tmp_path / "out") == {"one/f": b"one", "two/f": b"two"}
        with pytest.raises(NotFound):
            manager.download_collection("none", tmp_path / "out")

    def test_progress(self, manager: ArtifactManager, tree: Path, tmp_path: Path):
        seen: list[tuple[int, int]] = []
        info = commit(manager, tree, progress=lambda *now: seen.append(now)).info
        assert seen == sorted(seen)
        assert seen[-1] == (info.size_bytes, info.file_count)
        seen.clear()
        manager.download_artifact("model", to=tmp_path / "out", progress=lambda *now: seen.append(now))
        assert seen == sorted(seen)
        assert seen[-1] == (info.size_bytes, info.file_count)


class Aliases:
    @needs(Keeps.ALIASES)
    def test_aliases(self, subject: Subject, manager: ArtifactManager, tmp_path: Path):
        commit(manager, write(tmp_path / "t", f="1"), aliases=["best", "prod"])
        commit(manager, write(tmp_path / "t", f="2"))
        manager.set_alias("model", "best", "latest")
        assert subject.open().aliases("model") == {"best": "v1", "prod": "v0"}
        manager.delete_alias("model", "prod")
        assert manager.aliases("model") == {"best": "v1"}
        for missing in (
            lambda: manager.delete_alias("model", "prod"),
            lambda: manager.set_alias("model", "x", "v7"),
            lambda: manager.version_info("model", version="prod"),
        ):
            with pytest.raises(VersionNotFound):
                missing()
        for bad in ("latest", "v3", "staging", "pending.1", "a/b", "..", ""):
            with pytest.raises(InvalidName):
                manager.set_alias("model", bad, "v0")
        with pytest.raises(ArtifactNotFound):
            manager.aliases("none")

    @needs(Keeps.DELETION, Keeps.ALIASES)
    def test_deletion(self, subject: Subject, manager: ArtifactManager, tmp_path: Path):
        for i in range(3):
            commit(manager, write(tmp_path / "t", f=str(i)), commit_id=f"c{i}", aliases=[f"is{i}"])
        manager.delete_version("model", "latest")
        other = subject.open()
        assert other.list_version_names("model") == ["v0", "v1"]
        assert other.aliases("model") == {"is0": "v0", "is1": "v1"}
        assert other.version_info("model").version == "v1"
        assert list(other.collection_to_catalog()["default/model"].versions) == [1, 2]
        for gone in ("v2", "is2"):
            with pytest.raises(VersionNotFound):
                manager.download_artifact("model", version=gone, to=tmp_path / "out")
        with pytest.raises(VersionNotFound):
            manager.delete_version("model", "v2")
        if Keeps.TOMBSTONES in subject.keeps:
            assert commit(other, write(tmp_path / "t", f="2"), commit_id="c2").info.version == "v2"
            assert other.list_version_names("model") == ["v0", "v1"]
        assert commit(other, write(tmp_path / "t", f="new")).info.version == "v3"
        for version in ("v0", "v1", "v3"):
            manager.delete_version("model", version)
        assert manager.list_artifacts() == [] or Keeps.TOMBSTONES not in subject.keeps
        assert not manager.exists("model")
        with pytest.raises(VersionNotFound):
            manager.version_info("model")
        assert commit(other, write(tmp_path / "t", f="new")).info.version == "v4"


class Catalogs:
    def test_of_a_collection_and_of_the_store(self, manager: ArtifactManager, tree: Path, tmp_path: Path):
        for text in "ab":
            commit(manager, write(tmp_path / "t", f=text))
        commit(manager, tree, "other", collection="c")
        assert sorted(manager.collection_to_catalog("c").keys()) == ["c/other"]
        catalog = manager.store_to_catalog()
        assert sorted(catalog.keys()) == ["c/other", "default/model"]
        assert list(catalog["default/model"].versions) == [1, 2]

    @needs(Keeps.METADATA)
    def test_sources_say_what_a_version_is(self, manager: ArtifactManager, tree: Path):
        source = manager.log_files("model", tree, message="m", aliases=["best"])
        info = manager.version_info("model")
        found = source.metadata
        assert (found["collection"], found["artifact"], found["version"]) == ("default", "model", "v0")
        assert (found["size_bytes"], found["file_count"]) == (info.size_bytes, info.file_count)
        assert (found["message"], found["aliases"], found["digest"]) == ("m", ["best"], info.digest)
        json.dumps(found)

    def test_drivers_read_the_bytes(self, subject: Subject, manager: ArtifactManager, tree: Path, tmp_path: Path):
        if subject.opened_by_url is None:
            pytest.skip(f"{subject.name} is opened by no URL")
        commit(manager, tree)
        manager.store_to_catalog().to_file(str(tmp_path / "catalog.yaml"))
        driver = Catalog.from_files([str(tmp_path / "catalog.yaml")])["default/model"].get_driver()
        assert dict(driver.items()) == contents(tree)
        assert sorted(driver.keys()) == sorted(contents(tree))
        assert driver.get("sub/deep/b.bin") == (tree / "sub/deep/b.bin").read_bytes()
        for bad in ("nothing", "sub"):
            with pytest.raises((ArtifactError, OSError)):
                driver.get(bad)
        with pytest.raises(ValueError, match=r"\.\."):
            driver.get("../../v0/a.txt")

    def test_its_own_url_opens_it(self, subject: Subject, manager: ArtifactManager, tree: Path):
        if subject.opened_by_url is None:
            pytest.skip(f"{subject.name} is opened by no URL")
        commit(manager, tree)
        again = connect(manager.url, **subject.opened_by_url)  # type: ignore[attr-defined]
        assert type(again) is type(manager)
        assert again.list_version_names("model") == ["v0"]


class Errors:
    def test_they_are_what_squirrels_users_catch(self, manager: ArtifactManager, tree: Path, tmp_path: Path):
        commit(manager, tree)
        for call, kinds in (
            (lambda: manager.version_info("none"), (ArtifactError, ValueError, FileNotFoundError)),
            (lambda: manager.version_info("model", version="v9"), (ArtifactError, ValueError, FileNotFoundError)),
            (lambda: manager.log_files("m", tmp_path / "missing"), (ArtifactError, ValueError, FileNotFoundError)),
            (lambda: manager.log_files("a/b", tree), (ArtifactError, ValueError)),
        ):
            with pytest.raises(ArtifactError) as caught:
                call()
            assert all(isinstance(caught.value, kind) for kind in kinds)
            assert "\n" not in str(caught.value)
            assert not str(caught.value).startswith("[Errno")
