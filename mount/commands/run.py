"""``artifactfs run``: run a command whose files become one version."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from artifactfs.commands.options import PATH, aliases_option, message_option
from mount.commands import show

if TYPE_CHECKING:
    from mount.client import Place

NOT_FOUND = 127
NOT_EXECUTABLE = 126
KILLED = 128
"""Exit statuses as of shells: the last with the number of the signal added."""


@click.command(short_help="Run a command whose files become one version.")
@click.argument("path", type=PATH)
@message_option
@aliases_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(path: str, message: str, aliases: tuple[str, ...], command: tuple[str, ...]) -> None:
    """Run COMMAND, and commit what is staged for the artifact that PATH belongs to when it ends with status 0.

    Write it as 'artifactfs run PATH -- COMMAND ARGUMENTS'. Nothing of the artifact is committed by itself meanwhile,
    however long the command pauses. If the command fails, what is staged is held: run the command again, or decide
    with 'artifactfs commit' or 'artifactfs discard'. The version is printed.

    \b
    Exit status: that of the command (128 plus the number of the signal that killed it); 127 there is no such command;
    126 the command cannot be run; 1 the command ended with 0, and its files are not committed.
    """
    from artifactfs import names
    from artifactfs.managers.commit_id import new_commit_id
    from mount import client
    from mount.commands.commit import as_text, committed
    from mount.control import CommitRequest

    for alias in aliases:
        names.check_alias(alias)
    place = client.find_place(Path(path))
    try:
        client.request_run(place.staging)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise client.ClientError(f"another 'artifactfs run' is under way for {place.label}: wait for it") from error
        raise client.refused(error, f"waiting with {place.label}") from error
    status = _run(command)
    if status:
        click.echo(_failed(place, command, status), err=True)
        raise click.exceptions.Exit(status)
    finished = committed(place, CommitRequest(new_commit_id(), message, list(aliases)))
    if finished is None or finished.version is None:
        click.echo(f"nothing is staged for {place.label}: no version was made", err=True)
        return
    click.echo(as_text(place, finished), err=True)
    click.echo(f"{place.label}@{finished.version}")


def _run(command: tuple[str, ...]) -> int:
    """The exit status of a command. The signals that would end it end it, not this process, which lives to tell."""
    try:
        process = subprocess.Popen(command)
    except OSError as error:
        click.echo(f"artifactfs: {command[0]}: {error.strerror}", err=True)
        return NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE

    def pass_on(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    def pass_on_unless_typed(number: int, _frame: FrameType | None) -> None:
        # A terminal sends Ctrl-C to the whole job: to the command too.
        if not _is_in_foreground():
            process.send_signal(number)

    signal.signal(signal.SIGINT, pass_on_unless_typed)
    signal.signal(signal.SIGQUIT, pass_on_unless_typed)
    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGHUP, pass_on)
    status = process.wait()
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
    return status if status >= 0 else KILLED - status


def _is_in_foreground() -> bool:
    """Tell whether this job gets what is typed at its terminal."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _failed(place: Place, command: tuple[str, ...], status: int) -> str:
    if status > KILLED:
        try:
            how = f"was killed by {signal.Signals(status - KILLED).name}"
        except ValueError:
            how = f"ended with status {status}"
    else:
        how = f"ended with status {status}"
    return f"{shlex.quote(os.path.basename(command[0]))} {how}: {_becomes(place)}"


def _becomes(place: Place) -> str:
    """Tell what becomes of what is staged; that it is held where the mount does not answer."""
    from mount import client, mounts

    entry = mounts.entry_over(place.directory)
    try:
        if client.read_state(place.staging).staged is None:
            return f"nothing is staged for {place.label}"
        if entry is not None and client.read_status(entry.mountpoint).on_failure == "commit":
            return f"what is staged for {place.label} is committed all the same (--on-failure commit)"
    except client.ClientError:
        # The status of the command matters more than this line, and a hold is what nearly every mount does.
        pass
    return f"what is staged for {place.label} is held; {show.AFTER_FAILURE}"
