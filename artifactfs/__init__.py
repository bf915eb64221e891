"""artifactfs: a store of versioned machine-learning artifacts on any fsspec URL.

``connect(url)`` opens a store and gives an :class:`ArtifactManager`; the package `mount` shows one as a drive.

The public names are imported when they are first used, because every command of ``artifactfs`` imports this package
and most need none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from artifactfs.catalog import Catalog, CatalogSource, Source
    from artifactfs.managers.base import ArtifactManager, CommitResult, DirectoryLogger, TmpArtifact, VersionInfo
    from artifactfs.managers.registry import connect
    from artifactfs.manifest import Entry, EntryKind, Manifest

__version__ = "0.1.0"

__all__ = [
    "ArtifactManager",
    "Catalog",
    "CatalogSource",
    "CommitResult",
    "DirectoryLogger",
    "Entry",
    "EntryKind",
    "Manifest",
    "Source",
    "TmpArtifact",
    "VersionInfo",
    "__version__",
    "connect",
]

_HOMES = {
    "Catalog": "artifactfs.catalog",
    "CatalogSource": "artifactfs.catalog",
    "Source": "artifactfs.catalog",
    "ArtifactManager": "artifactfs.managers.base",
    "CommitResult": "artifactfs.managers.base",
    "DirectoryLogger": "artifactfs.managers.base",
    "TmpArtifact": "artifactfs.managers.base",
    "VersionInfo": "artifactfs.managers.base",
    "connect": "artifactfs.managers.registry",
    "Entry": "artifactfs.manifest",
    "EntryKind": "artifactfs.manifest",
    "Manifest": "artifactfs.manifest",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
