"""FileSystemArtifactManager: the object layout on any fsspec URL, the local disk included.

Joins the parts of `artifactfs.objects` to the interface of `managers.base`. A directory is a store when it holds the
marker ``artifactfs.json``, which the first commit writes.

Threading: any thread; locks guard caches only and are not held across I/O. May be made before a fork but not used
before it. Pickles to what it was made from.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifactfs import names
from artifactfs.errors import (
    RECORD_FAULTS,
    ArtifactNotFound,
    CollectionNotFound,
    FormatError,
    IntegrityError,
    InvalidName,
    NotFound,
    PathNotFound,
    VersionNotFound,
)
from artifactfs.managers.base import ArtifactNames, CommitResult, LocalRange, Progress, ReferenceOf, VersionInfo
from artifactfs.managers.browsable import StoredManager
from artifactfs.manifest import Entry, EntryKind, Manifest
from artifactfs.objects import layout
from artifactfs.objects.annotations import Annotations
from artifactfs.objects.commit import Commit, Committer
from artifactfs.objects.history import History, Known, Numbers
from artifactfs.objects.layout import Alias, Tombstone
from artifactfs.objects.manifests import Manifests
from artifactfs.objects.marker import StoreMarker
from artifactfs.objects.open import open_store
from artifactfs.objects.restore import read_range, read_whole, restore

if TYPE_CHECKING:
    from artifactfs.findings import OnFinding, VerifyReport
    from artifactfs.objects.gc import GcReport


class FileSystemArtifactManager(StoredManager):
    """Artifacts in the object layout below a local directory or at an fsspec URL.

    Names of collections and artifacts that somebody else put there and the rules forbid are shown percent-encoded, and
    are taken in that form.
    """

    def __init__(
        self, url: str, *, collection: str = "default", single_writer: bool = False, **storage_options: Any
    ) -> None:
        """Open the store at `url`: a path, ``file://…``, ``memory://…`` or any other fsspec URL.

        `single_writer` lets a backend without a sound exclusive create be written to: the caller promises that nothing
        else writes at the same time. `storage_options` go to the fsspec file system. Nothing is touched yet.
        Raises InvalidName.
        """
        store = open_store(url, single_writer=single_writer, **storage_options)
        super().__init__(url, store, collection, single_writer, storage_options)
        self.url = url if "://" in url else os.path.abspath(os.path.expanduser(url))
        self._marker = StoreMarker(self.store)
        self._history = History(self.store)
        self._annotations = Annotations(self.store, self._history)
        # No part refers back to the manager: with its last reference the store's directory is let go, and its disk.
        self._manifests = Manifests(self.store, self.url)
        self._committer = Committer(self.store, self._history, self._manifests.load, self._manifests.keep)

    # -- the store --------------------------------------------------------------------------------------------------

    @property
    def store_id(self) -> str | None:
        """The id of the store, None when it was not made yet. Raises FormatError, StoreUnreachable."""
        marker = self._marker.read()
        return None if marker is None else marker.id

    def is_made(self) -> bool:
        """Tell if the store has its marker."""
        return self._marker.read() is not None

    @property
    def created_ns(self) -> int | None:
        """When the store was made, nanoseconds since the epoch; None when it was not made yet."""
        marker = self._marker.read()
        return None if marker is None else marker.created

    @property
    def takes_references(self) -> bool:
        """Entries name objects, so a file may stand for one."""
        return True

    @property
    def exclusive_create(self) -> str | None:
        """What is known of the backend without asking it."""
        if self.store.local_root is not None:
            return None
        if self.store.single_writer:
            return "not relied on: single writer"
        return {True: "honoured", False: "not honoured", None: "not probed"}[self.store.exclusive]

    @property
    def gives_overview(self) -> bool:
        """Where listings come in pages."""
        return self.store.page_keys > 0

    def overview(self) -> dict[str, dict[str, ArtifactNames]] | None:
        """What a page of the backend's listing tells."""
        self._marker.require()
        found = self._history.overview()
        if found == {}:
            self._marker.check_present()
        return found

    @property
    def made_store(self) -> bool:
        """Tell whether this manager wrote the store's marker."""
        return self._marker.made

    def ensure_created(self) -> None:
        """Make the store if it does not exist yet.

        Raises FormatError (the place holds something else), UnsafeStore, StoreFull, StoreUnreachable, AccessDenied.
        """
        self._marker.create()

    # -- browsing ---------------------------------------------------------------------------------------------------

    def list_collection_names(self) -> list[str]:
        """Every collection, sorted. Raises NotFound (no such local directory), StoreUnreachable, AccessDenied."""
        self._marker.require()
        found = self.store.listing(layout.COLLECTIONS).directories
        if not found:
            self._marker.check_present()
        return sorted(map(layout.shown_collection, found))

    def list_artifacts(self, collection: str | None = None) -> list[str]:
        """The artifacts of a collection that have a live version, sorted."""
        self._marker.require()
        collection = collection or self.active_collection
        found = self._history.artifacts(collection)
        if found is None:
            self._marker.check_present()
            raise CollectionNotFound(f"no collection {collection!r} in {self.url}")
        return sorted(map(layout.shown_artifact, found))

    def exists_in_collection(self, artifact: str, collection: str | None = None) -> bool:
        """Tell whether the artifact has a live version in the collection. One listing of the backend."""
        try:
            return bool(self._numbers(artifact, collection).live)
        except (ArtifactNotFound, InvalidName):
            return False

    def list_version_names(self, artifact: str, collection: str | None = None) -> list[str]:
        """The live versions, oldest first. One listing of the backend."""
        return [names.version_name(number) for number in self._numbers(artifact, collection).live]

    def list_versions(self, artifact: str, collection: str | None = None) -> list[VersionInfo]:
        """Every live version, oldest first; records not read before are read together."""
        numbers = self._numbers(artifact, collection)
        known = self._history.records(collection or self.active_collection, artifact, numbers.live)
        return self._annotations.shown([each.info for each in known], numbers.annotated)

    def version_info(self, artifact: str, collection: str | None = None, version: str | None = None) -> VersionInfo:
        """What is known of one version."""
        collection = collection or self.active_collection
        with self._if_there():
            number = self._history.resolve(collection, artifact, version)
            ask: list[Callable[..., Any]] = [self._history.version, self._annotations.of]
            known, said = self.store.at_once(lambda one: one(collection, artifact, number), ask)
        info: VersionInfo = known.info
        return info if said is None else said.over(info)

    def manifest(self, artifact: str, collection: str | None = None, version: str | None = None) -> Manifest:
        """The files of a version; manifests read lately are kept, up to 256 MiB."""
        known = self._known(artifact, collection, version)
        try:
            return self._manifests.load(known.record.manifest)
        except (FormatError, IntegrityError) as error:
            info = known.info
            raise type(error)(f"{info.collection}/{info.artifact}@{info.version}: {error}") from error

    def read_entry(self, info: VersionInfo, entry: Entry, offset: int = 0, size_bytes: int | None = None) -> bytes:
        """Bytes of one file. A read of the whole file is checked against its digest."""
        if entry.kind is not EntryKind.FILE:
            raise PathNotFound(f"{entry.path} of {info.collection}/{info.artifact} {info.version} is not a file")
        left = max(0, entry.size_bytes - offset)
        count = left if size_bytes is None else min(size_bytes, left)
        if count == entry.size_bytes:
            return read_whole(self.store, entry)
        return read_range(self.store, entry, offset, count)

    def read_object(self, name: str, offset: int, size_bytes: int) -> Iterator[bytes]:
        """Bytes of an object, not checked: a part of one has no digest."""
        try:
            yield from self.store.get_pieces(layout.object_key(name), offset, size_bytes)
        except NotFound as error:
            raise IntegrityError(f"object {name} is missing from {self.url}") from error

    def local_range(self, info: VersionInfo, entry: Entry) -> LocalRange | None:
        """Where the file's bytes lie on a local disk; None for other stores, and for an empty file.

        Raises IntegrityError when the object is missing or too short; its digest is not checked.
        """
        if entry.object is None or entry.size_bytes == 0:
            return None
        key = layout.object_key(entry.object)
        path = self.store.local_path(key)
        if path is None:
            return None
        try:
            there = self.store.size(key)
        except NotFound as error:
            label = f"{info.collection}/{info.artifact}@{info.version}:{entry.path}"
            raise IntegrityError(f"{label}: its object {entry.object} is missing from {self.url}") from error
        if there < entry.offset + entry.size_bytes:
            label = f"{info.collection}/{info.artifact}@{info.version}:{entry.path}"
            raise IntegrityError(f"{label}: its object {entry.object} in {self.url} is cut short")
        return LocalRange(path, entry.offset, entry.size_bytes)

    # -- aliases and deletion ---------------------------------------------------------------------------------------

    def aliases(self, artifact: str, collection: str | None = None) -> dict[str, str]:
        """Alias → version, without ``latest``; an alias whose version was deleted is left out."""
        self._marker.require()
        collection = collection or self.active_collection
        return self._history.aliases(collection, artifact)

    def set_alias(self, artifact: str, alias: str, version: str, collection: str | None = None) -> None:
        """Point `alias` at a version."""
        names.check_alias(alias)
        found = self.version_info(artifact, collection, version)
        self._write_alias(collection or self.active_collection, artifact, alias, found.version)

    def delete_alias(self, artifact: str, alias: str, collection: str | None = None) -> None:
        """Remove an alias."""
        self._marker.require()
        key = layout.alias_key(layout.artifact_prefix(collection or self.active_collection, artifact), alias)
        if not self.store.exists(key):
            raise VersionNotFound(f"no alias {alias!r} of {artifact}")
        self.store.delete(key)

    def annotate(
        self,
        artifact: str,
        version: str,
        collection: str | None = None,
        *,
        message: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> VersionInfo:
        """Give a version another message, or more metadata, as `objects.annotations` keeps it."""
        info = self.version_info(artifact, collection, version)
        look = partial(self.version_info, artifact, info.collection, info.version)
        return self._annotations.annotate(info, look, message, metadata)

    def delete_version(self, artifact: str, version: str, collection: str | None = None) -> None:
        """Delete a version for good; an alias or ``latest`` names the version it stands for."""
        collection = collection or self.active_collection
        try:
            record = self._known(artifact, collection, version).record
        except RECORD_FAULTS:
            # One that cannot be read is deleted like any other.
            record = layout.unreadable_record(self._history.resolve(collection, artifact, version))
        self._marker.require_exclusive()
        prefix = layout.artifact_prefix(collection, artifact)
        number = names.version_number(record.version)
        pointing = [alias for alias, of in self._history.aliases(collection, artifact).items() if of == record.version]
        tombstone = Tombstone(version=record.version, deleted=time.time_ns(), record=record)
        # Where somebody else deletes it at this moment, theirs is the tombstone and the rest is done twice.
        self.store.put_exclusive(layout.tombstone_key(prefix, number), layout.encode(tombstone))
        self.store.delete(layout.record_key(prefix, number))
        self._annotations.delete(collection, artifact, number)
        for alias in pointing:
            self.store.delete(layout.alias_key(prefix, alias))

    # -- committing -------------------------------------------------------------------------------------------------

    def commit_tree(
        self,
        artifact: str,
        tree: Path,
        collection: str | None = None,
        *,
        commit_id: str,
        below: str = "",
        message: str = "",
        metadata: Mapping[str, Any] | None = None,
        aliases: Sequence[str] = (),
        consume: bool = False,
        reference_of: ReferenceOf | None = None,
        progress: Progress | None = None,
    ) -> CommitResult:
        """Make the directory or file `tree` the next version; `objects.commit` says how that is safe.

        A repeated commit answers as the first did, ``created=True``. Symlinks and special files that a version cannot
        keep raise UnsupportedTree, metadata that is no JSON or larger than 64 KiB SerializationError, a place that is
        no store FormatError.
        """
        commit = Commit(
            collection or self.active_collection,
            artifact,
            os.path.abspath(tree),
            commit_id,
            below=below,
            message=message,
            metadata=metadata or {},
            consume=consume,
            reference_of=reference_of,
            progress=progress,
        )
        return self._commit(commit, aliases)

    def find_commit(self, artifact: str, commit_id: str, collection: str | None = None) -> VersionInfo | None:
        """As in `ArtifactManager`; of a version that was deleted since, too."""
        if self._marker.read() is None:
            return None
        collection = collection or self.active_collection
        numbers = self._history.numbers(collection, artifact)
        made = self._history.find_commit(collection, artifact, commit_id, numbers)
        if made is None and not numbers.live:
            self._marker.check_present()
        if made is None:
            return None
        return self._annotations.shown([made.info(collection, artifact)], numbers.annotated)[0]

    def restore(self, info: VersionInfo, target: Path, progress: Progress | None = None) -> None:
        """Write a version's files to the directory `target`, checked; where they lie one after another, in one read."""
        manifest = self.manifest(info.artifact, info.collection, info.version)
        restore(self.store, manifest, str(target), progress)

    # -- keeping the store in order ---------------------------------------------------------------------------------

    def verify(
        self,
        artifact: str | None = None,
        collection: str | None = None,
        version: str | None = None,
        *,
        on_finding: OnFinding | None = None,
        progress: Progress | None = None,
    ) -> VerifyReport:
        """Check every record, manifest and object, each object read once, as `objects.verify` says."""
        from artifactfs.objects.verify import verify

        self._marker.require()
        if artifact is not None:
            collection = collection or self.active_collection
            self.list_version_names(artifact, collection)  # that it exists: what is not there would be sound
            if version is not None:
                number = self._history.resolve(collection, artifact, version)
                if number not in self._numbers(artifact, collection).live:
                    raise VersionNotFound(f"no version {version} of {collection}/{artifact}")
                version = names.version_name(number)
        elif collection is not None:
            self.list_artifacts(collection)
        return verify(self.store, artifact, collection, version, on_finding=on_finding, progress=progress)

    def gc(self, *, grace_s: float = 86_400, dry_run: bool = False, progress: Progress | None = None) -> GcReport:
        """Free what no version needs, in two passes a grace period apart, as `objects.gc` says."""
        from artifactfs.objects.gc import GcReport, collect

        if self._marker.require() is None:
            return GcReport(dry_run)
        self._marker.check_present()
        return collect(self.store, grace_s=grace_s, dry_run=dry_run, progress=progress)

    # -- parts ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _if_there(self) -> Iterator[None]:
        """What the store says is not there may be missing because the store is: raises StoreUnreachable then."""
        self._marker.require()
        try:
            yield
        except NotFound:
            self._marker.check_present()
            raise

    def _numbers(self, artifact: str, collection: str | None) -> Numbers:
        with self._if_there():
            return self._history.existing_numbers(collection or self.active_collection, artifact)

    def _known(self, artifact: str, collection: str | None, version: str | None) -> Known:
        collection = collection or self.active_collection
        with self._if_there():
            return self._history.version(collection, artifact, self._history.resolve(collection, artifact, version))

    def _commit(self, commit: Commit, aliases: Sequence[str]) -> CommitResult:
        names.check_collection(commit.collection)
        names.check_artifact(commit.artifact)
        steps: list[Callable[[], Any]] = [self._marker.create, partial(self._committer.look, commit)]
        _, look = self.store.at_once(lambda step: step(), steps)
        done = self._committer.commit(commit, look)
        for alias in aliases:
            self._write_alias(commit.collection, commit.artifact, alias, done.record.version)
        info = done.record.info(commit.collection, commit.artifact)
        if look.made is not None or not done.created:
            # It was there before, and something may have been said of it.
            [info] = self._annotations.shown([info], [info.number])
        return CommitResult(info, done.created, done.sent_bytes, done.deduplicated_bytes)

    def _write_alias(self, collection: str, artifact: str, alias: str, version: str) -> None:
        key = layout.alias_key(layout.artifact_prefix(collection, artifact), alias)
        self.store.replace(key, layout.encode(Alias(version)))
