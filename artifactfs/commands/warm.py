"""``artifactfs warm``: put a version, or a part of one, into the content cache."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from artifactfs.commands import show
from artifactfs.commands.options import (
    ADDRESS,
    StoreChoice,
    artifact_of,
    cache_dir_option,
    json_option,
    size_in_bytes,
    store_options,
)

if TYPE_CHECKING:
    from artifactfs.address import Address


@click.command(short_help="Read a version, or a part of it, into the content cache.")
@click.argument("address", type=ADDRESS)
@cache_dir_option
@click.option("--cache-size", type=size_in_bytes, metavar="SIZE", help="How much the cache may hold.  [default: 10G]")
@json_option
@store_options
def warm(store: StoreChoice, address: Address, cache_dir: str | None, cache_size: int | None, as_json: bool) -> None:
    """Read a version, or one file or directory of it, into the content cache.

    Mounts with the same cache directory then read it without the store, also while the store cannot be reached.
    A store on the local disk is read in place and needs no cache.

    \b
    --json prints one object: collection, artifact, version, path (null for a whole version), files, size_bytes,
    fetched_bytes (what was not cached before), requests (to the store), seconds.
    """
    from artifactfs.content.cache import DEFAULT_SIZE_BYTES, ContentCache
    from artifactfs.content.metadata import StoreMemory, place_of
    from artifactfs.content.reader import ContentReader
    from artifactfs.content.warming import chosen, remember
    from artifactfs.content.warming import warm as warm_cache
    from artifactfs.errors import Unsupported

    artifact = artifact_of(address)
    manager = store.connect()
    if manager.local_root is not None:
        raise Unsupported(f"{manager.local_root} is on the local disk: it is read in place, nothing is cached")
    assert store.url is not None
    started = time.monotonic()
    cache = ContentCache(Path(cache_dir) if cache_dir else None, cache_size or DEFAULT_SIZE_BYTES)
    cache.ensure_created()
    info = manager.version_info(artifact, address.collection, address.version)
    manifest = manager.manifest(artifact, info.collection, info.version)
    positions = chosen(manifest, address.path)
    size_bytes = sum(map(manifest.size_at, positions))
    reader = ContentReader(manager, cache, place_of(store.url, store.options))
    with show.progress(f"warming {address}", lambda: size_bytes) as progress:
        warm_cache(reader, info, manifest, positions, progress)
    remember(StoreMemory(cache.directory, store.url, store.options), manager, info, manifest)
    seconds = round(time.monotonic() - started, 3)
    fetched, requests = reader.fetcher.fetched_bytes, reader.fetcher.requests
    if as_json:
        about = {"collection": info.collection, "artifact": artifact, "version": info.version, "path": address.path}
        amount = {"files": len(positions), "size_bytes": size_bytes, "fetched_bytes": fetched, "requests": requests}
        show.json_object({**about, **amount, "seconds": seconds})
        return
    what = f"{info.collection}/{artifact} {info.version}" + (f" {show.name(address.path)}" if address.path else "")
    held = f"{show.count(len(positions), 'file')}, {show.size(size_bytes)}, {show.size(fetched)} fetched"
    show.lines([f"{what}: {held}, {seconds:.1f} s"])
