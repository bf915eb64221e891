"""By which way programs get the bytes of versions: through this daemon, past it, or without even opening here.

* *passthrough* (Linux 6.9, CAP_SYS_ADMIN): the kernel is lent the local file that holds exactly the bytes, and reads
  and maps that one. Files that lie together in a pack go the ordinary way.
* *cache*: bytes go through the daemon into the page cache and stay there. On a read-only mount the first open is
  answered with "never ask again": from then on a file whose pages are cached costs no request at all. The kernel then
  opens without us for good, so this and passthrough exclude each other.

The kernel insists that all opens of one file go the same way, with the same lent file, while any is open (else the
program gets EIO): `Lending` remembers it for each.

Threading: safe from any thread. The locks are leaves; no file is opened or read under them.
"""

from __future__ import annotations

import enum
import logging
import os
import threading
from typing import TYPE_CHECKING

from cachetools import LRUCache

from artifactfs.content.reader import CHECKED_BYTES
from artifactfs.errors import ArtifactError
from mount.drivers.kernel import protocol
from mount.drivers.kernel.channel import Channel
from mount.drivers.kernel.inodes import Inodes
from mount.handles import VersionFile
from mount.settings import MountSettings
from mount.tree import Node

if TYPE_CHECKING:
    from mount.vfs import Vfs

logger = logging.getLogger(__name__)

# Files read lately on a mount where the kernel opens without asking; each holds a descriptor at most.
_REMEMBERED_FILES = 128


class Reading(enum.Enum):
    """How the files of versions are opened."""

    ORDINARY = "cache"
    """Opened here, read through here, kept in the page cache."""
    UNOPENED = "cache, without open"
    """Never opened here."""
    PASSTHROUGH = "passthrough"
    """Read from the store's own files where that can be."""


def choose(channel: Channel, vfs: Vfs, settings: MountSettings, flags: int) -> tuple[Reading, str]:
    """What a mount does, and why. `flags`: what was agreed on with the kernel."""
    if settings.reads != "passthrough" and settings.read_only:
        if vfs.manager.takes_references:
            return Reading.UNOPENED, "read-only"
        # What a program has open must stay readable when its version is deleted (V5), and here that means to hold it.
        return Reading.ORDINARY, "the store deletes files at once"
    if settings.reads == "cache":
        return Reading.ORDINARY, "asked for"
    if not flags & protocol.FUSE_PASSTHROUGH:
        return Reading.ORDINARY, "passthrough needs Linux 6.9"
    why_not = _why_no_passthrough(channel)
    return (Reading.ORDINARY, f"no passthrough: {why_not}") if why_not else (Reading.PASSTHROUGH, "")


def _why_no_passthrough(channel: Channel) -> str | None:
    """What forbids this process to lend files to the kernel; None when nothing does."""
    fd = os.memfd_create("artifactfs-probe")
    try:
        channel.close_backing(channel.open_backing(fd))
    except OSError as error:
        return f"{error.strerror} (it needs root)" if os.geteuid() else str(error.strerror)
    finally:
        os.close(fd)
    return None


class _Way:
    """How one file is open: the number of the lent file, None when it goes the ordinary way."""

    __slots__ = ("backing", "opens")

    def __init__(self, backing: int | None) -> None:
        self.backing = backing
        self.opens = 1


class Lending:
    """The files lent to the kernel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._ways: dict[int, _Way] = {}

    def enter(self, nodeid: int, file: VersionFile) -> int | None:
        """One more open of a file; the number of the lent file, None for the ordinary way."""
        with self._lock:
            way = self._ways.get(nodeid)
            if way is not None:
                way.opens += 1
                return way.backing
        backing = self._lend(file)
        with self._lock:
            way = self._ways.get(nodeid)
            if way is None:
                self._ways[nodeid] = _Way(backing)
                return backing
            # Opened by another worker meanwhile.
            way.opens += 1
        if backing is not None:
            self._channel.close_backing(backing)
        return way.backing

    def _lend(self, file: VersionFile) -> int | None:
        try:
            fd = file.content.whole_file()
            return None if fd is None else self._channel.open_backing(fd)
        except ArtifactError as error:
            # Read the ordinary way, the program is told.
            logger.debug("not lent to the kernel: %s", error)
        except OSError as error:
            logger.info("the kernel does not take a file of the store: %s", error)
        return None

    def leave(self, nodeid: int) -> None:
        """One open less."""
        with self._lock:
            way = self._ways.get(nodeid)
            if way is None:
                return
            way.opens -= 1
            if way.opens:
                return
            del self._ways[nodeid]
        if way.backing is not None:
            self._channel.close_backing(way.backing)


class _Held:
    """A file that is closed when nobody uses it any more."""

    __slots__ = ("file",)

    def __init__(self, file: VersionFile) -> None:
        self.file = file

    def __del__(self) -> None:
        self.file.close()


class UnopenedFiles:
    """The files read on a mount where the kernel opens without asking, by node id."""

    def __init__(self, vfs: Vfs, inodes: Inodes) -> None:
        self._vfs = vfs
        self._inodes = inodes
        self._is_local = vfs.manager.local_root is not None
        self._lock = threading.Lock()
        self._held: LRUCache[int, _Held] = LRUCache(_REMEMBERED_FILES)

    def get(self, nodeid: int, node: Node) -> _Held:
        """The open file of a node; it stays open for as long as the answer is held. Raises as `Vfs.open`."""
        with self._lock:
            held = self._held.get(nodeid)
        if held is None:
            file = self._vfs.open(node, os.O_RDONLY)
            assert isinstance(file, VersionFile), "only versions are read without being opened"
            held = _Held(file)
            with self._lock:
                self._held[nodeid] = held
        return held

    def read_at_once(
        self, nodeid: int, size_bytes: int, offset: int, room: memoryview
    ) -> bytes | bytearray | memoryview | None:
        """As `VersionFile.read`, unless something has to be waited for: then None. Raises IntegrityError.

        A small file is read once, whole, and not held: its bytes are in the page cache from then on. They are put into
        `room` where they fit.
        """
        found = self._inodes.entry(nodeid) if offset == 0 else None
        small = self._vfs.small_files.open(*found) if found is not None else None
        if small is not None and small.size_bytes <= size_bytes:
            return small.read_whole(room)
        with self._lock:
            held = self._held.get(nodeid)
        if held is not None:
            return held.file.content.read_at_once(size_bytes, offset)
        if not self._is_local:
            return None
        file = self._vfs.open(self._inodes.node(nodeid), os.O_RDONLY)
        assert isinstance(file, VersionFile), "only versions are read without being opened"
        try:
            # A large one is better held, which `get` does.
            large = file.content.size_bytes >= CHECKED_BYTES
            return None if large else file.content.read_at_once(size_bytes, offset)
        finally:
            file.close()

    def close(self) -> None:
        """Let go of all that is not being read."""
        with self._lock:
            self._held.clear()
