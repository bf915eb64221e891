"""Listings: asked once at a time, kept for a while, given again in an outage."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

import artifactfs
from artifactfs.content.metadata import StoreMemory
from artifactfs.errors import AccessDenied, StoreTimeout, StoreUnreachable
from artifactfs.managers.commit_id import new_commit_id
from mount import listing
from mount.listing import Listing
from tests.mount.harness import eventually
from tests.vfs.stores import Gate, Outage, Wrapped


@pytest.fixture
def manager(tmp_path: Path) -> artifactfs.ArtifactManager:
    """A store with c/a@v0 and c/a@v1."""
    manager = artifactfs.connect(str(tmp_path / "store"))
    manager.ensure_created()
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(2):
        (tree / "f").write_text(str(number))
        manager.commit_tree("a", tree, "c", commit_id=new_commit_id(), aliases=[f"alias{number}"])
    return manager


def over(manager: artifactfs.ArtifactManager, before: object, refresh_s: float = 60.0) -> Listing:
    return Listing(Wrapped(manager, before), refresh_s)  # type: ignore[arg-type]


def test_what_a_store_holds(manager: artifactfs.ArtifactManager) -> None:
    """V8: collections, artifacts, versions and aliases with latest; nothing for what is not there."""
    found = over(manager, Outage())
    assert found.collections() == {"c"}
    assert found.artifacts("c") == {"a"}
    assert found.versions("c", "a") == ("v0", "v1")
    assert found.aliases("c", "a") == {"alias0": "v0", "alias1": "v1", "latest": "v1"}
    assert found.artifacts("none") == found.artifacts("not a name") == frozenset()
    assert found.versions("c", "none") == found.versions("none", "a") == found.versions("c", "not a name") == ()
    assert found.aliases("c", "none") == {}


def test_aliases_of_deleted_versions(manager: artifactfs.ArtifactManager) -> None:
    """V8: latest moves when the highest version goes, and no alias leads nowhere."""
    manager.delete_version("a", "v1", "c")
    assert over(manager, Outage()).aliases("c", "a") == {"alias0": "v0", "latest": "v0"}


def test_asked_once_while_fresh(manager: artifactfs.ArtifactManager) -> None:
    """A fresh listing is not asked for again; a stale one is."""
    calls = Outage()
    kept, stale = over(manager, calls), over(manager, Outage(), refresh_s=0.0)
    for _ in range(5):
        kept.collections()
        kept.versions("c", "a")
    assert sorted(calls.calls) == ["list_collection_names", "list_version_names"]
    assert stale.versions("c", "a") == ("v0", "v1")
    manager.delete_version("a", "v1", "c")
    assert stale.versions("c", "a") == ("v0",)
    assert kept.versions("c", "a") == ("v0", "v1")
    kept.forget("c", "a")
    assert kept.versions("c", "a") == ("v0",)


def test_one_flight_for_many(manager: artifactfs.ArtifactManager) -> None:
    """Of many threads that want one listing, one asks, and all get its answer."""
    gate, calls = Gate("list_version_names"), Outage()

    def before(name: str) -> None:
        calls(name)
        gate(name)

    shared = over(manager, before)
    answers: list[tuple[str, ...]] = []
    threads = [threading.Thread(target=lambda: answers.append(shared.versions("c", "a"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert gate.reached.wait(60)
    # Another listing does not wait for it.
    assert shared.collections() == {"c"}
    gate.open()
    for thread in threads:
        thread.join(60)
    assert answers == [("v0", "v1")] * 8
    assert calls.calls.count("list_version_names") == 1


def test_a_change_during_the_flight(manager: artifactfs.ArtifactManager) -> None:
    """V8: an answer that may be older than a change made here is not kept."""
    gate = Gate("list_version_names")
    shared = over(manager, gate)
    old: list[tuple[str, ...]] = []
    thread = threading.Thread(target=lambda: old.append(shared.versions("c", "a")))
    thread.start()
    assert gate.reached.wait(60)
    shared.forget("c", "a")
    gate.open()
    thread.join(60)
    assert old == [("v0", "v1")]
    manager.delete_version("a", "v1", "c")
    assert shared.versions("c", "a") == ("v0",)


def test_a_change_at_the_end_of_an_outage(
    manager: artifactfs.ArtifactManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V8, O1: who was told of a new version finds it, though news of the store were not waited for until then."""
    monkeypatch.setattr(listing, "IMPATIENCE_S", 0.0)
    outage = Outage()
    memory = StoreMemory(tmp_path / "cache", "s3://bucket", {})
    shared = Listing(Wrapped(manager, outage), 0.0, memory)  # type: ignore[arg-type]
    assert shared.versions("c", "a") == ("v0", "v1")
    outage.error = StoreUnreachable("gone")
    assert shared.versions("c", "a") == ("v0", "v1")
    eventually(lambda: not shared.reachable)
    outage.error = None
    manager.commit_tree("a", tmp_path / "store/collections", "c", commit_id=new_commit_id())
    shared.forget("c", "a")
    assert shared.versions("c", "a") == ("v0", "v1", "v2")


