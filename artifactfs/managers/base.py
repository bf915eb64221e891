"""The ArtifactManager interface: what every backend offers to Python callers, the drive and the commands.

Collections hold artifacts, artifacts have versions ``v0, v1, …``, a version is an immutable tree of files. The abstract
methods of :class:`ArtifactManager` are the interface of squirrel (``squirrel.artifact_manager.base``) with names and
signatures kept and further arguments by keyword; a manager that has only those can be browsed and mounted, because
browsing is built on them here, by downloading whole versions. A backend that can do better extends
`managers.browsable.BrowsableManager`, where it is the other way round.

Threading: a manager is safe from any thread and holds no lock across backend I/O. Every backend call is bounded in
time. A manager writes to its store and its cache, nowhere else, and raises only what `artifactfs.errors` lists.
Nothing network-like is built before the first call, so a manager may be made before a fork but not used before it.
"""

from __future__ import annotations

import functools
import logging
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from artifactfs import names
from artifactfs.beneath import open_regular
from artifactfs.errors import RECORD_FAULTS, ArtifactNotFound, InvalidName, NotFound, Unsupported, VersionNotFound
from artifactfs.managers import arguments
from artifactfs.manifest import Entry, Manifest

if TYPE_CHECKING:
    from artifactfs.catalog import Catalog, CatalogSource
    from artifactfs.diff import Diff
    from artifactfs.findings import OnFinding, VerifyReport
    from artifactfs.managers.downloads import DownloadedBrowsing
    from artifactfs.objects.gc import GcReport

_Method = TypeVar("_Method", bound=Callable[..., Any])
_log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (bytes done, files done) as a transfer goes on, from any thread, and at least once at its end."""

ReferenceOf = Callable[[str], Entry | None]
"""Of a file of a tree, by its path on disk: the entry of a version of the same store whose bytes it stands for."""


@dataclass(frozen=True)
class VersionInfo:
    """What a listing knows of one version, without opening its manifest.

    `created_ns` is nanoseconds since the epoch; `digest` is the content digest in hex, None where a backend has none.
    `message` and `metadata` are as :meth:`ArtifactManager.annotate` left them.
    `commit_id` names the commit that made it, so that a repeated commit can find its own result.
    """

    collection: str
    artifact: str
    version: str
    created_ns: int
    size_bytes: int
    file_count: int
    digest: str | None = None
    message: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    creator: str = ""
    parent: str | None = None
    commit_id: str | None = None

    @property
    def number(self) -> int:
        """3 for ``v3``."""
        return names.version_number(self.version)


@dataclass(frozen=True)
class CommitResult:
    """What a commit gave: the version, whether it is new, and how many bytes went to the backend or did not need to.

    `note` says what of the request the backend could not keep, such as a message.
    """

    info: VersionInfo
    created: bool
    sent_bytes: int = 0
    deduplicated_bytes: int = 0
    note: str = ""


class ArtifactNames(NamedTuple):
    """What an artifact has: its live versions, oldest first, and the names of its aliases."""

    versions: tuple[str, ...]
    aliases: tuple[str, ...]


class LocalRange(NamedTuple):
    """Where the bytes of a file lie on this machine's disk: `size_bytes` bytes at `offset` of the file `path`."""

    path: str
    offset: int
    size_bytes: int


class TmpArtifact:
    """Context manager: the files of a version in a temporary directory, deleted on exit.

    Example:
        >>> with manager.download_artifact("model", version="v3") as path:  # doctest: +SKIP
        ...     torch.load(path / "weights.pt")
    """

    def __init__(self, artifact_manager: ArtifactManager, collection: str, artifact: str, version: str) -> None:
        self.artifact_manager = artifact_manager
        self.collection = collection
        self.artifact = artifact
        self.version = version
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Path:
        """Download; returns the directory that holds the files (named after the artifact)."""
        directory = tempfile.TemporaryDirectory(prefix="artifactfs-")
        try:
            path = self.artifact_manager.download_artifact(
                self.artifact, self.collection, self.version, Path(directory.name)
            )
        except BaseException:
            directory.cleanup()
            raise
        assert isinstance(path, Path)
        self._directory = directory
        return path

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None


