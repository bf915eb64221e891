"""From a store's URL to its manager. Pure lookup; backends are imported when they are asked for, from any thread."""

from __future__ import annotations

from typing import Any

from artifactfs.errors import MissingDependency, UnknownScheme
from artifactfs.managers.base import ArtifactManager

_LOCAL = frozenset({"", "file", "local"})
_EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
    "adl": "azure",
    "sftp": "sftp",
    "ssh": "sftp",
}
# Schemes of fsspec that are no place to keep a store in: other people's data, wrappers, caches, archives.
_NO_STORES = frozenset(
    {
        "artifactfs",
        "async_wrapper",
        "blockcache",
        "cached",
        "data",
        "dir",
        "filecache",
        "generic",
        "git",
        "github",
        "http",
        "https",
        "jlab",
        "jupyter",
        "lakefs",
        "libarchive",
        "pyscript",
        "reference",
        "simplecache",
        "tar",
        "zip",
    }
)


def connect(url: str, *, collection: str = "default", **options: Any) -> ArtifactManager:
    """Open the store at `url`: a local path, ``file://``, ``memory://``, ``s3://``, ``gs://`` or another fsspec URL.

    `collection` is the manager's active collection. `options` are those of the backend, such as ``single_writer`` or
    fsspec's storage options. The store itself is not touched before the first call.

    Raises:
        UnknownScheme: nothing here opens such a URL; the message lists what works.
        MissingDependency: a package is missing; the message says how to install it.
        InvalidName: `collection` breaks the rule.
    """
    url = str(url)
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme not in _LOCAL:
        _check_scheme(scheme, url)
    from artifactfs.managers.filesystem import FileSystemArtifactManager

    return FileSystemArtifactManager(url, collection=collection, **options)


def _check_scheme(scheme: str, url: str) -> None:
    """Raises UnknownScheme, MissingDependency unless fsspec can open the scheme here."""
    if scheme == "wandb":
        raise UnknownScheme(f"cannot open {url}: Weights & Biases is not available in this release")
    from fsspec.registry import get_filesystem_class, known_implementations

    if scheme not in known_implementations or scheme in _NO_STORES:
        usable = sorted(set(known_implementations) - _NO_STORES - {"local"})
        raise UnknownScheme(
            f"cannot open {url}: unknown scheme {scheme!r}; use a path or one of {', '.join(f'{s}://' for s in usable)}"
        )
    try:
        get_filesystem_class(scheme)
    except ImportError as error:
        raise MissingDependency(f"cannot open {url}: {_install_hint(scheme, error)}") from error


def _install_hint(scheme: str, error: ImportError) -> str:
    extra = _EXTRAS.get(scheme)
    if extra is not None:
        return f"install the package it needs with: pip install 'artifactfs[{extra}]'"
    return str(error)
