"""Checking a store of the object layout: records, annotations, aliases, manifests, objects, the files inside those.

Each object is read once: its bytes are hashed as a whole, for its own name, and in pieces, for the files that lie in
it. What the files are comes from the manifests, which are read first; of a file that many versions share, 48 bytes are
kept (offset, size, digest), so a store of a million different files takes about 50 MB besides the manifest being read.

What goes on meanwhile is no damage: objects are listed before records, a version deleted meanwhile is left out, and an
unreferenced object may belong to a commit that is still running.

Neighbours: `findings` holds the values handed out, `inventory` lists, `gc` frees what is reported as unreferenced.
Threading: any thread; objects are checked by as many threads as the store says pay.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

from artifactfs import names
from artifactfs.errors import ArtifactError, FormatError, IntegrityError, NotFound, StoreUnreachable, VersionNotFound
from artifactfs.findings import MOST_PATHS, Collector, FindingKind, OnFinding, VerifyReport
from artifactfs.manifest import Manifest
from artifactfs.objects import layout
from artifactfs.objects.examine import ROW, Needed, ObjectRead, paths_in, read_object, rows_of, split
from artifactfs.objects.inventory import (
    Inventory,
    Place,
    batches,
    is_leftover,
    is_live,
    object_name,
    read_checked,
    read_small,
    shown,
    take_inventory,
)
from artifactfs.objects.layout import Record
from artifactfs.objects.store import ObjectStore, StoredFile

if TYPE_CHECKING:
    from artifactfs.managers.base import Progress

_MOST_VERSIONS = 100
_LARGE_FILES = 100_000


class _Version(NamedTuple):
    place: Place
    record: Record


def verify(
    store: ObjectStore,
    artifact: str | None = None,
    collection: str | None = None,
    version: str | None = None,
    *,
    on_finding: OnFinding | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check the store, or what one collection, artifact or version (``v3``) needs of it; names as listings show them.

    Raises VersionNotFound, StoreUnreachable, AccessDenied.
    """
    collector = Collector(on_finding, progress)
    check = _Check(store, collector)
    if collection is None:
        check.whole_store()
    else:
        prefix = layout.collection_prefix(collection)
        if artifact is not None:
            prefix = layout.artifact_prefix(collection, artifact)
        check.part(prefix, version)
    collector.done()
    return collector.report()


