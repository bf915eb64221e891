"""The threads that serve: one waits for the next request, the others are busy or stand by.

The one that waits is the leader. A request that is answered at once it answers itself and waits again: with the
interpreter lock nothing is gained by waking another thread, which costs more than such a request. For one that may
take long it first lets another thread lead; when none stands by, one is started, up to `MAX_THREADS`. A thread that
has stood by for `IDLE_S` ends.

Threading: `_lead` is held by the leader while it waits; `_count_lock` guards the numbers and is a leaf.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

MAX_THREADS = 48
IDLE_S = 10.0

Serve = Callable[[bytearray, Callable[[], None]], bool]
"""Wait for a request, with a buffer for it, and answer it; calls its second argument before what may take long.

False when there will be no more requests.
"""


class Workers:
    """See the module docstring."""

    def __init__(self, serve: Serve, buffer_bytes: int) -> None:
        self._serve = serve
        self._buffer_bytes = buffer_bytes
        self._lead = threading.Lock()
        self._count_lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._standing_by = 0
        self._ended = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Serve until the end, in this thread and those it takes. Raises what made a thread fail."""
        self._work()
        for thread in list(self._threads):
            thread.join()
        if self.failure is not None:
            raise self.failure

    @property
    def count(self) -> int:
        """How many threads there are besides the first."""
        return len(self._threads)

    def _work(self) -> None:
        buffer = bytearray(self._buffer_bytes)
        is_first = threading.current_thread() not in self._threads
        try:
            while self._await_lead(is_first):
                self._lead_on(buffer)
        except BaseException as error:  # noqa: BLE001 - raised again by run()
            self.failure = self.failure or error
            self._ended.set()
        finally:
            with self._count_lock:
                self._threads.discard(threading.current_thread())

    def _await_lead(self, is_first: bool) -> bool:
        """Stand by; False when it is time to end."""
        with self._count_lock:
            self._standing_by += 1
        try:
            while not self._ended.is_set():
                if self._lead.acquire(timeout=IDLE_S):
                    if not self._ended.is_set():
                        return True
                    self._lead.release()
                elif not is_first:
                    return False
            return False
        finally:
            with self._count_lock:
                self._standing_by -= 1

    def _lead_on(self, buffer: bytearray) -> None:
        """Serve requests until one may take long, and then that one."""
        leads = True

        def let_lead() -> None:
            nonlocal leads
            if leads:
                leads = False
                self._lead.release()
                self._start_if_needed()

        try:
            while leads:
                if not self._serve(buffer, let_lead):
                    self._ended.set()
                    return
        finally:
            if leads:
                self._lead.release()

    def _start_if_needed(self) -> None:
        with self._count_lock:
            if self._standing_by or self._ended.is_set() or len(self._threads) >= MAX_THREADS:
                return
            thread = threading.Thread(target=self._work, name=f"worker-{len(self._threads) + 1}", daemon=True)
            self._threads.add(thread)
        thread.start()
