"""Real servers behind a proxy that breaks, delays and spoils: what passes is repeated, what lasts is told in time."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from store_helpers import contents

from artifactfs import ArtifactManager, Entry, VersionInfo, connect
from artifactfs.errors import AccessDenied, ArtifactError, IntegrityError, NotFound, StoreTimeout, StoreUnreachable
from artifactfs.objects import bounds, patience
from tests.servers import Server
from tests.servers.fixtures import StartServer
from tests.servers.proxy import Fault, FaultProxy, Request

HTTP_FAULTS = [
    *(Fault.SLOW_DOWN, Fault.TOO_MANY, Fault.CUT, Fault.STALL, Fault.LOST_ANSWER, Fault.LOST_REQUEST, Fault.CORRUPT)
]
# SSH notices a wrong bit, and all that can be told apart is the direction of a block.
BYTE_FAULTS = [Fault.CUT, Fault.STALL, Fault.LOST_ANSWER, Fault.CORRUPT]
KINDS = ("moto", "azurite", "gcs", "webdav", "sftp")
READS = [(kind, fault) for kind in KINDS for fault in (BYTE_FAULTS if kind == "sftp" else HTTP_FAULTS)]
# A commit's answers have hardly a body to be cut in, stalled or spoilt.
WRITES = [
    (kind, fault)
    for kind in KINDS
    for fault in (BYTE_FAULTS if kind == "sftp" else [fault for fault in HTTP_FAULTS[:-1] if fault is not Fault.STALL])
]
# A stalled body is waited for so long.
QUICK: dict[str, dict[str, Any]] = {
    "moto": {"config_kwargs": {"read_timeout": 0.5}},
    "azurite": {"read_timeout": 0.5},
    "gcs": {"requests_timeout": 0.5, "single_writer": True},
    "webdav": {"timeout": 0.5, "single_writer": True},
    "sftp": {},
}
TOLD_WITHIN_S = 25.0


def faults(cases: list[tuple[str, Fault]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("server", "fault"), cases, indirect=["server"], ids=lambda case: _name(case))


def _name(case: str | Fault) -> str:
    return case.name if isinstance(case, Fault) else case


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, start_server: StartServer) -> Server:
    return start_server(request.param)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers on loopback need no time to recover."""
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(patience, "_THROTTLED_PAUSE_S", 0.02)


@pytest.fixture
def url(server: Server) -> str:
    return server.fresh()


@pytest.fixture
def manager(server: Server, proxy: FaultProxy, url: str, monkeypatch: pytest.MonkeyPatch) -> ArtifactManager:
    """A manager that goes through the proxy."""
    if server.name == "sftp":
        monkeypatch.setattr(bounds, "CALL_TIMEOUT_S", 1.0)
    return connect(url, **server.options_at(proxy.port), **QUICK[server.name])


@pytest.fixture
def direct(server: Server, url: str) -> ArtifactManager:
    """Another of the same store, past the proxy."""
    return connect(url, **server.options)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "small").write_text("small")
    (tree / "large").write_bytes(bytes(range(256)) * 5000)
    return tree


@pytest.fixture
def committed(manager: ArtifactManager, tree: Path) -> tuple[VersionInfo, Entry]:
    """The tree as default/model@v0, and its large file."""
    info = manager.commit_tree("model", tree, commit_id="a").info
    entry = manager.manifest("model").find("large")
    assert entry is not None
    return info, entry


def gets_objects(request: Request) -> bool:
    return (request.method == "GET" and "objects/" in unquote(request.target)) or (
        request.method == "down" and request.block_bytes > 4096
    )


def puts_objects(request: Request) -> bool:
    return (
        (request.method == "PUT" and "objects/" in request.target)
        or (request.method == "up" and request.block_bytes > 4096)
        or uploads(request)
    )


def uploads(request: Request) -> bool:
    """On Google's, where the body has the name."""
    return request.method == "POST" and "uploadType=" in request.target


def puts_records(request: Request) -> bool:
    """A record is put under its name, or moved to it."""
    return request.target.partition("?")[0].endswith(".version") or (
        request.method == "MOVE" and "/collections/" in request.target
    )


@faults(READS)
def test_a_read_meets_a_fault(
    fault: Fault, manager: ArtifactManager, committed: tuple[VersionInfo, Entry], proxy: FaultProxy, tree: Path
):
    """Twice in a row, and it gives the right bytes all the same; a wrong bit is at worst an error."""
    proxy.plan(fault, times=1 if fault is Fault.CORRUPT else 2, matches=gets_objects)
    # S3's client finds a wrong bit by a checksum of its own and SSH by its own; the digest of ours finds it anywhere.
    with contextlib.suppress(IntegrityError) if fault is Fault.CORRUPT else contextlib.nullcontext():
        assert manager.read_entry(*committed) == (tree / "large").read_bytes()
    assert proxy.has_struck
    assert manager.read_entry(*committed) == (tree / "large").read_bytes()


