"""Where a path of a version leads when the symlinks in it are followed, as the kernel would on the drive.

Pure functions on manifests, safe from any thread.
"""

from __future__ import annotations

import posixpath

from artifactfs.manifest import Entry, EntryKind, Manifest

# As many links as Linux follows (MAXSYMLINKS).
_MAX_LINKS = 40


def resolve(manifest: Manifest, path: str) -> str | None:
    """The file or directory that `path` means, without symlinks ('' is the top); None when there is nothing."""
    for _ in range(_MAX_LINKS):
        link, below = _first_link(manifest, path)
        if link is None:
            return path if manifest.is_directory(path) or manifest.index(path) is not None else None
        path = posixpath.normpath(posixpath.join(posixpath.dirname(link.path), link.target or "", below))
        path = "" if path == "." else path
    return None


def file_at(manifest: Manifest, path: str) -> Entry | None:
    """The regular file that `path` means, None when there is none."""
    entry = manifest.find(path)
    if entry is None or entry.kind is EntryKind.SYMLINK:
        real = resolve(manifest, path)
        entry = manifest.find(real) if real else None
    return entry if entry is not None and entry.kind is EntryKind.FILE else None


def _first_link(manifest: Manifest, path: str) -> tuple[Entry | None, str]:
    """The symlink that `path` meets first, and what of the path lies behind it."""
    parts = path.split("/")
    for i in range(1, len(parts) + 1):
        entry = manifest.find("/".join(parts[:i]))
        if entry is not None and entry.kind is EntryKind.SYMLINK:
            return entry, "/".join(parts[i:])
    return None, ""
