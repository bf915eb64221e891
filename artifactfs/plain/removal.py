"""Taking the files of a deleted version away, its directory and record stay. Safe from any thread."""

from __future__ import annotations

import os

from artifactfs.objects.store import ObjectStore, translate
from artifactfs.plain import layout
from artifactfs.plain.local import LocalCommitter


def remove_locally(local: LocalCommitter, directory: str) -> None:
    """Empty a version's directory: first out of sight, by renames, then for good. Raises AccessDenied."""
    try:
        with local.aside() as aside:
            for name in os.listdir(directory):
                if name != layout.RECORD:
                    os.rename(f"{directory}/{name}", f"{aside}/{name}")
    except OSError as error:
        raise translate(error, f"cannot delete {directory}") from error


def remove_remotely(store: ObjectStore, key: str) -> None:
    """Delete everything of a version but its record. Raises StoreUnreachable, AccessDenied."""
    for stored in list(store.walk(key)):
        if stored.key != f"{key}/{layout.RECORD}":
            store.delete(stored.key)
