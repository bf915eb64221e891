"""What a plain store says of an artifact: its numbers, records, aliases and tombstones.

A version is there when its directory holds something besides what we keep in it, and neither a tombstone nor a note
that it is still being made says otherwise. Threading: as `objects.history`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from artifactfs import names
from artifactfs.errors import RECORD_FAULTS, FormatError, VersionNotFound
from artifactfs.objects.history import History, Known, Numbers, numbers_in
from artifactfs.objects.layout import shown_artifact
from artifactfs.objects.store import ObjectStore
from artifactfs.plain import layout


class PlainHistory(History):
    """Reads the artifacts of a plain store. Collections and artifacts are named as listings show them."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self._is_local = store.local_root is not None

    def prefix(self, collection: str, artifact: str) -> str:
        """The key below which an artifact's aliases and tombstones lie. Raises InvalidName, CollectionNotFound."""
        return layout.side_prefix(collection, artifact)

    def record_key(self, prefix: str, number: int) -> str:
        """The key of a version's record, which lies in the version."""
        return layout.record_key(prefix, number)

    def numbers(self, collection: str, artifact: str) -> Numbers:
        """List an artifact. Numbers that are taken and give no version count as deleted."""
        key = layout.artifact_key(collection, artifact)
        taken = [names.version_number(name) for name in self._store.listing(key).directories if names.is_version(name)]
        side_files = self._store.listing(self.prefix(collection, artifact)).files
        side = numbers_in(side_files)
        pending = {number for name in side_files if (number := layout.pending_number(name)) is not None}
        dead = side.deleted | pending
        live = [number for number in sorted(taken) if number not in dead and self._holds_files(key, number)]
        return Numbers(live, dead.union(taken).difference(live), side.aliases)

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

    def find(self, collection: str, artifact: str, number: int) -> Known | None:
        """The record of a version that is there, None where somebody else wrote it.

        Raises VersionNotFound, ArtifactNotFound, FormatError.
        """
        if number not in self.existing_numbers(collection, artifact).live:
            raise VersionNotFound(f"no version v{number} of {collection}/{artifact}")
        return self.record(collection, artifact, number)

    def _holds_files(self, key: str, number: int) -> bool:
        """Whether a version's directory holds more than what we keep in it. Elsewhere than on disk it is only listed
        because it does."""
        if not self._is_local:
            return True
        version = f"{key}/{names.version_name(number)}"
        try:
            if self._store.exists(f"{version}/{layout.FILES}"):
                return True
            found = self._store.listing(version)
        except RECORD_FAULTS:
            return True  # shown, and an error to who opens it: it costs nothing but itself
        return any(name not in layout.OWN_NAMES for name in (*found.files, *found.directories))
