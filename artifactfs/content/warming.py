"""Filling the content cache before it is needed. Functions without state, safe from any thread."""

from __future__ import annotations

from artifactfs.content.metadata import StoreMemory
from artifactfs.content.reader import ContentReader
from artifactfs.errors import PathNotFound, StoreFull
from artifactfs.links import resolve
from artifactfs.managers.base import ArtifactManager, Progress, VersionInfo
from artifactfs.manifest import EntryKind, Manifest

_PIECE_BYTES = 1 << 20


def chosen(manifest: Manifest, path: str | None) -> list[int]:
    """The positions of the files at and below `path`, symlinks followed; of all when None. Raises PathNotFound."""
    real = "" if path is None else resolve(manifest, path)
    if real is None:
        raise PathNotFound(f"the version has no {path!r}")
    return [
        position
        for position in range(len(manifest))
        if manifest.kind(position) is EntryKind.FILE
        and (not real or f"{manifest.path_at(position)}/".startswith(f"{real}/"))
    ]


def warm(
    reader: ContentReader,
    info: VersionInfo,
    manifest: Manifest,
    positions: list[int],
    progress: Progress | None = None,
) -> None:
    """Have these files of a version in the cache, each checked against its digest.

    Raises StoreFull (the cache is too small for them), IntegrityError, StoreUnreachable, AccessDenied.
    """
    total = sum(map(manifest.size_at, positions))
    if total > reader.cache.size_bytes:
        raise StoreFull(
            f"{total:,} bytes do not fit into a cache of {reader.cache.size_bytes:,}: choose fewer files, or a larger "
            "--cache-size here and for the mount"
        )
    done_bytes = 0
    for done_files, position in enumerate(positions):
        entry = manifest[position]
        file = reader.open(info, entry, manifest.algorithm, manifest, position)
        if file.whole_file() is None:
            for offset in range(0, entry.size_bytes, _PIECE_BYTES):
                done_bytes += len(file.read(_PIECE_BYTES, offset))
                if progress is not None:
                    progress(done_bytes, done_files)
        else:
            done_bytes += entry.size_bytes
    if progress is not None:
        progress(total, len(positions))


def remember(memory: StoreMemory, manager: ArtifactManager, info: VersionInfo, manifest: Manifest) -> None:
    """Note what a mount needs to show the version while the store cannot be reached.

    Raises StoreUnreachable, AccessDenied.
    """
    collection, artifact = info.collection, info.artifact
    memory.identity(manager)
    memory.note_listing(("collections",), manager.list_collection_names())
    memory.note_listing(("artifacts", collection), manager.list_artifacts(collection))
    memory.note_listing(("versions", collection, artifact), manager.list_version_names(artifact, collection))
    memory.note_listing(("aliases", collection, artifact), manager.aliases(artifact, collection))
    memory.note_version(info, manifest)
    memory.close()
