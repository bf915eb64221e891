"""Writers at the same time, and writers that die: exactly one version per commit, whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from store_helpers import contents

from artifactfs import connect
from artifactfs.managers.filesystem import FileSystemArtifactManager

HERE = Path(__file__).parent
PROCESSES = 8
COMMITS = 50


def test_eight_processes_lose_no_commit_and_make_none_twice(tmp_path: Path):
    store = str(tmp_path / "store")
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", str(HERE / "race_worker.py"), store, str(tmp_path), str(i), str(COMMITS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(PROCESSES)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.communicate("go\n")
    assert [worker.returncode for worker in workers] == [0] * PROCESSES

    manager = connect(store)
    versions = manager.list_versions("model")
    assert [info.version for info in versions] == [f"v{i}" for i in range(PROCESSES * COMMITS)]
    assert sorted(info.commit_id or "" for info in versions) == sorted(
        f"{p}-{c}" for p in range(PROCESSES) for c in range(COMMITS)
    )
    for info in versions:
        found = contents(manager, "model", info.version)
        assert found == {"who": info.message.encode(), "shared": b"the same in all"}
    assert [info.parent for info in versions] == [None, *(info.version for info in versions[:-1])]


@pytest.mark.parametrize("shared_manager", [True, False])
def test_eight_threads(url: str, tmp_path: Path, shared_manager: bool):
    shared = connect(url)

    def work(number: int) -> None:
        manager = shared if shared_manager else connect(url)
        tree = tmp_path / f"tree-{number}"
        tree.mkdir()
        for i in range(10):
            (tree / "who").write_text(f"{number} {i}")
            result = manager.commit_tree("model", tree, commit_id=f"{number}-{i}", message=f"{number} {i}")
            assert result.created

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    versions = connect(url).list_versions("model")
    assert [info.version for info in versions] == [f"v{i}" for i in range(80)]
    assert len({info.commit_id for info in versions}) == 80
    for info in versions:
        assert contents(shared, "model", info.version) == {"who": info.message.encode()}


def test_one_commit_id_committed_by_many_at_once_makes_one_version(url: str, tmp_path: Path):
    trees = []
    for number in range(8):
        trees.append(tmp_path / f"tree-{number}")
        trees[-1].mkdir()
        (trees[-1] / "f").write_text(f"different {number}")
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda tree: connect(url).commit_tree("model", tree, commit_id="once"), trees))
    assert {result.info.version for result in done} == {"v0"}
    assert connect(url).list_version_names("model") == ["v0"]


def test_the_same_content_committed_by_many_at_once_makes_one_version(url: str, tmp_path: Path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "f").write_text("content")
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda i: connect(url).commit_tree("m", tmp_path / "tree", commit_id=f"c{i}"), range(8)))
    assert {result.info.version for result in done} == {"v0"}
    assert sum(result.created for result in done) == 1


def test_a_number_made_and_deleted_meanwhile_is_not_used_again(local: FileSystemArtifactManager, tmp_path: Path):
    """Another commits v0 and deletes it between our listing and our create: no record may lie under a tombstone."""
    other = FileSystemArtifactManager(local.url)
    trees = [tmp_path / "ours", tmp_path / "theirs"]
    for tree in trees:
        tree.mkdir()
        (tree / "f").write_text(tree.name)
    put_exclusive = local.store.put_exclusive
    interfered = False

    def interfere(key: str, data: bytes) -> object:
        nonlocal interfered
        if key.endswith("v0.version") and not interfered:
            interfered = True
            other.commit_tree("model", trees[1], commit_id="theirs")
            other.delete_version("model", "v0")
        return put_exclusive(key, data)

    local.store.put_exclusive = interfere  # type: ignore[method-assign,assignment]
    result = local.commit_tree("model", trees[0], commit_id="ours")
    assert result.info.version == "v1"
    assert other.list_version_names("model") == ["v1"]
    # The other's commit, repeated, learns that its version was made and deleted.
    assert other.commit_tree("model", trees[1], commit_id="theirs").info.version == "v0"
    assert other.list_version_names("model") == ["v1"]


@pytest.mark.long(12)
@pytest.mark.parametrize("how", ["copy", "consume"])
@pytest.mark.parametrize("kind", ["calls", "delays"])
def test_killed_at_any_moment(kind: str, how: str, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(HERE / "crash_sweep.py"), kind, how, str(tmp_path / "sweep")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= (100 if kind == "calls" else 10)
