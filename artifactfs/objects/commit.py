"""Making a version of a tree.

The order is the whole of the safety. Objects first, which nobody sees and a repeated commit finds again; then they are
flushed; then the record by exclusive create at the next number, and in that instant the version exists; then adopted
files become read-only and aliases are set. Killed before the record: no version, the tree untouched (an adopted file is
one more link to an unchanged inode). Killed after it: the same commit id finds the record and does what was left.

Exactly one version per commit id holds among any number of writers, because any record that appears after a writer
looked for its id takes the number that writer tries, and then it looks again.

Threading: any thread and any process; no lock is needed.
"""

from __future__ import annotations

import functools
import getpass
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from artifactfs.errors import FormatError, IntegrityError, UnsupportedTree
from artifactfs.managers.base import Progress, ReferenceOf
from artifactfs.manifest import Manifest
from artifactfs.objects import layout
from artifactfs.objects.history import History, Numbers
from artifactfs.objects.layout import Creator, Record
from artifactfs.objects.packs import KnownContents, Packer
from artifactfs.objects.scan import scan_tree
from artifactfs.objects.store import ObjectStore, Outcome

_log = logging.getLogger(__name__)

# Contents are looked for in this many of the latest versions, while they have together no more files than that.
_DEDUP_VERSIONS = 4
_DEDUP_FILES = 1_000_000


@dataclass(frozen=True)
class Commit:
    """What is to become a version: the tree, where it goes and what the record says of it.

    `below` is a directory of the version to put the tree in, '' for its top. `consume`: see
    `ArtifactManager.commit_tree`.
    """

    collection: str
    artifact: str
    tree: str
    commit_id: str
    below: str = ""
    message: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    consume: bool = False
    reference_of: ReferenceOf | None = None
    progress: Progress | None = None


@dataclass(frozen=True)
class Committed:
    """What came of a commit. `created` also when a commit is repeated: its version is the one it made."""

    record: Record
    created: bool
    sent_bytes: int = 0
    deduplicated_bytes: int = 0


