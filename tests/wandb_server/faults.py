"""What the stand-in counts, and how it is told to fail.

A fault is a dict: `where` (``graphql``, the name of an operation, ``file``, ``manifest``, ``upload``, ``run``, ``*``),
`what` and for how many requests (`times`, None: until the faults are cleared).

======== ==========================================================================================
`what`   does
======== ==========================================================================================
status   answers with `status` and a body of errors, `message` in it
latency  answers after `seconds`
cut      sends half of the answer and closes the connection
wrong    sends other bytes of the same length
expired  refuses a signed URL as if its time were over
======== ==========================================================================================

Threading: any thread; one lock.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any


class Faults:
    """The faults that are in force, and the counters."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[dict[str, Any]] = []
        self._counts: Counter[str] = Counter()

    def add(self, rule: dict[str, Any]) -> None:
        """One more fault."""
        with self._lock:
            self._rules.append({"times": None, **rule})

    def clear(self) -> None:
        """No more faults."""
        with self._lock:
            self._rules.clear()

    def matching(self, *places: str) -> list[dict[str, Any]]:
        """The faults of this request, each used up by one."""
        with self._lock:
            found = [rule for rule in self._rules if rule["where"] == "*" or rule["where"] in places]
            for rule in found:
                if rule["times"] is not None:
                    rule["times"] -= 1
            self._rules = [rule for rule in self._rules if rule["times"] is None or rule["times"] > 0]
            return found

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self._counts[name] += by

    def counts(self) -> dict[str, int]:
        """All counters."""
        with self._lock:
            return dict(self._counts)
