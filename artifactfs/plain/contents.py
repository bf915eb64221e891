"""Reading versions in squirrel's layout: their manifests, and the bytes of their files.

A version with our record has a manifest beside its files. Any other is listed: what lies in ``files`` or, where
squirrel's serializers wrote it, everything in the version's directory; its files have no digests to be checked against.

Threading: any thread; the lock guards the caches and is not held across I/O.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

from blake3 import blake3
from cachetools import LRUCache

from artifactfs import names
from artifactfs.errors import (
    RECORD_FAULTS,
    ArtifactError,
    FormatError,
    IntegrityError,
    InvalidName,
    NotFound,
    StoreUnreachable,
    UnsupportedTree,
)
from artifactfs.managers.base import LocalRange, Progress, VersionInfo
from artifactfs.manifest import Entry, EntryKind, Manifest
from artifactfs.objects.hashing import digest_of
from artifactfs.objects.history import Known
from artifactfs.objects.layout import Record, decode_record
from artifactfs.objects.local import LocalStore
from artifactfs.objects.restore import Report, copy_file, restore_tree, write_file
from artifactfs.objects.scan import kept_mtime_ns, scan_tree
from artifactfs.objects.store import ObjectStore, translate
from artifactfs.plain import layout

_MANIFEST_CACHE_BYTES = 256 << 20
_CACHED_PLACES = 4096
_CHUNK_BYTES = 8 << 20


class Contents:
    """The files of one store's versions."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._root = store.root if isinstance(store, LocalStore) else None
        self._lock = threading.Lock()
        self._manifests: LRUCache[str, Manifest] = LRUCache(
            _MANIFEST_CACHE_BYTES, getsizeof=lambda manifest: manifest.memory_bytes
        )
        self._places: LRUCache[str, str] = LRUCache(_CACHED_PLACES)

    # -- what is there ----------------------------------------------------------------------------------------------

    def manifest(self, collection: str, artifact: str, number: int, known: Known | None) -> Manifest:
        """The files of a version; `known` is its record. Raises IntegrityError, FormatError."""
        version = layout.version_key(collection, artifact, number)
        if known is None:
            return self._listed(version)[0]
        if self._root is not None:
            self._place(version)  # so that a version that was loaded can be read without asking the store
        return self._recorded(version, known.record.manifest)

    def info(self, collection: str, artifact: str, number: int, known: Known | None) -> VersionInfo:
        """What is known of a version; one without a record is listed for it. Raises FormatError."""
        if known is not None:
            return known.info
        manifest, created_ns = self._listed(layout.version_key(collection, artifact, number))
        return VersionInfo(
            collection, artifact, names.version_name(number), created_ns, manifest.size_bytes, manifest.file_count
        )

    def digest(self, info: VersionInfo, manifest: Manifest) -> str:
        """The content digest of a version that has no record: every file of it is read."""
        entries = []
        for entry in manifest:
            if entry.kind is EntryKind.FILE:
                entry = entry._replace(digest=self._hash(info, entry))
            entries.append(entry)
        return Manifest(entries).content_digest()

    def read_back(self, collection: str, artifact: str, record: Record) -> None:
        """See that a version that was just made is in the store itself. Raises StoreUnreachable."""
        version = f"{layout.artifact_key(collection, artifact)}/{record.version}"
        number = names.version_number(record.version)
        try:
            raw = self._store.get(f"{version}/{layout.RECORD}")
            self._stored_manifest(version, record.manifest)
            if decode_record(raw, version, number) == record:
                return
        except (NotFound, IntegrityError, FormatError) as error:
            raise StoreUnreachable(f"{version} of {self._store.url} cannot be read back: {error}") from error
        raise StoreUnreachable(f"{version} of {self._store.url} reads back different from what was committed")

    def is_whole(self, info: VersionInfo, known: Known, manifest: Manifest) -> bool:
        """Tell whether a version of ours holds the files of a manifest: modes, and bytes on disk, elsewhere sizes."""
        version = layout.version_key(info.collection, info.artifact, info.number)
        try:
            if not self._stored_manifest(version, known.record.manifest).has_modes_of(manifest):
                return False
            if self._root is not None:
                return all(self._hash(info, entry) == entry.digest for entry in _files(manifest))
            place = f"{version}/{layout.FILES}"
            sizes = {stored.key: stored.size_bytes for stored in self._store.walk(place)}
            return all(sizes.get(f"{place}/{entry.path}") == entry.size_bytes for entry in _files(manifest))
        except (NotFound, *RECORD_FAULTS):
            return False

    def _stored_manifest(self, version: str, name: str) -> Manifest:
        """A version's manifest, read from the store. Raises IntegrityError, FormatError."""
        try:
            raw = self._store.get(f"{version}/{layout.MANIFEST}")
        except NotFound as error:
            raise IntegrityError(f"the manifest of {version} is missing from {self._store.url}") from error
        if blake3(raw).hexdigest() != name:
            raise IntegrityError(f"the manifest of {version} in {self._store.url} does not match its digest")
        return Manifest.decode(raw)

    def _recorded(self, version: str, name: str) -> Manifest:
        with self._lock:
            if (cached := self._manifests.get(name)) is not None:
                return cached
        manifest = self._stored_manifest(version, name)
        with self._lock:
            if manifest.memory_bytes <= self._manifests.maxsize:
                self._manifests[name] = manifest
        return manifest

    def _listed(self, version: str) -> tuple[Manifest, int]:
        """The manifest of what is found, and when the version was made."""
        if self._root is None:
            try:
                return self._listed_remotely(version)
            except InvalidName as error:
                raise self._unfit(version, str(error)) from error
        try:
            with self._root.directory(version) as (_, near):
                return self._scanned(version, near)
        except ArtifactError:
            raise
        except OSError as error:
            raise translate(error, f"cannot look at {version} of {self._store.url}") from error

    def _scanned(self, version: str, near: str) -> tuple[Manifest, int]:
        assert self._root is not None
        place = self._place(version)
        with self._root.directory(place) as (_, files):
            try:
                manifest = Manifest.of(scan_tree(files).builder.rows())
            except (UnsupportedTree, InvalidName) as error:
                raise self._unfit(version, str(error).replace(files, f"{self._root.path}/{place}")) from error
        if place == version:
            manifest = Manifest(entry for entry in manifest if entry.path.partition("/")[0] not in layout.OWN_NAMES)
        return manifest, kept_mtime_ns(os.stat(near))

    def _unfit(self, version: str, why: str) -> FormatError:
        return FormatError(f"{version} of {self._store.url} holds what a version cannot: {why}")

    def _listed_remotely(self, version: str) -> tuple[Manifest, int]:
        skip = len(self._place(version)) + 1
        entries: list[Entry] = []
        created_ns = 0
        for stored in self._store.walk(self._place(version)):
            path = stored.key[skip:]
            # An object named like a directory is what consoles make to show one.
            if path in layout.OWN_NAMES or path.endswith("/") or not path:
                continue
            changed_ns = stored.changed_ns or 0
            created_ns = max(created_ns, changed_ns)
            entries.append(Entry(path, EntryKind.FILE, stored.size_bytes, mtime_ns=changed_ns))
        return Manifest(entries), created_ns

    def _place(self, version: str) -> str:
        """The key below which the files of a version lie."""
        with self._lock:
            if (cached := self._places.get(version)) is not None:
                return cached
        files = f"{version}/{layout.FILES}"
        if self._root is None:
            there = layout.FILES in self._store.listing(version).directories
            # A version of ours without files, or of empty directories only, is not listed.
            there = there or self._store.exists(f"{version}/{layout.RECORD}")
        else:
            found_there = self._store.listing(version)
            # A symlink is listed as both.
            there = layout.FILES in found_there.directories and layout.FILES not in found_there.files
        found = files if there else version
        with self._lock:
            self._places[version] = found
        return found

    # -- bytes ------------------------------------------------------------------------------------------------------

    def key(self, info: VersionInfo, entry: Entry) -> str:
        """The key of a file. Raises InvalidName when its path would leave the version."""
        version = layout.version_key(info.collection, info.artifact, info.number)
        return f"{self._place(version)}/{names.check_path(entry.path)}"

    def read(self, info: VersionInfo, entry: Entry, offset: int, size_bytes: int) -> bytes:
        """Bytes of one file, all of which must be there. Raises IntegrityError."""
        if size_bytes == 0:
            return b""
        key = self.key(info, entry)
        try:
            data = self._store.get_range(key, offset, size_bytes)
        except NotFound as error:
            raise IntegrityError(f"{key} is missing from {self._store.url}") from error
        if len(data) != size_bytes:
            raise IntegrityError(f"{key} in {self._store.url} is cut short")
        return data

    def read_whole(self, info: VersionInfo, entry: Entry) -> bytes:
        """A file's bytes, checked where its digest is known. Raises IntegrityError."""
        data = self.read(info, entry, 0, entry.size_bytes)
        if entry.digest is not None and blake3(data).hexdigest() != entry.digest:
            raise IntegrityError(f"{self.key(info, entry)} in {self._store.url} does not match its digest")
        return data

    def local_range(self, info: VersionInfo, entry: Entry) -> LocalRange | None:
        """Where a file lies on this machine's disk; None for an empty one and in remote stores."""
        if self._root is None or entry.kind is not EntryKind.FILE or entry.size_bytes == 0:
            return None
        key = self.key(info, entry)
        try:
            size_bytes = self._store.size(key)
        except NotFound as error:
            raise IntegrityError(f"{key} is missing from {self._store.url}") from error
        if size_bytes < entry.size_bytes:
            raise IntegrityError(f"{key} of {self._store.url} is cut short")
        return LocalRange(f"{self._root.path}/{key}", 0, entry.size_bytes)

    def restore(self, info: VersionInfo, manifest: Manifest, target: str, progress: Progress | None) -> None:
        """Write a version's files to the directory `target`. Raises as `objects.restore.restore_tree`."""
        restore_tree(manifest, target, partial(self._write_files, info, manifest), progress)

    def _write_files(self, info: VersionInfo, manifest: Manifest, root: str, report: Report) -> None:
        files = _files(manifest)
        if self._root is not None:
            for entry in files:
                self._copy(root, entry, self.key(info, entry), report)
            return
        at_once = self._store.parallel_transfers
        with ThreadPoolExecutor(at_once) as pool:
            # Batches, so that a version of a million files is not a million waiting tasks.
            while batch := list(islice(files, 4 * at_once)):
                for done in [
                    pool.submit(write_file, root, entry, partial(self.read, info, entry), report) for entry in batch
                ]:
                    done.result()

    def _copy(self, target: str, entry: Entry, key: str, report: Report) -> None:
        assert self._root is not None
        path = f"{self._root.path}/{key}"
        try:
            with self._root.directory(os.path.dirname(key)) as (_, near):
                copy_file(target, entry, f"{near}/{os.path.basename(key)}", report, path)
        except ArtifactError:
            raise
        except FileNotFoundError as error:
            raise IntegrityError(f"{entry.path}: {path} is missing") from error
        except OSError as error:
            raise translate(error, f"cannot copy {path}") from error

    def _hash(self, info: VersionInfo, entry: Entry) -> str:
        if self._root is not None:
            path = f"{self._root.path}/{self.key(info, entry)}"
            try:
                fd = self._store.open_local(path)
                try:
                    return digest_of(fd)
                finally:
                    os.close(fd)
            except ArtifactError:
                raise
            except OSError as error:
                raise translate(error, f"cannot read {path}") from error
        digest = blake3()
        for offset in range(0, entry.size_bytes, _CHUNK_BYTES):
            digest.update(self.read(info, entry, offset, min(_CHUNK_BYTES, entry.size_bytes - offset)))
        return digest.hexdigest()


def _files(manifest: Manifest) -> Iterator[Entry]:
    return (entry for entry in manifest if entry.kind is EntryKind.FILE)
