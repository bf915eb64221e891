"""Stores on Azure and Google: listings page by page, in one request each; what is renewed counts as put just then."""

from __future__ import annotations

import pytest

from artifactfs.errors import NotFound
from artifactfs.objects import azure, gcs
from artifactfs.objects.open import open_store
from artifactfs.objects.store import ObjectStore
from tests.servers import Server
from tests.servers.fixtures import MakeProxy, StartServer
from tests.servers.proxy import FaultProxy

KEYS = [f"objects/{number:02}/x{number}" for number in range(7)]
MODULES = {"azurite": azure, "gcs": gcs}


@pytest.fixture(params=MODULES)
def server(request: pytest.FixtureRequest, start_server: StartServer) -> Server:
    return start_server(request.param)


@pytest.fixture
def store(server: Server, proxy: FaultProxy) -> ObjectStore:
    store = open_store(server.fresh(), **server.options_at(proxy.port))
    for number, key in enumerate(KEYS):
        store.put(key, b"x" * number)
    proxy.count_from_now()
    return store


@pytest.mark.parametrize(("page_keys", "pages"), [(1000, 1), (3, 3)])
def test_listings(
    server: Server, store: ObjectStore, proxy: FaultProxy, page_keys: int, pages: int, monkeypatch: pytest.MonkeyPatch
):
    if server.name == "gcs" and pages > 1:
        pytest.skip("the emulator gives everything in one page")
    monkeypatch.setattr(MODULES[server.name], "_PAGE_KEYS", page_keys)
    assert sorted((file.key, file.size_bytes) for file in store.walk("")) == [
        (key, number) for number, key in enumerate(KEYS)
    ]
    assert len(proxy.requests) == pages
    assert sorted(store.listing("objects").directories) == [f"{number:02}" for number in range(7)]
    assert len(proxy.requests) == 2 * pages
    assert (store.listing(""), store.listing("objects/03")) == (([], ["objects"]), (["x3"], []))
    proxy.count_from_now()
    few = store.few("objects")
    assert len(proxy.requests) == 1
    assert (few is None) == (pages > 1)
    assert few is None or [file.key for file in few] == KEYS
    assert store.few("objects/03") == [file for file in store.walk("objects") if file.key == KEYS[3]]
    assert store.few("none") == []


def test_sizes(server: Server, store: ObjectStore, proxy: FaultProxy):
    assert (store.size(KEYS[3]), store.exists(KEYS[3]), store.exists("objects/03/y")) == (3, True, False)
    assert proxy.methods == {"HEAD" if server.name == "azurite" else "GET": 3}
    with pytest.raises(NotFound, match="objects/03/y"):
        store.size("objects/03/y")
    before = {file.key: file.changed_ns for file in store.walk("")}[KEYS[3]]
    assert store.renew(KEYS[3])
    after = {file.key: file.changed_ns for file in store.walk("")}[KEYS[3]]
    # Azure's times are whole seconds.
    assert before is not None
    assert after is not None
    assert after > before or server.name == "azurite"
    assert not store.renew("objects/03/y")
    assert store.get(KEYS[3]) == b"xxx"


def test_google_is_asked_for_an_exclusive_create(start_server: StartServer, make_proxy: MakeProxy):
    """The emulator does not know the condition; what is sent is what Google's documentation asks for."""
    server = start_server("gcs")
    proxy = make_proxy(server)
    store = open_store(server.fresh(), **server.options_at(proxy.port))
    store.put_exclusive("name", b"content")
    assert [request.target for request in proxy.requests if "ifGenerationMatch=0" in request.target]
    assert store.get("name") == b"content"
