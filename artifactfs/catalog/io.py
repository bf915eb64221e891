"""Catalog files and plain directories over fsspec, with its errors said in the terms of `artifactfs.errors`.

Used by `catalog` and `drivers`. No state, safe from any thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fsspec.core import url_to_fs

from artifactfs.errors import (
    AccessDenied,
    ArtifactError,
    FormatError,
    MissingDependency,
    PathNotFound,
    StoreTimeout,
    StoreUnreachable,
    UnknownScheme,
)
from artifactfs.redaction import remember, without_url_secrets


@contextmanager
def backend_errors(url: str) -> Iterator[None]:
    """Turn what fsspec raises about `url` into our errors; what says nothing about the backend passes through."""
    shown = without_url_secrets(url)
    try:
        yield
    except ArtifactError:
        raise
    except FileNotFoundError as error:
        raise PathNotFound(f"{shown} does not exist") from error
    except PermissionError as error:
        raise AccessDenied(f"no permission for {shown}: {error}") from error
    except TimeoutError as error:
        raise StoreTimeout(f"{shown} did not answer in time: {error}") from error
    except ConnectionError as error:
        raise StoreUnreachable(f"cannot reach {shown}: {error}") from error


def open_filesystem(url: str, storage_options: Mapping[str, Any] | None) -> tuple[Any, str]:
    """The fsspec filesystem of `url` and the path in it. Raises UnknownScheme, MissingDependency, StoreUnreachable."""
    remember(url, storage_options or {})
    with backend_errors(url):
        try:
            filesystem, path = url_to_fs(url, **(storage_options or {}))
        except ImportError as error:
            raise MissingDependency(f"{without_url_secrets(url)} needs another package: {error}") from error
        except ValueError as error:
            raise UnknownScheme(f"cannot open {without_url_secrets(url)}: {error}") from error
    return filesystem, path


def read_text(url: str, storage_options: Mapping[str, Any] | None) -> str:
    """The text of a UTF-8 file. Raises PathNotFound, AccessDenied, StoreUnreachable, FormatError."""
    filesystem, path = open_filesystem(url, storage_options)
    with backend_errors(url):
        raw: bytes = filesystem.cat_file(path)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{without_url_secrets(url)}: not a catalog: {error}") from error


def write_text(url: str, text: str, storage_options: Mapping[str, Any] | None) -> None:
    """Write a UTF-8 file in one put. Raises AccessDenied, StoreUnreachable, PathNotFound (no such directory)."""
    filesystem, path = open_filesystem(url, storage_options)
    with backend_errors(url):
        filesystem.pipe_file(path, text.encode())


def yaml_files_in(url: str, storage_options: Mapping[str, Any] | None) -> list[str]:
    """The URLs of the ``*.yaml`` directly in a directory, sorted.

    Raises PathNotFound, AccessDenied, StoreUnreachable.
    """
    filesystem, path = open_filesystem(url, storage_options)
    with backend_errors(url):
        filesystem.invalidate_cache(path)
        found = sorted(name for name in filesystem.ls(path, detail=False) if name.endswith(".yaml"))
    return [filesystem.unstrip_protocol(name) for name in found]
