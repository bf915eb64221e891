"""Threads: as many as wait for the store, and no more afterwards."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mount.drivers.kernel import workers
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
