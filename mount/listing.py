"""What the store holds, as the drive sees it: listings kept for a few seconds, and the last known ones for outages.

Neighbours: asks an `ArtifactManager`, is asked by the vfs; a `StoreMemory` keeps the last known listings of stores that
are not local over remounts. Threading: safe from any thread. `_lock` guards the caches and the table of fetches under
way and is never held across a backend call; of several threads that want the same listing one fetches it and the others
wait for its answer, at most `WAIT_S`. Where there is a memory, a listing that is known is asked for by a thread of
`_pool`, so that nobody waits long for a store that hangs.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, NamedTuple, TypeVar, cast

from cachetools import LRUCache, TTLCache

from artifactfs import names
from artifactfs.content.metadata import StoreMemory
from artifactfs.errors import (
    ArtifactError,
    ArtifactNotFound,
    CollectionNotFound,
    InvalidName,
    NotFound,
    StoreTimeout,
    StoreUnreachable,
)
from artifactfs.managers.base import ArtifactManager, ArtifactNames, VersionInfo
from artifactfs.threads import is_for_want_of_threads
from mount.settings import MountSettings

logger = logging.getLogger(__name__)

WAIT_S = 60.0
# How long to wait for news of a listing that is known, from a store that has answered the last time, and from another.
PATIENCE_S = 3.0
IMPATIENCE_S = 0.2
_THREADS = 4
_CACHED_LISTINGS = 20_000
_OVERVIEW = ("overview",)
_NOTHING = ArtifactNames((), ())


class Words(NamedTuple):
    """What is said of a version."""

    message: str
    metadata: dict[str, Any]


Value = TypeVar("Value")
Key = tuple[str, ...]
_UNKNOWN: Any = object()


# One for each manager: it has a thread, and knows whether the store has been asked who it is.
_memories: weakref.WeakKeyDictionary[ArtifactManager, StoreMemory] = weakref.WeakKeyDictionary()
_memories_lock = threading.Lock()


def memory_of(manager: ArtifactManager, settings: MountSettings) -> StoreMemory | None:
    """What is kept of the store for when it cannot be reached; None for a local store, which is there or is not."""
    if manager.local_root is not None:
        return None
    with _memories_lock:
        memory = _memories.get(manager)
        if memory is None:
            memory = _memories[manager] = StoreMemory(settings.cache_dir, settings.url, settings.options)
        return memory


class Listing:
    """Collections, artifacts, versions, aliases and what is said of versions, at most `refresh_s` old.

    When the store does not answer, what was known last is given; when nothing is known, StoreUnreachable is raised:
    an outage never looks like an empty directory. A name that no store can hold has no artifacts and no versions.
    """

    def __init__(self, manager: ArtifactManager, refresh_s: float, memory: StoreMemory | None = None) -> None:
        self._manager = manager
        self._memory = memory
        self._pool = ThreadPoolExecutor(_THREADS, "list")
        self._refresh_s = refresh_s
        self._lock = threading.Lock()
        self._fresh: TTLCache[Key, Any] = TTLCache(_CACHED_LISTINGS, refresh_s, timer=time.monotonic)
        self._known: LRUCache[Key, Any] = LRUCache(_CACHED_LISTINGS)
        self._under_way: dict[Key, Future[Any]] = {}
        self.reachable = memory is None or not memory.is_away
        self._gives_overview = manager.gives_overview

    def collections(self) -> frozenset[str]:
        """Every collection of the store. Raises StoreUnreachable, AccessDenied."""
        if (overview := self._overview()) is not None:
            return frozenset(overview)
        return self._get(("collections",), lambda: frozenset(self._manager.list_collection_names()))

    def artifacts(self, collection: str) -> frozenset[str]:
        """The artifacts of a collection; none when the store has no such collection."""

        def fetch() -> frozenset[str]:
            try:
                return frozenset(self._manager.list_artifacts(collection))
            except (CollectionNotFound, InvalidName):
                return frozenset()

        if (overview := self._overview()) is not None:
            return frozenset(overview.get(collection, ()))
        return self._get(("artifacts", collection), fetch)

    def versions(self, collection: str, artifact: str) -> tuple[str, ...]:
        """The live versions, oldest first; none when the store has no such artifact."""

        def fetch() -> tuple[str, ...]:
            try:
                return tuple(self._manager.list_version_names(artifact, collection))
            except (ArtifactNotFound, CollectionNotFound, InvalidName):
                return ()

        if (overview := self._overview()) is not None:
            return overview.get(collection, {}).get(artifact, _NOTHING).versions
        return self._get(("versions", collection, artifact), fetch)

    def aliases(self, collection: str, artifact: str) -> dict[str, str]:
        """Alias → version, with ``latest``. Aliases of versions that are gone are left out."""

        def fetch() -> dict[str, str]:
            try:
                return dict(self._manager.aliases(artifact, collection))
            except (ArtifactNotFound, CollectionNotFound, InvalidName):
                return {}

        versions = self.versions(collection, artifact)
        if not versions:
            return {}
        overview = self._overview()
        if overview is not None and not overview.get(collection, {}).get(artifact, _NOTHING).aliases:
            return {names.LATEST: versions[-1]}
        found = {name: to for name, to in self._get(("aliases", collection, artifact), fetch).items() if to in versions}
        found[names.LATEST] = versions[-1]
        return found

    def words(self, info: VersionInfo) -> Words:
        """The message and metadata of a version, which may have got others since it was loaded as `info`."""
        key = _words_key(info)
        with self._lock:
            is_known = key in self._known
        if not is_known and self._last_known(key) is _UNKNOWN:
            with self._lock:
                self._known.setdefault(key, _words_of(info))

        def fetch() -> dict[str, Any]:
            try:
                return _words_of(self._manager.version_info(info.artifact, info.collection, info.version))
            except NotFound:
                return _words_of(info)  # deleted meanwhile: who has it open is told what it said

        return Words(**self._get(key, fetch))

    def learn_words(self, info: VersionInfo) -> None:
        """Take in what is said of a version since a moment ago."""
        key, value = _words_key(info), _words_of(info)
        with self._lock:
            # A fetch under way may have seen the store before.
            self._under_way.pop(key, None)
            self._fresh[key] = value, time.monotonic() + self._refresh_s
            self._known[key] = value
        if self._memory is not None:
            self._memory.note_listing(key, value)

    def lifetime_s(self, collection: str | None = None, artifact: str | None = None) -> float:
        """Seconds until one of the listings that lead there is asked for again; 0 when none is known."""
        keys = (
            _OVERVIEW,
            ("collections",),
            ("artifacts", collection or ""),
            ("versions", collection or "", artifact or ""),
            ("aliases", collection or "", artifact or ""),
        )
        with self._lock:
            kept = [entry for key in keys if (entry := self._fresh.get(key)) is not None]
        return max(0.0, min((expires for _, expires in kept), default=0.0) - time.monotonic())

    def _overview(self) -> dict[str, dict[str, ArtifactNames]] | None:
        """Everything, of a store that one request lists; not tried again once it has grown beyond that."""
        if not self._gives_overview:
            return None
        if self._memory is not None and not self.reachable and self._last_known(_OVERVIEW) is _UNKNOWN:
            return None  # what is known level by level tells when the store is back, and keeps nobody waiting
        try:
            overview = self._get(_OVERVIEW, self._manager.overview)
        except StoreUnreachable:
            return None  # it may have been larger, and be known level by level
        self._gives_overview = overview is not None
        return overview

    def forget(self, collection: str, artifact: str) -> None:
        """Ask the store again for everything that a change of this artifact touches, which was made just now."""
        # So it answers: what was known before the change is no stand-in for what it is about to tell.
        self._note_reachable()
        with self._lock:
            for key in (
                _OVERVIEW,
                ("collections",),
                ("artifacts", collection),
                ("versions", collection, artifact),
                ("aliases", collection, artifact),
            ):
                self._fresh.pop(key, None)
                # An outage that comes now must not look like a version that is missing.
                self._known.pop(key, None)
                # A fetch under way may have seen the store before the change: its answer must not be kept.
                self._under_way.pop(key, None)

    def learn(self, collection: str, artifact: str) -> None:
        """List a local store, which costs nothing, as far as an artifact's versions: so they are known in an outage."""
        if self._memory is None:
            # The version is there whether it can be listed now or not.
            with contextlib.suppress(ArtifactError, OSError):
                self.collections()
                self.artifacts(collection)
                self.aliases(collection, artifact)

    def _get(self, key: Key, fetch: Callable[[], Value]) -> Value:
        with self._lock:
            # Not asked with "in" first: it may expire between the two.
            with contextlib.suppress(KeyError):
                return cast(Value, self._fresh[key][0])
            under_way = self._under_way.get(key)
            mine: Future[Any] | None = None
            if under_way is None:
                mine = self._under_way[key] = Future()
        if mine is None:
            assert under_way is not None
            return cast(Value, self._wait(key, under_way))
        if self._memory is not None and self._last_known(key) is not _UNKNOWN:
            try:
                self._pool.submit(self._fly, key, fetch, mine)
            except RuntimeError as error:
                if not is_for_want_of_threads(error):
                    raise
                self._fly(key, fetch, mine)
            return cast(Value, self._wait(key, mine))
        self._fly(key, fetch, mine)
        return cast(Value, mine.result())

    def _wait(self, key: Key, under_way: Future[Any]) -> Any:
        """The answer of a fetch under way; the last known one when that takes long. Raises StoreTimeout."""
        known = _UNKNOWN if self._memory is None else self._last_known(key)
        if known is _UNKNOWN:
            try:
                return under_way.result(WAIT_S)
            except FutureTimeout as error:
                raise StoreTimeout(f"the store took more than {WAIT_S:.0f} s to list {key}") from error
        try:
            return under_way.result(PATIENCE_S if self.reachable else IMPATIENCE_S)
        except FutureTimeout:
            with self._lock:
                # After a change that was made here meanwhile others are to ask again, and find that.
                is_current = self._under_way.get(key) is under_way
                if is_current:
                    self._fresh[key] = known, time.monotonic() + self._refresh_s
            if is_current:
                self._note_unreachable(f"it took more than {PATIENCE_S:.0f} s to list {key}")
            return known

    def _fly(self, key: Key, fetch: Callable[[], Any], mine: Future[Any]) -> None:
        """Ask the store and give the answer to all who wait for `mine`."""
        try:
            value, is_news = self._fetch(key, fetch)
        except BaseException as error:  # noqa: BLE001 - raised by those who wait
            self._end(key, mine)
            with contextlib.suppress(InvalidStateError):
                mine.set_exception(error)
            return
        current = self._end(key, mine)
        with self._lock:
            if current:
                self._fresh[key] = value, time.monotonic() + self._refresh_s
                self._known[key] = value
        # Two may have asked, where the pool had no thread when it was given the task and has one now.
        with contextlib.suppress(InvalidStateError):
            mine.set_result(value)
        if is_news and current and self._memory is not None and value is not None:
            self._memory.note_listing(key, _to_json(value))

    def _end(self, key: Key, mine: Future[Any]) -> bool:
        """Take a fetch from the table; False when a change was made here meanwhile, so that its answer may be old."""
        with self._lock:
            current = self._under_way.get(key) is mine
            if current:
                del self._under_way[key]
        return current

    def _last_known(self, key: Key) -> Any:
        with self._lock:
            if key in self._known:
                return self._known[key]
        if self._memory is None or (kept := self._memory.listing(key)) is None:
            return _UNKNOWN
        value = _from_json(key, kept)
        with self._lock:
            return self._known.setdefault(key, value)

    def _fetch(self, key: Key, fetch: Callable[[], Any]) -> tuple[Any, bool]:
        """(listing, whether the store has said so just now)."""
        try:
            value = fetch()
        except StoreUnreachable as error:
            self._note_unreachable(str(error))
            known = self._last_known(key)
            if known is _UNKNOWN:
                raise
            return known, False
        self._note_reachable()
        return value, True

    def _note_reachable(self) -> None:
        if not self.reachable:
            self.reachable = True
            logger.info("the store answers again")

    def _note_unreachable(self, why: str) -> None:
        if self.reachable:
            self.reachable = False
            logger.warning("the store does not answer, showing what was known: %s", why)

    def close(self) -> None:
        """Ask for nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _words_key(info: VersionInfo) -> Key:
    return "words", info.collection, info.artifact, info.version


def _words_of(info: VersionInfo) -> dict[str, Any]:
    return {"message": info.message, "metadata": dict(info.metadata)}


def _to_json(value: Any) -> Any:
    return sorted(value) if isinstance(value, frozenset) else value


def _from_json(key: Key, kept: Any) -> Any:
    if key == _OVERVIEW:
        return {
            collection: {
                name: ArtifactNames(tuple(versions), tuple(aliases)) for name, (versions, aliases) in of.items()
            }
            for collection, of in kept.items()
        }
    kinds = {"collections": frozenset, "artifacts": frozenset, "versions": tuple, "aliases": dict, "words": dict}
    return kinds[key[0]](kept)
