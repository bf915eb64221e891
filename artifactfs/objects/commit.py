"""Making a version of a tree.

The order is the whole of the safety. Objects first, which nobody sees and a repeated commit finds again; then they are
flushed; then the record by exclusive create at the next number, and in that instant the version exists; then adopted
files become read-only and aliases are set. Killed before the record: no version, the tree untouched (an adopted file is
one more link to an unchanged inode). Killed after it: the same commit id finds the record and does what was left.

Exactly one version per commit id holds among any number of writers, because any record that appears after a writer
looked for its id takes the number that writer tries, and then it looks again. So it looks once, before it reads the
tree, and again only when the number it tries is taken: a store that is far away is asked seldom.

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
from functools import cached_property
from typing import Any, NamedTuple

from blake3 import blake3

from artifactfs.errors import FormatError, IntegrityError, UnsupportedTree
from artifactfs.managers.base import Progress, ReferenceOf
from artifactfs.manifest import Manifest
from artifactfs.objects import layout
from artifactfs.objects.history import NEWEST, History, Numbers
from artifactfs.objects.layout import Creator, Record
from artifactfs.objects.packs import KnownContents, Packer
from artifactfs.objects.scan import scan_tree
from artifactfs.objects.store import ObjectStore, Outcome

_log = logging.getLogger(__name__)

# Contents are looked for in the latest versions, while they have together no more files than that.
_DEDUP_FILES = 1_000_000


@dataclass(frozen=True)
class Commit:
    """What is to become a version: the tree, where it goes and what the record says of it.

    `below` is where in the version the tree goes, '' for its top. `consume`: see
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


class Look(NamedTuple):
    """What a store held when a commit looked: the versions, the latest of them, and the one this commit made before."""

    numbers: Numbers
    latest: Record | None
    made: Record | None


class Content:
    """The files of the version that is to be: a manifest, its content digest and what is stored of it."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.digest = manifest.content_digest()

    @cached_property
    def encoded(self) -> bytes:
        """The manifest's object."""
        return self.manifest.encode()

    @cached_property
    def name(self) -> str:
        """The hex name of that object."""
        return blake3(self.encoded).hexdigest()

    def is_of(self, record: Record | None) -> bool:
        """Whether the version with that record has the same content."""
        return record is not None and record.digest == self.digest


class Committer:
    """Commits trees to one store.

    `load_manifest` gives the manifest with that object name, `keep_manifest` is given those that were just stored.
    """

    def __init__(
        self,
        store: ObjectStore,
        history: History,
        load_manifest: Callable[[str], Manifest],
        keep_manifest: Callable[[str, Manifest], None] = lambda name, manifest: None,
    ) -> None:
        self._store = store
        self._history = history
        self._load_manifest = load_manifest
        self._keep_manifest = keep_manifest

    def look(self, commit: Commit) -> Look:
        """What :meth:`commit` needs to know of the store. Raises as that."""
        if self._store.local_root is not None and commit.tree:
            refuse_own_store(self._store.local_root, commit.tree)
        # Before anything is read or sent: what the record cannot hold is refused here.
        layout.encode(record_of(commit, 0, None, "", "", Manifest()))
        numbers = self._history.numbers(commit.collection, commit.artifact)
        made = self._history.find_commit(commit.collection, commit.artifact, commit.commit_id, numbers)
        return Look(numbers, self._latest(commit, numbers) if made is None else None, made)

    def commit(self, commit: Commit, look: Look) -> Committed:
        """Make the version, or find the one this commit made before. Raises as `ArtifactManager.commit_tree`."""
        if look.made is not None:
            return self._resumed(commit, look.made)
        scan = scan_tree(commit.tree, commit.below)
        known = self._known_contents(commit, look.numbers)
        packer = Packer(
            self._store, known, consume=commit.consume, reference_of=commit.reference_of, progress=commit.progress
        )
        content: Content

        def manifest_object() -> tuple[str, bytes] | None:
            nonlocal content
            content = Content(Manifest.of(scan.builder.rows()))
            return None if content.is_of(look.latest) else (content.name, content.encoded)

        packer.run(scan, manifest_object)
        record, created = self._publish(commit, content, packer.stored, look)
        if created:
            # Not when another version has this content: then a repeated commit would scan the tree once more.
            self._store.settle(packer.adopted)
        return Committed(record, created, packer.sent_bytes, packer.deduplicated_bytes)

    def _publish(self, commit: Commit, content: Content, stored: list[str], look: Look) -> tuple[Record, bool]:
        """Write the record at the first free number, unless the version is there already; whether this commit made it.

        `stored` are the keys of the objects put, which are flushed.
        """
        numbers, latest, is_flushed, has_looked_again = look.numbers, look.latest, False, False
        while True:
            if not content.is_of(latest):
                if not is_flushed:
                    self._flush(content, stored)
                    is_flushed = True
                parent = latest.version if latest else None
                record = record_of(commit, numbers.next, parent, content.digest, content.name, content.manifest)
                if self._create(commit, numbers.next, record):
                    self._history.keep(commit.collection, commit.artifact, numbers.next, record)
                    self._keep_manifest(content.name, content.manifest)
                    return record, True
            elif has_looked_again and latest is not None:
                return latest, False
            looked_below = numbers.next
            numbers = self._history.numbers(commit.collection, commit.artifact)
            made = self._history.find_commit(
                commit.collection, commit.artifact, commit.commit_id, numbers, looked_below
            )
            if made is not None:
                return made, True
            latest, has_looked_again = self._latest(commit, numbers), True

    def _flush(self, content: Content, stored: list[str]) -> None:
        """Have the manifest stored, and everything durable."""
        key = layout.object_key(content.name)
        if key not in stored:
            self._store.put(key, content.encoded)
            stored.append(key)
        self._store.flush(stored)

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
        latest = self._history.records(commit.collection, commit.artifact, numbers.live[-NEWEST:])[::-1]
        files = 0
        records: list[Record] = []
        for version in latest:
            files += version.record.file_count
            if records and files > _DEDUP_FILES:
                break
            records.append(version.record)
        for record, manifest in zip(records, self._manifests(records), strict=True):
            if isinstance(manifest, Manifest):
                known.add_manifest(manifest)
                continue
            # A damaged version must not stop new ones: their files are sent again.
            _log.warning(
                "%s of %s/%s cannot be used for deduplication: %s",
                record.version,
                commit.collection,
                commit.artifact,
                manifest,
            )
        return known

    def _manifests(self, records: list[Record]) -> list[Manifest | IntegrityError | FormatError]:
        """The manifests of versions, together where the store takes that, or what is wrong with them."""

        def load(record: Record) -> Manifest | IntegrityError | FormatError:
            try:
                return self._load_manifest(record.manifest)
            except (IntegrityError, FormatError) as error:
                return error

        return self._store.at_once(load, records)

    def _resumed(self, commit: Commit, made: Record) -> Committed:
        """The commit was done before: do what may have been left."""
        if commit.progress is not None:
            commit.progress(made.size_bytes, made.file_count)
        if commit.consume and self._store.local_root is not None:
            below = len(commit.below) + 1 if commit.below else 0
            is_file = os.path.isfile(commit.tree)
            self._store.settle(
                (layout.object_key(entry.object), commit.tree if is_file else f"{commit.tree}/{entry.path[below:]}")
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
