"""``artifactfs retry``: try a commit that failed again at once."""

from __future__ import annotations

from pathlib import Path

import click

from artifactfs.commands.options import PATH
from artifactfs.commands.show import count


@click.command(short_help="Try the failed commits of an artifact again.")
@click.argument("path", type=PATH)
def retry(path: str) -> None:
    """Try the failed commits of the artifact that PATH belongs to again, without waiting for their next turn.

    On a pending directory, only that one. 'artifactfs status' shows what has failed and why.
    """
    from artifactfs import names
    from mount import client
    from mount.control import CommitState

    place = client.find_place(Path(path))
    failed = [
        tree
        for tree in client.read_state(place.staging).pending
        if tree.state in (CommitState.RETRYING, CommitState.BLOCKED) and place.tree in (None, names.STAGING, tree.name)
    ]
    if not failed:
        raise client.ClientError(f"no commit of {place.label} has failed")
    for tree in failed:
        try:
            client.retry(place.directory / tree.name)
        except OSError as error:
            raise client.refused(error, f"retrying {place.label}/{tree.name}") from error
    click.echo(f"trying {count(len(failed), 'commit')} of {place.label} again")
