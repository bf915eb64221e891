"""What is said of a version after it was made: a message and metadata, kept beside the record, which stays what it was.

An annotation is one small file, ``vN.annotation``, replaced whole. The listing that finds a version's record names it
too, so a listing reads those that there are and asks for no other; who asks for one version by its number asks for it
together with the record. It is foreign like every file of a store: one that cannot be read is passed over with a
warning, and the version is shown as it was committed. Of two writers at once the last one's words stay.

It goes away with its version. One that was written at the moment of the deletion is freed by `objects.gc`.

Neighbours: `layout` says what it holds, `history` lists. Threading: any thread; no state of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from artifactfs.errors import RECORD_FAULTS, FormatError, SerializationError, VersionNotFound
from artifactfs.managers.base import VersionInfo
from artifactfs.objects import layout
from artifactfs.objects.commit import creator
from artifactfs.objects.history import History
from artifactfs.objects.layout import Annotation
from artifactfs.objects.store import ObjectStore
from artifactfs.serializers import SERIALIZER_KEY

_AT_ONCE = 64


class Annotations:
    """Those of one store's versions. Collections and artifacts are named as listings show them."""

    def __init__(self, store: ObjectStore, history: History) -> None:
        self._store = store
        self._history = history

    def shown(self, infos: list[VersionInfo], annotated: Collection[int]) -> list[VersionInfo]:
        """Versions of one artifact with what was said of them; `annotated` are the numbers of which something was."""
        wanted = [info.number for info in infos if info.number in annotated]
        if not wanted:
            return infos
        found = self._read(infos[0].collection, infos[0].artifact, wanted)
        return [found[info.number].over(info) if info.number in found else info for info in infos]

    def of(self, collection: str, artifact: str, number: int) -> Annotation | None:
        """The message and metadata given to one version later; None where nothing was."""
        return self._read(collection, artifact, [number]).get(number)

    def _read(self, collection: str, artifact: str, numbers: list[int]) -> dict[int, Annotation]:
        prefix = self._history.prefix(collection, artifact)
        found: dict[int, Annotation] = {}
        for start in range(0, len(numbers), _AT_ONCE):
            some = numbers[start : start + _AT_ONCE]
            keys = [layout.annotation_key(prefix, number) for number in some]
            for number, key, raw in zip(some, keys, self._history.read_each(keys), strict=True):
                try:
                    if isinstance(raw, Exception):
                        raise raw
                    if raw is not None:
                        found[number] = layout.decode_annotation(raw, key, number)
                except RECORD_FAULTS as error:
                    self._history.tell(key, error)
        return found

    def annotate(
        self,
        info: VersionInfo,
        look: Callable[[], VersionInfo],
        message: str | None,
        metadata: Mapping[str, Any] | None,
    ) -> VersionInfo:
        """Add to what is said of a version, given as it is shown; returns what `look` then tells of it.

        What cannot be read of an earlier annotation is replaced, unless a newer program wrote it.
        Raises SerializationError, FormatError, and as `look`.
        """
        check_fitting(info, message, metadata)
        key = self._key(info)
        before = self._before(key, info)
        said = Annotation(
            info.version,
            time.time_ns(),
            before.message if message is None else message,
            {**before.metadata, **(metadata or {})},
            creator(),
        )
        self._store.replace(key, layout.encode(said))
        try:
            return look()
        except VersionNotFound:
            # It was deleted meanwhile, and whoever did that may have looked before this was written.
            self._store.delete(key)
            raise

    def _before(self, key: str, info: VersionInfo) -> Annotation:
        [raw] = self._history.read_each([key])
        if isinstance(raw, bytes):
            try:
                return layout.decode_annotation(raw, key, info.number)
            except FormatError:
                if layout.is_newer_annotation(raw):
                    raise
        return Annotation(info.version, 0)

    def delete(self, collection: str, artifact: str, number: int) -> None:
        """Remove what was said of a version that was deleted."""
        self._store.delete(layout.annotation_key(self._history.prefix(collection, artifact), number))

    def _key(self, info: VersionInfo) -> str:
        return layout.annotation_key(self._history.prefix(info.collection, info.artifact), info.number)


def check_fitting(info: VersionInfo, message: str | None, metadata: Mapping[str, Any] | None) -> None:
    """Raises SerializationError when a version, given as it is shown, cannot have this message and metadata besides."""
    metadata = metadata or {}
    serializer = info.metadata.get(SERIALIZER_KEY)
    if serializer is not None and metadata.get(SERIALIZER_KEY, serializer) != serializer:
        raise SerializationError(
            f"{SERIALIZER_KEY} of {info.collection}/{info.artifact}@{info.version} is what reads its object: it stays"
        )
    shown = info.message if message is None else message, {**info.metadata, **metadata}
    size_bytes = len(json.dumps(shown, ensure_ascii=False, separators=(",", ":")).encode())
    if size_bytes > layout.MAX_RECORD_BYTES:
        raise layout.too_long(size_bytes)
