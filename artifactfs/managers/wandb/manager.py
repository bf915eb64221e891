"""WandbArtifactManager: a project of Weights & Biases as a store.

Collections are artifact types, and names of artifacts are W&B's own, so an artifact's name is taken once in a project,
whatever its type. `latest` is the highest version, as in every store; W&B's alias of that name is moved along by
commits and never shown. W&B's own types (``job``, ``wandb-…``) are not listed. Names that the rules of
`artifactfs.names` forbid are shown percent-encoded, and taken in that form.

What W&B does not keep is in a small file of every version logged here (`side_file`). Versions that others logged have
no modes, and the time they were made as that of all files.

Threading: any thread; locks guard caches only and are not held across calls, but for commits (`commits`). May be made
before a fork and used on both sides of it: the client runs in processes of its own (`process`). Pickles to what it was
made from.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from cachetools import LRUCache

from artifactfs import names
from artifactfs.content.integrity import check_digest
from artifactfs.errors import (
    ArtifactNotFound,
    CollectionNotFound,
    IntegrityError,
    InvalidName,
    NotFound,
    PathNotFound,
    VersionNotFound,
)
from artifactfs.managers import arguments
from artifactfs.managers.base import CommitResult, Progress, ReferenceOf, VersionInfo, guarded
from artifactfs.managers.browsable import BrowsableManager
from artifactfs.managers.options import check_known
from artifactfs.managers.wandb import commits, process, side_file
from artifactfs.managers.wandb.project import Project
from artifactfs.managers.wandb.references import FOLLOWED, References, schemes_of
from artifactfs.managers.wandb.transfers import Place, Transfers
from artifactfs.managers.wandb.versions import (
    info_of,
    is_own,
    shown_alias,
    shown_artifact,
    shown_collection,
    stored_name,
    stored_version,
)
from artifactfs.manifest import Entry, EntryKind, Manifest
from artifactfs.objects.annotations import check_fitting
from artifactfs.objects.restore import Report, restore_tree, write_file

logger = logging.getLogger(__name__)

_MANIFEST_CACHE_BYTES = 256 << 20
_TRANSFERS = 16


class _Loaded(NamedTuple):
    """The files of a version: the manifest, what W&B calls those with other names, and where references lead."""

    manifest: Manifest
    stored: Mapping[str, str]
    references: Mapping[str, str]


class WandbArtifactManager(BrowsableManager):
    """The artifacts of a project. See the module docstring."""

    def __init__(
        self,
        entity: str | None = None,
        project: str | None = None,
        collection: str = "default",
        *,
        references: str = FOLLOWED,
    ) -> None:
        """A project of an entity; what is not given is taken from the active run, wandb's settings or the account.

        `references` lists the schemes of references that are followed, with commas, or is ``none``; ``file`` is not
        among them unless it is named. Nothing is asked yet.
        Raises InvalidName, MissingDependency (wandb is not installed).
        """
        super().__init__(collection)
        for name, value in (("entity", entity), ("project", project), ("references", references)):
            if value is not None or name == "references":
                arguments.word(name, value)
        process.require_client()
        self._followed = references
        self._project = Project(entity, project)
        self.url = self._project.url
        self._lock = threading.Lock()
        self._loaded: LRUCache[tuple[str, str, str], _Loaded] = LRUCache(
            _MANIFEST_CACHE_BYTES, getsizeof=lambda loaded: loaded.manifest.memory_bytes
        )
        self._transfers = Transfers(lambda version, paths: process.reader().call("urls", artifact=version, paths=paths))
        self._references = References(schemes_of(references))

    @classmethod
    def from_url(cls, url: str, **options: Any) -> WandbArtifactManager:
        """The manager of ``wandb://ENTITY/PROJECT``; either may be left out.

        Raises InvalidName, ArgumentError (an option that it does not know), MissingDependency.
        """
        check_known(options, ("collection", "references"))
        entity, _, project = url.partition("://")[2].rstrip("/").partition("/")
        return cls(entity or None, project or None, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        # In another program, another run or setting would say where this is.
        entity, project = self._project.named()
        make = functools.partial(type(self), entity, project, self.active_collection, references=self._followed)
        return make, ()

    @property
    def storage_options(self) -> Mapping[str, Any]:
        """What was given besides the URL."""
        return {} if self._followed == FOLLOWED else {"references": self._followed}

    def _source_url(self) -> str:
        return self._project.full_url()

    # -- the project --------------------------------------------------------------------------------------------------

    def project_path(self) -> str:
        """``entity/project``. Raises InvalidName when nothing says which, AccessDenied, StoreUnreachable."""
        return self._project.path()

    @property
    def store_id(self) -> str | None:
        """The same for every manager of this project on this server. Raises as :meth:`project_path`."""
        return self._project.id()

    def ensure_created(self) -> None:
        """Nothing is made: a project that is not there yet is made by the first commit, as by wandb's own client.

        Raises NotFound where the entity is none of whoever signed in, Unsupported where wandb is switched off.
        """
        self._project.check_writable()

    # -- browsing -----------------------------------------------------------------------------------------------------

    def list_collection_names(self) -> list[str]:
        """The artifact types, sorted, but for W&B's own. Raises NotFound (no such entity), and as always."""
        return sorted(shown_collection(name) for name in self._project.types() if not is_own(name))

    def list_artifacts(self, collection: str | None = None) -> list[str]:
        """The artifacts of a type, sorted, also those whose versions were all deleted."""
        collection = collection or self.active_collection
        try:
            kind = stored_name(collection)
            found = self._project.ask(NotFound(), "artifacts", project=self._project.path(), type=kind)
        except InvalidName as error:
            raise CollectionNotFound(f"no collection {collection!r}: {error}") from error
        except NotFound as error:
            self._project.types()  # a project that is gone, or hidden, is no project without such a type
            raise CollectionNotFound(f"no collection {collection!r} in {self.url}") from error
        return sorted(map(shown_artifact, found))

    def exists_in_collection(self, artifact: str, collection: str | None = None) -> bool:
        """Tell whether the artifact has a live version in the collection. Raises StoreUnreachable, AccessDenied."""
        try:
            return bool(self.list_version_names(artifact, collection))
        except (ArtifactNotFound, CollectionNotFound, InvalidName):
            return False

    def list_version_names(self, artifact: str, collection: str | None = None) -> list[str]:
        """The live versions, oldest first."""
        return [info.version for info in self.list_versions(artifact, collection)]

    def list_versions(self, artifact: str, collection: str | None = None) -> list[VersionInfo]:
        """Every live version, oldest first: a page of W&B tells of two hundred."""
        collection = collection or self.active_collection
        return [info_of(told, collection, artifact) for told in self._versions(artifact, collection)]

    def _versions(self, artifact: str, collection: str) -> list[dict[str, Any]]:
        """What W&B tells of the live versions, oldest first. Raises ArtifactNotFound."""
        absent = ArtifactNotFound(f"no artifact {artifact!r} in collection {collection!r} of {self.url}")
        try:
            kind, address = stored_name(collection), self._project.address(artifact)
        except InvalidName as error:
            raise absent from error
        try:
            found = self._project.ask(absent, "versions", artifact=address, type=kind)
        except ArtifactNotFound:
            self._project.types()
            raise
        versions = [told for told in found if names.is_version(told["version"])]
        return sorted(versions, key=lambda told: names.version_number(told["version"]))

    def version_info(self, artifact: str, collection: str | None = None, version: str | None = None) -> VersionInfo:
        """What is known of one version; `digest` is None, W&B has no digest of a content as such."""
        collection = collection or self.active_collection
        return info_of(self._version(artifact, collection, version), collection, artifact)

    def _version(self, artifact: str, collection: str, version: str | None) -> dict[str, Any]:
        """What W&B tells of one version."""
        absent = VersionNotFound(f"no version {version!r} of {collection}/{artifact} in {self.url}")
        if version is None or version == names.LATEST:
            found = self._versions(artifact, collection)
            if not found:
                raise absent
            return found[-1]
        told: dict[str, Any] | None = None
        wanted = stored_version(version)
        if wanted is not None:
            try:
                told = self._project.ask(absent, "version", artifact=self._project.address(artifact, wanted))
            except (NotFound, InvalidName):
                told = None
        if told is None or told["type"] != names.unescape(collection):
            # Which of them is missing: the artifact, or only this version of it.
            self._versions(artifact, collection)
            raise absent
        return told

    def manifest(self, artifact: str, collection: str | None = None, version: str | None = None) -> Manifest:
        """The files of a version, with their MD5; references are listed, but for those whose size nobody knows.

        Raises FormatError for what no version can hold, such as a path that leads out of it.
        """
        return self._load(self.version_info(artifact, collection, version)).manifest

    def _load(self, info: VersionInfo) -> _Loaded:
        key = info.collection, info.artifact, info.version
        with self._lock:
            if (cached := self._loaded.get(key)) is not None:
                return cached
        address = self._project.address(info.artifact, info.version)
        absent = VersionNotFound(f"no version {info.version!r} of {info.collection}/{info.artifact} in {self.url}")
        listed = self._project.ask(absent, "manifest", process.MANIFEST_S, artifact=address)
        side = self._side_file(address, listed)
        files, references = [], {}
        for path, size, digest, reference in listed:
            if path == side_file.SIDE_FILE and side is not None:
                continue
            if reference is not None:
                references[path] = reference
                size = size if size is not None else self._references.size_bytes(path, reference)
                if size is None:
                    logger.warning("%s of %s is left out: nobody knows the size of what it refers to", path, address)
                    continue
            files.append(Entry(path, size_bytes=size or 0, digest=digest, mtime_ns=info.created_ns))
        loaded = _Loaded(*side_file.complete(files, side), references)
        with self._lock:
            if loaded.manifest.memory_bytes <= self._loaded.maxsize:
                self._loaded[key] = loaded
        return loaded

    def _side_file(self, address: str, listed: list[list[Any]]) -> side_file.SideFile | None:
        path = side_file.SIDE_FILE
        found = next((entry for entry in listed if entry[0] == path), None)
        if found is None:
            return None
        _, size, digest, reference = found
        if reference is not None or digest is None or not 0 < size <= side_file.MAX_BYTES:
            return None
        raw = self._transfers.read(Place(address, path), 0, size, lambda _: [path])
        check_digest(raw, digest, "md5", f"{path} of {address}")
        return side_file.read(raw)

    # -- bytes --------------------------------------------------------------------------------------------------------

    def read_entry(self, info: VersionInfo, entry: Entry, offset: int = 0, size_bytes: int | None = None) -> bytes:
        """Bytes of one file, by HTTP range. A read of the whole file is checked against its MD5."""
        label = f"{entry.path} of {info.collection}/{info.artifact} {info.version}"
        if entry.kind is not EntryKind.FILE:
            raise PathNotFound(f"{label} is not a file")
        names.check_path(entry.path)
        loaded = self._load(info)
        known = loaded.manifest.find(entry.path)
        if known is None or known.kind is not EntryKind.FILE or known.size_bytes != entry.size_bytes:
            raise IntegrityError(f"{label}: the version has no such file")
        left = max(0, entry.size_bytes - offset)
        count = left if size_bytes is None else min(size_bytes, left)
        if count == 0:
            return b""
        stored = loaded.stored.get(entry.path, entry.path)
        if stored in loaded.references:
            return self._references.read(entry.path, loaded.references[stored], offset, count)
        place = Place(self._project.address(info.artifact, info.version), stored)
        data = self._transfers.read(place, offset, count, functools.partial(_following, loaded, entry.path))
        if count == entry.size_bytes and entry.digest is not None:
            check_digest(data, entry.digest, loaded.manifest.algorithm, label)
        return data

    def restore(self, info: VersionInfo, target: Path, progress: Progress | None = None) -> None:
        """Write a version's files to the directory `target`, checked against their MD5."""
        manifest = self._load(info).manifest

        def write_files(root: str, report: Report) -> None:
            def write(entry: Entry) -> None:
                # The digest that `write_file` knows is another one.
                write_file(root, entry._replace(digest=None), self._checked(info, entry), report)

            files = (entry for entry in manifest if entry.kind is EntryKind.FILE)
            with ThreadPoolExecutor(_TRANSFERS) as pool:
                while batch := list(islice(files, 4 * _TRANSFERS)):
                    for done in [pool.submit(write, entry) for entry in batch]:
                        done.result()

        restore_tree(manifest, str(target), write_files, progress)

    def _checked(self, info: VersionInfo, entry: Entry) -> Callable[[int, int], bytes]:
        """Reads the file from beginning to end, in pieces; the last raises IntegrityError where the MD5 is another."""
        digest = hashlib.md5(usedforsecurity=False)

        def read(offset: int, size_bytes: int) -> bytes:
            data = self.read_entry(info, entry, offset, size_bytes)
            digest.update(data)
            at_end = offset + len(data) == entry.size_bytes
            if at_end and entry.digest is not None and digest.hexdigest() != entry.digest:
                raise IntegrityError(f"{entry.path} of {info.artifact} {info.version} does not match its digest")
            return data

        return read

    # -- aliases and deletion -----------------------------------------------------------------------------------------

    def aliases(self, artifact: str, collection: str | None = None) -> dict[str, str]:
        """Alias → version, without ``latest``. What the drive calls otherwise, ``staging``, is percent-encoded."""
        found = self._versions(artifact, collection or self.active_collection)
        return {
            shown_alias(alias): told["version"]
            for told in found
            for alias in sorted(told["aliases"])
            if alias != names.LATEST and alias != told["version"]
        }

    def set_alias(self, artifact: str, alias: str, version: str, collection: str | None = None) -> None:
        """Point `alias` at a version."""
        names.check_alias(alias)
        self.add_aliases(self.version_info(artifact, collection, version), [alias])

    @guarded
    def add_aliases(self, info: VersionInfo, aliases: Sequence[str]) -> None:
        """Point aliases at a version."""
        for alias in aliases:
            self._project.ask(
                VersionNotFound(f"no version {info.version!r} of {info.artifact}"),
                "set_alias",
                artifact=self._project.address(info.artifact, info.version),
                alias=alias,
            )

    def delete_alias(self, artifact: str, alias: str, collection: str | None = None) -> None:
        """Remove an alias."""
        version = self.aliases(artifact, collection).get(alias)
        absent = VersionNotFound(f"no alias {alias!r} of {artifact}")
        if version is None:
            raise absent
        self._project.ask(
            absent, "delete_alias", artifact=self._project.address(artifact, version), alias=names.unescape(alias)
        )

    def annotate(
        self,
        artifact: str,
        version: str,
        collection: str | None = None,
        *,
        message: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> VersionInfo:
        """Give a version another description, or more metadata: W&B keeps what was given last."""
        info = self.version_info(artifact, collection, version)
        check_fitting(info, message, metadata)
        commits.check_metadata({**info.metadata, **(metadata or {})})
        self._project.ask(
            VersionNotFound(f"no version {version!r} of {artifact}"),
            "annotate",
            artifact=self._project.address(artifact, info.version),
            description=message,
            metadata=dict(metadata or {}),
        )
        return self.version_info(artifact, info.collection, info.version)

    def delete_version(self, artifact: str, version: str, collection: str | None = None) -> None:
        """Delete a version for good. W&B's own `latest` is moved to the version that is the highest then."""
        collection = collection or self.active_collection
        told = self._version(artifact, collection, version)
        absent = VersionNotFound(f"no version {version!r} of {artifact}")
        self._project.ask(absent, "delete", artifact=self._project.address(artifact, told["version"]))
        if names.LATEST in told["aliases"]:
            left = self._versions(artifact, collection)
            if left and not any(names.LATEST in other["aliases"] for other in left):
                address = self._project.address(artifact, left[-1]["version"])
                self._project.ask(absent, "set_alias", artifact=address, alias=names.LATEST)

    # -- committing ---------------------------------------------------------------------------------------------------

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
        """Make the directory or file `tree` the next version, by a run of its own, as `commits` says.

        Raises SerializationError for metadata that is no JSON or has more than 99 keys; InvalidName too where another
        type has an artifact of that name.
        """
        wanted = commits.Commit(
            collection or self.active_collection,
            artifact,
            # Another process reads it, to which a path by a descriptor of this one means something else.
            os.path.realpath(tree),
            commit_id,
            below=below,
            message=message,
            metadata=metadata or {},
            aliases=aliases,
            progress=progress,
        )
        return commits.commit(self, wanted)


def _following(loaded: _Loaded, path: str, count: int) -> list[str]:
    """What W&B calls the file and those after it, at most `count`, none of them a reference."""
    first = loaded.manifest.index(path)
    chosen = [] if first is None else list(islice(_files_from(loaded.manifest, first), count))
    stored = (loaded.stored.get(found, found) for found in chosen)
    return [name for name in stored if name not in loaded.references]


def _files_from(manifest: Manifest, first: int) -> Iterator[str]:
    for i in range(first, len(manifest)):
        if manifest.kind(i) is EntryKind.FILE:
            yield manifest[i].path
