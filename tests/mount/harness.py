"""A real mount in a test: the installed command, a daemon of its own, and nothing left over afterwards.

Every `Mount` runs ``artifactfs`` as a user would, with its own state directory. After the test its log must hold no
WARNING or worse that the test did not announce (`expect_warning`), and no mount and no daemon may be left.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mount import client, logs, mounts
from mount.commands.umount import LEFT
from mount.control import ArtifactState, Status
from mount.processes import Process

Found = TypeVar("Found")

# Where the machine does much else, what takes a moment takes many seconds.
COMMAND_TIMEOUT_S = 240.0
EVENTUALLY_S = 120.0
_LOG_LINES_SHOWN = 200
PROGRAM = str(Path(sys.executable).with_name("artifactfs"))

_ALARMING = re.compile(r"^\S+Z (WARNING|ERROR|CRITICAL) |^Fatal Python error|^Exception ignored")


def eventually(predicate: Callable[[], Found], timeout_s: float = EVENTUALLY_S, what: str = "") -> Found:
    """The first true value of `predicate`, asked again and again; fails when none comes in time."""
    deadline = time.monotonic() + timeout_s
    pause_s = 0.005
    while True:
        found = predicate()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what or predicate}; at last: {found!r}"
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.1)


def artifactfs(
    *arguments: str | os.PathLike[str],
    check: bool = True,
    timeout_s: float = COMMAND_TIMEOUT_S,
    within: Sequence[str] = (),
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run the command, by the command `within` if there is one; with `check` it must succeed."""
    command = [*within, PROGRAM, *map(os.fspath, arguments)]
    # Paths may have any bytes.
    options = {"stdin": subprocess.DEVNULL, "errors": "surrogateescape", **options}
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, **options)
    if check and done.returncode != 0:
        raise AssertionError(f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done


shown: list[Mount] = []
"""The mounts of this process whose logs belong to a failure now: those in use, and those that this test tore down."""


def logs_shown() -> list[tuple[str, str]]:
    """(title, the last lines) of the log of each mount in `shown`."""
    return [(f"log of {mount.path}", mount.end_of_log()) for mount in shown]


def forget_torn_down() -> None:
    """Leave mounts that are no more out of `shown`."""
    shown[:] = [mount for mount in shown if not mount.is_torn_down]


class Mount:
    """A store and where it is mounted. `mount()` again after `umount()` or `kill9()` goes on with the same state."""

    def __init__(self, directory: Path, store: str | os.PathLike[str] | None = None, *, driver: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.store = os.fspath(store if store is not None else directory / "store")
        self.path = directory / "mnt"
        self.path.mkdir(exist_ok=True)
        self.state_dir = directory / "state"
        self.cache_dir = directory / "cache"
        self.driver = driver
        self.within: Sequence[str] = ()
        """A command that runs ``artifactfs mount``, and so the daemon, somewhere else."""
        self.arguments: list[str] = []
        self._expected: list[re.Pattern[str]] = []
        self._daemons: list[Process] = []
        self._last_log: str | None = None
        shown.append(self)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    # -- life ----------------------------------------------------------------------------------------------------------

    def mount(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``artifactfs mount``; without arguments those of the mount before are used again."""
        self._last_log = None
        if arguments:
            self.arguments = list(arguments)
        common = ["--driver", self.driver, "--state-dir", str(self.state_dir), "--cache-dir", str(self.cache_dir), "-v"]
        done = artifactfs("mount", self.store, self.path, *common, *self.arguments, check=check, within=self.within)
        if done.returncode == 0:
            self._daemons.append(self.daemon)
        return done

    @property
    def daemon(self) -> Process:
        """The daemon's process, as its record tells."""
        record = mounts.read_record(self.state_dir, self.path)
        assert record is not None, f"there is no record of {self.path}"
        return record.daemon

    def is_mounted(self) -> bool:
        """Whether the mount table has it, dead or alive."""
        return mounts.entry_at(self.path) is not None

    def umount(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``artifactfs umount``; with ``--now`` something may be left."""
        done = artifactfs("umount", self.path, "--state-dir", self.state_dir, *arguments, check=False)
        if check and done.returncode != 0 and not ("--now" in arguments and done.returncode == LEFT):
            raise AssertionError(f"umount ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def kill9(self) -> None:
        """Kill the daemon; the dead mountpoint stays."""
        daemon = self.daemon
        daemon.send(signal.SIGKILL)
        assert daemon.wait_gone(EVENTUALLY_S)

    def remount(self, *arguments: str) -> None:
        """Unmount without draining and mount again."""
        self.umount("--now")
        self.mount(*arguments)

    # -- asking and acting ---------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """What the mount says of itself."""
        return client.read_status(self.path)

    def state(self, label: str) -> ArtifactState:
        """What is staged, pending and finished of ``collection/artifact``."""
        return client.read_state(self.path / label / "staging")

    def make(self, label: str) -> Path:
        """The staging directory of a new artifact."""
        (self.path / label).mkdir(parents=True)
        return self.path / label / "staging"

    def commit(self, label: str, *arguments: str, cwd: Path | None = None) -> dict[str, Any]:
        """Run ``artifactfs commit --json``; returns what it prints."""
        done = artifactfs("commit", self.path / label, "--json", *arguments, cwd=cwd)
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def committed(self, label: str, version: str, timeout_s: float = EVENTUALLY_S) -> Path:
        """Wait for a version that an automatic commit makes; returns its directory."""
        path = self.path / label / version
        eventually(path.is_dir, timeout_s, f"{path} to appear")
        return path

    # -- the log -------------------------------------------------------------------------------------------------------

    @property
    def log_file(self) -> Path:
        """Where the daemon logs."""
        return logs.log_file(self.state_dir, self.path)

    def log(self) -> str:
        """Everything logged so far."""
        if self._last_log is not None:
            return self._last_log
        try:
            return self.log_file.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def end_of_log(self) -> str:
        """What a person reads of it first."""
        return "\n".join(self.log().splitlines()[-_LOG_LINES_SHOWN:])

    def expect_warning(self, pattern: str) -> None:
        """Lines of the log that match are no failure."""
        self._expected.append(re.compile(pattern))

    def alarming_lines(self) -> list[str]:
        """Lines that an operator should look at and the test did not announce."""
        lines = [line for line in self.log().splitlines() if _ALARMING.match(line)]
        return [line for line in lines if not any(pattern.search(line) for pattern in self._expected)]

    # -- the end -------------------------------------------------------------------------------------------------------

    def tear_down(self) -> list[str]:
        """Leave nothing behind; returns what was wrong."""
        wrong: list[str] = []
        if self.is_mounted() and client.liveness(self.path, 10.0) is client.Liveness.ANSWERS:
            done = self.umount("--now", check=False)
            if done.returncode not in (0, LEFT):
                wrong.append(f"umount at the end of the test: {done.stderr}")
        daemons = [daemon for daemon in self._all_daemons() if daemon.is_alive()]
        for daemon in daemons:
            wrong.append(f"daemon {daemon.pid} was left over")
            daemon.send(signal.SIGKILL)
            daemon.wait_gone(EVENTUALLY_S)
        while self.is_mounted():
            mounts.unmount(self.path, lazy=True)
        wrong += [f"in the log: {line}" for line in self.alarming_lines()]
        # Its directory may go before a failure is shown.
        self._last_log = self.log()
        return wrong

    @property
    def is_torn_down(self) -> bool:
        """Whether nothing is left of it but its log."""
        return self._last_log is not None

    def _all_daemons(self) -> Iterator[Process]:
        yield from self._daemons
        # One that never became ready left no record: it is known by its open log.
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if name.isdigit() and os.path.samefile(f"/proc/{name}/fd/2", self.log_file):
                    process = Process.of(int(name))
                    if process is not None and process not in self._daemons:
                        yield process


def run(*command: str | os.PathLike[str], cwd: Path | None = None) -> str:
    """The output of a real program, which must succeed."""
    done = subprocess.run(
        list(map(os.fspath, command)), cwd=cwd, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@contextlib.contextmanager
def held(staging: Path) -> Iterator[None]:
    """Nothing is committed by itself meanwhile (C1), however long this machine pauses between two steps.

    The file that is held open for that is in no version (C9).
    """
    with open(staging / "held.swp", "w"):
        yield


def same_tree(left: Path, right: Path, *options: str) -> None:
    """Fails, showing the difference, unless two trees have the same names and contents."""
    arguments: Sequence[str | os.PathLike[str]] = ["diff", "-r", "--no-dereference", *options, left, right]
    done = subprocess.run(list(map(os.fspath, arguments)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
