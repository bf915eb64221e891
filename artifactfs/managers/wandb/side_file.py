"""The small file that artifactfs adds to the versions it logs to W&B, for what W&B does not keep.

`.artifactfs.json` at the top of a version holds modes, mtimes, symlinks, directories, and the true names of files whose
names W&B refuses (it takes ``a:b`` for a drive of Windows), which are logged under their percent-encoded names. Other
readers see one small file more. Here it is hidden, and read only to complete what the manifest of W&B says: files and
their digests come from there alone, so a stale or hostile side file can at most misname and mislabel.

It also holds the id of the commit. W&B gives the version of any equal content, however old; with the id no two commits
are equal, and `latest` is what was committed last, as in every store.

Pure functions, safe from any thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import PureWindowsPath

import msgspec

from artifactfs import names
from artifactfs.errors import FormatError, InvalidName, UnsupportedTree
from artifactfs.manifest import Entry, EntryKind, Manifest
from artifactfs.symlinks import leading_out

SIDE_FILE = ".artifactfs.json"
_FORMAT = 1
# A hostile one must not fill the memory; a million files take 60 MB.
MAX_BYTES = 256 << 20


class SideFile(msgspec.Struct, omit_defaults=True):
    """What it holds. Times are nanoseconds since the epoch."""

    format: int
    commit_id: str = ""
    files: dict[str, tuple[int, int]] = {}
    """Path in the version → mode, mtime."""
    directories: dict[str, tuple[int, int]] = {}
    symlinks: dict[str, tuple[str, int]] = {}
    """Path → target, mtime."""
    names: dict[str, str] = {}
    """Path in W&B → true path, where they differ."""


def stored_names(paths: Iterable[str]) -> dict[str, str]:
    """True path → path in W&B, for every path of a tree. Raises UnsupportedTree for names that are no UTF-8."""
    stored: dict[str, str] = {}
    refused = []
    for path in paths:
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise UnsupportedTree(
                f"{os.fsencode(path)!r} has a name that is no UTF-8, which W&B cannot keep"
            ) from error
        if _is_refused(path):
            refused.append(path)
        else:
            stored[path] = path
    taken = set(stored)
    for path in refused:
        name = "/".join(map(names.escape, path.split("/"))).replace(":", "%3A")
        while name in taken or _is_refused(name):
            name += "%"
        taken.add(name)
        stored[path] = name
    return stored


def _is_refused(path: str) -> bool:
    """Tell whether the client of wandb refuses it (`validate_relpath`), or artifactfs needs the name itself."""
    windows = PureWindowsPath(path)
    return bool(windows.anchor) or ".." in windows.parts or path == SIDE_FILE


def write(manifest: Manifest, stored: dict[str, str], commit_id: str) -> bytes:
    """The side file of a tree about to be logged."""
    side = SideFile(_FORMAT, commit_id)
    for entry in manifest:
        if entry.kind is EntryKind.FILE:
            side.files[entry.path] = entry.mode, entry.mtime_ns
        elif entry.kind is EntryKind.DIRECTORY:
            side.directories[entry.path] = entry.mode, entry.mtime_ns
        else:
            side.symlinks[entry.path] = entry.target or "", entry.mtime_ns
    side.names = {name: path for path, name in stored.items() if name != path}
    try:
        return msgspec.json.encode(side)
    except UnicodeEncodeError as error:
        raise UnsupportedTree("the tree has a name or a symlink that is no UTF-8, which W&B cannot keep") from error


def read(raw: bytes) -> SideFile | None:
    """What a side file says; None when it is not one of ours. Raises FormatError for one of a newer artifactfs."""
    try:
        side = msgspec.json.decode(raw, type=SideFile)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if side.format > _FORMAT:
        raise FormatError(f"{SIDE_FILE} is of format {side.format}: upgrade artifactfs")
    return side


def complete(files: list[Entry], side: SideFile | None) -> tuple[Manifest, dict[str, str]]:
    """The manifest of a version, and true path → path in W&B where they differ. `files` have their paths in W&B.

    What the side file says of files that are not there is passed over. Raises FormatError for paths that no version
    can have.
    """
    differing: dict[str, str] = {}
    entries: dict[str, Entry] = {}
    for file in files:
        path = side.names.get(file.path, file.path) if side else file.path
        if path in entries or (path != file.path and not _is_true_name(path)):
            path = file.path
        if path != file.path:
            differing[path] = file.path
        mode, mtime_ns = side.files.get(path, (file.mode, file.mtime_ns)) if side else (file.mode, file.mtime_ns)
        entries[path] = file._replace(path=path, mode=mode & 0o777, mtime_ns=mtime_ns)
    try:
        for entry in _others(side) if side else ():
            entries.setdefault(entry.path, entry)
        return Manifest(_without_links_out(entries), algorithm="md5"), differing
    except (InvalidName, OverflowError, UnicodeEncodeError) as error:
        raise FormatError(f"the version holds what no version can: {error}") from error


def _others(side: SideFile) -> Iterable[Entry]:
    for path, (mode, mtime_ns) in side.directories.items():
        yield Entry(path, EntryKind.DIRECTORY, mode=mode & 0o777, mtime_ns=mtime_ns)
    for path, (target, mtime_ns) in side.symlinks.items():
        yield Entry(path, EntryKind.SYMLINK, mode=0o777, mtime_ns=mtime_ns, target=target)


def _without_links_out(entries: dict[str, Entry]) -> Iterable[Entry]:
    """Entries by path without the symlinks that lead out of the version."""
    links = {
        os.fsencode(path): os.fsencode(entry.target or "")
        for path, entry in entries.items()
        if entry.kind is EntryKind.SYMLINK
    }
    out = leading_out(links, sorted(map(os.fsencode, entries))) if links else set()
    return (entry for path, entry in entries.items() if not out or os.fsencode(path) not in out)


def _is_true_name(path: str) -> bool:
    try:
        names.check_path(path)
    except InvalidName:
        return False
    return True