class _Check:
    """One check of one store."""

    def __init__(self, store: ObjectStore, collector: Collector) -> None:
        self._store = store
        self._collector = collector
        self._needed: dict[bytes, Needed] = {}
        self._versions: dict[str, list[_Version]] = {}
        self._manifests: list[str] = []
        self._blind = False
        # The manifest that paths were last looked up in.
        self._lock = threading.Lock()
        self._last: tuple[str, Manifest] | None = None

    def whole_store(self) -> None:
        """Check everything."""
        stored: list[bytes] = []
        strange: list[StoredFile] = []
        for file in self._store.walk_readable(layout.OBJECTS, self._unlisted):
            name = object_name(file.key)
            if name is None:
                strange.append(file)
            else:
                stored.append(bytes.fromhex(name))
        listed = take_inventory(self._store, on_fault=self._unlisted)
        for file in [*strange, *listed.leftovers, *listed.unknown]:
            kind = FindingKind.LEFTOVER if is_leftover(file.key) else FindingKind.UNKNOWN_FILE
            detail = "a temporary name" if kind is FindingKind.LEFTOVER else "not written by artifactfs"
            self._collector.found(kind, file.key, detail, size_bytes=file.size_bytes)
        for file in listed.orphans:
            detail = "said of a version that was deleted"
            self._collector.found(FindingKind.LEFTOVER, file.key, detail, size_bytes=file.size_bytes)
        self._metadata(listed)
        for raw_name in stored:
            if raw_name not in self._needed and raw_name.hex() not in self._versions:
                self._needed[raw_name] = Needed()
        self._objects()

    def part(self, prefix: str, version: str | None) -> None:
        """Check versions of one collection or artifact, which lies at `prefix`."""
        listed = take_inventory(self._store, prefix, self._unlisted)
        if version is not None:
            number = names.version_number(version)
            listed.records = {key: place for key, place in listed.records.items() if place.number == number}
            listed.annotations = {key: place for key, place in listed.annotations.items() if place.number == number}
            if not listed.records:
                raise VersionNotFound(f"no version {version} below {self._store.url}")
            listed.tombstones, listed.aliases = {}, []
        self._metadata(listed)
        self._objects()

    def _unlisted(self, key: str, error: ArtifactError) -> None:
        """Report a directory that cannot be listed. Raises StoreUnreachable when it is the store that went away."""
        self._blind = True
        self._collector.found(self._refused(error), key, error)

    # -- records, aliases, manifests --------------------------------------------------------------------------------

    def _metadata(self, listed: Inventory) -> None:
        for link in listed.lost:
            self._blind = True
            detail = "a symlink, which is not followed: what lies behind it cannot be checked"
            self._collector.found(FindingKind.DAMAGED_RECORD, link.key, detail)
        for place, raw in self._read_each(sorted(listed.records.values(), key=lambda place: place[1:3])):
            self._collector.done(versions=1)
            try:
                record = layout.decode_record(raw, place.key, place.number)
            except FormatError as error:
                self._collector.found(FindingKind.DAMAGED_RECORD, place.key, error, versions=(place.label,))
                continue
            self._versions.setdefault(record.manifest, []).append(_Version(place, record))
        for place, raw in self._read_each(listed.tombstones.values()):
            try:
                layout.decode_tombstone(raw, place.key, place.number)
            except FormatError as error:
                self._collector.found(FindingKind.DAMAGED_RECORD, place.key, error)
        for place, raw in self._read_each(listed.annotations.values()):
            try:
                layout.decode_annotation(raw, place.key, place.number)
            except FormatError as error:
                self._collector.found(FindingKind.DAMAGED_ANNOTATION, place.key, error, versions=(place.label,))
        self._aliases(listed)
        self._read_manifests()

    def _read_each(self, places: Iterable[Place]) -> Iterator[tuple[Place, bytes]]:
        """The bytes of small files, those left out that went since they were listed or cannot be read."""
        for some in batches(places, 64):
            try:
                found = list(read_small(self._store, some))
            except ArtifactError:
                # One by one, to tell which of them it was.
                found = [(place, self._read_one(place)) for place in some]
            yield from ((place, raw) for place, raw in found if raw is not None)

    def _read_one(self, place: Place) -> bytes | None:
        try:
            return self._store.get_many([place.key])[0]
        except ArtifactError as error:
            self._collector.found(self._refused(error), place.key, error, versions=(place.label,))
            return None

    def _refused(self, error: ArtifactError) -> FindingKind:
        """What it means that a read failed. Raises what the store raises when it answers for nothing any more."""
        if not self._store.exists(layout.MARKER_KEY):
            raise StoreUnreachable(f"{self._store.url}: the store went away while it was checked") from error
        return FindingKind.UNREADABLE if not isinstance(error, NotFound) else FindingKind.MISSING_OBJECT

    def _aliases(self, listed: Inventory) -> None:
        places = [Place(layout.alias_key(prefix, alias), prefix, 0, None) for prefix, alias in listed.aliases]
        for place, raw in self._read_each(places):
            alias = place.key[len(place.prefix) + 1 : -len(layout.ALIAS_SUFFIX)]
            label = (f"{shown(place.prefix)}@{alias}",)
            try:
                version = layout.decode_alias(raw, place.key)
            except FormatError as error:
                self._collector.found(FindingKind.DAMAGED_ALIAS, place.key, error, versions=label)
                continue
            number = names.version_number(version)
            target = Place(layout.record_key(place.prefix, number), place.prefix, number, None)
            # Looked at again, because an alias goes right after its version.
            if not is_live(self._store, target) and self._store.get_many([place.key]) == [raw]:
                detail = f"it names {version}, which does not exist"
                self._collector.found(FindingKind.DANGLING_ALIAS, place.key, detail, versions=label)

    def _read_manifests(self) -> None:
        """Check every manifest and its records, and take in what they need."""
        with ThreadPoolExecutor(self._store.parallel_transfers) as pool:
            for some in batches(list(self._versions), 4 * self._store.parallel_transfers):
                # Several of a million files at once would take a gigabyte.
                large = [name for name in some if self._versions[name][0].record.file_count > _LARGE_FILES]
                small = [name for name in some if name not in large]
                for name, raw in chain(pool.map(self._manifest_bytes, small), map(self._manifest_bytes, large)):
                    if raw is not None:
                        self._manifest(name, raw)

    def _manifest_bytes(self, name: str) -> tuple[str, bytes | None]:
        """A manifest's name and stored form, None when it is no good."""
        try:
            raw = read_checked(self._store, name)
        except NotFound:
            self._blame(FindingKind.MISSING_MANIFEST, name, "the manifest is not there")
        except IntegrityError as error:
            self._blame(FindingKind.DAMAGED_MANIFEST, name, error)
        except ArtifactError as error:
            self._blame(self._refused(error), name, error)
        else:
            self._collector.done(size_bytes=len(raw), objects=1)
            return name, raw
        return name, None

    def _blame(self, kind: FindingKind, manifest: str, detail: object) -> None:
        """Report a manifest, unless its versions were deleted meanwhile."""
        self._blind = True
        if labels := self._labels([manifest]):
            self._collector.found(kind, layout.object_key(manifest), detail, versions=labels)

    def _labels(self, manifests: Iterable[str]) -> tuple[str, ...]:
        """The versions with these manifests that still exist, the first hundred."""
        versions = chain.from_iterable(self._versions[name] for name in manifests)
        live = (version.place.label for version in versions if is_live(self._store, version.place))
        return tuple(islice(live, _MOST_VERSIONS))

    def _manifest(self, name: str, raw: bytes) -> None:
        try:
            manifest = Manifest.decode(raw)
        except FormatError as error:
            self._blame(FindingKind.DAMAGED_MANIFEST, name, error)
            return
        digest = manifest.content_digest()
        for place, record in self._versions[name]:
            said = record.digest, record.file_count, record.size_bytes
            if said != (digest, manifest.file_count, manifest.size_bytes):
                detail = "its digest, file count or size is not that of its manifest"
                self._collector.found(FindingKind.DAMAGED_RECORD, place.key, detail, versions=(place.label,))
        rows, nowhere = rows_of(manifest)
        if nowhere:
            detail = f"it says of {nowhere} files neither that they are empty nor where their bytes lie"
            self._blame(FindingKind.DAMAGED_MANIFEST, name, detail)
        number = len(self._manifests)
        self._manifests.append(name)
        for object_, some in rows.items():
            self._needed.setdefault(bytes.fromhex(object_), Needed()).add(some, number)

    # -- objects ----------------------------------------------------------------------------------------------------

    def _objects(self) -> None:
        with ThreadPoolExecutor(self._store.parallel_transfers) as pool:
            for some in batches(self._needed.items(), 4 * self._store.parallel_transfers):
                for _ in pool.map(self._object, some):
                    pass

    def _object(self, item: tuple[bytes, Needed]) -> None:
        """Read and check one object, and report it."""
        name, needed = item[0].hex(), item[1]
        key = layout.object_key(name)
        try:
            read = read_object(self._store, name, needed.rows)
        except ArtifactError as error:
            self._unread(name, needed, error)
            return
        self._collector.done(size_bytes=read.size_bytes, objects=1, files=len(needed.rows) // ROW.size)
        if not needed.manifests:
            detail = "no live version needs it" + (", as far as the manifests that can be read tell" * self._blind)
            detail += "" if read.intact else "; its bytes do not match its name"
            self._collector.found(FindingKind.UNREFERENCED_OBJECT, key, detail, size_bytes=read.size_bytes)
        elif not read.intact:
            detail = f"its bytes do not match its name; {len(read.bad)} files in it are damaged"
            self._report(FindingKind.DAMAGED_OBJECT, name, needed, read, detail)
        elif read.bad:
            detail = f"{len(read.bad)} files do not match their digests, though the object is as it was stored"
            self._report(FindingKind.DAMAGED_FILE, name, needed, read, detail)

    def _unread(self, name: str, needed: Needed, error: ArtifactError) -> None:
        kind = self._refused(error)
        nothing = ObjectRead(0, False, list(split(needed.rows)))
        if needed.manifests:
            detail = "it is not there" if kind is FindingKind.MISSING_OBJECT else str(error)
            self._report(kind, name, needed, nothing, detail)
        elif kind is not FindingKind.MISSING_OBJECT:
            self._collector.found(kind, layout.object_key(name), error)

    def _report(self, kind: FindingKind, name: str, needed: Needed, read: ObjectRead, detail: str) -> None:
        """Report an object that versions need, unless they were deleted meanwhile."""
        users = [self._manifests[number] for number in needed.manifests[:_MOST_VERSIONS]]
        users = [user for user in users if self._labels([user])]
        bad = frozenset(read.bad)
        paths: tuple[str, ...] = ()
        if kind is FindingKind.DAMAGED_FILE:
            # The manifest may be what is wrong, and then it is only that one.
            users = [user for user in users if self._paths(user, name, bad)]
        for number, user in enumerate(users if bad else ()):
            if paths := self._paths(user, name, bad):
                users = users[number:] + users[:number]
                break
        if labels := self._labels(users):
            least_bytes = sum(size_bytes for _, size_bytes, _ in map(ROW.unpack, split(needed.rows)))
            self._collector.found(
                kind,
                layout.object_key(name),
                detail,
                size_bytes=read.size_bytes or least_bytes,
                versions=labels,
                paths=paths,
            )

    def _paths(self, manifest_name: str, object_: str, bad: frozenset[bytes]) -> tuple[str, ...]:
        """The first files of a version that lie in those places of an object."""
        with self._lock:
            if self._last is None or self._last[0] != manifest_name:
                try:
                    self._last = manifest_name, Manifest.decode(read_checked(self._store, manifest_name))
                except NotFound:
                    return ()  # its version was deleted, and freed, since it was read
            return tuple(islice(paths_in(self._last[1], object_, bad), MOST_PATHS))
