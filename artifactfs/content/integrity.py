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


def raw_digest_of(data: bytes | bytearray | memoryview, algorithm: str) -> bytes:
    """The digest of `data`; `algorithm` as in `hasher`. Raises FormatError."""
    if algorithm == "blake3":
        # In one call: for a small file two more cost half of what hashing does.
        return blake3(data).digest()
    running = hasher(algorithm)
    running.update(data)
    digest: bytes = running.digest()
    return digest


def digest_of(data: bytes | bytearray | memoryview, algorithm: str) -> str:
    """The hex digest of `data`; `algorithm` as in `hasher`. Raises FormatError."""
    return raw_digest_of(data, algorithm).hex()


def check_digest(data: bytes | bytearray | memoryview, digest: str, algorithm: str, label: str) -> None:
    """Raises IntegrityError, naming `label`, when `data` has another digest."""
    found = digest_of(data, algorithm)
    if found != digest:
        raise IntegrityError(f"{label} is damaged: its digest is {found[:16]}…, should be {digest[:16]}…")
