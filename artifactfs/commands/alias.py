"""``artifactfs alias``: names for versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from artifactfs.commands import show
from artifactfs.commands.options import (
    ADDRESS,
    StoreChoice,
    artifact_of,
    json_option,
    refuse_path,
    refuse_version,
    store_options,
)

if TYPE_CHECKING:
    from artifactfs.address import Address


@click.command(short_help="List the aliases of an artifact, or give a version one.")
@click.argument("address", type=ADDRESS)
@click.argument("name", required=False)
@click.option("--delete", is_flag=True, help="Remove the alias NAME.")
@json_option
@store_options
def alias(store: StoreChoice, address: Address, name: str | None, delete: bool, as_json: bool) -> None:
    """List the aliases of an artifact, or give a version the alias NAME, moving it when it exists.

    ADDRESS is collection/artifact, with @version for the version that gets the name (default: the latest).

    \b
    --json prints one object: collection, artifact, aliases (an object, name to version): what holds afterwards.
    """
    refuse_path(address, "alias")
    artifact = artifact_of(address)
    if delete and name is None:
        raise click.UsageError("--delete needs the NAME of the alias")
    manager = store.connect()
    if name is not None and delete:
        refuse_version(address, "alias --delete")
        manager.delete_alias(artifact, name, address.collection)
    elif name is not None:
        version = manager.version_info(artifact, address.collection, address.version).version
        manager.set_alias(artifact, name, version, address.collection)
    known = manager.aliases(artifact, address.collection)
    if name is None and address.version is not None:
        version = manager.version_info(artifact, address.collection, address.version).version
        known = {each: of for each, of in known.items() if of == version}
    label = f"{address.collection}/{artifact}"
    if as_json:
        about = {"collection": address.collection, "artifact": artifact}
        show.json_object({**about, "aliases": dict(sorted(known.items()))})
    elif name is None:
        show.lines(show.table([(show.styled(each, fg="green"), of) for each, of in sorted(known.items())]))
    elif delete:
        click.echo(f"{label}: {name} deleted")
    else:
        click.echo(f"{label}: {name} is {version}")
