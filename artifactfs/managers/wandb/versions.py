"""What W&B tells of a version, as artifactfs speaks of it; and how names are shown. Pure functions.

Metadata that artifactfs writes lies under one key, `KEY`: the id of the commit, and the size of the side file, which is
no part of the version here.
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Mapping
from typing import Any

from artifactfs import names
from artifactfs.errors import InvalidName
from artifactfs.managers.base import VersionInfo

KEY = "artifactfs"
_COMMIT_ID = "commit_id"
_SIDE_BYTES = "side_bytes"


def metadata_of(metadata: Mapping[str, Any], commit_id: str, side_bytes: int) -> dict[str, Any]:
    """What is given to W&B for a commit."""
    return {**metadata, KEY: {_COMMIT_ID: commit_id, _SIDE_BYTES: side_bytes}}


def info_of(told: Mapping[str, Any], collection: str, artifact: str) -> VersionInfo:
    """What a listing knows of a version; `told` is the client's answer."""
    metadata = dict(told["metadata"] or {})
    ours = metadata.pop(KEY, None)
    side_bytes = ours.get(_SIDE_BYTES) if isinstance(ours, dict) else None
    commit_id = ours.get(_COMMIT_ID) if isinstance(ours, dict) else None
    hidden = isinstance(side_bytes, int) and 0 < side_bytes <= told["size_bytes"] and told["file_count"] > 0
    return VersionInfo(
        collection,
        artifact,
        told["version"],
        time_ns(told["created"]),
        told["size_bytes"] - side_bytes if hidden and side_bytes else told["size_bytes"],
        told["file_count"] - 1 if hidden else told["file_count"],
        message=told["description"],
        metadata=metadata,
        commit_id=commit_id if isinstance(commit_id, str) else None,
    )


def time_ns(text: str) -> int:
    """Nanoseconds since the epoch of ``2026-01-31T12:00:00.5Z``; 0 for what is no such time."""
    head, _, fraction = text.rstrip("Z").partition(".")
    try:
        seconds = calendar.timegm(time.strptime(head, "%Y-%m-%dT%H:%M:%S"))
        return seconds * 1_000_000_000 + (int(fraction[:9].ljust(9, "0")) if fraction else 0)
    except ValueError:
        return 0


def is_own(type_name: str) -> bool:
    """Tell whether W&B keeps that artifact type for itself, so that nothing can be logged to it."""
    return type_name == "job" or type_name.startswith("wandb-")


def shown_collection(type_name: str) -> str:
    """How listings show an artifact type."""
    return type_name if names.is_collection(type_name) else names.escape(type_name)


def shown_artifact(name: str) -> str:
    """How listings show an artifact's name."""
    return name if names.is_artifact(name) else names.escape(name)


def shown_alias(alias: str) -> str:
    """How listings show an alias; what the drive needs for itself, such as ``staging``, is percent-encoded."""
    if names.is_alias(alias):
        return alias
    shown = names.escape(alias)
    return shown if shown != alias else f"%{ord(alias[0]):02X}{alias[1:]}"


def stored_name(shown: str) -> str:
    """What W&B calls it. Raises InvalidName for what W&B has no way to hold."""
    stored = names.unescape(shown)
    if not stored or len(stored) > 128 or any(character in stored for character in "/:\0\n") or stored in (".", ".."):
        raise InvalidName(f"{shown!r} is no name that W&B can hold")
    return stored


def stored_version(shown: str) -> str | None:
    """What W&B calls a version or an alias; None for what can be neither."""
    if names.is_version(shown) or names.is_alias(shown):
        return shown
    return names.unescape(shown) if "%" in shown else None


def check_new(collection: str, artifact: str) -> None:
    """Raises InvalidName unless something can be logged there."""
    names.check_collection(collection)
    names.check_artifact(artifact)
    if ":" in collection:
        raise InvalidName(f"invalid collection name {collection!r}: an artifact type of W&B has no ':'")
    if is_own(collection):
        raise InvalidName(f"{collection!r} is an artifact type that W&B keeps for itself: use another collection")
