"""squirrel-core reads the stores we write in its layout, we read the ones it writes, and its own manager is mounted."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from artifactfs import connect
from artifactfs.errors import UnsupportedTree
from artifactfs.managers.plain import PlainArtifactManager
from mount.commands.umount import LEFT

ROOT = Path(__file__).parent.parent.parent


def write(directory: Path, **files: str) -> Path:
    for path, text in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(text)
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write(tmp_path / "tree", **{"a.txt": "alpha", "sub/b c": "beta", "sub/deep/ünï": "gamma", ".hidden": "h"})


def test_squirrel_reads_what_we_write(squirrel, store: str, tree: Path, tmp_path: Path):
    ours = connect(f"plain+file://{store}")
    ours.log_files("model", tree, message="m", metadata={"a": 1}, aliases=["best"])
    ours.log_artifact({"x": 1}, "object", "other")
    assert squirrel.call("collections", store) == ["default", "other"]
    assert squirrel.call("exists", store, "model")
    assert squirrel.call("versions", store) == {"default/model": [1], "other/object": [1]}
    assert squirrel.call("download", store, "model", "v0", str(tmp_path / "out"))
    assert contents(tmp_path / "out" / "model") == contents(tree)
    assert {key: bytes.fromhex(raw) for key, raw in squirrel.call("read_source", store, "model").items()} == contents(
        tree
    )


def notes_of_the_first_programs(store: str) -> Path:
    """Put an artifact's aliases and tombstones, and the marker, where the first programs kept them."""
    side = Path(store, ".artifactfs/store/v0")
    (side / "collections/default").mkdir(parents=True)
    Path(store, "default/model/v0/.artifactfs").rename(side / "collections/default/model")
    (side / "tmp").mkdir()
    return write(side, **{"files/README.txt": "This is no artifact."})


def test_our_marker_never_shows_in_a_catalog_of_squirrels(squirrel, store: str, tree: Path, tmp_path: Path):
    """O12: an empty store, aliases, deletions and commits that fail add nothing to squirrel's catalog."""
    ours = connect(f"plain+file://{store}")
    ours.ensure_created()
    assert squirrel.call("versions", store) == {}
    assert isinstance(connect(store), PlainArtifactManager)
    (tree / "out").symlink_to("/etc/hostname")
    with pytest.raises(UnsupportedTree):
        ours.log_files("model", tree)
    (tree / "out").unlink()
    assert squirrel.call("versions", store) == {}
    ours.log_files("model", tree, aliases=["best"])
    ours.log_files("model", write(tree, new="1"))
    ours.set_alias("model", "best", "v1")
    ours.delete_version("model", "v0")
    # squirrel-core goes on listing a version that was deleted.
    assert squirrel.call("versions", store) == {"default/model": [1, 2]}
    assert squirrel.call("collections", store) == ["default"]
    fresh = connect(store)
    assert fresh.aliases("model") == {"best": "v1"}
    assert fresh.list_version_names("model") == ["v1"]


@pytest.mark.parametrize(
    ("change", "aliases"),
    [
        (lambda ours, tree: ours.log_files("model", write(tree, newer="2")), {"best": "v1"}),
        (lambda ours, tree: ours.set_alias("model", "best", "v1"), {"best": "v1"}),
        (lambda ours, tree: ours.set_alias("model", "other", "v1"), {"best": "v1", "other": "v1"}),
        (lambda ours, tree: ours.delete_alias("model", "best"), {}),
        (lambda ours, tree: ours.delete_version("model", "v1"), {}),
        (lambda ours, tree: ours.ensure_created(), {"best": "v1"}),
    ],
)
def test_the_marker_of_the_first_programs_goes(squirrel, store: str, tree: Path, change, aliases):
    """O12: their stores read the same, and whoever writes to one first takes the marker out of squirrel's sight."""
    ours = connect(f"plain+file://{store}")
    ours.log_files("model", tree)
    ours.log_files("model", write(tree, new="1"), aliases=["best"])
    ours.delete_version("model", "v0")
    side = notes_of_the_first_programs(store)
    fresh = connect(store)
    assert fresh.aliases("model") == {"best": "v1"}
    assert fresh.list_version_names("model") == ["v1"]
    assert side.exists(), "who reads changes nothing"
    change(fresh, tree)
    assert not Path(store, ".artifactfs").exists()
    assert squirrel.call("collections", store) == ["default"]
    assert set(squirrel.call("versions", store)) == {"default/model"}
    after = connect(store)
    assert "v0" not in after.list_version_names("model")
    assert after.aliases("model") == aliases


def test_our_catalog_opens_there(squirrel, store: str, tree: Path, tmp_path: Path):
    ours = connect(f"plain+file://{store}")
    ours.log_files("model", tree)
    ours.store_to_catalog().to_file(str(tmp_path / "catalog.yaml"))
    found = squirrel.call("read_catalog_source", str(tmp_path / "catalog.yaml"), "default/model")
    assert {key: bytes.fromhex(raw) for key, raw in found.items()} == contents(tree)


