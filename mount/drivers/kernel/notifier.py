"""Tells the kernel what its caches may believe no longer.

A notification about a name waits for the lock of the directory, which a program may hold that waits for an answer of
ours; one about pages waits for readers of those. So they are sent one after another by a process of its own (`herald`),
never by a thread of this one, which could not be killed while it waits. Who must not go on before the kernel knows
waits with `flush`, bounded, and never with a lock held that a request needs.

Threading: `expire` and `flush` are safe from any thread, `flush` not from one that serves. One thread talks to the
process, which is started with the first notification.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from mount import mounts
from mount.drivers.kernel import herald, protocol
from mount.drivers.kernel.channel import Channel

logger = logging.getLogger(__name__)

FLUSH_S = 5.0
_END_S = 1.0

_Job = tuple[int, str] | threading.Event | None


class Herald:
    """A process as of `herald`."""

    def __init__(self, channel: Channel, entry: mounts.MountEntry | None) -> None:
        """`entry` is the mount of that connection. Raises OSError where it cannot be shared, or no process started."""
        end = mounts.open_end(entry) if entry is not None else None
        inherited = [] if end is None else [end]
        try:
            inherited.append(device := channel.clone())
            self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                descriptors = str(device), str(theirs.fileno()), "" if end is None else str(end)
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", herald.__file__, *descriptors],
                    pass_fds=(*inherited, theirs.fileno()),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    start_new_session=True,
                )
        finally:
            for descriptor in inherited:
                os.close(descriptor)

    def send(self, message: bytes) -> int:
        """Have one notification sent, however long that takes; its errno. Raises OSError when the process is gone."""
        self._orders.sendall(message)
        answer = self._orders.recv(4)
        if not answer:
            raise ConnectionError("the process that tells the kernel has ended")
        return int.from_bytes(answer, "little")

    def close(self) -> None:
        """Let it end, and leave the connection as it is. While it waits for a lock, it stays until that is free."""
        with contextlib.suppress(OSError):
            self._orders.sendall(herald.LEAVE)
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            # Left open, so that it hears of the end of this process.
            self._orders.detach()
        else:
            self._orders.close()


class Notifier:
    """See the module docstring."""

    def __init__(self, channel: Channel, mountpoint: Path) -> None:
        self._channel = channel
        self._mountpoint = mountpoint
        self._entry: mounts.MountEntry | None = None
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)
        self._flags = 0
        self._herald: Herald | None = None
        self._may_start = True
        self._has_stopped = False

    def start(self, *, can_expire: bool) -> None:
        """Begin. `can_expire`: names may be told to be looked at anew, which spares what is in use below them."""
        self._flags = protocol.FUSE_EXPIRE_ONLY if can_expire else 0
        # Now: later, something else may be mounted over it.
        self._entry = mounts.entry_at(self._mountpoint)
        self._thread.start()

    def stop(self) -> None:
        """Send nothing more. What is being sent is not waited for: at the end it may have to wait for the kernel."""
        self._has_stopped = True
        self._jobs.put(None)
        if self._herald is not None:
            self._herald.close()

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
                if self._has_stopped:
                    return
                expected = isinstance(error, OSError)
                logger.error(
                    "cannot tell the kernel that %r may have changed: %s",
                    job[1],
                    error,
                    exc_info=None if expected else error,
                )
                self._drop_herald()
            late_s = time.monotonic() - started
            if late_s > FLUSH_S:
                logger.info("telling the kernel of %r took %.1f s", job[1], late_s)

    def _expire(self, directory: int, name: str) -> None:
        raw = os.fsencode(name)
        head = protocol.fuse_notify_inval_entry_out.pack(directory, len(raw), self._flags)
        herald = self._find_herald()
        if herald is None:
            self._channel.notify(protocol.FUSE_NOTIFY_INVAL_ENTRY, head, raw + b"\0")
            return
        message = self._channel.notification(protocol.FUSE_NOTIFY_INVAL_ENTRY, head, raw + b"\0")
        self._channel.check_notified(herald.send(message))

    def _drop_herald(self) -> None:
        """The next notification is sent by a new one."""
        herald, self._herald = self._herald, None
        if herald is not None:
            herald.close()

    def _find_herald(self) -> Herald | None:
        """The process, started if needed; None where none can be had, and this one may hang when it is killed."""
        if self._herald is None and self._may_start:
            try:
                self._herald = Herald(self._channel, self._entry)
            except OSError as error:
                self._may_start = False
                logger.info("no process of its own for what the kernel is told: %s", error)
        return self._herald
