"""``artifactfs catalog``: the catalog of a collection or of the whole store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from artifactfs.commands import show
from artifactfs.commands.options import ADDRESS, StoreChoice, json_option, store_options

if TYPE_CHECKING:
    from artifactfs.address import Address


@click.command(short_help="Print the catalog of a collection, or of the whole store.")
@click.argument("collection", type=ADDRESS, required=False)
@click.option("-o", "--output", metavar="FILE", help="Write to this path or fsspec URL instead of printing.")
@json_option
@store_options
def catalog(store: StoreChoice, collection: Address | None, output: str | None, as_json: bool) -> None:
    """Print the catalog of COLLECTION, or of the whole store, as YAML that squirrel's Catalog reads as well.

    Credentials in the store's URL and options are left out.

    \b
    --json prints an array of objects: identifier, version (counted from 1), driver_name, driver_kwargs, metadata.
    """
    from artifactfs.errors import InvalidName

    if collection is not None and collection.artifact is not None:
        raise InvalidName(f"{collection}: catalog takes a collection, without an artifact")
    if as_json and output is not None:
        raise click.UsageError("--json prints; it cannot be combined with --output")
    manager = store.connect()
    if collection is None:
        found = manager.store_to_catalog()
    else:
        found = manager.collection_to_catalog(collection.collection)
    if as_json:
        show.json_array(
            {
                "identifier": source.identifier,
                "version": source.version,
                "driver_name": source.driver_name,
                "driver_kwargs": source.driver_kwargs,
                "metadata": source.metadata,
            }
            for source in found.all_versions()
        )
    elif output is None:
        show.lines([found.to_str()], end="")
    else:
        found.to_file(output)
        sources = sum(1 for _ in found.all_versions())
        click.echo(f"{output}: {show.count(sources, 'version')} of {show.count(len(found), 'artifact')}")
