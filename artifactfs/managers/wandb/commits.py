"""Making a version: what has to be asked before, the worker's part, and what to do when somebody else was faster.

A commit first looks for a version with its id, and whether its content is that of the latest one; then the whole of it
is logged by a run of its own in a process that can be killed. W&B numbers versions itself, so the answer says which one
it became. Logged by two at once, W&B refuses one with a conflict, and that one starts over.

Threading: any thread. Commits to one artifact by this process are made one at a time, under a lock of their own that is
held across them: W&B would refuse all but one of those at the same moment.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from artifactfs.errors import ArtifactNotFound, CollectionNotFound, SerializationError, UnsupportedTree
from artifactfs.managers.base import CommitResult, Progress, VersionInfo
from artifactfs.managers.wandb import process, side_file
from artifactfs.managers.wandb.versions import KEY, check_new, metadata_of
from artifactfs.manifest import Entry, EntryKind, Manifest
from artifactfs.objects.hashing import open_regular
from artifactfs.objects.scan import scan_tree

_ATTEMPTS = 6
_BLOCK_BYTES = 1 << 20
# W&B takes a hundred keys; one is ours.
_MAX_KEYS = 99
_LEAST_BYTES_A_SECOND = 64 << 10
_LEAST_S = 600.0


class _Lock:
    """One artifact's; lives as long as somebody commits to it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


_locks: weakref.WeakValueDictionary[tuple[str, str], _Lock] = weakref.WeakValueDictionary()
_locks_lock = threading.Lock()


class Store(Protocol):
    """What a commit needs of the manager."""

    def project_path(self) -> str:
        """``entity/project``."""

    def list_versions(self, artifact: str, collection: str | None = None) -> list[VersionInfo]:
        """As in `ArtifactManager`."""

    def version_info(self, artifact: str, collection: str | None = None, version: str | None = None) -> VersionInfo:
        """As in `ArtifactManager`."""

    def manifest(self, artifact: str, collection: str | None = None, version: str | None = None) -> Manifest:
        """As in `ArtifactManager`."""

    def add_aliases(self, info: VersionInfo, aliases: Sequence[str]) -> None:
        """Point aliases at a version."""


@dataclass(frozen=True)
class Commit:
    """One commit, as `ArtifactManager.commit_tree` is asked for it."""

    collection: str
    artifact: str
    tree: str
    commit_id: str
    below: str = ""
    message: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    aliases: Sequence[str] = ()
    progress: Progress | None = None


