"""A machine that gives no more threads for a while: what needs one says so, and everything works again afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import artifactfs
from artifactfs.errors import StoreUnreachable
from artifactfs.managers.wandb import process
from mount.drivers.kernel.interrupts import UnderWay
from mount.settings import MountSettings
from tests.drives import DirectDrive
from tests.mount.harness import eventually

NEEDED = ("worker-", "fetch", "list", "remember", "interrupts", "status", "commit ", "upload", "at-once", "wandb")


class Limit:
    """No thread of the drive is started while `is_reached`."""

    def __init__(self) -> None:
        self.is_reached = False
        self.refused: set[str] = set()


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Limit:
    """Not reached yet."""
    limit, start = Limit(), threading.Thread.start

    def start_if_there_is_room(thread: threading.Thread) -> None:
        if limit.is_reached and thread.name.startswith(NEEDED):
            limit.refused.add(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_if_there_is_room)
    return limit


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[DirectDrive]:
    """On a store that is not local, with c/a@v0, of which the drive knows nothing."""
    url = f"memory://{uuid.uuid4().hex}"
    source = tmp_path / "source"
    source.mkdir()
    (source / "small").write_bytes(b"small")
    (source / "large").write_bytes(b"large" * 500_000)
    artifactfs.connect(url).commit_tree("a", source, "c", commit_id="0" * 32)
    settings = MountSettings(
        url,
        tmp_path / "mnt",
        commit_after_s=0.1,
        refresh_s=0.0,
        state_dir=tmp_path / "state",
        cache_dir=tmp_path / "cache",
        min_free_bytes=0,
    )
    with DirectDrive(artifactfs.connect(url), settings) as drive:
        yield drive


def test_reading_and_committing(drive: DirectDrive, limit: Limit) -> None:
    """C14, O1: reading is an error, listing and the status work, and a commit comes later."""
    limit.is_reached = True
    assert drive.listdir("c") == ["a"]
    assert drive.listdir("c/a/v0") == ["large", "small"]
    assert drive.listdir("c/a/v0") == ["large", "small"]
    with pytest.raises(OSError, match="no thread"):
        drive.read("c/a/v0/large")
    drive.write("c/a/staging/f", b"x")
    eventually(lambda: any("threads" in fault for fault in drive.status().faults))
    assert limit.refused >= {"fetch", "status", "commit c/a"}
    assert any(name.startswith("at-once") for name in limit.refused)
    limit.is_reached = False
    assert drive.read("c/a/v0/large") == b"large" * 500_000
    eventually(lambda: drive.versions("c/a") == ["v0", "v1"])
    assert drive.read("c/a/v1/f") == b"x"
    eventually(lambda: not drive.status().faults)


def test_killed_programs_are_watched_again(limit: Limit) -> None:
    """D3: who could not be watched is watched with the next one."""
    given_up: list[int] = []
    under_way = UnderWay(given_up.append)
    programs = [subprocess.Popen(["sleep", "1000"]) for _ in range(2)]
    try:
        limit.is_reached = True
        under_way.begin(1, programs[0].pid)
        assert under_way.interrupted(1)
        limit.is_reached = False
        under_way.begin(2, programs[1].pid)
        assert under_way.interrupted(2)
        for program in programs:
            program.kill()
        eventually(lambda: sorted(given_up) == [1, 2])
    finally:
        for program in programs:
            program.kill()
            program.wait()


def test_wandb_that_cannot_be_listened_to(limit: Limit) -> None:
    """W7: the process is not left behind."""
    limit.is_reached = True
    with pytest.raises(StoreUnreachable, match="no thread"):
        process.Worker(dict(os.environ))


def test_wandb_that_says_what_nobody_understands(monkeypatch: pytest.MonkeyPatch) -> None:
    """W7: whoever waits is told at once, and the next call gets a new process."""
    popen = subprocess.Popen

    def babble(_command: Any, **options: Any) -> Any:
        return popen([sys.executable, "-c", "import time; print('no JSON', flush=True); time.sleep(1000)"], **options)

    monkeypatch.setattr(process.subprocess, "Popen", babble)
    worker = process.Worker(dict(os.environ))
    started = time.monotonic()
    with pytest.raises(StoreUnreachable, match="ended"):
        worker.call("anything")
    assert time.monotonic() - started < process.CALL_S / 2
    eventually(lambda: not worker.alive)
