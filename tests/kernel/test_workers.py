"""Threads: as many as wait for the store, and no more afterwards."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mount.drivers.kernel import workers
from mount.drivers.kernel.workers import MOST_AT_ONCE, End, Kind, Work, Workers
from tests.kernel.serving import END_S, SlowStore, served
from tests.mount.harness import eventually

pytestmark = pytest.mark.fuse

READERS = 6


def test_they_grow_while_all_wait_and_shrink_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody always answers what needs no store."""
    monkeypatch.setattr(workers, "IDLE_S", 0.2)
    source = tmp_path / "source"
    source.mkdir()
    for number in range(READERS):
        (source / f"file{number}").write_bytes(os.urandom((1 << 20) + number))
    store = SlowStore(str(tmp_path / "store"))
    store.log_files("a", source, "c")
    with served(store, tmp_path) as session:
        version = tmp_path / "mnt/c/a/v0"
        files = [version / f"file{number}" for number in range(READERS)]
        readers = [subprocess.Popen(["cat", file], stdout=subprocess.DEVNULL) for file in files]
        try:
            eventually(lambda: session.threads >= READERS, what="a thread for each reader")
            assert session.threads <= workers.MAX_THREADS
            found = subprocess.run(
                ["stat", "-c", "%s", *files], capture_output=True, text=True, timeout=END_S, check=True
            )
            assert found.stdout.split() == [str((1 << 20) + number) for number in range(READERS)]
        finally:
            store.may_answer.set()
            assert [reader.wait(END_S) for reader in readers] == [0] * READERS
        eventually(lambda: session.threads <= 2, what="idle threads to end")
        assert subprocess.run(["cat", *files], capture_output=True, timeout=END_S, check=True).stdout


class Requests:
    """A kernel of the test's own: requests are texts, one beginning with the name of a kind waits for `may_answer`."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.may_answer = {kind: threading.Event() for kind in Kind}
        self.answered: list[bytes] = []
        self.workers = Workers(self._receive, self._handle, 4096)
        self.thread = threading.Thread(target=self.workers.run)

    def _receive(self, buffer: bytearray) -> Work | None:
        raw = self.queue.get()
        if raw is None:
            raise End
        buffer[: len(raw)] = raw
        kind = next((kind for kind in Kind if raw.startswith(kind.name.encode())), None)
        if kind is not None:
            return Work(kind, len(raw), False)
        self.answered.append(raw)
        return None

    def _handle(self, buffer: bytearray, work: Work) -> None:
        assert self.may_answer[work.kind].wait(END_S)
        self.answered.append(bytes(buffer[: work.size]))

    def ask(self, name: str, count: int = 1) -> list[bytes]:
        """Send requests; returns what their answers are."""
        texts = [f"{name} {number}".encode() for number in range(count)]
        for text in texts:
            self.queue.put(text)
        return texts

    def have_answered(self, texts: list[bytes]) -> Callable[[], bool]:
        """Whether all of them were answered."""
        return lambda: set(texts) <= set(self.answered)


@pytest.fixture
def requests() -> Iterator[Requests]:
    """Served until the end of the test, every request answered once."""
    requests = Requests()
    requests.thread.start()
    yield requests
    for event in requests.may_answer.values():
        event.set()
    requests.queue.put(None)
    requests.thread.join(END_S)
    assert not requests.thread.is_alive()
    assert len(set(requests.answered)) == len(requests.answered)


@pytest.mark.parametrize("stuck", list(Kind))
def test_no_kind_of_waiting_keeps_the_others(requests: Requests, stuck: Kind) -> None:
    """O3: however many requests wait for one thing, those that wait for another or for nothing are answered."""
    for kind in Kind:
        if kind is not stuck:
            requests.may_answer[kind].set()
    waiting = requests.ask(stuck.name, MOST_AT_ONCE[stuck] + 20)
    eventually(lambda: requests.workers.is_full(stuck), what="all threads of that kind to wait")
    asked = requests.ask("quick", 5)
    for kind in Kind:
        if kind is not stuck:
            asked += requests.ask(kind.name, 5)
    eventually(requests.have_answered(asked), END_S / 2, "the others to be answered")
    assert not set(waiting) & set(requests.answered)
    assert requests.workers.count < workers.MAX_THREADS
    requests.may_answer[stuck].set()
    eventually(requests.have_answered(waiting), what="those that were put aside to be answered")


def test_without_another_thread_requests_are_answered_in_turn(
    requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O3: where no thread can be had (a limit on processes), the mount is slow, and lives."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    requests.may_answer[Kind.STORE].set()
    eventually(requests.have_answered(requests.ask("STORE", 3) + requests.ask("quick", 3)), what="answers")


def test_cached_bytes_wait_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """O3: while more programs wait for a store than may wait at once, what is here is read, and statfs answered."""
    monkeypatch.setitem(workers.MOST_AT_ONCE, Kind.STORE, 2)
    source = tmp_path / "source"
    source.mkdir()
    for number in range(READERS):
        (source / f"file{number}").write_bytes(os.urandom((1 << 20) + number))
    cached = os.urandom(3 << 20)
    (source / "cached").write_bytes(cached)
    store = SlowStore(str(tmp_path / "store"))
    store.log_files("a", source, "c")
    store.may_answer.set()
    (tmp_path / "state").mkdir()
    version = tmp_path / "mnt/c/a/v0"
    code = (
        "import os, sys; fd = os.open(sys.argv[1], os.O_RDONLY); os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED); "
        "sys.stdout.buffer.write(os.pread(fd, 1 << 20, 1 << 20)); os.statvfs(sys.argv[1]); os.listdir(sys.argv[2])"
    )
    with served(store, tmp_path) as session:
        subprocess.run(["cat", version / "cached"], stdout=subprocess.DEVNULL, timeout=END_S, check=True)
        store.may_answer.clear()
        files = [version / f"file{number}" for number in range(READERS)]
        readers = [subprocess.Popen(["cat", file], stdout=subprocess.DEVNULL) for file in files]
        try:
            eventually(lambda: session._workers.is_full(Kind.STORE), what="readers to wait")
            command = [sys.executable, "-c", code, version / "cached", tmp_path / "mnt"]
            found = subprocess.run(command, stdout=subprocess.PIPE, timeout=END_S / 2, check=True)
            assert found.stdout == cached[1 << 20 : 2 << 20]
        finally:
            store.may_answer.set()
            assert [reader.wait(END_S) for reader in readers] == [0] * READERS
