"""SquirrelAdapter: any object with squirrel's interface as an `ArtifactManager`, to be browsed, mounted and logged to.

What squirrel's interface has no word for (messages, metadata, aliases) is not kept, and a commit's note says so.
Versions are browsed by downloading them (`managers.downloads`). Where a catalog of the manager names a directory, as
that of squirrel-core's FileSystemArtifactManager does, a version is copied from there, because squirrel-core's own
download loses the top directory of a version that has nothing else at its top.

Threading: as safe as the manager that is wrapped; nothing here holds state.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from artifactfs import names
from artifactfs.catalog import Catalog, CatalogSource, Source
from artifactfs.errors import (
    ArtifactError,
    MissingDependency,
    NotFound,
    Unsupported,
    UnsupportedTree,
    VersionNotFound,
)
from artifactfs.managers.base import ArtifactManager, CommitResult, Progress, ReferenceOf, TmpArtifact
from artifactfs.managers.browsable import existing, path_in_version
from artifactfs.managers.commit_id import new_commit_id
from artifactfs.managers.options import check_options
from artifactfs.managers.urls import scheme_of
from artifactfs.objects.scan import scan_tree
from artifactfs.objects.store import translate
from artifactfs.plain.layout import is_reserved

T = TypeVar("T")


def squirrel_manager(url: str, *, collection: str = "default", **options: Any) -> SquirrelAdapter:
    """squirrel-core's FileSystemArtifactManager at an fsspec URL.

    Raises MissingDependency, InvalidName, ArgumentError (an option that nothing knows).
    """
    check_options(scheme_of(url), options, ("collection", "serializer"))
    try:
        import squirrel.artifact_manager.filesystem as squirrel
    except ImportError as error:
        raise MissingDependency(
            f"cannot open {url} with squirrel: {error}; install it with: pip install squirrel-core 'setuptools<81', or "
            "put plain+ before the URL to read the same layout without it"
        ) from error
    scheme, separator, path = url.partition("://")
    # squirrel-core takes what fsspec answers apart with the URL it was given, which fits for plain absolute paths only.
    place = os.path.abspath(path if separator else os.path.expanduser(url)) if scheme in ("file", "local") else url
    if not separator:
        place = os.path.abspath(os.path.expanduser(url))
    return SquirrelAdapter(squirrel.FileSystemArtifactManager(url=place, collection=collection, **options), collection)


class SquirrelAdapter(ArtifactManager):
    """See the module docstring. `wrapped` has the methods of ``squirrel.artifact_manager.base.ArtifactManager``."""

    def __init__(self, wrapped: Any, collection: str = "default") -> None:
        """Adapt `wrapped`. Raises InvalidName."""
        super().__init__(collection)
        self.wrapped = wrapped

    def list_collection_names(self) -> list[str]:
        """Every collection, sorted."""
        found = _asked("list the collections", lambda: [str(name) for name in self.wrapped.list_collection_names()])
        return sorted(name for name in found if not is_reserved(name))

    def exists_in_collection(self, artifact: str, collection: str | None = None) -> bool:
        """Tell whether the manager says that it has the artifact."""
        if not names.is_artifact(artifact):
            return False
        collection = names.check_collection(collection or self.active_collection)
        return _asked(
            f"look for {collection}/{artifact}", lambda: bool(self.wrapped.exists_in_collection(artifact, collection))
        )

    def collection_to_catalog(self, collection: str | None = None) -> Catalog:
        """The manager's own catalog of a collection; an unknown collection gives what the manager gives."""
        collection = names.check_collection(collection or self.active_collection)
        theirs = _asked(f"list {collection}", lambda: self.wrapped.collection_to_catalog(collection))
        catalog = Catalog()
        for identifier in theirs.keys():  # noqa: SIM118 - iterating squirrel's catalog gives pairs
            for number, source in theirs[identifier].versions.items():
                catalog[identifier, number] = _our_source(source)
        return catalog

    def get_artifact(
        self,
        artifact: str,
        collection: str | None = None,
        version: str | None = None,
        *,
        serializer: str | None = None,
    ) -> Any:
        """The object, where the wrapped manager keeps objects. Raises Unsupported where it does not."""
        if serializer is not None:
            raise Unsupported("squirrel's interface cannot be told a serializer")
        collection = collection or self.active_collection
        return _asked(f"get {artifact}", lambda: self.wrapped.get_artifact(artifact, collection, version))

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
        """Log an object, where the wrapped manager keeps objects; the rest is not kept. Raises Unsupported."""
        if serializer is not None:
            raise Unsupported("squirrel's interface cannot be told a serializer")
        collection = collection or self.active_collection
        _asked(f"log {name}", lambda: self.wrapped.log_artifact(obj, name, collection))
        return self.collection_to_catalog(collection)[f"{collection}/{name}"]

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
        """Log a folder's files or one file through the wrapped manager; message, metadata and aliases are not kept."""
        result = self.commit_tree(
            artifact_name,
            existing(local_path),
            collection,
            commit_id=new_commit_id(),
            below=path_in_version(artifact_path),
        )
        if progress is not None:
            progress(result.info.size_bytes, result.info.file_count)
        catalog = self.collection_to_catalog(collection)
        return catalog[f"{result.info.collection}/{artifact_name}"][result.info.number + 1]

    def download_artifact(
        self,
        artifact: str,
        collection: str | None = None,
        version: str | None = None,
        to: Path | None = None,
        *,
        progress: Progress | None = None,
    ) -> Path | TmpArtifact:
        """Copy a version's files, unchecked: squirrel keeps no digests."""
        collection = names.check_collection(collection or self.active_collection)
        source = self.get_artifact_source(artifact, collection, version)
        name = names.version_name(source.version - 1)
        if to is None:
            return TmpArtifact(self, collection, artifact, name)
        target = Path(to, artifact)
        if source.driver_name == "directory":
            _copy_directory(source, target)
        else:
            _asked(f"download {artifact}", lambda: self.wrapped.download_artifact(artifact, collection, name, Path(to)))
        if progress is not None:
            found = [path.lstat() for path in target.rglob("*")]
            files = [status for status in found if stat.S_ISREG(status.st_mode)]
            progress(sum(status.st_size for status in files), len(files))
        return target

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
        """As `ArtifactManager.commit_tree`, with what squirrel keeps of a tree: files, followed symlinks, no modes.

        A repeated commit is told by its content. `CommitResult.note` names what was not kept.
        """
        collection = names.check_collection(collection or self.active_collection)
        names.check_artifact(artifact)
        if reference_of is not None:
            raise Unsupported("squirrel's interface takes files, not references to bytes that are in the store")
        with _as_squirrel_keeps_it(Path(tree), below) as flat:
            before = self._before_commit(artifact, flat, collection)
            if before is None:
                _asked(f"log {artifact}", lambda: self.wrapped.log_files(artifact, flat, collection))
                info = self.version_info(artifact, collection)
                before = CommitResult(info, created=True, sent_bytes=info.size_bytes)
        if progress is not None:
            progress(before.info.size_bytes, before.info.file_count)
        return replace(before, note=_note(message=message, metadata=metadata, aliases=aliases))

    # -- parts ------------------------------------------------------------------------------------------------------

    def _before_commit(self, artifact: str, tree: Path, collection: str) -> CommitResult | None:
        """The latest version if it holds the same, None when there has to be a new one."""
        from artifactfs.managers.downloads import hashed_manifest

        try:
            latest = self.version_info(artifact, collection)
        except NotFound:
            return None
        same = latest.digest == hashed_manifest(tree).content_digest()
        return CommitResult(latest, created=False) if same else None


