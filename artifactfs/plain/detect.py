"""Tell whether a local directory is in squirrel's layout. Reads names only; safe from any thread."""

from __future__ import annotations

import os
from collections.abc import Iterator

from artifactfs import names
from artifactfs.objects.layout import MARKER_KEY
from artifactfs.plain import layout

# How many names are looked at before a directory counts as something else.
_LOOKED_AT = 20_000


def looks_plain(root: str) -> bool:
    """Tell whether somebody keeps squirrel's layout there: it holds a version, or we made a plain store of it.

    A directory that cannot be read is not: whoever opens it will say why.
    """
    if os.path.lexists(f"{root}/{MARKER_KEY}"):
        return False
    return os.path.isdir(f"{root}/{layout.MARK}") or holds_version(root)


def holds_version(root: str) -> bool:
    """Tell whether there is a version in squirrel's layout below a directory, a deleted one of ours included."""
    budget = iter(range(_LOOKED_AT))
    for collection in _directories(root, budget):
        for artifact in _directories(collection, budget):
            for version in _directories(artifact, budget):
                if names.is_version(os.path.basename(version)) and _is_version(version):
                    return True
    return False


def _is_version(path: str) -> bool:
    return os.path.isdir(f"{path}/{layout.FILES}") or any(
        os.path.lexists(f"{path}/{name}") for name in (*layout.SERIALIZED, layout.RECORD)
    )


def _directories(path: str, budget: Iterator[int]) -> Iterator[str]:
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if next(budget, None) is None:
                    return
                if entry.is_dir():
                    yield entry.path
    except OSError:
        return
