"""Several hosts, each a mount with state of its own, commit to one artifact of one store at once; some of them die."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from artifactfs.managers.base import ArtifactManager
from tests.mount.harness import PROGRAM, Mount, eventually
from tests.servers import Server
from tests.servers.proxy import FaultProxy

LABEL = "c/a"
_PATIENCE_S = 300.0


def commit_at_once(hosts: Sequence[Mount], versions: int) -> list[str]:
    """Every host, mounted, commits so many trees, each with other content; what they wrote.

    Every other one is killed midway with a commit under way, mounted again, and goes on.
    """

    def work(number: int) -> list[str]:
        host, wrote = hosts[number], []
        staging = host.make(LABEL) if not (host / LABEL).exists() else host / LABEL / "staging"
        for i in range(versions):
            content = f"{number} {i}"
            (staging / "who").write_text(content)
            wrote.append(content)
            if number % 2 and i == versions // 2:
                host.kill9()
                host.remount()
            eventually(lambda: not host.state(LABEL).staged, _PATIENCE_S, "the tree to be sealed")
        eventually(lambda: not host.state(LABEL).pending, _PATIENCE_S, "the commits to end")
        return wrote

    with ThreadPoolExecutor(len(hosts)) as pool:
        return [content for done in pool.map(work, range(len(hosts))) for content in done]


def check_versions(manager: ArtifactManager, wrote: Sequence[str]) -> list[str]:
    """That there is a version for everything written, whole and once, and no number is left out; the versions."""
    versions = manager.list_version_names("a", "c")
    assert versions == [f"v{i}" for i in range(len(wrote))], versions
    found = []
    for info in manager.list_versions("a", "c"):
        entry = manager.manifest("a", "c", info.version).find("who")
        assert entry is not None
        found.append(manager.read_entry(info, entry).decode())
    assert sorted(found) == sorted(wrote)
    return versions


def cut_off(mount: Mount, server: Server, seconds: float) -> None:
    """Take the network away from a mount for so long, while its files are read and a commit is under way.

    What is cached is read all the while, the rest is EIO; afterwards it is read, and the commit has ended by itself.
    """
    held, other, late = b"held" * 500_000, b"other" * 500_000, b"late" * 500_000
    mount.expect_warning("the store does not answer|cannot commit|did not give|cannot read|FUSE_")
    with FaultProxy(server.port) as proxy:
        try:
            options = ("--refresh", "0.2", "--commit-after", "never", "--read-timeout", "5")
            mount.mount(*options, *server.arguments(proxy.port))
            staging = mount.make(LABEL)
            (staging / "held").write_bytes(held)
            (staging / "other").write_bytes(other)
            assert mount.commit(LABEL)["version"] == "v0"
            assert (mount / LABEL / "v0/held").read_bytes() == held
            proxy.cut_network()
            (staging / "late").write_bytes(late)
            with subprocess.Popen([PROGRAM, "commit", mount / LABEL], stdout=subprocess.PIPE, text=True) as commit:
                eventually(lambda: mount.state(LABEL).pending, what="the commit to be under way")
                _without_network(mount, held, seconds)
                proxy.restore()
                said, _ = commit.communicate(timeout=_PATIENCE_S + 2 * seconds)
            assert said.startswith(f"{LABEL} v1:"), said
            assert (mount / LABEL / "v0/other").read_bytes() == other
            assert (mount / LABEL / "v1/late").read_bytes() == late
            names = {path.name for path in (mount / LABEL).iterdir()}
            assert names == {"latest", "staging", "v0", "v1"}, names
        finally:
            wrong = mount.tear_down()
    assert not wrong, wrong


def _without_network(mount: Mount, held: bytes, seconds: float) -> None:
    over = Event()
    waited = 0.0
    while True:
        assert (mount / LABEL / "v0/held").read_bytes() == held
        assert _error_of(lambda: (mount / LABEL / "v0/other").read_bytes()) == errno.EIO
        if waited >= seconds:
            return
        over.wait(1.0)
        waited += 1.0


def _error_of(action: Callable[[], object]) -> int | None:
    try:
        action()
    except OSError as error:
        return error.errno
    return None
