"""What keeps commits from ending, and commands that wait for them.

A store that is away, a tree that no store takes, a daemon that hangs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from mount.control import CommitState
from mount.processes import Process
from tests.mount.harness import COMMAND_TIMEOUT_S, PROGRAM, Mount, artifactfs, eventually


def stage(mount: Mount, label: str = "models/bert", files: int = 1, size_bytes: int = 1000) -> Path:
    """A new artifact with some files staged; returns its staging directory."""
    staging = mount.make(label)
    for number in range(files):
        (staging / f"file{number}").write_bytes(os.urandom(size_bytes))
    return staging


def failing(*arguments: str | Path, status: int = 1) -> str:
    """What a command that must fail says, in one line."""
    done = artifactfs(*arguments, check=False)
    assert done.returncode == status, done
    assert done.stderr.splitlines()[-1].startswith("artifactfs: "), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def impatient(changed: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command with other constants, such as ``umount.ANSWER_S = 0.3``, in a process of its own."""
    code = f"from mount.commands import commit, status, umount; {changed}; from mount.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)


@contextlib.contextmanager
def broken_store(mount: Mount) -> Iterator[Callable[[], None]]:
    """Until what it gives is called, or at the latest to its end, the store is not where it was: a passing failure."""
    store, aside = Path(mount.store), Path(f"{mount.store}.aside")

    def repair() -> None:
        if aside.exists():
            aside.rename(store)

    mount.expect_warning("cannot commit|the store does not answer")
    store.rename(aside)
    try:
        yield repair
    finally:
        repair()


@contextlib.contextmanager
def running(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """The command while it runs; killed when the test is through with it."""
    command = [PROGRAM, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def stop(daemon: Process) -> None:
    """Make it hang, until SIGCONT."""
    daemon.send(signal.SIGSTOP)
    stat = Path(f"/proc/{daemon.pid}/stat")
    eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")


def hangs(command: list[str]) -> bool:
    """Whether a command waits; it goes on doing so until the daemon answers or dies."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(0.3)
    except subprocess.TimeoutExpired:
        _waiting.append(process)
        return True
    return False


_waiting: list[subprocess.Popen[bytes]] = []


def is_retrying(mount: Mount) -> bool:
    """Whether a commit of models/bert waits to be tried again."""
    return any(pending.state is CommitState.RETRYING for pending in mount.state("models/bert").pending)


def block(mount: Mount, label: str = "models/bert") -> None:
    """Stage what no version can keep: a lasting failure."""
    (mount.make(label) / "link").symlink_to("/etc/passwd")
    mount.expect_warning("cannot commit")
