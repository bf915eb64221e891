"""``artifactfs stage``: fill staging from a version, to change a part of it."""

from __future__ import annotations

import errno
from pathlib import Path

import click

from artifactfs.commands.options import PATH
from artifactfs.commands.show import count, size


@click.command(short_help="Fill the staging of an artifact from one of its versions.")
@click.argument("path", type=PATH, metavar="PATH[@VERSION]")
def stage(path: str) -> None:
    """Fill the empty staging of the artifact at PATH from one of its versions, without moving bytes.

    VERSION is v3, an alias or latest, which it is when nothing is said; PATH may also be the version's own directory.
    The files stand for those of the version until they are written to, so the next commit sends only what changed.
    Nothing is committed before something is changed.
    """
    from mount import client

    directory, version = _split(path)
    place = client.find_place(directory)
    try:
        client.stage(place.staging, version)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise client.ClientError(f"{place.label} has something staged: commit or discard it first") from error
        if error.errno == errno.ENOENT:
            raise client.ClientError(f"{place.label} has no version or alias {version!r}") from error
        if error.errno == errno.ENOTSUP:
            raise client.ClientError(
                "the disk that files are staged on keeps no extended attributes: copy the version into staging instead"
            ) from error
        raise client.refused(error, f"staging {version} of {place.label}") from error
    staged = client.read_state(place.staging).staged
    files, size_bytes = (staged.files, staged.size_bytes) if staged else (0, 0)
    click.echo(f"staged {version} of {place.label}: {count(files, 'file')}, {size(size_bytes)}, by reference")


def _split(path: str) -> tuple[Path, str]:
    """(the artifact's directory, the version) of what the user gave."""
    from artifactfs import names

    given = Path(path)
    if not given.exists() and "@" in given.name:
        artifact, _, version = given.name.rpartition("@")
        return given.with_name(artifact), version
    # An alias is a symlink to its version.
    real = given.resolve()
    if names.is_version(real.name):
        return real.parent, real.name
    return given, names.LATEST
