"""The process that sends notifications which may have to wait, and ends the connection when the daemon is gone.

Run as a program by `notifier`, with the standard library alone: ``herald.py DEVICE ORDERS END``, three descriptors.
Each message from the socket ORDERS is written to the connection DEVICE, and answered by the errno of that, in four
bytes. END is the descriptor of `mounts.open_end`, or empty. After the message LEAVE this process ends when it has
written what came before, and the connection lives on; when ORDERS is closed, the daemon is dead.

To take a name out of the kernel's caches is to wait for the lock of its directory, and a program may hold that while it
waits for an answer of the daemon. A thread of the daemon that waits so cannot be killed: it would keep the daemon's
connection open, nobody would answer, and the mount would hang for ever. Here it waits on a descriptor of its own
(FUSE_DEV_IOC_CLONE). When the daemon dies, the kernel fails the requests that it had read; those that nobody has read
yet are failed here, until the lock is free.

Threading: the main thread takes orders, a second one writes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import select
import signal
import socket
import struct
import sys
import threading

# As of `protocol` and `negotiation`, which cannot be imported here.
_FORGET, _INTERRUPT, _BATCH_FORGET = 2, 36, 42
_BUFFER_BYTES = (1 << 20) + 4096
_request = struct.Struct("=IIQ")
_reply = struct.Struct("=IiQ")
_LOOK_AGAIN_S = 0.1
LEAVE = b"leave"


def main(device: int, orders: socket.socket, end: int | None) -> None:
    """Send until told to leave, or until the daemon is dead; then end the connection."""
    messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    writer = threading.Thread(target=_write, args=(device, messages, orders), daemon=True)
    writer.start()
    with contextlib.suppress(OSError):
        while message := orders.recv(_BUFFER_BYTES):
            messages.put(None if message == LEAVE else message)
    if end is not None:
        with contextlib.suppress(OSError):
            os.write(end, b"1\n")
    messages.put(None)
    _fail_requests(device, writer)


def _write(device: int, messages: queue.SimpleQueue[bytes | None], orders: socket.socket) -> None:
    while (message := messages.get()) is not None:
        number = 0
        try:
            os.write(device, message)
        except OSError as error:
            number = error.errno or errno.EIO
        with contextlib.suppress(OSError):
            orders.send(number.to_bytes(4, "little"))
    # The main thread waits for orders, or answers in the place of the daemon, which nobody needs now.
    os._exit(0)


def _fail_requests(device: int, writer: threading.Thread) -> None:
    """Answer that the daemon is gone, until the thread that writes is done."""
    os.set_blocking(device, False)
    ready = select.poll()
    ready.register(device, select.POLLIN)
    while writer.is_alive():
        ready.poll(_LOOK_AGAIN_S * 1000)
        try:
            request = os.read(device, _BUFFER_BYTES)
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.ECONNABORTED):
                return
            writer.join(_LOOK_AGAIN_S)
            continue
        _, opcode, unique = _request.unpack_from(request)
        if opcode not in (_FORGET, _INTERRUPT, _BATCH_FORGET):
            with contextlib.suppress(OSError):
                os.write(device, _reply.pack(_reply.size, -errno.ENOTCONN, unique))


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Meant for the daemon, which ends in order; this process ends with it.
        signal.signal(number, signal.SIG_IGN)
    main(int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])), int(sys.argv[3]) if sys.argv[3] else None)
    # Not waiting for a thread that cannot be woken.
    os._exit(0)
