"""``artifactfs log``: the history of an artifact."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import click

from artifactfs.commands import show
from artifactfs.commands.options import ADDRESS, StoreChoice, artifact_of, json_option, refuse_path, store_options
from artifactfs.commands.versions import info_of, infos_of

if TYPE_CHECKING:
    from artifactfs.address import Address
    from artifactfs.managers.base import VersionInfo


@click.command(short_help="Show the versions of an artifact, the newest first.")
@click.argument("address", type=ADDRESS)
@click.option("-n", "--limit", type=click.IntRange(min=1), metavar="NUMBER", help="Only so many, the newest.")
@json_option
@store_options
def log(store: StoreChoice, address: Address, limit: int | None, as_json: bool) -> None:
    """Show the versions of an artifact, the newest first: date, files, size, message, aliases, who made it.

    ADDRESS is collection/artifact, or one version of it.

    \b
    --json prints an array of objects: collection, artifact, version, created_at (ISO 8601, UTC), files,
    size_bytes, digest, message, metadata, creator, parent, aliases. What a store does not know is null.
    """
    manager = store.connect()
    artifact = artifact_of(address)
    refuse_path(address, "log")
    if address.version is not None:
        infos = [info_of(manager, artifact, address.collection, address.version)]
    else:
        infos = infos_of(manager, artifact, address.collection)[::-1][:limit]
    aliases = manager.aliases(artifact, address.collection)
    if as_json:
        show.json_array(show.version_fields(info, aliases) for info in infos)
        return
    latest = manager.list_version_names(artifact, address.collection)[-1:]
    heads = show.table([_head(info, aliases, info.version in latest) for info in infos], right=(2, 3))
    show.lines(line for head, info in zip(heads, infos, strict=True) for line in (head, *_body(info)))


def _head(info: VersionInfo, aliases: Mapping[str, str], is_latest: bool) -> tuple[str, ...]:
    named = [*show.aliases_of(info.version, aliases), *(["latest"] if is_latest else [])]
    return (
        show.styled(info.version, fg="yellow"),
        show.date(info.created_ns),
        show.count(info.file_count, "file"),
        show.size(info.size_bytes),
        show.one_line(info.creator),
        show.styled(" ".join(named), fg="green"),
    )


def _body(info: VersionInfo) -> Iterator[str]:
    for line in info.message.splitlines():
        yield f"    {show.one_line(line)}"
    if info.metadata:
        yield "    " + show.styled(json.dumps(dict(info.metadata), default=str), dim=True)
