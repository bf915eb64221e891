"""FileSystemArtifactManager on the local disk and in memory: commits, browsing, aliases, deletion, downloads."""

from __future__ import annotations

import json
import os
import pickle
import stat
from pathlib import Path
from typing import Any

import pytest
from store_helpers import MIB, contents, make_tree, snapshot

from artifactfs import EntryKind, TmpArtifact, connect
from artifactfs.errors import (
    AlreadyExists,
    ArtifactNotFound,
    CollectionNotFound,
    FormatError,
    InvalidName,
    NotFound,
    PathNotFound,
    SerializationError,
    UnsupportedTree,
    VersionNotFound,
)
from artifactfs.managers.filesystem import FileSystemArtifactManager


def write(tree: Path, **files: str | bytes) -> Path:
    tree.mkdir(exist_ok=True)
    for name, data in files.items():
        (tree / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return tree


def test_a_tree_comes_back_as_it_was(manager: FileSystemArtifactManager, tree: Path, tmp_path: Path):
    before = snapshot(tree)
    result = manager.commit_tree("model", tree, commit_id="c", message="first", metadata={"lr": 0.1, "tags": ["a"]})
    assert result.created
    assert snapshot(tree) == before
    path = manager.download_artifact("model", to=tmp_path / "out")
    assert path == tmp_path / "out" / "model"
    assert snapshot(tmp_path / "out" / "model") == before
    assert os.listdir(tmp_path / "out") == ["model"]


def test_version_info_says_what_was_committed(manager: FileSystemArtifactManager, tree: Path):
    info = manager.commit_tree("model", tree, commit_id="c", message="first", metadata={"lr": 0.1}).info
    assert info == manager.version_info("model") == manager.version_info("model", version="v0")
    assert info == connect(manager.url).list_versions("model")[0] if manager.local_root else True
    assert (info.collection, info.artifact, info.version, info.number) == ("default", "model", "v0", 0)
    assert (info.message, info.metadata, info.commit_id, info.parent) == ("first", {"lr": 0.1}, "c", None)
    assert info.file_count == 7
    assert info.size_bytes == sum(p.stat().st_size for p in tree.rglob("*") if p.is_file() and not p.is_symlink())
    assert info.digest == manager.manifest("model").content_digest()
    assert "@" in info.creator


def test_versions_count_up_and_share_what_is_equal(manager: FileSystemArtifactManager, tree: Path):
    first = manager.commit_tree("model", tree, commit_id="a")
    assert first.deduplicated_bytes == 5  # "same" holds what "a.txt" holds
    (tree / "new").write_bytes(b"gamma")
    second = manager.commit_tree("model", tree, commit_id="b")
    assert (second.info.version, second.info.parent, second.sent_bytes) == ("v1", "v0", 5)
    assert second.deduplicated_bytes == first.info.size_bytes
    assert manager.list_version_names("model") == ["v0", "v1"]
    assert contents(manager, "model", "latest")["new"] == b"gamma"
    assert "new" not in contents(manager, "model", "v0")


def test_equal_content_is_no_new_version(manager: FileSystemArtifactManager, tree: Path):
    manager.commit_tree("model", tree, commit_id="a")
    os.utime(tree / "a.txt", ns=(5, 5))
    again = manager.commit_tree("model", tree, commit_id="b", aliases=["best"])
    assert (again.info.version, again.created, again.sent_bytes) == ("v0", False, 0)
    assert manager.aliases("model") == {"best": "v0"}
    (tree / "a.txt").chmod(0o755)
    assert manager.commit_tree("model", tree, commit_id="c").info.version == "v1"
    (tree / "a.txt").chmod(0o600)
    assert manager.commit_tree("model", tree, commit_id="d").created, "equal to v0 but not to the latest"


def test_a_repeated_commit_gives_the_version_it_made(manager: FileSystemArtifactManager, tmp_path: Path):
    tree = write(tmp_path / "t", f="1")
    manager.commit_tree("model", tree, commit_id="a")
    manager.commit_tree("model", write(tree, f="2"), commit_id="b")
    again = manager.commit_tree("model", write(tree, f="3"), commit_id="a", aliases=["best"])
    assert (again.info.version, again.created) == ("v0", True)
    assert manager.list_version_names("model") == ["v0", "v1"]
    assert manager.aliases("model") == {"best": "v0"}


def test_progress_reaches_the_end(manager: FileSystemArtifactManager, tree: Path):
    seen: list[tuple[int, int]] = []
    for commit_id in ("a", "a", "b"):
        seen.clear()
        info = manager.commit_tree("m", tree, commit_id=commit_id, progress=lambda *now: seen.append(now)).info
        assert seen[-1] == (info.size_bytes, info.file_count)
        assert seen == sorted(seen)


def test_an_empty_tree_is_a_version(manager: FileSystemArtifactManager, tmp_path: Path):
    (tmp_path / "none").mkdir()
    info = manager.commit_tree("model", tmp_path / "none", commit_id="a").info
    assert (info.file_count, info.size_bytes) == (0, 0)
    assert list((manager.download_artifact("model", to=tmp_path / "out") / "").iterdir()) == []  # type: ignore[operator]


def test_packs_hold_many_files_and_split_at_their_limit(manager: FileSystemArtifactManager, tmp_path: Path):
    tree = tmp_path / "t"
    tree.mkdir()
    for i in range(20):
        (tree / f"f{i:02}").write_bytes(bytes([i]) * (MIB - 1))
    (tree / "large").write_bytes(b"L" * MIB)
    manager.commit_tree("model", tree, commit_id="a")
    manifest = manager.manifest("model")
    entries = [entry for entry in manifest if entry.path != "large"]
    assert [entry.offset for entry in entries[:16]] == [i * (MIB - 1) for i in range(16)]
    assert len({entry.object for entry in entries[:16]}) == 1
    assert len({entry.object for entry in entries[16:]}) == 1
    assert len(manifest.objects) == 3
    large = manifest.find("large")
    assert large is not None
    assert (large.object, large.offset) == (large.digest, 0)


@pytest.mark.parametrize(
    ("offset", "size_bytes", "expected"),
    [
        (0, None, slice(0, None)),
        (0, 10, slice(0, 10)),
        (7, 100, slice(7, 107)),
        (1_535_990, 100, slice(1_535_990, None)),
        (9, None, slice(9, None)),
    ],
)
def test_reading_a_part(manager: FileSystemArtifactManager, tree: Path, offset: int, size_bytes: Any, expected: slice):
    info = manager.commit_tree("model", tree, commit_id="a").info
    entry = manager.manifest("model").find("sub/big.bin")
    assert entry is not None
    whole = (tree / "sub/big.bin").read_bytes()
    assert manager.read_entry(info, entry, offset, size_bytes) == whole[expected]
    assert manager.read_entry(info, entry, len(whole), 5) == b""
    assert manager.read_entry(info, entry, len(whole) + 99) == b""


def test_reading_what_is_no_file(manager: FileSystemArtifactManager, tree: Path):
    info = manager.commit_tree("model", tree, commit_id="a").info
    for path in ("sub", "sub/link"):
        entry = manager.manifest("model").find(path)
        assert entry is not None
        with pytest.raises(PathNotFound, match=path):
            manager.read_entry(info, entry)


def test_local_range(manager: FileSystemArtifactManager, tree: Path):
    info = manager.commit_tree("model", tree, commit_id="a").info
    for entry in manager.manifest("model"):
        place = manager.local_range(info, entry)
        if manager.local_root is None or entry.kind is not EntryKind.FILE or not entry.size_bytes:
            assert place is None
            continue
        assert place is not None
        with open(place.path, "rb") as file:
            file.seek(place.offset)
            assert file.read(place.size_bytes) == (tree / entry.path).read_bytes()
        assert not stat.S_IMODE(os.stat(place.path).st_mode) & 0o222


def test_names_that_are_not_there(manager: FileSystemArtifactManager, tmp_path: Path):
    tree = write(tmp_path / "t", f="1")
    if manager.local_root is not None:
        with pytest.raises(NotFound, match="does not exist"):
            manager.list_collection_names()
    manager.ensure_created()
    assert manager.list_collection_names() == []
    with pytest.raises(CollectionNotFound):
        manager.list_artifacts()
    with pytest.raises(ArtifactNotFound):
        manager.version_info("model")
    manager.commit_tree("model", tree, commit_id="a")
    for version in ("v1", "nope", "latest2", "pending.1"):
        with pytest.raises(VersionNotFound):
            manager.version_info("model", version=version)
    for call in (manager.list_version_names, manager.aliases, manager.manifest, manager.list_versions):
        with pytest.raises(ArtifactNotFound):
            call("other")
    for name in ("", "a/b", "..", "bad name"):
        with pytest.raises(InvalidName):
            manager.version_info(name)
        with pytest.raises(InvalidName):
            manager.commit_tree(name, tree, commit_id="x")
    assert manager.exists("model")
    assert not manager.exists("other")
    assert manager.exists_in_collection("model")
    for artifact, collection in (("other", None), ("model", "other"), ("a/b", None), ("model", "a/b")):
        assert not manager.exists_in_collection(artifact, collection)
    assert manager.list_collection_names() == ["default"]


def test_aliases(manager: FileSystemArtifactManager, tmp_path: Path):
    tree = write(tmp_path / "t", f="1")
    manager.commit_tree("model", tree, commit_id="a", aliases=["best", "prod"])
    manager.commit_tree("model", write(tree, f="2"), commit_id="b")
    manager.set_alias("model", "best", "latest")
    manager.set_alias("model", "older", "prod")
    assert manager.aliases("model") == {"best": "v1", "prod": "v0", "older": "v0"}
    assert manager.version_info("model", version="best").version == "v1"
    manager.delete_alias("model", "prod")
    assert manager.aliases("model") == {"best": "v1", "older": "v0"}
    with pytest.raises(VersionNotFound):
        manager.delete_alias("model", "prod")
    with pytest.raises(VersionNotFound):
        manager.set_alias("model", "best", "v7")
    for bad in ("latest", "v3", "staging", "pending.1", "a/b"):
        with pytest.raises(InvalidName):
            manager.set_alias("model", bad, "v0")
        with pytest.raises(InvalidName):
            manager.commit_tree("model", tree, commit_id="c", aliases=[bad])
    assert manager.list_version_names("model") == ["v0", "v1"]


def test_deleting_versions(manager: FileSystemArtifactManager, tmp_path: Path):
    tree = write(tmp_path / "t", f="0")
    for i in range(3):
        manager.commit_tree("model", write(tree, f=str(i)), commit_id=f"c{i}", aliases=[f"is{i}"])
    manager.delete_version("model", "latest")
    assert manager.list_version_names("model") == ["v0", "v1"]
    assert manager.aliases("model") == {"is0": "v0", "is1": "v1"}
    assert manager.version_info("model").version == "v1"
    with pytest.raises(VersionNotFound):
        manager.version_info("model", version="v2")
    with pytest.raises(VersionNotFound):
        manager.delete_version("model", "v2")
    # Neither is the number used again, nor does a repeated commit bring the version back.
    assert manager.commit_tree("model", tree, commit_id="c2").info.version == "v2"
    assert manager.list_version_names("model") == ["v0", "v1"]
    assert manager.commit_tree("model", write(tree, f="x"), commit_id="new").info.version == "v3"
    for version in ("v0", "is1", "v3"):
        manager.delete_version("model", version)
    assert manager.list_version_names("model") == []
    assert manager.list_artifacts() == []
    with pytest.raises(VersionNotFound):
        manager.version_info("model")
    assert manager.commit_tree("model", tree, commit_id="again").info.version == "v4"


def test_a_deletion_that_died_half_way_is_a_deletion(local: FileSystemArtifactManager, tmp_path: Path):
    tree = write(tmp_path / "t", f="0")
    local.commit_tree("model", tree, commit_id="a", aliases=["best"])
    local.store.delete = lambda key: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        local.delete_version("model", "v0")
    other = FileSystemArtifactManager(local.url)
    assert other.list_version_names("model") == []
    assert other.aliases("model") == {}
    for version in ("v0", "best"):
        with pytest.raises(VersionNotFound):
            other.version_info("model", version=version)
    assert other.commit_tree("model", tree, commit_id="b").info.version == "v1"


def test_log_files(manager: FileSystemArtifactManager, tree: Path):
    manager.log_files("one", tree / "a.txt")
    assert manager.list_version_names("one") == ["v0"]
    assert contents(manager, "one", "latest") == {"a.txt": b"alpha"}
    manager.log_files("one", tree / "a.txt", None, Path("x/y.txt"), message="m", aliases=["best"])
    assert contents(manager, "one", "best") == {"x/y.txt": b"alpha"}
    manager.log_files("tree", tree, "other")
    assert manager.list_artifacts("other") == ["tree"]
    manager.log_files("below", tree, artifact_path=Path("top"))
    assert contents(manager, "below", "v0")["top/sub/deep/tool"] == (tree / "sub/deep/tool").read_bytes()
    with pytest.raises(NotFound):
        manager.log_files("none", tree / "missing")
    with pytest.raises(InvalidName):
        manager.log_files("none", tree, artifact_path=Path("../up"))
    with manager.log_folder("folder") as folder:
        (folder / "f").write_text("x")
    assert contents(manager, "folder", "v0") == {"f": b"x"}


def test_a_temporary_download(manager: FileSystemArtifactManager, tree: Path):
    manager.commit_tree("model", tree, commit_id="a")
    download = manager.download_artifact("model")
    assert isinstance(download, TmpArtifact)
    with download as path:
        assert path.name == "model"
        assert snapshot(path) == snapshot(tree)
    assert not path.exists()


@pytest.mark.parametrize(
    "metadata", [{"x": object()}, {"x": "y" * 70_000}, {"x": "\udcff"}], ids=["no JSON", "too large", "no UTF-8"]
)
def test_metadata_a_record_cannot_hold(manager: FileSystemArtifactManager, tree: Path, metadata: dict[str, Any]):
    with pytest.raises(SerializationError):
        manager.commit_tree("model", tree, commit_id="a", metadata=metadata)
    with pytest.raises(SerializationError):
        manager.commit_tree("model", tree, commit_id="a", message="m" * 70_000)


def test_the_marker(manager: FileSystemArtifactManager, tree: Path):
    assert manager.store_id is None
    assert manager.created_ns is None
    manager.ensure_created()
    made = manager.store_id
    assert made
    assert manager.created_ns
    manager.ensure_created()
    manager.commit_tree("model", tree, commit_id="a")
    assert connect(manager.url).store_id == made  # type: ignore[attr-defined]


def test_a_pickled_manager_opens_the_same_store(manager: FileSystemArtifactManager, tree: Path):
    manager.active_collection = "other"
    manager.commit_tree("model", tree, commit_id="a")
    copy = pickle.loads(pickle.dumps(manager))
    assert copy.active_collection == "other"
    assert copy.list_version_names("model") == ["v0"]


class TestLocalDirectories:
    def test_a_directory_with_something_else_is_not_taken(self, tmp_path: Path, tree: Path):
        manager = FileSystemArtifactManager(str(tree))
        for call in (manager.list_collection_names, manager.ensure_created, lambda: manager.version_info("m")):
            with pytest.raises(FormatError, match="not an artifactfs store"):
                call()
        with pytest.raises(FormatError):
            manager.commit_tree("m", write(tmp_path / "t", f="1"), commit_id="a")

    def test_the_drives_area_does_not_count(self, local: FileSystemArtifactManager, tmp_path: Path):
        assert local.local_root is not None
        (local.local_root / "staging").mkdir(parents=True)
        local.commit_tree("m", write(local.local_root / "staging" / "t", f="1"), commit_id="a")
        assert local.list_version_names("m") == ["v0"]

    def test_a_newer_store_is_refused_with_both_numbers(self, local: FileSystemArtifactManager):
        assert local.local_root is not None
        local.local_root.mkdir()
        (local.local_root / "artifactfs.json").write_text('{"format": 7, "everything": "else"}')
        with pytest.raises(FormatError, match=r"format 7.*format 1"):
            local.list_collection_names()

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", '{"format": 1}', '{"format":1,"id":"x","created":1,"digest":"md5"}']
    )
    def test_a_damaged_marker(self, local: FileSystemArtifactManager, text: str):
        assert local.local_root is not None
        local.local_root.mkdir()
        (local.local_root / "artifactfs.json").write_text(text)
        with pytest.raises(FormatError):
            local.list_collection_names()

    def test_a_store_whose_disk_went_away_is_not_empty(self, local: FileSystemArtifactManager, tree: Path):
        local.commit_tree("m", tree, commit_id="a")
        assert local.local_root is not None
        local.local_root.rename(local.local_root.with_name("gone"))
        for call in (local.list_collection_names, local.list_artifacts, lambda: local.version_info("m")):
            with pytest.raises(ConnectionError, match="gone"):
                call()

    def test_a_tree_that_holds_the_store_is_refused(self, local: FileSystemArtifactManager, tmp_path: Path):
        local.ensure_created()
        with pytest.raises(UnsupportedTree, match="itself"):
            local.commit_tree("m", tmp_path, commit_id="a")

    def test_foreign_names_are_shown_escaped_and_found(self, local: FileSystemArtifactManager, tree: Path):
        local.commit_tree("model", tree, commit_id="a")
        assert local.local_root is not None
        collections = local.local_root / "collections"
        strange = {"a b": "a%20b", os.fsdecode(b"\xff"): "%FF", "x" * 200: "x" * 200}
        for name in strange:
            (collections / "default" / "model").rename(collections / "default" / name)
            assert local.list_artifacts() == [strange[name]]
            assert local.version_info(strange[name]).version == "v0"
            (collections / "default" / name).rename(collections / "default" / "model")
        (collections / "default").rename(collections / "per cent%")
        assert local.list_collection_names() == ["per%20cent%25"]
        assert local.list_artifacts("per%20cent%25") == ["model"]
        (collections / "stray file").touch()
        (collections / "per cent%" / "model" / "stray").touch()
        (collections / "per cent%" / "model" / "v00.version").touch()
        (collections / "per cent%" / "model" / "v9.alias").touch()
        assert local.list_version_names("model", "per%20cent%25") == ["v0"]
        assert local.aliases("model", "per%20cent%25") == {}

    def test_the_record_is_plain_json(self, local: FileSystemArtifactManager, tree: Path):
        local.commit_tree("model", tree, commit_id="id", message="m", metadata={"k": 1})
        assert local.local_root is not None
        record = json.loads((local.local_root / "collections/default/model/v0.version").read_text())
        assert set(record) == {
            *("format", "version", "created", "message", "metadata", "creator", "parent", "commit", "digest"),
            *("manifest", "file_count", "size_bytes", "clock"),
        }
        assert record["format"] == 1
        assert record["metadata"] == {"k": 1}

    @pytest.mark.parametrize("has_clock", [True, False], ids=["clocked", "of the first programs"])
    def test_finding_a_commit_reads_no_old_records(
        self, local: FileSystemArtifactManager, tmp_path: Path, has_clock: bool
    ):
        from artifactfs.managers.commit_id import new_commit_id
        from artifactfs.objects import layout

        tree = write(tmp_path / "t", f="1")
        local.commit_tree("m", tree, commit_id=new_commit_id())
        assert local.local_root is not None
        directory = local.local_root / "collections/default/m"
        raw = (directory / "v0.version").read_bytes()
        old = layout.decode_record(raw, "k", 0).created - 3 * 24 * 3600 * 10**9
        fields = json.loads(raw)
        fields.pop("clock")
        for number in range(300):
            fields.update({"clock": old} if has_clock else {})
            fields.update(version=f"v{number}", created=old, commit=f"{number}", digest="0" * 64)
            (directory / f"v{number}.version").unlink(missing_ok=True)
            (directory / f"v{number}.version").write_text(json.dumps(fields))
        read: list[str] = []
        fresh = FileSystemArtifactManager(local.url)
        get_many = fresh.store.get_many
        fresh.store.get_many = lambda keys: read.extend(keys) or get_many(keys)  # type: ignore
        assert fresh.commit_tree("m", tree, commit_id=new_commit_id()).info.version == "v300"
        assert sum(key.endswith(".version") for key in read) <= 6
        # An id without a time may be anybody's, so then every record is looked at.
        assert fresh.commit_tree("m", tree, commit_id="17").info.version == "v17"


