"""``artifactfs discard``: throw staged files away, after asking."""

from __future__ import annotations

import errno
from pathlib import Path

import click

from artifactfs.commands.options import PATH
from artifactfs.commands.show import count, size


@click.command(short_help="Throw away what is staged for an artifact.")
@click.argument("path", type=PATH)
@click.option("--yes", is_flag=True, help="Do not ask.")
def discard(path: str, yes: bool) -> None:
    """Throw away the files staged for the artifact that PATH belongs to.

    On a pending directory, those files are thrown away instead of being committed.
    """
    from artifactfs import names
    from mount import client

    place = client.find_place(Path(path))
    tree = place.tree or names.STAGING
    state = client.read_state(place.staging)
    pending = next((pending for pending in state.pending if pending.name == tree), None)
    found = state.staged if tree == names.STAGING else pending
    if found is None:
        what = "nothing is staged" if tree == names.STAGING else f"there is no {tree}"
        raise client.ClientError(f"{what} for {place.label}")
    lost = f"{count(found.files, 'file')}, {size(found.size_bytes)}, in {place.label}/{tree}"
    if not yes and not _is_sure(f"Throw away {lost}?"):
        raise client.ClientError("nothing was thrown away; --yes answers where nobody can be asked")
    try:
        client.discard(place.directory / tree)
    except OSError as error:
        if error.errno == errno.EBUSY:
            busy = "are open for writing" if tree == names.STAGING else "are being committed"
            raise client.ClientError(f"files of {place.label}/{tree} {busy}") from error
        raise client.refused(error, f"discarding {place.label}/{tree}") from error
    click.echo(f"discarded {lost}")


def _is_sure(question: str) -> bool:
    try:
        return click.confirm(question)
    except click.Abort:
        click.echo(err=True)
        return False
