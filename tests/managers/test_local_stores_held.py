"""Local stores of both layouts that are moved, unmounted, replaced or begun anew beneath a manager."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from artifactfs import connect
from artifactfs.errors import ArtifactError, NotFound, StoreUnreachable, Unsupported
from artifactfs.managers.filesystem import FileSystemArtifactManager
from artifactfs.managers.plain import PlainArtifactManager

Stored = FileSystemArtifactManager | PlainArtifactManager


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "disk" / "store"


@pytest.fixture(params=["", "plain+"], ids=["native", "plain"])
def opened(request: pytest.FixtureRequest, root: Path) -> Callable[[], Stored]:
    """Opens the store anew, as another process would."""

    def opened() -> Stored:
        found = connect(f"{request.param}file://{root}")
        assert isinstance(found, FileSystemArtifactManager | PlainArtifactManager)
        return found

    return opened


def commit(manager: Stored, tmp_path: Path, text: str, commit_id: str | None = None) -> str:
    tree = tmp_path / "tree"
    tree.mkdir(exist_ok=True)
    (tree / "f").write_text(text)
    return manager.commit_tree("model", tree, commit_id=commit_id or text).info.version


def everything(manager: Stored, tmp_path: Path) -> list[Callable[[], Any]]:
    """What must not be answered by anything but the store itself."""
    return [
        manager.list_collection_names,
        manager.list_artifacts,
        lambda: manager.list_version_names("model"),
        lambda: manager.list_versions("model"),
        lambda: manager.version_info("model"),
        lambda: manager.version_info("other"),
        lambda: manager.exists_in_collection("other"),
        lambda: manager.aliases("model"),
        lambda: manager.set_alias("model", "best", "v0"),
        lambda: manager.delete_version("model", "v0"),
        lambda: commit(manager, tmp_path, "while it was gone"),
        lambda: commit(manager, tmp_path, "first"),
        manager.ensure_created,
    ]


def files_below(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*")) if directory.exists() else []


def nothing(root: Path) -> None:
    """The place is empty, as that of a disk without a directory of its own."""


def empty(root: Path) -> None:
    """What is left of a mountpoint."""
    root.mkdir()


def another(root: Path) -> None:
    """Another store of the same layout."""
    connect(f"{'plain+' if root.with_name('is plain').exists() else ''}file://{root}").ensure_created()


def a_file(root: Path) -> None:
    root.write_bytes(b"in the way")


def a_link(root: Path) -> None:
    root.symlink_to("nowhere")


@pytest.mark.parametrize("instead", [nothing, empty, another, a_file, a_link])
def test_a_store_that_went_away_is_an_error_until_it_is_back(
    opened: Callable[[], Stored], root: Path, tmp_path: Path, instead: Callable[[Path], None]
):
    """O1: nothing is told of what took its place, and nothing is written there; then all goes on, exactly once."""
    manager = opened()
    if isinstance(manager, PlainArtifactManager):
        (tmp_path / "disk").mkdir()
        root.with_name("is plain").touch()
    assert commit(manager, tmp_path, "first") == "v0"
    info = manager.version_info("model")
    entry = manager.manifest("model")[0]
    root.rename(tmp_path / "elsewhere")
    instead(root)
    before = files_below(root)
    for call in everything(manager, tmp_path):
        with pytest.raises(StoreUnreachable, match="gone"):
            call()
    assert files_below(root) == before
    assert os.path.lexists(root) == (instead is not nothing)
    # Bytes that are known never change, so they are told wherever they are.
    assert manager.read_entry(info, entry) == b"first"
    where = manager.local_range(info, entry)
    assert where is not None
    with open(manager.open_local(where.path), "rb") as file:
        assert file.read() == b"first"
    if root.is_dir() and not root.is_symlink():
        shutil.rmtree(root)
    elif os.path.lexists(root):
        root.unlink()
    (tmp_path / "elsewhere").rename(root)
    assert commit(manager, tmp_path, "while it was gone") == "v1"
    assert commit(manager, tmp_path, "while it was gone") == "v1"
    assert manager.list_version_names("model") == opened().list_version_names("model") == ["v0", "v1"]


@pytest.mark.parametrize("after", ["link", "rename", "fsync"])
def test_a_store_that_goes_during_a_commit(
    opened: Callable[[], Stored], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
):
    """C7: a version that nobody can find is not acknowledged; the same commit makes one version when it is back."""
    calls = 0
    going = 1
    original = getattr(os, after)

    def goes(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        result = original(*args, **kwargs)
        calls += 1
        if calls == going and root.exists():
            monkeypatch.setattr(os, after, original)
            root.rename(tmp_path / "elsewhere")
            root.mkdir()
        return result

    manager = opened()
    commit(manager, tmp_path, "first")
    made = 1
    while True:
        calls = 0
        monkeypatch.setattr(os, after, goes)
        text = f"{after} {going}"
        try:
            commit(manager, tmp_path, text)
        except StoreUnreachable:
            assert files_below(root) == []
        monkeypatch.setattr(os, after, original)
        went = (tmp_path / "elsewhere").exists()
        if went:
            root.rmdir()
            (tmp_path / "elsewhere").rename(root)
        assert commit(manager, tmp_path, text) == f"v{made}"
        assert opened().list_version_names("model") == [f"v{number}" for number in range(made + 1)]
        made += 1
        going += 4 if after == "fsync" else 1
        if not went:
            break
    assert made > (2 if after == "fsync" else 1)


def test_a_store_that_is_begun_anew_by_somebody_is_another(tmp_path: Path):
    """Its numbers would be given twice. It is told by its id, also in the directory that is held."""
    root = tmp_path / "store"
    manager = FileSystemArtifactManager(str(root))
    commit(manager, tmp_path, "first")
    for name in os.listdir(root):
        shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()
    other = FileSystemArtifactManager(str(root))
    commit(other, tmp_path, "theirs")
    for call in everything(manager, tmp_path):
        with pytest.raises(StoreUnreachable, match="gone"):
            call()
    assert other.list_version_names("model") == ["v0"]


def test_a_copy_of_the_store_in_its_place_is_the_store(tmp_path: Path):
    """As after a disk was replaced and restored, or mounted as another device: it has the same id."""
    root = tmp_path / "store"
    manager = FileSystemArtifactManager(str(root))
    commit(manager, tmp_path, "first")
    shutil.copytree(root, tmp_path / "copy")
    root.rename(tmp_path / "broken")
    (tmp_path / "copy").rename(root)
    assert commit(manager, tmp_path, "second") == "v1"
    assert FileSystemArtifactManager(str(root)).list_version_names("model") == ["v0", "v1"]


def test_a_marker_that_was_touched_is_the_same(tmp_path: Path):
    root = tmp_path / "store"
    manager = FileSystemArtifactManager(str(root))
    commit(manager, tmp_path, "first")
    os.utime(root / "artifactfs.json", ns=(1, 1))
    os.chmod(root / "artifactfs.json", 0o644)
    assert commit(manager, tmp_path, "second") == "v1"


@pytest.mark.parametrize("there", [False, True])
def test_a_store_that_is_not_there_yet(opened: Callable[[], Stored], root: Path, tmp_path: Path, there: bool):
    """Who reads waits for it, who commits makes it."""
    if there:
        root.mkdir(parents=True)
    reader, writer = opened(), opened()
    try:
        assert reader.list_collection_names() == []
    except NotFound:
        assert not there
    assert commit(writer, tmp_path, "first") == "v0"
    assert reader.list_version_names("model") == ["v0"]
    assert commit(reader, tmp_path, "second") == "v1"


def test_an_empty_place_that_a_disk_is_mounted_on_later(tmp_path: Path):
    """Nothing was there that could be gone."""
    root = tmp_path / "store"
    root.mkdir()
    reader = FileSystemArtifactManager(str(root))
    assert reader.list_collection_names() == []
    commit(FileSystemArtifactManager(str(tmp_path / "made")), tmp_path, "first")
    root.rmdir()
    (tmp_path / "made").rename(root)
    assert reader.list_version_names("model") == ["v0"]


def test_a_root_that_is_a_symlink(opened: Callable[[], Stored], root: Path, tmp_path: Path):
    """It may lead to the store, and elsewhere it is another place."""
    (tmp_path / "real").mkdir()
    root.parent.mkdir()
    root.symlink_to(tmp_path / "real")
    manager = opened()
    assert commit(manager, tmp_path, "first") == "v0"
    root.unlink()
    (tmp_path / "other").mkdir()
    root.symlink_to(tmp_path / "other")
    with pytest.raises(StoreUnreachable, match="gone"):
        commit(manager, tmp_path, "second")
    assert os.listdir(tmp_path / "other") == []


def held(directory: Path) -> int:
    """How many descriptors of this process are of something in a directory."""
    links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    return sum(os.readlink(link).startswith(str(directory)) for link in links if os.path.lexists(link))


def test_managers_leak_no_descriptors(opened: Callable[[], Stored], root: Path, tmp_path: Path):
    """One for each manager, for as long as there is the manager; also when the store is another directory by now."""
    manager = opened()
    commit(manager, tmp_path, "first")
    manager.download_artifact("model", to=tmp_path / "out")
    assert held(tmp_path) == 1
    root.rename(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError):
        manager.list_artifacts()
    assert held(tmp_path) == 1
    del manager
    gc.collect()
    assert held(tmp_path) == 0


def test_the_last_reference_lets_the_disk_go(opened: Callable[[], Stored], tmp_path: Path):
    """O8: whoever has dropped a manager can unmount its disk, whatever it was used for and without a collection."""

    def use() -> None:
        manager = opened()
        commit(manager, tmp_path, "first")
        commit(manager, tmp_path, "second")
        manager.set_alias("model", "best", "v0")
        manager.delete_version("model", "v1")
        for entry in manager.manifest("model", version="v0"):
            if entry.digest is not None:
                manager.read_entry(manager.version_info("model", version="v0"), entry)
        manager.download_artifact("model", to=tmp_path / "out")
        with contextlib.suppress(Unsupported):
            manager.gc()
        assert not manager.verify().damage
        assert held(tmp_path) > 0

    gc.collect()
    gc.disable()
    try:
        use()
        assert held(tmp_path) == 0
    finally:
        gc.enable()
