"""What a store says of an artifact: its version numbers, records, tombstones and aliases.

Listings are always asked of the store; records and tombstones are immutable once written, so they are kept.

Threading: any thread; the lock guards the cache and is not held across I/O.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from cachetools import LRUCache

from artifactfs import names
from artifactfs.errors import RECORD_FAULTS, ArtifactError, ArtifactNotFound, FormatError, VersionNotFound
from artifactfs.managers.base import ArtifactNames, VersionInfo
from artifactfs.managers.commit_id import commit_time_ns
from artifactfs.objects import layout
from artifactfs.objects.layout import Record
from artifactfs.objects.store import ObjectStore

_log = logging.getLogger(__name__)

# About 1 KiB each with its VersionInfo.
_CACHED_RECORDS = 50_000
_RECORDS_AT_ONCE = 64
NEWEST = 4
"""Of how many of the latest versions a commit looks at the records and knows the contents."""
# By how much the clocks of two hosts may differ that committed with the first programs, which kept no `Record.clock`.
CLOCK_SKEW_NS = 24 * 3600 * 1_000_000_000


@dataclass(frozen=True)
class Numbers:
    """One listing of an artifact: the numbers in use, deleted ones apart, and the aliases' names.

    `annotated` are the numbers with an annotation beside their record.
    """

    live: list[int]
    deleted: set[int]
    aliases: list[str]
    annotated: frozenset[int] = frozenset()

    @property
    def next(self) -> int:
        """The number the next version tries first. Deleted ones are never used again."""
        return max([*self.live[-1:], *self.deleted], default=-1) + 1


class Known(NamedTuple):
    """A record, and the same as the manager's callers see it."""

    record: Record
    info: VersionInfo


