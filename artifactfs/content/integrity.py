"""Checks bytes against the digest that names them. Pure, safe from any thread."""

from __future__ import annotations

import hashlib
from typing import Any

from blake3 import blake3

from artifactfs.errors import FormatError, IntegrityError


def hasher(algorithm: str) -> Any:
    """A running digest; `algorithm` is ``blake3`` or ``md5``. Raises FormatError for another."""
    if algorithm == "blake3":
        return blake3()
    if algorithm == "md5":
        return hashlib.md5(usedforsecurity=False)
    raise FormatError(f"unknown digest algorithm {algorithm!r}: upgrade artifactfs")


def digest_of(data: bytes | bytearray, algorithm: str) -> str:
    """The hex digest of `data`; `algorithm` as in `hasher`. Raises FormatError."""
    digest = hasher(algorithm)
    digest.update(data)
    return str(digest.hexdigest())


def check_digest(data: bytes | bytearray, digest: str, algorithm: str, label: str) -> None:
    """Raises IntegrityError, naming `label`, when `data` has another digest."""
    found = digest_of(data, algorithm)
    if found != digest:
        raise IntegrityError(f"{label} is damaged: its digest is {found[:16]}…, should be {digest[:16]}…")
