"""Processes by their ids, as Linux tells of them in /proc. Pure functions, safe from any thread."""

from __future__ import annotations

import contextlib
import os
import signal


def children_of(pid: int) -> list[int]:
    """The ids of the processes that the threads of that process started."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children") as file:
                found.extend(map(int, file.read().split()))
    return found


def moved_bytes(pid: int) -> int:
    """What the process has read and written so far, on disks and networks; 0 when it is gone."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/io") as file:
        fields = dict(line.split(": ") for line in file.read().splitlines())
        return int(fields["rchar"]) + int(fields["wchar"])
    return 0


def kill(pid: int) -> None:
    """SIGKILL; a process that is gone is fine."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
