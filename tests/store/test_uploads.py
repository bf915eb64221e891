"""Objects go up in parallel, bounded, once: what is there is renewed where it lies, so that gc spares it."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path

import pytest
from store_helpers import contents

from artifactfs import connect
from artifactfs.errors import AccessDenied, StoreUnreachable
from artifactfs.managers.filesystem import FileSystemArtifactManager
from artifactfs.objects import layout
from artifactfs.objects.open import open_store
from artifactfs.objects.uploads import Uploads
from artifactfs.transfer import copy_version
from tests.mount.harness import eventually
from tests.servers import Server
from tests.servers.fixtures import MakeProxy, StartServer
from tests.servers.proxy import Fault

FILES = 6


@pytest.fixture(params=["moto", "ceph", "azurite"])
def server(request: pytest.FixtureRequest, start_server: StartServer) -> Server:
    """Every server on which objects are renewed in place."""
    return start_server(request.param)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Six files that are objects of their own, and small ones."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(FILES):
        (tree / f"large{number}").write_bytes(bytes([number]) * (1 << 20))
        (tree / f"small{number}").write_bytes(bytes([number]) * 100)
    return tree


def test_a_commit_that_was_interrupted_sends_nothing_again(server: Server, make_proxy: MakeProxy, tree: Path):
    proxy = make_proxy(server)
    url = server.fresh()
    manager = connect(url, **server.options_at(proxy.port))
    manager.ensure_created()
    records = {"matches": lambda request: request.method == "PUT" and ".version" in request.target}
    proxy.plan(Fault.DENIED, **records)
    with pytest.raises(AccessDenied):
        manager.commit_tree("model", tree, commit_id="a")
    proxy.count_from_now()
    result = connect(url, **server.options_at(proxy.port)).commit_tree("model", tree, commit_id="a")
    assert (result.sent_bytes, result.deduplicated_bytes) == (0, result.info.size_bytes)
    listings = [request.target for request in proxy.requests if "list" in request.target]
    assert len([target for target in listings if "objects" in target]) == 1
    assert contents(manager, "model", "v0") == {path.name: path.read_bytes() for path in tree.iterdir()}


def test_a_copy_sends_nothing_that_the_target_has(server: Server, tree: Path, tmp_path: Path):
    """It renews that, as a commit does."""
    source, target = connect(str(tmp_path / "store")), connect(server.fresh(), **server.options)
    assert isinstance(target, FileSystemArtifactManager)
    info = source.commit_tree("model", tree, commit_id="a").info
    assert copy_version(source, info, target, "default", "first").sent_bytes == info.size_bytes
    names = {layout.object_key(name) for name in target.manifest("first").objects}

    def times() -> dict[str, int]:
        return {file.key: file.changed_ns or 0 for file in target.store.walk(layout.OBJECTS) if file.key in names}

    before = times()
    numbers = iter(range(1000))

    def is_renewed() -> bool:
        copied = copy_version(source, info, target, "default", f"other{next(numbers)}")
        assert (copied.created, copied.sent_bytes) == (True, 0)
        return all(changed > before[key] for key, changed in times().items())

    # The server's clock may tick in seconds only.
    eventually(is_renewed)
    assert contents(target, "other0", "v0") == contents(source, "model", "v0")


def test_what_another_artifact_has_is_renewed(server: Server, tree: Path):
    """gc goes by when an object was last put: one that a commit found counts as put just then."""
    manager = connect(server.fresh(), **server.options)
    assert isinstance(manager, FileSystemArtifactManager)
    manager.commit_tree("first", tree, commit_id="a")
    names = {layout.object_key(name) for name in manager.manifest("first").objects}

    def times() -> dict[str, int]:
        return {file.key: file.changed_ns or 0 for file in manager.store.walk(layout.OBJECTS) if file.key in names}

    before = times()
    number = 0

    def renewed() -> bool:
        # The server's clock may tick in seconds only.
        nonlocal number
        number += 1
        assert manager.commit_tree(f"other{number}", tree, commit_id=uuid.uuid4().hex).sent_bytes == 0
        after = times()
        return all(after[key] > before[key] for key in names)

    eventually(renewed)


def test_one_that_fails_ends_them_all():
    store = open_store(f"memory://{uuid.uuid4().hex}")
    done: list[str] = []

    def fail() -> None:
        raise StoreUnreachable("broken")

    def all_of_them() -> None:
        with Uploads(store, 3) as uploads:
            for number, send in enumerate((lambda: None, fail, lambda: None)):
                uploads.put(f"{number:064x}", 1, send, lambda number=number: done.append(str(number)))

    with pytest.raises(StoreUnreachable, match="broken"):
        all_of_them()
    assert "1" not in done


def test_no_more_at_once_than_the_store_takes():
    store = open_store(f"memory://{uuid.uuid4().hex}")
    lock = threading.Lock()
    under_way = most = 0

    def send() -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        store.put(uuid.uuid4().hex, b"x" * 1000)
        with lock:
            under_way -= 1

    with Uploads(store, 100) as uploads:
        for number in range(100):
            uploads.put(f"{number:064x}", 1, send, lambda: None)
    assert uploads.sent_bytes == 100
    assert 1 <= most <= store.parallel_transfers