class Committer:
    """Commits trees to one store. `load_manifest` gives the manifest with that object name."""

    def __init__(self, store: ObjectStore, history: History, load_manifest: Callable[[str], Manifest]) -> None:
        self._store = store
        self._history = history
        self._load_manifest = load_manifest

    def commit(self, commit: Commit) -> Committed:
        """Make the version, or find the one this commit made before. Raises as `ArtifactManager.commit_tree`."""
        if self._store.local_root is not None:
            refuse_own_store(self._store.local_root, commit.tree)
        # Before anything is read or sent: what the record cannot hold is refused here.
        layout.encode(record_of(commit, 0, None, "", "", Manifest()))
        numbers = self._history.numbers(commit.collection, commit.artifact)
        made = self._history.find_commit(commit.collection, commit.artifact, commit.commit_id, numbers)
        if made is not None:
            return self._resumed(commit, made)
        scan = scan_tree(commit.tree, commit.below)
        known = self._known_contents(commit, numbers)
        packer = Packer(
            self._store, known, consume=commit.consume, reference_of=commit.reference_of, progress=commit.progress
        )
        packer.run(scan)
        record, created = self._publish(commit, scan.builder.build(), packer, numbers.next)
        if created:
            # Not when another version has this content: then a repeated commit would scan the tree once more.
            self._store.settle(packer.adopted)
        return Committed(record, created, packer.sent_bytes, packer.deduplicated_bytes)

    def _publish(self, commit: Commit, manifest: Manifest, packer: Packer, looked_below: int) -> tuple[Record, bool]:
        """Write the record at the first free number, unless the version is there already; whether this commit made it.

        Versions numbered below `looked_below` are known not to be of this commit.
        """
        digest = manifest.content_digest()
        manifest_object: str | None = None
        while True:
            numbers = self._history.numbers(commit.collection, commit.artifact)
            made = self._history.find_commit(
                commit.collection, commit.artifact, commit.commit_id, numbers, looked_below
            )
            if made is not None:
                return made, True
            looked_below = numbers.next
            latest = self._latest(commit, numbers)
            if latest is not None and latest.digest == digest:
                return latest, False
            if manifest_object is None:
                # This may take seconds, for the flush; so look again what there is before trying a number.
                manifest_object = self._store_manifest(manifest, packer)
                continue
            parent = latest.version if latest else None
            record = record_of(commit, numbers.next, parent, digest, manifest_object, manifest)
            if self._create(commit, numbers.next, record):
                return record, True

    def _store_manifest(self, manifest: Manifest, packer: Packer) -> str:
        encoded = manifest.encode()
        name = blake3(encoded).hexdigest()
        self._store.put(layout.object_key(name), encoded)
        packer.stored.append(layout.object_key(name))
        self._store.flush(packer.stored)
        return name

    def _create(self, commit: Commit, number: int, record: Record) -> bool:
        """Write the record by exclusive create; False when the number turned out to be taken."""
        prefix = layout.artifact_prefix(commit.collection, commit.artifact)
        key = layout.record_key(prefix, number)
        if self._store.put_exclusive(key, layout.encode(record)) is Outcome.TAKEN:
            return False
        # The number may have been made and deleted between our listing and our create; then the tombstone that is
        # there buries our record too. If the tombstone is our version's own, it was made, and deleted just now.
        tombstone = layout.tombstone_key(prefix, number)
        raw = self._store.get_many([tombstone])[0]
        if raw is None or layout.decode_tombstone(raw, tombstone, number).record.commit == commit.commit_id:
            return True
        self._store.delete(key)
        return False

    def _latest(self, commit: Commit, numbers: Numbers) -> Record | None:
        found = self._history.records(commit.collection, commit.artifact, numbers.live[-1:])
        return found[0].record if found else None

    def _known_contents(self, commit: Commit, numbers: Numbers) -> KnownContents:
        known = KnownContents()
        latest = self._history.records(commit.collection, commit.artifact, numbers.live[-_DEDUP_VERSIONS:])
        files = 0
        for version in reversed(latest):
            files += version.record.file_count
            if files > _DEDUP_FILES and version is not latest[-1]:
                break
            try:
                known.add_manifest(self._load_manifest(version.record.manifest))
            except (IntegrityError, FormatError) as error:
                # A damaged version must not stop new ones: their files are sent again.
                _log.warning(
                    "%s of %s/%s cannot be used for deduplication: %s",
                    version.record.version,
                    commit.collection,
                    commit.artifact,
                    error,
                )
        return known

    def _resumed(self, commit: Commit, made: Record) -> Committed:
        """The commit was done before: do what may have been left."""
        if commit.progress is not None:
            commit.progress(made.size_bytes, made.file_count)
        if commit.consume and self._store.local_root is not None:
            below = len(commit.below) + 1 if commit.below else 0
            self._store.settle(
                (layout.object_key(entry.object), f"{commit.tree}/{entry.path[below:]}")
                for entry in self._load_manifest(made.manifest)
                if entry.object is not None and entry.object == entry.digest
            )
        return Committed(made, True)


def refuse_own_store(root: str, tree: str) -> None:
    """Raises UnsupportedTree when the tree holds the store it is to be logged to."""
    root, tree = os.path.realpath(root), os.path.realpath(tree)
    if os.path.commonpath([root, tree]) == tree and os.path.isdir(tree):
        raise UnsupportedTree(f"{tree} holds the store {root} itself: it cannot be logged to that store")


def record_of(
    commit: Commit, number: int, parent: str | None, digest: str, manifest_object: str, manifest: Manifest
) -> Record:
    """The record of a version that a commit makes."""
    return Record(
        version=f"v{number}",
        created=time.time_ns(),
        commit=commit.commit_id,
        digest=digest,
        manifest=manifest_object,
        file_count=manifest.file_count,
        size_bytes=manifest.size_bytes,
        message=commit.message,
        metadata=dict(commit.metadata),
        creator=_creator(),
        parent=parent,
    )


@functools.cache
def _creator() -> Creator:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())  # a container's user often has no name
    return Creator(socket.gethostname(), user)
