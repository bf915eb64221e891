"""What every manager promises of messages and metadata that come after the version.

Run for every Subject by `test_conformance`, as `conformance` says.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from conformance import commit, needs
from subjects import Keeps, Subject, write

from artifactfs import ArtifactManager, VersionInfo
from artifactfs.errors import (
    ArgumentError,
    ArtifactNotFound,
    CollectionNotFound,
    SerializationError,
    Unsupported,
    VersionNotFound,
)

TOO_LONG = "x" * (64 << 10)


def shown(manager: ArtifactManager, version: str = "v0") -> tuple[str, dict[str, object]]:
    """The message and metadata of a version of the artifact model, by each way that they are seen."""
    info = manager.version_info("model", version=version)
    [listed] = [each for each in manager.list_versions("model") if each.version == version]
    assert listed == info
    source = manager.collection_to_catalog()["default/model"][info.number + 1]
    assert source.metadata["message"] == info.message
    return info.message, dict(info.metadata)


class Annotations:
    @needs(Keeps.METADATA)
    def test_a_message_afterwards(self, subject: Subject, manager: ArtifactManager, tmp_path: Path):
        for text in "ab":
            commit(manager, write(tmp_path / "t", f=text), message=f"as {text}", metadata={"lr": 0.1, "text": text})
        before = manager.version_info("model", version="v0")
        info = manager.annotate("model", "v0", message="later\nün", metadata={"epoch": 3, "lr": 0.2, "good": True})
        assert isinstance(info, VersionInfo)
        expected = "later\nün", {"lr": 0.2, "text": "a", "epoch": 3, "good": True}
        for seen in (manager, subject.open()):
            assert shown(seen) == expected
            assert shown(seen, "v1") == ("as b", {"lr": 0.1, "text": "b"})
        assert (info.message, info.metadata) == expected
        for name in ("version", "created_ns", "size_bytes", "file_count", "digest", "creator", "parent", "commit_id"):
            assert getattr(info, name) == getattr(before, name), name

    @needs(Keeps.METADATA)
    def test_what_is_not_given_stays(self, subject: Subject, manager: ArtifactManager, tree: Path):
        commit(manager, tree, message="first")
        manager.annotate("model", "latest", metadata={"a": 1})
        assert shown(subject.open()) == ("first", {"a": 1})
        manager.annotate("model", "v0", message="second", metadata={})
        assert shown(subject.open()) == ("second", {"a": 1})
        subject.open().annotate("model", "v0", metadata={"a": None, "b": ["x", {"y": 1.5}]})
        assert shown(manager) == ("second", {"a": None, "b": ["x", {"y": 1.5}]})
        manager.annotate("model", "v0", message="")
        assert shown(subject.open())[0] == ""

    @needs(Keeps.METADATA, Keeps.ALIASES)
    def test_by_an_alias(self, manager: ArtifactManager, tree: Path):
        commit(manager, tree, aliases=["best"])
        assert manager.annotate("model", "best", message="by its alias").version == "v0"
        assert shown(manager)[0] == "by its alias"
        assert manager.aliases("model") == {"best": "v0"}
        assert manager.version_info("model", version="best").message == "by its alias"

    @needs(Keeps.METADATA)
    def test_a_commit_that_finds_its_version(self, manager: ArtifactManager, tree: Path):
        commit(manager, tree, message="m", commit_id="once")
        manager.annotate("model", "v0", message="later")
        assert commit(manager, tree, message="other").info.message == "later"
        assert commit(manager, tree, message="m", commit_id="once").info.message == "later"
        found = manager.find_commit("model", "once")
        assert found is not None
        assert found.message == "later"
        assert manager.list_version_names("model") == ["v0"]

    @needs(Keeps.METADATA)
    def test_what_cannot_be_annotated(self, manager: ArtifactManager, tree: Path):
        commit(manager, tree, message="m")
        for call, kinds in (
            (lambda: manager.annotate("model", "v7", message="x"), VersionNotFound),
            (lambda: manager.annotate("model", "none", message="x"), VersionNotFound),
            (lambda: manager.annotate("none", "v0", message="x"), ArtifactNotFound),
            (lambda: manager.annotate("model", "v0", "none", message="x"), (ArtifactNotFound, CollectionNotFound)),
            (lambda: manager.annotate("model", "v0"), ArgumentError),
            (lambda: manager.annotate("model", "v0", metadata={}), ArgumentError),
            (lambda: manager.annotate("model", "v0", message=TOO_LONG), SerializationError),
            (lambda: manager.annotate("model", "v0", metadata={"x": TOO_LONG}), SerializationError),
            (lambda: manager.annotate("model", "v0", metadata={"x": object()}), SerializationError),
        ):
            with pytest.raises(kinds):
                call()
        manager.annotate("model", "v0", metadata={"x": TOO_LONG[: 40 << 10]})
        with pytest.raises(SerializationError, match="fit a version"):
            manager.annotate("model", "v0", metadata={"y": TOO_LONG[: 40 << 10]})
        assert shown(manager) == ("m", {"x": TOO_LONG[: 40 << 10]})

    @needs(Keeps.OBJECTS, Keeps.METADATA)
    def test_an_object_stays_readable(self, manager: ArtifactManager):
        manager.log_artifact({"a": 1}, "model", serializer="json")
        manager.annotate("model", "v0", message="ours", metadata={"mine": 1})
        with pytest.raises(SerializationError, match="serializer"):
            manager.annotate("model", "v0", metadata={"serializer": "pickle"})
        assert manager.get_artifact("model") == {"a": 1}

    @needs(Keeps.METADATA, Keeps.DELETION)
    def test_it_goes_with_its_version(self, subject: Subject, manager: ArtifactManager, tmp_path: Path):
        for text in "ab":
            commit(manager, write(tmp_path / "t", f=text))
            manager.annotate("model", "latest", message=f"said of {text}")
        manager.delete_version("model", "v1")
        assert subject.files_with(b"said of b") == []
        with pytest.raises(VersionNotFound):
            manager.annotate("model", "v1", message="too late")
        assert shown(subject.open()) == ("said of a", {})
        commit(manager, write(tmp_path / "t", f="c"))
        assert shown(subject.open(), "v2") == ("", {})

    @needs(Keeps.METADATA)
    def test_the_last_of_several_writers(self, subject: Subject, manager: ArtifactManager, tree: Path):
        commit(manager, tree)
        managers = [subject.open() for _ in range(subject.threads)]
        failures: list[BaseException] = []

        def say(number: int) -> None:
            try:
                for round_ in range(3):
                    managers[number].annotate("model", "v0", message=f"{number}.{round_}")
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=say, args=(number,)) for number in range(len(managers))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert shown(subject.open())[0] in {
            f"{number}.{round_}" for number in range(len(managers)) for round_ in range(3)
        }

    def test_a_manager_that_keeps_none_says_so(self, subject: Subject, manager: ArtifactManager, tree: Path):
        commit(manager, tree)
        if Keeps.METADATA in subject.keeps:
            assert manager.annotate("model", "v0", message="m").message == "m"
            return
        with pytest.raises(Unsupported, match="no messages"):
            manager.annotate("model", "v0", message="m")
