"""``artifactfs copy``: a version, or an artifact with all of them, to another artifact, collection or store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from artifactfs.commands import show
from artifactfs.commands.options import (
    ADDRESS,
    URL,
    CommandError,
    StoreChoice,
    artifact_of,
    connected_to_write,
    json_option,
    key_value,
    nested,
    refuse_path,
    refuse_version,
    store_options,
)
from artifactfs.commands.put import result_fields, result_text

if TYPE_CHECKING:
    from artifactfs.address import Address
    from artifactfs.managers.base import ArtifactManager, CommitResult, VersionInfo


@click.command(short_help="Copy versions to another artifact, collection or store.")
@click.argument("source", type=ADDRESS)
@click.argument("target", type=ADDRESS, required=False)
@click.option("--to-store", type=URL, metavar="URL", help="The store to copy to.  [default: the store itself]")
@click.option(
    "--to-storage-option",
    "to_options",
    type=key_value,
    metavar="KEY=VALUE",
    multiple=True,
    help="An option of the store that is copied to; may be repeated.",
)
@json_option
@store_options
def copy(
    store: StoreChoice,
    source: Address,
    target: Address | None,
    to_store: str | None,
    to_options: tuple[tuple[str, Any], ...],
    as_json: bool,
) -> None:
    """Copy a version, or all versions of an artifact, to the collection or artifact TARGET.

    SOURCE is collection/artifact[@version], TARGET is collection[/artifact]; with --to-store it may be left out, for
    the same name there. Versions get the next numbers of the target. Messages and metadata are kept, and with a whole
    artifact those aliases that the target does not use yet. What the other store has already is not sent, and a copy
    that was made before is not made again.

    \b
    --json prints an array of objects: the fields of 'put' without seconds, for the version in the target, and
    source (collection, artifact, version).
    """
    refuse_path(source, "copy")
    manager = store.connect()
    with nullcontext(manager) if to_store is None else connected_to_write(to_store, nested(to_options)) as there:
        _copy(manager, source, there, target, to_store, as_json=as_json)


def _copy(
    manager: ArtifactManager,
    source: Address,
    there: ArtifactManager,
    target: Address | None,
    to_store: str | None,
    *,
    as_json: bool,
) -> None:
    collection, artifact = _target(source, target, to_store)
    same_place = (collection, artifact) == (source.collection, source.artifact)
    if same_place and (there is manager or (there.store_id is not None and there.store_id == manager.store_id)):
        raise CommandError(f"{source} would be copied to itself: name another collection, artifact or store")
    results: list[tuple[VersionInfo, CommitResult]] = []
    for info, result in _copies(manager, source, there, collection, artifact):
        results.append((info, result))
        if not as_json:
            click.echo(_as_text(info, result))
    if source.version is None:
        _copy_aliases(manager, there, results)
    if as_json:
        show.json_array({**result_fields(result), "source": _label(info)} for info, result in results)


def _target(source: Address, target: Address | None, to_store: str | None) -> tuple[str, str]:
    """The collection and the artifact to copy to."""
    artifact = artifact_of(source)
    if target is None:
        if to_store is None:
            raise click.UsageError("TARGET is missing; it may be left out only with --to-store")
        return source.collection, artifact
    refuse_path(target, "the target of a copy")
    refuse_version(target, "the target of a copy")
    return target.collection, target.artifact or artifact


def _copies(
    manager: ArtifactManager, source: Address, there: ArtifactManager, collection: str, artifact: str
) -> Iterator[tuple[VersionInfo, CommitResult]]:
    """Copy one version after the other, the oldest first."""
    from artifactfs.transfer import copy_version

    name = artifact_of(source)
    if source.version is not None:
        infos = [manager.version_info(name, source.collection, source.version)]
    else:
        infos = manager.list_versions(name, source.collection)
    for info in infos:
        total = partial(int, info.size_bytes)
        with show.progress(f"copying {source.collection}/{name} {info.version}", total) as progress:
            result = copy_version(manager, info, there, collection, artifact, progress)
        yield info, result


def _copy_aliases(
    manager: ArtifactManager, there: ArtifactManager, results: list[tuple[VersionInfo, CommitResult]]
) -> None:
    copies = {info.version: result.info for info, result in results}
    for info, result in results[:1]:
        target = result.info
        taken = there.aliases(target.artifact, target.collection)
        for alias, version in sorted(manager.aliases(info.artifact, info.collection).items()):
            if version in copies and alias not in taken:
                there.set_alias(target.artifact, alias, copies[version].version, target.collection)


def _as_text(info: VersionInfo, result: CommitResult) -> str:
    source = f"{info.collection}/{info.artifact} {info.version}"
    if not result.created:
        target = result.info
        return f"{source} is there already: {target.collection}/{target.artifact} {target.version}"
    text = f"{source} copied to {result_text(result)}"
    return f"{text}\n{show.one_line(result.note)}" if result.note else text


def _label(info: VersionInfo) -> dict[str, str]:
    return {"collection": info.collection, "artifact": info.artifact, "version": info.version}
