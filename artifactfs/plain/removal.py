"""Taking the files of a deleted version away: its directory, its record and its artifact's notes stay.

Safe from any thread.
"""

from __future__ import annotations

import os

from artifactfs.errors import ArtifactError
from artifactfs.objects.root import StoreRoot
from artifactfs.objects.store import ObjectStore, translate
from artifactfs.plain import layout
from artifactfs.plain.local import LocalCommitter

_KEPT = frozenset({layout.RECORD, layout.NOTES})


def remove_locally(root: StoreRoot, local: LocalCommitter, key: str) -> None:
    """Empty a version's directory: first out of sight, by renames, then for good.

    Raises AccessDenied, StoreUnreachable.
    """
    try:
        with root.directory(key) as (_, directory), local.aside() as (_, aside):
            for name in os.listdir(directory):
                if name not in _KEPT:
                    os.rename(f"{directory}/{name}", f"{aside}/{name}")
    except ArtifactError:
        raise
    except OSError as error:
        raise translate(error, f"cannot delete {root.path}/{key}") from error


def remove_remotely(store: ObjectStore, key: str) -> None:
    """Delete everything of a version but what is kept. Raises StoreUnreachable, AccessDenied."""
    for stored in list(store.walk(key)):
        if stored.key[len(key) + 1 :].partition("/")[0] not in _KEPT:
            store.delete(stored.key)
