"""``artifactfs ls``: collections, artifacts, versions, files."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from artifactfs.commands import show
from artifactfs.commands.options import ADDRESS, StoreChoice, json_option, store_options
from artifactfs.commands.versions import info_of, infos_of

if TYPE_CHECKING:
    from artifactfs.address import Address
    from artifactfs.managers.base import ArtifactManager
    from artifactfs.manifest import Entry, Manifest

_ASKED_AT_ONCE = 16
_KIND_LETTERS = "-dl"
# Of `manifest.EntryKind`, which is not imported for every --help.
_FILE, _DIRECTORY = 0, 1
T = TypeVar("T")


@click.command(short_help="List the store, a collection, an artifact or a version.")
@click.argument("address", type=ADDRESS, required=False)
@click.option("-l", "--long", is_flag=True, help="More about each: numbers, sizes, dates, messages.")
@click.option("-R", "--recursive", is_flag=True, help="All that is below, by address; of a version, by path.")
@json_option
@store_options
def ls(store: StoreChoice, address: Address | None, long: bool, recursive: bool, as_json: bool) -> None:
    """List the store, a collection, an artifact's versions, or the files of a version.

    ADDRESS is collection[/artifact[@version[:path]]].

    \b
    --json prints an array of objects; the fields in brackets come with --long.
      of the store       collection [artifacts]
      of a collection    collection, artifact [versions, and those of 'log' for the latest]
      of an artifact     collection, artifact, version, aliases [and those of 'log']
      of a version       path, kind (file, directory, symlink), size_bytes, digest, mode, modified_at, target;
                         a directory that holds something may be known by path and kind only
    With --recursive, the objects of all levels below, those of files with collection, artifact and version too. What
    cannot be read is told on stderr, all else is listed, and the exit status is 1.
    """
    manager = store.connect()
    if recursive and (address is None or (address.version is None and address.path is None)):
        _everything(manager, address, long, as_json)
    elif address is None:
        _collections(manager, long, as_json)
    elif address.artifact is None:
        _artifacts(manager, address.collection, long, as_json)
    elif address.version is None and address.path is None:
        _versions(manager, address.collection, address.artifact, long, as_json)
    else:
        _files(manager, address, long, recursive, as_json)


def _collections(manager: ArtifactManager, long: bool, as_json: bool) -> None:
    found: list[dict[str, Any]] = [{"collection": name} for name in manager.list_collection_names()]
    if long:
        for fields, artifacts in zip(found, _each(manager, _artifacts_of, found), strict=True):
            fields["artifacts"] = artifacts
    if as_json:
        show.json_array(found)
    elif long:
        rows = [(show.styled(f["collection"], fg="blue"), _artifact_count(f["artifacts"])) for f in found]
        show.lines(show.table(rows))
    else:
        show.lines(show.styled(fields["collection"], fg="blue") for fields in found)


def _artifacts_of(manager: ArtifactManager, fields: dict[str, Any]) -> int | None:
    from artifactfs.errors import RECORD_FAULTS

    try:
        return len(manager.list_artifacts(fields["collection"]))
    except RECORD_FAULTS as error:
        click.echo(f"{fields['collection']}: {error}", err=True)
        return None


def _artifact_count(count: int | None) -> str:
    return "cannot be read" if count is None else show.count(count, "artifact")


def _artifacts(manager: ArtifactManager, collection: str, long: bool, as_json: bool) -> None:
    found: list[dict[str, Any]] = [
        {"collection": collection, "artifact": name} for name in manager.list_artifacts(collection)
    ]
    if long:
        found = [fields for fields in _each(manager, _about_artifact, found) if fields]
    if as_json:
        show.json_array(found)
    elif long:
        rows = [
            (
                show.styled(fields["artifact"], fg="blue"),
                show.count(fields["versions"], "version"),
                *_facts(fields),
                show.one_line(fields["message"]),
            )
            for fields in found
        ]
        show.lines(show.table(rows, right=(1, 4, 5)))
    else:
        show.lines(show.styled(fields["artifact"], fg="blue") for fields in found)


def _about_artifact(manager: ArtifactManager, fields: dict[str, Any]) -> dict[str, Any] | None:
    """The artifact's latest version and how many there are; None when the last one was deleted meanwhile.

    Of one that cannot be read the name, with the reason as its message.
    """
    from artifactfs.errors import RECORD_FAULTS, NotFound
    from artifactfs.managers.base import VersionInfo

    collection, artifact = fields["collection"], fields["artifact"]
    try:
        versions = manager.list_version_names(artifact, collection)
        if not versions:
            return None
        info = info_of(manager, artifact, collection, versions[-1])
        aliases = manager.aliases(artifact, collection)
    except NotFound:
        return None
    except RECORD_FAULTS as error:
        unknown = VersionInfo(collection, artifact, "", 0, 0, 0, message=f"cannot be read: {error}")
        return {"versions": 0, **show.version_fields(unknown, {})}
    return {"versions": len(versions), **show.version_fields(info, aliases)}


def _versions(manager: ArtifactManager, collection: str, artifact: str, long: bool, as_json: bool) -> None:
    aliases = manager.aliases(artifact, collection)
    if long:
        found = [show.version_fields(info, aliases) for info in infos_of(manager, artifact, collection)]
    else:
        found = [
            {"collection": collection, "artifact": artifact, "version": v, "aliases": show.aliases_of(v, aliases)}
            for v in manager.list_version_names(artifact, collection)
        ]
    if as_json:
        show.json_array(found)
        return
    rows = []
    for fields in found:
        named = [*fields["aliases"], *(["latest"] if fields is found[-1] else [])]
        row = (*_facts(fields), show.one_line(fields["message"])) if long else (fields["version"],)
        rows.append((*row, show.styled(" ".join(named), fg="green")))
    show.lines(show.table(rows, right=(2, 3) if long else ()))


def _facts(fields: dict[str, Any]) -> tuple[str, str, str, str]:
    """Version, date, files and size of a version."""
    from datetime import datetime

    when = fields["created_at"]
    shown = datetime.fromisoformat(when).astimezone().strftime("%Y-%m-%d %H:%M:%S") if when else ""
    return fields["version"], shown, show.count(fields["files"], "file"), show.size(fields["size_bytes"])


def _each(manager: ArtifactManager, ask: Callable[[ArtifactManager, dict[str, Any]], T], found: list[Any]) -> list[T]:
    """Ask for each; a remote store many at once."""
    if manager.local_root is not None:
        return [ask(manager, each) for each in found]
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        return list(pool.map(lambda each: ask(manager, each), found))


# -- everything below the store, a collection or an artifact -----------------------------------------------------------


class _Found(NamedTuple):
    """Something below the address: what JSON shows of it, and the version's manifest and its place there for a file."""

    address: str
    fields: dict[str, Any]
    manifest: Manifest | None = None
    path: str = ""
    position: int | None = None


