"""The URL of a version.

A version's address is ``<store url>#<collection>/<artifact>@<version>``, such as
``s3://bucket/store#models/resnet@v3``. It is read from the right, so a ``#`` in the store's own path does no harm.
Pure functions, safe from any thread; `source` and `drivers` use them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from artifactfs import names
from artifactfs.errors import InvalidName

_ADDRESS = re.compile(
    r"(?P<store>.+)#(?P<collection>[\w.:%-]+)/(?P<artifact>[\w.:%-]+)@(?P<version>[\w.%-]+)\Z", re.ASCII | re.DOTALL
)


class VersionAddress(NamedTuple):
    """Which version of which store; `version` is ``v3``, ``latest`` or an alias."""

    store_url: str
    collection: str
    artifact: str
    version: str


def format_version_url(store_url: str, collection: str, artifact: str, version: str) -> str:
    """The URL of a version. Names outside the rules (a foreign store's) are percent-encoded."""
    return f"{store_url}#{names.escape(collection)}/{names.escape(artifact)}@{names.escape(version)}"


def parse_version_url(url: str) -> VersionAddress:
    """The inverse of :func:`format_version_url`. Raises InvalidName."""
    match = _ADDRESS.match(url)
    if match is None:
        raise InvalidName(f"not the URL of a version: {url!r}; expected <store url>#collection/artifact@version")
    collection, artifact, version = (names.unescape(match[part]) for part in ("collection", "artifact", "version"))
    return VersionAddress(match["store"], collection, artifact, version)
