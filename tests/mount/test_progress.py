"""Commits that take their time: how far they are is told, and whoever waits need not wait for ever."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator

import pytest

from mount.control import CommitState, Pending
from tests.mount.conftest import MakeMount
from tests.mount.harness import Mount, artifactfs, eventually
from tests.mount.stuck import block, broken_store, failing, stage
from tests.servers.fixtures import MakeProxy, StartServer
from tests.servers.proxy import FaultProxy

pytestmark = pytest.mark.fuse

MIB = 1 << 20
FILES = 48


@pytest.fixture
def slow(start_server: StartServer, make_proxy: MakeProxy, make_mount: MakeMount) -> tuple[Mount, FaultProxy]:
    """A store that takes a second for each request, with `FILES` files of 1 MiB staged in models/bert."""
    moto = start_server("moto")
    proxy = make_proxy(moto)
    mount = make_mount("--commit-after", "1000", *moto.arguments(proxy.port), store=moto.fresh())
    stage(mount, files=FILES, size_bytes=MIB)
    return mount, proxy


@contextlib.contextmanager
def slowly(proxy: FaultProxy, latency_s: float = 1.0) -> Iterator[None]:
    proxy.latency_s = latency_s
    try:
        yield
    finally:
        proxy.clear()


def pending(mount: Mount, label: str = "models/bert") -> Pending:
    """The only sealed tree of an artifact."""
    (tree,) = mount.state(label).pending
    return tree


def test_the_time_to_wait_for_a_store_that_is_away(make_mount: MakeMount):
    """C24: the commit goes on in the background, exit status 4, with the reason."""
    mount = make_mount("--commit-after", "1000")
    stage(mount, files=2)
    with broken_store(mount):
        started = time.monotonic()
        done = artifactfs("commit", mount / "models/bert", "-m", "first", "--timeout", "2", check=False)
        assert 2 <= time.monotonic() - started < 30
        assert (done.returncode, done.stdout) == (4, "")
        said = done.stderr.splitlines()[-1]
        assert said.startswith("not committed within 2 s: models/bert goes on in the background (pending.1: ")
        assert pending(mount).state in (CommitState.RETRYING, CommitState.COMMITTING)
    mount.committed("models/bert", "v0")
    assert os.getxattr(mount / "models/bert/v0", "user.artifactfs.message") == b"first"


def test_the_time_to_wait_is_up_as_json(make_mount: MakeMount):
    """C24: programs are told which commit it is, and how far."""
    mount = make_mount("--commit-after", "1000")
    stage(mount, files=2, size_bytes=1000)
    with broken_store(mount):
        done = artifactfs("commit", mount / "models/bert", "--timeout", "0", "--json", check=False)
        assert done.returncode == 4
        answer = json.loads(done.stdout)
        assert (answer["collection"], answer["artifact"], answer["version"]) == ("models", "bert", None)
        assert answer["commit_id"] == answer["pending"]["commit_id"]
        assert (answer["pending"]["name"], answer["pending"]["size_bytes"]) == ("pending.1", 2000)
    mount.committed("models/bert", "v0")


def test_enough_time(mount: Mount):
    """C24: a commit that is over in time is as ever."""
    stage(mount)
    assert artifactfs("commit", mount / "models/bert", "--timeout", "600").stdout.startswith("models/bert v0: 1 file")


def test_what_cannot_be_committed_is_no_matter_of_time(mount: Mount):
    """C24: what is blocked, or open for writing, does not go on in the background."""
    block(mount)
    assert "not committed" in failing("commit", mount / "models/bert", "--timeout", "60")
    with open(mount.make("models/gpt") / "f", "wb") as file:
        file.write(b"x")
        started = time.monotonic()
        assert "has 1 file open for writing" in failing("commit", mount / "models/gpt", "--timeout", "0.5")
        assert time.monotonic() - started < 9
    assert (
        "takes no --timeout"
        in artifactfs("commit", mount / "models/gpt", "--timeout", "1", "--no-wait", check=False).stderr
    )


def test_every_commit_under_way_tells_its_speed(slow: tuple[Mount, FaultProxy]):
    """C24: in the background as in the foreground."""
    mount, proxy = slow
    with slowly(proxy):
        artifactfs("commit", mount / "models/bert", "--no-wait")
        seen = []

        def is_over() -> bool:
            trees = mount.state("models/bert").pending
            seen.extend(tree for tree in trees if tree.bytes_s)
            return not trees

        eventually(is_over)
    assert seen
    assert sorted(tree.done_bytes for tree in seen) == [tree.done_bytes for tree in seen]
    assert 0 < seen[0].done_bytes < seen[0].size_bytes == FILES * MIB
    for tree in seen:
        assert tree.bytes_s is not None
        left = (tree.size_bytes - tree.done_bytes) / tree.bytes_s
        assert tree.seconds_left == pytest.approx(left, rel=0.01, abs=0.1)