@faults(WRITES)
def test_a_commit_meets_a_fault(
    fault: Fault,
    server: Server,
    manager: ArtifactManager,
    direct: ArtifactManager,
    proxy: FaultProxy,
    tree: Path,
):
    """While objects go up, and at its record, also when that was written and the answer lost: one version, whole."""
    manager.ensure_created()
    proxy.plan(fault, matches=puts_objects)
    for number in (0, 1):
        (tree / "small").write_text(f"small {number}")
        (tree / "large").write_bytes(b"%d" % number * 1_300_000)
        result = manager.commit_tree("model", tree, commit_id=f"{number}")
        assert (result.info.version, result.created) == (f"v{number}", True)
        assert proxy.has_struck
        # Without HTTP the record cannot be told from the rest: then it is the middle of the dialogue.
        if server.name == "gcs":
            # After the large file, the pack and the manifest.
            proxy.plan(fault, after=3, matches=uploads)
        elif proxy.is_http:
            proxy.plan(fault, matches=puts_records)
        else:
            proxy.plan(fault, after=10, matches=lambda request: request.method == "down")
    assert [info.commit_id for info in direct.list_versions("model")] == ["0", "1"]
    assert contents(direct, "model", "v1") == {name: (tree / name).read_bytes() for name in ("small", "large")}


def test_a_store_that_hangs_or_is_away(
    manager: ArtifactManager,
    committed: tuple[VersionInfo, Entry],
    proxy: FaultProxy,
    tree: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Each call is told within the bound, with a name; nothing is taken for absent; the next call succeeds."""
    monkeypatch.setattr(patience, "PATIENCE_S", 1.0)
    (tree / "small").write_text("changed")
    calls: dict[str, Callable[[], object]] = {
        "objects/": lambda: manager.read_entry(*committed),
        "collections/default": lambda: manager.list_artifacts("default"),
        "model": lambda: manager.commit_tree("model", tree, commit_id="b"),
    }
    for take_away in (lambda: proxy.plan(Fault.STALL, times=1000), proxy.cut_network):
        take_away()
        for named, call in calls.items():
            began = time.monotonic()
            with pytest.raises(StoreUnreachable, match=named):
                call()
            assert time.monotonic() - began < TOLD_WITHIN_S
        proxy.clear()
        proxy.restore()
    assert manager.read_entry(*committed) == (tree / "large").read_bytes()
    assert manager.list_collection_names() == ["default"]
    assert manager.commit_tree("model", tree, commit_id="b").info.version == "v1"
    assert contents(manager, "model", "v1")["small"] == b"changed"


def test_a_network_that_is_away_for_a_moment_is_waited_for(
    manager: ArtifactManager, committed: tuple[VersionInfo, Entry], proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.1)
    proxy.cut_network()
    back = threading.Timer(0.3, proxy.restore)
    back.start()
    assert manager.version_info("model") == committed[0]
    back.join()


def test_a_slow_network(manager: ArtifactManager, direct: ArtifactManager, proxy: FaultProxy, tree: Path):
    """Latency makes nothing fail that answers."""
    proxy.latency_s = 0.02
    assert manager.commit_tree("model", tree, commit_id="a").info.version == "v0"
    assert contents(manager, "model", "v0") == contents(direct, "model", "v0")


@pytest.mark.parametrize("server", [kind for kind in KINDS if kind != "sftp"], indirect=True)
def test_denied_is_said_at_once(manager: ArtifactManager, committed: tuple[VersionInfo, Entry], proxy: FaultProxy):
    proxy.plan(Fault.DENIED, times=99)
    proxy.count_from_now()
    with pytest.raises(AccessDenied, match=r"cannot read objects/"):
        manager.read_entry(*committed)
    assert len(proxy.requests) == 1


@pytest.mark.parametrize("server", ["webdav"], indirect=True)
def test_a_directory_that_cannot_be_listed_is_not_left_out(
    manager: ArtifactManager, committed: tuple[VersionInfo, Entry], proxy: FaultProxy
):
    """gc would delete what a version in it needs."""
    proxy.plan(Fault.DENIED, times=99, matches=lambda request: "/collections/default/" in request.target)
    for call in (manager.list_artifacts, manager.verify, manager.gc):
        with pytest.raises(AccessDenied, match="collections/default"):
            call()


@pytest.mark.parametrize("server", ["moto", "ceph", "azurite", "gcs"], indirect=True)
def test_no_such_bucket(server: Server, tree: Path):
    """O6: it is neither an empty store nor an unreachable one."""
    elsewhere = connect(server.prefix + "-that-is-not-there/store", **server.options)
    for call in (elsewhere.list_collection_names, lambda: elsewhere.commit_tree("model", tree, commit_id="a")):
        with pytest.raises(NotFound, match="that-is-not-there"):
            call()


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
