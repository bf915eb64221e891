"""What a plain store says of an artifact: its numbers, records, aliases and tombstones.

A version is there when its directory holds something besides what we keep in it, and neither a tombstone nor a note
that it is still being made says otherwise. The first one may hold only the artifact's notes; and where there are
directories without files, what was cleared away leaves some. Threading: as `objects.history`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from cachetools import LRUCache

from artifactfs import names
from artifactfs.errors import RECORD_FAULTS, FormatError, NotFound, VersionNotFound
from artifactfs.objects.history import History, Known, Numbers, numbers_in
from artifactfs.objects.layout import shown_artifact
from artifactfs.objects.store import ObjectStore
from artifactfs.plain import layout

_CACHED_HOLDING = 50_000


class PlainHistory(History):
    """Reads the artifacts of a plain store. Collections and artifacts are named as listings show them."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self._is_local = store.local_root is not None
        # No program writes there any more, so what was not there once never will be.
        self._may_have_old_notes = True
        # Versions that were seen to hold files; what takes them away leaves a tombstone. Guarded by the lock.
        self._holding: LRUCache[tuple[str, int], bool] = LRUCache(_CACHED_HOLDING)

    def prefix(self, collection: str, artifact: str) -> str:
        """The key below which an artifact's aliases and tombstones lie; may ask the store.

        Raises InvalidName, CollectionNotFound, StoreUnreachable, AccessDenied.
        """
        if self.has_old_notes():
            old = layout.old_notes_prefix(collection, artifact)
            new = layout.notes_prefix(collection, artifact)
            # While they are moved, where all of them are.
            if not set(self._store.listing(old).files) <= set(self._store.listing(new).files):
                return old
        return layout.notes_prefix(collection, artifact)

    def has_old_notes(self) -> bool:
        """Tell if the store has notes where the first programs kept them. Raises StoreUnreachable, AccessDenied."""
        if self._may_have_old_notes and not self._store.listing(layout.OLD_NOTES).directories:
            self._may_have_old_notes = False
        return self._may_have_old_notes

    def move_old_notes(self) -> None:
        """Move what the first programs kept apart to where it is kept now, out of the sight of squirrel's catalogs.

        Every writer does it before it writes. Who dies within it leaves a store that reads the same, and the next one
        goes on. Raises StoreUnreachable, AccessDenied.
        """
        if not self.has_old_notes():
            return
        for collection in self._store.listing(layout.OLD_NOTES).directories:
            for artifact in self._store.listing(f"{layout.OLD_NOTES}/{collection}").directories:
                self._move(f"{collection}/{artifact}")

    def _move(self, artifact: str) -> None:
        old = f"{layout.OLD_NOTES}/{artifact}"
        new = f"{artifact}/{names.version_name(0)}/{layout.NOTES}"
        found = self._store.listing(old).files
        for name in found:
            with suppress(NotFound):  # another moves them too
                self._store.put_exclusive(f"{new}/{name}", self._store.get(f"{old}/{name}"))
        for name in found:
            self._store.delete(f"{old}/{name}")

    def record_key(self, prefix: str, number: int) -> str:
        """The key of a version's record, which lies in the version."""
        return layout.record_key(prefix, number)

    def numbers(self, collection: str, artifact: str) -> Numbers:
        """List an artifact. Numbers that are taken and give no version count as deleted."""
        key = layout.artifact_key(collection, artifact)
        taken = [names.version_number(name) for name in self._store.listing(key).directories if names.is_version(name)]
        notes = self._store.listing(self.prefix(collection, artifact)).files
        noted = numbers_in(notes)
        pending = {number for name in notes if (number := layout.pending_number(name)) is not None}
        dead = noted.deleted | pending
        live = self._holding_files(key, [number for number in sorted(taken) if number not in dead])
        if self._is_local:
            # A rename onto such a directory would fail; elsewhere a version is made in it.
            dead = dead.union(taken).difference(live)
        return Numbers(live, dead, noted.aliases, noted.annotated)

    def pending(self, collection: str, artifact: str, commit_id: str) -> int | None:
        """The number at which the commit with that id was interrupted, None when it was not."""
        prefix = self.prefix(collection, artifact)
        for name in self._store.listing(prefix).files:
            number = layout.pending_number(name)
            if number is None:
                continue
            key = layout.pending_key(prefix, number)
            raw = self._read(key)
            try:
                if raw is not None and layout.decode_pending(raw, key).commit == commit_id:
                    return number
            except FormatError as error:
                self.tell(key, error)
        return None

    def artifacts(self, collection: str) -> list[str] | None:
        """The names in the store of a collection's artifacts with a live version; None when there is no collection."""
        key = layout.collection_key(collection)
        found = self._store.listing(key).directories
        if not found and (not self._is_local or not self._store.exists(key)):
            return None
        if self._store.parallel_transfers == 1:
            return [name for name in found if self._has_live(collection, name)]
        with ThreadPoolExecutor(self._store.parallel_transfers) as pool:
            live = list(pool.map(lambda name: self._has_live(collection, name), found))
        return [name for name, lives in zip(found, live, strict=True) if lives]

    def _has_live(self, collection: str, name: str) -> bool:
        try:
            return bool(self.numbers(collection, shown_artifact(name)).live)
        except RECORD_FAULTS:
            return True  # as `_has_version`

    def find(self, collection: str, artifact: str, number: int) -> tuple[Known | None, bool]:
        """(the record of a version that is there, whether it has an annotation); None where somebody else wrote it.

        Raises VersionNotFound, ArtifactNotFound, FormatError.
        """
        numbers = self.existing_numbers(collection, artifact)
        if number not in numbers.live:
            raise VersionNotFound(f"no version v{number} of {collection}/{artifact}")
        return self.record(collection, artifact, number), number in numbers.annotated

    def _holding_files(self, key: str, numbers: list[int]) -> list[int]:
        """Those of an artifact's numbers whose directories hold more than what we keep in them."""
        if self._is_local:
            return [number for number in numbers if self._holds_files(key, number)]
        with self._lock:
            known = {number for number in numbers if (key, number) in self._holding}
        # Anywhere the first one may hold only notes. Any other is listed because of its files, or as a directory.
        unknown = [n for n in numbers if n not in known and (n == 0 or self._store.keeps_directories)]
        answers = self._store.at_once(lambda number: self._holds_files(key, number), unknown)
        empty = {number for number, holds in zip(unknown, answers, strict=True) if not holds}
        with self._lock:
            self._holding.update({(key, number): True for number in unknown if number not in empty})
        return [number for number in numbers if number not in empty]

    def _holds_files(self, key: str, number: int) -> bool:
        version = f"{key}/{names.version_name(number)}"
        try:
            return self._holds_files_locally(version) if self._is_local else self._holds_files_remotely(version)
        except RECORD_FAULTS:
            return True  # shown, and an error to who opens it: it costs nothing but itself

    def _holds_files_locally(self, version: str) -> bool:
        if self._store.exists(f"{version}/{layout.FILES}"):
            return True
        found = self._store.listing(version)
        return any(name not in layout.OWN_NAMES for name in (*found.files, *found.directories))

    def _holds_files_remotely(self, version: str) -> bool:
        found = self._store.listing(version)
        if any(name not in layout.OWN_NAMES for name in found.files):
            return True
        if layout.RECORD in found.files:
            return True  # a version of ours may have no files, and its record comes last
        others = [name for name in found.directories if name not in layout.OWN_NAMES]
        if not self._store.keeps_directories:
            return bool(others)
        return any(next(self._store.walk(f"{version}/{name}"), None) is not None for name in others)
