"""Real servers behind a proxy that breaks, delays and spoils: what passes is repeated, what lasts is told at once."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from store_helpers import contents

from artifactfs import ArtifactManager, connect
from artifactfs.errors import AccessDenied, ArtifactError, IntegrityError, NotFound, StoreTimeout, StoreUnreachable
from artifactfs.objects import patience
from tests.servers import Server
from tests.servers.fixtures import MakeProxy, StartServer
from tests.servers.proxy import Fault, FaultProxy, Request

PASSING = [Fault.SLOW_DOWN, Fault.TOO_MANY, Fault.CUT, Fault.STALL, Fault.LOST_ANSWER, Fault.LOST_REQUEST]
# The Azure client has attempts of its own, seconds apart, which cannot be turned off: ours end them, after a minute.
ONLY_S3 = pytest.mark.parametrize("server", ["moto"], indirect=True)
# A stalled body is waited for so long.
QUICK: dict[str, dict[str, Any]] = {
    "moto": {"config_kwargs": {"read_timeout": 0.5}},
    "ceph": {"config_kwargs": {"read_timeout": 0.5}},
    "azurite": {"read_timeout": 1},
}


@pytest.fixture(params=["moto", "azurite"])
def server(request: pytest.FixtureRequest, start_server: StartServer) -> Server:
    return start_server(request.param)


@pytest.fixture
def proxy(server: Server, make_proxy: MakeProxy) -> FaultProxy:
    return make_proxy(server)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers on loopback need no time to recover."""
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(patience, "_THROTTLED_PAUSE_S", 0.02)


@pytest.fixture
def url(server: Server) -> str:
    return server.fresh()


@pytest.fixture
def manager(server: Server, proxy: FaultProxy, url: str) -> Iterator[ArtifactManager]:
    """A manager that goes through the proxy, and a store with default/model@v0."""
    return connect(url, **server.options_at(proxy.port), **QUICK[server.name])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "small").write_text("small")
    (tree / "large").write_bytes(bytes(range(256)) * 5000)
    return tree


def gets_objects(request: Request) -> bool:
    return request.method == "GET" and "objects/" in request.target


def puts_records(request: Request) -> bool:
    return request.method == "PUT" and request.target.partition("?")[0].endswith(".version")


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: fault.name)
def test_what_passes_is_tried_again(fault: Fault, manager: ArtifactManager, proxy: FaultProxy, tree: Path):
    """A read that meets the fault once, or twice in a row, gives the right bytes all the same."""
    info = manager.commit_tree("model", tree, commit_id="a").info
    entry = manager.manifest("model").find("large")
    assert entry is not None
    proxy.plan(fault, times=2, matches=gets_objects)
    assert manager.read_entry(info, entry) == (tree / "large").read_bytes()
    assert not any(planned.times for planned in proxy._plan)


@pytest.mark.parametrize("fault", [*PASSING[:3], *PASSING[4:]], ids=lambda fault: fault.name)
def test_a_commit_whose_record_meets_a_fault_makes_one_version(
    fault: Fault, manager: ArtifactManager, server: Server, proxy: FaultProxy, url: str, tree: Path
):
    """Also when the record was written and the answer lost: the name is then taken by ourselves."""
    manager.ensure_created()
    proxy.plan(fault, matches=puts_records)
    result = manager.commit_tree("model", tree, commit_id="a")
    assert (result.info.version, result.created) == ("v0", True)
    direct = connect(url, **server.options)
    assert [info.commit_id for info in direct.list_versions("model")] == ["a"]
    assert contents(direct, "model", "v0") == {name: (tree / name).read_bytes() for name in ("small", "large")}


def test_objects_meet_faults(manager: ArtifactManager, proxy: FaultProxy, tree: Path):
    manager.ensure_created()
    for fault in (Fault.SLOW_DOWN, Fault.LOST_ANSWER, Fault.LOST_REQUEST):
        proxy.plan(fault, matches=lambda request: request.method == "PUT" and "objects/" in request.target)
    manager.commit_tree("model", tree, commit_id="a")
    assert contents(manager, "model", "v0")["large"] == (tree / "large").read_bytes()


