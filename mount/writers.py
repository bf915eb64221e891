"""Who wrote what is staged, and what their ends mean for it: nothing more will come, or it may be incomplete.

**Who counts.** A process that changed something in staging, and, because a program often writes through its children,
the leader of its job (process group) and of its session, if it was alive at that time: when ``make`` fails, or the
script of a batch job, what its children wrote is not all there is to come. What a person types commands into (the
leader of a session with a terminal) is no such leader, and may end as it likes.

**What is a failure.** To be killed by a signal, to end with another status than 0, or to be told an error for a change.
Three ends look like one and are none: status 1 of a program that answers with it (`_ANSWERS`), such as
``diff a b > staging/report``; the same status of a shell or a leader, which passed such an answer on; and SIGPIPE of a
leader that wrote nothing itself (``seq 1000000 | head > staging/first``). A writer that is unknown, or ended in an
unknown way, is no failure, but nothing is concluded from its end.

Neighbours: `endings` watches processes, `staging` keeps one `Writers` for each writable tree and holds the tree. Pure
bookkeeping, without I/O. Threading: not safe; every call is made with the lock of the artifact's staging held.
"""

from __future__ import annotations

import signal

from mount.endings import SHELLS, Ending, Watched

_ANSWERS = frozenset(
    ["cmp", "colordiff", "diff", "diff3", "egrep", "fgrep", "grep", "rg", "sdiff", "zcmp", "zdiff", "zgrep"]
)
_STATUS_1 = 1 << 8


class _Writer:
    __slots__ = ("process", "wrote")

    def __init__(self, process: Watched) -> None:
        self.process = process
        self.wrote = False


class Writers:
    """Those who wrote into one staging since it was last sealed."""

    def __init__(self) -> None:
        self._has_written = False
        self._has_unknown = False
        self._last: Watched | None = None
        self._transactions: set[Watched] = set()
        self._living: dict[Watched, _Writer] = {}
        self._sessions: set[int] = set()
        self._starts: dict[int, float] = {}
        # By job: the commands that failed in it, and were not run again since.
        self._spoiled: dict[int, set[bytes]] = {}
        self._answered: dict[int, int] = {}
        self._held_since: float | None = None

    # -- what happens -------------------------------------------------------------------------------------------------

    def wrote(self, process: Watched) -> bool:
        """A process changes something; returns whether it does so for the first time."""
        self._has_written = True
        writer = self._living.get(process) or self._add(process)
        is_new = not writer.wrote
        writer.wrote = True
        self._last = process
        return is_new

    def leads(self, process: Watched) -> bool:
        """A process leads the job or the session of one that wrote; returns whether it is new here."""
        if process in self._living:
            return False
        self._add(process)
        return True

    def commits_itself(self, process: Watched) -> None:
        """A program makes one version of all that is written until it commits: see `waits_for_commit`."""
        self.leads(process)
        self._transactions.add(process)

    def _add(self, process: Watched) -> _Writer:
        writer = self._living[process] = _Writer(process)
        self._sessions.add(process.session)
        self._starts[process.group] = min(process.start_s, self._starts.get(process.group, process.start_s))
        return writer

    def wrote_unseen(self) -> None:
        """Somebody who cannot be watched, such as a process of another pid namespace, changes something."""
        self._has_written = self._has_unknown = True

    def was_told(self, process: Watched | None, error: str, last_written: str) -> str:
        """A process was told an error for a change; returns why that makes what is staged wait."""
        if process is not None:
            self._spoil(process)
        who = "a program" if process is None else process
        return f"{who} was told {error!r}{_about(last_written)}"

    def ended(self, process: Watched, ending: Ending, last_written: str) -> str | None:
        """A process has ended; returns why that makes what is staged wait, if it does.

        `last_written` is the path of the file that was opened for writing last, by whom ever.
        """
        writer = self._living.pop(process, None)
        if writer is None:
            return None
        if ending.status is None:
            self._has_unknown = self._has_unknown or writer.wrote
            return None
        if not self._failed(writer, ending):
            return None
        is_news = process.group not in self._spoiled
        self._spoil(process)
        if not is_news:
            return None
        return f"{process} {ending}{_about(last_written if self._last is process else '')}"

    def _spoil(self, process: Watched) -> None:
        self._spoiled.setdefault(process.group, set()).add(process.command)

    def _failed(self, writer: _Writer, ending: Ending) -> bool:
        process = writer.process
        if ending.went_well or process.leads_at_terminal:
            return False
        if ending.status == _STATUS_1 and process.name in _ANSWERS:
            self._answered[process.group] = ending.status
            return False
        if ending.signal == signal.SIGPIPE and not writer.wrote:
            return False
        # A shell may have opened the file that its command wrote to.
        passes_on = process.name in SHELLS or not writer.wrote
        return not (passes_on and ending.status == self._answered.get(process.group))

    # -- holding ------------------------------------------------------------------------------------------------------

    def held(self, now_s: float) -> None:
        """Note that staging is held since `now_s` (CLOCK_BOOTTIME): what was under way then does not release it."""
        self._held_since = now_s

    def released(self) -> None:
        """The hold is over: what failed before it counts no more."""
        self._held_since = None
        self._spoiled.clear()

    def releases(self, process: Watched) -> bool:
        """Tell whether the hold is over because a process that has just ended well made up for it.

        It began after what made the hold necessary. Its job is another than that which failed, and everybody in it that
        is known here has ended well. Or it is the same job, such as that of a notebook, and the command that failed
        there was run again, anew: a fork of the same program, such as its next worker, goes on with other work.
        """
        since, group = self._held_since, process.group
        if since is None or process.start_s <= since or not self._has_written:
            return False
        failed = self._spoiled.get(group)
        if failed is not None:
            if process.run_start_s > since:
                failed.discard(process.command or b"?")
            return not failed
        return self._starts.get(group, 0.0) > since and not any(living.group == group for living in self._living)

    # -- questions ----------------------------------------------------------------------------------------------------

    @property
    def have_failed(self) -> bool:
        """Tell whether a failure has not been made up for."""
        return bool(self._spoiled)

    @property
    def failed_live_on(self) -> bool:
        """Tell whether somebody lives in a job that failed."""
        return any(living.group in self._spoiled for living in self._living)

    @property
    def waits_for_commit(self) -> bool:
        """Tell whether a program lives that commits what is staged itself."""
        return not self._transactions.isdisjoint(self._living)

    @property
    def living(self) -> list[Watched]:
        """The processes that may go on writing, leaders included."""
        return list(self._living)

    @property
    def sessions(self) -> set[int]:
        """The sessions of all who wrote."""
        return set(self._sessions)

    @property
    def all_have_ended(self) -> bool:
        """Tell whether everybody who wrote was watched, and has ended with status 0 or an answer."""
        return self._has_written and not self._has_unknown and not self._living and not self._spoiled

    def describe(self) -> list[str]:
        """The writers that have not ended: ``cp (pid 4711)``; those who wrote themselves come first."""
        ordered = sorted(self._living.values(), key=lambda writer: (not writer.wrote, writer.process.pid))
        return [str(writer.process) for writer in ordered]


def _about(path: str) -> str:
    return f" while writing {path}" if path else ""