class _Names(NamedTuple):
    aliases: Mapping[str, str]
    versions: list[str]


def _everything(manager: ArtifactManager, address: Address | None, long: bool, as_json: bool) -> None:
    """Print all levels as they are found: a store has more files than fit in memory.

    What cannot be read is told on stderr, in its place, and passed over. Raises FormatError at the end, then.
    """
    from artifactfs.errors import FormatError

    below = _Below(manager, long)
    found = below.of(address)
    if as_json:
        show.json_array(each.fields for each in found)
    else:
        show.lines(_everything_line(each, long) for each in found)
    if below.faults:
        raise FormatError(f"{show.count(below.faults, 'place')} could not be read")


class _Below:
    """What lies below the store, a collection or an artifact, and how much of it cannot be read."""

    def __init__(self, manager: ArtifactManager, long: bool) -> None:
        self._manager = manager
        self._long = long
        self.faults = 0

    def of(self, address: Address | None) -> Iterator[_Found]:
        """All levels, each before what is in it. Raises what keeps the place that was asked for from being read."""
        manager = self._manager
        if address is None:
            for collection in manager.list_collection_names():
                yield _Found(collection, {"collection": collection})
                for artifact in self._asked(collection, partial(manager.list_artifacts, collection)) or ():
                    yield from self._artifact(collection, artifact)
        elif address.artifact is None:
            for artifact in manager.list_artifacts(address.collection):
                yield from self._artifact(address.collection, artifact)
        else:
            yield from self._versions(
                address.collection, address.artifact, self._names(address.collection, address.artifact)
            )

    def _names(self, collection: str, artifact: str) -> _Names:
        aliases = self._manager.aliases(artifact, collection)
        return _Names(aliases, self._manager.list_version_names(artifact, collection))

    def _artifact(self, collection: str, artifact: str) -> Iterator[_Found]:
        label = f"{collection}/{artifact}"
        yield _Found(label, {"collection": collection, "artifact": artifact})
        found = self._asked(label, partial(self._names, collection, artifact))
        if found is not None:
            yield from self._versions(collection, artifact, found)

    def _versions(self, collection: str, artifact: str, found: _Names) -> Iterator[_Found]:
        manager = self._manager
        aliases, versions = found
        for version in versions:
            label = f"{collection}/{artifact}@{version}"
            about: dict[str, Any] = {"collection": collection, "artifact": artifact, "version": version}
            fields = {**about, "aliases": show.aliases_of(version, aliases)}
            manifest = self._asked(label, partial(manager.manifest, artifact, collection, version))
            if manifest is not None and self._long:
                info = self._asked(label, partial(manager.version_info, artifact, collection, version))
                fields = {} if info is None else show.version_fields(info, aliases)
            if manifest is None or not fields:
                continue
            yield _Found(label, fields)
            for path, position in _walk(manifest, ""):
                entry = {**about, **_fields(manifest, path, position)}
                yield _Found(f"{label}:{path}", entry, manifest, path, position)

    def _asked(self, label: str, ask: Callable[[], T]) -> T | None:
        """The answer; None where it was deleted since it was listed, or cannot be read, which is told."""
        from artifactfs.errors import RECORD_FAULTS, NotFound

        try:
            return ask()
        except NotFound:
            return None
        except RECORD_FAULTS as error:
            click.echo(f"{show.name(label)}: {error}", err=True)
            self.faults += 1
            return None


