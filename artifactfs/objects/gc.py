"""Freeing the objects that no version needs any more, while any number of hosts commit, delete and read.

An object goes when all of this holds, with `now` the time before anything was listed and `grace` one period:

1. no live version names it, as its manifest or for a file;
2. no version deleted less than `grace` before `now` names it;
3. an earlier pass, at least `grace` before `now`, found it unreferenced, as did every pass since, and it was not put
   again after that pass (``gc/unreferenced.json`` remembers);
4. asked once more right before it is deleted, it was last put, linked or touched at least `grace` before `now`.

Every time is the store's: `now` is when it says that a file written for the purpose was written, so the clocks of the
hosts do not matter. Backends that do not tell times are refused.

**Why no commit loses an object**, if every commit takes less than `grace` from its first listing to its record. Take a
commit that started at `s` and whose record this pass did not see. The record came after `now`, so ``s > now - grace``.
It has each of its objects in one of two ways. It put it: `put` writes the object anew or renews its time, after `s`,
and 4 keeps it. Or it knows it from a version that was live at `s`: then that version is live now, and 1 keeps it, or it
was deleted after `s`, and 2 keeps it. A tombstone is written before its record goes, and everything is listed twice, so
a version that is deleted while its directory is read is seen as one or the other. 3 is the same once more without
trusting tombstones: records may also vanish by hand.

So whoever writes a record must have each object in one of these two ways: to find that it exists is not enough.

What is left is one object whose time is renewed between the question of 4 and the delete that follows at once. No store
here can delete on condition; a commit would have to put, at that moment, the very bytes that nobody has needed for a
whole period.

A version's objects are known from its manifest only, so one manifest that cannot be read, a record that does not even
tell which that is, or a store without a single version, makes gc delete nothing. Tombstones stay: numbers are never
used again. What was said of a deleted version goes. A file that this package did not name is never deleted, and
``staging`` is not looked at. Two passes at once do no harm: each deletes what is due by its own list, and the later
list wins.

Threading: any thread and any process; no lock is held.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, groupby
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from artifactfs.columns import DIGEST_SIZE_BYTES, decode_columns
from artifactfs.errors import (
    RECORD_FAULTS,
    AccessDenied,
    FormatError,
    IntegrityError,
    NotFound,
    StoreUnreachable,
    Unsupported,
)
from artifactfs.objects import layout
from artifactfs.objects.inventory import (
    Inventory,
    Place,
    batches,
    is_leftover,
    object_name,
    read_checked,
    read_small,
    take_inventory,
)
from artifactfs.objects.store import ObjectStore, StoredFile, translate

if TYPE_CHECKING:
    from artifactfs.managers.base import Progress

_log = logging.getLogger(__name__)

GC = "gc"
UNREFERENCED_KEY = f"{GC}/unreferenced.json"
UNREFERENCED_FORMAT = 1
GRACE_S = 86_400.0
"""The time for which a pass leaves alone what it finds unreferenced, unless it is told otherwise."""
_NS = 1_000_000_000
_LARGE_FILES = 100_000
_ADVICE = "'verify' shows what is damaged; a version that cannot be mended can be deleted"
_ADVICE_IF_DENIED = "gc needs a user who may read every version"
_CLOCK_ATTEMPTS = 3


class Pass(msgspec.Struct, frozen=True):
    """Objects that every pass since `since_ns`, by the store's clock, found unreferenced."""

    since_ns: int
    objects: list[str]


class Unreferenced(msgspec.Struct, frozen=True):
    """``gc/unreferenced.json``: what the passes so far found."""

    passes: list[Pass]
    grace_s: float = GRACE_S
    format: int = UNREFERENCED_FORMAT


@dataclass(frozen=True)
class GcReport:
    """What a pass found, and did; with `dry_run`, what it would have deleted.

    `waiting_objects` are unreferenced but not due: found for the first time, too young, or of a version just deleted.
    `unknown_files` lie among the objects and records and are not ours; they stay.
    """

    dry_run: bool
    versions: int = 0
    objects: int = 0
    size_bytes: int = 0
    deleted_objects: int = 0
    deleted_bytes: int = 0
    deleted_leftovers: int = 0
    waiting_objects: int = 0
    waiting_bytes: int = 0
    unknown_files: int = 0


