"""``artifactfs get``: copy a version, or a part of one, to the disk."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from artifactfs.commands import show
from artifactfs.commands.options import (
    ADDRESS,
    DIRECTORY,
    CommandError,
    StoreChoice,
    artifact_of,
    json_option,
    store_options,
)

if TYPE_CHECKING:
    from artifactfs.address import Address
    from artifactfs.manifest import Manifest


@click.command(short_help="Copy a version, or a part of it, to the disk.")
@click.argument("address", type=ADDRESS)
@click.argument("to", type=DIRECTORY, default=".")
@click.option("--keep", is_flag=True, help="Leave other files in the directory beside those of the version.")
@click.option("--delete", is_flag=True, help="Delete other files in the directory, once the version is there.")
@json_option
@store_options
def get(store: StoreChoice, address: Address, to: str, keep: bool, delete: bool, as_json: bool) -> None:
    """Copy a version, or one file or directory of it, into the directory TO (default: the current one).

    ADDRESS is collection/artifact[@version][:path]. A version comes as TO/artifact, a part of it as TO/name. Every file
    is checked; files of the same path are replaced. A directory that holds other files, of an older version for
    example, is refused, unless --keep or --delete says what becomes of them.

    \b
    --json prints one object: collection, artifact, version, path (null for a whole version), target (what was
    written), files, size_bytes, seconds, deleted (how many files and directories).
    """
    from artifactfs.extraneous import remove
    from artifactfs.parts import part_of, restore_part

    artifact = artifact_of(address)
    if keep and delete:
        raise click.UsageError("--keep and --delete exclude each other")
    manager = store.connect()
    info = manager.version_info(artifact, address.collection, address.version)
    files, size_bytes, path = info.file_count, info.size_bytes, None
    started = time.monotonic()
    others: list[str] = []
    where = str(Path(to, artifact))
    if address.path is not None:
        part = part_of(manager.manifest(artifact, address.collection, info.version), address.path)
        files, size_bytes, path = part.manifest.file_count, part.manifest.size_bytes, part.path
        where = str(Path(to, part.name))
    if not keep and os.path.isdir(where):
        manifest = manager.manifest(artifact, address.collection, info.version)
        others = _others(manifest, path or "", where, delete)
    with show.progress(f"getting {address}", lambda: size_bytes) as progress:
        if path is None:
            target = manager.download_artifact(artifact, address.collection, info.version, Path(to), progress=progress)
        else:
            target = restore_part(manager, info, part, Path(to), progress)
    for other in others:
        remove(where, other)
    seconds = round(time.monotonic() - started, 3)
    if as_json:
        about = {"collection": info.collection, "artifact": artifact, "version": info.version, "path": path}
        done = {"target": str(target), "files": files, "size_bytes": size_bytes, "seconds": seconds}
        done["deleted"] = len(others)
        show.json_object({**about, **done})
        return
    what = f"{info.collection}/{artifact} {info.version}" + (f" {show.name(path)}" if path else "")
    amount = f"{show.count(files, 'file')}, {show.size(size_bytes)}, {seconds:.1f} s"
    gone = f", {show.count(len(others), 'other')} deleted" if others else ""
    show.lines([f"{what}: {show.name(str(target))}, {amount}{gone}"])


def _others(manifest: Manifest, path: str, where: str, delete: bool) -> list[str]:
    """Files that `where` holds besides the directory `path` of a version. Raises CommandError for any unless `delete`.

    A file is in the way of a directory: whoever writes it says so.
    """
    from artifactfs.extraneous import extraneous

    if not manifest.is_directory(path):
        return []
    found = extraneous(manifest, path, where)
    if found and not delete:
        shown = ", ".join(show.one_line(each) for each in found[:3]) + (", …" if len(found) > 3 else "")
        raise CommandError(
            f"{where} holds what is not of this version: {shown}; take another directory, or say --keep or --delete"
        )
    return found
