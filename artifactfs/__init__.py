"""artifactfs: a store of versioned machine-learning artifacts on any fsspec URL.

``connect(url)`` opens a store and gives an :class:`ArtifactManager`; the package `mount` shows one as a drive.
"""

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
