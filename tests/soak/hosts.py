"""Several hosts, each a mount with state of its own, commit to one artifact of one store at once; some of them die."""

from __future__ import annotations

import contextlib
import errno
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import artifactfs
from artifactfs.managers.base import ArtifactManager
from tests.mount.harness import PROGRAM, Mount, eventually
from tests.servers import Server
from tests.servers.proxy import FaultProxy
from tests.soak.network import host

LABEL = "c/a"
_PATIENCE_S = 300.0
_READ_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Plan:
    """How many hosts, versions of each, for how many seconds the network is away; whether hosts are namespaces."""

    hosts: int
    versions: int
    cut_s: float
    driver: str
    namespaces: bool


def soak(server: Server, directory: Path, plan: Plan, say: Callable[[object], None]) -> None:
    """All hosts commit at once to one artifact on that server, then one of them loses the network for a while."""
    url = server.fresh()
    hosts = [Mount(directory / f"host{i}", url, driver=plan.driver) for i in range(plan.hosts)]
    wrong: list[str] = []
    with contextlib.ExitStack() as stack:
        try:
            for mount in hosts:
                if plan.namespaces:
                    arguments = _move(mount, server, stack)
                else:
                    arguments = server.arguments()
                mount.mount("--commit-after", "0.05", "--refresh", "0.5", "--on-failure", "commit", *arguments)
            started = time.monotonic()
            wrote = commit_at_once(hosts, plan.versions)
            took_s = time.monotonic() - started
            versions = check_versions(artifactfs.connect(url, **server.options), wrote)
            for mount in hosts:
                eventually(
                    lambda mount=mount: {path.name for path in (mount / LABEL).iterdir()} >= set(versions),
                    what="every host to show every version",
                )
            say(
                f"{server.name}: {len(hosts)} hosts, {len(hosts) // 2} of them killed midway and mounted again: "
                f"{len(wrote)} trees written, {len(versions)} versions ({versions[0]} to {versions[-1]}), all whole, "
                f"none twice, {took_s:.0f} s"
            )
        finally:
            for mount in hosts:
                wrong += mount.tear_down()
    if wrong:
        raise SystemExit("\n".join(wrong))
    counts = cut_off(Mount(directory / "cut", server.fresh(), driver=plan.driver), server, plan.cut_s)
    say(f"{server.name}: the network away for {plan.cut_s:g} s: {counts}; the commit ended by itself, once")


def _move(mount: Mount, server: Server, stack: contextlib.ExitStack) -> list[str]:
    """Give the mount a network namespace, from which a relay leads to the server; how it is told to go there."""
    place = stack.enter_context(host())
    relay = stack.enter_context(FaultProxy(server.port, http=False, address=place.gateway))
    mount.within = place.within
    return [*server.arguments(), "--storage-option", f"endpoint_url=http://{place.gateway}:{relay.port}"]


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


@dataclass
class Counts:
    """What readers met while the network was away."""

    held: int = 0
    held_longest_s: float = 0.0
    refused: int = 0
    refused_longest_s: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.held} reads of cached files, the slowest {self.held_longest_s:.2f} s; {self.refused} reads of "
            f"others were EIO, the slowest after {self.refused_longest_s:.1f} s, and served afterwards"
        )


def cut_off(mount: Mount, server: Server, seconds: float) -> Counts:
    """Take the network away from a mount for so long, while its files are read and a commit is under way.

    What is cached is read all the while, the rest is EIO; afterwards it is read, and the commit has ended by itself.
    """
    held, other, late = b"held" * 500_000, b"other" * 500_000, b"late" * 500_000
    mount.expect_warning("the store does not answer|cannot commit|did not give|cannot read|FUSE_")
    with FaultProxy(server.port, http=server.name != "sftp") as proxy:
        try:
            options = ("--refresh", "0.2", "--commit-after", "never", "--read-timeout", f"{_READ_TIMEOUT_S:g}")
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
                counts = _without_network(mount, held, seconds)
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
    return counts


def _without_network(mount: Mount, held: bytes, seconds: float) -> Counts:
    """A reader of what is cached and one of what is not, each on its own, for so long and at least once."""
    over, counts, end = Event(), Counts(), time.monotonic() + seconds

    def read_cached() -> None:
        while not over.is_set():
            started = time.monotonic()
            assert (mount / LABEL / "v0/held").read_bytes() == held
            counts.held += 1
            counts.held_longest_s = max(counts.held_longest_s, time.monotonic() - started)
            over.wait(0.05)

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read_cached)
        try:
            while not counts.refused or time.monotonic() < end:
                started = time.monotonic()
                assert _error_of(lambda: (mount / LABEL / "v0/other").read_bytes()) == errno.EIO
                counts.refused += 1
                counts.refused_longest_s = max(counts.refused_longest_s, time.monotonic() - started)
                over.wait(0.2)
        finally:
            over.set()
        reader.result()
    assert counts.refused_longest_s < _READ_TIMEOUT_S + 5, "EIO within the bound"
    assert counts.held_longest_s < _READ_TIMEOUT_S, "readers of what is cached never notice"
    return counts


def _error_of(action: Callable[[], object]) -> int | None:
    try:
        action()
    except OSError as error:
        return error.errno
    return None
