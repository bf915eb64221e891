"""Bounds on a call of a remote store, and on how many run at once. Constants and a pure function."""

from __future__ import annotations

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 20
"""How long a client library waits for the next bytes."""
CALL_TIMEOUT_S = 30.0
LISTING_TIMEOUT_S = 600.0
SLOWEST_BYTES_PER_S = 128 << 10
"""A transfer may take a call's time and what this rate takes for its bytes."""
MOST_REPLY_BYTES = 32 << 20
"""The most of an answer that is no content: a page of a listing with 5,000 of the longest names takes some 20 MiB."""
MOST_WHOLE_BYTES = 1 << 30
"""The most that is read as a whole without its size being known: a manifest of ten million files takes less."""
MOST_PAGES = 100_000
PARALLEL_TRANSFERS = 8
CALLS_AT_ONCE = 32
"""How many small calls, which read a record say, are made at once."""


def transfer_timeout_s(size_bytes: int) -> float:
    """How long a transfer of so many bytes may take."""
    return CALL_TIMEOUT_S + size_bytes / SLOWEST_BYTES_PER_S