class TestDownloads:
    def test_into_a_directory_that_has_files(self, manager: FileSystemArtifactManager, tree: Path, tmp_path: Path):
        manager.commit_tree("model", tree, commit_id="a")
        out = tmp_path / "out" / "model"
        (out / "sub").mkdir(parents=True)
        (out / "a.txt").write_text("old")
        (out / "mine").write_text("kept")
        manager.download_artifact("model", to=tmp_path / "out")
        manager.download_artifact("model", to=tmp_path / "out")
        got = snapshot(out)
        assert got.pop(b"mine")[1] == b"kept"
        assert got == snapshot(tree)

    def test_never_through_a_symlink(self, manager: FileSystemArtifactManager, tree: Path, tmp_path: Path):
        manager.commit_tree("model", tree, commit_id="a")
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "precious").write_text("precious")
        out = tmp_path / "out"
        out.mkdir()
        (out / "model").symlink_to(outside)
        with pytest.raises(AlreadyExists, match="symlink"):
            manager.download_artifact("model", to=out)
        (out / "model").unlink()
        (out / "model").mkdir()
        (out / "model" / "sub").symlink_to(outside)
        with pytest.raises(AlreadyExists, match="symlink"):
            manager.download_artifact("model", to=out)
        (out / "model" / "sub").unlink()
        (out / "model" / "a.txt").symlink_to(outside / "precious")
        manager.download_artifact("model", to=out)
        assert snapshot(out / "model") == snapshot(tree)
        assert [p.name for p in outside.iterdir()] == ["precious"]
        assert (outside / "precious").read_text() == "precious"
        assert os.listdir(out) == ["model"]

    def test_a_directory_in_a_files_way(self, manager: FileSystemArtifactManager, tree: Path, tmp_path: Path):
        manager.commit_tree("model", tree, commit_id="a")
        (tmp_path / "out" / "model" / "a.txt").mkdir(parents=True)
        with pytest.raises(AlreadyExists, match=r"a\.txt"):
            manager.download_artifact("model", to=tmp_path / "out")

    def test_a_directory_without_write_permission(self, manager: FileSystemArtifactManager, tmp_path: Path):
        tree = make_tree(tmp_path / "tree")
        (tree / "sub").chmod(0o555)
        manager.commit_tree("model", tree, commit_id="a")
        for _ in range(2):
            manager.download_artifact("model", to=tmp_path / "out")
            assert snapshot(tmp_path / "out" / "model") == snapshot(tree)
