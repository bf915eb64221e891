"""BrowsableManager: squirrel's interface on top of browsing, for backends that can list and read by themselves.

A subclass implements what is abstract here (listing, reading, committing a tree); catalogs, objects, logging and
downloading follow from it. Threading: as `managers.base` demands; nothing here holds state.
"""

from __future__ import annotations

import functools
import logging
import os
import tempfile
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifactfs import names
from artifactfs.catalog import Catalog, CatalogSource, catalog_key, source_of
from artifactfs.errors import RECORD_FAULTS, CollectionNotFound, NotFound, PathNotFound
from artifactfs.managers import arguments
from artifactfs.managers.base import (
    ArtifactManager,
    CommitResult,
    LocalRange,
    Progress,
    ReferenceOf,
    TmpArtifact,
    VersionInfo,
    guarded,
)
from artifactfs.managers.commit_id import new_commit_id
from artifactfs.managers.options import check_options
from artifactfs.managers.urls import scheme_of
from artifactfs.manifest import Entry, Manifest
from artifactfs.redaction import redact

if TYPE_CHECKING:
    from artifactfs.objects.store import ObjectStore

_log = logging.getLogger(__name__)


class BrowsableManager(ArtifactManager):
    """See the module docstring. `url` is what `artifactfs.connect` opens the store with."""

    url: str

    @property
    def storage_options(self) -> Mapping[str, Any]:
        """What `artifactfs.connect` needs besides the URL; catalogs carry it, without what looks like a secret."""
        return {}

    # -- what a backend implements ----------------------------------------------------------------------------------

    @abstractmethod
    def list_artifacts(self, collection: str | None = None) -> list[str]:
        """As in `ArtifactManager`."""

    @abstractmethod
    def list_version_names(self, artifact: str, collection: str | None = None) -> list[str]:
        """As in `ArtifactManager`."""

    @abstractmethod
    def version_info(self, artifact: str, collection: str | None = None, version: str | None = None) -> VersionInfo:
        """As in `ArtifactManager`."""

    @abstractmethod
    def manifest(self, artifact: str, collection: str | None = None, version: str | None = None) -> Manifest:
        """As in `ArtifactManager`."""

    @abstractmethod
    def read_entry(self, info: VersionInfo, entry: Entry, offset: int = 0, size_bytes: int | None = None) -> bytes:
        """As in `ArtifactManager`."""

    def local_range(self, info: VersionInfo, entry: Entry) -> LocalRange | None:
        """As in `ArtifactManager`."""
        return None

    @abstractmethod
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
        """As in `ArtifactManager`."""

    @abstractmethod
    @guarded
    def restore(self, info: VersionInfo, target: Path, progress: Progress | None = None) -> None:
        """Write a version's files to the directory `target`, as `download_artifact` promises."""

    # -- squirrel's interface on top of it --------------------------------------------------------------------------

    def exists_in_collection(self, artifact: str, collection: str | None = None) -> bool:
        """Tell whether the artifact has a live version in the collection. Raises StoreUnreachable, AccessDenied."""
        try:
            return artifact in self.list_artifacts(collection)
        except CollectionNotFound:
            return False

    def collection_to_catalog(self, collection: str | None = None) -> Catalog:
        """Every live version in a collection, under identifiers ``collection/artifact``; v0 is catalog version 1.

        An artifact that cannot be read is left out, with a warning.
        Raises CollectionNotFound, StoreUnreachable, AccessDenied.
        """
        collection = collection or self.active_collection
        catalog = Catalog()
        for artifact in self.list_artifacts(collection):
            try:
                aliases = self.aliases(artifact, collection)
                infos = self.list_versions(artifact, collection)
            except RECORD_FAULTS as error:
                _log.warning("the catalog leaves out %s/%s: %s", collection, artifact, error)
                continue
            for info in infos:
                catalog[catalog_key(info)] = self._source(info, aliases)
        return catalog

    def get_artifact(
        self,
        artifact: str,
        collection: str | None = None,
        version: str | None = None,
        *,
        serializer: str | None = None,
    ) -> Any:
        """The object that `log_artifact` logged, as `ArtifactManager.get_artifact` says."""
        from artifactfs.serializers import object_file, read_object

        info = self.version_info(artifact, collection, version)
        path = object_file(info.metadata, serializer)
        entry = self.manifest(artifact, info.collection, info.version).find(path)
        if entry is None:
            raise PathNotFound(f"{info.collection}/{artifact}@{info.version} has no {path}: it is damaged")
        return read_object(self.read_entry(info, entry), info.metadata, serializer)

    def log_artifact(
        self,
        obj: Any,
        name: str,
        collection: str | None = None,
        *,
        serializer: str | None = None,
        message: str = "",
        metadata: Mapping[str, Any] | None = None,
        aliases: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> CatalogSource:
        """Log a Python object, as `ArtifactManager.log_artifact` says."""
        from artifactfs.serializers import write_object

        with tempfile.TemporaryDirectory(prefix="artifactfs-") as directory:
            recorded = write_object(obj, Path(directory), serializer)
            return self.log_files(
                name,
                Path(directory),
                collection,
                message=message,
                metadata={**(metadata or {}), **recorded},
                aliases=aliases,
                progress=progress,
            )

    def log_files(
        self,
        artifact_name: str,
        local_path: Path,
        collection: str | None = None,
        artifact_path: Path | None = None,
        *,
        message: str = "",
        metadata: Mapping[str, Any] | None = None,
        aliases: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> CatalogSource:
        """Log a folder's files or one file, as `ArtifactManager.log_files` says."""
        result = self.commit_tree(
            artifact_name,
            existing(local_path),
            collection,
            commit_id=new_commit_id(),
            below=path_in_version(artifact_path),
            message=message,
            metadata=metadata,
            aliases=aliases,
            progress=progress,
        )
        return self.source(result.info)

    def download_artifact(
        self,
        artifact: str,
        collection: str | None = None,
        version: str | None = None,
        to: Path | None = None,
        *,
        progress: Progress | None = None,
    ) -> Path | TmpArtifact:
        """Copy a version's files, as `ArtifactManager.download_artifact` says."""
        info = self.version_info(artifact, collection, version)
        if to is None:
            return TmpArtifact(self, info.collection, artifact, info.version)
        target = Path(to, artifact)
        self.restore(info, target, progress)
        return target

    def get_artifact_source(
        self, artifact: str, collection: str | None = None, version: str | None = None, catalog: Catalog | None = None
    ) -> CatalogSource:
        """The description of one version, as `ArtifactManager.get_artifact_source` says."""
        found = self.source(self.version_info(artifact, collection, version))
        return CatalogSource(found, found.identifier, Catalog() if catalog is None else catalog, found.version)

    @guarded
    def source(self, info: VersionInfo) -> CatalogSource:
        """The catalog's description of one version. Raises StoreUnreachable, AccessDenied."""
        catalog = Catalog()
        identifier, number = catalog_key(info)
        catalog[identifier, number] = self._source(info, self.aliases(info.artifact, info.collection))
        return catalog[identifier][number]

    def _source_url(self) -> str:
        """The URL that opens the store in any program."""
        return self.url

    def _source(self, info: VersionInfo, aliases: Mapping[str, str]) -> Any:
        mine = [alias for alias, version in aliases.items() if version == info.version]
        return source_of(self._source_url(), info, self.storage_options, mine)


def existing(local_path: str | os.PathLike[str]) -> Path:
    """The path. Raises NotFound when nothing is there."""
    if not os.path.exists(local_path):
        raise NotFound(f"{local_path} does not exist")
    return Path(local_path)


def path_in_version(artifact_path: str | os.PathLike[str] | None) -> str:
    """The `artifact_path` of `log_files` in the form that `commit_tree` takes: '' is the top. Raises InvalidName."""
    below = Path(artifact_path or ".").as_posix()
    return "" if below == "." else names.check_path(below)


class StoredManager(BrowsableManager):
    """A manager of what lies below one path or fsspec URL. Pickles to what it was made from."""

    def __init__(
        self,
        url: str,
        store: ObjectStore,
        collection: str,
        single_writer: bool,
        storage_options: Mapping[str, Any],
    ) -> None:
        """`store` is what was opened at `url`, with the rest. Raises InvalidName, ArgumentError."""
        arguments.flag("single_writer", single_writer)
        check_options(scheme_of(url), storage_options)
        super().__init__(collection)
        self.store = store
        self._made_from = url, single_writer, storage_options

    def __reduce__(self) -> tuple[Any, ...]:
        url, single_writer, options = self._made_from
        make = functools.partial(
            type(self), url, collection=self.active_collection, single_writer=single_writer, **options
        )
        return make, ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({redact(self.url)!r}, collection={self.active_collection!r})"

    @property
    def storage_options(self) -> Mapping[str, Any]:
        """What was given besides the URL."""
        _, single_writer, options = self._made_from
        return {**options, "single_writer": True} if single_writer else options

    @property
    def local_root(self) -> Path | None:
        """The directory of a local store, None for others."""
        return None if self.store.local_root is None else Path(self.store.local_root)

    def open_local(self, path: str) -> int:
        """Open a file as `ArtifactManager` says, in the store that is held, wherever it has been moved."""
        return self.store.open_local(path)
