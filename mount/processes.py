"""Processes as the commands need them: the daemon behind a mount, and the programs that keep a mount busy.

Neighbours: `mount.mounts` keeps a `Process` in each record; `endings` asks `stat_of` too. Threading: no state, safe
from any thread.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec


def stat_of(pid: int) -> tuple[str, list[bytes]] | None:
    """(name, the fields after it) of ``/proc/PID/stat``, beginning with field 3, the state; None without a process.

    See proc_pid_stat(5).
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            before, _, after = stat.read().rpartition(b") ")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return os.fsdecode(before.partition(b" (")[2]), after.split()


class Process(msgspec.Struct, frozen=True):
    """A process that is not mistaken for a later one with the same number, nor for one before a reboot."""

    pid: int
    start_ticks: int
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has this number at present; None when there is none, or only its zombie."""
        found = stat_of(pid)
        if found is None:
            return None
        # Fields 3 (state) and 22 (start time).
        state, start_ticks = found[1][0], int(found[1][19])
        if state in (b"Z", b"X"):
            return None
        return cls(pid, start_ticks, Path("/proc/sys/kernel/random/boot_id").read_text().strip())

    def is_alive(self) -> bool:
        """Tell whether this very process runs."""
        return Process.of(self.pid) == self

    def command_line(self) -> list[str]:
        """The program and its arguments; empty when it has ended."""
        try:
            raw = Path(f"/proc/{self.pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return []
        return [os.fsdecode(argument) for argument in raw.split(b"\0")[:-1]]

    def wait_gone(self, timeout_s: float) -> bool:
        """Wait for it to end; False when it did not in that time."""
        with self._opened() as pidfd:
            if pidfd is None:
                return True
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            return bool(poll.poll(timeout_s * 1000))

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended. Raises PermissionError."""
        with self._opened() as pidfd:
            if pidfd is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, number)

    def end(self, grace_s: float) -> None:
        """Ask it to end, and kill it when it has not after `grace_s`. Raises PermissionError."""
        self.send(signal.SIGTERM)
        if not self.wait_gone(grace_s):
            self.send(signal.SIGKILL)
            self.wait_gone(grace_s)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int | None]:
        """A descriptor that stands for this process; None when it has ended."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            yield None
            return
        try:
            # Looked at after opening: from here on the number cannot pass to another process unseen.
            yield pidfd if self.is_alive() else None
        finally:
            os.close(pidfd)


def users_of(directory: Path) -> list[str]:
    """The programs that use something in a directory, as ``name (pid)``; those of other users may stay unseen."""
    mine = os.getpid()
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != mine)
    return [f"{_program(pid)} ({pid})" for pid in pids if any(_is_in(path, directory) for path in _paths_used(pid))]


def _is_in(path: str, directory: Path) -> bool:
    return path == str(directory) or path.startswith(f"{directory}/")


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return "?"


def _paths_used(pid: int) -> Iterator[str]:
    """Working directory, program, open and mapped files of a process, as far as we may see them and it lives."""
    process = f"/proc/{pid}"
    links = [f"{process}/cwd", f"{process}/root", f"{process}/exe"]
    with contextlib.suppress(OSError):
        links += [f"{process}/fd/{name}" for name in os.listdir(f"{process}/fd")]
    for link in links:
        with contextlib.suppress(OSError):
            yield os.readlink(link)
    with contextlib.suppress(OSError), open(f"{process}/maps", errors="replace") as maps:
        for line in maps:
            fields = line.rstrip("\n").split(maxsplit=5)
            if len(fields) == 6:
                yield fields[5]
