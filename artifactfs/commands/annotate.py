"""``artifactfs annotate``: a message and metadata for a version that was made before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from artifactfs.commands import show
from artifactfs.commands.options import (
    ADDRESS,
    TEXT,
    StoreChoice,
    artifact_of,
    json_option,
    metadata_option,
    refuse_path,
    store_options,
)

if TYPE_CHECKING:
    from artifactfs.address import Address


@click.command(short_help="Give a version a message or metadata afterwards.")
@click.argument("address", type=ADDRESS)
@click.option("-m", "--message", type=TEXT, help="What to remember about the version, in place of what there is.")
@metadata_option
@json_option
@store_options
def annotate(
    store: StoreChoice, address: Address, message: str | None, metadata: dict[str, Any], as_json: bool
) -> None:
    """Give a version that was made before another message, or more metadata. Its files stay what they are.

    ADDRESS is collection/artifact, with @version for another version than the latest. Metadata is added to what there
    is, key by key. Of two at once the last one's words stay.

    \b
    --json prints one object, the version as it is then, with the fields of 'log'.
    """
    refuse_path(address, "annotate")
    artifact = artifact_of(address)
    if message is None and not metadata:
        raise click.UsageError("nothing to say: give -m MESSAGE or --metadata KEY=VALUE")
    manager = store.connect()
    version = manager.version_info(artifact, address.collection, address.version).version
    info = manager.annotate(artifact, version, address.collection, message=message, metadata=metadata or None)
    if as_json:
        show.json_object(show.version_fields(info, manager.aliases(artifact, address.collection)))
    else:
        click.echo(f"annotated {info.collection}/{artifact} {info.version}")
