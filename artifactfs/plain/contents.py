"""Reading versions in squirrel's layout: their manifests, and the bytes of their files.

A version with our record has a manifest beside its files. Any other is listed: what lies in ``files`` or, where
squirrel's serializers wrote it, everything in the version's directory; its files have no digests to be checked against.

Threading: any thread; the lock guards the caches and is not held across I/O.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

from blake3 import blake3
from cachetools import LRUCache

from artifactfs import names
from artifactfs.errors import FormatError, IntegrityError, InvalidName, NotFound, UnsupportedTree
from artifactfs.longpaths import reach
from artifactfs.managers.base import LocalRange, Progress, VersionInfo
from artifactfs.manifest import Entry, EntryKind, Manifest
from artifactfs.objects.hashing import open_regular, stored_digest
from artifactfs.objects.history import Known
from artifactfs.objects.restore import Report, copy_file, restore_tree, write_file
from artifactfs.objects.scan import scan_tree
from artifactfs.objects.store import ObjectStore, translate
from artifactfs.plain import layout

_MANIFEST_CACHE_BYTES = 256 << 20
_CACHED_PLACES = 4096
_CHUNK_BYTES = 8 << 20


class Contents:
    """The files of one store's versions."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._manifests: LRUCache[str, Manifest] = LRUCache(
            _MANIFEST_CACHE_BYTES, getsizeof=lambda manifest: manifest.memory_bytes
        )
        self._places: LRUCache[str, str] = LRUCache(_CACHED_PLACES)

    # -- what is there ----------------------------------------------------------------------------------------------

    def manifest(self, collection: str, artifact: str, number: int, known: Known | None) -> Manifest:
        """The files of a version; `known` is its record. Raises IntegrityError, FormatError."""
        version = layout.version_key(collection, artifact, number)
        return self._listed(version)[0] if known is None else self._recorded(version, known.record.manifest)

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

    def _recorded(self, version: str, name: str) -> Manifest:
        with self._lock:
            if (cached := self._manifests.get(name)) is not None:
                return cached
        try:
            raw = self._store.get(f"{version}/{layout.MANIFEST}")
        except NotFound as error:
            raise IntegrityError(f"the manifest of {version} is missing from {self._store.url}") from error
        if blake3(raw).hexdigest() != name:
            raise IntegrityError(f"the manifest of {version} in {self._store.url} does not match its digest")
        manifest = Manifest.decode(raw)
        with self._lock:
            if manifest.memory_bytes <= self._manifests.maxsize:
                self._manifests[name] = manifest
        return manifest

    def _listed(self, version: str) -> tuple[Manifest, int]:
        """The manifest of what is found, and when the version was made."""
        try:
            if self._store.local_root is None:
                return self._listed_remotely(version)
            return self._scanned(f"{self._store.local_root}/{version}", self._place(version))
        except (UnsupportedTree, InvalidName) as error:
            raise FormatError(f"{version} of {self._store.url} holds what a version cannot: {error}") from error

    def _scanned(self, directory: str, place: str) -> tuple[Manifest, int]:
        manifest = Manifest.of(scan_tree(f"{self._store.local_root}/{place}").builder.rows())
        if not place.endswith(f"/{layout.FILES}"):
            manifest = Manifest(entry for entry in manifest if entry.path.partition("/")[0] not in layout.OWN_NAMES)
        try:
            return manifest, os.stat(directory).st_mtime_ns
        except OSError as error:
            raise translate(error, f"cannot look at {directory}") from error

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
        root = self._store.local_root
        if root is None:
            there = layout.FILES in self._store.listing(version).directories
            # A version of ours without files, or of empty directories only, is not listed.
            there = there or self._store.exists(f"{version}/{layout.RECORD}")
        else:
            there = os.path.isdir(f"{root}/{files}") and not os.path.islink(f"{root}/{files}")
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
            if self._store.local_root is None:
                data = self._store.get_range(key, offset, size_bytes)
            else:
                data = _read_local(f"{self._store.local_root}/{key}", offset, size_bytes)
        except (NotFound, UnsupportedTree) as error:
            raise IntegrityError(f"{key} is missing from {self._store.url}, or is no file any more") from error
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
        root = self._store.local_root
        if root is None or entry.kind is not EntryKind.FILE or entry.size_bytes == 0:
            return None
        path = f"{root}/{self.key(info, entry)}"
        try:
            with reach(path) as place:
                status = os.lstat(place)
        except OSError as error:
            found = translate(error, f"cannot look at {path}")
            raise IntegrityError(f"{path} is missing") if isinstance(found, NotFound) else found from error
        if not stat.S_ISREG(status.st_mode) or status.st_size < entry.size_bytes:
            raise IntegrityError(f"{path} is cut short, or is no file any more")
        return LocalRange(path, 0, entry.size_bytes)

    def restore(self, info: VersionInfo, manifest: Manifest, target: str, progress: Progress | None) -> None:
        """Write a version's files to the directory `target`. Raises as `objects.restore.restore_tree`."""
        restore_tree(manifest, target, partial(self._write_files, info, manifest), progress)

    def _write_files(self, info: VersionInfo, manifest: Manifest, root: str, report: Report) -> None:
        files = _files(manifest)
        if self._store.local_root is not None:
            for entry in files:
                copy_file(root, entry, f"{self._store.local_root}/{self.key(info, entry)}", report)
            return
        at_once = self._store.parallel_transfers
        with ThreadPoolExecutor(at_once) as pool:
            # Batches, so that a version of a million files is not a million waiting tasks.
            while batch := list(islice(files, 4 * at_once)):
                for done in [
                    pool.submit(write_file, root, entry, partial(self.read, info, entry), report) for entry in batch
                ]:
                    done.result()

    def _hash(self, info: VersionInfo, entry: Entry) -> str:
        if self._store.local_root is not None:
            path = f"{self._store.local_root}/{self.key(info, entry)}"
            try:
                return stored_digest(path)
            except OSError as error:
                raise translate(error, f"cannot read {path}") from error
        digest = blake3()
        for offset in range(0, entry.size_bytes, _CHUNK_BYTES):
            digest.update(self.read(info, entry, offset, min(_CHUNK_BYTES, entry.size_bytes - offset)))
        return digest.hexdigest()


def _files(manifest: Manifest) -> Iterator[Entry]:
    return (entry for entry in manifest if entry.kind is EntryKind.FILE)


def _read_local(path: str, offset: int, size_bytes: int) -> bytes:
    """Bytes of a regular file, never through a symlink in its place. Raises UnsupportedTree, AccessDenied."""
    fd = open_regular(path)
    try:
        # A damaged manifest may claim any size; what is read is bounded by what is there.
        size_bytes = min(size_bytes, max(0, os.fstat(fd).st_size - offset))
        data = os.pread(fd, size_bytes, offset)
        while len(data) < size_bytes and (more := os.pread(fd, size_bytes - len(data), offset + len(data))):
            data += more
        return data
    except OSError as error:
        raise translate(error, f"cannot read {path}") from error
    finally:
        os.close(fd)
