"""The URL of a version, and what may not appear in it.

A version's address is ``<store url>#<collection>/<artifact>@<version>``, such as
``s3://bucket/store#models/resnet@v3``. It is read from the right, so a ``#`` in the store's own path does no harm.
Pure functions, safe from any thread; `source` and `drivers` use them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from artifactfs import names
from artifactfs.errors import InvalidName

_ADDRESS = re.compile(
    r"(?P<store>.+)#(?P<collection>[\w.:%-]+)/(?P<artifact>[\w.:%-]+)@(?P<version>[\w.%-]+)\Z", re.ASCII | re.DOTALL
)
_SECRET_KEY = re.compile(
    r"secret|token|passw|passphrase|pwd|key|credential|auth|signature|cookie|private|connection_string|\bsas\b|\bsig\b",
    re.IGNORECASE,
)
# github://org:repo@ref is an address, not a login.
_PASSWORD_IN_URL = re.compile(r"(?<!github)://([^/:@?#\s]*):[^/\s]*@")


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


def without_url_secrets(url: str) -> str:
    """`url` without a password before the host and without query parameters that are named like secrets."""
    url = _PASSWORD_IN_URL.sub(r"://\1@", url)
    if "?" not in url:
        return url
    head, _, query = url.partition("?")
    query, hash_mark, fragment = query.partition("#")
    kept = [part for part in query.split("&") if not _SECRET_KEY.search(part.partition("=")[0])]
    return head + ("?" if kept else "") + "&".join(kept) + hash_mark + fragment


def without_secrets(options: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy of storage options that may be written to a file.

    Left out at every depth: options whose name tells of a secret (``key``, ``secret``, ``token``, ``password`` …), and
    values that are live objects (sessions, credential providers), which hold secrets and could not be written anyway.
    """
    return {
        str(key): _value_without_secrets(value)
        for key, value in options.items()
        if not _SECRET_KEY.search(str(key)) and _is_writable(value)
    }


def _is_writable(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, list, tuple, Mapping))


def _value_without_secrets(value: Any) -> Any:
    if isinstance(value, str):
        return without_url_secrets(value)
    if isinstance(value, Mapping):
        return without_secrets(value)
    if isinstance(value, (list, tuple)):
        return [_value_without_secrets(item) for item in value if _is_writable(item)]
    return value
