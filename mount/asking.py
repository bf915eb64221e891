"""The thread that asks for the change that is being made: each driver sets it for the time of a request.

It is kept per thread of the daemon, so that what happens several calls below need not be handed it at every step.
Threading: each thread has its own.
"""

from __future__ import annotations

import threading

WRITE_BACK = -1
"""Stands for the kernel when it writes back what programs changed in memory (mmap(2)). Whose it was is not told, but
whoever it was has the file open."""


class _Asking(threading.local):
    thread: int | None = None
    """The thread id that the kernel gives: 0 for one of another pid namespace; `WRITE_BACK`; None where nobody asks."""


ASKING = _Asking()