def collect(
    store: ObjectStore, *, grace_s: float = GRACE_S, dry_run: bool = False, progress: Progress | None = None
) -> GcReport:
    """One pass; the module docstring says what goes. `progress` is told of bytes and objects deleted.

    `grace_s` must be longer than any commit takes. Raises IntegrityError or FormatError, with nothing deleted, when a
    record or manifest cannot be read, and so AccessDenied; Unsupported, StoreUnreachable.
    """
    if grace_s < 0:
        raise ValueError(f"a grace period of {grace_s} s: it cannot be negative")
    try:
        now_ns = store_time_ns(store)
    except AccessDenied:
        if not dry_run:
            raise
        now_ns = _time_of_newest(store)
    found = _Pass(store, now_ns, int(grace_s * _NS), dry_run, progress)
    return found.run()


def store_time_ns(store: ObjectStore) -> int:
    """What the store's clock says: when a file that is written now was written. Raises Unsupported."""
    for _ in range(_CLOCK_ATTEMPTS):
        key = f"{GC}/{layout.TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        try:
            store.replace(key, b"what time is it?")
            found = [file for file in store.walk(GC) if file.key == key]
        finally:
            store.delete(key)
        # Gone only if this took so long that another pass removed it as a leftover.
        if found:
            if (changed_ns := found[0].changed_ns) is not None:
                return changed_ns
            raise Unsupported(f"{store.url} does not tell when its files were written, so gc cannot tell what is new")
    raise StoreUnreachable(f"{store.url}: what is written below {GC} cannot be read back")


def _time_of_newest(store: ObjectStore) -> int:
    """A time by the store's clock that has passed, for who may not write: no more counts as old than is."""
    return max((file.changed_ns or 0 for file in store.walk(layout.COLLECTIONS)), default=0)


class _Wanted(NamedTuple):
    """A manifest to read, and a version it belongs to: a deleted one if `buried`."""

    place: Place
    manifest: str
    file_count: int
    buried: bool


