"""Signals to programs that wait for a store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.manifest import Manifest
from mount.drivers.kernel.interrupts import is_being_killed
from mount.drivers.kernel.workers import Kind
from tests.kernel.serving import END_S, SlowStore, served
from tests.mount.harness import eventually

pytestmark = pytest.mark.fuse

# Too large for a pack, so that the two are fetched one by one.
CONTENT = os.urandom((1 << 20) + 5)

# With O_DIRECT the program waits for the request itself, without it for pages that the kernel asks for; those it lets
# go of without asking us, when the program is killed.
READER = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGUSR1, lambda *_: None)
fd = os.open(sys.argv[1], os.O_RDONLY | int(sys.argv[2]))
print("ready", flush=True)
while data := os.read(fd, 1 << 20):
    sys.stdout.buffer.write(data)
"""


def start_reader(path: Path, flags: int) -> subprocess.Popen[bytes]:
    """A program that is about to read a file."""
    command = [sys.executable, "-c", READER, str(path), str(flags)]
    reader = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0)
    assert reader.stdout is not None
    assert reader.stdout.readline() == b"ready\n"
    return reader


@pytest.fixture
def store(tmp_path: Path) -> SlowStore:
    """One version of two files."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(CONTENT)
    (source / "other").write_bytes(bytes(reversed(CONTENT)))
    store = SlowStore(str(tmp_path / "store"))
    store.log_files("a", source, "c")
    return store


@pytest.fixture
def file(store: SlowStore, tmp_path: Path) -> Iterator[Path]:
    """One of them, on a mount."""
    with served(store, tmp_path):
        try:
            yield tmp_path / "mnt/c/a/v0/file"
        finally:
            store.may_answer.set()


@pytest.mark.parametrize("flags", [0, os.O_DIRECT], ids=["cached", "direct"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_who_is_killed_while_it_waits_ends_at_once(
    store: SlowStore, file: Path, number: signal.Signals, flags: int
) -> None:
    """D3: whatever signal it is that ends it, and the mount goes on serving others."""
    with start_reader(file, flags) as reader:
        assert store.asked.acquire(timeout=END_S)
        reader.send_signal(number)
        assert reader.wait(END_S / 4) == -number
    store.may_answer.set()
    assert subprocess.run(["cat", file], stdout=subprocess.PIPE, check=True, timeout=END_S).stdout == CONTENT


def test_who_handles_a_signal_gets_its_data_and_can_still_be_killed(store: SlowStore, file: Path) -> None:
    """D3: hardly a program expects EINTR from a file; the kernel tells of the first signal only."""
    with start_reader(file, os.O_DIRECT) as lucky, start_reader(file.with_name("other"), os.O_DIRECT) as killed:
        for reader in (lucky, killed):
            assert store.asked.acquire(timeout=END_S)
            reader.send_signal(signal.SIGUSR1)
        killed.send_signal(signal.SIGTERM)
        assert killed.wait(END_S / 4) == -signal.SIGTERM
        assert lucky.poll() is None
        store.may_answer.set()
        output, _ = lucky.communicate(timeout=END_S)
        assert output == CONTENT
        assert lucky.returncode == 0


class SlowNames(SlowStore):
    """A store whose manifests, too, come only once the test lets them."""

    def manifest(self, artifact_id: str, collection: str | None = None, version: str | None = None) -> Manifest:
        self.asked.release()
        assert self.may_answer.wait(END_S)
        return super().manifest(artifact_id, collection, version)


@pytest.mark.parametrize("flag", [b"stat", b"ls", b"readlink"])
def test_who_is_killed_while_a_name_is_looked_up_ends_at_once(tmp_path: Path, flag: bytes) -> None:
    """D3: also when a version has to be loaded first; nothing is counted for an answer that nobody got."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").symlink_to("elsewhere")
    store = SlowNames(str(tmp_path / "store"))
    store.log_files("a", source, "c")
    with served(store, tmp_path) as session:
        subprocess.run(["ls", tmp_path / "mnt/c/a"], stdout=subprocess.DEVNULL, timeout=END_S, check=True)
        inodes = session.context.inodes
        before = len(inodes)
        asking = subprocess.Popen([flag, tmp_path / "mnt/c/a/v0/file"], stdout=subprocess.DEVNULL)
        assert store.asked.acquire(timeout=END_S)
        asking.kill()
        assert asking.wait(END_S / 4) == -signal.SIGKILL
        store.may_answer.set()
        eventually(lambda: session._workers._busy[Kind.NAMES] == 0, what="the lookup to end here too")
        assert len(inodes) == before
        link = tmp_path / "mnt/c/a/v0/file"
        found = subprocess.run(["readlink", link], stdout=subprocess.PIPE, timeout=END_S, check=True).stdout
        assert found == b"elsewhere\n"


def test_a_thread_is_seen_to_be_killed() -> None:
    """Its state is read from /proc; who is not there is not being killed."""
    assert not is_being_killed(os.getpid())
    stopped = subprocess.Popen(["sleep", "60"])
    assert not is_being_killed(stopped.pid)
    stopped.kill()
    stopped.wait()
    assert not is_being_killed(stopped.pid)
