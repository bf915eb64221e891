"""A commit relies on nothing that it has not looked at, and mends what it finds damaged; what it made is read back."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from clocked_store import Clocked, tree_of
from store_helpers import contents
from test_store_corruption import DAMAGE, cut, flip

from artifactfs.errors import UnsupportedTree
from artifactfs.managers.commit_id import new_commit_id
from artifactfs.managers.filesystem import FileSystemArtifactManager
from artifactfs.objects import layout, readback
from artifactfs.transfer import copy_version

LARGE = bytes(range(256)) * 5000
FILES = {"large": LARGE, "small": b"small", "other": b"other"}


def write(tree: Path, **more: bytes) -> Path:
    tree.mkdir(exist_ok=True)
    for name, data in {**FILES, **more}.items():
        (tree / name).unlink(missing_ok=True)
        (tree / name).write_bytes(data)
    return tree


def commit(manager: FileSystemArtifactManager, tree: Path, **more: object) -> str:
    result = manager.commit_tree("m", tree, commit_id=new_commit_id(), **more)  # type: ignore[arg-type]
    return result.info.version


def object_of(manager: FileSystemArtifactManager, path: str) -> Path:
    entry = manager.manifest("m").find(path)
    assert entry is not None
    assert entry.object is not None
    assert manager.local_root is not None
    return manager.local_root / layout.object_key(entry.object)


@pytest.mark.parametrize("consume", [False, True], ids=["copied", "given"])
@pytest.mark.parametrize("path", ["large", "small"])
@DAMAGE
def test_what_an_earlier_version_lost_is_stored_again(
    local: FileSystemArtifactManager, tmp_path: Path, damage: Callable[[Path], None], path: str, consume: bool
):
    """Both versions can be read afterwards."""
    commit(local, write(tmp_path / "tree"))
    damage(object_of(local, path))
    assert not local.verify().ok
    assert commit(local, write(tmp_path / "tree", new=b"new"), consume=consume) == "v1"
    assert contents(local, "m", "v0") == FILES
    assert contents(local, "m", "v1") == {**FILES, "new": b"new"}
    assert local.verify().ok


@pytest.mark.parametrize("path", ["large", "small"])
@DAMAGE
def test_content_of_a_damaged_version_mends_it(
    local: FileSystemArtifactManager, tmp_path: Path, damage: Callable[[Path], None], path: str
):
    commit(local, write(tmp_path / "tree"))
    damage(object_of(local, path))
    result = local.commit_tree("m", write(tmp_path / "tree"), commit_id="b", consume=True)
    assert (result.info.version, result.created) == ("v0", False)
    assert contents(local, "m", "v0") == FILES
    assert local.verify().ok


@DAMAGE
def test_content_of_a_version_that_cannot_be_mended_makes_another(
    local: FileSystemArtifactManager, tmp_path: Path, damage: Callable[[Path], None]
):
    """The pack of v0 holds a file that nobody has any more, so its bytes cannot be made again."""
    commit(local, write(tmp_path / "tree", gone=b"gone"))
    (tmp_path / "tree" / "gone").unlink()
    assert commit(local, write(tmp_path / "tree")) == "v1"
    damage(object_of(local, "small"))
    assert commit(local, write(tmp_path / "tree")) == "v2"
    assert contents(local, "m", "v2") == FILES
    # From then on it is the latest, and whole.
    assert commit(local, write(tmp_path / "tree")) == "v2"


@DAMAGE
@pytest.mark.parametrize("same_times", [True, False])
def test_content_of_a_version_with_a_damaged_manifest(
    local: FileSystemArtifactManager, tmp_path: Path, damage: Callable[[Path], None], same_times: bool
):
    commit(local, write(tmp_path / "tree"))
    assert local.local_root is not None
    raw = (local.local_root / "collections/default/m/v0.version").read_bytes()
    damage(local.local_root / layout.object_key(layout.decode_record(raw, "v0", 0).manifest))
    if not same_times:
        (tmp_path / "tree" / "small").touch()
    version = commit(local, tmp_path / "tree")
    assert version == ("v0" if same_times else "v1")
    fresh = FileSystemArtifactManager(local.url)
    assert contents(fresh, "m", version) == FILES


def test_a_changed_byte_beside_what_is_relied_on_costs_nothing(local: FileSystemArtifactManager, tmp_path: Path):
    """Only the bytes that a commit relies on are looked at."""
    commit(local, write(tmp_path / "tree", zzz=b"z" * 100_000))
    flip(object_of(local, "zzz"))  # in the middle of the pack, which is all of zzz
    (tmp_path / "tree" / "zzz").unlink()
    result = local.commit_tree("m", write(tmp_path / "tree"), commit_id="b")
    assert result.sent_bytes == 0
    assert contents(local, "m", "v1") == FILES


@pytest.mark.parametrize("damage", [None, b"cut"], ids=["missing", "cut"])
@pytest.mark.parametrize("path", ["large", "small"])
def test_a_remote_store_is_asked_for_sizes(tmp_path: Path, path: str, damage: bytes | None):
    clocked = Clocked()
    clocked.commit(write(tmp_path / "tree"))
    entry = clocked.manager.manifest("m").find(path)
    assert entry is not None
    assert entry.object is not None
    key = layout.object_key(entry.object)
    clocked.store.delete(key)
    if damage is not None:
        clocked.store.put(key, damage)
    assert clocked.commit(write(tmp_path / "tree", new=b"new")) == "v1"
    clocked.check()


@pytest.mark.parametrize("damage", [cut, Path.unlink])
def test_a_reference_to_what_is_lost_is_refused_by_name(
    local: FileSystemArtifactManager, tmp_path: Path, damage: Callable[[Path], None]
):
    commit(local, write(tmp_path / "tree"))
    entry = local.manifest("m").find("large")
    damage(object_of(local, "large"))
    tree = write(tmp_path / "tree", new=b"new")
    with pytest.raises(UnsupportedTree, match=r"tree/large stands for bytes.*lost"):
        commit(local, tree, reference_of=lambda path: entry if path.endswith("/large") else None)
    assert local.list_version_names("m") == ["v0"]


@DAMAGE
def test_a_repeated_commit_mends_what_it_made(
    local: FileSystemArtifactManager, tmp_path: Path, damage: Callable[[Path], None]
):
    """Its tree is deleted on the strength of the answer."""
    local.commit_tree("m", write(tmp_path / "tree"), commit_id="a")
    if damage is not flip:
        damage(object_of(local, "large"))
        damage(object_of(local, "small"))
    again = FileSystemArtifactManager(local.url).commit_tree("m", tmp_path / "tree", commit_id="a", consume=True)
    assert (again.info.version, again.created) == ("v0", True)
    assert local.verify().ok


@DAMAGE
def test_a_copy_mends_what_the_target_lost(
    local: FileSystemArtifactManager, tmp_path: Path, damage: Callable[[Path], None]
):
    other = FileSystemArtifactManager(str(tmp_path / "other"))
    commit(local, write(tmp_path / "tree"))
    copy_version(local, local.version_info("m"), other, "default", "m")
    damage(object_of(other, "large"))
    commit(local, write(tmp_path / "tree", new=b"new"))
    copy_version(local, local.version_info("m"), other, "default", "m")
    assert other.verify().ok


# -- reading back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["flush", "put_exclusive", "get_many"])
@pytest.mark.parametrize("is_told", [True, False], ids=["suspended", "stopped"])
@pytest.mark.parametrize("days", [0.6, 2])
def test_a_commit_that_slept_longer_than_gc_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, is_told: bool, days: float
):
    """A machine that was suspended knows it by its clock; one that was stopped from outside finds out by reading."""
    clocked = Clocked()
    clocked.commit(tree_of(tmp_path, "old"))
    began_s, began_ns = readback.since_boot_s(), clocked.store.now_ns
    monkeypatch.setattr(
        readback if is_told else time,
        "since_boot_s" if is_told else "time",
        lambda: began_s + (clocked.store.now_ns - began_ns) / 1e9,
    )
    monkeypatch.setattr("artifactfs.objects.commit.since_boot_s", readback.since_boot_s)
    asleep = False

    def sleep(method: str, key: str) -> None:
        nonlocal asleep
        if method == at and not asleep and (at == "flush" or "v1" in key):
            asleep = True
            for _ in range(3):
                clocked.days(days)
                clocked.gc()

    clocked.store.set_hook(sleep)
    try:
        assert clocked.commit(tree_of(tmp_path, "old", "new")) == "v1"
    finally:
        clocked.store.set_hook(None)
    assert asleep
    assert contents(FileSystemArtifactManager(clocked.store.url), "m", "v1") == {"old": b"old", "new": b"new"}
    assert clocked.manager.list_version_names("m") == ["v0", "v1"]
    clocked.check()
    for _ in range(3):
        clocked.days(2)
        clocked.gc()
    clocked.check()


def test_a_commit_reads_its_version_back_from_the_store(tmp_path: Path):
    """Not from what this process remembers: the record and the manifest are read after the record was written."""
    clocked = Clocked()
    calls: list[tuple[str, str]] = []
    clocked.store.set_hook(lambda method, key: calls.append((method, key)))
    tree = tree_of(tmp_path, "f")
    for _ in range(2):
        clocked.commit(tree)
        manifest = next(known.record.manifest for known in clocked.manager._history.records("default", "m", [0]))
        read = {key for method, key in calls if method in ("get", "get_range", "get_many")}
        assert {"collections/default/m/v0.version", layout.object_key(manifest)} <= read
        calls.clear()
