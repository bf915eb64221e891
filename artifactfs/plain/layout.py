"""Where things lie in squirrel's layout. Pure functions, safe from any thread; the package says why there."""

from __future__ import annotations

import msgspec

from artifactfs import names
from artifactfs.errors import CollectionNotFound, FormatError
from artifactfs.objects.layout import TEMPORARY_PREFIX, shown_collection, stored_artifact, stored_collection

FILES = "files"
RECORD = ".artifactfs.json"
MANIFEST = ".artifactfs.manifest"
NOTES = ".artifactfs"
"""The directory in an artifact's v0 with its aliases, tombstones and pending versions."""

OWN_NAMES = frozenset({RECORD, MANIFEST, NOTES})
"""What we keep in a version beside its files."""

SERIALIZED = ("jsonl", "messagepack")
"""What squirrel names the data of a version that its serializers wrote."""

RESERVED = frozenset({".artifactfs", "lost+found"})
"""Directories in the root that are no collections."""

MARK = ".artifactfs/store"
"""The directory that marks a store without versions, and holds what is being staged or made. It is there only then."""
SIDE = f"{MARK}/v0"
TEMPORARY = f"{SIDE}/tmp"
STAGING = f"{SIDE}/staging"
OLD_NOTES = f"{SIDE}/collections"
"""Below it the first programs kept the notes of every artifact."""
OLD_ABOUT = f"{SIDE}/files"
"""A directory in which the first programs told what the marker is."""
_PENDING_SUFFIX = ".pending"


class Pending(msgspec.Struct, frozen=True):
    """``vN.pending``: a version of a remote store that is not whole yet, and the commit that makes it."""

    commit: str


def collection_key(collection: str) -> str:
    """The key of a collection, named as listings show it. Raises InvalidName, CollectionNotFound."""
    stored = stored_collection(collection)
    if is_reserved(stored):
        raise CollectionNotFound(f"{collection!r} is no collection")
    return stored


def artifact_key(collection: str, artifact: str) -> str:
    """The key below which an artifact's versions lie."""
    return f"{collection_key(collection)}/{stored_artifact(artifact)}"


def version_key(collection: str, artifact: str, number: int) -> str:
    """The key below which a version lies."""
    return f"{artifact_key(collection, artifact)}/{names.version_name(number)}"


def notes_prefix(collection: str, artifact: str) -> str:
    """The key below which an artifact's aliases, tombstones and pending versions lie."""
    return f"{version_key(collection, artifact, 0)}/{NOTES}"


def old_notes_prefix(collection: str, artifact: str) -> str:
    """The key below which the first programs kept the same."""
    return f"{OLD_NOTES}/{artifact_key(collection, artifact)}"


def record_key(prefix: str, number: int) -> str:
    """The key of a version's record; `prefix` is from :func:`notes_prefix` or :func:`old_notes_prefix`."""
    artifact = prefix.removeprefix(f"{OLD_NOTES}/").removesuffix(f"/{names.version_name(0)}/{NOTES}")
    return f"{artifact}/{names.version_name(number)}/{RECORD}"


def pending_key(prefix: str, number: int) -> str:
    """The key that says a version is not whole yet."""
    return f"{prefix}/{names.version_name(number)}{_PENDING_SUFFIX}"


def pending_number(name: str) -> int | None:
    """The number of a file name such as ``v3.pending``, None when it is something else."""
    stem = name.removesuffix(_PENDING_SUFFIX)
    return names.version_number(stem) if stem != name and names.is_version(stem) else None


def decode_pending(raw: bytes, key: str) -> Pending:
    """Read ``vN.pending``. Raises FormatError."""
    try:
        return msgspec.json.decode(raw, type=Pending)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{key} is damaged: {error}") from error


def is_reserved(name: str) -> bool:
    """Tell whether a directory in the root is no collection."""
    return name in RESERVED or name.startswith(TEMPORARY_PREFIX)


def shown_collections(directories: list[str]) -> list[str]:
    """The collections among the directories of the root, sorted, as listings show them."""
    return sorted(shown_collection(name) for name in directories if not is_reserved(name))
