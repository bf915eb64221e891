"""Browsing a backend that knows nothing but squirrel's interface: by downloading whole versions.

`DownloadedBrowsing` is what `ArtifactManager` stands on where a manager does not do better. What is downloaded lives in
a temporary directory of this process, bounded in bytes; the version not used for longest goes first, and is downloaded
again when it is wanted.

Threading: safe from any thread. `_lock` guards the table of downloads and is never held across a download; of several
threads that want the same version one downloads and the others wait.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cachetools import LRUCache

from artifactfs import names
from artifactfs.errors import (
    ArtifactNotFound,
    CollectionNotFound,
    IntegrityError,
    NotFound,
    PathNotFound,
    VersionNotFound,
)
from artifactfs.managers.base import CommitResult, LocalRange, VersionInfo
from artifactfs.manifest import Entry, EntryKind, Manifest

if TYPE_CHECKING:
    from artifactfs.managers.base import ArtifactManager

KEPT_BYTES = 10 << 30

Key = tuple[str, str, str]
"""(collection, artifact, version)"""


@dataclass(frozen=True)
class Download:
    """One version on disk: its files below `root`."""

    root: Path
    manifest: Manifest


class _BoundedDownloads(LRUCache[Key, Download]):
    """Forgets the least recently used; whoever has a file open goes on reading it."""

    def popitem(self) -> tuple[Key, Download]:
        key, download = super().popitem()
        shutil.rmtree(download.root.parent, ignore_errors=True)
        return key, download


class Downloads:
    """See the module docstring. `fetch(key, directory)` downloads a version into `directory` and returns its top."""

    def __init__(self, fetch: Callable[[Key, Path], Path], kept_bytes: int = KEPT_BYTES) -> None:
        self._fetch = fetch
        self._lock = threading.Lock()
        self._kept = _BoundedDownloads(kept_bytes, getsizeof=lambda download: max(1, download.manifest.size_bytes))
        self._under_way: dict[Key, Future[Download]] = {}
        self._directory: Path | None = None

    def get(self, key: Key) -> Download:
        """The version on disk, downloaded when it is not there. Raises what `fetch` raises, UnsupportedTree."""
        with self._lock:
            download = self._kept.get(key)
            if download is not None:
                return download
            under_way = self._under_way.get(key)
            if under_way is None:
                mine = self._under_way[key] = Future()
        if under_way is not None:
            return under_way.result()
        try:
            download = self._download(key)
        except BaseException as error:
            mine.set_exception(error)
            raise
        else:
            mine.set_result(download)
        finally:
            with self._lock:
                del self._under_way[key]
                if download is not None and download.manifest.size_bytes <= self._kept.maxsize:
                    self._kept[key] = download
        return download

    def _download(self, key: Key) -> Download:
        directory = Path(tempfile.mkdtemp(dir=self._base()))
        try:
            root = self._fetch(key, directory)
            return Download(root, hashed_manifest(root))
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise

    def _base(self) -> Path:
        with self._lock:
            if self._directory is None:
                self._directory = Path(tempfile.mkdtemp(prefix="artifactfs-downloads-"))
                weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
            return self._directory


def hashed_manifest(root: Path, below: str = "") -> Manifest:
    """The manifest of a directory on disk, put below `below`, with the digest of every file.

    Times are left out (0): a backend that does not keep them would give others at every download.
    Raises UnsupportedTree, AccessDenied.
    """
    from artifactfs.objects.hashing import hash_file
    from artifactfs.objects.scan import scan_tree

    scan = scan_tree(os.fspath(root), below)
    for row, kind in enumerate(scan.builder.kinds):
        scan.builder.mtimes[row] = 0
        if kind == EntryKind.FILE:
            scan.builder.set_content(row, bytes.fromhex(hash_file(scan.path(row)).digest), None)
    return Manifest.of(scan.builder.rows())


class DownloadedBrowsing:
    """The browsing methods of `ArtifactManager`, on its squirrel methods. Times the backend does not tell are 0."""

    def __init__(self, manager: ArtifactManager) -> None:
        self._manager = manager
        self._downloads = Downloads(self._fetch)

    def _fetch(self, key: Key, directory: Path) -> Path:
        collection, artifact, version = key
        path = self._manager.download_artifact(artifact, collection, version, directory)
        assert isinstance(path, Path)
        return path

    def artifacts(self, collection: str) -> list[str]:
        """As `ArtifactManager.list_artifacts`."""
        self._check_collection(collection)
        identifiers = self._manager.collection_to_catalog(collection).keys()
        return sorted(_artifact_of(identifier) for identifier in identifiers)

    def versions(self, collection: str, artifact: str) -> list[str]:
        """As `ArtifactManager.list_version_names`."""
        return [names.version_name(number - 1) for number in sorted(self._sources(collection, artifact))]

    def version_info(self, collection: str, artifact: str, version: str | None) -> VersionInfo:
        """As `ArtifactManager.version_info`; sizes and digests are those of the downloaded files."""
        sources = self._sources(collection, artifact)
        name = names.version_name(max(sources) - 1) if version in (None, names.LATEST) else version
        assert name is not None
        if not names.is_version(name) or names.version_number(name) + 1 not in sources:
            raise VersionNotFound(f"no version {name!r} of {collection}/{artifact}")
        manifest = self._downloads.get((collection, artifact, name)).manifest
        return VersionInfo(
            collection, artifact, name, 0, manifest.size_bytes, manifest.file_count, manifest.content_digest()
        )

    def manifest(self, collection: str, artifact: str, version: str | None) -> Manifest:
        """As `ArtifactManager.manifest`."""
        info = self.version_info(collection, artifact, version)
        return self._downloads.get((collection, artifact, info.version)).manifest

    def local_range(self, info: VersionInfo, entry: Entry) -> LocalRange | None:
        """As `ArtifactManager.local_range`: in the downloaded version."""
        if entry.kind is not EntryKind.FILE:
            return None
        path = names.check_path(entry.path)
        root = self._downloads.get((info.collection, info.artifact, info.version)).root
        return LocalRange(str(root / path), 0, entry.size_bytes)

    def read_entry(self, info: VersionInfo, entry: Entry, offset: int, size_bytes: int | None) -> bytes:
        """As `ArtifactManager.read_entry`; the whole version was checked when it was downloaded."""
        where = self.local_range(info, entry)
        if where is None:
            raise PathNotFound(f"{entry.path} of {info.collection}/{info.artifact} {info.version} is not a file")
        try:
            with open(where.path, "rb") as file:
                file.seek(offset)
                return file.read(-1 if size_bytes is None else size_bytes)
        except OSError as error:
            raise IntegrityError(f"{entry.path}: cannot read it where it was downloaded to: {error}") from error

    def commit_tree(self, collection: str, artifact: str, tree: Path, below: str) -> CommitResult:
        """As `ArtifactManager.commit_tree`, where a repeated commit is told by its content."""
        digest = hashed_manifest(tree, below).content_digest()
        try:
            latest = self.version_info(collection, artifact, None)
        except NotFound:
            latest = None
        if latest is not None and latest.digest == digest:
            return CommitResult(latest, created=False)
        place = below if tree.is_dir() else below or tree.name
        source = self._manager.log_files(artifact, tree, collection, Path(place) if place else None)
        info = self.version_info(collection, artifact, names.version_name(source.version - 1))
        return CommitResult(info, created=True, sent_bytes=info.size_bytes)

    def _sources(self, collection: str, artifact: str) -> Mapping[int, object]:
        """The catalog's versions of one artifact, counted from 1. Raises CollectionNotFound, ArtifactNotFound."""
        self._check_collection(collection)
        catalog = self._manager.collection_to_catalog(collection)
        key = f"{collection}/{artifact}"
        if key not in catalog:
            raise ArtifactNotFound(f"no artifact {artifact!r} in collection {collection!r}")
        return catalog[key].versions

    def _check_collection(self, collection: str) -> None:
        if collection not in self._manager.list_collection_names():
            raise CollectionNotFound(f"no collection {collection!r}")


def _artifact_of(identifier: str) -> str:
    return identifier.partition("/")[2]