def test_a_change_while_a_listing_ends_in_vain(
    manager: artifactfs.ArtifactManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V8, O1: whoever asked before a change, and was told what was known, hides the change from nobody."""
    monkeypatch.setattr(listing, "PATIENCE_S", 1.0)
    gate = Gate("list_version_names")
    held = threading.Event()

    def before(name: str) -> None:
        if held.is_set():
            gate(name)

    memory = StoreMemory(tmp_path / "cache", "s3://bucket", {})
    shared = Listing(Wrapped(manager, before), 0.2, memory)  # type: ignore[arg-type]
    assert shared.versions("c", "a") == ("v0", "v1")
    eventually(lambda: shared.lifetime_s("c", "a") == 0.0)
    held.set()
    old: list[tuple[str, ...]] = []
    thread = threading.Thread(target=lambda: old.append(shared.versions("c", "a")))
    thread.start()
    assert gate.reached.wait(60)
    manager.commit_tree("a", tmp_path / "store/collections", "c", commit_id=new_commit_id())
    shared.forget("c", "a")
    thread.join(60)
    assert old == [("v0", "v1")]
    gate.open()
    assert shared.versions("c", "a") == ("v0", "v1", "v2")
    assert shared.reachable


def test_a_failed_flight_fails_for_all_and_is_over(manager: artifactfs.ArtifactManager) -> None:
    """O1: those who waited get the error too, and the next one asks again."""
    gate, outage = Gate("list_collection_names"), Outage()
    outage.error = StoreUnreachable("gone")

    def before(name: str) -> None:
        gate(name)
        outage(name)

    shared = over(manager, before)
    failures: list[StoreUnreachable] = []

    def ask() -> None:
        try:
            shared.collections()
        except StoreUnreachable as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert gate.reached.wait(60)
    gate.open()
    for thread in threads:
        thread.join(60)
    assert len(failures) == 4
    outage.error = None
    assert shared.collections() == {"c"}


def test_waiting_is_bounded(manager: artifactfs.ArtifactManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """O1: who waits for somebody else's flight gives up after a while."""
    monkeypatch.setattr(listing, "WAIT_S", 0.05)
    gate = Gate("list_collection_names")
    shared = over(manager, gate)
    thread = threading.Thread(target=shared.collections)
    thread.start()
    assert gate.reached.wait(60)
    with pytest.raises(StoreTimeout):
        shared.collections()
    gate.open()
    thread.join(60)
    assert shared.collections() == {"c"}


def test_denied_is_not_an_outage(manager: artifactfs.ArtifactManager) -> None:
    """O1: a refusal is told, not covered by what was known."""
    outage = Outage()
    shared = over(manager, outage, refresh_s=0.0)
    assert shared.collections() == {"c"}
    outage.error = AccessDenied("no")
    with pytest.raises(AccessDenied):
        shared.collections()
    outage.error = StoreUnreachable("gone")
    assert shared.collections() == {"c"}
    assert not shared.reachable


def test_entries_that_expire_while_they_are_looked_at(manager: artifactfs.ArtifactManager) -> None:
    """A listing that gets stale between two instructions is asked again, never an error."""
    shared = over(manager, Outage(), refresh_s=0.0005)
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        assert shared.collections() == {"c"}
