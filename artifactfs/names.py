"""What a collection, artifact, version, alias and file path may be called.

Pure functions, no state, safe from any thread. Every name that enters a store passes through here; names a foreign
store holds and these rules forbid are shown percent-encoded by :func:`escape` and found again by :func:`unescape`.
"""

from __future__ import annotations

import os
import re

from artifactfs.errors import InvalidName

MAX_NAME_BYTES = 255
"""NAME_MAX of Linux: what a part of a path may have."""
LATEST = "latest"
STAGING = "staging"
PENDING_PREFIX = "pending"

COLLECTION_RULE = "1 to 128 of the characters a-z A-Z 0-9 _ : -"
ARTIFACT_RULE = "1 to 128 of the characters a-z A-Z 0-9 _ . -, other than '.' and '..'"
ALIAS_RULE = (
    f"{ARTIFACT_RULE}; not v followed by digits, not {LATEST!r} or {STAGING!r}, not starting with {PENDING_PREFIX!r}"
)

_COLLECTION = re.compile(r"[a-zA-Z0-9_:-]{1,128}\Z")
_ARTIFACT = re.compile(r"[a-zA-Z0-9_.-]{1,128}\Z")
_VERSION = re.compile(r"v(0|[1-9][0-9]{0,17})\Z")
_LOOKS_LIKE_VERSION = re.compile(r"v[0-9]+\Z")
_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-:")


def is_collection(name: str) -> bool:
    """Tell whether `name` may be a collection."""
    return _COLLECTION.match(name) is not None


def is_artifact(name: str) -> bool:
    """Tell whether `name` may be an artifact."""
    return _ARTIFACT.match(name) is not None and name not in (".", "..")


def is_version(name: str) -> bool:
    """Tell whether `name` is a version such as ``v0`` or ``v17``."""
    return _VERSION.match(name) is not None


def is_alias(name: str) -> bool:
    """Tell whether `name` may be an alias that a user sets."""
    return (
        is_artifact(name)
        and _LOOKS_LIKE_VERSION.match(name) is None
        and name not in (LATEST, STAGING)
        and not name.startswith(PENDING_PREFIX)
    )


def check_collection(name: str) -> str:
    """Return `name`; raises InvalidName when it may not be a collection."""
    if not is_collection(name):
        raise InvalidName(f"invalid collection name {name!r}: use {COLLECTION_RULE}")
    return name


def check_artifact(name: str) -> str:
    """Return `name`; raises InvalidName when it may not be an artifact."""
    if not is_artifact(name):
        raise InvalidName(f"invalid artifact name {name!r}: use {ARTIFACT_RULE}")
    return name


def check_version(name: str) -> str:
    """Return `name`; raises InvalidName when it is not a version such as ``v3``."""
    if not is_version(name):
        raise InvalidName(f"invalid version {name!r}: use v0, v1, v2, …")
    return name


def check_alias(name: str) -> str:
    """Return `name`; raises InvalidName when it may not be an alias."""
    if not is_alias(name):
        raise InvalidName(f"invalid alias {name!r}: use {ALIAS_RULE}")
    return name


def check_name(name: str) -> str:
    """Return `name`, that of something in a directory; raises InvalidName when no directory can hold it.

    Not every caller has a kernel behind it that refuses such names.
    """
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise InvalidName(f"invalid name {name!r}: must not be empty, '.' or '..', nor have '/' or NUL in it")
    return name


def is_clean_path(path: str) -> bool:
    """Tell whether a path leads to a place below: it is relative, without empty parts, '.', '..' and NUL."""
    return "\0" not in path and not any(part in ("", ".", "..") for part in path.split("/"))


def check_path(path: str) -> str:
    """Return `path`, of a file in a version; raises InvalidName unless it is clean and no part of it is too long."""
    if not is_clean_path(path):
        raise InvalidName(f"invalid path {path!r}: must be relative, without empty parts, '.', '..' or NUL")
    if len(path) > MAX_NAME_BYTES // 4 and any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in path.split("/")):
        raise InvalidName(f"invalid path {path[:MAX_NAME_BYTES]!r}…: no part may have more than {MAX_NAME_BYTES} bytes")
    return path


def version_number(name: str) -> int:
    """The number of a version: 3 for ``v3``. Raises InvalidName."""
    return int(check_version(name)[1:])


def version_name(number: int) -> str:
    """The version with that number: ``v3`` for 3."""
    return f"v{number}"


def escape(name: str) -> str:
    """Show a foreign name with every character outside ``[A-Za-z0-9_.:-]`` percent-encoded (UTF-8)."""
    raw = name.encode("utf-8", "surrogateescape")
    shown = "".join(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in raw)
    return shown.replace(".", "%2E") if shown in (".", "..") else shown


def unescape(shown: str) -> str:
    """The inverse of :func:`escape`."""
    raw = re.sub(rb"%([0-9A-Fa-f]{2})", lambda m: bytes([int(m[1], 16)]), shown.encode("utf-8", "surrogateescape"))
    return raw.decode("utf-8", "surrogateescape")
