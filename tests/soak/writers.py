"""Many writers of files up to 64 MiB, committed every two seconds; the daemon's memory is watched.

Each writer is a process with an artifact of its own and a ledger, as in `copiers`. All together they write at most
`Plan.most_bytes`, evenly over the time.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mount import control
from mount.processes import Process
from tests.mount.harness import Mount, eventually
from tests.mount.shared import mounted
from tests.soak import copiers

LARGEST_BYTES = 64 << 20
COMMIT_EVERY_S = 2.0
GROWTH_BYTES = 6 << 20
"""What the daemon may grow by after the first minute: caches of records and manifests, about 3 KiB for each version
(bounded by themselves), and what the C library keeps of freed memory, up to 2 MiB for each of two heaps."""


@dataclass(frozen=True)
class Plan:
    """How much and for how long."""

    seconds: float
    writers: int = 8
    seed: int = 0
    most_bytes: int = 12 << 30


def write(artifact: Path, ledger_path: Path, seconds: float, seed: int, bytes_per_s: float) -> None:
    """Write files of random sizes until the time is over."""
    rng = random.Random(seed)
    started = time.monotonic()
    block = random.Random(seed).randbytes(LARGEST_BYTES)
    written = 0
    with open(ledger_path, "a") as ledger:
        for number in itertools.count():
            ahead_s = written / bytes_per_s - (time.monotonic() - started)
            time.sleep(min(max(0.0, ahead_s), max(0.0, started + seconds - time.monotonic())))
            if time.monotonic() - started >= seconds:
                return
            # Small ones as often as large ones; no two with the same content.
            size_bytes = rng.choice((0, rng.randrange(1 << 20), rng.randrange(LARGEST_BYTES)))
            data = f"{artifact.name} {number} ".encode() + block[:size_bytes] if size_bytes else b""
            copiers._write(artifact / "staging", f"d{number % 3}/file{number}", data, copiers._plainly, False)
            copiers._note(ledger, f"d{number % 3}/file{number}", hashlib.sha256(data).hexdigest())
            written += len(data)


def soak(mount: Mount, plan: Plan, report: Callable[[str], None] = lambda _: None) -> str:
    """Run the writers, publish everything, count; returns what happened in a line. Fails when something is missing."""
    artifacts = [mount / f"writers/artifact{number}" for number in range(plan.writers)]
    ledgers = [mount.path.parent / f"ledger{number}" for number in range(plan.writers)]
    for artifact in artifacts:
        artifact.mkdir(parents=True)
    writers = [_start(*pair, plan, number) for number, pair in enumerate(zip(artifacts, ledgers, strict=True))]
    stop = threading.Event()
    committers = [threading.Thread(target=_commit, args=(artifact, stop)) for artifact in artifacts]
    for thread in committers:
        thread.start()
    memory = Memory(mount.daemon, report)
    try:
        memory.watch(plan.seconds)
        for writer in writers:
            _, errors = writer.communicate(timeout=300)
            assert writer.returncode == 0, errors
    finally:
        stop.set()
        for thread in committers:
            thread.join()
        for writer in writers:
            writer.kill()
            writer.communicate()
    for artifact in artifacts:
        eventually(lambda artifact=artifact: not _open_files(mount, artifact))
        with contextlib.suppress(OSError):
            os.setxattr(artifact / "staging", control.COMMIT, b"{}")
    eventually(lambda: mount.status().artifacts == [], 300)
    memory.note("at the end")
    memory.check()
    mount.umount("--drain-timeout", "300")
    files = versions = 0
    with mounted(mount.path.parent / "check", mount.driver, "--read-only", store=mount.store) as check:
        for artifact, ledger in zip(artifacts, ledgers, strict=True):
            counted = copiers.count(check / "writers" / artifact.name, ledger)
            files, versions = files + counted[0], versions + counted[1]
    mount.mount()
    return f"{files} files in {versions} versions of {plan.writers} artifacts, all as written; memory: {memory}"


def _start(artifact: Path, ledger: Path, plan: Plan, number: int) -> subprocess.Popen[str]:
    code = "import sys; from pathlib import Path; from tests.soak import writers; a = sys.argv; "
    code += "writers.write(Path(a[1]), Path(a[2]), float(a[3]), int(a[4]), float(a[5]))"
    pace = plan.most_bytes / plan.writers / plan.seconds
    arguments = [str(artifact), str(ledger), str(plan.seconds), str(plan.seed * 1000 + number), str(pace)]
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True)


def _commit(artifact: Path, stop: threading.Event) -> None:
    # It waits up to two seconds itself for a file that is being written, and then gives up.
    while not stop.wait(COMMIT_EVERY_S):
        with contextlib.suppress(OSError):
            os.setxattr(artifact / "staging", control.COMMIT, b"{}")


def _open_files(mount: Mount, artifact: Path) -> int:
    staged = mount.state(f"writers/{artifact.name}").staged
    return staged.open_for_writing if staged else 0


class Memory:
    """The resident memory of a daemon at several moments."""

    def __init__(self, daemon: Process, report: Callable[[str], None]) -> None:
        self._pid = daemon.pid
        self._report = report
        self._notes: list[str] = []
        self._first_bytes: int | None = None
        self._last_bytes = 0

    def watch(self, seconds: float) -> None:
        """Note it every minute."""
        started = time.monotonic()
        for minute in itertools.count(1):
            left = min(60.0 * minute, seconds) - (time.monotonic() - started)
            if left <= 0:
                return
            time.sleep(left)
            self.note(f"after {min(60.0 * minute, seconds):.0f} s")
            if self._first_bytes is None and time.monotonic() - started >= 60.0:
                self._first_bytes = self._last_bytes

    def note(self, when: str) -> None:
        status = Path(f"/proc/{self._pid}/status").read_text()
        resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        self._last_bytes = resident * 1024
        self._notes.append(f"{resident / 1024:.1f} MiB {when}")
        self._report(self._notes[-1])

    def check(self) -> None:
        """Fails when it has grown too much since the first minute, if there was one."""
        grown = 0 if self._first_bytes is None else self._last_bytes - self._first_bytes
        assert grown <= GROWTH_BYTES, f"the daemon grew by {grown >> 20} MiB after the first minute: {self}"

    def __str__(self) -> str:
        return ", ".join(self._notes)
