"""Starting threads on a machine that may have no room for another one.

Threading: pure, safe from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


def try_start(target: Callable[..., None], name: str, *args: Any) -> bool:
    """Start a daemon thread; False when the system gives no more of them (a limit of processes, no memory)."""
    try:
        threading.Thread(target=target, args=args, name=name, daemon=True).start()
    except (RuntimeError, MemoryError) as error:
        if not is_for_want_of_threads(error):
            raise
        return False
    return True


def is_for_want_of_threads(error: BaseException) -> bool:
    """Whether that is how Python says that a thread, or memory, cannot be had at present."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "start new thread" in str(error))
