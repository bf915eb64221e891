"""Names for commits: what makes a repeated commit find its own result. Pure functions, safe from any thread."""

from __future__ import annotations

import re
import time
import uuid

_TIMED_ID = re.compile(r"[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}\Z")
_FIRST_ID_MS = 1_577_836_800_000
# What fits 64 bits as nanoseconds, in the year 2262.
_LAST_ID_MS = (1 << 63) // 1_000_000 - 1


def new_commit_id() -> str:
    """A fresh name for a commit; the same id committed twice gives one version.

    It begins with the time in milliseconds, as a UUID of version 7 does, so that whoever looks for the version a
    commit made reads no records older than the commit.
    """
    milliseconds = time.time_ns() // 1_000_000
    random = uuid.uuid4().hex
    return f"{milliseconds:012x}7{random[13:]}"


def commit_time_ns(commit_id: str) -> int | None:
    """When :func:`new_commit_id` made that id, in nanoseconds since the epoch; None for an id of another kind."""
    if _TIMED_ID.match(commit_id) is None:
        return None
    milliseconds = int(commit_id[:12], 16)
    # An id that only looks like one of ours names some time between 1970 and the year 10889.
    return milliseconds * 1_000_000 if _FIRST_ID_MS <= milliseconds <= _LAST_ID_MS else None
