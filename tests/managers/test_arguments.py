"""Arguments of the wrong kind are refused by name before anything happens: every public method of every manager."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from squirrel_like import SquirrelLike
from subjects import write

import artifactfs
from artifactfs import ArtifactManager, DirectoryLogger, Entry, EntryKind, VersionInfo, connect
from artifactfs.errors import ArgumentError, ArtifactError, InvalidName, SerializationError, UnknownScheme
from artifactfs.managers.adapter import SquirrelAdapter
from artifactfs.managers.filesystem import FileSystemArtifactManager
from artifactfs.managers.plain import PlainArtifactManager
from artifactfs.managers.wandb import WandbArtifactManager, process

NO_STRINGS = (1, 0, True, 1.5, math.nan, b"bytes", ["list"], object(), "\ud800")
NO_PATHS = (1, True, math.nan, b"bytes", ["list"], object(), "", "\ud800", "x" * 256, "a/" + "ü" * 128)
NO_FUNCTIONS = (1, "text", b"bytes", [])
NO_COUNTS = (True, 1.5, math.nan, "1", b"1", -1)
RESERVED = ("latest", "v7", "v007", "staging", "pending", "pending.1", "", "a/b", "..", "ünï")

WRONG: dict[str, tuple[Any, ...]] = {
    "alias": NO_STRINGS,
    "aliases": (1, True, "best", b"best", {"best": 1}, [1], [None], [b"best"], *([bad] for bad in RESERVED)),
    "artifact": NO_STRINGS,
    "artifact_name": NO_STRINGS,
    "artifact_path": NO_PATHS,
    "below": NO_STRINGS,
    "catalog": (5, b"x", math.nan, True, {}, "catalog"),
    "collection": (*NO_STRINGS, ""),
    "commit_id": (*NO_STRINGS, "", "\udcff"),
    "consume": (0, 1, "yes"),
    "dry_run": (0, 1, "yes"),
    "entry": ("a.txt", {}),
    "grace_s": (True, -1, -0.5, math.nan, math.inf, "60"),
    "info": ("v0", {}),
    "local_path": (*NO_PATHS, "a\0b"),
    "message": (*NO_STRINGS, "\udcff"),
    "metadata": (
        *("text", 1, True, b"bytes", ["list"], [("a", 1)]),
        *({"a": math.nan}, {"a": [math.inf]}, {"a": b"bytes"}, {"a": object()}, {"a": {1}}, {"a": Path("x")}),
        *({1: "key"}, {None: "key"}, {"a": {True: "key"}}, {"a": "\udcff"}, {"\udcff": 1}),
    ),
    "name": NO_STRINGS,
    "new": NO_STRINGS,
    "obj": (),
    "offset": NO_COUNTS,
    "old": NO_STRINGS,
    "on_finding": NO_FUNCTIONS,
    "path": NO_PATHS,
    "progress": NO_FUNCTIONS,
    "reference_of": NO_FUNCTIONS,
    "serializer": NO_STRINGS,
    "size_bytes": NO_COUNTS,
    "target": NO_PATHS,
    "to": NO_PATHS,
    "tree": (*NO_PATHS, "a\0b"),
    "version": NO_STRINGS,
}
"""For every parameter of a public method: what it refuses. None is refused where it is not the default."""

GOOD: dict[str, Any] = {
    "alias": "best",
    "artifact": "model",
    "artifact_name": "model",
    "commit_id": "once",
    "entry": Entry("a.txt", kind=EntryKind.FILE, size_bytes=0),
    "info": VersionInfo("default", "model", "v0", 0, 0, 0),
    "aliases": ["best"],
    "name": "model",
    "new": "v1",
    "obj": 1,
    "offset": 0,
    "old": "v0",
    "size_bytes": 1,
    "version": "v0",
}


class Trap:
    """A backend that nothing may be asked of."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for")


class Minimal(ArtifactManager):
    """A manager with squirrel's methods and signatures alone."""

    def list_collection_names(self):
        raise AssertionError

    def exists_in_collection(self, artifact, collection=None):
        raise AssertionError

    def collection_to_catalog(self, collection=None):
        raise AssertionError

    def get_artifact(self, artifact, collection=None, version=None):
        raise AssertionError

    def log_files(self, artifact_name, local_path, collection=None, artifact_path=None):
        raise AssertionError

    def log_artifact(self, obj, name, collection=None):
        raise AssertionError

    def download_artifact(self, artifact, collection=None, version=None, to=None):
        raise AssertionError