def commit(store: Store, wanted: Commit) -> CommitResult:
    """Make the version. Raises as `ArtifactManager.commit_tree`."""
    check_new(wanted.collection, wanted.artifact)
    check_metadata(wanted.metadata)
    tree = _Tree(wanted.tree, wanted.below)
    place = store.project_path(), wanted.artifact
    with _locks_lock:
        mine = _locks.setdefault(place, _Lock())
    with mine.lock:
        for attempt in range(_ATTEMPTS):
            try:
                result = _attempt(store, wanted, tree)
                break
            except process.Conflict:
                if attempt + 1 == _ATTEMPTS:
                    raise
                time.sleep(random.uniform(0.1, 0.5) * 2**attempt)
    if wanted.progress is not None:
        wanted.progress(result.info.size_bytes, result.info.file_count)
    return result


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Raises SerializationError for metadata that W&B cannot keep beside ours."""
    try:
        json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SerializationError(f"metadata must be JSON: {error}") from error
    if KEY in metadata or len(metadata) > _MAX_KEYS:
        raise SerializationError(f"W&B keeps metadata of at most {_MAX_KEYS} keys; {KEY!r} is artifactfs's own")


def _attempt(store: Store, wanted: Commit, tree: _Tree) -> CommitResult:
    try:
        known = store.list_versions(wanted.artifact, wanted.collection)
    except (ArtifactNotFound, CollectionNotFound):
        known = []
    made = next((info for info in known if info.commit_id == wanted.commit_id), None)
    if made is not None:
        store.add_aliases(made, wanted.aliases)
        return CommitResult(made, created=True, deduplicated_bytes=made.size_bytes)
    latest = store.manifest(wanted.artifact, wanted.collection, known[-1].version) if known else None
    # What others logged has no permission bits to be compared.
    if latest is not None and tree.is_content_of(latest, with_modes=bool(known[-1].commit_id)):
        store.add_aliases(known[-1], wanted.aliases)
        return CommitResult(known[-1], created=False, deduplicated_bytes=known[-1].size_bytes)
    return _log(store, wanted, tree, latest)


def _log(store: Store, wanted: Commit, tree: _Tree, latest: Manifest | None) -> CommitResult:
    files = tree.files()
    stored = side_file.stored_names(entry.path for entry, _ in files)
    size_bytes = tree.manifest.size_bytes
    with tempfile.TemporaryDirectory(prefix="artifactfs-wandb-") as directory:
        side = side_file.write(tree.manifest, stored, wanted.commit_id)
        side_place = os.path.join(directory, side_file.SIDE_FILE)
        with open(side_place, "xb") as file:
            file.write(side)
        entity, _, project = store.project_path().partition("/")
        answer = _in_worker(
            _moved(wanted.progress, size_bytes),
            entity=entity,
            project=project,
            type=wanted.collection,
            name=wanted.artifact,
            files=[[stored[entry.path], place] for entry, place in files] + [[side_file.SIDE_FILE, side_place]],
            description=wanted.message,
            metadata=metadata_of(wanted.metadata, wanted.commit_id, len(side)),
            aliases=list(wanted.aliases),
            timeout_s=_LEAST_S + size_bytes / _LEAST_BYTES_A_SECOND,
        )
    held = {entry.digest for entry in latest} if latest is not None else set()
    sizes = {digest: entry.size_bytes for digest, (entry, _) in zip(answer["digests"], files, strict=False)}
    sent = sum(size for digest, size in sizes.items() if digest not in held)
    info = store.version_info(wanted.artifact, wanted.collection, answer["version"])
    return CommitResult(info, created=True, sent_bytes=sent, deduplicated_bytes=size_bytes - sent)


def _in_worker(on_moved: Callable[[int], None], **arguments: Any) -> dict[str, Any]:
    with process.committer() as worker:
        answer = worker.start("commit", **arguments)
        found: dict[str, Any] = worker.watched(answer, on_moved)
        return found


def _moved(progress: Progress | None, size_bytes: int) -> Callable[[int], None]:
    def tell(moved: int) -> None:
        # Every byte is read to be hashed, read again and sent.
        if progress is not None:
            progress(min(moved // 3, size_bytes), 0)

    return tell


class _Tree:
    """A tree to be logged: its manifest, without digests, and where its files lie."""

    def __init__(self, tree: str, below: str) -> None:
        self._scan = scan_tree(tree, below)
        # Rows of the scan are in the order of the paths, so they are those of the manifest.
        self.manifest = Manifest.of(self._scan.builder.rows())
        for row, entry in enumerate(self.manifest):
            if not _is_utf8(entry.path):
                raise UnsupportedTree(f"{self._scan.path(row)} is not named in UTF-8, which W&B cannot keep")
            if not _is_utf8(entry.target or ""):
                raise UnsupportedTree(
                    f"symlink {self._scan.path(row)} leads to a name that is no UTF-8, which W&B cannot keep"
                )

    def files(self) -> list[tuple[Entry, str]]:
        """Every file and its place on disk."""
        rows = enumerate(self.manifest)
        return [(entry, self._scan.path(row)) for row, entry in rows if entry.kind is EntryKind.FILE]

    def is_content_of(self, latest: Manifest, *, with_modes: bool) -> bool:
        """Tell whether this is the content of a version. Files are read only where all else is alike."""
        if with_modes and not self.manifest.has_modes_of(latest):
            return False
        if self.manifest.file_count != latest.file_count or self.manifest.size_bytes != latest.size_bytes:
            return False
        digests: dict[str, str] = {}
        for entry, place in self.files():
            there = latest.find(entry.path)
            if there is None or there.size_bytes != entry.size_bytes or there.digest != _md5(place):
                return False
            digests[entry.path] = there.digest
        mine = (entry._replace(digest=digests.get(entry.path)) for entry in self.manifest)
        return Manifest(mine, algorithm="md5").content_digest() == latest.content_digest()


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _md5(path: str) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    fd = open_regular(path)
    try:
        while block := os.read(fd, _BLOCK_BYTES):
            digest.update(block)
    finally:
        os.close(fd)
    return digest.hexdigest()
