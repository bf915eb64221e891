"""Processes seen from outside: which job and session they belong to, when they end, and how.

Each process that is watched is held by a pidfd, so a number that the system gives away again is never mistaken for it.
How it ended is told by the kernel, in this order:

* Linux 6.15 and newer: `PIDFD_GET_INFO` with `PIDFD_INFO_EXIT` on the pidfd, once the process has been reaped, whoever
  its parent is (include/uapi/linux/pidfd.h).
* The exit code in ``/proc/PID/stat`` (proc_pid_stat(5), field 52) while the process is a zombie, and at the FLUSH of a
  file that it has open when it ends. The kernel shows it to root and to the same user.
* Otherwise it is unknown: `Ending.status` is None.

Neighbours: `writers` decides what an ending means. Threading: a `Watch` is safe from any thread; it calls back from one
thread of its own, with no lock held. `_lock` is a leaf.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import select
import signal
import stat as modes
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from mount.descriptors import OwnedFd
from mount.processes import stat_of

logger = logging.getLogger(__name__)

_PIDFD_GET_INFO = 3 << 30 | 64 << 16 | 0xFF << 8 | 11
_PIDFD_INFO_EXIT = 1 << 3
_INFO_BYTES = 64
_EXIT_CODE_AT = 60

_PIDFD_TELLS_SINCE = (6, 15)

_PF_EXITING = 0x4
_PF_FORKNOEXEC = 0x40
_CAP_SYS_PTRACE = 19

# What they run in a child with its output in a file has opened that file while it was still the shell.
SHELLS = frozenset(("ash", "bash", "busybox", "dash", "fish", "ksh", "sh", "zsh"))

_LOOK_AGAIN_S = 0.05
# How long a process that has ended may wait for its parent; then it counts as ended in an unknown way.
_REAPED_WITHIN_S = 1.0


class Ending(NamedTuple):
    """The end of a process. `status` is that of wait(2); None when nothing told it."""

    status: int | None

    @property
    def went_well(self) -> bool:
        """Tell whether it is known to have ended with status 0."""
        return self.status == 0

    @property
    def signal(self) -> int:
        """The number of the signal that killed it; 0 when none did."""
        return 0 if self.status is None else self.status & 0x7F

    @property
    def exit_status(self) -> int | None:
        """The status it gave to exit(3); None when it was killed, or nothing told."""
        return None if self.status is None or self.signal else self.status >> 8 & 0xFF

    def __str__(self) -> str:
        if self.status is None:
            return "ended in an unknown way"
        if self.signal:
            try:
                return f"was killed by {signal.Signals(self.signal).name}"
            except ValueError:
                return f"was killed by signal {self.signal}"
        return f"ended with status {self.exit_status}"


class ProcessStat(NamedTuple):
    """The facts that ``/proc/PID/stat`` tells of a process. `group` is its job, `session` that of setsid(2).

    `exit_status` is in the form of wait(2), and means something only when `is_ending` or `has_ended`.
    """

    pid: int
    name: str
    group: int
    session: int
    has_terminal: bool
    is_ending: bool
    has_ended: bool
    start_ticks: int
    exit_status: int
    parent: int = 0
    is_fork: bool = False
    """It runs what its parent ran: it has not called execve(2)."""

    @property
    def leads_at_terminal(self) -> bool:
        """Tell whether it is what a person types commands into: the leader of a session with a terminal."""
        return self.pid == self.session and self.has_terminal


def read_stat(pid: int) -> ProcessStat | None:
    """The facts known of the process with this number; None when there is none."""
    found = stat_of(pid)
    if found is None:
        return None
    name, fields = found
    return ProcessStat(
        pid,
        name,
        int(fields[2]),
        int(fields[3]),
        fields[4] != b"0",
        bool(int(fields[6]) & _PF_EXITING),
        # The first thread may end before the others do: then it is shown as a zombie too, of a process that goes on.
        fields[0] in (b"Z", b"X") and int(fields[17]) <= 1,
        int(fields[19]),
        int(fields[49]),
        int(fields[1]),
        bool(int(fields[6]) & _PF_FORKNOEXEC),
    )


def is_there(process: ProcessStat) -> bool:
    """Tell whether a process that was seen has not ended."""
    now = read_stat(process.pid)
    return now is not None and now.start_ticks == process.start_ticks and not now.has_ended


def read_command(pid: int) -> bytes:
    """A digest of what a process does: two that have the same one do the same, as far as can be told.

    It is of the arguments, the environment, the working directory, what is read from, and the file that output goes to.
    Empty when the process has ended or may not be looked at.
    """
    digest = hashlib.blake2b(digest_size=16)
    process = f"/proc/{pid}"
    try:
        for name in ("cmdline", "environ"):
            with open(f"{process}/{name}", "rb") as file:
                digest.update(file.read() + b"\0\n")
        digest.update(os.fsencode(os.readlink(f"{process}/cwd")) + b"\0")
        for fd in sorted(os.listdir(f"{process}/fd"), key=int):
            # It may go on meanwhile, and close what it reads.
            with suppress(FileNotFoundError):
                digest.update(_source(process, fd))
    except OSError:
        return b""
    return digest.digest()


def _source(process: str, fd: str) -> bytes:
    """The bytes that a descriptor adds to the digest of `read_command`. Raises OSError."""
    place = f"{process}/fd/{fd}"
    target = os.readlink(place)
    # What comes by a pipe (input of a filter, work of a worker) is not known, and each run has another pipe.
    is_input = target.startswith("pipe:") and modes.S_IMODE(os.lstat(place).st_mode) & 0o600 == modes.S_IRUSR
    is_told = fd == "0" or is_input or (fd == "1" and target.startswith("/"))
    return os.fsencode(f"{fd} {target}\0") if is_told else b""


def run_of(process: ProcessStat) -> ProcessStat | None:
    """The process that began what `process` runs, by execve(2): itself, or one that it was forked from.

    None when that has ended, or runs something else now.
    """
    found = process
    while found.is_fork:
        above = read_stat(found.parent)
        if above is None or above.start_ticks > found.start_ticks or above.pid <= 1:
            return None
        found = above
    return found if found is process or _arguments(found.pid) == _arguments(process.pid) else None


def _arguments(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as command:
            return command.read()
    except OSError:
        return b""


def process_of(thread: int) -> int | None:
    """The process that a thread belongs to; None when there is no such thread.

    The header of a FUSE request tells the thread.
    """
    try:
        return int(_status_lines(thread, b"Tgid:")[0])
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return None


def is_thread_of(pid: int, thread: int) -> bool:
    """Tell whether a process has that thread."""
    return pid == thread or os.access(f"/proc/{pid}/task/{thread}", os.F_OK)


def sees_everybody() -> bool:
    """Tell whether processes of other users are visible: ``/proc`` may be mounted with hidepid (proc(5))."""
    return os.path.exists("/proc/1")


def session_members(session: int) -> Iterator[ProcessStat]:
    """The processes of a session that have not ended, this one left out."""
    mine = os.getpid()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != mine:
            found = read_stat(int(name))
            if found is not None and found.session == session and not found.has_ended:
                yield found


Listener = Callable[["Watched", Ending], None]


class Watched:
    """A process that is watched until its end. `name` is what it was last seen to run: a shell becomes its command."""

    def __init__(
        self, stat: ProcessStat, command: bytes, pidfd: OwnedFd, *, may_look: bool, run_ticks: int | None = None
    ) -> None:
        """`run_ticks`: when what it runs began, if that was in a process that it was forked from."""
        self.pid = stat.pid
        self.name = stat.name
        self.command = command
        """The digest of `read_command`; empty when nothing tells it, and for a shell: it becomes its command later."""
        self.group = stat.group
        self.session = stat.session
        self.start_ticks = stat.start_ticks
        self._run_ticks = stat.start_ticks if run_ticks is None else run_ticks
        self.leads_at_terminal = stat.leads_at_terminal
        self.listeners: set[Listener] = set()
        self.ending: Ending | None = None
        """The way it ended; None until then."""
        self._pidfd = pidfd
        # The kernel shows 0 in place of the exit code to who may not look.
        self._may_look = may_look
        self._last_flush: int | None = None

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"

    @property
    def start_s(self) -> float:
        """When it began, in seconds since the machine did, rounded down to a tick (CLOCK_BOOTTIME)."""
        return self.start_ticks / os.sysconf("SC_CLK_TCK")

    @property
    def run_start_s(self) -> float:
        """When what it runs began: a fork goes on with what its parent does, and does nothing again."""
        return self._run_ticks / os.sysconf("SC_CLK_TCK")

    def look(self) -> ProcessStat | None:
        """Look at it once more: at its name, and at its status when it is about to end. None when it is gone."""
        stat = read_stat(self.pid)
        if stat is None or stat.start_ticks != self.start_ticks:
            return None
        self.name = stat.name
        if stat.is_ending and self._may_look:
            self._last_flush = stat.exit_status
        return stat

    def ending_now(self, *, asks_pidfd: bool) -> Ending | None:
        """The way it ended, once its pidfd is readable; None when that may still be told later."""
        stat = self.look()
        if stat is not None:
            return Ending(stat.exit_status) if stat.has_ended and self._may_look else None
        if asks_pidfd:
            try:
                is_told, status = _info(self._pidfd)
            except OSError:
                is_told = False
            if is_told:
                return Ending(status)
        return Ending(self._last_flush)


class Watch:
    """The processes that are watched.

    `asks_pidfd`: ask for `PIDFD_INFO_EXIT`; off, everything goes as on a kernel before Linux 6.15.
    """

    def __init__(self, *, asks_pidfd: bool = True) -> None:
        self._asks_pidfd = asks_pidfd
        self._tells_reaped = asks_pidfd and _kernel_version() >= _PIDFD_TELLS_SINCE
        self._lock = threading.Lock()
        self._by_pid: dict[int, Watched] = {}
        self._threads: dict[int, Watched] = {}
        self._by_pidfd: dict[int, Watched] = {}
        # Those that have ended in a way not told yet, and until when it is waited for.
        self._ending: dict[Watched, float] = {}
        self._epoll = select.epoll()
        self._wake = OwnedFd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        self._epoll.register(self._wake, select.EPOLLIN)
        self._closing = False

    def run(self) -> None:
        """Watch until `close`: the body of the thread."""
        while not self._closing:
            timeout = _LOOK_AGAIN_S if self._ending else None
            for number, _ in self._epoll.poll(timeout):
                watched = self._by_pidfd.get(number)
                if watched is not None:
                    self._epoll.unregister(number)
                    self._ending[watched] = time.monotonic() + _REAPED_WITHIN_S
            for watched, until in list(self._ending.items()):
                ending = watched.ending_now(asks_pidfd=self._asks_pidfd)
                if ending is None and time.monotonic() >= until:
                    ending = Ending(watched._last_flush)
                if ending is not None:
                    del self._ending[watched]
                    self._ended(watched, ending)

    def close(self) -> None:
        """End `run`."""
        self._closing = True
        os.eventfd_write(self._wake, 1)

    def tell(self, process: Watched, listener: Listener) -> None:
        """Call `listener` once when the process has ended, at once when it has already."""
        with self._lock:
            if process.ending is None:
                process.listeners.add(listener)
                return
        listener(process, process.ending)

    def of_thread(self, thread: int) -> Watched | None:
        """The process that a thread belongs to, watched from here on.

        None when it cannot be told: 0 stands for a process of another pid namespace, and the thread may have ended.
        """
        watched = self._by_pid.get(thread)
        if watched is not None:
            return watched
        watched = self._threads.get(thread)
        if watched is not None and watched.ending is None and is_thread_of(watched.pid, thread):
            return watched
        pid = process_of(thread) if thread > 0 else None
        watched = None if pid is None else self.of(pid)
        if watched is not None and pid != thread:
            with self._lock:
                if watched.ending is None:
                    self._threads[thread] = watched
        return watched

    def closes(self, thread: int) -> None:
        """A thread closes a file: it may be ending, and this may be the last that is seen of it."""
        process = self._by_pid.get(thread) or self._threads.get(thread)
        if process is not None and (not self._tells_reaped or process.name in SHELLS):
            process.look()

    def of(self, pid: int, start_ticks: int | None = None) -> Watched | None:
        """The process with that number, watched from here on; None when it has ended, or began at another time."""
        with self._lock:
            watched = self._by_pid.get(pid)
            if watched is None:
                watched = self._begun(pid)
            return watched if watched is None or start_ticks in (None, watched.start_ticks) else None

    def _begun(self, pid: int) -> Watched | None:
        try:
            pidfd = OwnedFd(os.pidfd_open(pid))
        except OSError:
            # It has ended, it is no process (a thread), or there is no descriptor left: nothing is known of it.
            return None
        # Looked at after opening: from here on the number cannot pass to another process unseen.
        stat = read_stat(pid)
        if stat is None or stat.has_ended:
            return None
        run = None if stat.name in SHELLS else run_of(stat)
        watched = Watched(
            stat,
            b"" if run is None else read_command(run.pid),
            pidfd,
            may_look=_may_look_at(pid),
            run_ticks=None if run is None else run.start_ticks,
        )
        self._by_pid[pid] = watched
        self._by_pidfd[int(pidfd)] = watched
        self._epoll.register(pidfd, select.EPOLLIN)
        return watched

    def _ended(self, watched: Watched, ending: Ending) -> None:
        with self._lock:
            watched.ending = ending
            listeners = list(watched.listeners)
            self._by_pid.pop(watched.pid, None)
            self._by_pidfd.pop(int(watched._pidfd), None)
            for thread in [thread for thread, of in self._threads.items() if of is watched]:
                del self._threads[thread]
        for listener in listeners:
            try:
                listener(watched, ending)
            except Exception:
                logger.exception("%s %s, and what that means could not be noted", watched, ending)


def _kernel_version() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])


def _info(pidfd: int) -> tuple[bool, int]:
    """(whether the kernel told, the exit status). Raises OSError when it is too old, or the process not reaped."""
    buffer = bytearray(_INFO_BYTES)
    buffer[0:8] = _PIDFD_INFO_EXIT.to_bytes(8, sys.byteorder)
    fcntl.ioctl(pidfd, _PIDFD_GET_INFO, buffer)
    is_told = bool(int.from_bytes(buffer[0:8], sys.byteorder) & _PIDFD_INFO_EXIT)
    return is_told, int.from_bytes(buffer[_EXIT_CODE_AT:_INFO_BYTES], sys.byteorder, signed=True)


def _may_look_at(pid: int) -> bool:
    """Tell whether the kernel shows us the exit code of that process: to its own user, and to who may trace it."""
    try:
        ids = _status_lines(pid, b"Uid:", b"Gid:")
        capabilities = int(_status_lines(os.getpid(), b"CapEff:")[0].split()[0], 16)
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return False
    own = (os.geteuid(), os.getegid())
    is_own = all(set(map(int, line.split()[:3])) == {mine} for line, mine in zip(ids, own, strict=True))
    return is_own or bool(capabilities >> _CAP_SYS_PTRACE & 1)


def _status_lines(pid: int, *names: bytes) -> list[bytes]:
    with open(f"/proc/{pid}/status", "rb") as status:
        lines = [line.split(b":", 1) for line in status]
    return [value for name, value in lines if name + b":" in names]
