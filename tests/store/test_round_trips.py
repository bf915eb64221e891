"""How often a commit waits for a server that is far away: its requests, and how many of them come one after another."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from artifactfs import ArtifactManager, connect
from artifactfs.managers.commit_id import new_commit_id
from artifactfs.objects.store import Listing
from tests.servers import Server
from tests.servers.fixtures import MakeProxy, StartServer
from tests.servers.proxy import FaultProxy

# What is sent at once reaches the proxy within this time, however busy the machine is.
LATENCY_S = 0.2


@pytest.fixture
def server(start_server: StartServer) -> Server:
    return start_server("moto")


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[str], Path]:
    def make(content: str) -> Path:
        place = tmp_path / content
        place.mkdir()
        (place / "file").write_text(content)
        return place

    return make


def far(proxy: FaultProxy, action: Callable[[], object]) -> tuple[int, int]:
    """The requests of an action, and the round trips one after another."""
    proxy.count_from_now()
    proxy.latency_s = LATENCY_S
    try:
        action()
    finally:
        proxy.latency_s = 0.0
    return len(proxy.requests), proxy.round_trips


def test_round_trips_of_commits(server: Server, proxy: FaultProxy, tree: Callable[[str], Path]):
    url, options = server.fresh(), server.options_at(proxy.port)

    def commit(manager: ArtifactManager, content: str) -> Callable[[], object]:
        return lambda: manager.commit_tree("model", tree(content), commit_id=new_commit_id())

    # Marker, probe's answer and listing at once; what else is there; the probe, five requests; the marker; what the
    # probe found; pack and manifest at once; the record; that, the manifest and what may bury it, read back at once.
    assert far(proxy, commit(connect(url, **options), "new store")) == (17, 12)
    # Marker, probe's answer and listing at once; the record there is; its manifest; pack and manifest at once; the
    # record; what is read back.
    assert far(proxy, commit(connect(url, **options), "one more")) == (11, 6)
    manager = connect(url, **options)
    # Two records and two manifests.
    assert far(proxy, commit(manager, "another")) == (13, 6)
    # The listing; pack and manifest; the record; what is read back.
    assert far(proxy, commit(manager, "by the same manager")) == (7, 4)


def test_annotations_cost_nothing_until_there_is_one(
    server: Server, proxy: FaultProxy, tree: Callable[[str], Path], tmp_path: Path
):
    url, options = server.fresh(), server.options_at(proxy.port)
    manager, other = connect(url, **options), connect(url, **server.options)
    for content in ("one", "two", "three"):
        other.commit_tree("model", tree(content), commit_id=new_commit_id())
    assert [info.message for info in manager.list_versions("model")] == ["", "", ""]

    def messages() -> None:
        assert [info.message for info in manager.list_versions("model")] == expected

    expected = ["", "", ""]
    assert far(proxy, messages) == (1, 1)
    other.annotate("model", "v1", message="later")
    other.annotate("model", "v2", message="later still")
    expected = ["", "later", "later still"]
    # The listing names them; they are read at once.
    assert far(proxy, messages) == (3, 2)

    def message() -> None:
        assert manager.version_info("model", version="v1").message == "later"

    # Whether its record, its tombstone and its annotation are there.
    assert far(proxy, message) == (3, 2)
    # The version as it is, what is said of it, the write, and the version again.
    assert far(proxy, lambda: manager.annotate("model", "v1", message="later")) == (8, 6)


def test_sftp_does_not_wait_for_each_answer(start_server: StartServer, make_proxy: MakeProxy):
    """2 MiB are 64 requests each way, half as long as each of them would take is bound enough."""
    server = start_server("sftp")
    proxy = make_proxy(server)
    store = connect(server.fresh(), **server.options_at(proxy.port)).store  # type: ignore[attr-defined]
    data = random.Random(1).randbytes((2 << 20) + 1)
    assert store.listing("") == Listing([], [])  # connected
    proxy.latency_s = LATENCY_S / 4
    started = time.monotonic()
    store.put("objects/00/data", data)
    wrote_s = time.monotonic() - started
    assert store.get_range("objects/00/data", 0, 1 << 30) == data
    read_s = time.monotonic() - started - wrote_s
    assert wrote_s < 16 * LATENCY_S
    assert read_s < 16 * LATENCY_S
    assert store.get_range("objects/00/data", 100_000, 100_000) == data[100_000:200_000]
    assert store.get_range("objects/00/data", len(data) - 5, 10) == data[-5:]
    assert store.get_range("objects/00/data", len(data), 10) == b""
