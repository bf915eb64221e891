"""Copying a version to another artifact, collection or store.

Between two stores of the object layout only the objects that are missing travel (`objects.transfer`); between other
managers the files do, through a temporary directory. Message and metadata are kept; the date and the creator are those
of the copy. A copy carries the commit id of its original, so that the same copy made twice is one version.

Threading: functions without state; any number may run at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from blake3 import blake3

from artifactfs import names
from artifactfs.errors import ArtifactNotFound, CollectionNotFound
from artifactfs.managers.base import ArtifactManager, CommitResult, Progress, TmpArtifact, VersionInfo
from artifactfs.managers.filesystem import FileSystemArtifactManager
from artifactfs.objects.commit import Commit
from artifactfs.objects.transfer import Transfer

# As many of the target's latest versions are asked which objects are there; see `objects.commit`.
_KNOWN_VERSIONS = 4


def copy_version(
    source: ArtifactManager,
    info: VersionInfo,
    target: ArtifactManager,
    collection: str,
    artifact: str,
    progress: Progress | None = None,
) -> CommitResult:
    """Make the version `info` of `source` the next version of an artifact of `target`.

    A copy that is there already is found (``created=False``), unless it was deleted there: then it is made anew.
    Raises IntegrityError, InvalidName, UnsafeStore, StoreFull, StoreUnreachable, AccessDenied.
    """
    names.check_collection(collection)
    names.check_artifact(artifact)
    target.ensure_created()
    for attempt in count():
        commit_id = _commit_id(info, attempt)
        before = live_versions(target, collection, artifact)
        found = next((version for version in before if version.commit_id == commit_id), None)
        if found is not None:
            return CommitResult(found, created=False, deduplicated_bytes=found.size_bytes)
        result = _copy(source, info, target, collection, artifact, commit_id, progress)
        made = result.info.version
        # A version that this id made and somebody deleted is answered as well.
        if made in target.list_version_names(artifact, collection):
            created = all(version.version != made for version in before)
            return CommitResult(result.info, created, result.sent_bytes, result.deduplicated_bytes, result.note)
    raise AssertionError("count() does not end")


def live_versions(manager: ArtifactManager, collection: str, artifact: str) -> list[VersionInfo]:
    """The live versions of an artifact, none when it does not exist. Raises StoreUnreachable, AccessDenied."""
    try:
        return manager.list_versions(artifact, collection)
    except (ArtifactNotFound, CollectionNotFound):
        return []


def _commit_id(info: VersionInfo, attempt: int) -> str:
    original = info.commit_id
    if original is None:
        what = f"{info.collection}/{info.artifact}@{info.version} {info.digest} {info.created_ns}"
        original = blake3(what.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return original if attempt == 0 else blake3(f"{original} {attempt}".encode()).hexdigest()[:32]


def _copy(
    source: ArtifactManager,
    info: VersionInfo,
    target: ArtifactManager,
    collection: str,
    artifact: str,
    commit_id: str,
    progress: Progress | None,
) -> CommitResult:
    if isinstance(source, FileSystemArtifactManager) and isinstance(target, FileSystemArtifactManager):
        commit = Commit(
            collection,
            artifact,
            "",
            commit_id,
            message=info.message,
            metadata=info.metadata,
            progress=progress,
        )
        return _copy_objects(source, info, target, commit)
    with TmpArtifact(source, info.collection, info.artifact, info.version) as files:
        return target.commit_tree(
            artifact,
            files,
            collection,
            commit_id=commit_id,
            message=info.message,
            metadata=info.metadata,
            consume=True,
            progress=progress,
        )


def _copy_objects(
    source: FileSystemArtifactManager, info: VersionInfo, target: FileSystemArtifactManager, commit: Commit
) -> CommitResult:
    manifest = source.manifest(info.artifact, info.collection, info.version)
    if source.store_id == target.store_id:
        known = set(manifest.objects)
    elif target.local_root is not None:
        known = set()  # there, looking at an object and its bytes costs less than sending it
    else:
        known = {name for version in _relatives(target, info, commit) for name in _objects(target, version)}
    done = Transfer(source.store, target.store, known, lambda _name: manifest).bring(manifest, commit)
    return CommitResult(
        done.record.info(commit.collection, commit.artifact), done.created, done.sent_bytes, done.deduplicated_bytes
    )


def _relatives(target: FileSystemArtifactManager, info: VersionInfo, commit: Commit) -> Iterator[VersionInfo]:
    """Live versions of the target that are likely to need the same objects."""
    yield from live_versions(target, commit.collection, commit.artifact)[-_KNOWN_VERSIONS:]
    for collection in target.list_collection_names():
        for artifact in {info.artifact, commit.artifact}:
            for version in live_versions(target, collection, artifact):
                if version.digest == info.digest:
                    yield version


def _objects(target: FileSystemArtifactManager, version: VersionInfo) -> list[str]:
    return target.manifest(version.artifact, version.collection, version.version).objects
