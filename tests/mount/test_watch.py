"""``artifactfs status --watch``: on a terminal and for programs, until it is interrupted or nothing is mounted."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mount import control
from mount.commands.umount import LEFT
from mount.control import CommitState
from tests.mount.conftest import MakeMount
from tests.mount.harness import EVENTUALLY_S, PROGRAM, Mount, artifactfs, eventually
from tests.mount.stuck import block, broken_store, running, stage
from tests.mount.test_progress import FILES, MIB, slow, slowly
from tests.servers.proxy import FaultProxy

pytestmark = pytest.mark.fuse

__all__ = ["slow"]
SHOWN_CURSOR = b"\x1b[?25h"
_CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A terminal with a program on it, and what that has written so far."""

    def __init__(self, *arguments: str, columns: int = 400) -> None:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color"}
        for name in ("NO_COLOR", "COLUMNS", "LINES"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            [PROGRAM, *arguments], stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
        )
        os.close(slave)
        self.raw = b""
        self._reader = threading.Thread(target=self._read, args=(master,), daemon=True)
        self._reader.start()

    def _read(self, master: int) -> None:
        # A terminal whose last writer is gone reads as an I/O error.
        with contextlib.suppress(OSError):
            while chunk := os.read(master, 65536):
                self.raw += chunk
        os.close(master)

    @property
    def text(self) -> str:
        """Everything that was shown, one frame after the other."""
        return _CONTROL.sub(b"", self.raw).decode()

    def shows(self, text: str) -> None:
        """Wait until something is shown."""
        try:
            eventually(lambda: text in self.text, what=f"{text!r} on the terminal")
        except AssertionError as error:
            raise AssertionError(f"{error}; it shows {self.text[-3000:]}") from None

    def end(self) -> int:
        """Wait for the program to end; returns its exit status."""
        status = self.process.wait(EVENTUALLY_S)
        self._reader.join(EVENTUALLY_S)
        return status


@contextlib.contextmanager
def watched(mount: Mount) -> Iterator[Terminal]:
    """The status of a mount on a terminal."""
    terminal = Terminal("status", "--watch", str(mount.path), "--state-dir", str(mount.state_dir))
    try:
        terminal.shows(mount.store)
        yield terminal
    finally:
        terminal.process.kill()
        terminal.end()


