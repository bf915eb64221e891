"""gc against commits of files that stand for bytes of a version (``reference_of``)."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from clocked_store import Clocked, Stopped, tree_of

from artifactfs.errors import UnsupportedTree
from artifactfs.managers.commit_id import new_commit_id
from artifactfs.objects import packs


@pytest.mark.parametrize("calls", range(14))
def test_a_pass_during_a_commit_by_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """Whatever call of the commit a pass comes before: the version is whole, or the commit is refused."""
    monkeypatch.setattr(packs, "SMALL_FILE_BYTES", 1)
    store = Clocked()
    store.commit(tree_of(tmp_path, "x"))
    store.commit(tree_of(tmp_path, "a"), "old")
    entry = store.manager.manifest("old").find("a")
    store.manager.delete_version("old", "v0")
    store.gc()
    store.days(2)
    tree = tree_of(tmp_path, "a", "b")
    commit_id = new_commit_id()

    def commit() -> object:
        return store.manager.commit_tree(
            "m", tree, commit_id=commit_id, reference_of=lambda path: entry if path.endswith("/a") else None
        )

    run = Stopped(store.store, commit, calls)
    store.gc()
    with contextlib.suppress(UnsupportedTree):
        run.finish()
    assert store.manager.verify().ok