class DirectoryLogger:
    """Context manager: an empty directory whose files are logged as one version on exit.

    Nothing is logged when the block raises or leaves the directory empty. After a log, `source` is its CatalogSource.

    Example:
        >>> with manager.log_folder("model", message="first try") as path:  # doctest: +SKIP
        ...     torch.save(model, path / "weights.pt")
    """

    def __init__(
        self,
        artifact_manager: ArtifactManager,
        artifact: str,
        collection: str | None = None,
        *,
        message: str = "",
        metadata: Mapping[str, Any] | None = None,
        aliases: Sequence[str] = (),
    ) -> None:
        """Log to `artifact` on exit; the rest as in :meth:`ArtifactManager.log_files`. Raises InvalidName."""
        self.artifact_manager = artifact_manager
        self.artifact = names.check_artifact(artifact)
        self.collection = names.check_collection(collection or artifact_manager.active_collection)
        self.source: CatalogSource | None = None
        self._extras = _extras(message=message, metadata=metadata, aliases=aliases)
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Path:
        """Returns the directory to write to (named after the artifact)."""
        self._directory = tempfile.TemporaryDirectory(prefix="artifactfs-")
        path = Path(self._directory.name, self.artifact)
        path.mkdir()
        return path

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        directory, self._directory = self._directory, None
        if directory is None:
            return
        with directory:
            path = Path(directory.name, self.artifact)
            if exc_type is None and any(path.iterdir()):
                self.source = self.artifact_manager.log_files(self.artifact, path, self.collection, **self._extras)


def _extras(**given: Any) -> dict[str, Any]:
    """The keyword arguments that say something: a manager of squirrel's signatures need not take the others."""
    return {name: value for name, value in given.items() if value}