class Lines:
    """What a program reads."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.found: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, args=(process,), daemon=True)
        self._reader.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.found.append(json.loads(line))

    def join(self) -> None:
        """Wait for the last line."""
        self._reader.join(EVENTUALLY_S)


@contextlib.contextmanager
def followed(mount: Mount) -> Iterator[tuple[subprocess.Popen[str], Lines]]:
    """The status of a mount as a program reads it."""
    with running("status", "--watch", "--json", mount.path, "--state-dir", mount.state_dir) as process:
        lines = Lines(process)
        eventually(lambda: lines.found)
        yield process, lines
        lines.join()


def artifacts(line: dict[str, Any]) -> list[dict[str, Any]]:
    """The artifacts of the one mount in a line."""
    return [each for mounted in line["mounts"] if mounted["status"] for each in mounted["status"]["artifacts"]]


def test_a_commit_on_a_terminal(slow: tuple[Mount, FaultProxy]):
    """C25: staged, then a bar with speed and the time that is left, then gone; the cursor comes back."""
    mount, proxy = slow
    with watched(mount) as terminal:
        terminal.shows(f"models/bert  staging  {FILES} files  {FILES}.0 MiB")
        with slowly(proxy):
            artifactfs("commit", mount / "models/bert", "--no-wait")
            terminal.shows("models/bert  pending.1")
            terminal.shows("━━━")
            eventually(lambda: re.search(r"committing, \d+ %, [0-9.]+ MiB/s, (\d+ s|\d+:\d\d) left", terminal.text))
        mount.committed("models/bert", "v0")
        mount.umount()
        assert terminal.end() == 0
        assert "nothing is mounted any more" in terminal.text
        assert SHOWN_CURSOR in terminal.raw[-100:]


def test_who_writes_and_when_it_is_committed(make_mount: MakeMount):
    """C25: the writers by name, the seconds that are left, and what it waits for where it does."""
    mount = make_mount("--commit-after", "1000")
    staging = stage(mount, files=2)
    with watched(mount) as terminal:
        terminal.shows(f"(pid {os.getpid()})")
        assert re.search(r"; commits in 1\d:\d\d", terminal.text), terminal.text
        (staged,) = [state.staged for state in mount.status().artifacts]
        assert staged is not None
        assert staged.writers[0].endswith(f" (pid {os.getpid()})")
        assert staged.commits_in_s is not None
        assert 0 < staged.commits_in_s < 1000
        with open(staging / "f", "wb") as file:
            file.write(b"x")
            terminal.shows("waits for 1 file open for writing")
        os.setxattr(staging, control.COMMIT_AFTER, b"never")
        terminal.shows("waits for a request")
        os.setxattr(staging, control.COMMIT_AFTER, b"1")
        mount.committed("models/bert", "v0")


def test_what_a_failed_writer_left(make_mount: MakeMount):
    """C25, C23: it is shown as held, with who failed; the unmount lists it."""
    mount = make_mount("--commit-after", "1000")
    staging = mount.make("models/bert")
    with watched(mount) as terminal:
        with subprocess.Popen(["sh", "-c", f"exec > {staging}/f; printf half; exec sleep 1000"]) as writer:
            eventually(lambda: (staging / "f").exists() and (staging / "f").stat().st_size == 4)
            writer.kill()
        terminal.shows("held: ")
        terminal.shows("was killed by SIGKILL")
    done = mount.umount(check=False)
    assert done.returncode == LEFT
    assert "models/bert staging: 1 file, 4 B: held: " in done.stderr
    assert "was killed by SIGKILL" in done.stderr


def test_nothing_is_drawn_when_nothing_changes(mount: Mount):
    """C25: so that it does not flicker, and costs nothing to send over a network."""
    block(mount)
    artifactfs("commit", mount / "models/bert", check=False)
    with watched(mount) as terminal:
        terminal.shows("blocked: ")
        drawn = len(terminal.raw)
        pause = threading.Event()
        pause.wait(3.0)
        assert len(terminal.raw) == drawn


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_is_interrupted(mount: Mount, number: signal.Signals):
    """C25: an interruption is the way to end it; the terminal is left as it was."""
    with watched(mount) as terminal:
        terminal.process.send_signal(number)
        assert terminal.end() == (0 if number == signal.SIGINT else 128 + number)
        assert SHOWN_CURSOR in terminal.raw[-100:]
        assert "Traceback" not in terminal.text
    with followed(mount) as (process, _):
        process.send_signal(number)
        assert process.wait(EVENTUALLY_S) == (0 if number == signal.SIGINT else 128 + number)
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_the_daemon_is_killed(mount: Mount):
    """C25: that is shown, and is another exit status than an unmount."""
    with watched(mount) as terminal, followed(mount) as (process, lines):
        mount.kill9()
        assert terminal.end() == 1
        assert f"the daemon of the mount at {mount.path} is gone" in terminal.text.splitlines()[-1]
        assert process.wait(EVENTUALLY_S) == 1
    assert lines.found[-1]["mounts"][0]["state"] == "dead"


def test_lines_for_programs(make_mount: MakeMount):
    """C25: one object for every change: staged, sealed, tried again with the reason, gone, unmounted."""
    mount = make_mount("--commit-after", "1000")
    with followed(mount) as (process, lines):
        stage(mount, files=3)
        eventually(lambda: [a for a in artifacts(lines.found[-1]) if a["staged"] and a["staged"]["files"] == 3])
        with broken_store(mount):
            artifactfs("commit", mount / "models/bert", "--no-wait")
            eventually(lambda: [p for a in artifacts(lines.found[-1]) for p in a["pending"] if p["error"]])
            (tree,) = artifacts(lines.found[-1])[0]["pending"]
            assert tree["state"] in (CommitState.RETRYING.value, CommitState.COMMITTING.value)
            assert (tree["name"], tree["files"], tree["size_bytes"]) == ("pending.1", 3, 3000)
        eventually(lambda: not artifacts(lines.found[-1]))
        mount.umount()
        assert process.wait(EVENTUALLY_S) == 0
    assert lines.found[-1]["mounts"] == []
    times = [line["at"] for line in lines.found]
    assert times == sorted(times)
    assert all(list(line) == ["at", "mounts"] for line in lines.found)


def test_no_line_without_a_change(mount: Mount):
    """C25: what only time changes is no change."""
    stage(mount)
    with followed(mount) as (process, lines):
        eventually(lambda: artifacts(lines.found[-1]))
        before = len(lines.found)
        pause = threading.Event()
        pause.wait(3.0)
        assert len(lines.found) == before
        process.send_signal(signal.SIGINT)
        assert process.wait(EVENTUALLY_S) == 0


def test_progress_for_programs(slow: tuple[Mount, FaultProxy]):
    """C25: a line for every step, with speed and the time that is left."""
    mount, proxy = slow
    with followed(mount) as (process, lines):
        with slowly(proxy):
            artifactfs("commit", mount / "models/bert", "--no-wait")
            mount.committed("models/bert", "v0")
        eventually(lambda: not artifacts(lines.found[-1]))
        process.send_signal(signal.SIGINT)
        assert process.wait(EVENTUALLY_S) == 0
    trees = [tree for line in lines.found for a in artifacts(line) for tree in a["pending"]]
    done = [tree["done_bytes"] for tree in trees if tree["bytes_s"] and tree["seconds_left"] is not None]
    assert len(set(done)) > 2, trees
    assert done == sorted(done)
    assert max(done) <= FILES * MIB


def test_it_takes_a_terminal_or_json(mount: Mount):
    """C25: elsewhere it would write frames over each other."""
    done = artifactfs("status", "--watch", mount.path, "--state-dir", mount.state_dir, check=False)
    assert done.returncode == 2
    assert "--json" in done.stderr


def test_a_place_that_is_no_mount(mount: Mount):
    """C25: it does not wait for one."""
    done = artifactfs("status", "--watch", "--json", mount.state_dir, "--state-dir", mount.state_dir, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no store is mounted on" in done.stderr
