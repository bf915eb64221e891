"""Stores on Azure: listings page by page, in one request each; what is renewed counts as put just then."""

from __future__ import annotations

import pytest

from artifactfs.errors import NotFound
from artifactfs.objects import azure
from artifactfs.objects.open import open_store
from artifactfs.objects.store import ObjectStore
from tests.servers import Server
from tests.servers.fixtures import MakeProxy, StartServer
from tests.servers.proxy import FaultProxy

KEYS = [f"objects/{number:02}/x{number}" for number in range(7)]


@pytest.fixture
def server(start_server: StartServer) -> Server:
    return start_server("azurite")


@pytest.fixture
def proxy(server: Server, make_proxy: MakeProxy) -> FaultProxy:
    return make_proxy(server)


@pytest.fixture
def store(server: Server, proxy: FaultProxy) -> ObjectStore:
    store = open_store(server.fresh(), **server.options_at(proxy.port))
    for number, key in enumerate(KEYS):
        store.put(key, b"x" * number)
    proxy.count_from_now()
    return store


@pytest.mark.parametrize(("page_keys", "pages"), [(5000, 1), (3, 3)])
def test_listings(store: ObjectStore, proxy: FaultProxy, page_keys: int, pages: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(azure, "_PAGE_KEYS", page_keys)
    assert sorted((file.key, file.size_bytes) for file in store.walk("")) == [
        (key, number) for number, key in enumerate(KEYS)
    ]
    assert len(proxy.requests) == pages
    assert sorted(store.listing("objects").directories) == [f"{number:02}" for number in range(7)]
    assert len(proxy.requests) == 2 * pages
    assert (store.listing(""), store.listing("objects/03")) == (([], ["objects"]), (["x3"], []))
    proxy.count_from_now()
    few = store.few("objects")
    assert (few is None) == (pages > 1)
    assert few is None or [file.key for file in few] == KEYS
    assert store.few("objects/03") == [file for file in store.walk("objects") if file.key == KEYS[3]]
    assert store.few("none") == []


def test_sizes(store: ObjectStore, proxy: FaultProxy):
    assert (store.size(KEYS[3]), store.exists(KEYS[3]), store.exists("objects/03/y")) == (3, True, False)
    assert proxy.methods == {"HEAD": 3}
    with pytest.raises(NotFound, match="objects/03/y"):
        store.size("objects/03/y")
    assert store.renew(KEYS[3])
    assert not store.renew("objects/03/y")
    assert store.get(KEYS[3]) == b"xxx"
