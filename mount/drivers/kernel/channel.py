"""The connection to the kernel: requests in, replies and notifications out, files lent for passthrough.

A message is one read or one write of the device. Neighbours: `mounting` makes the descriptor, `session` reads
requests, `notifier` sends notifications. Threading: the kernel allows every call from any thread at once; there is no
state here but the descriptor.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import sys

from mount.drivers.kernel import protocol
from mount.errno_map import IO_ERROR

logger = logging.getLogger(__name__)

# What becomes of the device at the end: unmounted, or aborted (FUSE_ABORT_ERROR was asked for).
_ENDED = (errno.ENODEV, errno.ECONNABORTED)
# The kernel gave up the request meanwhile.
_GIVEN_UP = (errno.ENOENT, errno.EINTR)
_NOBODY_WAITS = _GIVEN_UP + _ENDED
# A notification about something the kernel does not have in its caches (any more), or has in use (a deleted entry).
_NOT_CACHED = (errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY, errno.EBUSY)

# The kernel does not take the reply, and goes on waiting for one.
_REFUSED = (errno.EINVAL, errno.EMSGSIZE, errno.ENOMEM)

_header = protocol.fuse_out_header.pack
_HEADER_BYTES = protocol.fuse_out_header.size


class Channel:
    """See the module docstring. Owns the descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Let go of the connection; the kernel ends it when nobody else holds it."""
        os.close(self.fd)

    def receive(self, buffers: list[bytearray]) -> int:
        """Wait for a request and put it into the one buffer; its length, 0 when there will be none any more.

        Raises OSError.
        """
        while True:
            try:
                return os.readv(self.fd, buffers)
            except OSError as error:
                if error.errno in _ENDED:
                    return 0
                if error.errno not in _GIVEN_UP:
                    raise

    def reply(self, unique: int, body: bytes | memoryview) -> None:
        """Answer a request with one buffer; with EIO when that is a view of a file that was cut.

        What the kernel refuses, a symlink's target that is too long for it, say, is EIO too. Raises OSError.
        """
        try:
            os.writev(self.fd, (_header(_HEADER_BYTES + len(body), 0, unique), body))
        except OSError as error:
            if error.errno == errno.EFAULT and isinstance(body, memoryview):
                # The kernel ends a request with EIO whose reply it cannot read.
                logger.error("a file of the store was cut while it was read: the program is told EIO")
            elif error.errno in _REFUSED:
                logger.error("the kernel refuses a reply of %d bytes: the program is told EIO", len(body))
                self.fail(unique, IO_ERROR)
            elif error.errno not in _NOBODY_WAITS:
                raise

    def fail(self, unique: int, number: int) -> None:
        """Answer with an errno, as `errno_map` gives it. Raises OSError."""
        try:
            os.write(self.fd, _header(_HEADER_BYTES, -number, unique))
        except OSError as error:
            if error.errno not in _NOBODY_WAITS:
                raise

    # -- notifications -------------------------------------------------------------------------------------------------

    def notify(self, code: int, *parts: bytes | memoryview) -> bool:
        """Send one; False when the kernel has nothing cached that it concerns. May block. Raises OSError."""
        size = _HEADER_BYTES + sum(map(len, parts))
        try:
            os.writev(self.fd, (_header(size, code, 0), *parts))
        except OSError as error:
            if error.errno in _NOT_CACHED or error.errno in _ENDED:
                return False
            raise
        return True

    def notification(self, code: int, *parts: bytes) -> bytes:
        """One as a message, for who sends it elsewhere."""
        return b"".join((_header(_HEADER_BYTES + sum(map(len, parts)), code, 0), *parts))

    def check_notified(self, number: int) -> None:
        """Raise OSError for the errno of a notification, unless it says only that nothing of the kind is cached."""
        if number and number not in _NOT_CACHED + _ENDED:
            raise OSError(number, os.strerror(number))

    def clone(self) -> int:
        """One more descriptor of the connection, with requests of its own; who opened it closes it. Raises OSError."""
        fd = os.open(protocol.DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, protocol.FUSE_DEV_IOC_CLONE, bytearray(self.fd.to_bytes(4, sys.byteorder)))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def store(self, nodeid: int, data: memoryview) -> bool:
        """Put bytes into the page cache as the beginning of a file; False when the kernel does not know the inode.

        Waits for READs of that file that are under way. Raises OSError.
        """
        head = protocol.fuse_notify_store_out.pack(nodeid, 0, len(data), 0)
        return self.notify(protocol.FUSE_NOTIFY_STORE, head, data)

    # -- passthrough ---------------------------------------------------------------------------------------------------

    def open_backing(self, fd: int) -> int:
        """Lend an open file to the kernel; the id to name it by. The descriptor may be closed. Raises OSError."""
        number: int = fcntl.ioctl(
            self.fd, protocol.FUSE_DEV_IOC_BACKING_OPEN, bytearray(protocol.fuse_backing_map.pack(fd, 0, 0))
        )
        return number

    def close_backing(self, number: int) -> None:
        """Take a lent file back; files open with it go on. Raises OSError."""
        fcntl.ioctl(self.fd, protocol.FUSE_DEV_IOC_BACKING_CLOSE, bytearray(number.to_bytes(4, "little")))
