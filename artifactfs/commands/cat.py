"""``artifactfs cat``: the bytes of one file."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from artifactfs.commands.options import ADDRESS, StoreChoice, artifact_of, store_options

if TYPE_CHECKING:
    from artifactfs.address import Address

# Up to this size a file is checked before a byte of it is printed; a larger one as it is printed.
_CHECKED_FIRST_BYTES = 64 << 20


@click.command(short_help="Print a file of a version, byte for byte.")
@click.argument("address", type=ADDRESS)
@store_options
def cat(store: StoreChoice, address: Address) -> None:
    """Print a file of a version, byte for byte.

    ADDRESS is collection/artifact[@version]:path; symlinks are followed. A file of more than 64 MiB is checked while it
    is printed: when its digest is wrong, that is said at its end, with exit status 1.
    """
    from artifactfs.content.stream import chunks
    from artifactfs.errors import InvalidName, PathNotFound
    from artifactfs.links import file_at

    artifact = artifact_of(address)
    if address.path is None:
        raise InvalidName(f"{address} names no file: say which, as in {address}:PATH")
    manager = store.connect()
    info = manager.version_info(artifact, address.collection, address.version)
    manifest = manager.manifest(artifact, address.collection, info.version)
    entry = file_at(manifest, address.path)
    if entry is None:
        what = "is a directory" if manifest.is_directory(address.path) else "does not exist"
        raise PathNotFound(f"{address} {what}")
    out = sys.stdout.buffer
    pieces = chunks(manager, info, entry, algorithm=manifest.algorithm, checked_first_bytes=_CHECKED_FIRST_BYTES)
    for chunk in pieces:
        out.write(chunk)
    # Here rather than at exit, so that a reader who went away is noticed where it can be answered.
    out.flush()
