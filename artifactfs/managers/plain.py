"""PlainArtifactManager: squirrel's directory layout, on the local disk or at any fsspec URL, read and written.

What squirrel-core's FileSystemArtifactManager wrote is read, and squirrel-core reads what is written here; the package
`artifactfs.plain` says where things lie. What this layout costs against the object layout: files that are equal are
stored again in every version, and only a local store takes several writers.

* On the local disk a version appears by one rename. A file's mode, mtime, the symlinks and empty directories are as
  the disk keeps them. squirrel-core itself writes in place and claims no number, so a commit of its own at the same
  moment to the same artifact can meet one of ours.
* Elsewhere one manager at a time may write, and must be opened with ``single_writer=True``. squirrel-core sees a
  version from its first file on. Symlinks, modes and empty directories are known to artifactfs alone.
* A deleted version leaves a directory without files, because squirrel-core counts directories to number the next one.
  squirrel-core goes on listing that version, and answers "does not exist" when it is downloaded, also as its latest.

Threading: any thread; locks guard caches only and are not held across I/O, but for commits to a remote store, which
are made one at a time. May be made before a fork but not used before it. Pickles to what it was made from.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from artifactfs import names
from artifactfs.catalog.source import Source
from artifactfs.errors import (
    RECORD_FAULTS,
    ArtifactError,
    CollectionNotFound,
    FormatError,
    InvalidName,
    NotFound,
    PathNotFound,
    UnsafeStore,
    Unsupported,
    VersionNotFound,
)
from artifactfs.managers.base import CommitResult, LocalRange, Progress, ReferenceOf, VersionInfo
from artifactfs.managers.browsable import StoredManager
from artifactfs.manifest import Entry, EntryKind, Manifest
from artifactfs.objects.annotations import Annotations
from artifactfs.objects.commit import Commit
from artifactfs.objects.history import Known
from artifactfs.objects.layout import (
    MARKER_KEY,
    Alias,
    Record,
    Tombstone,
    alias_key,
    encode,
    shown_artifact,
    tombstone_key,
    unreadable_record,
)
from artifactfs.objects.local import LocalStore
from artifactfs.objects.open import open_store
from artifactfs.objects.store import translate
from artifactfs.plain import layout
from artifactfs.plain.contents import Contents
from artifactfs.plain.detect import looks_plain
from artifactfs.plain.history import PlainHistory
from artifactfs.plain.local import LocalCommitter
from artifactfs.plain.remote import RemoteCommitter
from artifactfs.plain.removal import remove_locally, remove_remotely
from artifactfs.redaction import without_secrets, without_url_secrets

SCHEME_PREFIX = "plain+"


class PlainArtifactManager(StoredManager):
    """Artifacts in squirrel's layout below a local directory or at an fsspec URL. See the module docstring.

    Names of collections and artifacts that the rules of `artifactfs.names` forbid are shown percent-encoded, and are
    taken in that form.
    """

    def __init__(
        self, url: str, *, collection: str = "default", single_writer: bool = False, **storage_options: Any
    ) -> None:
        """Open the store at `url`: a path, ``file://…`` or any other fsspec URL, ``plain+`` before it or not.

        `single_writer` is needed to write anywhere but on the local disk: the caller promises that nothing else writes
        at the same time. `storage_options` go to the fsspec file system. Nothing is touched yet.
        Raises InvalidName.
        """
        url = url.removeprefix(SCHEME_PREFIX)
        store = open_store(url, single_writer=single_writer, **storage_options)
        super().__init__(url, store, collection, single_writer, storage_options)
        self._single_writer = single_writer
        root = self.store.local_root
        self.url = SCHEME_PREFIX + (url if root is None else f"file://{root}")
        self._history = PlainHistory(self.store)
        self._annotations = Annotations(self.store, self._history)
        self._contents = Contents(self.store)
        self._root = self.store.root if isinstance(self.store, LocalStore) else None
        self._local = None if self._root is None else LocalCommitter(self._root, self._history, self._contents)
        self._remote = RemoteCommitter(self.store, self._history, self._contents)
        self._is_known = False
        self._was_missing = False

    # -- the store --------------------------------------------------------------------------------------------------

    @property
    def staging_root(self) -> Path | None:
        """Where squirrel looks, and sees one more collection."""
        return None if self.store.local_root is None else Path(self.store.local_root, layout.STAGING)

    @property
    def shows_staging(self) -> bool:
        """squirrel-core takes it for a collection."""
        return self._local is not None

    def forget_staging(self) -> None:
        """Take `staging_root` out of the store where it is empty."""
        if self._local is not None:
            self._local.tidy()

    def is_made(self) -> bool | None:
        """Tell if a local directory holds a version, or what marks an empty store."""
        return None if self._root is None else looks_plain(self._root.path)

    @property
    def made_store(self) -> bool:
        """Tell whether the directory of a local store was missing, and is there now."""
        return self._was_missing and self._root is not None and self._root.current() is not None

    def ensure_created(self) -> None:
        """Make a local store's directory, where :func:`artifactfs.connect` will know it again.

        Raises FormatError (it is a store of the object layout), UnsafeStore, StoreFull, AccessDenied.
        """
        self._require_writer()
        self._require()
        try:
            if self._local is not None:
                self._local.mark()
            self._move_old_notes()
        except OSError as error:
            raise translate(error, f"cannot make a store in {self.url}") from error

    def _move_old_notes(self) -> None:
        if self._history.has_old_notes():
            self._history.move_old_notes()
            if self._local is not None:
                self._local.tidy()

    def _require(self, *, reading: bool = False) -> None:
        """Raises FormatError for an object store, NotFound for reading where no directory is.

        Raises StoreUnreachable when the directory was there and is another one, or none, now.
        """
        root = self._root
        if root is None:
            return
        if os.path.lexists(f"{root.path}/{MARKER_KEY}"):
            raise FormatError(f"{root.path} is a store of the object layout: open it without {SCHEME_PREFIX}")
        try:
            held = root.look()
        except ArtifactError:
            raise
        except OSError as error:
            raise translate(error, f"cannot look at {root.path}") from error
        if held is None:
            if reading:
                raise NotFound(f"no store at {root.path}: the directory does not exist (the first commit makes it)")
            self._was_missing = True
        elif not self._is_known:
            # The layout has no marker: the directory itself is what tells.
            root.expect("", partial(_is_directory, _identity(held.fd)))
            self._is_known = True

    def _require_writer(self) -> None:
        if self._local is None and not self._single_writer:
            raise UnsafeStore(
                f"{self.url}: squirrel's layout has no way for two writers to share a remote store; pass "
                "single_writer=True if nothing else ever writes to it at the same time, or use the object layout "
                f"(the URL without {SCHEME_PREFIX}, in an empty place)"
            )

    # -- browsing ---------------------------------------------------------------------------------------------------

    def list_collection_names(self) -> list[str]:
        """Every collection, sorted. Raises NotFound (no such local directory), StoreUnreachable, AccessDenied."""
        self._require(reading=True)
        return layout.shown_collections(self.store.listing("").directories)

    def list_artifacts(self, collection: str | None = None) -> list[str]:
        """The artifacts of a collection that have a live version, sorted."""
        self._require(reading=True)
        collection = collection or self.active_collection
        found = self._history.artifacts(collection)
        if found is None:
            raise CollectionNotFound(f"no collection {collection!r} in {self.url}")
        return sorted(map(shown_artifact, found))

    def exists_in_collection(self, artifact: str, collection: str | None = None) -> bool:
        """Tell whether the artifact has a live version in the collection. Raises StoreUnreachable, AccessDenied."""
        self._require(reading=True)
        try:
            return bool(self._history.numbers(collection or self.active_collection, artifact).live)
        except (CollectionNotFound, InvalidName):
            return False

    def list_version_names(self, artifact: str, collection: str | None = None) -> list[str]:
        """The live versions, oldest first; no record is read."""
        self._require(reading=True)
        numbers = self._history.existing_numbers(collection or self.active_collection, artifact)
        return [names.version_name(number) for number in numbers.live]

    def list_versions(self, artifact: str, collection: str | None = None) -> list[VersionInfo]:
        """Every live version, oldest first. Those that squirrel-core wrote are listed file by file."""
        self._require(reading=True)
        collection = collection or self.active_collection
        numbers = self._history.existing_numbers(collection, artifact)
        found = self._history.found(collection, artifact, numbers.live)
        infos: list[VersionInfo] = []
        for number, known in found.items():
            try:
                infos.append(self._contents.info(collection, artifact, number, known))
            except RECORD_FAULTS as error:
                self._history.tell(layout.version_key(collection, artifact, number), error)
        return self._annotations.shown(infos, numbers.annotated)

    def version_info(self, artifact: str, collection: str | None = None, version: str | None = None) -> VersionInfo:
        """What is known of one version; `digest` is None where squirrel-core wrote it."""
        collection = collection or self.active_collection
        number, known, is_annotated = self._find(artifact, collection, version)
        info = self._contents.info(collection, artifact, number, known)
        return self._annotations.shown([info], [number])[0] if is_annotated else info

    def manifest(self, artifact: str, collection: str | None = None, version: str | None = None) -> Manifest:
        """The files of a version, found by listing where squirrel-core wrote it; then no digests are known.

        Raises FormatError for what no version can hold, such as a symlink that leads out of it.
        """
        collection = collection or self.active_collection
        number, known, _ = self._find(artifact, collection, version)
        return self._contents.manifest(collection, artifact, number, known)

    def read_entry(self, info: VersionInfo, entry: Entry, offset: int = 0, size_bytes: int | None = None) -> bytes:
        """Bytes of one file. A read of the whole file is checked against its digest where that is known."""
        if entry.kind is not EntryKind.FILE:
            raise PathNotFound(f"{entry.path} of {info.collection}/{info.artifact} {info.version} is not a file")
        left = max(0, entry.size_bytes - offset)
        count = left if size_bytes is None else min(size_bytes, left)
        if count == entry.size_bytes:
            return self._contents.read_whole(info, entry)
        return self._contents.read(info, entry, offset, count)

    def local_range(self, info: VersionInfo, entry: Entry) -> LocalRange | None:
        """Where the file lies on the local disk; None for other stores, and for an empty file.

        Raises IntegrityError when it is missing or too short; its digest is not checked.
        """
        return self._contents.local_range(info, entry)

    def find_commit(self, artifact: str, commit_id: str, collection: str | None = None) -> VersionInfo | None:
        """As in `ArtifactManager`; of a version that was deleted since, too."""
        collection = collection or self.active_collection
        try:
            self._require(reading=True)
            numbers = self._history.numbers(collection, artifact)
            made = self._history.find_commit(collection, artifact, commit_id, numbers)
        except (NotFound, InvalidName):
            return None
        if made is None:
            return None
        return self._annotations.shown([made.info(collection, artifact)], numbers.annotated)[0]

    def restore(self, info: VersionInfo, target: Path, progress: Progress | None = None) -> None:
        """Write a version's files to the directory `target`, checked where their digests are known."""
        manifest = self.manifest(info.artifact, info.collection, info.version)
        self._contents.restore(info, manifest, str(target), progress)

    # -- aliases and deletion ---------------------------------------------------------------------------------------

    def aliases(self, artifact: str, collection: str | None = None) -> dict[str, str]:
        """Alias → version, without ``latest``; an alias whose version is gone is left out."""
        self._require(reading=True)
        return self._history.aliases(collection or self.active_collection, artifact)

    def set_alias(self, artifact: str, alias: str, version: str, collection: str | None = None) -> None:
        """Point `alias` at a version. Raises UnsafeStore too."""
        names.check_alias(alias)
        self._require_writer()
        collection = collection or self.active_collection
        number, _, _ = self._find(artifact, collection, version)
        self._move_old_notes()
        self._write_alias(collection, artifact, alias, names.version_name(number))

    def delete_alias(self, artifact: str, alias: str, collection: str | None = None) -> None:
        """Remove an alias. Raises UnsafeStore too."""
        self._require_writer()
        self._require(reading=True)
        self._move_old_notes()
        key = alias_key(self._history.prefix(collection or self.active_collection, artifact), alias)
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
        """Give a version another message, or more metadata; squirrel-core sees neither. Raises UnsafeStore too."""
        self._require_writer()
        info = self.version_info(artifact, collection, version)
        self._move_old_notes()
        look = partial(self.version_info, artifact, info.collection, info.version)
        return self._annotations.annotate(info, look, message, metadata)

    def delete_version(self, artifact: str, version: str, collection: str | None = None) -> None:
        """Delete a version's files for good; its directory stays, see the module docstring. Raises UnsafeStore too."""
        self._require_writer()
        collection = collection or self.active_collection
        self._move_old_notes()
        number = self._history.resolve(collection, artifact, version)
        known, is_damaged = None, False
        try:
            known, _ = self._history.find(collection, artifact, number)
        except RECORD_FAULTS:
            is_damaged = True  # it is deleted like any other
        name = names.version_name(number)
        prefix = self._history.prefix(collection, artifact)
        pointing = [alias for alias, of in self._history.aliases(collection, artifact).items() if of == name]
        if is_damaged:
            record = unreadable_record(number)
        else:
            record = known.record if known else self._foreign_record(collection, artifact, number)
        tombstone = Tombstone(version=name, deleted=time.time_ns(), record=record)
        # Where somebody else deletes it at this moment, theirs is the tombstone and the rest is done twice.
        self.store.put_exclusive(tombstone_key(prefix, number), encode(tombstone))
        if known is None:
            # What keeps the number taken where there are no directories without files.
            self.store.replace(self._history.record_key(prefix, number), encode(record))
        key = layout.version_key(collection, artifact, number)
        if self._root is None or self._local is None:
            remove_remotely(self.store, key)
        else:
            remove_locally(self._root, self._local, key)
        self._annotations.delete(collection, artifact, number)
        for alias in pointing:
            self.store.delete(alias_key(prefix, alias))

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
        """Make the directory or file `tree` the next version; `plain.local` and `plain.remote` say how that is safe.

        A repeated commit answers as the first did, ``created=True``. A latest version that squirrel-core wrote is read
        to compare it, when its paths and sizes are the same. Raises SerializationError for metadata that is no JSON or
        larger than 64 KiB, UnsafeStore for a remote store without ``single_writer``.
        """
        collection = collection or self.active_collection
        names.check_collection(collection)
        names.check_artifact(artifact)
        if reference_of is not None:
            raise Unsupported("squirrel's layout keeps every file in its version: none can stand for another's bytes")
        self._require_writer()
        self._require()
        self._move_old_notes()
        commit = Commit(
            collection,
            artifact,
            os.path.abspath(tree),
            commit_id,
            below=below,
            message=message,
            metadata=metadata or {},
            consume=consume,
            progress=progress,
        )
        result = (self._local or self._remote).commit(commit)
        for alias in aliases:
            self._write_alias(collection, artifact, alias, result.info.version)
        self._require()  # the first commit makes the directory that must be there from then on
        [info] = self._annotations.shown([result.info], [result.info.number])
        return replace(result, info=info)

    # -- parts ------------------------------------------------------------------------------------------------------

    def _find(self, artifact: str, collection: str, version: str | None) -> tuple[int, Known | None, bool]:
        """The number a version, alias or None stands for, and what `PlainHistory.find` gives of it."""
        self._require(reading=True)
        number = self._history.resolve(collection, artifact, version)
        return number, *self._history.find(collection, artifact, number)

    def _write_alias(self, collection: str, artifact: str, alias: str, version: str) -> None:
        self.store.replace(alias_key(self._history.prefix(collection, artifact), alias), encode(Alias(version)))

    def _foreign_record(self, collection: str, artifact: str, number: int) -> Record:
        """What a tombstone says of a version that squirrel-core wrote."""
        info = None
        with suppress(*RECORD_FAULTS):  # what cannot be read may be deleted all the same
            info = self._contents.info(collection, artifact, number, None)
        return Record(
            version=names.version_name(number),
            created=info.created_ns if info else 0,
            commit="",
            digest="",
            manifest="0" * 64,
            file_count=info.file_count if info else 0,
            size_bytes=info.size_bytes if info else 0,
        )

    def _source(self, info: VersionInfo, aliases: Mapping[str, str]) -> Source:
        """squirrel's own form, so that its catalogs and ours read each other's files."""
        ours: Source = super()._source(info, aliases)
        key = f"{layout.version_key(info.collection, info.artifact, info.number)}/{layout.FILES}"
        url, _, options = self._made_from
        root = self.store.local_root
        place = Path(root, key).as_uri() if root is not None else f"{without_url_secrets(url).rstrip('/')}/{key}"
        return Source("directory", {"url": place, "storage_options": without_secrets(options)}, ours.metadata)


def _identity(directory: int) -> tuple[int, int]:
    """The numbers by which a directory is known when its disk comes back, perhaps as another device."""
    return os.fstatvfs(directory).f_fsid, os.fstat(directory).st_ino


def _is_directory(identity: tuple[int, int], directory: int) -> bool:
    return identity[0] != 0 and _identity(directory) == identity
