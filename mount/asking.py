"""The thread that asks for the change that is being made: each driver sets it for the time of a request.

It is kept per thread of the daemon, so that what happens several calls below need not be handed it at every step.
Threading: each thread has its own.
"""

from __future__ import annotations

import threading


class _Asking(threading.local):
    thread: int | None = None
    """The thread id that the kernel gives: 0 for one of another pid namespace; None where nobody asks."""


ASKING = _Asking()
