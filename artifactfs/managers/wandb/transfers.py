"""The bytes of files by HTTP ranges on signed URLs.

URLs are asked for in batches, a file's together with those of the files after it, growing while that proves useful, and
kept until one is refused: it has expired and is asked for again. Every request is bounded in time and tried again a few
times, apart by random pauses; connections are kept open. Nothing of a URL is ever told: it is a credential.

Threading: any thread. `_lock` guards the tables of URLs and is never held across a request; of several threads that
want URLs of the same batch one asks and the others wait for it.
"""

from __future__ import annotations

import os
import random
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple

from cachetools import LRUCache

from artifactfs.errors import AccessDenied, IntegrityError, StoreTimeout, StoreUnreachable
from artifactfs.objects.guards import counted_pools
from artifactfs.objects.replies import TooMuch, asking

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

_ATTEMPTS = 4
_FIRST_PAUSE_S = 0.1
_CONNECT_S = 10.0
_READ_S = 25.0
_ASK_S = 90.0
_CONNECTIONS = 32
_KEPT_URLS = 100_000
_KEPT_HOSTS = 32
_PASSED_BYTES = 1 << 20
_FIRST_BATCH = 32
_LARGEST_BATCH = 1024
_REFUSED = frozenset({400, 401, 403})
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})

Ask = Callable[[str, list[str]], dict[str, str]]
"""The URLs of files of a version, both as W&B calls them. Raises as the client's calls."""


class Place(NamedTuple):
    """A file in W&B: the address of its version, its path there."""

    version: str
    path: str