MAKERS = {
    FileSystemArtifactManager: lambda base: connect(base / "store"),
    PlainArtifactManager: lambda base: connect(f"plain+file://{base}/store"),
    SquirrelAdapter: lambda base: SquirrelAdapter(Trap()),
    WandbArtifactManager: lambda base: connect("wandb://team/project"),
    Minimal: lambda base: Minimal(),
}


def methods_of(kind: type) -> Iterator[tuple[str, dict[str, inspect.Parameter]]]:
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        if not name.startswith("_"):
            _, *parameters = inspect.signature(method).parameters.values()
            yield name, {parameter.name: parameter for parameter in parameters}


def refused(kind: type) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(method, parameter, keyword arguments) of every call that must be refused."""
    for method, parameters in methods_of(kind):
        needed = {
            name: GOOD.get(name, "x") for name, parameter in parameters.items() if parameter.default is parameter.empty
        }
        for name, parameter in parameters.items():
            nothing = (None,) if WRONG[name] and parameter.default is not None else ()
            for value in (*nothing, *WRONG[name]):
                yield method, name, {**needed, name: value}


def our_managers() -> set[type]:
    found, pending = set(), [ArtifactManager]
    while pending:
        for kind in pending.pop().__subclasses__():
            pending.append(kind)
            if kind.__module__.startswith("artifactfs.") and not inspect.isabstract(kind):
                found.add(kind)
    return found


def test_every_manager_and_every_parameter_has_a_row():
    assert our_managers() == set(MAKERS) - {Minimal}
    for kind in MAKERS:
        for method, parameters in methods_of(kind):
            assert set(parameters) <= set(WRONG), f"{kind.__name__}.{method}"


@pytest.mark.parametrize("kind", MAKERS, ids=lambda kind: kind.__name__)
def test_what_is_wrong_is_refused_by_name(kind: type, tmp_path: Path, monkeypatch: Any):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process, "Worker", Trap())
    manager = MAKERS[kind](tmp_path)
    for method, name, arguments in refused(kind):
        with pytest.raises(ArtifactError) as caught:
            getattr(manager, method)(**arguments)
        told, shown = caught.value, f"{method}({name}={arguments[name]!r}): {caught.value}"
        assert isinstance(told, (ArgumentError, InvalidName, SerializationError)), shown
        assert isinstance(told, ValueError), shown
        assert "\n" not in str(told), shown
        assert name in str(told) or name.rstrip("es") in str(told) or "commit needs an id" in str(told), shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", MAKERS, ids=lambda kind: kind.__name__)
def test_positional_arguments_are_checked_too(kind: type, tmp_path: Path):
    manager = MAKERS[kind](tmp_path)
    for call in (
        lambda: manager.download_artifact("model", "default", 0),
        lambda: manager.exists_in_collection("model", 1),
        lambda: manager.log_files("model", b"tree"),
        lambda: manager.log_artifact({}, 7),
    ):
        with pytest.raises(ArgumentError):
            call()


def test_a_number_for_a_version_says_what_to_write(tmp_path: Path):
    with pytest.raises(ArgumentError, match="for version 3 write 'v3'"):
        connect(tmp_path).version_info("model", version=3)  # type: ignore[arg-type]


def test_the_active_collection_and_a_folder_logger(tmp_path: Path):
    manager = connect(tmp_path)
    for bad in NO_STRINGS:
        with pytest.raises(ArgumentError):
            manager.active_collection = bad
    with pytest.raises(ArgumentError, match="message"):
        DirectoryLogger(manager, "model", message=None)  # type: ignore[arg-type]
    with pytest.raises(InvalidName):
        manager.log_folder("model", aliases=["latest"])
    for bad in ("..", "a/b", "a\0b", "x" * 300, "ünï"):
        with pytest.raises(InvalidName, match="collection"):
            manager.log_folder("model", bad)
    assert manager.active_collection == "default"


@pytest.mark.parametrize("kind", MAKERS, ids=lambda kind: kind.__name__)
def test_a_version_to_verify_needs_an_artifact(kind: type, tmp_path: Path):
    manager = MAKERS[kind](tmp_path)
    for call in (
        lambda: manager.verify(version="v0"),
        lambda: manager.verify(None, "default", "v0"),
        lambda: manager.verify(None, version=".."),
    ):
        with pytest.raises(ArgumentError, match="version means nothing without artifact"):
            call()


def test_what_callers_of_squirrel_pass_is_taken(tmp_path: Path):
    tree = write(tmp_path / "tree", f="1")
    for manager in (
        connect(str(tmp_path / "objects")),
        connect(f"plain+file://{tmp_path}/plain"),
        SquirrelAdapter(SquirrelLike(tmp_path / "like")),
    ):
        manager.log_files("model", str(tree), "default", "sub")
        manager.log_files("model", tree, None, Path("."))
        for to in (str(tmp_path / "out"), tmp_path / "out"):
            assert manager.download_artifact("model", None, None, to) == tmp_path / "out" / "model"
        manager.download_collection("default", str(tmp_path / "all"))
    connect(tmp_path / "objects").log_files("model", tree, aliases={"best"}, metadata={"a": (1, [2.5, None])})


class Other(Minimal):
    """A user's own methods are the user's affair, whatever their arguments are called."""

    def count(self, name, version):
        return name + version


def test_methods_of_ones_own_are_left_alone():
    assert Other().count(1, 2) == 3
    with pytest.raises(ArgumentError):
        Other().exists(1)


class TestConnect:
    @pytest.mark.parametrize("url", [None, 1, True, 1.5, b"/tmp/store", ["store"], object])
    def test_no_url(self, url: Any):
        with pytest.raises(ArgumentError, match="url must be a URL or a path"):
            connect(url)

    @pytest.mark.parametrize("url", ["", " ", "plain+", "squirrel+", "file://", "local://", "s3://", "gs://", "a\0b"])
    def test_a_url_that_names_nothing(self, url: str):
        with pytest.raises(ArgumentError, match="url"):
            connect(url)

    @pytest.mark.parametrize(
        ("url", "meant"),
        [
            ("s3:/bucket/store", "s3://bucket/store"),
            ("s3:bucket", "s3://bucket"),
            ("GS:/bucket", "gs://bucket"),
            ("plain+s3:/bucket", "s3://bucket"),
            ("file:/srv/store", "file:///srv/store"),
            ("wandb:/team/project", "wandb://team/project"),
            ("sftp:host/path", "sftp://host/path"),
            ("nonsense:/x", "nonsense://x"),
        ],
    )
    def test_a_url_with_too_few_slashes(self, url: str, meant: str, tmp_path: Path, monkeypatch: Any):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UnknownScheme, match="looks mistyped") as caught:
            connect(url)
        assert f"write {meant}, " in str(caught.value)

    def test_a_password_in_a_mistyped_url_is_not_shown(self):
        with pytest.raises(UnknownScheme) as caught:
            connect("sftp:/me:hush@host/path")
        assert "hush" not in str(caught.value)

    def test_paths_with_colons_are_paths(self, tmp_path: Path, monkeypatch: Any):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "odd:").mkdir()
        (tmp_path / "odd:" / "store").mkdir()
        for path in ("odd:/store", "./s3:/bucket", "a:b/store"):
            assert connect(path).local_root == tmp_path / path

    @pytest.mark.parametrize(
        "url",
        [
            "/tmp/none",
            "file:///tmp/none",
            "memory://none",
            "s3://bucket/x",
            "plain+memory://none",
            "wandb://team/project",
        ],
    )
    def test_an_unknown_keyword(self, url: str):
        with pytest.raises(ArgumentError, match="unknown option 'colection': did you mean 'collection'"):
            connect(url, colection="models")
        with pytest.raises(ArgumentError, match=r"unknown option 'nonsense': this store takes .*collection"):
            connect(url, nonsense=1)

    def test_options_that_a_library_takes_pass_but_not_misspelt_ones(self):
        connect("sftp://host/path", port=22, username="me")
        with pytest.raises(ArgumentError, match="did you mean 'single_writer'"):
            connect("sftp://host/path", single_writr=True)

    @pytest.mark.parametrize("manager", [FileSystemArtifactManager, PlainArtifactManager])
    @pytest.mark.parametrize("options", [{"single_writer": "yes"}, {"single_writer": 1}, {"collection": 1}], ids=str)
    def test_options_of_the_wrong_kind(self, manager: Any, options: dict[str, Any]):
        with pytest.raises(ArgumentError, match=next(iter(options))):
            manager("/tmp/none", **options)

    @pytest.mark.parametrize("name", ["entity", "project", "references"])
    def test_wandb_is_told_names(self, name: str):
        with pytest.raises(ArgumentError, match=name):
            WandbArtifactManager(**{name: 1})

    def test_the_options_of_a_disk(self, tmp_path: Path):
        assert artifactfs.connect(tmp_path / "store", auto_mkdir=True).active_collection == "default"
