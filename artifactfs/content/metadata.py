"""What is known of a store that is not local, kept on disk for when it cannot be reached: listings and versions.

::

    <cache>/stores/<hash of URL and options>/store.json        Identity
                                            /<hash>.listing    one listing, replaced when it has changed
                                            /<hash>.v          VersionInfo and manifest of one version

Every file is written aside and renamed, and begins with the BLAKE3 of the rest: one that is torn, after a loss of power
say, counts as not there. Whatever the disk refuses costs only the knowledge, so it is logged and not raised.

Neighbours: the mount's `listing` and `finder` note here what the store answers, and ask here when it does not. The
cache bounds the versions with the bytes (`content.cache`). Threading: safe from any thread; `_lock` guards the
digests of what was written last and is a leaf. Manifests are written by a thread of its own, because encoding one of a
million files takes a second.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3
from cachetools import LRUCache

from artifactfs.content.cache import VERSION_SUFFIX
from artifactfs.errors import FormatError, StoreUnreachable
from artifactfs.managers.base import ArtifactManager, VersionInfo
from artifactfs.manifest import Manifest
from artifactfs.redaction import without_secrets, without_url_secrets
from artifactfs.threads import is_for_want_of_threads

logger = logging.getLogger(__name__)

_LISTING_SUFFIX = ".listing"
_IDENTITY = "store.json"
_DIGEST_BYTES = 32
_REMEMBERED_LISTINGS = 20_000


class Identity(msgspec.Struct, frozen=True):
    """Which store it is, and when it was made; None where a backend does not tell."""

    id: str | None
    created_ns: int | None


class _KnownVersion(msgspec.Struct, frozen=True):
    info: VersionInfo
    manifest: bytes


def place_of(url: str, options: Mapping[str, Any]) -> str:
    """A name, of 32 hex digits, for the store at `url` with the options that lead there (an endpoint).

    What the store says of itself has no part in it, because another can say the same.
    """
    place = json.dumps([without_url_secrets(url).rstrip("/"), without_secrets(options)], sort_keys=True, default=str)
    return blake3(place.encode("utf-8", "surrogateescape")).hexdigest()[:32]


class StoreMemory:
    """See the module docstring. The directory is made at the first write."""

    def __init__(self, cache_dir: Path, url: str, options: Mapping[str, Any]) -> None:
        """The memory of the store at `url`, with the options that lead there (an endpoint), below a cache directory."""
        self._directory = os.fspath(cache_dir / "stores" / place_of(url, options))
        self._lock = threading.Lock()
        self._written: LRUCache[str, bytes] = LRUCache(_REMEMBERED_LISTINGS)
        self._identity: Identity | None = None
        self.is_away = False
        """Tell whether the store was known and did not answer when it was asked who it is."""
        self._writer = ThreadPoolExecutor(1, "remember")

    def close(self) -> None:
        """Wait until everything is written."""
        self._writer.shutdown()

    # -- the store --------------------------------------------------------------------------------------------------

    def identity(self, manager: ArtifactManager) -> Identity:
        """Which store the manager has, as it says or, when it cannot be reached, as it said before.

        What was known of another store in the same place is forgotten. Raises StoreUnreachable, AccessDenied,
        FormatError.
        """
        if self._identity is not None:
            return self._identity
        known: Identity | None = self._read(_IDENTITY, Identity)
        try:
            found = Identity(manager.store_id, manager.created_ns)
        except StoreUnreachable:
            if known is None:
                raise
            self._identity = known
            self.is_away = True
            return known
        if known is not None and known.id != found.id:
            shutil.rmtree(self._directory, ignore_errors=True)
        if known != found:
            self._write(_IDENTITY, found)
        self._identity = found
        return found

    def recall(self) -> bool:
        """Take the store, which does not answer, for the one it was before; False when it was never reached."""
        self._identity = self._read(_IDENTITY, Identity)
        self.is_away = self._identity is not None
        return self.is_away

    # -- listings ---------------------------------------------------------------------------------------------------

    def listing(self, key: tuple[str, ...]) -> Any:
        """What was noted under `key` last, as JSON gives it back; None when nothing was."""
        found = self._read(_name(key) + _LISTING_SUFFIX, list[Any])
        return found[1] if found and found[0] == list(key) else None

    def note_listing(self, key: tuple[str, ...], value: Any) -> None:
        """Keep a listing (lists, strings and mappings of strings), in place of the one before."""
        self._write(_name(key) + _LISTING_SUFFIX, [list(key), value])

    # -- versions ---------------------------------------------------------------------------------------------------

    def version(self, collection: str, artifact: str, version: str) -> tuple[VersionInfo, Manifest] | None:
        """What was noted of a version, None when nothing was."""
        found = self._read(_version_name(collection, artifact, version), _KnownVersion)
        if found is None or (found.info.collection, found.info.artifact, found.info.version) != (
            collection,
            artifact,
            version,
        ):
            return None
        try:
            return found.info, Manifest.decode(found.manifest)
        except FormatError as error:
            logger.info("cannot use what was kept of %s/%s@%s: %s", collection, artifact, version, error)
            return None

    def note_version(self, info: VersionInfo, manifest: Manifest) -> None:
        """Keep a version, which never changes; written a little later."""
        name = _version_name(info.collection, info.artifact, info.version)
        try:
            self._writer.submit(lambda: self._write(name, _KnownVersion(info, manifest.encode())))
        except RuntimeError as error:
            if not is_for_want_of_threads(error):
                raise
            logger.info("not kept yet of %s/%s@%s: %s", info.collection, info.artifact, info.version, error)

    # -- files ------------------------------------------------------------------------------------------------------

    def _read(self, name: str, kind: Any) -> Any:
        path = f"{self._directory}/{name}"
        try:
            with open(path, "rb") as file:
                raw = file.read()
            if name.endswith(VERSION_SUFFIX):
                os.utime(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.info("cannot read what is known of the store: %s", error)
            return None
        if blake3(raw[_DIGEST_BYTES:]).digest() != raw[:_DIGEST_BYTES]:
            return None
        try:
            return msgspec.msgpack.decode(raw[_DIGEST_BYTES:], type=kind)
        except msgspec.DecodeError as error:
            logger.info("cannot use %s: %s", path, error)
            return None

    def _write(self, name: str, value: Any) -> None:
        try:
            body = msgspec.msgpack.encode(value)
        except (TypeError, ValueError) as error:
            # Metadata of another store may be anything.
            logger.info("cannot keep %s: %s", name, error)
            return
        digest = blake3(body).digest()
        with self._lock:
            if self._written.get(name) == digest:
                return
        aside = f"{self._directory}/.{name}-{uuid.uuid4().hex}"
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(digest)
                file.write(body)
            os.replace(aside, f"{self._directory}/{name}")
        except OSError as error:
            logger.info("cannot keep what is known of the store: %s", error)
            return
        with self._lock:
            self._written[name] = digest


def _name(key: tuple[str, ...]) -> str:
    return blake3("\0".join(key).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _version_name(collection: str, artifact: str, version: str) -> str:
    return _name((collection, artifact, version)) + VERSION_SUFFIX
