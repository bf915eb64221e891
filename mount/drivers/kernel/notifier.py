"""Tells the kernel what its caches may believe no longer.

A notification about a name waits for the lock of the directory, which a program may hold that waits for an answer of
ours; one about pages waits for readers of those. So they are sent by a thread of their own, never by one that serves
requests, and never while a lock is held that a request needs. Who must not go on before the kernel knows waits with
`flush`, bounded; the same rule holds for who waits.

Threading: `expire` and `flush` are safe from any thread, `flush` not from one that serves.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time

from mount.drivers.kernel import protocol
from mount.drivers.kernel.channel import Channel

logger = logging.getLogger(__name__)

FLUSH_S = 5.0

_Job = tuple[int, str] | threading.Event | None


class Notifier:
    """See the module docstring."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)
        self._flags = 0

    def start(self, *, can_expire: bool) -> None:
        """Begin. `can_expire`: names may be told to be looked at anew, which spares what is in use below them."""
        self._flags = protocol.FUSE_EXPIRE_ONLY if can_expire else 0
        self._thread.start()

    def stop(self) -> None:
        """Send nothing more. What is being sent is not waited for: at the end it may have to wait for the kernel."""
        self._jobs.put(None)

    def expire(self, directory: int, name: str) -> None:
        """Have the kernel look a name in a directory up again before it believes in it."""
        self._jobs.put((directory, name))

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Wait until everything is sent that was asked for; whether that was done in time."""
        sent = threading.Event()
        self._jobs.put(sent)
        return sent.wait(timeout_s)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if isinstance(job, threading.Event):
                job.set()
                continue
            started = time.monotonic()
            try:
                self._expire(*job)
            except Exception as error:
                expected = isinstance(error, OSError)
                logger.error(
                    "cannot tell the kernel that %r may have changed: %s",
                    job[1],
                    error,
                    exc_info=None if expected else error,
                )
            late_s = time.monotonic() - started
            if late_s > FLUSH_S:
                logger.info("telling the kernel of %r took %.1f s", job[1], late_s)

    def _expire(self, directory: int, name: str) -> None:
        raw = os.fsencode(name)
        head = protocol.fuse_notify_inval_entry_out.pack(directory, len(raw), self._flags)
        self._channel.notify(protocol.FUSE_NOTIFY_INVAL_ENTRY, head, raw + b"\0")
