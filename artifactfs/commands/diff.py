"""``artifactfs diff``: what two versions do not have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from artifactfs.commands import show
from artifactfs.commands.options import (
    ADDRESS,
    StoreChoice,
    answering,
    artifact_of,
    json_option,
    refuse_path,
    store_options,
)

if TYPE_CHECKING:
    from artifactfs.address import Address
    from artifactfs.diff import Change, Diff
    from artifactfs.managers.base import ArtifactManager, VersionInfo
    from artifactfs.manifest import Entry, Manifest

DIFFERENT = 1
UNKNOWN = 2


@click.command(short_help="Show what changed between two versions.")
@click.argument("old", type=ADDRESS)
@click.argument("new", type=ADDRESS, required=False)
@json_option
@store_options
def diff(store: StoreChoice, old: Address, new: Address | None, as_json: bool) -> None:
    """Show what was added (+), removed (-) and changed (~) from version OLD to version NEW.

    OLD and NEW are collection/artifact@version; NEW may be a version alone, of the same artifact. With one version, it
    is compared with the one it followed. What counts is bytes, permissions, symlinks and empty directories, not times.

    The exit status is that of diff: 0 the same, 1 different, 2 trouble.

    \b
    --json prints one object: old and new (collection, artifact, version; old is null before the first version),
    added and removed (arrays with the fields of 'ls'), changed (an array of path, aspects (kind, content,
    mode, target), old, new), uncertain (files of equal size whose digests are not known).
    """
    with answering():
        manager = store.connect()
        after, before = _versions(manager, old, new)
        found = _compare(manager, before, after)
    answer(found, None if before is None else _label(before), _label(after), as_json=as_json)


def answer(found: Diff, old: dict[str, Any] | None, new: dict[str, Any], *, as_json: bool) -> None:
    """Print the differences of what `old` and `new` label, and end with the status that they have."""
    if as_json:
        show.json_object({"old": old, "new": new, **_as_json(found)})
    else:
        show.lines(_as_text(found))
    if found or found.uncertain:
        raise click.exceptions.Exit(DIFFERENT if found else UNKNOWN)


def _versions(manager: ArtifactManager, old: Address, new: Address | None) -> tuple[VersionInfo, VersionInfo | None]:
    """The newer and the older version; the older is None where there is none before."""
    first = _info(manager, old)
    if new is None:
        return first, _before(manager, first)
    if new.artifact is None:
        # No collection can be compared: it is a version of the same artifact.
        new = old._replace(version=new.collection)
    return _info(manager, new), first


def _info(manager: ArtifactManager, address: Address) -> VersionInfo:
    refuse_path(address, "diff")
    return manager.version_info(artifact_of(address), address.collection, address.version)


def _before(manager: ArtifactManager, info: VersionInfo) -> VersionInfo | None:
    """The version that this one followed, or where that was deleted the one before it."""
    live = manager.list_version_names(info.artifact, info.collection)
    earlier = live[: live.index(info.version)] if info.version in live else []
    if info.parent in earlier:
        return manager.version_info(info.artifact, info.collection, info.parent)
    return manager.version_info(info.artifact, info.collection, earlier[-1]) if earlier else None


def _compare(manager: ArtifactManager, before: VersionInfo | None, after: VersionInfo) -> Diff:
    from artifactfs.diff import diff as compare
    from artifactfs.manifest import Manifest

    manifest = _manifest(manager, after)
    nothing = Manifest(algorithm=manifest.algorithm)
    return compare(nothing if before is None else _manifest(manager, before), manifest)


def _manifest(manager: ArtifactManager, info: VersionInfo) -> Manifest:
    return manager.manifest(info.artifact, info.collection, info.version)


def _as_text(found: Diff) -> Iterator[str]:
    lines = [(entry.path, _line("+", "green", entry, _size(entry))) for entry in found.added]
    lines += [(entry.path, _line("-", "red", entry, _size(entry))) for entry in found.removed]
    lines += [(change.path, _line("~", "yellow", change.new, _how(change))) for change in found.changed]
    yield from (line for _, line in sorted(lines))
    if found:
        counts = f"{len(found.added):,} added, {len(found.removed):,} removed, {len(found.changed):,} changed"
        sign = "-" if found.grown_bytes < 0 else "+"
        yield f"{counts}, {sign}{show.size(abs(found.grown_bytes))}"
    if found.uncertain:
        yield f"{show.count(found.uncertain, 'file')} of equal size may differ: the store does not know their digests"


def _line(sign: str, colour: str, entry: Entry, note: str) -> str:
    from artifactfs.manifest import EntryKind

    slash = "/" if entry.kind is EntryKind.DIRECTORY else ""
    return show.styled(f"{sign} {show.name(entry.path)}{slash}", fg=colour) + (f"  {note}" if note else "")


def _size(entry: Entry) -> str:
    from artifactfs.manifest import EntryKind

    if entry.kind is EntryKind.SYMLINK:
        return f"-> {show.name(entry.target or '')}"
    return show.size(entry.size_bytes) if entry.kind is EntryKind.FILE else ""


def _how(change: Change) -> str:
    """``4.8 MiB to 4.9 MiB, mode 644 to 755``."""
    from artifactfs.diff import Aspect

    old, new = change.old, change.new
    notes = []
    if Aspect.KIND in change.aspects:
        notes.append(f"{old.kind.name.lower()} to {new.kind.name.lower()}")
    if Aspect.CONTENT in change.aspects:
        notes.append(f"{show.size(old.size_bytes)} to {show.size(new.size_bytes)}")
    if Aspect.MODE in change.aspects:
        notes.append(f"mode {old.mode:o} to {new.mode:o}")
    if Aspect.TARGET in change.aspects:
        notes.append(f"-> {show.name(old.target or '')} to -> {show.name(new.target or '')}")
    return ", ".join(notes)


def _as_json(found: Diff) -> dict[str, Any]:
    return {
        "added": [show.entry_fields(entry) for entry in found.added],
        "removed": [show.entry_fields(entry) for entry in found.removed],
        "changed": [
            {
                "path": change.path,
                "aspects": [aspect.value for aspect in change.aspects],
                "old": show.entry_fields(change.old),
                "new": show.entry_fields(change.new),
            }
            for change in found.changed
        ],
        "uncertain": found.uncertain,
    }


def _label(info: VersionInfo) -> dict[str, str]:
    return {"collection": info.collection, "artifact": info.artifact, "version": info.version}
