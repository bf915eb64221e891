"""``artifactfs status``: the mounts of this machine and what they have not committed yet.

The JSON is an interface: fields are added, never changed. ::

    {"mounts": [{"mountpoint": "/mnt/models", "store": "s3://bucket/models", "state": "mounted",
                 "pid": 4711, "log_file": "…", "problem": null, "status": {…}}]}

`state` is one of `MountState`; `status` is `mount.control.Status`, null when the mount gives none; `pid`, `log_file`
and `problem` are null when there is nothing to say.
"""

from __future__ import annotations

import enum
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from artifactfs.commands.options import PATH
from artifactfs.commands.show import json_object, name
from mount.commands import show
from mount.commands.overview import view

if TYPE_CHECKING:
    from mount.mounts import MountEntry, Record

ANSWER_S = 10.0
_MAX_ASKED_AT_ONCE = 16


class MountState(str, enum.Enum):
    """How a mount does."""

    MOUNTED = "mounted"
    """It answers; `problem` says why it does not tell its status (to another user, say)."""
    HANGS = "hangs"
    """Its daemon does not answer."""
    DEAD = "dead"
    """Its daemon was killed; mounting it again goes on where it was."""
    ENDING = "ending"
    """Unmounted; its daemon is about to end."""


@click.command(short_help="Show the mounts, and what is staged, pending and failing.")
@click.argument("mountpoint", type=PATH, required=False)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON; its fields are described in mount/commands/status.py."
)
@click.option(
    "--watch",
    "is_watching",
    is_flag=True,
    help="Show it again at every change, until it is interrupted or nothing is mounted any more.",
)
@click.option("--state-dir", type=PATH, help="The state directory given to 'artifactfs mount'.")
def status(mountpoint: str | None, as_json: bool, is_watching: bool, state_dir: str | None) -> None:
    """Show the mounts, or the one at MOUNTPOINT, with what is staged, pending and failing.

    \b
    --watch draws on a terminal. With --json it prints one line for every change: the object that --json prints
    without --watch, and 'at', the time in seconds since the epoch. What changes all the time gives no line: the
    quiet seconds, the seconds until a commit, and speeds.

    \b
    Exit status: 0; 1 where MOUNTPOINT is no mount, or the daemon of what was watched was killed.
    """
    states = show.state_dir_option(state_dir)

    def find() -> list[dict[str, Any]]:
        return _all(states) if mountpoint is None else [_one(mountpoint, states)]

    if is_watching:
        from mount.commands.watch import watch

        watch(find, as_json=as_json)
        return
    found = find()
    if as_json:
        import msgspec

        json_object(msgspec.to_builtins({"mounts": found}))
        return
    if not found:
        click.echo("nothing is mounted; 'artifactfs mount URL MOUNTPOINT' mounts a store")
    for number, each in enumerate(found):
        # Names of mountpoints and stores may be those of other users.
        click.echo("\n" * (number > 0) + "\n".join(map(name, view(each).lines())))


# -- finding out -------------------------------------------------------------------------------------------------------


def _all(states: Path) -> list[dict[str, Any]]:
    from mount import mounts

    entries = mounts.our_entries()
    mounted = {str(entry.mountpoint) for entry in entries}
    lost = [record for record in mounts.records(states) if record.mountpoint not in mounted]
    with ThreadPoolExecutor(_MAX_ASKED_AT_ONCE) as pool:
        found = list(pool.map(lambda entry: _ask(entry, states), entries))
    return found + [_lost(record) for record in lost]


def _one(mountpoint: str, states: Path) -> dict[str, Any]:
    from mount import client, mounts

    # A path below a mountpoint leads through the mount, which may hang.
    where = client.within(ANSWER_S, lambda: mounts.resolve(mountpoint))
    entry = mounts.entry_over(where)
    if entry is not None and entry.is_ours:
        return _ask(entry, states)
    record = mounts.read_record(states, where)
    if record is None:
        raise mounts.NotMounted(f"no store is mounted on {mountpoint}; 'artifactfs status' lists the mounts")
    return _lost(record)


def _ask(entry: MountEntry, states: Path) -> dict[str, Any]:
    """A mount of the mount table."""
    from mount import client, mounts

    record = mounts.read_record(states, entry.mountpoint)
    found: dict[str, Any] = {
        "mountpoint": str(entry.mountpoint),
        "store": entry.store,
        "state": MountState.MOUNTED,
        "pid": record.daemon.pid if record else None,
        "log_file": record.log_file if record else None,
        "problem": None,
        "status": None,
    }
    try:
        answer = client.read_status(entry.mountpoint, ANSWER_S)
    except client.DeadMount as error:
        return found | {"state": MountState.DEAD, "problem": str(error)}
    except client.NoAnswer as error:
        return found | {"state": MountState.HANGS, "problem": str(error)}
    except client.ClientError as error:
        whose = f"its user is {entry.other_user}, who alone may ask it" if entry.other_user else str(error)
        return found | {"problem": whose}
    return found | {"pid": answer.pid, "log_file": answer.log_file, "status": answer}


def _lost(record: Record) -> dict[str, Any]:
    """A mount that is only in the records."""
    ending = record.daemon.is_alive()
    return {
        "mountpoint": record.mountpoint,
        "store": record.store,
        "state": MountState.ENDING if ending else MountState.DEAD,
        "pid": record.daemon.pid,
        "log_file": record.log_file,
        "problem": "unmounted, its daemon is ending" if ending else "its daemon was killed and it is not mounted",
        "status": None,
    }
