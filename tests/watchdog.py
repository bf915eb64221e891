"""A process beside each process that runs tests, which ends the drives that a test hangs on.

A thread that waits for the answer of a drive cannot be interrupted while the daemon is stopped: pytest-timeout raises
nothing in it, and the run would never end. It is let go when the daemon dies. So when a test takes longer than
`DRIVES_S`, every process that was started by the tests of this process and serves a drive is killed, again and again
until the test ends, and the test fails and says so. When that does not help within `TESTS_S`, the process that runs the
tests is killed itself, and pytest-xdist goes on with another.

Run as a program: ``watchdog.py PID``. It is told of each test by a line on its standard input, and of its end by an
empty one; what it has done it tells on its standard output.

Threading: a `Watchdog` is for the thread that runs the tests.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

DRIVES_S = 480.0
"""Less than pytest-timeout allows (`timeout` in pyproject.toml), which then shows where the test stands."""
TESTS_S = 720.0
AGAIN_S = 5.0
MARK = "ARTIFACTFS_TESTS_OF"
"""The variable by which what a process of tests starts is known, however it is started."""


class Watchdog:
    """The process that watches this one."""

    def __init__(self, drives_s: float = DRIVES_S, tests_s: float = TESTS_S) -> None:
        os.environ[MARK] = str(os.getpid())
        command = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(drives_s), str(tests_s)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._tell, self._hear = self._process.stdin, self._process.stdout
        os.set_blocking(self._hear.fileno(), False)

    @contextlib.contextmanager
    def watching(self, test: str) -> Iterator[None]:
        """Watch a test."""
        self._send(test)
        try:
            yield
        finally:
            self._send("")

    def said(self) -> str:
        """What it has done since this was asked the last time."""
        return (self._hear.read() or b"").decode(errors="replace")

    def close(self) -> None:
        """Let it end."""
        self._tell.close()
        self._process.wait()
        self._hear.close()

    def _send(self, test: str) -> None:
        self._tell.write(test.encode(errors="replace").replace(b"\n", b" ") + b"\n")
        self._tell.flush()


def _watch(tests: int, drives_s: float, tests_s: float) -> None:
    test, began, heard = b"", 0.0, b""
    look_at: float | None = None
    while True:
        timeout = None if look_at is None else max(0.0, look_at - time.monotonic())
        if select.select([0], [], [], timeout)[0]:
            if not (got := os.read(0, 65536)):
                return
            *lines, heard = (heard + got).split(b"\n")
            if lines:
                test, began = lines[-1], time.monotonic()
                look_at = began + drives_s if test else None
            continue
        took_s = time.monotonic() - began
        for pid, program in _drives(tests):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                _say(f"the test took more than {took_s:.0f} s: killed {program} ({pid}), which serves a drive")
        if took_s > tests_s:
            print(f"{test.decode()} hangs: killing its process", file=sys.stderr, flush=True)
            os.kill(tests, signal.SIGKILL)
            return
        look_at = time.monotonic() + AGAIN_S


def _say(text: str) -> None:
    # Nobody may be reading any more.
    with contextlib.suppress(OSError):
        os.write(1, f"{text}\n".encode())


def _drives(tests: int) -> Iterator[tuple[int, str]]:
    """(pid, program) of everything that was started by the tests and has a connection to the kernel's FUSE."""
    mark = f"{MARK}={tests}".encode()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == tests:
            continue
        with contextlib.suppress(OSError):
            with open(f"/proc/{name}/environ", "rb") as file:
                if mark not in file.read().split(b"\0"):
                    continue
            descriptors = f"/proc/{name}/fd"
            if any(os.readlink(f"{descriptors}/{fd}") == "/dev/fuse" for fd in os.listdir(descriptors)):
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    yield int(name), file.read().replace(b"\0", b" ").decode(errors="replace").strip()


if __name__ == "__main__":
    _watch(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
