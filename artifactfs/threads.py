"""Starting threads on a machine that may have no room for another one.

Threading: pure, safe from any thread.
"""

from __future__ import annotations

import threading


def try_start(thread: threading.Thread) -> bool:
    """Start a thread; False when the system gives no more of them (a limit of processes, no memory)."""
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:
        if not is_for_want_of_threads(error):
            raise
        return False
    return True


def is_for_want_of_threads(error: BaseException) -> bool:
    """Tell whether an error is how Python says that a thread, or memory, cannot be had at present."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "start new thread" in str(error))
