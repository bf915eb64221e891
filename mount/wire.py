"""JSON between the processes of a mount, and in the records that they leave: its texts may be paths of any bytes.

What is no UTF-8 in a path is a lone surrogate in Python (PEP 383), which JSON can write as an escape, and msgspec
neither writes nor reads. Pure functions, safe from any thread.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

Value = TypeVar("Value")


def encode(value: Any) -> bytes:
    """`value` as JSON, paths as texts."""
    return json.dumps(msgspec.to_builtins(value, enc_hook=str)).encode()


def decode(raw: bytes, kind: type[Value], dec_hook: Callable[[type, Any], Any] | None = None) -> Value:
    """Read it back. Raises msgspec.DecodeError (a ValueError) when `raw` is no JSON of that kind."""
    try:
        plain = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise msgspec.DecodeError(f"JSON is malformed: {error}") from error
    return msgspec.convert(plain, kind, dec_hook=dec_hook)
