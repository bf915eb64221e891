"""A pass at every call of a commit, a commit at every call of a pass, deletes at every call of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clocked_store import Clocked, Stopped, objects_in, tree_of

from artifactfs.objects import layout, packs
from artifactfs.objects.store import StoredFile

# The calls of a commit until then: whether creates are exclusive, the listing, a file, the manifest, the flush.
BEFORE_THE_RECORD = 5


@pytest.fixture(autouse=True)
def _one_object_per_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "SMALL_FILE_BYTES", 1)


def stops(clocked: Clocked, action: Callable[[], object]) -> range:
    """How many calls to let pass, for every call that the action makes on a fresh store."""
    calls: list[str] = []
    clocked.store.set_hook(lambda method, key: calls.append(method))
    action()
    clocked.store.set_hook(None)
    assert len(calls) > 5
    return range(len(calls))


def deleted_long_ago(tmp_path: Path) -> Clocked:
    """A store where the objects of 'a' and 'b' are due to be deleted."""
    clocked = Clocked()
    clocked.commit(tree_of(tmp_path, "x"))
    tree = tree_of(tmp_path, "a", "b")
    clocked.commit(tree, "old")
    clocked.manager.delete_version("old", "v0")
    clocked.gc()
    clocked.days(2)
    return clocked


def test_a_pass_at_every_call_of_a_commit_that_puts_what_is_due(tmp_path: Path):
    tree = tree_of(tmp_path, "a", "b", "c")
    for calls in stops(first := deleted_long_ago(tmp_path), lambda: first.commit(tree)):
        clocked = deleted_long_ago(tmp_path)
        commit = Stopped(clocked.store, lambda c=clocked: c.commit(tree), calls)
        clocked.gc()
        clocked.days(0.99)
        clocked.gc()
        assert commit.finish() == "v1"
        clocked.check()
        clocked.days(3)
        clocked.gc()
        clocked.check()


def test_a_commit_at_every_call_of_a_pass(tmp_path: Path):
    """But right before a delete, where only its own time bounds the pass (see `objects.gc`)."""
    for calls in stops(first := deleted_long_ago(tmp_path), first.gc):
        clocked = deleted_long_ago(tmp_path)
        running = Stopped(clocked.store, clocked.gc, calls, never_at="delete")
        clocked.commit(tree_of(tmp_path, "a", "b", "c"))
        running.finish()
        clocked.check()
        clocked.days(3)
        clocked.gc()
        clocked.check()


def test_the_known_version_is_deleted_while_a_commit_runs(tmp_path: Path):
    """The commit points at objects of a version that was live when it began, and does not look for them again."""

    def start() -> Clocked:
        clocked = Clocked()
        clocked.commit(tree_of(tmp_path, "x"), "other")
        clocked.commit(tree_of(tmp_path, "a", "b"))
        clocked.days(5)
        clocked.gc()
        return clocked

    tree = tree_of(tmp_path, "a", "b", "c")
    for calls in stops(first := start(), lambda: first.commit(tree)):
        clocked = start()
        commit = Stopped(clocked.store, lambda c=clocked: c.commit(tree), calls)
        if "v0" in clocked.manager.list_version_names("m"):
            clocked.manager.delete_version("m", "v0")
        clocked.gc()
        clocked.days(0.99)
        clocked.gc()
        commit.finish()
        clocked.check()


def unreferenced_but_for_commits(tmp_path: Path) -> tuple[Clocked, Stopped]:
    """A pass found the object of 'a' unreferenced; then a commit made v1 of it that had begun before.

    It was 0.9 days ago that the pass looked and 6 that the object was put. Another commit begins now and knows v1.
    """
    clocked = Clocked()
    clocked.commit(tree_of(tmp_path, "x"), "other")
    clocked.commit(tree_of(tmp_path, "a"))
    clocked.days(5)
    first = Stopped(clocked.store, lambda: clocked.commit(tree_of(tmp_path, "a", "b")), BEFORE_THE_RECORD)
    clocked.manager.delete_version("m", "v0")
    clocked.gc()
    clocked.days(0.9)
    assert not first.over
    assert first.finish() == "v1"
    second = Stopped(clocked.store, lambda: clocked.commit(tree_of(tmp_path, "a", "c")), BEFORE_THE_RECORD)
    return clocked, second


def test_what_was_needed_in_between_without_being_put(tmp_path: Path):
    """Neither the age of the object nor the list tells of it: the tombstone does."""
    clocked, commit = unreferenced_but_for_commits(tmp_path)
    clocked.manager.delete_version("m", "v1")
    clocked.days(0.2)
    clocked.gc()
    assert not commit.over
    assert commit.finish() == "v2"
    clocked.check()


def test_a_version_deleted_while_it_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A listing may come past the place of the tombstone before it is made and that of the record after it is gone."""
    clocked, commit = unreferenced_but_for_commits(tmp_path)
    clocked.days(0.2)
    walk = clocked.store.walk
    missed: list[str] = []

    def torn(prefix: str) -> Iterator[StoredFile]:
        if prefix != layout.COLLECTIONS or missed:
            yield from walk(prefix)
            return
        for file in walk(prefix):
            if "/v1." in file.key:
                missed.append(file.key)
            else:
                yield file
        clocked.manager.delete_version("m", "v1")

    with monkeypatch.context() as patch:
        patch.setattr(clocked.store, "walk", torn)
        clocked.gc()
    assert missed
    assert commit.finish() == "v2"
    clocked.check()


def test_a_pass_counts_from_when_it_had_looked(tmp_path: Path):
    clocked = Clocked()
    clocked.commit(tree_of(tmp_path, "x"), "other")
    clocked.commit(tree_of(tmp_path, "a"))
    clocked.days(5)
    slow = Stopped(clocked.store, clocked.gc, 5)
    clocked.days(0.5)
    commit = Stopped(clocked.store, lambda: clocked.commit(tree_of(tmp_path, "a", "b")), BEFORE_THE_RECORD)
    # By hand, so that no tombstone helps.
    clocked.store.delete("collections/default/m/v0.version")
    slow.finish()
    clocked.days(0.6)
    clocked.gc()
    commit.finish()
    clocked.check()


def test_a_pass_that_was_cut_short(tmp_path: Path):
    """At whatever call a pass dies, the next ones end what it began."""

    class Killed(Exception):
        pass

    for calls in stops(first := deleted_long_ago(tmp_path), first.gc):
        clocked = deleted_long_ago(tmp_path)
        left = calls

        def die(method: str, key: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed

        clocked.store.set_hook(die)
        with pytest.raises(Killed):
            clocked.gc()
        clocked.store.set_hook(None)
        clocked.check()
        clocked.days(1)
        clocked.gc()
        clocked.check()
        assert clocked.manager.verify().findings == ()


def test_two_passes_at_once(tmp_path: Path):
    for calls in stops(first := deleted_long_ago(tmp_path), first.gc):
        clocked = deleted_long_ago(tmp_path)
        running = Stopped(clocked.store, clocked.gc, calls)
        clocked.gc()
        running.finish()
        clocked.check()
        assert len(objects_in(clocked.store)) == 2
