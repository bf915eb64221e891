"""How long a call of a remote store may take, and how many may run at once. Constants and a pure function."""

from __future__ import annotations

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 20
"""How long a client library waits for the next bytes."""
CALL_TIMEOUT_S = 30.0
LISTING_TIMEOUT_S = 600.0
SLOWEST_BYTES_PER_S = 128 << 10
"""A transfer may take a call's time and what this rate takes for its bytes."""
PARALLEL_TRANSFERS = 8
CALLS_AT_ONCE = 32
"""How many small calls, which read a record say, are made at once."""


def transfer_timeout_s(size_bytes: int) -> float:
    """How long a transfer of so many bytes may take."""
    return CALL_TIMEOUT_S + size_bytes / SLOWEST_BYTES_PER_S
