"""The ArtifactManager interface: what every backend offers to Python callers, the drive and the commands.

Collections hold artifacts, artifacts have versions ``v0, v1, …``, a version is an immutable tree of files. The first
block of :class:`ArtifactManager` is the interface of squirrel (``squirrel.artifact_manager.base``) with names and
signatures kept; the second block is browsing, which the drive and the fsspec filesystem need.

Threading: a manager is safe from any thread and holds no lock across backend I/O. Every backend call is bounded in
time. A manager writes to its store and its cache, nowhere else, and raises only what `artifactfs.errors` lists.
Nothing network-like is built before the first call, so a manager may be made before a fork but not used before it.
"""

from __future__ import annotations

import re
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from artifactfs import names
from artifactfs.manifest import Entry, Manifest

_TIMED_ID = re.compile(r"[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}\Z")
_FIRST_ID_MS = 1_577_836_800_000
_DAY_MS = 86_400_000

Progress = Callable[[int, int], None]
"""Called with (bytes done, files done) as a transfer goes on, from any thread, and at least once at its end."""


@dataclass(frozen=True)
class VersionInfo:
    """What a listing knows of one version, without opening its manifest.

    `created_ns` is nanoseconds since the epoch; `digest` is the content digest in hex, None where a backend has none.
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
    """What a commit gave: the version, whether it is new, and how many bytes went to the backend or did not need to."""

    info: VersionInfo
    created: bool
    sent_bytes: int = 0
    deduplicated_bytes: int = 0


class LocalRange(NamedTuple):
    """Where the bytes of a file lie on this machine's disk: `size_bytes` bytes at `offset` of the file `path`."""

    path: str
    offset: int
    size_bytes: int


def new_commit_id() -> str:
    """A fresh name for a commit; the same id committed twice gives one version.

    It begins with the time in milliseconds, as a UUID of version 7 does, so that whoever looks for the version a
    commit made reads no records older than the commit.
    """
    milliseconds = time.time_ns() // 1_000_000
    random = uuid.uuid4().hex
    return f"{milliseconds:012x}7{random[13:]}"


