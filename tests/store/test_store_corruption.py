"""Flipped, short and missing bytes are errors, never wrong data; damaged metadata is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from artifactfs import EntryKind
from artifactfs.errors import FormatError, IntegrityError, VersionNotFound
from artifactfs.managers.filesystem import FileSystemArtifactManager
from artifactfs.objects import layout


def flip(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(b"")


DAMAGE = pytest.mark.parametrize("damage", [flip, cut, empty, Path.unlink], ids=["flip", "cut", "empty", "missing"])


def objects_of(manager: FileSystemArtifactManager, artifact: str = "m") -> list[Path]:
    assert manager.local_root is not None
    return [manager.local_root / layout.object_key(name) for name in manager.manifest(artifact).objects]


@DAMAGE
def test_damaged_objects(local: FileSystemArtifactManager, tree: Path, tmp_path: Path, damage: Callable[[Path], None]):
    info = local.commit_tree("m", tree, commit_id="a").info
    for path in objects_of(local):
        damage(path)
    failed = 0
    for entry in local.manifest("m"):
        if entry.kind is EntryKind.FILE and entry.size_bytes:
            intact = (tree / entry.path).read_bytes()
            try:
                same = local.read_entry(info, entry) == intact
            except IntegrityError:
                failed += 1
                if damage in (empty, Path.unlink):
                    with pytest.raises(IntegrityError, match=entry.path):
                        local.local_range(info, entry)
                    with pytest.raises(IntegrityError, match=entry.path):
                        local.read_entry(info, entry, 1, 2)
            else:
                assert same
    assert failed >= len(objects_of(local))
    with pytest.raises(IntegrityError):
        local.download_artifact("m", to=tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@DAMAGE
def test_a_damaged_manifest(
    local: FileSystemArtifactManager, tree: Path, tmp_path: Path, damage: Callable[[Path], None]
):
    local.commit_tree("m", tree, commit_id="a")
    assert local.local_root is not None
    record = layout.decode_record((local.local_root / "collections/default/m/v0.version").read_bytes(), "v0", 0)
    damage(local.local_root / layout.object_key(record.manifest))
    fresh = FileSystemArtifactManager(local.url)
    assert fresh.version_info("m").version == "v0"
    for call in (lambda: fresh.manifest("m"), lambda: fresh.download_artifact("m", to=tmp_path / "out")):
        with pytest.raises(IntegrityError):
            call()
    # New versions can be made all the same, with everything sent again.
    (tree / "new").write_bytes(b"new")
    result = fresh.commit_tree("m", tree, commit_id="b")
    assert result.info.version == "v1"
    assert result.sent_bytes == result.info.size_bytes - 5
    assert fresh.read_entry(result.info, fresh.manifest("m")[0]) == b""


@DAMAGE
def test_a_commit_mends_an_object_it_stores_again(
    local: FileSystemArtifactManager, tree: Path, tmp_path: Path, damage: Callable[[Path], None]
):
    """After a power cut an object may lie empty under its final name, with no record that names it."""
    local.commit_tree("m", tree, commit_id="a")
    for path in objects_of(local):
        damage(path)
    for name, consume in (("copied", False), ("given", True)):
        local.commit_tree(name, tree, commit_id=name, consume=consume)
        local.download_artifact(name, to=tmp_path / "out")


@pytest.mark.parametrize("raw", [b"", b"{", b"[1]", b'{"format":1}', b"\xff\xfe", b'{"format": "x"}'])
def test_a_damaged_record_is_named(local: FileSystemArtifactManager, tree: Path, raw: bytes):
    local.commit_tree("m", tree, commit_id="a", aliases=["best"])
    assert local.local_root is not None
    directory = local.local_root / "collections/default/m"
    for name in ("v0.version", "best.alias"):
        (directory / name).unlink()
        (directory / name).write_bytes(raw)
    fresh = FileSystemArtifactManager(local.url)
    assert fresh.list_version_names("m") == ["v0"]
    with pytest.raises(FormatError, match=r"v0\.version"):
        fresh.version_info("m")
    with pytest.raises(FormatError, match=r"best\.alias"):
        fresh.version_info("m", version="best")


def test_records_of_another_number_or_a_newer_format(local: FileSystemArtifactManager, tree: Path):
    local.commit_tree("m", tree, commit_id="a")
    assert local.local_root is not None
    directory = local.local_root / "collections/default/m"
    raw = (directory / "v0.version").read_bytes()
    (directory / "v5.version").write_bytes(raw)
    (directory / "v6.version").write_bytes(raw.replace(b'"format":1', b'"format":2').replace(b"v0", b"v6"))
    (directory / "v7.version").write_bytes(b'{"format": 9, "version": ["another", "shape"]}')
    fresh = FileSystemArtifactManager(local.url)
    with pytest.raises(FormatError, match=r"v5\.version is damaged"):
        fresh.version_info("m", version="v5")
    with pytest.raises(FormatError, match=r"format 2.*format 1"):
        fresh.version_info("m", version="v6")
    with pytest.raises(FormatError, match=r"format 9.*format 1"):
        fresh.version_info("m", version="v7")


def test_an_alias_that_names_no_version(local: FileSystemArtifactManager, tree: Path, caplog: pytest.LogCaptureFixture):
    local.commit_tree("m", tree, commit_id="a", aliases=["best"])
    assert local.local_root is not None
    path = local.local_root / "collections/default/m/best.alias"
    path.unlink()
    path.write_text('{"version": "v9"}')
    assert local.aliases("m") == {}
    with pytest.raises(VersionNotFound):
        local.version_info("m", version="best")
    path.write_text('{"version": "../x"}')
    assert local.aliases("m") == {}
    assert "best.alias is damaged" in caplog.text
    with pytest.raises(FormatError, match=r"best\.alias"):
        local.version_info("m", version="best")