class _Pass:
    """One pass over one store."""

    def __init__(
        self, store: ObjectStore, now_ns: int, grace_ns: int, dry_run: bool, progress: Progress | None
    ) -> None:
        self._store = store
        self._now_ns = now_ns
        self._grace_ns = grace_ns
        self._dry_run = dry_run
        self._progress = progress
        self._live: set[bytes] = set()
        self._just_deleted: set[bytes] = set()
        self._seen_manifests: set[tuple[str, bool]] = set()
        self._versions = 0

    def run(self) -> GcReport:
        before = unreferenced_since(self._store)
        listed = self._mark()
        # The list says when everything had been looked at: a commit that was running then began no later.
        since_ns = self._now_ns if self._dry_run else store_time_ns(self._store)
        objects = size_bytes = 0
        unreferenced: list[tuple[StoredFile, int | None]] = []
        due: list[StoredFile] = []
        leftovers = [*listed.leftovers, *listed.orphans, *self._leftovers_elsewhere()]
        unknown = len(listed.unknown)
        for file in self._store.walk(layout.OBJECTS):
            name = object_name(file.key)
            if name is None:
                if is_leftover(file.key):
                    leftovers.append(file)
                else:
                    unknown += 1
                continue
            objects += 1
            size_bytes += file.size_bytes
            if (raw_name := bytes.fromhex(name)) not in self._live:
                since = _proven_since(before.get(name), file)
                unreferenced.append((file, since))
                # Put before that pass, so it is as old itself.
                if self._is_old(since) and raw_name not in self._just_deleted:
                    due.append(file)
        if due and not listed.records and not listed.tombstones:
            raise IntegrityError(
                f"nothing was deleted: {self._store.url} holds {objects} objects and not one version, nor a deleted "
                f"one, so {layout.COLLECTIONS} may not be the whole of it (is its disk mounted?)"
            )
        if not self._dry_run and (before or unreferenced):
            _write_list(self._store, unreferenced, since_ns, self._grace_ns / _NS)
        deleted, freed = self._delete(due)
        stale = [file for file in leftovers if self._is_old(file.changed_ns)]
        return GcReport(
            self._dry_run,
            self._versions,
            objects,
            size_bytes,
            deleted,
            freed,
            self._delete(stale)[0],
            len(unreferenced) - deleted,
            sum(file.size_bytes for file, _ in unreferenced) - freed,
            unknown,
        )

    def _is_old(self, changed_ns: int | None) -> bool:
        return changed_ns is not None and self._now_ns - changed_ns >= self._grace_ns

    # -- what is needed ---------------------------------------------------------------------------------------------

    def _mark(self) -> Inventory:
        """Find everything that versions need; returns the later of two listings."""
        first = self._listed()
        self._keep(first.records.values(), self._recent(first))
        second = self._listed()
        for link in [*first.lost, *second.lost]:
            raise IntegrityError(
                f"nothing was deleted: {link.key} of {self._store.url} is a symlink, which is not followed"
            )
        self._keep(
            (place for key, place in second.records.items() if key not in first.records),
            (place for place in self._recent(second) if place.key not in first.tombstones),
        )
        return second

    def _listed(self) -> Inventory:
        try:
            return take_inventory(self._store)
        except RECORD_FAULTS as error:
            raise type(error)(f"nothing was deleted: {error}. {_advice(error)}") from error

    def _recent(self, listed: Inventory) -> Iterator[Place]:
        """The tombstones of versions that a commit still running may have learned contents from."""
        return (place for place in listed.tombstones.values() if not self._is_old(place.changed_ns))

    def _keep(self, records: Iterable[Place], tombstones: Iterable[Place]) -> None:
        wanted = chain(self._manifests_of(records), self._manifests_of(tombstones, buried=True))
        with ThreadPoolExecutor(self._store.parallel_transfers) as pool:
            for some in batches(wanted, 4 * self._store.parallel_transfers):
                # Several of a million files at once would take a gigabyte.
                large = [one for one in some if one.file_count > _LARGE_FILES]
                small = [one for one in some if one.file_count <= _LARGE_FILES]
                for buried, objects in chain(pool.map(self._objects_of, small), map(self._objects_of, large)):
                    (self._just_deleted if buried else self._live).update(objects)

    def _manifests_of(self, places: Iterable[Place], *, buried: bool = False) -> Iterator[_Wanted]:
        """The manifests not looked at yet."""
        for place, raw in self._read(places):
            if raw is None:
                continue  # deleted since: the second listing shows its tombstone
            try:
                if buried:
                    record = layout.decode_tombstone(raw, place.key, place.number).record
                else:
                    record = layout.decode_record(raw, place.key, place.number)
                manifest, file_count = record.manifest, record.file_count
            except FormatError as error:
                # What is damaged in a record may not be the name of its manifest; then that tells what it needs.
                named = None if buried else layout.manifest_named_in(raw)
                if named is None:
                    raise FormatError(_refusal(place, error)) from error
                manifest, file_count = named, 0
            self._versions += not buried
            if (manifest, buried) not in self._seen_manifests:
                self._seen_manifests.add((manifest, buried))
                yield _Wanted(place, manifest, file_count, buried)

    def _read(self, places: Iterable[Place]) -> Iterator[tuple[Place, bytes | None]]:
        try:
            yield from read_small(self._store, places)
        except RECORD_FAULTS as error:
            raise type(error)(f"nothing was deleted: {error}. {_advice(error)}") from error

    def _objects_of(self, wanted: _Wanted) -> tuple[bool, list[bytes]]:
        """Tell whether the version was deleted, and the raw names of its objects, that of its manifest included."""
        place, manifest, _, buried = wanted
        try:
            packed = decode_columns(read_checked(self._store, manifest)).objects
            if len(packed) % DIGEST_SIZE_BYTES:
                raise FormatError(f"manifest {manifest} is damaged: the names of its objects are cut short")
        except NotFound as error:
            if buried:
                return buried, []  # a copied store has new tombstones of versions that were freed long ago
            raise IntegrityError(_refusal(place, f"manifest {manifest} is missing")) from error
        except RECORD_FAULTS as error:
            raise type(error)(_refusal(place, error)) from error
        names = [packed[i : i + DIGEST_SIZE_BYTES] for i in range(0, len(packed), DIGEST_SIZE_BYTES)]
        return buried, [bytes.fromhex(manifest), *names]

    # -- what goes --------------------------------------------------------------------------------------------------

    def _leftovers_elsewhere(self) -> Iterator[StoredFile]:
        """Temporary names beside the list of unreferenced objects, and in the root of a local store."""
        yield from (file for file in self._store.walk(GC) if is_leftover(file.key))
        root = self._store.local_root
        if root is not None:
            # Not with walk, which would go through the whole of staging.
            yield from _as_they_are(self._store, "", filter(is_leftover, os.listdir(root)))

    def _delete(self, files: list[StoredFile]) -> tuple[int, int]:
        """Delete what is still as old as it was; how many that were, and their bytes."""
        if self._dry_run:
            return len(files), sum(file.size_bytes for file in files)
        count = freed = 0
        together = groupby(sorted(file.key for file in files), key=lambda key: key.rpartition("/")[0])
        with ThreadPoolExecutor(self._store.parallel_transfers) as pool:
            for directory, keys in together:
                for some in batches(keys, self._store.parallel_transfers):
                    old = [file for file in _as_they_are(self._store, directory, some) if self._is_old(file.changed_ns)]
                    for _ in pool.map(self._store.delete, [file.key for file in old]):
                        count += 1
                    freed += sum(file.size_bytes for file in old)
                    if self._progress is not None:
                        self._progress(freed, count)
        return count, freed


