"""Drivers: from a source to the bytes it describes.

`CatalogSource.get_driver` asks :func:`make_driver`; a driver opens its store when first used. Two are built in:
``artifactfs`` reads a version through its manager, ``directory`` (squirrel's) the files below any fsspec URL. Drivers
and the registry are safe from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from artifactfs import names
from artifactfs.catalog.address import parse_version_url
from artifactfs.catalog.source import DRIVER_NAME
from artifactfs.errors import PathNotFound
from artifactfs.links import file_at
from artifactfs.manifest import Manifest
from artifactfs.redaction import without_url_secrets

if TYPE_CHECKING:
    from artifactfs.managers.base import ArtifactManager, VersionInfo


class Driver(Protocol):
    """What the built-in drivers offer: the files of a source by their path, separated by slashes."""

    def keys(self) -> Iterator[str]:
        """The paths, sorted."""

    def get(self, key: str) -> bytes:
        """The bytes of one file. Raises PathNotFound, StoreUnreachable, AccessDenied."""

    def items(self) -> Iterator[tuple[str, bytes]]:
        """(path, bytes) of every file, read one at a time."""


class VersionDriver:
    """The files of one version, read through its store's manager; symlinks are followed inside the version."""

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None, catalog: Any = None) -> None:
        """`url` is a version's (`address`). Raises InvalidName."""
        self._address = parse_version_url(url)
        self._storage_options = dict(storage_options or {})
        self._lock = threading.Lock()
        self._opened: tuple[ArtifactManager, VersionInfo, Manifest] | None = None

    def _open(self) -> tuple[ArtifactManager, VersionInfo, Manifest]:
        from artifactfs.managers.registry import connect

        with self._lock:
            if self._opened is None:
                store_url, collection, artifact, version = self._address
                manager = connect(store_url, **self._storage_options)
                info = manager.version_info(artifact, collection, version)
                self._opened = manager, info, manager.manifest(artifact, collection, info.version)
            return self._opened

    def keys(self) -> Iterator[str]:
        """The paths of the version's files, sorted."""
        _, _, manifest = self._open()
        return (entry.path for entry in manifest if file_at(manifest, entry.path) is not None)

    def get(self, key: str) -> bytes:
        """The bytes of one file, checked against its digest."""
        manager, info, manifest = self._open()
        entry = file_at(manifest, names.check_path(key))
        if entry is None:
            raise PathNotFound(f"{info.collection}/{info.artifact}@{info.version} has no file {key!r}")
        return manager.read_entry(info, entry)

    def items(self) -> Iterator[tuple[str, bytes]]:
        """(path, bytes) of every file, read one at a time."""
        return ((key, self.get(key)) for key in self.keys())


class DirectoryDriver:
    """The files below a directory at any fsspec URL."""

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None, catalog: Any = None) -> None:
        self._url = url
        self._storage_options = dict(storage_options or {})
        self._lock = threading.Lock()
        self._opened: tuple[Any, str] | None = None

    def _open(self) -> tuple[Any, str]:
        from artifactfs.catalog.io import open_filesystem

        with self._lock:
            if self._opened is None:
                self._opened = open_filesystem(self._url, self._storage_options)
            return self._opened

    def keys(self) -> Iterator[str]:
        """The paths of the files below the directory, sorted. Raises PathNotFound when there is no directory."""
        from artifactfs.catalog.io import backend_errors

        filesystem, root = self._open()
        with backend_errors(self._url):
            found = filesystem.find(root)
            # find() answers [] also for a directory that is not there, and the file itself for a file.
            if not filesystem.isdir(root):
                raise PathNotFound(f"{without_url_secrets(self._url)} is not a directory")
        skip = len(root.rstrip("/")) + 1
        return iter(sorted(path[skip:] for path in found))

    def get(self, key: str) -> bytes:
        """The bytes of one file."""
        from artifactfs.catalog.io import backend_errors

        filesystem, root = self._open()
        with backend_errors(f"{self._url}/{key}"):
            raw: bytes = filesystem.cat_file(f"{root.rstrip('/')}/{names.check_path(key)}")
        return raw

    def items(self) -> Iterator[tuple[str, bytes]]:
        """(path, bytes) of every file, read one at a time."""
        return ((key, self.get(key)) for key in self.keys())


_drivers: dict[str, Callable[..., Any]] = {DRIVER_NAME: VersionDriver, "directory": DirectoryDriver}
_drivers_lock = threading.Lock()


def register_driver(name: str, factory: Callable[..., Any], *, replace: bool = False) -> None:
    """Make `factory` the driver called `name`.

    It is called as squirrel calls its drivers, ``factory(catalog=…, storage_options=…, **driver_kwargs)``, so
    a squirrel driver class can be registered as it is.

    Raises:
        ValueError: the name is taken and `replace` is not given.
    """
    with _drivers_lock:
        if name in _drivers and not replace:
            raise ValueError(f"there is a driver {name!r} already; pass replace=True to take its place")
        _drivers[name] = factory


def make_driver(name: str, arguments: Mapping[str, Any]) -> Any:
    """Call the driver's factory. Raises ValueError when no driver has that name."""
    with _drivers_lock:
        factory = _drivers.get(name)
        known = sorted(_drivers)
    if factory is None:
        raise ValueError(f"no driver {name!r}; known are {', '.join(known)}: add one with register_driver()")
    return factory(**arguments)
