"""Annotations as files of a store: what is in their place may be anything, and they go when their version has gone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from clocked_store import Clocked, tree_of

from artifactfs import ArtifactManager, connect
from artifactfs.errors import AccessDenied, FormatError, VersionNotFound
from artifactfs.findings import FindingKind
from artifactfs.managers.commit_id import new_commit_id
from artifactfs.managers.filesystem import FileSystemArtifactManager
from artifactfs.objects import layout
from artifactfs.objects.layout import Annotation

BAD: dict[str, Callable[[bytes], bytes | None]] = {
    "empty": lambda raw: b"",
    "cut": lambda raw: raw[:-20],
    "garbage": lambda raw: os.urandom(200),
    "message number": lambda raw: json.dumps({**json.loads(raw), "message": 7}).encode(),
    "metadata list": lambda raw: json.dumps({**json.loads(raw), "metadata": [1]}).encode(),
    "another version": lambda raw: json.dumps({**json.loads(raw), "version": "v7"}).encode(),
    "written 10^30": lambda raw: json.dumps({**json.loads(raw), "written": 10**30}).encode(),
    "a list": lambda raw: b"[1, 2]",
    "nested": lambda raw: b"[" * 100_000,
    "large": lambda raw: raw[:-1] + b" " * (5 << 20) + b"}",
    "FIFO": lambda raw: None,
}
NEWER = b'{"format": 9, "version": ["another", "shape"]}'


@pytest.fixture(params=["objects", "plain"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactManager:
    url = str(tmp_path / "store")
    return connect(url if request.param == "objects" else f"plain+file://{url}")


def commit(manager: ArtifactManager, tmp_path: Path, text: str) -> None:
    tree = tmp_path / "tree"
    tree.mkdir(exist_ok=True)
    (tree / "f").write_text(text)
    manager.commit_tree("m", tree, commit_id=new_commit_id(), message=f"as {text}", metadata={"lr": 1})


def annotation_of(manager: ArtifactManager, version: str) -> Path:
    assert manager.local_root is not None
    (path,) = manager.local_root.rglob(f"{version}.annotation")
    return path


def opened(manager: ArtifactManager) -> ArtifactManager:
    return connect(manager.url)  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", BAD)
def test_a_bad_annotation_costs_itself(store: ArtifactManager, tmp_path: Path, how: str):
    """C18: the version is shown as it was committed, and what is said of it next takes the place of what is there."""
    for text in ("one", "two"):
        commit(store, tmp_path, text)
        store.annotate("m", "latest", message=f"later {text}", metadata={"epoch": 2})
    path = annotation_of(store, "v0")
    raw = BAD[how](path.read_bytes())
    path.unlink()
    if raw is None:
        os.mkfifo(path)
    else:
        path.write_bytes(raw)
    fresh = opened(store)
    assert [info.message for info in fresh.list_versions("m")] == ["as one", "later two"]
    info = fresh.version_info("m", version="v0")
    assert (info.message, info.metadata) == ("as one", {"lr": 1})
    assert fresh.manifest("m", version="v0").find("f") is not None
    if isinstance(fresh, FileSystemArtifactManager):
        [finding] = fresh.verify().damage
        assert finding.kind in (FindingKind.DAMAGED_ANNOTATION, FindingKind.UNREADABLE)
        assert finding.versions == ("default/m@v0",)
        assert fresh.verify("m", version="v1").ok
        assert fresh.gc(grace_s=0).deleted_leftovers == 0
    fresh.annotate("m", "v0", message="mended")
    assert opened(store).version_info("m", version="v0").message == "mended"
    assert fresh.verify().ok
    fresh.delete_version("m", "v0")
    assert [info.message for info in opened(store).list_versions("m")] == ["later two"]


def test_one_of_a_newer_program_is_not_replaced(store: ArtifactManager, tmp_path: Path):
    """C18: what this program cannot read it does not throw away."""
    commit(store, tmp_path, "one")
    store.annotate("m", "v0", message="later")
    path = annotation_of(store, "v0")
    path.unlink()
    path.write_bytes(NEWER)
    assert opened(store).version_info("m").message == "as one"
    with pytest.raises(FormatError, match="upgrade artifactfs"):
        opened(store).annotate("m", "v0", message="mine")
    assert path.read_bytes() == NEWER
    store.delete_version("m", "v0")
    assert not path.exists()


def test_a_symlink_in_its_place_is_not_followed(store: ArtifactManager, tmp_path: Path):
    """O9: nothing is read through it, and nothing written."""
    commit(store, tmp_path, "one")
    store.annotate("m", "v0", message="later")
    path = annotation_of(store, "v0")
    outside = tmp_path / "outside"
    path.rename(outside)
    path.symlink_to(outside)
    before = outside.read_bytes()
    assert opened(store).version_info("m").message == "as one"
    store.annotate("m", "v0", message="ours")
    assert outside.read_bytes() == before
    assert not path.is_symlink()
    assert opened(store).version_info("m").message == "ours"


def test_the_record_stays_what_it_was(store: ArtifactManager, tmp_path: Path):
    commit(store, tmp_path, "one")
    assert store.local_root is not None
    before = {path: path.read_bytes() for path in store.local_root.rglob("*") if path.is_file()}
    store.annotate("m", "v0", message="later", metadata={"a": 1})
    store.annotate("m", "v0", metadata={"b": 2})
    after = {path: path.read_bytes() for path in store.local_root.rglob("*") if path.is_file()}
    (new,) = after.keys() - before.keys()
    assert new == annotation_of(store, "v0")
    assert {path: after[path] for path in before} == before
    said = json.loads(after[new])
    assert (said["version"], said["message"], said["metadata"]) == ("v0", "later", {"a": 1, "b": 2})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_may_not_be_written_to(store: ArtifactManager, tmp_path: Path):
    commit(store, tmp_path, "one")
    store.annotate("m", "v0", message="later")
    directory = annotation_of(store, "v0").parent
    directory.chmod(0o500)
    try:
        with pytest.raises(AccessDenied):
            store.annotate("m", "v0", message="no")
    finally:
        directory.chmod(0o700)
    assert opened(store).version_info("m").message == "later"


def test_one_written_while_its_version_is_deleted(
    store: ArtifactManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    commit(store, tmp_path, "one")
    backend = store.store  # type: ignore[attr-defined]
    replace = backend.replace

    def slow(key: str, data: bytes) -> None:
        if key.endswith(layout.ANNOTATION_SUFFIX):
            opened(store).delete_version("m", "v0")
        replace(key, data)

    monkeypatch.setattr(backend, "replace", slow)
    with pytest.raises(VersionNotFound):
        store.annotate("m", "v0", message="too late")
    assert store.local_root is not None
    assert list(store.local_root.rglob("*.annotation")) == []


def test_gc_frees_what_was_said_of_deleted_versions(tmp_path: Path):
    """As a program leaves it that knows of no annotations, or one that died midway; what is said of others stays."""
    clocked = Clocked()
    for text in "ab":
        clocked.commit(tree_of(tmp_path, text))
        clocked.manager.annotate("m", "latest", message=f"said of {text}")
    key = "collections/default/m/v0.annotation"
    raw = clocked.store.get(key)
    clocked.manager.delete_version("m", "v0")
    assert not clocked.store.exists(key)
    clocked.store.replace(key, raw)
    clocked.store.replace("collections/default/m/v9.annotation", raw)
    assert clocked.manager.list_version_names("m") == ["v1"]
    kinds = {finding.where.rpartition("/")[2]: finding.kind for finding in clocked.manager.verify().findings}
    assert kinds["v0.annotation"] is FindingKind.LEFTOVER
    assert kinds["v9.annotation"] is FindingKind.UNKNOWN_FILE
    assert "v1.annotation" not in kinds
    clocked.gc()
    assert clocked.store.exists(key)
    clocked.days(2)
    clocked.gc()
    assert not clocked.store.exists(key)
    assert clocked.store.exists("collections/default/m/v9.annotation")
    assert clocked.manager.version_info("m").message == "said of b"


@pytest.mark.parametrize(
    "value",
    [
        Annotation("v1", 1, message=7),  # type: ignore[arg-type]
        Annotation("v1", 1, metadata=[1]),  # type: ignore[arg-type]
        Annotation("1", 1),
        Annotation("v1", 10**30),
        Annotation("v1", 1, message="x" * (64 << 10)),
    ],
)
def test_none_is_written_that_no_reader_takes(value: Annotation):
    with pytest.raises(ValueError, match=r"cannot be kept|fit a version"):
        layout.encode(value)


def test_what_readers_take_is_written():
    for value in (Annotation("v1", 1), Annotation("v1", 1, "m", {"a": [1, None]}, layout.Creator("h", "u"))):
        assert layout.decode_annotation(layout.encode(value), "key", 1) == value
