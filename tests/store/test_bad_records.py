"""A record that cannot be read costs its version, and neither its artifact nor its store."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from artifactfs import ArtifactManager, connect
from artifactfs.errors import ArtifactError, FormatError, IntegrityError, SerializationError
from artifactfs.findings import FindingKind
from artifactfs.managers.commit_id import new_commit_id
from artifactfs.objects import layout
from artifactfs.objects.layout import Alias, Creator, Marker, Probe, Record, Tombstone

GOOD = Record("v1", 1, "id", "d", "0" * 64, 1, 1)


def changed(**fields: object) -> Callable[[bytes], bytes]:
    return lambda raw: json.dumps({**json.loads(raw), **fields}).encode()


BAD: dict[str, Callable[[bytes], bytes | None]] = {
    "empty": lambda raw: b"",
    "cut": lambda raw: raw[:-20],
    "garbage": lambda raw: os.urandom(200),
    "message null": changed(message=None),
    "message number": changed(message=7),
    "another number": changed(version="v7"),
    "created 10^30": changed(created=10**30),
    "size -1": changed(size_bytes=-1),
    "a list": lambda raw: b"[1, 2]",
    "nested": lambda raw: b"[" * 100_000,
    "format 9": lambda raw: b'{"format": 9, "version": ["another", "shape"]}',
    "large": lambda raw: raw[:-1] + b" " * (5 << 20) + b"}",
    "FIFO": lambda raw: None,
}

NAMES_ITS_MANIFEST = frozenset({"message null", "message number", "another number", "created 10^30", "size -1"})


@pytest.fixture(params=["objects", "plain"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactManager:
    url = str(tmp_path / "store")
    return connect(url if request.param == "objects" else f"plain+file://{url}")


def commit(manager: ArtifactManager, tmp_path: Path, text: str, artifact: str = "m", **more: Any) -> str:
    tree = tmp_path / "tree"
    tree.mkdir(exist_ok=True)
    (tree / "f").write_text(text)
    return manager.commit_tree(artifact, tree, commit_id=new_commit_id(), **more).info.version


def record_of(manager: ArtifactManager, version: str) -> Path:
    assert manager.local_root is not None
    if (manager.local_root / layout.MARKER_KEY).exists():
        return manager.local_root / f"collections/default/m/{version}.version"
    return manager.local_root / f"default/m/{version}/.artifactfs.json"


def spoil(path: Path, how: str) -> None:
    raw = BAD[how](path.read_bytes())
    path.unlink()
    if raw is None:
        os.mkfifo(path)
    else:
        path.write_bytes(raw)


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("how", BAD)
def test_a_bad_record_costs_its_version(store: ArtifactManager, tmp_path: Path, how: str, version: str):
    for text in ("one", "two"):
        commit(store, tmp_path, text, aliases=[f"is-{text}"])
    commit(store, tmp_path, "beside", "other")
    spoil(record_of(store, version), how)
    fresh = connect(store.url)  # type: ignore[attr-defined]
    good = "v1" if version == "v0" else "v0"

    assert fresh.list_version_names("m") == ["v0", "v1"]
    assert [info.version for info in fresh.list_versions("m")] == [good]
    with pytest.raises((FormatError, IntegrityError)):
        fresh.version_info("m", version=version)
    with pytest.raises((FormatError, IntegrityError)):
        fresh.manifest("m", version=version)
    assert fresh.manifest("m", version=good).find("f") is not None
    assert {(source.identifier, source.version) for source in fresh.store_to_catalog().all_versions()} == {
        ("default/m", int(good[1:]) + 1),
        ("default/other", 1),
    }
    assert fresh.aliases("m") == {"is-one": "v0", "is-two": "v1"}

    # What is committed goes past it, and is whole, whether or not the content is that of the damaged version.
    assert commit(fresh, tmp_path, "two" if version == "v1" else "three") == "v2"
    assert commit(fresh, tmp_path, "four") == "v3"
    fresh.delete_version("m", version)
    assert fresh.list_version_names("m") == [good, "v2", "v3"]
    assert commit(connect(store.url), tmp_path, "five") == "v4"  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", BAD)
def test_upkeep_with_a_bad_record(tmp_path: Path, how: str):
    store = connect(str(tmp_path / "store"))
    for text in ("one", "two"):
        commit(store, tmp_path, text)
    spoil(record_of(store, "v1"), how)
    fresh = connect(str(tmp_path / "store"))
    kinds = {finding.kind for finding in fresh.verify().damage}
    assert kinds in ({FindingKind.DAMAGED_RECORD}, {FindingKind.UNREADABLE})
    assert not fresh.verify("m", version="v1").ok
    assert fresh.verify("m", version="v0").ok
    assert fresh.local_root is not None
    before = set((fresh.local_root / "objects").rglob("*"))
    for _ in range(2):
        if how in NAMES_ITS_MANIFEST:
            assert fresh.gc(grace_s=0).versions == 2
        else:
            with pytest.raises(ArtifactError, match=r"nothing was deleted.*m(@v1|/v1\.version)"):
                fresh.gc(grace_s=0)
    assert set((fresh.local_root / "objects").rglob("*")) == before
    fresh.delete_version("m", "v1")
    assert fresh.verify().ok
    assert fresh.gc(grace_s=1000).versions == 1


@pytest.mark.parametrize("how", [how for how in BAD if how != "another number"])
def test_a_bad_tombstone_keeps_its_number(tmp_path: Path, how: str):
    store = connect(str(tmp_path / "store"))
    for text in ("one", "two"):
        commit(store, tmp_path, text)
    store.delete_version("m", "v1")
    assert store.local_root is not None
    spoil(store.local_root / "collections/default/m/v1.deleted", how)
    fresh = connect(str(tmp_path / "store"))
    assert fresh.list_version_names("m") == ["v0"]
    assert commit(fresh, tmp_path, "three") == "v2"


@pytest.mark.parametrize("how", ["empty", "garbage", "a list", "FIFO", "large", "nested"])
def test_a_bad_alias_costs_itself(store: ArtifactManager, tmp_path: Path, how: str):
    commit(store, tmp_path, "one", aliases=["best", "good"])
    assert store.local_root is not None
    (path,) = store.local_root.rglob("best.alias")
    spoil(path, how)
    fresh = connect(store.url)  # type: ignore[attr-defined]
    assert fresh.aliases("m") == {"good": "v0"}
    with pytest.raises((FormatError, IntegrityError)):
        fresh.version_info("m", version="best")
    assert fresh.version_info("m", version="good").version == "v0"
    assert commit(fresh, tmp_path, "two", aliases=["good"]) == "v1"
    fresh.delete_version("m", "v0")
    assert fresh.aliases("m") == {"good": "v1"}


def test_a_directory_named_like_a_record(tmp_path: Path):
    store = connect(str(tmp_path / "store"))
    commit(store, tmp_path, "one")
    record_of(store, "v1").mkdir()
    assert store.list_version_names("m") == ["v0", "v1"]
    assert commit(store, tmp_path, "two") == "v2"


@pytest.mark.parametrize(
    "value",
    [
        Record("v1", 1, "id", "d", "0" * 64, 1, 1, message=None),  # type: ignore[arg-type]
        Record("v1", 1, "id", "d", "0" * 64, 1, 1, message=7),  # type: ignore[arg-type]
        Record("v1", 1, "id", "d", "0" * 64, 1, 1, metadata=[1]),  # type: ignore[arg-type]
        Record("v1", 1, "id", "d", "", 1, 1),
        Record("1", 1, "id", "d", "0" * 64, 1, 1),
        Record("v1", 10**30, "id", "d", "0" * 64, 1, 1),
        Record("v1", 1, "id", "d", "0" * 64, 1, 1, creator=Creator(host=None)),  # type: ignore[arg-type]
        Tombstone("v1", 1, Record("v2", 1, "id", "d", "0" * 64, 1, 1)),
        Alias("latest"),
        Alias(None),  # type: ignore[arg-type]
        Marker("id", 1, digest="md5"),
        Probe({"client": "yes"}),  # type: ignore[dict-item]
    ],
)
def test_nothing_is_written_that_no_reader_takes(value: Any):
    with pytest.raises(SerializationError):
        layout.encode(value)


@pytest.mark.parametrize(
    "value", [GOOD, Tombstone("v1", 1, GOOD), Alias("v1"), Marker("id", 1), Probe({"client": True})]
)
def test_what_readers_take_is_written(value: Any):
    assert layout.encode(value)
