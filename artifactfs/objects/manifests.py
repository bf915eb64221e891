"""The manifests of a store in the object layout, decoded and kept by the names of their objects.

The manager reads versions here and `objects.commit` looks for what need not be sent again. Threading: any thread; the
lock guards the cache and is not held across I/O.
"""

from __future__ import annotations

import threading

from blake3 import blake3
from cachetools import LRUCache

from artifactfs.errors import FormatError, IntegrityError, NotFound
from artifactfs.manifest import Manifest
from artifactfs.objects import layout
from artifactfs.objects.store import ObjectStore

_CACHE_BYTES = 256 << 20


class Manifests:
    """The manifests of one store; `url` is how messages name it."""

    def __init__(self, store: ObjectStore, url: str) -> None:
        self._store = store
        self._url = url
        self._lock = threading.Lock()
        self._cached: LRUCache[str, Manifest] = LRUCache(_CACHE_BYTES, getsizeof=lambda manifest: manifest.memory_bytes)

    def load(self, name: str) -> Manifest:
        """The manifest with that object name.

        Raises IntegrityError, FormatError, StoreUnreachable, AccessDenied.
        """
        with self._lock:
            if (cached := self._cached.get(name)) is not None:
                return cached
        try:
            raw = self._store.get(layout.object_key(name))
        except NotFound as error:
            raise IntegrityError(f"manifest {name} is missing from {self._url}") from error
        if blake3(raw).hexdigest() != name:
            raise IntegrityError(f"manifest {name} in {self._url} does not match its digest")
        manifest = Manifest.decode(raw)
        if manifest.lacks_digests():
            raise FormatError(f"hostile manifest {name}: it has a file without a digest")
        self.keep(name, manifest)
        return manifest

    def keep(self, name: str, manifest: Manifest) -> None:
        """Remember a manifest that was just read or stored, unless it is larger than the whole cache."""
        with self._lock:
            if manifest.memory_bytes <= self._cached.maxsize:
                self._cached[name] = manifest
