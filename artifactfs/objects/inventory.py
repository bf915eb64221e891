"""What lies below ``collections/`` of a store: records, tombstones, annotations, aliases, and the rest.

Shared by `objects.gc` and `objects.verify`, which look at a whole store at once and at what is damaged in it, where
`objects.history` serves the readers of one artifact. Pure functions on one store, no state, safe from any thread.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, TypeVar

from blake3 import blake3

from artifactfs import names
from artifactfs.errors import IntegrityError
from artifactfs.objects import layout
from artifactfs.objects.store import ObjectStore, OnFault, StoredFile

_AT_ONCE = 64
_LEFTOVER = re.compile(rf"{re.escape(layout.TEMPORARY_PREFIX)}(probe-)?[0-9a-f]{{32}}\Z")
T = TypeVar("T")


class Place(NamedTuple):
    """Where a record, a tombstone or an annotation lies, and of which version it is."""

    key: str
    prefix: str
    number: int
    changed_ns: int | None

    @property
    def label(self) -> str:
        """The version as users write it: ``collection/artifact@v3``."""
        return f"{shown(self.prefix)}@{names.version_name(self.number)}"


@dataclass
class Inventory:
    """One listing, sorted into kinds. `records` and `annotations` are those of live versions.

    `aliases` are (prefix, alias); `orphans` are annotations of versions that were deleted, which nobody needs; `lost`
    are symlinks, which nobody follows: behind them may be versions.
    """

    records: dict[str, Place] = field(default_factory=dict)
    tombstones: dict[str, Place] = field(default_factory=dict)
    annotations: dict[str, Place] = field(default_factory=dict)
    aliases: list[tuple[str, str]] = field(default_factory=list)
    orphans: list[StoredFile] = field(default_factory=list)
    leftovers: list[StoredFile] = field(default_factory=list)
    unknown: list[StoredFile] = field(default_factory=list)
    lost: list[StoredFile] = field(default_factory=list)


def take_inventory(store: ObjectStore, prefix: str = layout.COLLECTIONS, on_fault: OnFault | None = None) -> Inventory:
    """List everything below `prefix`: all collections, one, or one artifact.

    With `on_fault`, what cannot be listed is passed over as `ObjectStore.walk_readable` says.
    """
    found = Inventory()
    annotations: list[tuple[StoredFile, Place]] = []
    for file in store.walk(prefix) if on_fault is None else store.walk_readable(prefix, on_fault):
        directory, _, name = file.key.rpartition("/")
        if _is_symlink(store, file.key):
            found.lost.append(file)
        elif directory.count("/") != 2:
            found.unknown.append(file)
        elif is_leftover(file.key):
            found.leftovers.append(file)
        elif (number := layout.number_of(name, layout.VERSION_SUFFIX)) is not None:
            found.records[file.key] = Place(file.key, directory, number, file.changed_ns)
        elif (number := layout.number_of(name, layout.DELETED_SUFFIX)) is not None:
            found.tombstones[file.key] = Place(file.key, directory, number, file.changed_ns)
        elif (number := layout.number_of(name, layout.ANNOTATION_SUFFIX)) is not None:
            annotations.append((file, Place(file.key, directory, number, file.changed_ns)))
        elif name.endswith(layout.ALIAS_SUFFIX) and names.is_alias(alias := name[: -len(layout.ALIAS_SUFFIX)]):
            found.aliases.append((directory, alias))
        else:
            found.unknown.append(file)
    for buried in found.tombstones.values():
        found.records.pop(layout.record_key(buried.prefix, buried.number), None)
    for file, place in annotations:
        if layout.tombstone_key(place.prefix, place.number) in found.tombstones:
            found.orphans.append(file)
        elif layout.record_key(place.prefix, place.number) in found.records:
            found.annotations[file.key] = place
        else:
            found.unknown.append(file)
    return found


def _is_symlink(store: ObjectStore, key: str) -> bool:
    path = store.local_path(key)
    return path is not None and os.path.islink(path)


def read_small(store: ObjectStore, places: Iterable[Place]) -> Iterator[tuple[Place, bytes | None]]:
    """The bytes of records or tombstones, None for one that went since it was listed."""
    for some in batches(places, _AT_ONCE):
        yield from zip(some, store.get_many([place.key for place in some]), strict=True)


def read_checked(store: ObjectStore, name: str) -> bytes:
    """All bytes of an object that fits in memory. Raises NotFound, IntegrityError."""
    raw = store.get(layout.object_key(name))
    if blake3(raw).hexdigest() != name:
        raise IntegrityError(f"{layout.object_key(name)} of {store.url} does not match its digest")
    return raw


def is_live(store: ObjectStore, place: Place) -> bool:
    """Tell whether the version with that record still exists."""
    return store.exists(place.key) and not store.exists(layout.tombstone_key(place.prefix, place.number))


def is_leftover(key: str) -> bool:
    """Tell whether the key is a temporary name as this package makes them; others' temporary files are not ours."""
    return _LEFTOVER.match(key.rpartition("/")[2]) is not None


def listed_sizes(store: ObjectStore, most_pages: int) -> dict[bytes, int]:
    """The sizes of objects, by raw name, as far as so many pages of a listing tell; none where it comes in no pages."""
    most = most_pages * store.page_keys
    files = islice(store.walk(layout.OBJECTS), most) if most else ()
    return {bytes.fromhex(name): file.size_bytes for file in files if (name := object_name(file.key)) is not None}


def object_name(key: str) -> str | None:
    """The name of the object stored at `key`, None when what lies there is no object."""
    name = key.rpartition("/")[2]
    return name if layout.is_object_name(name) and layout.object_key(name) == key else None


def shown(prefix: str) -> str:
    """An artifact's prefix as users know it: ``collection/artifact``."""
    _, collection, artifact = prefix.split("/", 2)
    return f"{layout.shown_collection(collection)}/{layout.shown_artifact(artifact)}"


def batches(items: Iterable[T], size: int) -> Iterator[Sequence[T]]:
    """The items in lists of `size`."""
    left = iter(items)
    while some := list(islice(left, size)):
        yield some
