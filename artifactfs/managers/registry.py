"""From a store's URL to its manager. Backends are imported when they are asked for, from any thread.

A lookup by scheme; only a local directory is looked into, for whether it is in squirrel's layout. ``plain+`` before a
URL says that it is, which is the only way to say so of a remote store, and ``squirrel+`` asks for squirrel-core's own
manager.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from artifactfs.errors import MissingDependency, UnknownScheme
from artifactfs.managers import arguments
from artifactfs.managers.base import ArtifactManager
from artifactfs.managers.urls import LOCAL, PLAIN, SQUIRREL, WANDB, check_url, place_of, scheme_of
from artifactfs.redaction import remember

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
    "webdav": "webdav",
    "dav": "webdav",
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


def connect(url: str | os.PathLike[str], *, collection: str = "default", **options: Any) -> ArtifactManager:
    """Open the store at `url`: a local path, ``file://``, ``memory://``, ``s3://``, ``gs://`` or another fsspec URL.

    `collection` is the manager's active collection. `options` are those of the backend, such as ``single_writer`` or
    fsspec's storage options. The store itself is not touched before the first call, except that a local directory is
    looked at: without the marker of a store, and with ``<collection>/<artifact>/v<N>/files`` in it, it is in squirrel's
    layout, which `managers.plain` reads and writes. ``plain+file://…``, ``plain+s3://…`` name that layout for an empty
    directory and for a remote store. ``squirrel+file://…`` goes through squirrel-core, which must be installed.
    ``wandb://ENTITY/PROJECT`` is a project of Weights & Biases.

    Raises:
        ArgumentError: `url` is empty or no path or URL, or an option is unknown; the message names the one meant.
        UnknownScheme: nothing here opens such a URL; the message lists what works.
        MissingDependency: a package is missing; the message says how to install it.
        InvalidName: `collection` breaks the rule.
    """
    arguments.url("url", url)
    url = os.fspath(url)
    remember(url, options)
    check_url(url)
    place = place_of(url)
    scheme = scheme_of(place)
    if scheme == WANDB:
        from artifactfs.managers.wandb import WandbArtifactManager

        return WandbArtifactManager.from_url(url, collection=collection, **options)
    if scheme not in LOCAL:
        _check_scheme(scheme, url)
    if url.startswith(SQUIRREL):
        from artifactfs.managers.adapter import squirrel_manager

        return squirrel_manager(place, collection=collection, **options)
    if url.startswith(PLAIN) or (scheme in LOCAL and _looks_plain(place)):
        from artifactfs.managers.plain import PlainArtifactManager

        return PlainArtifactManager(place, collection=collection, **options)
    from artifactfs.managers.filesystem import FileSystemArtifactManager

    return FileSystemArtifactManager(url, collection=collection, **options)


def _looks_plain(place: str) -> bool:
    from artifactfs.plain.detect import looks_plain

    _, separator, path = place.partition("://")
    return looks_plain(path if separator else os.path.expanduser(place))


def _check_scheme(scheme: str, url: str) -> None:
    """Raises UnknownScheme, MissingDependency unless the scheme can be opened here."""
    if scheme in ("s3", "s3a"):
        # Found, not imported, and fsspec not asked: both take longer than many a command.
        if importlib.util.find_spec("botocore") is None:
            raise MissingDependency(f"cannot open {url}: {_install_hint(scheme)}")
        return
    from fsspec.registry import get_filesystem_class, known_implementations

    if scheme not in known_implementations or scheme in _NO_STORES:
        usable = sorted(set(known_implementations) - _NO_STORES - {"local"})
        raise UnknownScheme(
            f"cannot open {url}: unknown scheme {scheme!r}; use a path or one of {', '.join(f'{s}://' for s in usable)}"
        )
    try:
        get_filesystem_class(scheme)
    except ImportError as error:
        raise MissingDependency(f"cannot open {url}: {_install_hint(scheme) or error}") from error


def _install_hint(scheme: str) -> str:
    extra = _EXTRAS.get(scheme)
    return f"install the package it needs with: pip install 'artifactfs[{extra}]'" if extra else ""
