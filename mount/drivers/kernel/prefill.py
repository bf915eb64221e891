"""Small files whose bytes are put into the kernel's page cache while they are opened: to read them asks for nothing.

FUSE_NOTIFY_STORE copies bytes into the pages of an inode as if they had been read (fs/fuse/dev.c, fuse_notify_store);
what lies behind the end of the file in the last page becomes zeros. The inode is there: whoever opens it holds it. It
is done for bytes that were checked, and once for as long as the kernel knows the inode: pages that it drops under
pressure are read the ordinary way. They count as memory of the daemon's control group, not of the program's.

**The rule against deadlock.** Storing locks each page, and a page that is being read stays locked until that READ is
answered, which the thread that stores could not do. So a file is filled only while no program has it open: whatever
reads (a mapping and what is read ahead too) holds an open file, which the kernel releases only after its READs are
answered. And no other is opened meanwhile, because requests to open files of versions are answered by the thread that
leads, one after another (`session`).

Threading: called by the worker that leads only.
"""

from __future__ import annotations

import logging
import os

from mount.drivers.kernel.channel import Channel
from mount.drivers.kernel.inodes import Inodes
from mount.small_files import SmallFile, SmallFiles

logger = logging.getLogger(__name__)

PREFILL_BYTES = 128 << 10
"""Larger files are not filled: their programs may want a part only."""


class Prefill:
    """See the module docstring."""

    def __init__(self, channel: Channel, inodes: Inodes, files: SmallFiles) -> None:
        self._channel = channel
        self._inodes = inodes
        self._files = files
        self._opens: dict[int, int] = {}

    def open(self, nodeid: int, flags: int, room: memoryview) -> SmallFile | None:
        """Open a file for reading, with its bytes in the page cache where that can be at once.

        None where it is not for here; of a file that may be lent (`reading.Lending`) that does not change from one open
        to the next. `room`: for its bytes.
        """
        found = self._inodes.entry(nodeid)
        file = self._files.open(*found) if found is not None else None
        if file is None or file.size_bytes > PREFILL_BYTES:
            return None
        # Who reads past the page cache has no use for it.
        if nodeid not in self._opens and not flags & os.O_DIRECT and not self._inodes.is_prefilled(nodeid):
            self._fill(nodeid, file, room)
        return file

    def _fill(self, nodeid: int, file: SmallFile, room: memoryview) -> None:
        data = file.read_whole(room)
        if data is None:
            return
        try:
            if self._channel.store(nodeid, data):
                self._inodes.note_prefilled(nodeid)
        except OSError as error:
            logger.info("the kernel takes no bytes of a file that is opened: %s", error)

    def opened(self, nodeid: int) -> None:
        """A program has got an open file of a version, from here or not."""
        self._opens[nodeid] = self._opens.get(nodeid, 0) + 1

    def released(self, nodeid: int) -> None:
        """It has let go of it."""
        opens = self._opens.pop(nodeid, 0)
        if opens > 1:
            self._opens[nodeid] = opens - 1
