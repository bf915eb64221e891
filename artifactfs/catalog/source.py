"""Source: the description of one version, or of any data a driver can read.

`catalog` files sources under identifiers and versions; managers make them with :func:`source_of`. A Source holds what
it was given, credentials included; they are left out where one is shown or written. No locking: see the package.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from artifactfs.catalog.address import format_version_url
from artifactfs.redaction import without_secrets, without_url_secrets

if TYPE_CHECKING:
    from artifactfs.managers.base import VersionInfo

DRIVER_NAME = "artifactfs"
"""The driver that reads a version through its manager."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(repr=False)
class Source:
    """How to read some data: the name of a driver, the arguments it takes, and metadata about the data."""

    driver_name: str
    driver_kwargs: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # squirrel's signature allows None, which its YAML form cannot carry; an empty dict says the same.
        self.driver_kwargs = self.driver_kwargs or {}
        self.metadata = self.metadata or {}

    def __repr__(self) -> str:
        return json.dumps(self._shown(), indent=2, default=str)

    def _shown(self) -> dict[str, Any]:
        return {
            "driver_name": self.driver_name,
            "driver_kwargs": without_option_secrets(self.driver_kwargs),
            "metadata": self.metadata,
        }


def without_option_secrets(driver_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """`driver_kwargs` with the secrets left out of every ``storage_options`` in it."""
    clean: dict[str, Any] = {}
    for key, value in driver_kwargs.items():
        if isinstance(value, Mapping):
            clean[key] = without_secrets(value) if key == "storage_options" else without_option_secrets(value)
        else:
            clean[key] = value
    return clean


def catalog_key(info: VersionInfo) -> tuple[str, int]:
    """Where a catalog files a version: ``("collection/artifact", number + 1)``, for ``catalog[catalog_key(info)]``."""
    return f"{info.collection}/{info.artifact}", info.number + 1


def source_of(
    store_url: str,
    info: VersionInfo,
    storage_options: Mapping[str, Any] | None = None,
    aliases: Iterable[str] = (),
) -> Source:
    """Describe a version of the store at `store_url`.

    Credentials in the URL and in `storage_options` are left out (`redaction.without_secrets`): whoever opens the source
    passes their own to ``get_driver(storage_options=…)`` or has them in the environment.
    """
    url = format_version_url(without_url_secrets(store_url), info.collection, info.artifact, info.version)
    return Source(
        driver_name=DRIVER_NAME,
        driver_kwargs={"url": url, "storage_options": without_secrets(storage_options or {})},
        metadata={
            "collection": info.collection,
            "artifact": info.artifact,
            "version": info.version,
            "created": (_EPOCH + timedelta(microseconds=info.created_ns // 1000)).isoformat(),
            "size_bytes": info.size_bytes,
            "file_count": info.file_count,
            "digest": info.digest,
            "aliases": sorted(aliases),
            "message": info.message,
        },
    )
