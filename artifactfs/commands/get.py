"""``artifactfs get``: copy a version, or a part of one, to the disk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from artifactfs.commands import show
from artifactfs.commands.options import ADDRESS, DIRECTORY, StoreChoice, artifact_of, json_option, store_options

if TYPE_CHECKING:
    from artifactfs.address import Address


@click.command()
@click.argument("address", type=ADDRESS)
@click.argument("to", type=DIRECTORY, default=".")
@json_option
@store_options
def get(store: StoreChoice, address: Address, to: str, as_json: bool) -> None:
    """Copy a version, or one file or directory of it, into the directory TO (default: the current one).

    ADDRESS is collection/artifact[@version][:path]. A version comes as TO/artifact, a part of it as TO/name. Every file
    is checked; files of the same path are replaced, others stay.

    \b
    --json prints one object: collection, artifact, version, path (null for a whole version), target (what was
    written), files, size_bytes, seconds.
    """
    from artifactfs.parts import part_of, restore_part

    artifact = artifact_of(address)
    manager = store.connect()
    info = manager.version_info(artifact, address.collection, address.version)
    files, size_bytes, path = info.file_count, info.size_bytes, None
    started = time.monotonic()
    if address.path is not None:
        part = part_of(manager.manifest(artifact, address.collection, info.version), address.path)
        files, size_bytes, path = part.manifest.file_count, part.manifest.size_bytes, part.path
    with show.progress(f"getting {address}", lambda: size_bytes) as progress:
        if path is None:
            target = manager.download_artifact(artifact, address.collection, info.version, Path(to), progress=progress)
        else:
            target = restore_part(manager, info, part, Path(to), progress)
    seconds = round(time.monotonic() - started, 3)
    if as_json:
        about = {"collection": info.collection, "artifact": artifact, "version": info.version, "path": path}
        done = {"target": str(target), "files": files, "size_bytes": size_bytes, "seconds": seconds}
        show.json_object({**about, **done})
        return
    what = f"{info.collection}/{artifact} {info.version}" + (f" {show.name(path)}" if path else "")
    amount = f"{show.count(files, 'file')}, {show.size(size_bytes)}, {seconds:.1f} s"
    show.lines([f"{what}: {show.name(str(target))}, {amount}"])
