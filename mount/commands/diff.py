"""``artifactfs diff`` of a path in a mount: what the next commit would change.

The same command compares two versions of a store (`artifactfs.commands.diff`); a first argument that is a directory in
a mount makes it this one.
"""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from artifactfs.commands.diff import answer
from artifactfs.commands.diff import diff as store_diff
from artifactfs.commands.options import PATH, answering, json_option

if TYPE_CHECKING:
    from artifactfs.manifest import Entry, Manifest
    from mount.ignore import Ignores


@click.command()
@click.argument("path", type=PATH)
@click.argument("version", default="latest")
@json_option
def preview(path: str, version: str, as_json: bool) -> None:
    """Show what committing the staging that PATH belongs to would change against VERSION, the latest by default."""
    from artifactfs.diff import diff as compare
    from artifactfs.manifest import Manifest
    from mount import client, ignore

    with answering():
        place = client.find_place(Path(path))
        before = place.directory / version
        if version != "latest" and not before.is_dir():
            raise client.ClientError(f"{place.label} has no version or alias {version!r}")
        old = _manifest(before, Manifest(), lambda *_: False) if before.is_dir() else Manifest()
        new = _manifest(place.staging, old, ignore.rules_of(place.staging))
        found = compare(old, new)
        if not len(new):
            click.echo(f"nothing is staged for {place.label}: a commit would make no version", err=True)
    about = {"collection": place.collection, "artifact": place.artifact}
    shown = about | {"version": before.resolve().name} if before.is_dir() else None
    answer(found, shown, about | {"version": "staging"}, as_json=as_json)


class DiffCommand(click.Command):
    """The store's ``diff`` to whoever asks for help, and to click; a path in a mount is compared by `preview`."""

    def __init__(self) -> None:
        super().__init__(
            store_diff.name,
            callback=store_diff.callback,
            params=store_diff.params,
            short_help=store_diff.short_help,
            help=f"{inspect.cleandoc(store_diff.help or '')}\n\nOLD may also be a staging directory of a mount: what "
            "its commit would change against its latest version, or against the version NEW.",
        )

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Choose by the first argument."""
        first = next((argument for argument in args if not argument.startswith("-")), "")
        if os.path.isdir(first) and _is_mounted(first):
            return preview.make_context(info_name, args, parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


diff = DiffCommand()


def _is_mounted(path: str) -> bool:
    from mount import mounts

    entry = mounts.entry_over(Path(path).resolve())
    return entry is not None and entry.is_ours


def _manifest(root: Path, old: Manifest, ignores: Ignores) -> Manifest:
    """What is below a directory of the mount. Files of another length than in `old` are told apart without a digest."""
    from artifactfs.longpaths import reach
    from artifactfs.manifest import Manifest

    entries: list[Entry] = []
    stack = [""]
    while stack:
        directory = stack.pop()
        with reach(f"{root}/{directory}" if directory else str(root)) as near, os.scandir(near) as found:
            for item in found:
                path = f"{directory}/{item.name}" if directory else item.name
                if ignores(path, item.is_dir(follow_symlinks=False)):
                    continue
                entries.append(_entry(item, path, old))
                if item.is_dir(follow_symlinks=False):
                    stack.append(path)
    return Manifest(entries)


def _entry(item: os.DirEntry[str], path: str, old: Manifest) -> Entry:
    from artifactfs.manifest import Entry, EntryKind

    status = item.stat(follow_symlinks=False)
    if item.is_symlink():
        return Entry(path, EntryKind.SYMLINK, target=os.readlink(item.path))
    if item.is_dir(follow_symlinks=False):
        return Entry(path, EntryKind.DIRECTORY, mode=status.st_mode & 0o777)
    before = old.find(path)
    digest = _digest(item.path, hashed=before is not None and before.size_bytes == status.st_size)
    return Entry(path, EntryKind.FILE, status.st_size, digest, mode=status.st_mode & 0o777)


def _digest(path: str, *, hashed: bool) -> str | None:
    """The digest that the mount knows, or with `hashed` finds out by reading."""
    from mount import control

    try:
        return os.getxattr(path, control.DIGEST).decode()
    except OSError:
        # The mount has none for what was written into staging.
        if not hashed:
            return None
    from artifactfs.objects.hashing import hash_file

    return hash_file(path).digest