def commit_time_ns(commit_id: str) -> int | None:
    """When :func:`new_commit_id` made that id, in nanoseconds since the epoch; None for an id of another kind."""
    if _TIMED_ID.match(commit_id) is None:
        return None
    milliseconds = int(commit_id[:12], 16)
    # An id that only looks like one of ours names some time between 1970 and the year 10889.
    plausible = _FIRST_ID_MS <= milliseconds <= time.time_ns() // 1_000_000 + _DAY_MS
    return milliseconds * 1_000_000 if plausible else None


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

    Nothing is logged when the block raises or leaves the directory empty. After a log, `source` describes the version.

    Example:
        >>> with manager.log_folder("model") as path:  # doctest: +SKIP
        ...     torch.save(model, path / "weights.pt")
    """

    def __init__(self, artifact_manager: ArtifactManager, artifact: str, collection: str | None = None) -> None:
        self.artifact_manager = artifact_manager
        self.artifact = names.check_artifact(artifact)
        self.collection = collection or artifact_manager.active_collection
        self.source: Any = None
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
                self.source = self.artifact_manager.log_files(self.artifact, path, self.collection)


class ArtifactManager(ABC):
    """A store of versioned artifacts. Make one with :func:`artifactfs.connect`.

    Wherever a method takes `collection`, None means :attr:`active_collection`. Wherever it takes `version`, it is
    ``"v3"``, ``"latest"``, an alias, or None for the latest.
    """

    def __init__(self, collection: str = "default") -> None:
        """Make a manager; `collection` is the active collection. Raises InvalidName (a ValueError)."""
        self._active_collection = names.check_collection(collection)

    @property
    def active_collection(self) -> str:
        """The collection that methods use when none is given."""
        return self._active_collection

    @active_collection.setter
    def active_collection(self, value: str) -> None:
        """Set it; raises InvalidName (a ValueError) when the name breaks the rule of `artifactfs.names`."""
        self._active_collection = names.check_collection(value)

    @property
    def local_root(self) -> Path | None:
        """The directory of a store on a local disk, None for others."""
        return None

    @property
    def store_id(self) -> str | None:
        """What tells this store from all others, None when it has no such thing (yet). May ask the backend."""
        return None

    @property
    def created_ns(self) -> int | None:
        """When the store was made, in nanoseconds since the epoch; None when unknown. May ask the backend."""
        return None

    def ensure_created(self) -> None:
        """Make an empty store where there is none, so that it can be committed to. Raises AccessDenied, FormatError."""
        return

    # -- browsing ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def list_collection_names(self) -> list[str]:
        """Every collection, sorted. Raises StoreUnreachable, AccessDenied."""

    @abstractmethod
    def list_artifacts(self, collection: str | None = None) -> list[str]:
        """The artifacts of a collection that have a live version, sorted.

        Raises CollectionNotFound, StoreUnreachable, AccessDenied.
        """

    @abstractmethod
    def list_version_names(self, artifact: str, collection: str | None = None) -> list[str]:
        """The live versions, oldest first: ``["v0", "v2"]``. One listing of the backend, no record is read.

        Raises ArtifactNotFound when it has none and never had, StoreUnreachable, AccessDenied.
        """

    @abstractmethod
    def version_info(self, artifact: str, collection: str | None = None, version: str | None = None) -> VersionInfo:
        """What is known of one version (an alias or None is resolved first).

        Raises ArtifactNotFound, VersionNotFound, StoreUnreachable, AccessDenied, FormatError.
        """

    @abstractmethod
    def manifest(self, artifact: str, collection: str | None = None, version: str | None = None) -> Manifest:
        """The files of a version. Raises as :meth:`version_info`, and IntegrityError."""

    @abstractmethod
    def read_entry(self, info: VersionInfo, entry: Entry, offset: int = 0, size_bytes: int | None = None) -> bytes:
        """Bytes of one file: at most `size_bytes` from `offset`, all that follow when None; b"" past the end.

        `entry` comes from the manifest of the version `info`. A read of the whole file is checked against the digest.
        Raises IntegrityError, PathNotFound, StoreUnreachable, AccessDenied.
        """

    def local_range(self, info: VersionInfo, entry: Entry) -> LocalRange | None:
        """Where the file's bytes lie on a local disk, None where they do not. Never touches the network."""
        return None

    @abstractmethod
    def aliases(self, artifact: str, collection: str | None = None) -> dict[str, str]:
        """Alias → version, without ``latest``. Raises ArtifactNotFound, StoreUnreachable, AccessDenied."""

    @abstractmethod
    def set_alias(self, artifact: str, alias: str, version: str, collection: str | None = None) -> None:
        """Point `alias` at a version, moving it when it exists. Raises InvalidName, VersionNotFound, AccessDenied."""

    @abstractmethod
    def delete_alias(self, artifact: str, alias: str, collection: str | None = None) -> None:
        """Remove an alias. Raises VersionNotFound when there is none."""

    @abstractmethod
    def delete_version(self, artifact: str, version: str, collection: str | None = None) -> None:
        """Delete a version for good: its number is never used again, ``latest`` moves, its aliases go.

        Raises VersionNotFound, AccessDenied.
        """

    def list_versions(self, artifact: str, collection: str | None = None) -> list[VersionInfo]:
        """Every live version, oldest first. Raises as :meth:`version_info`."""
        return [self.version_info(artifact, collection, name) for name in self.list_version_names(artifact, collection)]

    # -- committing -------------------------------------------------------------------------------------------------

    @abstractmethod
    def commit_tree(
        self,
        artifact: str,
        tree: Path,
        collection: str | None = None,
        *,
        commit_id: str,
        message: str = "",
        metadata: Mapping[str, Any] | None = None,
        aliases: Sequence[str] = (),
        consume: bool = False,
        progress: Progress | None = None,
    ) -> CommitResult:
        """Make the directory `tree` the next version, exactly once per `commit_id`.

        Called again with the same id (after a crash or an error of unknown outcome), it gives the version made before.
        When the content equals that of the latest version, the result is that version with ``created=False``.
        With `consume` the caller gives the tree away: its files may be moved or linked into the store instead of
        copied, and the caller deletes the tree after this returns. Until then every file stays readable in `tree`.

        Raises UnsupportedTree, InvalidName, UnsafeStore, StoreFull, StoreUnreachable, AccessDenied.
        """

    @abstractmethod
    def log_files(
        self,
        artifact_name: str,
        local_path: Path,
        collection: str | None = None,
        artifact_path: Path | None = None,
    ) -> Any:
        """Log a file or a folder as the next version (squirrel's interface)."""

    @abstractmethod
    def download_artifact(
        self, artifact: str, collection: str | None = None, version: str | None = None, to: Path | None = None
    ) -> Path | TmpArtifact:
        """Copy a version's files to ``to/<artifact>`` and return that path; without `to`, a :class:`TmpArtifact`."""

    # -- squirrel's interface on top --------------------------------------------------------------------------------

    def exists_in_collection(self, artifact: str, collection: str | None = None) -> bool:
        """Whether the artifact has a live version in the collection. Raises StoreUnreachable, AccessDenied."""
        collection = collection or self.active_collection
        return collection in self.list_collection_names() and artifact in self.list_artifacts(collection)

    def exists(self, artifact: str) -> bool:
        """Whether any collection has the artifact. Raises StoreUnreachable, AccessDenied."""
        return any(self.exists_in_collection(artifact, collection) for collection in self.list_collection_names())

    def log_folder(self, artifact: str, collection: str | None = None) -> DirectoryLogger:
        """A context manager that yields a directory and logs it on exit. Raises InvalidName."""
        return DirectoryLogger(self, artifact, collection)


def sorted_versions(version_names: Iterable[str]) -> list[str]:
    """Versions in the order of their numbers."""
    return sorted(version_names, key=names.version_number)
