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

from artifactfs import names
from artifactfs.errors import (
    RECORD_FAULTS,
    ArtifactError,
    FormatError,
    IntegrityError,
    StoreUnreachable,
    UnsupportedTree,
)
from artifactfs.managers.base import Progress, ReferenceOf
from artifactfs.managers.commit_id import commit_time_ns
from artifactfs.manifest import Manifest
from artifactfs.objects import layout
from artifactfs.objects.history import NEWEST, History, Numbers
from artifactfs.objects.layout import Creator, Record
from artifactfs.objects.packs import KnownContents, Packer
from artifactfs.objects.patience import since_boot_s
from artifactfs.objects.readback import is_late, places, read_back, stored_manifest
from artifactfs.objects.relied import ends_of, is_whole, lost_objects
from artifactfs.objects.scan import scan_tree
from artifactfs.objects.store import ObjectStore, Outcome

_log = logging.getLogger(__name__)

# Contents are looked for in the latest versions, while they have together no more files than that.
_DEDUP_FILES = 1_000_000
# A commit is begun again so often when it was held up, by a suspended machine say.
_ATTEMPTS = 3


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
    """The state of a store when a commit looked: the versions, the latest of them, and the one this commit made before.

    `clock` is the time that orders the last version made. `began_s` is when the commit looked, since this machine
    started. `latest` is None too where its record cannot be read.
    """

    numbers: Numbers
    latest: Record | None
    made: Record | None
    clock: int
    began_s: float


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
        """Tell whether the version with that record has the same content."""
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
        began_s = since_boot_s()
        if self._store.local_root is not None and commit.tree:
            refuse_own_store(self._store.local_root, commit.tree)
        check_recordable(commit)
        numbers = self._history.numbers(commit.collection, commit.artifact)
        made = self._history.find_commit(commit.collection, commit.artifact, commit.commit_id, numbers)
        if made is not None:
            return Look(numbers, None, made, 0, began_s)
        clock = self._history.latest_clock(commit.collection, commit.artifact, numbers)
        return Look(numbers, self._latest(commit, numbers), None, clock, began_s)

    def commit(self, commit: Commit, look: Look) -> Committed:
        """Make the version, or find the one this commit made before. Raises as `ArtifactManager.commit_tree`.

        Returns when the version has been read back from the store.
        """
        return self._until_it_stays(commit, look, self._made)

    def _until_it_stays(
        self, commit: Commit, look: Look, make: Callable[[Commit, Look], Committed | None]
    ) -> Committed:
        for attempt in range(_ATTEMPTS):
            if look.made is None:
                done = make(commit, look)
            else:
                done = self._resumed(commit, look.numbers, look.made, renew=attempt > 0)
            if done is not None and not is_late(self._store, look.began_s):
                return done
            _log.warning("%s was held up, or was interfered with, so it is done again", _label(commit))
            look = self.look(commit)
        raise StoreUnreachable(
            f"{_label(commit)} was held up {_ATTEMPTS} times for so long that gc could have deleted what it had "
            f"stored, or what it stored in {self._store.url} does not stay there"
        )

    def _made(self, commit: Commit, look: Look) -> Committed | None:
        packer, content = self._pack(
            commit, self._known_contents(commit, look.numbers), lambda content: not content.is_of(look.latest)
        )
        published = self._publish(commit, content, packer.stored, look)
        if published is None:
            return None
        record, created = published
        if created:
            # Not when another version has this content: then a repeated commit would scan the tree once more.
            self._store.settle(packer.adopted)
        return Committed(record, created, packer.sent_bytes, packer.deduplicated_bytes)

    def _pack(self, commit: Commit, known: KnownContents, is_new: Callable[[Content], bool]) -> tuple[Packer, Content]:
        """Store the tree's contents and, where `is_new`, its manifest."""
        scan = scan_tree(commit.tree, commit.below)
        packer = Packer(
            self._store, known, consume=commit.consume, reference_of=commit.reference_of, progress=commit.progress
        )
        content: Content

        def manifest_object() -> tuple[str, bytes] | None:
            nonlocal content
            content = Content(Manifest.of(scan.builder.rows()))
            return (content.name, content.encoded) if is_new(content) else None

        packer.run(scan, manifest_object)
        return packer, content

    def _publish(self, commit: Commit, content: Content, stored: list[str], look: Look) -> tuple[Record, bool] | None:
        """Write the record at the first free number, unless the version is there already; whether this commit made it.

        `stored` are the keys of the objects put, which are flushed. None when gc may be about to delete them, or did.
        """
        numbers, latest, clock, has_looked_again = look.numbers, look.latest, look.clock, False
        is_flushed, held = False, ""
        while True:
            if latest is not None and latest.manifest != held and self._holds(latest, content, stored):
                held = latest.manifest
            if latest is None or latest.manifest != held:
                if not is_flushed:
                    self._flush(content, stored)
                    is_flushed = True
                if is_late(self._store, look.began_s):
                    return None
                parent = names.version_name(numbers.live[-1]) if numbers.live else None
                record = record_of(commit, numbers.next, parent, content.digest, content.name, content.manifest, clock)
                stays = self._create(commit, numbers.next, record)
                if stays is not None:
                    self._history.keep(commit.collection, commit.artifact, numbers.next, record)
                    self._keep_manifest(content.name, content.manifest)
                    return (record, True) if stays else None
            elif has_looked_again:
                # Whoever wrote that record may not have it on disk yet.
                self._store.flush([*stored, self._key(commit, latest)])
                return (latest, False) if self._reads_back(commit, latest) else None
            looked_below = numbers.next
            numbers = self._history.numbers(commit.collection, commit.artifact)
            made = self._history.find_commit(
                commit.collection, commit.artifact, commit.commit_id, numbers, looked_below
            )
            if made is not None:
                return (made, True) if self._reads_back(commit, made) else None
            latest, has_looked_again = self._latest(commit, numbers), True
            clock = self._history.latest_clock(commit.collection, commit.artifact, numbers)

    def _flush(self, content: Content, stored: list[str]) -> None:
        """Have the manifest stored, and everything durable."""
        self._store_manifest(content, stored)
        self._store.flush(stored)

    def _store_manifest(self, content: Content, stored: list[str]) -> None:
        key = layout.object_key(content.name)
        if key not in stored:
            self._store.put(key, content.encoded)
            stored.append(key)

    # -- what is there already --------------------------------------------------------------------------------------

    def _holds(self, latest: Record, content: Content, stored: list[str]) -> bool:
        """Tell whether a version has this content and can be relied on, so that there need not be another."""
        if not content.is_of(latest):
            return False
        if latest.manifest == content.name:
            # What it says where the bytes are has been looked at or put; itself, it may be damaged.
            self._store_manifest(content, stored)
            return True
        manifest = stored_manifest(self._store, latest.manifest)
        return (
            manifest is not None
            and manifest.has_modes_of(content.manifest)
            and (places(manifest) == places(content.manifest) or is_whole(self._store, manifest))
        )

    def _resumed(self, commit: Commit, numbers: Numbers, made: Record, *, renew: bool) -> Committed | None:
        """The commit was done before: do what may have been left, and see that nothing of it was lost since.

        None when it was lost at this moment.
        Raises IntegrityError when something was that the tree does not have.
        """
        if names.version_number(made.version) not in numbers.live:
            return Committed(made, True)  # and it was deleted
        manifest = stored_manifest(self._store, made.manifest)
        if manifest is None or lost_objects(self._store, ends_of(manifest), renew=renew):
            manifest = self._mended(commit, numbers, made, manifest)
        self._store.flush([self._key(commit, made)])
        if commit.progress is not None:
            commit.progress(made.size_bytes, made.file_count)
        if commit.consume and self._store.local_root is not None:
            below = len(commit.below) + 1 if commit.below else 0
            is_file = os.path.isfile(commit.tree)
            self._store.settle(
                (layout.object_key(entry.object), commit.tree if is_file else f"{commit.tree}/{entry.path[below:]}")
                for entry in manifest
                if entry.object is not None and entry.object == entry.digest
            )
        return Committed(made, True) if self._reads_back(commit, made) else None

    def _mended(self, commit: Commit, numbers: Numbers, made: Record, manifest: Manifest | None) -> Manifest:
        """Store again what this commit stored before, and was lost."""
        if manifest is None:
            # What it knew then gives the same manifest.
            live = [number for number in numbers.live if number < names.version_number(made.version)]
            known = self._known_contents(commit, Numbers(live, numbers.deleted, []))
        else:
            known = KnownContents()
            known.add_manifest(manifest)
        packer, content = self._pack(commit, known, lambda content: content.name == made.manifest)
        self._store.flush(packer.stored)
        if content.name == made.manifest:
            return content.manifest
        if manifest is None or lost_objects(self._store, ends_of(manifest)):
            raise IntegrityError(
                f"{_label(commit)} made {made.version}, but bytes of that version were lost since, and the files that "
                "are to be committed are not the same: commit them once more under another id"
            )
        return manifest

    def _reads_back(self, commit: Commit, record: Record) -> bool:
        return read_back(self._store, self._key(commit, record), record).stays

    def _key(self, commit: Commit, record: Record) -> str:
        prefix = layout.artifact_prefix(commit.collection, commit.artifact)
        return layout.record_key(prefix, names.version_number(record.version))

    def _create(self, commit: Commit, number: int, record: Record) -> bool | None:
        """Write the record by exclusive create; None when the number turned out to be taken, else whether it stays."""
        prefix = layout.artifact_prefix(commit.collection, commit.artifact)
        key = layout.record_key(prefix, number)
        if self._store.put_exclusive(key, layout.encode(record)) is Outcome.TAKEN:
            return None
        seen = read_back(self._store, key, record)
        # The number may have been made and deleted between our listing and our create; then the tombstone that is
        # there buries our record too. If the tombstone is our version's own, it was made, and deleted just now.
        if seen.tombstone is None or _is_of(seen.tombstone, layout.tombstone_key(prefix, number), number, commit):
            return seen.stays
        self._store.delete(key)
        return None

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
            # A version that cannot be read must not stop new ones: their files are sent again.
            _log.warning(
                "%s of %s/%s cannot be used for deduplication: %s",
                record.version,
                commit.collection,
                commit.artifact,
                manifest,
            )
        return known

    def _manifests(self, records: list[Record]) -> list[Manifest | ArtifactError]:
        """The manifests of versions, together where the store takes that, or what is wrong with them."""

        def load(record: Record) -> Manifest | ArtifactError:
            try:
                return self._load_manifest(record.manifest)
            except RECORD_FAULTS as error:
                return error

        return self._store.at_once(load, records)