class Transfers:
    """See the module docstring."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._urls: LRUCache[Place, str] = LRUCache(_KEPT_URLS)
        self._asked: dict[Place, Future[None]] = {}
        self._batches: LRUCache[str, int] = LRUCache(4096)
        self._pools: LRUCache[str, PoolManager] = LRUCache(_KEPT_HOSTS)

    def read(self, place: Place, offset: int, size_bytes: int, following: Callable[[int], Sequence[str]]) -> bytes:
        """`size_bytes` of a file from `offset`, all of which must be there.

        `following` gives so many paths of files that are likely to be read next, this one's first.
        Raises IntegrityError (missing or cut short), AccessDenied, StoreUnreachable, StoreTimeout.
        """
        if size_bytes == 0:
            return b""
        refused = False
        for attempt in range(_ATTEMPTS):
            url = self._url(place, following)
            try:
                status, data = self._get(url, offset, size_bytes)
            except _Broken as error:
                lost: Exception = error
            else:
                if status in (200, 206):
                    return self._whole(place, data, size_bytes)
                if status in (404, 410, 416):
                    raise IntegrityError(f"{_label(place)}: its bytes are missing from W&B (HTTP {status})")
                if status in _REFUSED and not refused:
                    refused = True
                    self._forget(place, url)
                    continue
                if status in _REFUSED:
                    raise AccessDenied(f"{_label(place)}: W&B's storage refused it (HTTP {status})")
                if status not in _TRY_AGAIN:
                    raise StoreUnreachable(f"{_label(place)}: W&B's storage answered HTTP {status}")
                lost = StoreUnreachable(f"HTTP {status}")
            if attempt + 1 < _ATTEMPTS:
                time.sleep(_FIRST_PAUSE_S * 3**attempt * random.uniform(0.5, 1.0))
        kind = StoreTimeout if isinstance(lost, _Slow) else StoreUnreachable
        raise kind(f"{_label(place)}: W&B's storage did not give it, tried {_ATTEMPTS} times: {lost}") from lost

    @staticmethod
    def _whole(place: Place, data: bytes, size_bytes: int) -> bytes:
        if len(data) != size_bytes:
            raise IntegrityError(f"{_label(place)} is cut short in W&B's storage")
        return data

    # -- URLs ---------------------------------------------------------------------------------------------------------

    def _url(self, place: Place, following: Callable[[int], Sequence[str]]) -> str:
        with self._lock:
            known = self._urls.get(place)
            if known is not None:
                return known
            asked = self._asked.get(place)
            mine: Future[None] | None = None
            if asked is None:
                size = self._batches.get(place.version, _FIRST_BATCH)
                self._batches[place.version] = min(_LARGEST_BATCH, size * 4)
                mine, wanted = Future(), self._missing(place, following(size))
                self._asked.update(dict.fromkeys(wanted, mine))
        if asked is not None:
            # Should the one that asks have failed, this one asks for itself.
            asked.exception(_ASK_S)
            with self._lock:
                known = self._urls.get(place)
            return known if known is not None else self._url(place, lambda _: [place.path])
        assert mine is not None
        found: dict[str, str] = {}
        try:
            found = self._ask(place.version, [one.path for one in wanted])
        finally:
            with self._lock:
                for one in wanted:
                    self._asked.pop(one, None)
                self._urls.update({Place(place.version, path): url for path, url in found.items()})
            mine.set_result(None)
        if place.path not in found:
            raise IntegrityError(f"{_label(place)}: W&B lists it and has no bytes for it")
        return found[place.path]

    def _missing(self, place: Place, paths: Sequence[str]) -> list[Place]:
        """Those without a URL, `place` first. Called with the lock held."""
        more = (Place(place.version, path) for path in paths)
        return [place, *(one for one in more if one != place and one not in self._urls and one not in self._asked)]

    def _forget(self, place: Place, url: str) -> None:
        """A URL was refused: those of the same batch have most likely expired with it."""
        with self._lock:
            if self._urls.get(place) != url:
                return
            for one in [one for one in self._urls if one.version == place.version]:
                del self._urls[one]

    # -- HTTP ---------------------------------------------------------------------------------------------------------

    def _get(self, url: str, offset: int, size_bytes: int) -> tuple[int, bytes]:
        """Status and body. Raises _Broken, without the URL in its text."""
        import urllib3

        headers = {"Range": f"bytes={offset}-{offset + size_bytes - 1}", "Accept-Encoding": "identity"}
        try:
            with asking(offset + size_bytes):
                answer = self._pool(url).request("GET", url, headers=headers, preload_content=False, retries=False)
            try:
                data = _content(answer, offset, size_bytes)
            finally:
                answer.release_conn()
        except (urllib3.exceptions.TimeoutError, TimeoutError):
            raise _Slow("it took too long") from None
        except (urllib3.exceptions.HTTPError, OSError, TooMuch) as error:
            raise _Broken(type(error).__name__) from None
        return answer.status, data

    def _pool(self, url: str) -> PoolManager:
        """The connections for a URL: direct, or through the proxy that the environment names for its host."""
        parts = urllib.parse.urlsplit(url)
        host = f"{parts.scheme}://{parts.netloc}"
        with self._lock:
            pool = self._pools.get(host)
            if pool is None:
                pool = self._pools[host] = _new_pool(parts.scheme, parts.hostname or "")
            return pool


def _content(answer: BaseHTTPResponse, offset: int, size_bytes: int) -> bytes:
    """The bytes of the file that were asked for; none of an error's text, which is of no use."""
    if answer.status == 206:
        data = answer.read(size_bytes)
        if answer.read(1):
            answer.close()
        return data
    data = b""
    if answer.status == 200:
        # A server that knows no ranges sends all of it.
        while offset and (passed := answer.read(min(offset, _PASSED_BYTES))):
            offset -= len(passed)
        data = answer.read(size_bytes) if not offset else b""
    answer.close()
    return data


def _new_pool(scheme: str, host: str) -> PoolManager:
    import certifi
    import urllib3

    options: dict[str, Any] = {
        "maxsize": _CONNECTIONS,
        "timeout": urllib3.Timeout(connect=_CONNECT_S, read=_READ_S),
        "ca_certs": os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or certifi.where(),
    }
    proxy = urllib.request.getproxies().get(scheme, "")
    if proxy and not urllib.request.proxy_bypass(host):
        manager: PoolManager = urllib3.ProxyManager(proxy, **options)
    else:
        manager = urllib3.PoolManager(**options)
    manager.pool_classes_by_scheme = counted_pools(manager.pool_classes_by_scheme)
    return manager


class _Broken(Exception):
    """The connection failed before the answer was there."""


class _Slow(_Broken):
    """It did not come in time."""


def _label(place: Place) -> str:
    return f"{place.path} of {place.version}"
