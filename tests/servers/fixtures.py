"""The servers as fixtures, one of each kind for all tests of a session, and proxies in front of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers import Server, ServerMissing, s3
from tests.servers.ceph import ceph
from tests.servers.others import azurite, gcs, sftp, webdav
from tests.servers.proxy import FaultProxy

StartServer = Callable[[str], Server]
MakeProxy = Callable[[Server], FaultProxy]

KINDS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Server]]] = {
    "moto": s3.moto,
    "ceph": ceph,
    "rclone": s3.rclone,
    "azurite": azurite,
    "gcs": gcs,
    "sftp": sftp,
    "webdav": webdav,
}


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Gives the server of that name, started when first asked for."""
    running: dict[str, Server] = {}
    missing: dict[str, str] = {}
    with contextlib.ExitStack() as stack:

        def start(name: str) -> Server:
            if name not in running and name not in missing:
                try:
                    running[name] = stack.enter_context(KINDS[name](tmp_path_factory.mktemp(name)))
                except ServerMissing as error:
                    missing[name] = str(error)
            if name in missing:
                if os.environ.get("REQUIRE_FUSE") == "1":
                    pytest.fail(f"REQUIRE_FUSE=1, but {missing[name]}")
                pytest.skip(missing[name])
            return running[name]

        yield start


@pytest.fixture(params=["moto", "ceph"])
def s3_server(request: pytest.FixtureRequest, start_server: StartServer) -> Server:
    """Every S3 server with a sound exclusive create in turn."""
    return start_server(request.param)


@pytest.fixture
def proxy(server: Server, make_proxy: MakeProxy) -> FaultProxy:
    """A proxy in front of the server of a module that says which `server` is its."""
    return make_proxy(server)


@pytest.fixture
def make_proxy() -> Iterator[MakeProxy]:
    """Puts a FaultProxy in front of a server."""
    with contextlib.ExitStack() as stack:
        yield lambda server: stack.enter_context(FaultProxy(server.port, http=server.name != "sftp"))
