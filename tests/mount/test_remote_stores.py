"""Mounts of stores on real servers: how many requests they make, several hosts at once, networks that go away."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from artifactfs import connect
from tests.mount.conftest import MakeMount
from tests.mount.harness import Mount, artifactfs, eventually
from tests.servers import Server
from tests.servers.fixtures import MakeProxy, StartServer

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


def test_a_small_store_costs_few_requests(
    moto: Server, make_proxy: MakeProxy, prepare_mount: MakeMount, tmp_path: Path
) -> None:
    """Mounting and listing a collection of 100 artifacts takes three requests, opening a version one."""
    url = moto.fresh()
    direct = connect(url, collection="c", **moto.options)
    (tmp_path / "t").mkdir()

    def commit(number: int) -> None:
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "f").write_text(str(number))
        direct.commit_tree(f"a{number}", tmp_path / str(number), commit_id=str(number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(commit, range(100)))
    proxy = make_proxy(moto)
    mount = prepare_mount(url)
    mount.mount("--refresh", "600", "--commit-after", "never", *moto.arguments(proxy.port))
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
    """C7, V8: hosts commit to one artifact at once, half of them die midway: every tree gives one version, whole."""
    url = s3_server.fresh()
    hosts = [prepare_mount(url) for _ in range(HOSTS)]
    arguments = ("--commit-after", "0.05", "--refresh", "0.2", *s3_server.arguments())
    for host in hosts:
        host.mount(*arguments)

    def work(number: int) -> list[str]:
        host, wanted = hosts[number], []
        for i in range(VERSIONS):
            staging = host.make("c/a") if not (host / "c/a").exists() else host / "c/a/staging"
            content = f"{number} {i}"
            (staging / "who").write_text(content)
            wanted.append(content)
            if number % 2 and i == VERSIONS // 2:
                host.kill9()
                host.remount()
            eventually(lambda: not host.state("c/a").staged, 60, "the tree to be sealed")
        eventually(lambda: not host.state("c/a").pending, 60, "the commits to end")
        return wanted

    with ThreadPoolExecutor(HOSTS) as pool:
        wanted = [content for done in pool.map(work, range(HOSTS)) for content in done]
    direct = connect(url, collection="c", **s3_server.options)
    versions = direct.list_version_names("a")
    assert versions == [f"v{i}" for i in range(HOSTS * VERSIONS)]
    found = []
    for info in direct.list_versions("a"):
        entry = direct.manifest("a", version=info.version).find("who")
        assert entry is not None
        found.append(direct.read_entry(info, entry).decode())
    assert sorted(found) == sorted(wanted)
    for host in hosts:
        eventually(lambda host=host: (host / "c/a" / versions[-1]).is_dir(), what="others' versions to show")


def test_an_unsafe_store_is_refused_for_writing(start_server: StartServer, prepare_mount: MakeMount) -> None:
    """A server that ignores the condition of a PUT: read-only, or for one who promises to be alone."""
    rclone = start_server("rclone")
    url = rclone.fresh()
    mount = prepare_mount(url)
    mount.expect_warning("creating a name twice did not fail")
    done = mount.mount(*rclone.arguments(), check=False)
    assert done.returncode != 0
    assert "single_writer" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    mount.mount("--commit-after", "never", "--storage-option", "single_writer=true", *rclone.arguments())
    (mount.make("c/a") / "f").write_text("x")
    assert mount.commit("c/a")["version"] == "v0"
    assert "exclusive create: not relied on: single writer" in _status(mount)


def test_the_network_goes_away(moto: Server, make_proxy: MakeProxy, prepare_mount: MakeMount) -> None:
    """O1, C6: what is cached is served, the rest is EIO and served afterwards; the commit goes on by itself, once."""
    proxy = make_proxy(moto)
    mount = prepare_mount(moto.fresh())
    mount.expect_warning("the store does not answer|cannot commit|did not give|cannot read|FUSE_|does not answer")
    options = ("--refresh", "0.2", "--commit-after", "never", "--read-timeout", "5")
    mount.mount(*options, *moto.arguments(proxy.port))
    staging = mount.make("c/a")
    (staging / "held").write_bytes(b"held" * 500_000)
    (staging / "other").write_bytes(b"other" * 500_000)
    assert mount.commit("c/a")["version"] == "v0"
    assert (mount / "c/a/v0/held").read_bytes() == b"held" * 500_000
    proxy.cut_network()
    (staging / "late").write_bytes(b"late" * 500_000)
    commit = subprocess.Popen(
        [Path(sys.executable).with_name("artifactfs"), "commit", mount.path / "c/a"], stdout=subprocess.PIPE, text=True
    )
    assert (mount / "c/a/v0/held").read_bytes() == b"held" * 500_000
    with pytest.raises(OSError, match="Input/output error"):
        (mount / "c/a/v0/other").read_bytes()
    eventually(lambda: mount.state("c/a").pending, what="the commit to be under way")
    proxy.restore()
    assert commit.communicate(timeout=60)[0].startswith("c/a v1:")
    assert eventually(lambda: (mount / "c/a/v0/other").read_bytes() == b"other" * 500_000)
    assert sorted(path.name for path in (mount / "c/a").iterdir() if path.name[0] == "v") == ["v0", "v1"]
