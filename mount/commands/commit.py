"""``artifactfs commit``: make a version of what is staged, at once."""

from __future__ import annotations

import errno
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from artifactfs.commands.show import count, size
from mount.commands import show

if TYPE_CHECKING:
    from mount.client import Place
    from mount.control import ArtifactState, CommitRequest, Finished

POLL_FIRST_S = 0.01
POLL_S = 0.2
WRITERS_S = 10.0
# The last results of an artifact are kept; one that is in neither list for so long was thrown away.
LOST_AFTER_S = 5.0


@click.command()
@click.argument("path")
@click.option("-m", "--message", default="", help="What to remember about the version.")
@click.option("--alias", "aliases", multiple=True, metavar="NAME", help="Give the version this name; may be repeated.")
@click.option("--force", is_flag=True, help="Do not wait for files open for writing; what is in them is committed.")
@click.option("--no-wait", is_flag=True, help="Come back when the files are set aside; they are committed behind.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def commit(path: str, message: str, aliases: tuple[str, ...], force: bool, no_wait: bool, as_json: bool) -> None:
    """Commit what is staged for the artifact that PATH belongs to.

    PATH is the artifact's directory, its staging directory, or anything in that.

    \b
    --json prints one object: collection, artifact, commit_id, and when it was waited for: version,
    created (false: same content as that version), files, sent_bytes, deduplicated_bytes, seconds.
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
    request = CommitRequest(new_commit_id(), message, list(aliases), force)
    about = {"collection": place.collection, "artifact": place.artifact, "commit_id": request.commit_id}
    try:
        _seal(place, request)
        if no_wait:
            click.echo(json.dumps(about) if as_json else f"committing {place.label} (commit {request.commit_id})")
            return
        finished = _wait(place, request)
    except KeyboardInterrupt:
        click.echo(f"interrupted: once sealed, the commit of {place.label} goes on; see 'artifactfs status'", err=True)
        raise click.exceptions.Exit(130) from None
    click.echo(json.dumps(about | _as_json(finished)) if as_json else _as_text(place, finished))


def _seal(place: Place, request: CommitRequest) -> None:
    """Set the staged files aside; waits a while for those open for writing. Raises ClientError, OSError."""
    from mount import client

    deadline = time.monotonic() + WRITERS_S
    while True:
        try:
            client.request_commit(place.staging, request)
        except OSError as error:
            if error.errno == errno.ENODATA:
                raise client.ClientError(_nothing_staged(place)) from error
            if error.errno != errno.EBUSY:
                raise client.refused(error, f"committing {place.label}") from error
            if time.monotonic() > deadline:
                state = client.read_state(place.staging)
                writing = count(state.staged.open_for_writing if state.staged else 0, "file")
                raise client.ClientError(
                    f"{place.label} has {writing} open for writing; close what writes there and commit again"
                ) from error
        else:
            return
        time.sleep(POLL_S)


def _nothing_staged(place: Place) -> str:
    from mount import client

    state = client.read_state(place.staging)
    text = f"nothing is staged for {place.label}"
    if state.pending:
        text += f"; {count(len(state.pending), 'commit')} under way (see 'artifactfs status')"
    elif state.finished and state.finished[-1].version is not None:
        text += f"; the last commit gave {state.finished[-1].version}"
    return text


def _wait(place: Place, request: CommitRequest) -> Finished:
    """Poll until the commit is over. Raises ClientError when it is blocked or gone."""
    from mount import client

    seen = time.monotonic()
    poll_s = POLL_FIRST_S
    with show.display() as display:
        while True:
            state = client.read_state(place.staging)
            finished = next((f for f in state.finished if f.commit_id == request.commit_id), None)
            if finished is not None:
                return finished
            if _show_pending(state, request, display):
                seen = time.monotonic()
            elif time.monotonic() - seen > LOST_AFTER_S and not state.left_off:
                raise client.ClientError(f"the commit of {place.label} is gone: its files were discarded")
            time.sleep(poll_s)
            poll_s = min(POLL_S, poll_s * 1.5)


def _show_pending(state: ArtifactState, request: CommitRequest, display: show.Display) -> bool:
    """Show the commit among those pending; whether it is. Raises ClientError when it cannot go on by itself."""
    from mount.client import ClientError
    from mount.control import CommitState

    label = show.label(state)
    for ahead, tree in enumerate(state.pending):
        problem = show.problem(label, tree)
        if tree.state is CommitState.BLOCKED:
            raise ClientError(f"not committed: {problem}; the files are kept in {tree.name}")
        if problem:
            display.note(problem)
        if tree.commit_id == request.commit_id:
            after = f", after {count(ahead, 'earlier commit')}" if ahead else ""
            text = f"committing {count(tree.files, 'file')} of {label}{after}"
            display.update(text, tree.done_bytes, tree.size_bytes)
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


def _as_text(place: Place, finished: Finished) -> str:
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
