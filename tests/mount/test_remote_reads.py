"""A mount of a store on a real server: what it asks of the server, and what it does without it."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import time
from pathlib import Path

import pytest

from artifactfs import connect
from tests.mount.conftest import MakeMount
from tests.mount.harness import Mount, artifactfs, eventually, same_tree
from tests.servers import Server
from tests.servers.fixtures import MakeProxy, StartServer
from tests.servers.proxy import Fault, FaultProxy, Request

pytestmark = pytest.mark.fuse
# Where what is tested is the same below each.
ONE_DRIVER = pytest.mark.parametrize("driver", ["kernel"], indirect=True)

MIB = 1 << 20
FILES = 1000
FILE_BYTES = 12 << 10


class Remote:
    """A store on a real server behind a proxy, which holds the tree as data/set@v0."""

    def __init__(self, server: Server, proxy: FaultProxy, tree: Path) -> None:
        self.tree = tree
        self.server = server
        self.proxy = proxy
        self.url = server.fresh()
        connect(self.url, collection="data", **server.options).log_files("set", tree)
        self.mount_arguments = server.arguments(proxy.port)

    def object_reads(self) -> list[str]:
        """The requests for bytes of files since the count began."""
        return [request.target for request in self.proxy.requests if is_object_read(request)]


def is_object_read(request: Request) -> bool:
    return request.method == "GET" and "/objects/" in request.target


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("remote") / "tree"
    (root / "small" / "deeper").mkdir(parents=True)
    chance = random.Random(2)
    for number in range(200):
        (root / "small" / f"{number:03}").write_bytes(chance.randbytes(chance.randrange(1, 20_000)))
    (root / "small" / "deeper" / "link").symlink_to("../001")
    (root / "big").write_bytes(chance.randbytes(6 * MIB + 17))
    (root / "empty").touch()
    return root


@pytest.fixture
def remote(request: pytest.FixtureRequest, start_server: StartServer, make_proxy: MakeProxy, tree: Path) -> Remote:
    """On moto, or on the server that a test is parametrised with."""
    server = start_server(getattr(request, "param", "moto"))
    return Remote(server, make_proxy(server), tree)


def mount_of(remote: Remote, prepare_mount: MakeMount, *arguments: str) -> Mount:
    mount = prepare_mount(store=remote.url)
    mount.mount(*remote.mount_arguments, *arguments)
    return mount


@pytest.mark.parametrize("remote", ["moto", "azurite"], indirect=True)
def test_bytes_are_fetched_once_for_all_reads_and_mounts(remote: Remote, prepare_mount: MakeMount):
    """O2: the second read, another mount with the same cache and a remount move nothing."""
    mount = mount_of(remote, prepare_mount, "--read-only")
    same_tree(remote.tree, mount / "data/set/v0")
    cold = remote.object_reads()
    assert 0 < len(cold) <= 12
    remote.proxy.count_from_now()
    same_tree(remote.tree, mount / "data/set/v0")
    assert remote.object_reads() == []
    mount.remount()
    same_tree(remote.tree, mount / "data/set/v0")
    assert remote.object_reads() == []


@ONE_DRIVER
@pytest.mark.parametrize("remote", ["moto", "azurite"], indirect=True)
def test_packed_files_in_path_order_take_few_requests(remote: Remote, make_mount: MakeMount, tmp_path: Path):
    """O7: about one for 8 MiB: the first ones are smaller, until it shows that all is read."""
    tree = tmp_path / "many"
    for number in range(FILES):
        path = tree / f"{number // 100:02}" / f"{number:04}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(number).randbytes(FILE_BYTES))
    connect(remote.url, collection="data", **remote.server.options).log_files("many", tree)
    mount = make_mount(*remote.mount_arguments, "--read-only", store=remote.url)
    remote.proxy.count_from_now()
    for path in sorted(tree.rglob("*")):
        if path.is_file():
            assert (mount / "data/many/v0" / path.relative_to(tree)).read_bytes() == path.read_bytes()
    # The list of files is an object too.
    assert len(remote.object_reads()) - 1 <= FILES * FILE_BYTES / (8 * MIB) + 4, remote.object_reads()


@pytest.mark.parametrize("remote", ["moto", "azurite"], indirect=True)
def test_a_read_that_the_store_does_not_serve_is_an_error_in_time(remote: Remote, prepare_mount: MakeMount):
    """O3: EIO within the bound, cached bytes at once, and the next try succeeds."""
    mount = mount_of(remote, prepare_mount, "--read-only", "--read-timeout", "0.5", "--refresh", "60")
    mount.expect_warning("the store did not give data/set@v0:big within 0.5 s|Incomplete download")
    top = mount / "data/set/v0"
    assert (top / "small/000").read_bytes() == (remote.tree / "small/000").read_bytes()
    remote.proxy.plan(Fault.STALL, times=1000, matches=is_object_read)
    started = time.monotonic()
    with pytest.raises(OSError, match=re.escape(f"[Errno {errno.EIO}]")):
        (top / "big").read_bytes()
    assert time.monotonic() - started < 20
    assert (top / "small/001").read_bytes() == (remote.tree / "small/001").read_bytes()
    remote.proxy.clear()
    remote.proxy.cut_network()  # else what stalls goes on for as long as a call may take
    remote.proxy.restore()
    assert eventually(lambda: content_of(top / "big")) == (remote.tree / "big").read_bytes()


@ONE_DRIVER
def test_a_store_that_is_away_is_served_from_what_is_held(remote: Remote, prepare_mount: MakeMount, tmp_path: Path):
    """O2, O1: listings, versions and cached bytes after a remount; what was not read is EIO, never absent."""
    mount = mount_of(remote, prepare_mount, "--commit-after", "never")
    top = mount / "data/set/v0"
    assert sorted(os.listdir(mount / "data/set")) == ["latest", "staging", "v0"]
    shutil.copytree(top / "small", tmp_path / "copy", symlinks=True)
    mount.umount()
    remote.proxy.cut_network()
    mount.expect_warning("mounting what is known of a store that does not answer")
    mount.expect_warning("(read|FUSE_READ) .*Could not connect")
    said = mount.mount().stdout
    assert said.startswith("mounted s3://")
    assert said.endswith(f" on {mount.path}: it cannot be reached, and is shown as it is known from before\n")
    assert said.count("\n") == 1
    assert os.listdir(mount.path) == ["data"]
    assert sorted(os.listdir(mount / "data/set")) == ["latest", "staging", "v0"]
    same_tree(remote.tree / "small", top / "small")
    assert (top / "big").stat().st_size == (remote.tree / "big").stat().st_size
    for unknown in (top / "big", mount / "data/set/latest/big"):
        with pytest.raises(OSError, match=re.escape(f"[Errno {errno.EIO}]")):
            unknown.read_bytes()
    assert not mount.status().reachable
    # What is staged meanwhile waits for the store.
    (mount / "data/set/staging/new").write_bytes(b"later")
    assert (mount / "data/set/staging/new").read_bytes() == b"later"


def test_a_store_that_was_never_reached_is_not_mounted(prepare_mount: MakeMount):
    """O1: with nothing known there is nothing to serve."""
    mount = prepare_mount(store="s3://nowhere/store")
    mount.expect_warning("cannot go on")
    options = ["--storage-option", "key=user", "--storage-option", "secret=hunter22"]
    options += ["--storage-option", "client_kwargs.endpoint_url=http://127.0.0.1:9"]
    done = mount.mount(*options, check=False)
    assert done.returncode != 0
    assert "s3://nowhere/store" in done.stderr
    assert not mount.is_mounted()


def content_of(path: Path) -> bytes | None:
    """What is in a file; None when it cannot be read at the moment."""
    try:
        return path.read_bytes()
    except OSError:
        return None


@ONE_DRIVER
def test_warming_fills_the_cache_that_a_mount_reads_without_the_store(remote: Remote, prepare_mount: MakeMount):
    """O2: what was warmed and never mounted is served while the store is away; status and cache tell of it."""
    mount = prepare_mount(store=remote.url)
    warm = ["warm", "--store", remote.url, *remote.mount_arguments, "--cache-dir", mount.cache_dir, "--json"]
    part = json.loads(artifactfs(*warm, "data/set:small").stdout)
    assert (part["files"], part["path"]) == (200, "small")
    assert 0 < part["fetched_bytes"] < 4 * MIB
    whole = json.loads(artifactfs(*warm, "data/set@v0").stdout)
    assert whole["files"] == 202
    assert whole["fetched_bytes"] == (remote.tree / "big").stat().st_size
    assert json.loads(artifactfs(*warm, "data/set").stdout)["fetched_bytes"] == 0
    remote.proxy.cut_network()
    mount.expect_warning("mounting what is known of a store that does not answer")
    mount.mount(*remote.mount_arguments, "--read-only", "--cache-size", "1G")
    same_tree(remote.tree, mount / "data/set/v0")
    cache = mount.status().cache
    assert cache is not None
    assert (cache.directory, cache.limit_bytes, cache.fetched_bytes) == (str(mount.cache_dir), 1 << 30, 0)
    shown = artifactfs("status", mount.path, "--state-dir", mount.state_dir).stdout
    assert f"cache {mount.cache_dir}: " in shown
    held = json.loads(artifactfs("cache", "--cache-dir", mount.cache_dir, "--json").stdout)
    assert held["size_bytes"] > whole["fetched_bytes"]
    cleared = json.loads(artifactfs("cache", "--cache-dir", mount.cache_dir, "--clear", "--json").stdout)
    assert cleared["cleared_bytes"] == held["size_bytes"]
    assert cleared["size_bytes"] == 0
    assert "deleted" in artifactfs("cache", "--cache-dir", mount.cache_dir, "--clear").stdout


def test_what_warm_refuses(remote: Remote, tmp_path: Path):
    """A cache that is too small, a path that is not there, a store on the local disk."""
    store = ["--store", remote.url, *remote.mount_arguments, "--cache-dir", tmp_path / "cache"]
    artifactfs("put", __file__, "data/set", "--store", tmp_path / "local")
    for arguments, message in (
        (["data/set", "--cache-size", "1M", *store], "do not fit into a cache"),
        (["data/set:none", *store], "no 'none'"),
        (["data/set", "--store", tmp_path / "local"], "is read in place"),
    ):
        done = artifactfs("warm", *arguments, check=False)
        assert done.returncode == 1
        assert message in done.stderr
