"""gc and verify on real servers, whose clocks, listings and deletions are their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_helpers import contents

from artifactfs import connect
from artifactfs.errors import AccessDenied, StoreUnreachable
from artifactfs.findings import FindingKind
from artifactfs.managers.filesystem import FileSystemArtifactManager
from artifactfs.objects import layout, patience
from tests.mount.harness import eventually
from tests.servers import Server
from tests.servers.fixtures import MakeProxy, StartServer
from tests.servers.proxy import Fault

pytestmark = pytest.mark.parametrize("server", ["moto", "ceph", "azurite", "gcs", "sftp", "webdav"], indirect=True)


@pytest.fixture
def server(request: pytest.FixtureRequest, start_server: StartServer) -> Server:
    return start_server(request.param)


@pytest.fixture
def manager(server: Server, tmp_path: Path) -> FileSystemArtifactManager:
    """Two versions of default/m, of which v1 shares an object with v0, and one of default/other."""
    options = server.options if server.exclusive else {**server.options, "single_writer": True}
    manager = connect(server.fresh(), **options)
    assert isinstance(manager, FileSystemArtifactManager)
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "kept").write_bytes(b"kept" * 300_000)
    for number in (0, 1):
        (tree / "large").write_bytes(b"%d" % number * 1_100_000)
        (tree / "small").write_bytes(b"small %d" % number)
        manager.commit_tree("m", tree, commit_id=f"{number}")
    (tree / "kept").unlink()
    manager.commit_tree("other", tree, commit_id="o")
    return manager


def objects_of(manager: FileSystemArtifactManager) -> set[str]:
    return {file.key for file in manager.store.walk(layout.OBJECTS)}


def test_gc_frees_what_only_a_deleted_version_needed(manager: FileSystemArtifactManager):
    kept = contents(manager, "m", "v1"), contents(manager, "other", "v0")
    mine = set(map(layout.object_key, manager.manifest("m", version="v0").objects))
    shared = set(map(layout.object_key, manager.manifest("m", version="v1").objects))
    manager.delete_version("m", "v0")
    manager.store.put(layout.object_key("ab" * 32), b"of a commit that died")
    before = objects_of(manager)
    report = manager.gc(dry_run=True)
    # The large file, its pack, its manifest and the orphan.
    assert (report.versions, report.waiting_objects, report.deleted_objects) == (2, 4, 0)
    manager.gc()
    assert objects_of(manager) == before, "nothing goes in the first pass, or within the grace period"
    # The server's clock may tick in seconds only.
    eventually(lambda: len(before - objects_of(manager)) == 4 or manager.gc(grace_s=0) is None)
    assert objects_of(manager) & mine == mine & shared
    assert (contents(manager, "m", "v1"), contents(manager, "other", "v0")) == kept
    assert manager.verify().findings == ()


def test_verify_names_what_is_damaged_and_what_is_gone(manager: FileSystemArtifactManager):
    assert manager.verify().findings == ()
    entries = {name: manager.manifest("m", version="v1").find(name) for name in ("kept", "large")}
    keys = {name: layout.object_key(entry.object) for name, entry in entries.items() if entry and entry.object}
    data = bytearray(manager.store.get(keys["kept"]))
    data[1000] ^= 1
    manager.store.replace(keys["kept"], bytes(data))
    manager.store.delete(keys["large"])
    found = {finding.kind: finding for finding in manager.verify().findings}
    assert set(found) == {FindingKind.DAMAGED_OBJECT, FindingKind.MISSING_OBJECT}, found
    assert found[FindingKind.DAMAGED_OBJECT].paths == ("kept",)
    assert found[FindingKind.MISSING_OBJECT].paths == ("large",)
    assert found[FindingKind.MISSING_OBJECT].versions == ("default/m@v1", "default/other@v0")


def test_gc_that_cannot_list_deletes_nothing(
    server: Server, manager: FileSystemArtifactManager, make_proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
):
    """What could not be listed is not taken for unreferenced, at whatever point the store goes away."""
    monkeypatch.setattr(patience, "PATIENCE_S", 0.0)
    manager.delete_version("m", "v0")
    manager.gc(grace_s=0)
    before = objects_of(manager)
    proxy = make_proxy(server)
    options = {**server.options_at(proxy.port), "single_writer": not server.exclusive}
    through = connect(manager.url, **options)
    assert through.list_artifacts() == ["m", "other"]
    fault = Fault.DENIED if proxy.is_http else Fault.LOST_ANSWER
    proxy.plan(fault, times=1000, matches=lambda request: "collections" in request.target or not proxy.is_http)
    with pytest.raises((AccessDenied, StoreUnreachable)):
        through.gc(grace_s=0)
    assert objects_of(manager) == before
    assert manager.verify("m").findings == ()