def _as_they_are(store: ObjectStore, directory: str, keys: Iterable[str]) -> Iterator[StoredFile]:
    """Files of one directory as they are at this moment, those that are gone left out."""
    if store.local_root is None:
        wanted = set(keys)
        yield from (file for file in store.walk(directory) if file.key in wanted)
        return
    for key in keys:
        try:
            status = os.lstat(f"{store.local_root}/{key}")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise translate(error, f"cannot look for {key} of {store.url}") from error
        yield StoredFile(key, status.st_size, status.st_ctime_ns)


def _proven_since(before_ns: int | None, file: StoredFile) -> int | None:
    """Since when passes have found an object unreferenced, None when this is the first that counts.

    One that was put again after a pass may have been needed in between.
    """
    if before_ns is None or file.changed_ns is None or file.changed_ns > before_ns:
        return None
    return before_ns


def unreferenced_since(store: ObjectStore) -> dict[str, int]:
    """Object → since when every pass has found it unreferenced: what gc may delete any time from a period later on."""
    return {name: each.since_ns for each in _read_list(store).passes for name in each.objects}


def grace_of(store: ObjectStore) -> float:
    """The grace period in seconds that a commit must expect of a pass: the usual one, or that of the last pass."""
    return min(GRACE_S, _read_list(store).grace_s)


def _read_list(store: ObjectStore) -> Unreferenced:
    try:
        found = msgspec.json.decode(store.get(UNREFERENCED_KEY), type=Unreferenced)
    except NotFound:
        return Unreferenced([])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _log.warning("%s of %s is damaged, so this counts as the first pass: %s", UNREFERENCED_KEY, store.url, error)
        return Unreferenced([])
    if found.format != UNREFERENCED_FORMAT:
        raise FormatError(f"{UNREFERENCED_KEY} of {store.url} has format {found.format}: upgrade artifactfs")
    return found


def _write_list(
    store: ObjectStore, unreferenced: Iterable[tuple[StoredFile, int | None]], pass_ns: int, grace_s: float
) -> None:
    """Remember what this pass, at `pass_ns`, and those before it found."""
    passes: dict[int, list[str]] = {}
    for file, since in unreferenced:
        passes.setdefault(pass_ns if since is None else since, []).append(file.key.rpartition("/")[2])
    found = Unreferenced([Pass(since, sorted(names)) for since, names in sorted(passes.items())], grace_s)
    store.replace(UNREFERENCED_KEY, msgspec.json.encode(found))


def _refusal(place: Place, why: object) -> str:
    return f"nothing was deleted, because what {place.label} needs cannot be told: {why}. {_advice(why)}"


def _advice(why: object) -> str:
    return _ADVICE_IF_DENIED if isinstance(why, AccessDenied) else _ADVICE