def test_versions_of_both_follow_each_other(squirrel, store: str, tree: Path, tmp_path: Path):
    squirrel.call("log", store, "model", str(tree))
    ours = connect(store)
    assert isinstance(ours, PlainArtifactManager)
    assert ours.list_version_names("model") == ["v0"]
    assert contents(Path(str(ours.download_artifact("model", to=tmp_path / "0")))) == contents(tree)
    assert dict(ours.collection_to_catalog()["default/model"].get_driver().items()) == contents(tree)
    assert ours.log_files("model", tree).version == 1, "the same content"
    write(tree, new="1")
    assert ours.log_files("model", tree, aliases=["best"]).version == 2
    write(tree, new="2")
    assert squirrel.call("log", store, "model", str(tree)) == 3
    ours.delete_version("model", "v2")
    # The number of a deleted version is used by neither.
    write(tree, new="3")
    assert squirrel.call("log", store, "model", str(tree)) == 4
    write(tree, new="4")
    assert ours.log_files("model", tree).version == 5
    assert ours.list_version_names("model") == ["v0", "v1", "v3", "v4"]
    assert ours.aliases("model") == {"best": "v1"}
    assert contents(Path(str(ours.download_artifact("model", version="v3", to=tmp_path / "3"))))["new"] == b"3"
    squirrel.call("download", store, "model", "latest", str(tmp_path / "latest"))
    assert contents(tmp_path / "latest" / "model") == contents(tree)


def test_a_deleted_version_does_not_exist_there(squirrel, store: str, tree: Path, tmp_path: Path):
    from tests.squirrel.client import SquirrelError

    ours = connect(f"plain+file://{store}")
    ours.log_files("model", tree)
    ours.delete_version("model", "v0")
    for version in ("v0", "latest"):
        with pytest.raises(SquirrelError, match="does not exist"):
            squirrel.call("download", store, "model", version, str(tmp_path / "out"))


def run(squirrel, *arguments: str) -> str:
    """Our command in squirrel-core's environment, which has what both need; ``umount --now`` may leave something."""
    done = subprocess.run(
        [squirrel.python, "-m", "mount.cli", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode in ((0, LEFT) if "--now" in arguments else (0,)), done.stderr
    return done.stdout


@pytest.mark.fuse
def test_squirrels_own_manager_is_mounted(squirrel, store: str, tree: Path, tmp_path: Path):
    squirrel.call("log", store, "model", str(tree))
    lone = write(tmp_path / "lone", **{"only/dir/file": "x"})
    squirrel.call("log", store, "lone", str(lone))
    drive = tmp_path / "drive"
    drive.mkdir()
    state = ("--state-dir", str(tmp_path / "state"))
    run(squirrel, "mount", "--read-only", *state, f"squirrel+file://{store}", str(drive))
    try:
        assert sorted(os.listdir(drive / "default")) == ["lone", "model"]
        assert contents(drive / "default" / "model" / "v0") == contents(tree)
        assert contents(drive / "default" / "lone" / "latest") == contents(lone)
    finally:
        run(squirrel, "umount", str(drive))
    run(squirrel, "mount", "--commit-after", "never", *state, f"squirrel+file://{store}", str(drive))
    try:
        (drive / "default" / "model" / "staging" / "by-copy").write_text("new")
        told = run(squirrel, "commit", str(drive / "default" / "model"), "-m", "a message")
        assert "keeps no message" in told
        assert (drive / "default" / "model" / "v1" / "by-copy").read_text() == "new"
    finally:
        run(squirrel, "umount", str(drive))
    squirrel.call("download", store, "model", "v1", str(tmp_path / "out"))
    assert contents(tmp_path / "out" / "model") == {"by-copy": b"new"}


@pytest.mark.fuse
def test_a_drive_leaves_no_mark_in_squirrels_catalog(squirrel, store: str, tree: Path, tmp_path: Path):
    """O12: its staging lies in the store while it is mounted, and afterwards only if something is staged."""
    drive = tmp_path / "drive"
    drive.mkdir()
    state = ("--state-dir", str(tmp_path / "state"))
    mount = ("mount", "--commit-after", "never", *state, f"plain+file://{store}", str(drive))
    run(squirrel, *mount)
    try:
        assert set(squirrel.call("versions", store)) <= {".artifactfs/store"}
        (drive / "default" / "model").mkdir(parents=True)
        (drive / "default/model/staging/a").write_text("a")
        run(squirrel, "commit", str(drive / "default/model"), "--alias", "best")
    finally:
        run(squirrel, "umount", str(drive))
    assert squirrel.call("collections", store) == ["default"]
    assert squirrel.call("versions", store) == {"default/model": [1]}
    for kept in (lambda: (drive / "default/model/staging/b").write_text("b"), (drive / "default/new").mkdir):
        run(squirrel, *mount)
        kept()
        run(squirrel, "umount", "--now", str(drive))
        assert squirrel.call("collections", store) == [".artifactfs", "default"]
        assert squirrel.call("versions", store)["default/model"] == [1]
        run(squirrel, *mount)
        try:
            assert (drive / "default/new").exists() or (drive / "default/model/staging/b").read_text() == "b"
            assert connect(store).aliases("model") == {"best": "v0"}
            if (drive / "default/new").exists():
                (drive / "default/new").rmdir()
            else:
                (drive / "default/model/staging/b").unlink()
        finally:
            run(squirrel, "umount", str(drive))
        assert squirrel.call("collections", store) == ["default"]
