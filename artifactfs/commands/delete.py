"""``artifactfs delete``: delete a version for good, after asking."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from artifactfs.commands import show
from artifactfs.commands.options import (
    ADDRESS,
    CommandError,
    StoreChoice,
    artifact_of,
    json_option,
    refuse_path,
    store_options,
)
from artifactfs.commands.versions import info_of

if TYPE_CHECKING:
    from artifactfs.address import Address


@click.command(short_help="Delete a version for good.")
@click.argument("address", type=ADDRESS)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@store_options
def delete(store: StoreChoice, address: Address, yes: bool, as_json: bool) -> None:
    """Delete a version for good: its number is never used again, its aliases go, and 'latest' moves.

    ADDRESS is collection/artifact@version. The bytes that only it used are freed by 'artifactfs gc', later.

    \b
    --json prints one object, the version that was deleted, with the fields of 'log'.
    """
    artifact = artifact_of(address)
    refuse_path(address, "delete")
    if address.version is None:
        raise CommandError(f"{address} names no version: say which to delete, as in {address}@v0")
    manager = store.connect()
    info = info_of(manager, artifact, address.collection, address.version)
    aliases = manager.aliases(artifact, address.collection)
    label = f"{info.collection}/{artifact} {info.version}"
    named = show.aliases_of(info.version, aliases)
    facts = [show.count(info.file_count, "file"), show.size(info.size_bytes), *([", ".join(named)] if named else [])]
    if not yes and not _is_sure(f"Delete {label} ({', '.join(facts)})?"):
        raise CommandError("nothing was deleted; --yes answers where nobody can be asked")
    manager.delete_version(artifact, info.version, address.collection)
    if as_json:
        show.json_object(show.version_fields(info, aliases))
    else:
        click.echo(f"deleted {label}")


def _is_sure(question: str) -> bool:
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)
        return False