class History:
    """Reads the records of a store's artifacts. Collections and artifacts are named as listings show them.

    A layout that keeps them elsewhere says where by overriding `prefix` and `record_key`.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._records: LRUCache[tuple[str, int], Known] = LRUCache(_CACHED_RECORDS)
        self._told: LRUCache[str, bool] = LRUCache(1024)

    def prefix(self, collection: str, artifact: str) -> str:
        """The key below which an artifact's aliases and tombstones lie. Raises InvalidName."""
        return layout.artifact_prefix(collection, artifact)

    def record_key(self, prefix: str, number: int) -> str:
        """The key of a version's record, for what :meth:`prefix` gave."""
        return layout.record_key(prefix, number)

    def numbers(self, collection: str, artifact: str) -> Numbers:
        """List an artifact; nothing when it does not exist."""
        listed = self._store.listing(self.prefix(collection, artifact))
        # A directory with such a name takes the number: no record can be written there.
        return numbers_in(
            [*listed.files, *(name for name in listed.directories if not name.endswith(layout.ALIAS_SUFFIX))]
        )

    def existing_numbers(self, collection: str, artifact: str) -> Numbers:
        """As :meth:`numbers`. Raises ArtifactNotFound when there never was a version."""
        found = self.numbers(collection, artifact)
        if not found.live and not found.deleted:
            raise ArtifactNotFound(f"no artifact {artifact!r} in collection {collection!r}")
        return found

    def artifacts(self, collection: str) -> list[str] | None:
        """The names in the store of a collection's artifacts with a live version; None when there is no collection."""
        prefix = layout.collection_prefix(collection)
        if self._store.local_root is None:
            return self._artifacts_walked(prefix)
        found = self._store.listing(prefix).directories
        if not found and not self._store.exists(prefix):
            return None
        return [name for name in found if self._has_version(f"{prefix}/{name}")]

    def _has_version(self, prefix: str) -> bool:
        try:
            return bool(numbers_in(self._store.listing(prefix).files).live)
        except RECORD_FAULTS:
            return True  # shown, and an error to who looks into it: it hides none of its neighbours

    def _artifacts_walked(self, prefix: str) -> list[str] | None:
        """As `artifacts`, by one listing of everything: an object store answers a thousand names at once."""
        files: dict[str, list[str]] = {}
        for stored in self._store.walk(prefix):
            artifact, slash, name = stored.key[len(prefix) + 1 :].partition("/")
            if slash and "/" not in name:
                files.setdefault(artifact, []).append(name)
        return [artifact for artifact, found in files.items() if numbers_in(found).live] if files else None

    def overview(self) -> dict[str, dict[str, ArtifactNames]] | None:
        """Everything there is, named as listings show it, when one request tells it; None when it does not."""
        listed = self._store.few(layout.COLLECTIONS)
        if listed is None:
            return None
        files: dict[tuple[str, str], list[str]] = {}
        for stored in listed:
            parts = stored.key.split("/")
            if len(parts) == 4:
                files.setdefault((parts[1], parts[2]), []).append(parts[3])
        found: dict[str, dict[str, ArtifactNames]] = {}
        for (collection, artifact), inside in files.items():
            numbers = numbers_in(inside)
            artifacts = found.setdefault(layout.shown_collection(collection), {})
            if numbers.live:
                versions = tuple(map(names.version_name, numbers.live))
                artifacts[layout.shown_artifact(artifact)] = ArtifactNames(versions, tuple(numbers.aliases))
        return found

    def aliases(self, collection: str, artifact: str) -> dict[str, str]:
        """Alias → version of an artifact, without those whose version is gone.

        One that cannot be read is left out with a warning. Raises ArtifactNotFound.
        """
        numbers = self.existing_numbers(collection, artifact)
        prefix = self.prefix(collection, artifact)
        keys = [layout.alias_key(prefix, alias) for alias in numbers.aliases]
        live = {names.version_name(number) for number in numbers.live}
        found: dict[str, str] = {}
        for alias, key, raw in zip(numbers.aliases, keys, self.read_each(keys), strict=True):
            try:
                if isinstance(raw, Exception):
                    raise raw
                if raw is not None and (version := layout.decode_alias(raw, key)) in live:
                    found[alias] = version
            except RECORD_FAULTS as error:
                # Asked for by its name it is an error, and so it is for verify.
                self.tell(key, error)
        return found

    def records(self, collection: str, artifact: str, numbers: Iterable[int]) -> list[Known]:
        """The records of versions just listed, in that order.

        One that was deleted since is left out, and one that cannot be read: :meth:`version` tells what it has.
        """
        found = self._records_or_faults(collection, artifact, list(numbers))
        return [known for known in found.values() if isinstance(known, Known)]

    def found(self, collection: str, artifact: str, numbers: Iterable[int]) -> dict[int, Known | None]:
        """The records by number, with None for a version that has none: squirrel-core wrote it, or it was deleted."""
        found = self._records_or_faults(collection, artifact, list(numbers))
        return {number: known for number, known in found.items() if not isinstance(known, Exception)}

    def record(self, collection: str, artifact: str, number: int) -> Known | None:
        """The record of one version, None where there is none. Raises RECORD_FAULTS."""
        found = self._records_or_faults(collection, artifact, [number])[number]
        if isinstance(found, Exception):
            raise found
        return found

    def _records_or_faults(
        self, collection: str, artifact: str, wanted: list[int]
    ) -> dict[int, Known | ArtifactError | None]:
        """For each number the record, what is wrong with it, or None where there is none."""
        prefix = self.prefix(collection, artifact)
        with self._lock:
            found: dict[int, Known | ArtifactError | None] = {
                number: self._records.get((prefix, number)) for number in wanted
            }
        missing = [number for number, known in found.items() if known is None]
        for start in range(0, len(missing), _RECORDS_AT_ONCE):
            some = missing[start : start + _RECORDS_AT_ONCE]
            keys = [self.record_key(prefix, number) for number in some]
            for number, key, raw in zip(some, keys, self.read_each(keys), strict=True):
                try:
                    if isinstance(raw, bytes):
                        record = layout.decode_record(raw, key, number)
                        found[number] = Known(record, record.info(collection, artifact))
                    else:
                        found[number] = raw
                except FormatError as error:
                    found[number] = error
        with self._lock:
            for number in missing:
                if isinstance(fresh := found[number], Known):
                    self._records[prefix, number] = fresh
        for number, fault in found.items():
            if isinstance(fault, Exception):
                self.tell(self.record_key(prefix, number), fault)
        return found

    def tell(self, key: str, error: Exception) -> None:
        """Log once what is passed over."""
        with self._lock:
            is_told = self._told.get(key, False)
            self._told[key] = True
        if not is_told:
            _log.warning("passing over what cannot be read in %s: %s", self._store.url, error)

    def read_each(self, keys: list[str]) -> list[bytes | ArtifactError | None]:
        """The bytes of small files; for one that is no file that could be read, what is wrong with it."""
        try:
            return [*self._store.get_many(keys)]
        except RECORD_FAULTS as error:
            return [error] if len(keys) == 1 else [found for key in keys for found in self.read_each([key])]

    def _read(self, key: str) -> bytes | None:
        found = self.read_each([key])[0]
        return found if isinstance(found, bytes) else None

    def keep(self, collection: str, artifact: str, number: int, record: Record) -> None:
        """Keep a record that was just written, so that it need not be read."""
        with self._lock:
            self._records[self.prefix(collection, artifact), number] = Known(record, record.info(collection, artifact))

    def version(self, collection: str, artifact: str, number: int) -> Known:
        """The record of one version, after asking the store whether it is still there.

        Raises VersionNotFound, ArtifactNotFound, FormatError.
        """
        prefix = self.prefix(collection, artifact)
        key = self.record_key(prefix, number)
        with self._lock:
            cached = (prefix, number) in self._records
        there = self._store.exists(key) if cached else True
        if there and not self._store.exists(layout.tombstone_key(prefix, number)):
            found = self.record(collection, artifact, number)
            if found is not None:
                return found
        self.existing_numbers(collection, artifact)
        raise VersionNotFound(f"no version v{number} of {collection}/{artifact}")

    def resolve(self, collection: str, artifact: str, version: str | None) -> int:
        """The number that a version, an alias, ``latest`` or None stands for; it may have gone since.

        Raises VersionNotFound, ArtifactNotFound, InvalidName, FormatError.
        """
        if version is None or version == names.LATEST:
            live = self.existing_numbers(collection, artifact).live
            if not live:
                raise VersionNotFound(f"every version of {collection}/{artifact} was deleted")
            return live[-1]
        if names.is_version(version):
            return names.version_number(version)
        prefix = self.prefix(collection, artifact)
        if names.is_alias(version):
            key = layout.alias_key(prefix, version)
            raw = self._store.get_if_there(key)
            if raw is not None:
                return names.version_number(layout.decode_alias(raw, key))
        self.existing_numbers(collection, artifact)
        raise VersionNotFound(f"no version or alias {version!r} of {collection}/{artifact}")

    def find_commit(
        self, collection: str, artifact: str, commit_id: str, numbers: Numbers, since: int = 0
    ) -> Record | None:
        """The record of the commit with that id, of a version deleted since too; None when it made none.

        Of the versions just listed, only those numbered `since` or higher are read, newest first, and none that was
        made before there was a commit of that id, which holds its time (`managers.commit_id`). One that cannot be read
        is passed over.
        """
        live = [number for number in numbers.live if number >= since]
        deleted = {number for number in numbers.deleted if number >= since}
        return self._search(collection, artifact, commit_id, live) or self._buried(
            collection, artifact, commit_id, deleted
        )

    def _search(self, collection: str, artifact: str, commit_id: str, live: list[int]) -> Record | None:
        newest_first = live[::-1]
        # The newest records usually tell that there is nothing to look for; a commit needs them anyway.
        step = NEWEST
        while newest_first:
            some, newest_first = newest_first[:step], newest_first[step:]
            step = _RECORDS_AT_ONCE
            for known in self.records(collection, artifact, some):
                if known.record.commit == commit_id:
                    return known.record
                if _is_before(known.record, commit_id):
                    return None
        return None

    def _buried(self, collection: str, artifact: str, commit_id: str, deleted: set[int]) -> Record | None:
        prefix = self.prefix(collection, artifact)
        for number in sorted(deleted, reverse=True):
            record = self._buried_record(prefix, number)
            if record is None:
                continue
            if record.commit == commit_id:
                return record
            if _is_before(record, commit_id):
                return None
        return None

    def _buried_record(self, prefix: str, number: int) -> Record | None:
        """The record of a deleted version, from its tombstone; None where there is none that can be read."""
        key = layout.tombstone_key(prefix, number)
        raw = self._read(key)
        try:
            return None if raw is None else layout.decode_tombstone(raw, key, number).record
        except FormatError as error:
            self.tell(key, error)
            return None

    def latest_clock(self, collection: str, artifact: str, numbers: Numbers) -> int:
        """The time that orders the last version made, deleted or not; 0 when there is none."""
        prefix = self.prefix(collection, artifact)
        for number in range(numbers.next - 1, -1, -1):
            if number in numbers.deleted:
                record = self._buried_record(prefix, number)
            else:
                found = self.records(collection, artifact, [number])
                record = found[0].record if found else None
            if record is not None:
                return record.order_ns
        return 0


def _is_before(record: Record, commit_id: str) -> bool:
    """Tell whether a version is older than a commit id; then no version before it is of that commit."""
    made_ns = commit_time_ns(commit_id)
    return made_ns is not None and record.order_ns < made_ns - CLOCK_SKEW_NS


def numbers_in(files: Iterable[str]) -> Numbers:
    """Sort the file names of an artifact's directory into numbers and aliases; what is neither is left out."""
    live: list[int] = []
    deleted: set[int] = set()
    aliases: list[str] = []
    annotated: set[int] = set()
    for name in files:
        if (number := layout.number_of(name, layout.VERSION_SUFFIX)) is not None:
            live.append(number)
        elif (number := layout.number_of(name, layout.DELETED_SUFFIX)) is not None:
            deleted.add(number)
        elif (number := layout.number_of(name, layout.ANNOTATION_SUFFIX)) is not None:
            annotated.add(number)
        elif name.endswith(layout.ALIAS_SUFFIX) and names.is_alias(alias := name[: -len(layout.ALIAS_SUFFIX)]):
            aliases.append(alias)
    if deleted:
        live = [number for number in live if number not in deleted]
    live.sort()
    return Numbers(live, deleted, sorted(aliases), frozenset(annotated))
