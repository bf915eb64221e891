"""What the store holds, as the drive sees it: listings kept for a few seconds, and the last known ones for outages.

Neighbours: asks an `ArtifactManager`, is asked by the vfs. Threading: safe from any thread. `_lock` guards the caches
and the table of fetches under way and is never held across a backend call; of several threads that want the same
listing one fetches it and the others wait for its answer, at most `WAIT_S`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar, cast

from cachetools import LRUCache, TTLCache

from artifactfs import names
from artifactfs.errors import ArtifactNotFound, CollectionNotFound, InvalidName, StoreTimeout, StoreUnreachable
from artifactfs.managers.base import ArtifactManager

logger = logging.getLogger(__name__)

WAIT_S = 60.0
_CACHED_LISTINGS = 20_000

Value = TypeVar("Value")


class Listing:
    """Collections, artifacts, versions and aliases of a store, at most `refresh_s` old.

    When the store does not answer, what was known last is given; when nothing is known, StoreUnreachable is raised:
    an outage never looks like an empty directory. A name that no store can hold has no artifacts and no versions.
    """

    def __init__(self, manager: ArtifactManager, refresh_s: float) -> None:
        self._manager = manager
        self._lock = threading.Lock()
        self._fresh: TTLCache[Hashable, Any] = TTLCache(_CACHED_LISTINGS, refresh_s, timer=time.monotonic)
        self._known: LRUCache[Hashable, Any] = LRUCache(_CACHED_LISTINGS)
        self._under_way: dict[Hashable, Future[Any]] = {}
        self.reachable = True

    def collections(self) -> frozenset[str]:
        """Every collection of the store. Raises StoreUnreachable, AccessDenied."""
        return self._get(("collections",), lambda: frozenset(self._manager.list_collection_names()))

    def artifacts(self, collection: str) -> frozenset[str]:
        """The artifacts of a collection; none when the store has no such collection."""

        def fetch() -> frozenset[str]:
            try:
                return frozenset(self._manager.list_artifacts(collection))
            except (CollectionNotFound, InvalidName):
                return frozenset()

        return self._get(("artifacts", collection), fetch)

    def versions(self, collection: str, artifact: str) -> tuple[str, ...]:
        """The live versions, oldest first; none when the store has no such artifact."""

        def fetch() -> tuple[str, ...]:
            try:
                return tuple(self._manager.list_version_names(artifact, collection))
            except (ArtifactNotFound, CollectionNotFound, InvalidName):
                return ()

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
        found = {name: to for name, to in self._get(("aliases", collection, artifact), fetch).items() if to in versions}
        found[names.LATEST] = versions[-1]
        return found

    def forget(self, collection: str, artifact: str) -> None:
        """Ask the store again for everything that a change of this artifact touches."""
        with self._lock:
            for key in (
                ("collections",),
                ("artifacts", collection),
                ("versions", collection, artifact),
                ("aliases", collection, artifact),
            ):
                self._fresh.pop(key, None)
                # A fetch under way may have seen the store before the change: its answer must not be kept.
                self._under_way.pop(key, None)

    def _get(self, key: Hashable, fetch: Callable[[], Value]) -> Value:
        with self._lock:
            # Not asked with "in" first: it may expire between the two.
            with contextlib.suppress(KeyError):
                return cast(Value, self._fresh[key])
            under_way = self._under_way.get(key)
            mine: Future[Any] | None = None
            if under_way is None:
                mine = self._under_way[key] = Future()
        if mine is None:
            assert under_way is not None
            try:
                return cast(Value, under_way.result(WAIT_S))
            except FutureTimeout as error:
                raise StoreTimeout(f"the store took more than {WAIT_S:.0f} s to list {key}") from error
        try:
            value = self._fetch(key, fetch)
        except BaseException as error:
            mine.set_exception(error)
            raise
        finally:
            with self._lock:
                current = self._under_way.get(key) is mine
                if current:
                    del self._under_way[key]
        with self._lock:
            if current:
                self._fresh[key] = value
            self._known[key] = value
        mine.set_result(value)
        return value

    def _fetch(self, key: Hashable, fetch: Callable[[], Value]) -> Value:
        try:
            value = fetch()
        except StoreUnreachable as error:
            if self.reachable:
                self.reachable = False
                logger.warning("the store does not answer, showing what was known: %s", error)
            with self._lock:
                if key not in self._known:
                    raise
                return cast(Value, self._known[key])
        if not self.reachable:
            self.reachable = True
            logger.info("the store answers again")
        return value
