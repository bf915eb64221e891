"""Parts of a store's URL, and the check that it is one. Pure functions, safe from any thread.

``plain+`` and ``squirrel+`` before a URL ask for a layout and for a library: see `registry`.
"""

from __future__ import annotations

import difflib
import os
import re

from artifactfs.errors import ArgumentError, NotFound, UnknownScheme
from artifactfs.redaction import without_url_secrets

PLAIN = "plain+"
SQUIRREL = "squirrel+"
WANDB = "wandb"
LOCAL = frozenset({"", "file", "local"})
"""The schemes of a local path."""
# Of these the scheme alone names a place.
_WHOLE = frozenset({"memory", WANDB})
# Words that only a URL begins with, and any other before ":/".
_ONE_SLASH = re.compile(
    r"(s3a?|gs|gcs|az|abfss?|adl|hdfs|webhdfs|oss|oci|hf|file|local|sftp|ssh|webdavs?|davs?|https?|memory|wandb"
    r"|[a-z][a-z0-9+.-]+(?=:/)):(/?[^/].*)\Z",
    re.IGNORECASE,
)


def scheme_of(url: str) -> str:
    """``s3`` for ``s3://bucket``, '' for a path."""
    scheme, separator, _ = url.partition("://")
    return scheme.lower() if separator else ""


def check_url(url: str) -> None:
    """Raises ArgumentError for a URL that names no place, UnknownScheme for one that was mistyped."""
    place = place_of(url)
    scheme, separator, path = place.rpartition("://")
    if not path.strip() and scheme.lower() not in _WHOLE:
        raise ArgumentError("url names no store: use a path, such as ./store, or a URL, such as s3://bucket/store")
    mistyped = None if separator else _ONE_SLASH.match(place)
    if mistyped is not None and not os.path.exists(place):
        scheme, rest = mistyped[1].lower(), mistyped[2].lstrip("/")
        meant = without_url_secrets(f"{scheme}://{'/' if scheme in LOCAL else ''}{rest}")
        raise UnknownScheme(f"url looks mistyped: write {meant}, or put ./ before a path with a colon in it")


def check_new_place(url: str) -> None:
    """Raises NotFound for a local path at which no store can be meant: neither it nor its parent is there."""
    path = local_path(url)
    if path is None or os.path.lexists(path) or os.path.lexists(os.path.dirname(path)):
        return
    above, missing = os.path.split(os.path.dirname(path))
    while not os.path.lexists(above):
        above, missing = os.path.split(above)
    try:
        beside = os.listdir(above)
    except OSError:
        beside = []
    alike = difflib.get_close_matches(missing, beside, 1)
    meant = f"did you mean {os.path.join(above, alike[0])}, or " if alike else ""
    raise NotFound(
        f"no store at {path}, and no directory {os.path.dirname(path)} to make one in: {meant}make it first (mkdir -p)"
    )


def local_path(url: str) -> str | None:
    """The absolute path of a local store; None for other stores."""
    place = place_of(url)
    scheme, separator, rest = place.partition("://")
    if separator and scheme.lower() in LOCAL:
        return os.path.abspath(rest)
    return None if separator else os.path.abspath(os.path.expanduser(place))


def shown_url(url: str) -> str:
    """The URL as messages show it: without passwords, the path of a local store absolute."""
    path = local_path(url)
    return without_url_secrets(url) if path is None or place_of(url) != url or "://" in url else path


def place_of(url: str) -> str:
    """The URL without what asks for a layout or a library."""
    return url.removeprefix(PLAIN).removeprefix(SQUIRREL)
