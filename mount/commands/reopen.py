"""``artifactfs reopen``: take what could not be committed back into staging, to mend it there."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING

import click

from artifactfs.commands.options import PATH
from artifactfs.commands.show import count, size

if TYPE_CHECKING:
    from mount.client import Place
    from mount.control import Pending


@click.command(short_help="Take a refused commit back into staging.")
@click.argument("path", type=PATH)
def reopen(path: str) -> None:
    """Take a sealed tree of the artifact that PATH belongs to back into staging, with all its files.

    PATH is a pending directory; or the artifact, for the one whose commit failed. Staging must be empty. What is taken
    back is committed by itself once something in it was changed, or by 'artifactfs commit'; its message and aliases
    are kept, and what was sealed after it waits.
    """
    from mount import client

    place = client.find_place(Path(path))
    tree = _chosen(place)
    try:
        client.reopen(place.directory / tree.name)
    except OSError as error:
        raise client.ClientError(_why(place, tree, error)) from error
    click.echo(
        f"took {tree.name} of {place.label} back into staging: {count(tree.files, 'file')}, {size(tree.size_bytes)}"
    )
    if tree.error is not None:
        click.echo(f"it was not committed: {' '.join(tree.error.split())}")


def _chosen(place: Place) -> Pending:
    """The sealed tree that is meant. Raises ClientError when there is none, or several could be."""
    from artifactfs import names
    from mount import client
    from mount.control import CommitState

    state = client.read_state(place.staging)
    if place.tree not in (None, names.STAGING):
        for tree in state.pending:
            if tree.name == place.tree:
                return tree
        raise client.ClientError(f"there is no {place.tree} for {place.label}")
    failed = [tree for tree in state.pending if tree.state in (CommitState.BLOCKED, CommitState.RETRYING)]
    if state.staged is not None and state.staged.reopened is not None:
        raise client.ClientError(f"{state.staged.reopened.name} of {place.label} is in staging already")
    if not failed and len(state.pending) == 1:
        return state.pending[0]
    if not failed:
        raise client.ClientError(f"no commit of {place.label} has failed")
    return failed[0]


def _why(place: Place, tree: Pending, error: OSError) -> str:
    from mount import client

    what = f"{tree.name} of {place.label}"
    if error.errno == errno.ENOTEMPTY:
        return (
            f"{place.label} has something staged: set it aside with 'artifactfs commit --no-wait', or discard it, and "
            "try again"
        )
    if error.errno == errno.EBUSY:
        return f"{what} is being committed"
    if error.errno == errno.EEXIST:
        return f"{what} is a version already: an earlier attempt has made it"
    if error.errno in (errno.ENODATA, errno.ENOENT, errno.ESTALE):
        return f"{what} is gone: it was committed or discarded"
    return str(client.refused(error, f"taking {what} back"))