class ArtifactManager(ABC):
    """A store of versioned artifacts. Make one with :func:`artifactfs.connect`.

    Wherever a method takes `collection`, None means :attr:`active_collection`. Wherever it takes `version`, it is
    ``"v3"``, ``"latest"``, an alias, or None for the latest. Every method of every manager refuses arguments of the
    wrong kind with ArgumentError (a ValueError) before it does anything: `managers.arguments`.
    """

    def __init__(self, collection: str = "default") -> None:
        """Make a manager; `collection` is the active collection. Raises InvalidName (a ValueError), ArgumentError."""
        self.active_collection = collection
        # squirrel-core's plug-ins may have been loaded before its managers were.
        squirrel = sys.modules.get("squirrel.artifact_manager.base")
        if squirrel is not None:
            squirrel.ArtifactManager.register(ArtifactManager)

    def __init_subclass__(cls, **more: Any) -> None:
        """Let the methods of every manager check their arguments."""
        super().__init_subclass__(**more)
        arguments.guard(cls, RULES, known_to=cls.__bases__)

    @property
    def active_collection(self) -> str:
        """The collection that methods use when none is given."""
        return self._active_collection

    @active_collection.setter
    def active_collection(self, value: str) -> None:
        """Set it; raises InvalidName (a ValueError) when the name breaks the rule of `artifactfs.names`."""
        arguments.word("collection", value)
        self._active_collection = names.check_collection(value)

    @property
    def local_root(self) -> Path | None:
        """The directory of a store on a local disk, None for others."""
        return None

    @property
    def staging_root(self) -> Path | None:
        """Where the drive may keep what is not committed yet, on the disk of a local store; None for other stores."""
        root = self.local_root
        return None if root is None else root / names.STAGING

    @property
    def shows_staging(self) -> bool:
        """Tell whether other readers of the store see `staging_root`, so that it should not outlast what is staged."""
        return False

    def forget_staging(self) -> None:  # noqa: B027 - most stores have nothing to do
        """Take `staging_root` away if nothing is in it and `shows_staging`. Raises StoreUnreachable."""

    @property
    def store_id(self) -> str | None:
        """What tells this store from all others, None when it has no such thing (yet). May ask the backend."""
        return None

    def is_made(self) -> bool | None:
        """Tell if there is a store, which `ensure_created` would make; None where that is not known.

        Raises FormatError, StoreUnreachable, AccessDenied.
        """
        return None

    @property
    def created_ns(self) -> int | None:
        """When the store was made, in nanoseconds since the epoch; None when unknown. May ask the backend."""
        return None

    @property
    def takes_references(self) -> bool:
        """Tell whether `commit_tree` knows what to do with `reference_of`."""
        return False

    @property
    def exclusive_create(self) -> str | None:
        """In words, whether writers at the same time are kept apart by the backend; None for a local store."""
        return None

    @property
    def gives_overview(self) -> bool:
        """Tell whether :meth:`overview` is worth asking."""
        return False

    def overview(self) -> dict[str, dict[str, ArtifactNames]] | None:
        """Collection → artifact → what it has, when one request tells it all; None when it takes several.

        Artifacts without a live version are left out. Raises StoreUnreachable, AccessDenied.
        """
        return None

    @property
    def made_store(self) -> bool:
        """Tell whether this manager has made the store, which was not there before; False where it cannot tell."""
        return False

    def ensure_created(self) -> None:
        """Make an empty store where there is none, so that it can be committed to. Raises AccessDenied, FormatError."""
        return

    # -- squirrel's interface ---------------------------------------------------------------------------------------

    @abstractmethod
    def list_collection_names(self) -> list[str]:
        """Every collection, sorted. Raises StoreUnreachable, AccessDenied."""

    @abstractmethod
    def exists_in_collection(self, artifact: str, collection: str | None = None) -> bool:
        """Tell whether the artifact has a live version in the collection. Raises StoreUnreachable, AccessDenied."""

    @abstractmethod
    def collection_to_catalog(self, collection: str | None = None) -> Catalog:
        """Every live version in a collection, under identifiers ``collection/artifact``; v0 is catalog version 1.

        Raises CollectionNotFound, StoreUnreachable, AccessDenied.

        Example:
            >>> manager.collection_to_catalog("models")["models/bert"][1].metadata["size_bytes"]  # doctest: +SKIP
            438003712
        """

    @abstractmethod
    def get_artifact(
        self,
        artifact: str,
        collection: str | None = None,
        version: str | None = None,
        *,
        serializer: str | None = None,
    ) -> Any:
        """The object that :meth:`log_artifact` logged. The serializer is recorded with the version.

        `serializer` is needed for ``"pickle"`` only: DANGER, unpickling runs code that whoever wrote the version chose.
        Raises SerializationError (the version holds files, not an object; or its bytes are damaged), and as
        :meth:`version_info`.

        Example:
            >>> manager.get_artifact("vocabulary", version="v2")  # doctest: +SKIP
            {'hello': 0, 'world': 1}
        """

    @abstractmethod
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
        """Log a folder's files, or one file, as the next version of `artifact_name`.

        `artifact_path` is where in the version they go: the directory that gets the folder's files, or the path of the
        one file; without it they go to the top, where a file keeps its own name. `metadata` is a JSON object. Returns
        the version's source: that of the latest version when the content is the same.
        Raises NotFound (no such `local_path`), UnsupportedTree, InvalidName, SerializationError (metadata that is no
        JSON), UnsafeStore, StoreFull, StoreUnreachable, AccessDenied.

        Example:
            >>> manager.log_files("bert", Path("checkpoint/"), "models", message="epoch 3")  # doctest: +SKIP
        """

    @abstractmethod
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
        """Log a Python object as the next version of `name`; :meth:`get_artifact` gives it back.

        `serializer` is a name of `artifactfs.serializers`; None takes ``numpy`` for an array, ``json`` where that gives
        the object back, ``messagepack`` otherwise. Raises SerializationError, and as :meth:`log_files`.

        Example:
            >>> manager.log_artifact({"hello": 0, "world": 1}, "vocabulary")  # doctest: +SKIP
        """

    @abstractmethod
    def download_artifact(
        self,
        artifact: str,
        collection: str | None = None,
        version: str | None = None,
        to: Path | None = None,
        *,
        progress: Progress | None = None,
    ) -> Path | TmpArtifact:
        """Copy a version's files to ``to/<artifact>`` and return that path; without `to`, a :class:`TmpArtifact`.

        Every file is checked against its digest. Modes, mtimes, symlinks and empty directories come along; files of
        the same path are replaced, others stay.
        Raises AlreadyExists (something that is no directory is in the way of one), IntegrityError, StoreFull (the
        target's disk), and as :meth:`version_info`.
        """

    def exists(self, artifact: str) -> bool:
        """Tell whether any collection has the artifact. Raises StoreUnreachable, AccessDenied."""
        return any(self.exists_in_collection(artifact, collection) for collection in self.list_collection_names())

    def get_artifact_source(
        self, artifact: str, collection: str | None = None, version: str | None = None, catalog: Catalog | None = None
    ) -> CatalogSource:
        """The description of one version, as a catalog has it; `catalog` is the one that it says it belongs to.

        Raises as :meth:`version_info`.
        """
        from artifactfs.catalog import Catalog, CatalogSource

        collection = collection or self.active_collection
        key = f"{collection}/{artifact}"
        found = self.collection_to_catalog(collection)
        if key not in found:
            raise ArtifactNotFound(f"no artifact {artifact!r} in collection {collection!r}")
        versions = found[key].versions
        if version is None or version == names.LATEST:
            number = max(versions)
        else:
            number = names.version_number(version) + 1 if names.is_version(version) else 0
        if number not in versions:
            raise VersionNotFound(f"no version {version!r} of {key}")
        return CatalogSource(versions[number], key, Catalog() if catalog is None else catalog, number)

    def store_to_catalog(self) -> Catalog:
        """Every live version of every collection. Raises StoreUnreachable, AccessDenied.

        A collection or artifact that cannot be read is left out, with a warning.
        """
        from artifactfs.catalog import Catalog

        catalog = Catalog()
        for collection in self.list_collection_names():
            try:
                found = self.collection_to_catalog(collection)
            except RECORD_FAULTS as error:
                _log.warning("the catalog leaves out the collection %s: %s", collection, error)
                continue
            for source in found.all_versions():
                catalog[source.identifier, source.version] = source
        return catalog

    def log_folder(
        self,
        artifact: str,
        collection: str | None = None,
        *,
        message: str = "",
        metadata: Mapping[str, Any] | None = None,
        aliases: Sequence[str] = (),
    ) -> DirectoryLogger:
        """A context manager that yields an empty directory and logs what is in it on exit. Raises InvalidName."""
        return DirectoryLogger(self, artifact, collection, message=message, metadata=metadata, aliases=aliases)

    def download_collection(
        self, collection: str | None = None, to: Path | str = "./", *, progress: Progress | None = None
    ) -> Catalog:
        """Download the latest version of every artifact of a collection to ``to/<artifact>``.

        Returns the collection's catalog. Raises CollectionNotFound, and as :meth:`download_artifact`.
        """
        collection = collection or self.active_collection
        catalog = self.collection_to_catalog(collection)
        for artifact in self.list_artifacts(collection):
            self.download_artifact(artifact, collection, to=Path(to), **_extras(progress=progress))
        return catalog

    # -- browsing, built on squirrel's interface --------------------------------------------------------------------

    def list_artifacts(self, collection: str | None = None) -> list[str]:
        """The artifacts of a collection that have a live version, sorted.

        Raises CollectionNotFound, StoreUnreachable, AccessDenied.
        """
        return self._browsing.artifacts(collection or self.active_collection)

    def list_version_names(self, artifact: str, collection: str | None = None) -> list[str]:
        """The live versions, oldest first: ``["v0", "v2"]``. One listing of the backend, no record is read.

        Raises ArtifactNotFound when it has none and never had, StoreUnreachable, AccessDenied.
        """
        return self._browsing.versions(collection or self.active_collection, artifact)

    def list_versions(self, artifact: str, collection: str | None = None) -> list[VersionInfo]:
        """Every live version, oldest first. Raises as :meth:`version_info`."""
        return [self.version_info(artifact, collection, name) for name in self.list_version_names(artifact, collection)]

    def version_info(self, artifact: str, collection: str | None = None, version: str | None = None) -> VersionInfo:
        """What is known of one version (an alias or None is resolved first).

        Raises ArtifactNotFound, VersionNotFound, StoreUnreachable, AccessDenied, FormatError.
        """
        return self._browsing.version_info(collection or self.active_collection, artifact, version)

    def manifest(self, artifact: str, collection: str | None = None, version: str | None = None) -> Manifest:
        """The files of a version. Raises as :meth:`version_info`, and IntegrityError."""
        return self._browsing.manifest(collection or self.active_collection, artifact, version)

    def read_entry(self, info: VersionInfo, entry: Entry, offset: int = 0, size_bytes: int | None = None) -> bytes:
        """Bytes of one file: at most `size_bytes` from `offset`, all that follow when None; b"" past the end.

        `entry` comes from the manifest of the version `info`. A read of the whole file is checked against the digest.
        Raises IntegrityError, PathNotFound, StoreUnreachable, AccessDenied.
        """
        return self._browsing.read_entry(info, entry, offset, size_bytes)

    def read_object(self, name: str, offset: int, size_bytes: int) -> Iterator[bytes]:
        """At most `size_bytes` from `offset` of the stored object that entries name, piece by piece; fewer at its end.

        Not checked against a digest. Raises IntegrityError (it is missing), StoreUnreachable, AccessDenied, Unsupported
        (the entries of this backend name no objects).
        """
        raise Unsupported(f"{type(self).__name__} keeps no objects")

    def local_range(self, info: VersionInfo, entry: Entry) -> LocalRange | None:
        """Where the file's bytes lie on a local disk, None where they do not. Raises IntegrityError."""
        return self._browsing.local_range(info, entry)

    def open_local(self, path: str) -> int:
        """A descriptor for reading a file that :meth:`local_range` named: a regular one, not through a symlink.

        Raises OSError, StoreUnreachable.
        """
        return open_regular(path)

    def diff(self, artifact: str, old: str, new: str, collection: str | None = None) -> Diff:
        """What differs between two versions of an artifact, as `artifactfs.diff` says. Raises as :meth:`manifest`.

        Example:
            >>> [entry.path for entry in manager.diff("bert", "v3", "latest").added]  # doctest: +SKIP
            ['optimizer.pt']
        """
        from artifactfs.diff import diff

        collection = collection or self.active_collection
        return diff(self.manifest(artifact, collection, old), self.manifest(artifact, collection, new))

    def aliases(self, artifact: str, collection: str | None = None) -> dict[str, str]:
        """Alias → version, without ``latest``. Raises ArtifactNotFound, StoreUnreachable, AccessDenied."""
        return {}

    def set_alias(self, artifact: str, alias: str, version: str, collection: str | None = None) -> None:
        """Point `alias` at a version, moving it when it exists.

        Raises InvalidName, VersionNotFound, AccessDenied, Unsupported (this backend has no aliases).
        """
        raise Unsupported(f"{type(self).__name__} has no aliases")

    def delete_alias(self, artifact: str, alias: str, collection: str | None = None) -> None:
        """Remove an alias. Raises VersionNotFound when there is none, Unsupported (this backend has no aliases)."""
        raise Unsupported(f"{type(self).__name__} has no aliases")

    def annotate(
        self,
        artifact: str,
        version: str,
        collection: str | None = None,
        *,
        message: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> VersionInfo:
        """Give a version that was made before another message, or more metadata; returns it as it is shown then.

        `message` takes the place of the one shown, None leaves it. The keys of `metadata`, a JSON object, are added to
        those there are, or replace them. Files and digest stay, and so does what was recorded when the version was
        made; of two callers at once the last one's words stay.
        Raises ArgumentError (neither is given), VersionNotFound, AccessDenied, SerializationError (message and metadata
        would take more than 64 KiB, or metadata is no JSON), Unsupported (this backend keeps neither).

        Example:
            >>> manager.annotate("bert", "v3", message="the one in the paper").message  # doctest: +SKIP
            'the one in the paper'
        """
        raise Unsupported(f"{type(self).__name__} keeps no messages and no metadata")

    def delete_version(self, artifact: str, version: str, collection: str | None = None) -> None:
        """Delete a version for good: its number is never used again, ``latest`` moves, its aliases go.

        Raises VersionNotFound, AccessDenied, Unsupported (this backend deletes nothing).
        """
        raise Unsupported(f"{type(self).__name__} cannot delete versions")

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
        """Make the directory (or the one file) `tree` the next version, exactly once per `commit_id`.

        Called again with the same id (after a crash or an error of unknown outcome), it gives the version made before.
        When the content equals that of the latest version, the result is that version with ``created=False``.
        `below` is where in the version the tree goes: the directory that gets its files, or the path of the one file;
        '' is the version's top, where a file keeps its name. With `consume` the caller gives the tree away: its
        files may be moved or linked into the store instead of copied, and the caller deletes the tree after this
        returns. Until then every file stays readable in `tree`. With `reference_of`, files of the tree may stand for
        bytes that the store has already; only where `takes_references`.

        Raises UnsupportedTree, InvalidName, UnsafeStore, StoreFull, StoreUnreachable, AccessDenied.

        Built on squirrel's interface alone, a repeated commit is told by its content, and a store with several writers
        can give two versions.
        """
        return self._browsing.commit_tree(collection or self.active_collection, artifact, tree, below)

    def find_commit(self, artifact: str, commit_id: str, collection: str | None = None) -> VersionInfo | None:
        """The version that the commit with that id has made, None when it has made none.

        A commit that failed with an error of unknown outcome may have made one. Where versions name no commits
        (squirrel's interface), the answer is always None. Raises StoreUnreachable, AccessDenied.
        """
        try:
            found = self.list_versions(artifact, collection)
        except (NotFound, InvalidName):
            return None
        return next((info for info in found if info.commit_id == commit_id), None)

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
        """Check what is stored: one version, an artifact's versions, a collection, or (nothing given) everything.

        Without `artifact`, a `collection` of None means all of them; with it, the active one. Damage is reported, not
        raised: each finding goes to `on_finding` as it is made, and all are in the report. Reads every file of every
        version against its digest, unless a backend knows better.
        Raises CollectionNotFound, ArtifactNotFound, VersionNotFound, StoreUnreachable, AccessDenied.

        Example:
            >>> for finding in manager.verify().damage:  # doctest: +SKIP
            ...     print(finding, *finding.versions)
        """
        from artifactfs.findings import verify_by_reading

        return verify_by_reading(self, artifact, collection, version, on_finding, progress)

    def gc(self, *, grace_s: float = 86_400, dry_run: bool = False, progress: Progress | None = None) -> GcReport:
        """Free the room of what no version needs any more: found by one call, deleted by one `grace_s` later.

        `grace_s` must be longer than any commit takes. `dry_run` reports what would be deleted and changes nothing.
        `progress` is told of bytes and objects deleted.
        Raises IntegrityError and FormatError, with nothing deleted, when a version's record or manifest cannot be read;
        Unsupported (this backend has nothing to free), StoreUnreachable, AccessDenied.

        Example:
            >>> manager.gc(dry_run=True).deleted_bytes  # doctest: +SKIP
            1073741824
        """
        raise Unsupported(f"{type(self).__name__} keeps nothing that gc could free")

    @functools.cached_property
    def _browsing(self) -> DownloadedBrowsing:
        from artifactfs.managers.downloads import DownloadedBrowsing

        return DownloadedBrowsing(self)


RULES: Mapping[str, arguments.Rule] = {
    **arguments.RULES,
    "info": arguments.instance_of(VersionInfo),
    "entry": arguments.instance_of(Entry),
}
"""The rules of the arguments of a manager's methods, by their names."""


def guarded(method: _Method) -> _Method:
    """Decorate a public method that only some managers have, so that it checks its arguments as the others do."""
    return arguments.checked(method, RULES)


arguments.guard(ArtifactManager, RULES)
DirectoryLogger.__init__ = arguments.checked(DirectoryLogger.__init__, RULES)  # type: ignore[method-assign]
