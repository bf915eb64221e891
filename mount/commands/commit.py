"""``artifactfs commit``: make a version of what is staged, at once."""

from __future__ import annotations

import errno
import json
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from artifactfs.commands.options import PATH, aliases_option, message_option, seconds
from artifactfs.commands.show import count, size
from mount.commands import show

if TYPE_CHECKING:
    from mount.client import Place
    from mount.control import ArtifactState, CommitRequest, Finished, Pending

NO_MESSAGE = 3
"""Exit status: the files are in a version that was made before, and the message could not be given to it."""
UNDER_WAY = 4
"""Exit status: the files are set aside and go on being committed; it took longer than the time given."""
POLL_FIRST_S = 0.01
POLL_S = 0.2
WRITERS_S = 10.0
# The last results of an artifact are kept; one that is in neither list for so long was thrown away.
LOST_AFTER_S = 5.0


@click.command(short_help="Commit what is staged for an artifact.")
@click.argument("path", type=PATH)
@message_option
@aliases_option
@click.option("--force", is_flag=True, help="Do not wait for files open for writing; what is in them is committed.")
@click.option(
    "--timeout",
    type=seconds,
    metavar="SECONDS",
    help="Wait so long at most; what is not a version by then goes on in the background.",
)
@click.option(
    "--no-wait", is_flag=True, help="Return once the files are set aside; they are committed in the background."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def commit(
    path: str,
    message: str,
    aliases: tuple[str, ...],
    force: bool,
    timeout: float | None,
    no_wait: bool,
    as_json: bool,
) -> None:
    """Commit what is staged for the artifact that PATH belongs to.

    PATH is the artifact's directory, its staging directory, or anything in that. Where the drive has committed by
    itself already, and nothing is staged since, that commit or its version gets this message and these aliases.

    \b
    Exit status: 0 committed; 1 not committed; 3 the files are in a version that was made before, and the message
    could not be given to it; 4 --timeout is over, or 130 interrupted: the commit goes on in the background.

    \b
    --json prints one object: collection, artifact, commit_id, and unless --no-wait is given: version, created
    (false: same content as that version), files, sent_bytes, deduplicated_bytes, seconds, message_recorded.
    With exit status 4: version (null) and pending, how far it is, as 'artifactfs status --json' has it.
    """
    from artifactfs import names
    from artifactfs.managers.commit_id import new_commit_id
    from mount import client
    from mount.control import CommitRequest

    for alias in aliases:
        names.check_alias(alias)
    place = client.find_place(Path(path))
    if place.tree not in (None, names.STAGING):
        raise client.ClientError(f"{place.label}/{place.tree} is sealed for its commit; 'artifactfs retry' hurries it")
    if no_wait and timeout is not None:
        raise click.UsageError("--no-wait does not wait: it takes no --timeout")
    request = CommitRequest(new_commit_id(), message, list(aliases), force)
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        commit_id = _seal(place, request, deadline)
        late = Late(request, commit_id) if commit_id != request.commit_id else None
        about = {"collection": place.collection, "artifact": place.artifact, "commit_id": commit_id}
        if no_wait:
            over = _hurry(place, late) if late is not None else None
            if over is None:
                click.echo(json.dumps(about) if as_json else f"committing {place.label} (commit {commit_id})")
                return
            finished: Finished | None = over
        else:
            finished = _wait(place, commit_id, late, deadline)
    except KeyboardInterrupt:
        click.echo(f"interrupted: once sealed, the commit of {place.label} goes on; see 'artifactfs status'", err=True)
        raise click.exceptions.Exit(130) from None
    if finished is None:
        _say_under_way(place, about, timeout or 0.0, as_json)
        if late is not None and not late.told and (message or aliases):
            click.echo("the message and the aliases are not recorded yet: commit again, with them, later", err=True)
        raise click.exceptions.Exit(UNDER_WAY)
    recorded, lost = finished.message_recorded, "it has another already"
    if late is not None and not late.told:
        recorded, lost = _after_the_fact(place, finished, request)
    answer = about | _as_json(finished) | {"message_recorded": recorded}
    click.echo(json.dumps(answer) if as_json else as_text(place, finished))
    if finished.created and not recorded:
        click.echo(f"the message is not recorded: {place.label} {finished.version}: {lost}", err=True)
        raise click.exceptions.Exit(NO_MESSAGE)
    if finished.version is not None and not recorded:
        click.echo(f"{finished.version} keeps its message; 'artifactfs annotate' gives it another", err=True)


@dataclass
class Late:
    """A request for files that were sealed by themselves. `told` once that commit has its message and aliases."""

    request: CommitRequest
    commit_id: str
    told: bool = False


def committed(place: Place, request: CommitRequest) -> Finished | None:
    """Commit what is staged and wait for it; None when nothing is. Raises ClientError, OSError."""
    return _wait(place, request.commit_id, None, None) if _is_sealed(place, request, None) else None


def _seal(place: Place, request: CommitRequest, deadline: float | None) -> str:
    """Set the staged files aside. Returns the id of the commit they are in.

    That is another than the request's when they had been sealed by themselves. Raises ClientError, OSError.
    """
    return request.commit_id if _is_sealed(place, request, deadline) else _sealed_by_itself(place, request.message)


def _is_sealed(place: Place, request: CommitRequest, deadline: float | None) -> bool:
    """Set the staged files aside; waits a while for those open for writing. False when there are none.

    Raises ClientError, OSError.
    """
    from mount import client

    until = time.monotonic() + WRITERS_S
    until = until if deadline is None else min(until, deadline)
    while True:
        try:
            client.request_commit(place.staging, request)
        except OSError as error:
            if error.errno == errno.ENODATA:
                return False
            if error.errno == errno.EIO:
                _refuse_held(place)
            if error.errno != errno.EBUSY:
                raise client.refused(error, f"committing {place.label}") from error
            if time.monotonic() > until:
                state = client.read_state(place.staging)
                writing = count(state.staged.open_for_writing if state.staged else 0, "file")
                raise client.ClientError(
                    f"{place.label} has {writing} open for writing; close what writes there and commit again"
                ) from error
        else:
            return True
        time.sleep(POLL_S)


def _refuse_held(place: Place) -> None:
    """Raises ClientError when what is staged is held for good."""
    from mount import client

    staged = client.read_state(place.staging).staged
    if staged is not None and staged.held is not None and staged.held.lost:
        raise client.ClientError(
            f"{place.label} is not committed: {staged.held.why}; copy what is whole to another place, discard what is "
            "staged, and copy it back"
        )


def _sealed_by_itself(place: Place, message: str) -> str:
    """The id of the last commit, when nobody asked for it. Raises ClientError when there is none such."""
    from mount import client, mounts

    state = client.read_state(place.staging)
    every: list[Finished | Pending] = [*state.finished, *state.pending]
    if every and every[-1].automatic:
        return every[-1].commit_id
    text = f"nothing is staged for {place.label}"
    if state.pending:
        text += f"; {count(len(state.pending), 'commit')} under way (see 'artifactfs status')"
    elif state.finished and (version := state.finished[-1].version) is not None:
        text += f"; the last commit gave {version}"
        entry = mounts.entry_over(place.directory)
        if message and entry is not None:
            store = shlex.quote(entry.store)
            text += f"; to give it a message: artifactfs annotate --store {store} {place.label}@{version} -m …"
    raise client.ClientError(text)


def _wait(place: Place, commit_id: str, late: Late | None, deadline: float | None) -> Finished | None:
    """Poll until the commit is over; None at the deadline. Raises ClientError when it is blocked or gone."""
    from mount import client

    seen = time.monotonic()
    poll_s = POLL_FIRST_S
    with show.display() as display:
        while True:
            state = client.read_state(place.staging)
            finished = next((f for f in state.finished if f.commit_id == commit_id), None)
            if finished is not None:
                return finished
            if late is not None:
                _tell(place, state, late)
            is_shown = _show_pending(state, commit_id, display)
            now = time.monotonic()
            if is_shown or state.left_off:
                seen = now
            elif now - seen > LOST_AFTER_S:
                raise client.ClientError(f"the commit of {place.label} is gone: its files were discarded")
            if deadline is not None and now >= deadline:
                return None
            time.sleep(poll_s if deadline is None else min(poll_s, deadline - now))
            poll_s = min(POLL_S, poll_s * 1.5)


def _say_under_way(place: Place, about: dict[str, str], timeout_s: float, as_json: bool) -> None:
    """Tell that the time is up, and how far the commit is."""
    import msgspec

    from mount import client

    pending = client.read_state(place.staging).pending
    tree = next((tree for tree in pending if tree.commit_id == about["commit_id"]), None)
    how = "" if tree is None else f" ({tree.name}: {show.progress_of(tree)})"
    click.echo(
        f"not committed within {timeout_s:g} s: {place.label} goes on in the background{how}; see 'artifactfs status'",
        err=True,
    )
    if as_json:
        found = None if tree is None else msgspec.to_builtins(tree)
        click.echo(json.dumps(about | {"version": None, "pending": found}))


def _tell(place: Place, state: ArtifactState, late: Late) -> None:
    """Give the commit its message and aliases, unless it is under way at this moment. Raises ClientError."""
    from mount import client
    from mount.control import CommitState

    tree = next((tree for tree in state.pending if tree.commit_id == late.commit_id), None)
    if late.told or tree is None or tree.state is CommitState.COMMITTING:
        return
    try:
        client.request_commit(place.directory / tree.name, late.request)
        late.told = True
    except OSError as error:
        # Its attempt has begun, it is a version by now, or somebody else's request came first.
        if error.errno not in (errno.EBUSY, errno.ENODATA, errno.ENOENT, errno.ESTALE, errno.EPERM):
            raise client.refused(error, f"committing {place.label}") from error


def _hurry(place: Place, late: Late) -> Finished | None:
    """Give a commit its message and aliases without waiting for it; returns it where it is over.

    Raises ClientError when it is under way.
    """
    from mount import client

    state = client.read_state(place.staging)
    finished = next((done for done in state.finished if done.commit_id == late.commit_id), None)
    if finished is not None:
        return finished
    _tell(place, state, late)
    if not late.told and (late.request.message or late.request.aliases):
        raise client.ClientError(
            f"{place.label} is being committed by itself at this moment: without --no-wait it gets its message and "
            "aliases when that is done"
        )
    return None


def _after_the_fact(place: Place, finished: Finished, request: CommitRequest) -> tuple[bool, str]:
    """Give aliases and message to the version that was made of the files before the request.

    Returns whether it has the message, and why not. Equal content that made no version changes the message of none.
    Raises ClientError.
    """
    from mount import client

    click.echo(f"nothing was staged any more: {place.label} had been committed by itself", err=True)
    if finished.version is None:
        return not request.message, "no version was made"
    version = place.directory / finished.version
    if request.aliases:
        try:
            client.add_aliases(version, request.aliases)
        except OSError as error:
            raise client.refused(error, f"naming {place.label} {finished.version}") from error
    if not (finished.created and request.message):
        return not request.message, "the version was made before"
    try:
        client.annotate(version, request.message)
    except OSError as error:
        return False, str(client.refused(error, "annotating it"))
    return True, ""


def _show_pending(state: ArtifactState, commit_id: str, display: show.Display) -> bool:
    """Show the commit among those pending; whether it is. Raises ClientError when it cannot go on by itself."""
    from mount.client import ClientError
    from mount.control import CommitState

    label = show.label(state)
    for ahead, tree in enumerate(state.pending):
        problem = show.problem(label, tree)
        if tree.state is CommitState.BLOCKED:
            own = next((each.name for each in state.pending if each.commit_id == commit_id), tree.name)
            waiting = "" if own == tree.name else f"; {own}, with what was just staged, waits until that is done"
            raise ClientError(
                f"not committed: {problem}; the files are kept in {tree.name}, and 'artifactfs reopen' takes them back "
                f"into staging to be mended{waiting}"
            )
        if problem:
            display.note(problem)
        if tree.commit_id == commit_id:
            after = f", after {count(ahead, 'earlier commit')}" if ahead else ""
            text = f"committing {count(tree.files, 'file')} of {label}{after}"
            display.update(text, show.Transfer.of([tree]))
            return True
    return False


def _as_json(finished: Finished) -> dict[str, Any]:
    return {
        "version": finished.version,
        "created": finished.created,
        "files": finished.files,
        "sent_bytes": finished.sent_bytes,
        "deduplicated_bytes": finished.deduplicated_bytes,
        "seconds": finished.seconds,
    }


def as_text(place: Place, finished: Finished) -> str:
    """Tell of a commit that is over."""
    if finished.version is None:
        return f"{place.label}: no version was made: {finished.note or 'there was nothing to keep'}"
    if not finished.created:
        return f"{place.label} unchanged: same content as {finished.version}"
    sent, spared = size(finished.sent_bytes), size(finished.deduplicated_bytes)
    text = (
        f"{place.label} {finished.version}: {count(finished.files, 'file')}, "
        f"{sent} sent, {spared} already there, {finished.seconds:.1f} s"
    )
    return f"{text}\n{finished.note}" if finished.note else text
