"""Versions as commands show them, those whose records cannot be read included. Pure functions, safe from any thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from artifactfs import names

if TYPE_CHECKING:
    from artifactfs.managers.base import ArtifactManager, VersionInfo


def info_of(manager: ArtifactManager, artifact: str, collection: str, version: str) -> VersionInfo:
    """The facts of a version; of one whose record cannot be read the name alone, with the reason as its message."""
    from artifactfs.errors import RECORD_FAULTS
    from artifactfs.managers.base import VersionInfo

    try:
        return manager.version_info(artifact, collection, version)
    except RECORD_FAULTS as error:
        if not names.is_version(version):
            raise
        return VersionInfo(collection, artifact, version, 0, 0, 0, message=f"cannot be read: {error}")


def infos_of(manager: ArtifactManager, artifact: str, collection: str) -> list[VersionInfo]:
    """The facts (`info_of`) of every live version, oldest first."""
    from artifactfs.errors import VersionNotFound

    known = {info.version: info for info in manager.list_versions(artifact, collection)}
    found = []
    for version in manager.list_version_names(artifact, collection):
        try:
            found.append(known.get(version) or info_of(manager, artifact, collection, version))
        except VersionNotFound:
            continue  # deleted since it was listed
    return found