def test_wrong_bytes_are_never_given_out(manager: ArtifactManager, proxy: FaultProxy, tree: Path):
    info = manager.commit_tree("model", tree, commit_id="a").info
    entry = manager.manifest("model").find("large")
    assert entry is not None
    proxy.plan(Fault.CORRUPT, matches=gets_objects)
    # The S3 client finds them by a checksum of its own, which passes; the digest of ours finds them anywhere.
    with contextlib.suppress(IntegrityError):
        assert manager.read_entry(info, entry) == (tree / "large").read_bytes()
    assert not any(planned.times for planned in proxy._plan)
    assert manager.read_entry(info, entry) == (tree / "large").read_bytes()


def test_denied_is_said_at_once(manager: ArtifactManager, proxy: FaultProxy, tree: Path):
    info = manager.commit_tree("model", tree, commit_id="a").info
    entry = manager.manifest("model").find("large")
    assert entry is not None
    proxy.plan(Fault.DENIED, times=99)
    proxy.count_from_now()
    with pytest.raises(AccessDenied, match=r"cannot read objects/"):
        manager.read_entry(info, entry)
    assert len(proxy.requests) == 1


def test_no_such_bucket(server: Server, tree: Path):
    """O6: it is neither an empty store nor an unreachable one."""
    elsewhere = connect(server.prefix + "-that-is-not-there/store", **server.options)
    for call in (elsewhere.list_collection_names, lambda: elsewhere.commit_tree("model", tree, commit_id="a")):
        with pytest.raises(NotFound, match="that-is-not-there"):
            call()


@ONLY_S3
def test_the_network_goes_away_and_comes_back(manager: ArtifactManager, proxy: FaultProxy, tree: Path):
    info = manager.commit_tree("model", tree, commit_id="a").info
    entry = manager.manifest("model").find("large")
    assert entry is not None
    proxy.cut_network()
    for call in (manager.list_collection_names, lambda: manager.read_entry(info, entry)):
        with pytest.raises(StoreUnreachable):
            call()
    proxy.restore()
    assert manager.list_collection_names() == ["default"]
    assert manager.read_entry(info, entry) == (tree / "large").read_bytes()


@ONLY_S3
def test_a_network_that_is_away_for_a_moment_is_waited_for(
    manager: ArtifactManager, proxy: FaultProxy, tree: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.1)
    info = manager.commit_tree("model", tree, commit_id="a").info
    proxy.cut_network()
    back = threading.Timer(0.3, proxy.restore)
    back.start()
    assert manager.version_info("model") == info
    back.join()


@ONLY_S3
def test_a_body_that_stalls_is_given_up(manager: ArtifactManager, proxy: FaultProxy, tree: Path, server: Server):
    info = manager.commit_tree("model", tree, commit_id="a").info
    entry = manager.manifest("model").find("large")
    assert entry is not None
    proxy.plan(Fault.STALL, times=99, matches=gets_objects)
    began = time.monotonic()
    with pytest.raises(StoreUnreachable):
        manager.read_entry(info, entry)
    assert time.monotonic() - began < 30
    proxy.clear()
    assert manager.read_entry(info, entry) == (tree / "large").read_bytes()


def test_sftp_connects_again(start_server: StartServer, make_proxy: MakeProxy, tree: Path):
    server = start_server("sftp")
    proxy = make_proxy(server)
    manager = connect(server.fresh(), **server.options_at(proxy.port))
    manager.commit_tree("model", tree, commit_id="a")
    proxy.cut_network()
    with pytest.raises(StoreUnreachable):
        manager.list_collection_names()
    proxy.restore()
    proxy.latency_s = 0.005
    (tree / "small").write_text("changed")
    assert manager.commit_tree("model", tree, commit_id="b").info.version == "v1"
    assert contents(manager, "model", "v1")["small"] == b"changed"


def test_every_repeated_error_is_one_that_passes():
    """What is no StoreUnreachable is raised by the first attempt; that one is tried so often and no more."""
    for error, attempts in ((AccessDenied("x"), 1), (ArtifactError("x"), 1), (StoreTimeout("x"), patience.ATTEMPTS)):
        calls = []

        def action(error: Exception = error, calls: list[int] = calls) -> None:
            calls.append(1)
            raise error

        with pytest.raises(type(error)):
            patience.patiently(action)
        assert len(calls) == attempts
