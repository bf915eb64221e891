"""``artifactfs put``: log a directory or a file as the next version."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from artifactfs.commands import show
from artifactfs.commands.options import (
    ADDRESS,
    PATH,
    StoreChoice,
    aliases_option,
    artifact_of,
    json_option,
    message_option,
    metadata_option,
    refuse_version,
    store_options,
)

if TYPE_CHECKING:
    from artifactfs.address import Address
    from artifactfs.managers.base import CommitResult


@click.command(short_help="Make a directory or file the next version of an artifact.")
@click.argument("local", type=PATH)
@click.argument("address", type=ADDRESS)
@message_option
@aliases_option
@metadata_option
@json_option
@store_options
def put(
    store: StoreChoice,
    local: str,
    address: Address,
    message: str,
    aliases: tuple[str, ...],
    metadata: dict[str, Any],
    as_json: bool,
) -> None:
    """Make the directory or file LOCAL the next version of an artifact.

    ADDRESS is collection/artifact, with :path for the directory of the version to put it in. The same content as
    that of the latest version makes no new one.

    \b
    --json prints one object: collection, artifact, version, created (false: same content as that version),
    files, size_bytes, digest, sent_bytes, deduplicated_bytes, seconds.
    """
    from artifactfs.errors import NotFound
    from artifactfs.managers.commit_id import new_commit_id

    refuse_version(address, "put")
    artifact = artifact_of(address)
    if not os.path.exists(local):
        raise NotFound(f"{local} does not exist")
    started = time.monotonic()
    with (
        store.to_write() as manager,
        show.progress(f"putting {address}", lambda: _size_of(local)) as progress,
    ):
        result = manager.commit_tree(
            artifact,
            Path(local),
            address.collection,
            commit_id=new_commit_id(),
            below=_place(local, address.path),
            message=message,
            metadata=metadata,
            aliases=aliases,
            progress=progress,
        )
    seconds = round(time.monotonic() - started, 3)
    if as_json:
        show.json_object({**result_fields(result), "seconds": seconds})
    else:
        click.echo(f"{result_text(result)}, {seconds:.1f} s")
        if result.note:
            click.echo(show.one_line(result.note))


def result_fields(result: CommitResult) -> dict[str, Any]:
    """What a commit gave, for JSON."""
    info = result.info
    return {
        "collection": info.collection,
        "artifact": info.artifact,
        "version": info.version,
        "created": result.created,
        "files": info.file_count,
        "size_bytes": info.size_bytes,
        "digest": info.digest,
        "sent_bytes": result.sent_bytes,
        "deduplicated_bytes": result.deduplicated_bytes,
    }


def result_text(result: CommitResult) -> str:
    """What a commit gave, for people."""
    info = result.info
    if not result.created:
        return f"{info.collection}/{info.artifact} unchanged: same content as {info.version}"
    sent, spared = show.size(result.sent_bytes), show.size(result.deduplicated_bytes)
    label = f"{info.collection}/{info.artifact} {info.version}"
    return f"{label}: {show.count(info.file_count, 'file')}, {sent} sent, {spared} already there"


def _place(local: str, directory: str | None) -> str:
    """The place in the version: a file keeps its name, in the directory that was asked for."""
    if directory is None or os.path.isdir(local):
        return directory or ""
    return f"{directory}/{os.path.basename(os.path.abspath(local))}"


def _size_of(local: str) -> int:
    """Bytes of a file, or of all files below a directory; what cannot be read is left to the commit to report."""
    if not os.path.isdir(local):
        return os.stat(local).st_size
    total = 0
    pending = [local]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total
