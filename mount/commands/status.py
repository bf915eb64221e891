"""``artifactfs status``: the mounts of this machine and what they have not committed yet.

The JSON is an interface: fields are added, never changed. ::

    {"mounts": [{"mountpoint": "/mnt/models", "store": "s3://bucket/models", "state": "mounted",
                 "pid": 4711, "log_file": "…", "problem": null, "status": {…}}]}

`state` is one of `MountState`; `status` is `mount.control.Status`, null when the mount gives none; `pid`, `log_file`
and `problem` are null when there is nothing to say.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from artifactfs.commands.options import PATH
from artifactfs.commands.show import count, json_object, name, size
from mount.commands import show

if TYPE_CHECKING:
    from mount.control import ArtifactState, Cache, Pending, Status
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
@click.option("--state-dir", type=PATH, help="The state directory given to 'artifactfs mount'.")
def status(mountpoint: str | None, as_json: bool, state_dir: str | None) -> None:
    """Show the mounts, or the one at MOUNTPOINT, with what is staged, pending and failing."""
    states = show.state_dir_option(state_dir)
    found = _all(states) if mountpoint is None else [_one(mountpoint, states)]
    if as_json:
        import msgspec

        json_object(msgspec.to_builtins({"mounts": found}))
        return
    if not found:
        click.echo("nothing is mounted; 'artifactfs mount URL MOUNTPOINT' mounts a store")
    for number, each in enumerate(found):
        # Names of mountpoints and stores may be those of other users.
        click.echo("\n" * (number > 0) + "\n".join(map(name, _describe(each))))


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


# -- showing -----------------------------------------------------------------------------------------------------------


def _describe(found: dict[str, Any]) -> Iterator[str]:
    yield f"{found['mountpoint']}  {found['store']}"
    answer: Status | None = found["status"]
    if answer is None:
        yield f"  {found['state'].value}: {found['problem']}"
        if found["state"] is MountState.DEAD:
            yield f"  mount it again to go on: artifactfs mount {found['store']} {found['mountpoint']}"
    else:
        yield f"  {_facts(answer)}"
        if answer.cache is not None:
            yield f"  {_cache(answer.cache)}"
        if answer.exclusive_create:
            yield f"  exclusive create: {answer.exclusive_create}"
        for waiting in answer.waiting:
            yield f"  {waiting}"
        if not answer.reachable:
            yield "  the store does not answer"
        for fault in answer.faults:
            yield f"  fault: {' '.join(fault.split())}"
        yield from _table([row for state in answer.artifacts for row in _rows(state)])
        if answer.left_off:
            yield f"  and {count(answer.left_off, 'further artifact')}"
    if found["log_file"]:
        yield f"  log: {found['log_file']}"


def _facts(answer: Status) -> str:
    if answer.read_only:
        way = "read-only"
    elif answer.commit_after_s is None:
        way = "commits on request only"
    else:
        way = f"commits after {answer.commit_after_s:g} s of quiet"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(answer.started_at))
    driver = f"driver {answer.driver}" + (f", reads by {answer.reads}" if answer.reads else "")
    return f"mounted since {since}, {way}, {driver}, process {answer.pid}"


def _cache(cache: Cache) -> str:
    held = "" if cache.used_bytes is None else f"{size(cache.used_bytes)} of "
    fetched = f"{size(cache.fetched_bytes)} fetched in {count(cache.requests, 'request')}"
    return f"cache {cache.directory}: {held}{size(cache.limit_bytes)}, {fetched}"


def _rows(state: ArtifactState) -> Iterator[tuple[str, ...]]:
    """label, where, files, size, what is going on."""
    for pending in state.pending:
        files, room = count(pending.files, "file"), size(pending.size_bytes)
        yield show.label(state), pending.name, files, room, _progress(pending)
    if state.staged:
        staged = state.staged
        doing = f"quiet for {staged.quiet_s:.0f} s"
        if staged.reopened is not None and staged.untouched:
            doing = f"{staged.reopened.name} taken back; mend it, or 'artifactfs commit'"
            if staged.reopened.error is not None:
                doing = f"{staged.reopened.name} taken back: {' '.join(staged.reopened.error.split())}"
        if staged.held is not None:
            doing = f"held: {show.hold(staged.held)}"
        elif staged.open_for_writing:
            doing = f"{count(staged.open_for_writing, 'file')} open for writing"
        yield show.label(state), "staging", count(staged.files, "file"), size(staged.size_bytes), state.problem or doing
    elif state.problem:
        yield show.label(state), "", "", "", state.problem


def _progress(pending: Pending) -> str:
    text = pending.state.value
    if pending.error is not None:
        text += f": {' '.join(pending.error.split())}"
    if retry := show.retry(pending):
        text += f" ({retry})"
    elif pending.done_bytes and pending.size_bytes:
        text += f", {100 * pending.done_bytes // pending.size_bytes} %"
    return text


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