def _everything_line(each: _Found, long: bool) -> str:
    if each.manifest is None:
        facts = "  ".join(_facts(each.fields)[1:]) if long and "files" in each.fields else ""
        return show.styled(show.name(each.address), fg="blue") + (f"  {facts}" if facts else "")
    label = (_plain_label if show.is_plain() else _label)(each.manifest, each.address, each.position)
    return _long(each.manifest, label, each.position, len(str(each.manifest.size_bytes))) if long else label


# -- files of a version -----------------------------------------------------------------------------------------------


def _files(manager: ArtifactManager, address: Address, long: bool, recursive: bool, as_json: bool) -> None:
    from artifactfs.commands.options import artifact_of
    from artifactfs.errors import PathNotFound
    from artifactfs.links import resolve

    manifest = manager.manifest(artifact_of(address), address.collection, address.version)
    directory = resolve(manifest, address.path or "")
    if directory is None:
        raise PathNotFound(f"there is no {address}")
    if not manifest.is_directory(directory):
        below: Iterable[tuple[str, int | None]] = [(directory, manifest.index(directory))]
        skip = len(directory) - len(directory.rpartition("/")[2])
    else:
        below = _walk(manifest, directory) if recursive else _children(manifest, directory)
        skip = len(directory) + 1 if directory else 0
    if as_json:
        show.json_array(_fields(manifest, path, position) for path, position in below)
        return
    label = _plain_label if show.is_plain() else _label
    if long:
        width = len(str(manifest.size_bytes))
        show.lines(_long(manifest, label(manifest, path[skip:], at), at, width) for path, at in below)
    else:
        show.lines(label(manifest, path[skip:], position) for path, position in below)


def _children(manifest: Manifest, directory: str) -> Iterator[tuple[str, int | None]]:
    """(path, position) of what is directly in a directory."""
    before = f"{directory}/" if directory else ""
    return ((before + name, position) for name, position in manifest.children(directory))


def _walk(manifest: Manifest, directory: str) -> Iterator[tuple[str, int | None]]:
    """(path, position) of everything below a directory, each directory before what is in it."""
    pending = [_children(manifest, directory)]
    while pending:
        for path, position in pending[-1]:
            yield path, position
            if _is_directory(manifest, position):
                pending.append(_children(manifest, path))
                break
        else:
            pending.pop()


def _is_directory(manifest: Manifest, position: int | None) -> bool:
    return position is None or manifest.kind(position) == _DIRECTORY


def _fields(manifest: Manifest, path: str, position: int | None) -> dict[str, Any]:
    if position is None:
        return {"path": path, "kind": "directory"}
    return show.entry_fields(manifest[position])


def _plain_label(manifest: Manifest, name: str, position: int | None) -> str:
    return f"{name}/" if _is_directory(manifest, position) else name


def _label(manifest: Manifest, name: str, position: int | None) -> str:
    if _is_directory(manifest, position):
        return show.styled(show.name(name), fg="blue") + "/"
    return show.name(name)


def _long(manifest: Manifest, label: str, position: int | None, width: int) -> str:
    """Mode, size, date and name of an entry, as in ls -l."""
    if position is None:
        return f"d---------  {'':{width}}  {'':19}  {label}"
    entry: Entry = manifest[position]
    mode = _KIND_LETTERS[entry.kind] + stat.filemode(entry.mode)[1:]
    size = str(entry.size_bytes) if entry.kind == _FILE else ""
    target = f" -> {show.name(entry.target)}" if entry.target is not None else ""
    return f"{mode}  {size:>{width}}  {show.date(entry.mtime_ns):19}  {label}{target}"
