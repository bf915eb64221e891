"""``artifactfs umount``: publish what is staged, unmount, come back when the daemon is gone, tell what is left."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from artifactfs.commands.options import PATH, seconds
from artifactfs.commands.show import count
from mount.commands import show

if TYPE_CHECKING:
    from mount.control import Pending, Staged, Status
    from mount.mounts import Record
    from mount.processes import Process

LEFT = 5
"""Exit status: it is unmounted, and something is not committed, or may not be."""
POLL_S = 0.2
ANSWER_S = 30.0
# A program that writes gets this long to close its files, and a disk to give no errors any more: else it would hold up
# the unmount for ever.
WRITERS_S = 10.0
# The daemon lets commits under way finish (mount.daemon.COMMITTER_STOP_S) before it ends.
DAEMON_END_S = 30.0
# Counting what is left takes a second for some hundred thousand files.
LOOK_S = 300.0
# An unmounted daemon ends at once, unless another mount namespace holds on to the mount: then it has to be told.
NOTICE_S = 1.0


@click.command(short_help="Unmount a store, after everything staged is committed.")
@click.argument("mountpoint", type=PATH)
@click.option("--now", is_flag=True, help="Do not wait: what is not committed waits for the next mount.")
@click.option(
    "--drain-timeout",
    type=seconds,
    metavar="SECONDS",
    help="Wait so long at most; the rest waits for the next mount.  [default: as mounted, 60]",
)
@click.option("--state-dir", type=PATH, help="The state directory given to 'artifactfs mount'.")
def umount(mountpoint: str, now: bool, drain_timeout: float | None, state_dir: str | None) -> None:
    """Unmount MOUNTPOINT, after everything staged is committed.

    Interrupting the wait leaves the store mounted. What is left uncommitted is listed with the reason, and the next
    mount of the store goes on with it: what was not committed in time, what is held or blocked, and what
    --commit-after never left for you.

    \b
    Exit status: 0 unmounted, and everything is committed; 5 unmounted, and something is left, with --now too;
    1 still mounted, such as by a program that uses it; 130 interrupted, still mounted.
    """
    from mount import client, mounts

    where = mounts.resolve(mountpoint)
    states = show.state_dir_option(state_dir)
    # Called from inside the mount, this command must not keep it busy itself.
    os.chdir("/")
    entry = mounts.entry_at(where)
    if entry is None or not entry.is_ours:
        _forget_lost(where, states, mountpoint)
        return
    record = mounts.read_record(states, where)
    try:
        status = _ask(where, now)
    except client.DeadMount:
        mounts.take_away(entry)
        mounts.remove_record(states, where)
        click.echo(f"unmounted {where}; its daemon was gone already")
        _tell_left(where, _Known.of_record(record, "its daemon was gone"))
        return
    except client.NoAnswer:
        # Whoever asked is stuck in there, this process included: a mount in use goes only lazily.
        daemon = _daemon_of(where, states, None)
        mounts.take_away(entry)
        _end_daemon(daemon)
        click.echo(f"unmounted {where}; its daemon did not answer")
        _tell_left(where, _Known.of_record(record, "its daemon did not answer"))
        return
    known = _Known.of_record(record, "umount --now did not wait")
    if status is not None:
        in_time = known.in_time
        if not now:
            timeout_s = status.drain_timeout_s if drain_timeout is None else drain_timeout
            status = _drain_or_stay(where, status, timeout_s)
            in_time = f"not committed within {timeout_s:g} s"
        known = _Known(status.staging_dir, in_time, status.commit_after_s is None, status)
    daemon = _daemon_of(where, states, status)
    _unmount(where, leave=status is not None and not status.read_only)
    _end_daemon(daemon)
    click.echo(f"unmounted {where}")
    _tell_left(where, known)


def _unmount(where: Path, *, leave: bool) -> None:
    """Unmount, with `leave` so that the daemon commits nothing more; one that stays mounted goes on committing."""
    from mount import client, mounts

    if leave:
        client.request_leave(where)
    try:
        mounts.unmount(where)
    except BaseException:
        if leave:
            # Where even this fails, what was asked for lapses by itself.
            with contextlib.suppress(OSError):
                client.request_leave(where, is_meant=False)
        raise


def _ask(where: Path, now: bool) -> Status | None:
    """The status of the mount; None when it does not tell it to us and need not (`now`).

    Raises DeadMount, ClientError; NoAnswer only with `now`.
    """
    from mount import client

    try:
        return client.read_status(where, ANSWER_S)
    except client.ClientError as error:
        if isinstance(error, client.DeadMount) or (now and isinstance(error, client.NoAnswer)):
            raise
        if now:
            click.echo(f"{error}; unmounting all the same", err=True)
            return None
        raise client.ClientError(f"{error}; umount --now does not ask") from error


def _forget_lost(where: Path, states: Path, given: str) -> None:
    """Nothing is mounted: clear the record of a daemon that was killed. Raises NotMounted when there is none."""
    from mount import mounts

    record = mounts.read_record(states, where)
    if record is None:
        raise mounts.NotMounted(f"no store is mounted on {given}; 'artifactfs status' lists the mounts")
    record.daemon.end(DAEMON_END_S)
    mounts.remove_record(states, where)
    click.echo(f"{where} was not mounted any more")
    _tell_left(where, _Known.of_record(record, "its daemon was gone"))


def _drain_or_stay(where: Path, status: Status, timeout_s: float) -> Status:
    """Wait until nothing is pending; an interruption leaves the mount as it is. Raises ClientError."""
    try:
        return _drain(where, status, timeout_s)
    except KeyboardInterrupt:
        click.echo(f"interrupted: {where} is still mounted and goes on committing", err=True)
        raise click.exceptions.Exit(130) from None


def _drain(where: Path, status: Status, timeout_s: float) -> Status:
    from mount import client

    deadline = time.monotonic() + timeout_s
    waiting_since: float | None = None
    most_bytes = 0
    with show.display() as display:
        while True:
            writing = sum(staged.open_for_writing for staged in _committed_by_itself(status))
            if any(not staged.open_for_writing for staged in _committed_by_itself(status)):
                client.request_drain(where)
                status = client.read_status(where)
            pending = [(show.label(state), tree) for state in status.artifacts for tree in state.pending]
            problems = _problems(status)
            more = bool(_committed_by_itself(status)) or bool(status.left_off) or bool(problems)
            if not (more or _may_end_well(status)) or time.monotonic() > deadline:
                return status
            waiting_since = (
                None if _may_end_well(status) or not (writing or problems) else waiting_since or time.monotonic()
            )
            if waiting_since is not None and time.monotonic() - waiting_since > WRITERS_S:
                why = f"{count(writing, 'file')} in staging open for writing; close them" if writing else problems[0]
                raise client.ClientError(f"{where} is still mounted: {why}, or use --now")
            transfer = show.Transfer.of(tree for _, tree in pending)
            most_bytes = max(most_bytes, transfer.total_bytes - transfer.done_bytes)
            # A commit that is over is not among them any more.
            done_bytes = most_bytes - (transfer.total_bytes - transfer.done_bytes)
            display.update(_doing(pending, writing), transfer._replace(done_bytes=done_bytes, total_bytes=most_bytes))
            for label, tree in pending:
                if problem := show.problem(label, tree):
                    display.note(problem)
            time.sleep(POLL_S)
            status = client.read_status(where)


def _committed_by_itself(status: Status) -> list[Staged]:
    """The stagings that are committed without a request: not what is held, filled and left so, or told ``never``."""
    return [state.staged for state in status.artifacts if state.staged and not state.staged.on_request]


def _problems(status: Status) -> list[str]:
    """The reasons why the daemon cannot look at artifacts, one line each."""
    return [f"{show.label(state)}: {state.problem}" for state in status.artifacts if state.problem]


def _may_end_well(status: Status) -> bool:
    """Tell whether waiting helps: a sealed tree that is not blocked, nor waits for one that is."""
    from mount.control import CommitState

    return any(state.pending and state.pending[0].state is not CommitState.BLOCKED for state in status.artifacts)


def _doing(pending: list[tuple[str, Pending]], writing: int) -> str:
    if pending:
        files = sum(tree.files for _, tree in pending)
        return f"committing {count(files, 'file')} in {count(len(pending), 'commit')}"
    if writing:
        return f"waiting for {count(writing, 'file')} open for writing"
    return "sealing"


def _daemon_of(where: Path, states: Path, status: Status | None) -> Process | None:
    """The daemon behind a mount; None when it runs where this process cannot see it (outside this container)."""
    from mount import mounts
    from mount.processes import Process

    record = mounts.read_record(states, where)
    if record is not None and (status is None or record.daemon.pid == status.pid):
        return record.daemon
    candidate = Process.of(status.pid) if status is not None else None
    # The number may mean another process here than in the daemon's own namespace.
    return candidate if candidate is not None and "mount.daemon" in candidate.command_line() else None


def _end_daemon(daemon: Process | None) -> None:
    """Wait for the daemon; end it where something keeps its connection alive after the unmount."""
    if daemon is None:
        click.echo("the daemon is not visible from here and was not waited for", err=True)
    elif not daemon.wait_gone(NOTICE_S):
        daemon.end(DAEMON_END_S)


@dataclass(frozen=True)
class _Known:
    """What is known of the staging of a mount that has ended.

    `staging_dir` is None for a read-only mount, "" where it is not known. `in_time` and `on_request` are those of
    `left.left_in`. `status` is the last that the mount told.
    """

    staging_dir: str | None
    in_time: str
    on_request: bool = False
    status: Status | None = None

    @classmethod
    def of_record(cls, record: Record | None, in_time: str) -> _Known:
        """From what the daemon left when it began, for one that cannot be asked."""
        return cls("" if record is None else record.staging_dir, in_time)


def _tell_left(where: Path, known: _Known) -> None:
    """List what is not committed, and why. Raises Exit when there is something, or may be."""
    left = _left(where, known)
    if not left:
        return
    click.echo("not committed, waiting for the next mount:", err=True)
    for line in left:
        click.echo(f"  {line}", err=True)
    raise click.exceptions.Exit(LEFT)


def _left(where: Path, known: _Known) -> list[str]:
    from mount import client
    from mount.areas import ARTIFACTS
    from mount.drive_paths import shown_on_drive
    from mount.left import left_in, left_of

    if known.staging_dir is None:
        return []
    area = Path(known.staging_dir)
    shown = shown_on_drive(area / ARTIFACTS, where)
    why = "where it staged is not known here"
    try:
        if known.staging_dir and client.within(ANSWER_S, area.is_dir):
            found = client.within(LOOK_S, lambda: left_in(area, known.in_time, on_request=known.on_request))
            return [show.left(replace(each, why=shown(each.why))) for each in found]
    except (client.ClientError, OSError) as error:
        why = f"{area}: {error}"
    if known.status is None:
        return [f"what it had staged, if anything: {why}"]
    # Its disk is in another container, and what it told last is all there is.
    found = left_of(known.status.artifacts, known.in_time)
    more = [f"and {count(known.status.left_off, 'further artifact')}"] if known.status.left_off else []
    return [*map(show.left, found), *more]
