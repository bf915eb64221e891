"""The writers of one staged tree, watched until they end, with a note on disk of those who have not.

The note is what a daemon that is killed leaves behind: whoever was writing then was told an error, and how it ended
nobody saw. It is a file beside the tree, to which a line is appended when a writer is first seen and when it ends.

Neighbours: `endings` watches the processes, `writers` judges, `staging` holds what failed and the committer asks
`left_by_all`. Threading: safe from any thread. `lock` is that of the artifact's staging; see there for the order.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from artifactfs import durable
from mount.control import Hold, printable
from mount.endings import Ending, Listener, Watch, Watched, is_there, sees_everybody, session_members
from mount.errno_map import errno_of, is_failure_to_keep
from mount.writers import Writers

logger = logging.getLogger(__name__)


class _Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the note."""

    pid: int
    start_ticks: int
    name: str = ""
    wrote: bool = False
    commits_itself: bool = False
    ended: bool = False
    hold: Hold | None = None
    released: bool = False


class WatchedWriters:
    """See the module docstring."""

    def __init__(self, note: Path, watch: Watch, lock: threading.Condition, on_end: Listener) -> None:
        """`on_end` is told of the end of each writer, and of others that `left_by_all` waits for."""
        self._note = note
        self._watch = watch
        self._on_end = on_end
        self._lock = lock
        self._writers = Writers()
        self._waits_for: Watched | None = None

    # -- what happens -------------------------------------------------------------------------------------------------

    def wrote(self, thread: int) -> Watched | None:
        """A thread is about to change something; returns its process, unless that cannot be seen."""
        process = self._watch.of_thread(thread)
        if process is None:
            with self._lock:
                self._writers.wrote_unseen()
            return None
        with self._lock:
            if not self._writers.wrote(process):
                return process
            self._append(process, wrote=True)
        self._watch.tell(process, self._on_end)
        for leader in self._leaders(process):
            with self._lock:
                if not self._writers.leads(leader):
                    continue
                self._append(leader)
            self._watch.tell(leader, self._on_end)
        return process

    def commits_itself(self, thread: int) -> bool:
        """A program has what is staged wait until it commits it or ends; False when it cannot be seen."""
        process = self._watch.of_thread(thread)
        if process is None:
            return False
        with self._lock:
            self._writers.commits_itself(process)
            self._append(process, commits_itself=True)
        self._watch.tell(process, self._on_end)
        return True

    def _leaders(self, process: Watched) -> list[Watched]:
        found = []
        for pid in {process.group, process.session} - {process.pid, 0}:
            leader = self._watch.of(pid)
            if leader is not None and leader.session == process.session and not leader.leads_at_terminal:
                found.append(leader)
        return found

    def closes(self, thread: int) -> None:
        """Call `Watch.closes`."""
        self._watch.closes(thread)

    def was_told(self, thread: int, error: Exception, last_written: str) -> str | None:
        """A thread is told an error for a change; returns why that makes what is staged wait, if it does."""
        if not is_failure_to_keep(error):
            return None
        process = self._watch.of_thread(thread)
        with self._lock:
            return self._writers.was_told(process, os.strerror(errno_of(error)), last_written)

    def ended(self, process: Watched, ending: Ending, last_written: str) -> str | None:
        """Call `Writers.ended`."""
        with self._lock:
            return self._writers.ended(process, ending, last_written)

    def note_end(self, process: Watched) -> None:
        """Note the end of a process, once what it means is on disk."""
        with self._lock:
            if self._note.exists():
                self._append(process, ended=True)

    def note_hold(self, hold: Hold) -> None:
        """Note a hold here, where there is room for a line although the disk has none for a file. Raises OSError.

        No lock is taken: a line is written by one system call.
        """
        self._write(_Line(0, 0, hold=hold), os.O_WRONLY)

    def noted_hold(self) -> Hold | None:
        """The hold that was noted here and not released. Raises OSError."""
        hold = None
        for line in _lines(self._note):
            hold = None if line.released else line.hold or hold
        return hold

    def _append(
        self, process: Watched, *, wrote: bool = False, commits_itself: bool = False, ended: bool = False
    ) -> None:
        if process.leads_at_terminal and not commits_itself:
            return
        line = _Line(process.pid, process.start_ticks, printable(process.name), wrote, commits_itself, ended)
        try:
            try:
                self._write(line, os.O_WRONLY | os.O_CREAT)
            except FileNotFoundError:
                self._note.parent.mkdir(parents=True, exist_ok=True)
                self._write(line, os.O_WRONLY | os.O_CREAT)
        except OSError as error:
            # The change goes on: on a full disk it may be the removal that makes room.
            logger.warning("cannot note on disk who writes: %s", error)

    def _write(self, line: _Line, flags: int) -> None:
        fd = os.open(self._note, flags | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            durable.write_all(fd, msgspec.json.encode(line) + b"\n")
        finally:
            os.close(fd)

    def recover(self) -> list[str]:
        """Go on watching who wrote for an earlier daemon; returns those who ended meanwhile, unseen. Raises OSError."""
        unseen = []
        for line in _living(self._note):
            process = self._watch.of(line.pid, line.start_ticks)
            if process is None:
                unseen.append(f"{line.name} (pid {line.pid})")
                continue
            with self._lock:
                if line.commits_itself:
                    self._writers.commits_itself(process)
                elif line.wrote:
                    self._writers.wrote(process)
                else:
                    self._writers.leads(process)
            self._watch.tell(process, self._on_end)
        return unseen

    def forget(self) -> None:
        """Nothing is staged: who wrote does not matter any more. Raises OSError."""
        with self._lock:
            self._writers = Writers()
            self._waits_for = None
            self._note.unlink(missing_ok=True)

    # -- holding ------------------------------------------------------------------------------------------------------

    def held(self) -> None:
        """Note that staging is held from here on: jobs that run already do not release it."""
        with self._lock:
            self._writers.held(_since_boot_s())

    def released(self) -> None:
        """Call `Writers.released`, and note it on disk. Raises OSError."""
        with self._lock:
            self._writers.released()
            if self.noted_hold() is not None:
                self._write(_Line(0, 0, released=True), os.O_WRONLY)

    def releases(self, process: Watched) -> bool:
        """Call `Writers.releases`."""
        with self._lock:
            return self._writers.releases(process)

    # -- questions ----------------------------------------------------------------------------------------------------

    @property
    def have_failed(self) -> bool:
        """The answer of `Writers.have_failed`."""
        with self._lock:
            return self._writers.have_failed

    @property
    def failed_live_on(self) -> bool:
        """The answer of `Writers.failed_live_on`."""
        with self._lock:
            return self._writers.failed_live_on

    @property
    def waits_for_commit(self) -> bool:
        """Tell whether a program lives that commits what is staged itself."""
        with self._lock:
            return self._writers.waits_for_commit

    def left_by_all(self) -> bool:
        """Tell whether nobody is left who could go on: all who wrote ended well, and all of their sessions have ended.

        False where processes of other users are hidden. Looks at all processes of the machine when those who wrote have
        ended, and then once for each that was found.
        """
        with self._lock:
            if not self._writers.all_have_ended:
                return False
            sessions = self._writers.sessions
        if self._waits_for is not None and self._waits_for.ending is None:
            return False
        if not sees_everybody():
            return False
        for session in sessions:
            for member in session_members(session):
                self._waits_for = self._watch.of(member.pid, member.start_ticks)
                if self._waits_for is not None:
                    self._watch.tell(self._waits_for, self._on_end)
                    return False
                if is_there(member):
                    # There is no descriptor for it: the quiet time decides.
                    return False
        return True

    def have_all_ended(self) -> bool:
        """Tell, without a look at their sessions, whether all who wrote have ended well: nobody came since."""
        with self._lock:
            return self._writers.all_have_ended

    def may_go_on(self) -> bool:
        """Tell whether a program lives that may be in the middle of writing: a prompt may not."""
        with self._lock:
            return any(not process.leads_at_terminal for process in self._writers.living)

    def describe(self) -> list[str]:
        """The answer of `Writers.describe`, in characters that can be printed."""
        with self._lock:
            return [printable(who) for who in self._writers.describe()]


def _since_boot_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _living(note: Path) -> list[_Line]:
    """The lines of the writers whose end is not noted. Raises OSError."""
    found: dict[tuple[int, int], _Line] = {}
    for line in _lines(note):
        key = line.pid, line.start_ticks
        if line.ended:
            found.pop(key, None)
        elif line.pid:
            before = found.get(key, line)
            found[key] = msgspec.structs.replace(
                line,
                wrote=line.wrote or before.wrote,
                commits_itself=line.commits_itself or before.commits_itself,
            )
    return list(found.values())


def _lines(note: Path) -> Iterator[_Line]:
    """The lines of the note; one that was cut by a full disk is passed over. Raises OSError."""
    try:
        raw = note.read_bytes()
    except FileNotFoundError:
        return
    for each in raw.splitlines():
        with suppress(msgspec.DecodeError):
            yield msgspec.json.decode(each, type=_Line)