def _asked(what: str, call: Callable[[], T]) -> T:
    """What the wrapped manager answers, its errors said in the terms of `artifactfs.errors`."""
    try:
        return call()
    except NotImplementedError as error:
        raise Unsupported(f"squirrel cannot {what}: {error}") from error
    except ArtifactError:
        raise
    except Exception as error:
        # Another library's code: what it raises is no promise of its own either.
        raise translate(error, f"squirrel could not {what}") from error


def _our_source(source: Any) -> Source:
    return Source(source.driver_name, dict(source.driver_kwargs or {}), dict(source.metadata or {}))


def _note(**given: Any) -> str:
    lost = [name for name, value in given.items() if value]
    return f"squirrel's interface keeps no {', '.join(lost)}" if lost else ""


def _copy_directory(source: Source, target: Path) -> None:
    """Copy what a source of the driver ``directory`` names. Raises NotFound, IntegrityError, StoreUnreachable."""
    from artifactfs.catalog.io import backend_errors, open_filesystem

    url = str(source.driver_kwargs["url"])
    filesystem, root = open_filesystem(url, source.driver_kwargs.get("storage_options"))
    root = root.rstrip("/")
    with backend_errors(url):
        if not filesystem.isdir(root):
            raise VersionNotFound(f"{url} is no directory: the version has no files")
        target.mkdir(parents=True, exist_ok=True)
        for path, item in sorted(filesystem.find(root, withdirs=True, detail=True).items()):
            below = path[len(root) + 1 :]
            if not below:
                continue
            place = target / names.check_path(below)
            if item["type"] == "directory":
                place.mkdir(parents=True, exist_ok=True)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                filesystem.get_file(path, os.fspath(place))


@contextmanager
def _as_squirrel_keeps_it(tree: Path, below: str) -> Iterator[Path]:
    """A copy of a tree as squirrel-core keeps one: symlinks are followed, and modes are those of new files.

    Raises UnsupportedTree (also for a symlink that leads nowhere), InvalidName.
    """
    scan_tree(os.fspath(tree), below)  # refuses what no version may hold
    with tempfile.TemporaryDirectory(prefix="artifactfs-") as directory:
        flat = Path(directory, "tree")
        place = flat / (below if tree.is_dir() else below or tree.name)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            if tree.is_dir():
                shutil.copytree(tree, place, copy_function=shutil.copyfile)
            else:
                shutil.copyfile(tree, place)
        except shutil.Error as error:
            source, _, why = error.args[0][0]
            raise UnsupportedTree(f"cannot copy {source}: {why}") from error
        except OSError as error:
            raise UnsupportedTree(f"cannot copy {tree}: {error}") from error
        yield flat