def refuse_own_store(root: str, tree: str) -> None:
    """Raises UnsupportedTree when the tree holds the store it is to be logged to."""
    root, tree = os.path.realpath(root), os.path.realpath(tree)
    if os.path.commonpath([root, tree]) == tree and os.path.isdir(tree):
        raise UnsupportedTree(f"{tree} holds the store {root} itself: it cannot be logged to that store")


def check_recordable(commit: Commit) -> None:
    """Raises SerializationError, before anything is read or sent, when a record cannot hold what a commit says."""
    layout.encode(record_of(commit, 0, None, "", "0" * 64, Manifest()))


def record_of(
    commit: Commit,
    number: int,
    parent: str | None,
    digest: str,
    manifest_object: str,
    manifest: Manifest,
    latest_clock: int = 0,
) -> Record:
    """The record of a version that a commit makes. `latest_clock` is from `History.latest_clock`."""
    now_ns = time.time_ns()
    return Record(
        version=f"v{number}",
        created=now_ns,
        commit=commit.commit_id,
        digest=digest,
        manifest=manifest_object,
        file_count=manifest.file_count,
        size_bytes=manifest.size_bytes,
        message=commit.message,
        metadata=dict(commit.metadata),
        creator=creator(),
        parent=parent,
        clock=max(now_ns, latest_clock, commit_time_ns(commit.commit_id) or 0),
    )


def _is_of(raw: bytes, tombstone: str, number: int, commit: Commit) -> bool:
    """Tell whether a tombstone buries what this commit made; one that cannot be read buries somebody else's."""
    try:
        return layout.decode_tombstone(raw, tombstone, number).record.commit == commit.commit_id
    except FormatError:
        return False


def _label(commit: Commit) -> str:
    return f"the commit to {commit.collection}/{commit.artifact}"


@functools.cache
def creator() -> Creator:
    """Who this process is, as the records that it writes tell."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())  # a container's user often has no name
    return Creator(socket.gethostname(), user)
