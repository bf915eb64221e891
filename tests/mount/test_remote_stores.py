"""Mounts of stores on real servers: how many requests they make, several hosts at once, networks that go away."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from artifactfs import connect
from tests.mount.conftest import MakeMount
from tests.mount.harness import Mount, artifactfs, eventually
from tests.servers import Server
from tests.servers.fixtures import MakeProxy, StartServer
from tests.servers.proxy import Fault
from tests.soak.hosts import check_versions, commit_at_once, cut_off

pytestmark = pytest.mark.fuse

HOSTS = 4
VERSIONS = 5


@pytest.fixture
def driver() -> str:
    """One of them: what the store does is the same below each."""
    return "auto"


@pytest.fixture
def moto(start_server: StartServer) -> Server:
    return start_server("moto")


@pytest.mark.parametrize("name", ["moto", "azurite"])
def test_a_small_store_costs_few_requests(
    name: str, start_server: StartServer, make_proxy: MakeProxy, prepare_mount: MakeMount, tmp_path: Path
) -> None:
    """O7: mounting and listing a collection of 100 artifacts takes three requests, opening a version one."""
    server = start_server(name)
    url = server.fresh()
    direct = connect(url, collection="c", **server.options)
    (tmp_path / "t").mkdir()

    def commit(number: int) -> None:
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "f").write_text(str(number))
        direct.commit_tree(f"a{number}", tmp_path / str(number), commit_id=str(number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(commit, range(100)))
    proxy = make_proxy(server)
    mount = prepare_mount(url)
    mount.mount("--refresh", "600", "--commit-after", "never", *server.arguments(proxy.port))
    assert len(list((mount / "c").iterdir())) == 100
    assert len(proxy.requests) <= 3, proxy.requests
    assert sorted(path.name for path in (mount / "c/a7").iterdir()) == ["latest", "staging", "v0"]
    assert (mount / "c/a7/v0").stat().st_mtime > 0
    proxy.count_from_now()
    assert [path.name for path in (mount / "c/a7/v0").iterdir()] == ["f"]
    assert len(proxy.requests) <= 1, proxy.requests
    assert (mount / "c/a7/v0/f").stat().st_size == 1
    assert len(proxy.requests) <= 1, proxy.requests
    assert "exclusive create: honoured" in _status(mount)


def _status(mount: Mount) -> str:
    return artifactfs("status", mount.path, "--state-dir", mount.state_dir).stdout


def test_several_hosts_and_some_that_die(s3_server: Server, prepare_mount: MakeMount) -> None:
    """C7, O4, V8: hosts commit to one artifact at once, half of them die midway: each tree is one version, whole."""
    url = s3_server.fresh()
    hosts = [prepare_mount(url) for _ in range(HOSTS)]
    arguments = ("--commit-after", "0.05", "--refresh", "0.2", *s3_server.arguments())
    for host in hosts:
        host.mount(*arguments)

    wrote = commit_at_once(hosts, VERSIONS)
    versions = check_versions(connect(url, **s3_server.options), wrote)
    for host in hosts:
        eventually(lambda host=host: (host / "c/a" / versions[-1]).is_dir(), what="others' versions to show")


def test_an_unsafe_store_is_refused_for_writing(start_server: StartServer, prepare_mount: MakeMount) -> None:
    """O5: a server that ignores the condition of a PUT: read-only, or for one who promises to be alone."""
    rclone = start_server("rclone")
    url = rclone.fresh()
    mount = prepare_mount(url)
    mount.expect_warning("creating a name twice did not fail")
    done = mount.mount(*rclone.arguments(), check=False)
    assert done.returncode != 0
    assert "single_writer" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    mount.mount("--commit-after", "never", "--storage-option", "single_writer=true", *rclone.arguments())
    (mount.make("c/a") / "f").write_bytes(b"x" * 3_000_000)
    assert mount.commit("c/a")["version"] == "v0"
    # In ranges, each of which this server answers with the checksum of the whole.
    assert (mount / "c/a/v0/f").read_bytes() == b"x" * 3_000_000
    assert "exclusive create: not relied on: single writer" in _status(mount)


def test_what_a_store_refuses_and_what_it_defers(moto: Server, make_proxy: MakeProxy, prepare_mount: MakeMount) -> None:
    """O6: no bucket and no rights are one line, at once; throttling is waited out below a read and a commit."""
    nowhere = prepare_mount(f"{moto.prefix}-nowhere/store")
    nowhere.expect_warning("nowhere")
    proxy = make_proxy(moto)
    mount = prepare_mount(moto.fresh())
    mount.expect_warning("as planned")
    arguments = ("--commit-after", "never", *moto.arguments(proxy.port))
    proxy.plan(Fault.DENIED, times=1000)
    for refused, said in ((nowhere, "nowhere"), (mount, "as planned")):
        done = refused.mount(*(moto.arguments() if refused is nowhere else arguments), check=False)
        assert done.returncode != 0
        assert said in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert len(proxy.requests) == len(set(proxy.requests)) <= 2, "what is refused is not asked for again"
    proxy.clear()
    mount.mount(*arguments)
    staging = mount.make("c/a")
    (staging / "f").write_bytes(b"f" * 3_000_000)
    proxy.plan(Fault.SLOW_DOWN, times=2, matches=lambda request: request.method == "PUT")
    proxy.plan(Fault.TOO_MANY, times=2, matches=lambda request: request.method == "GET")
    assert mount.commit("c/a")["version"] == "v0"
    assert (mount / "c/a/v0/f").read_bytes() == b"f" * 3_000_000


@pytest.mark.parametrize("name", ["moto", "azurite", "sftp"])
def test_the_network_goes_away(name: str, start_server: StartServer, prepare_mount: MakeMount) -> None:
    """O1, C6: what is cached is served, the rest is EIO and served afterwards; the commit goes on by itself, once."""
    server = start_server(name)
    cut_off(prepare_mount(server.fresh()), server, 0.0)
