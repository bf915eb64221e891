"""A file or a directory of a version, taken out of it.

Threading: `part_of` is pure; `restore_part` writes below its target only, and several may run at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from artifactfs.errors import PathNotFound
from artifactfs.links import resolve
from artifactfs.managers.base import ArtifactManager, Progress, VersionInfo
from artifactfs.managers.filesystem import FileSystemArtifactManager
from artifactfs.manifest import Entry, EntryKind, Manifest
from artifactfs.objects.restore import Report, restore, restore_tree, write_file

_TRANSFERS = 8


class Part(NamedTuple):
    """The file or directory at `path` of a version; `manifest` has it at its top, under `name`."""

    path: str
    name: str
    manifest: Manifest


def part_of(manifest: Manifest, path: str) -> Part:
    """The part that `path` means, symlinks followed; it keeps the name it was asked for by. Raises PathNotFound."""
    real = resolve(manifest, path)
    if not real:
        raise PathNotFound(f"the version has no {path!r}" if real is None else f"{path!r} is the whole version")
    name = path.rpartition("/")[2]
    entries = (entry._replace(path=name + entry.path[len(real) :]) for entry in _entries(manifest, real))
    return Part(real, name, Manifest(entries, algorithm=manifest.algorithm))


def _entries(manifest: Manifest, path: str) -> Iterator[Entry]:
    """The entry at `path` and all below it."""
    own = manifest.find(path)
    if own is not None:
        yield own
    pending = [path]
    while pending:
        directory = pending.pop()
        for name, position in manifest.children(directory):
            if position is not None:
                yield manifest[position]
            pending.append(f"{directory}/{name}")


def restore_part(
    manager: ArtifactManager, info: VersionInfo, part: Part, to: Path, progress: Progress | None = None
) -> Path:
    """Write a part of the version `info` into the directory `to`, checked; returns what was written.

    Files of the same path are replaced, others stay. A symlink to what lies in another part of the version is kept as
    it is, as by ``cp -a``; nothing is written through it. Raises as `ArtifactManager.download_artifact`.
    """
    if isinstance(manager, FileSystemArtifactManager):
        # Files that lie together in a pack are read together.
        restore(manager.store, part.manifest, str(to), progress)
    else:
        restore_tree(part.manifest, str(to), partial(_write_files, manager, info, part), progress)
    return to / part.name


def _write_files(manager: ArtifactManager, info: VersionInfo, part: Part, root: str, report: Report) -> None:
    """Write every file of the part, a few at a time, each read by its path in the version."""

    def write(entry: Entry) -> None:
        stored = entry._replace(path=part.path + entry.path[len(part.name) :])
        # A digest of another kind is for the manager to check.
        checked = entry if part.manifest.algorithm == "blake3" else entry._replace(digest=None)
        write_file(root, checked, partial(manager.read_entry, info, stored), report)

    files = (entry for entry in part.manifest if entry.kind is EntryKind.FILE)
    with ThreadPoolExecutor(_TRANSFERS) as pool:
        while batch := list(islice(files, 4 * _TRANSFERS)):
            for done in [pool.submit(write, entry) for entry in batch]:
                done.result()
