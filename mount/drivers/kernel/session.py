"""One mount from the kernel's hello to its end: negotiation, dispatch of requests, and what failures become.

Neighbours: `channel` carries the messages, `workers` the threads, the handlers are in `names`, `files`, `directories`
and `metadata`. Threading: `serve` is called once; requests are handled by the threads of `workers`, each with a
buffer of its own. Nothing here is locked: what requests share is in `context`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from artifactfs.errors import ArtifactError
from mount import disk
from mount.asking import ASKING
from mount.drivers import DriverUnavailable
from mount.drivers.failures import errno_after
from mount.drivers.kernel import protocol
from mount.drivers.kernel.channel import Channel
from mount.drivers.kernel.context import Context, NeverAskAgain, Request
from mount.drivers.kernel.directories import Directories
from mount.drivers.kernel.files import Files
from mount.drivers.kernel.inodes import FIRST_VERSION
from mount.drivers.kernel.interrupts import UnderWay
from mount.drivers.kernel.metadata import Metadata
from mount.drivers.kernel.mounting import read_ahead
from mount.drivers.kernel.names import Names
from mount.drivers.kernel.negotiation import MAX_WRITE, agree
from mount.drivers.kernel.notifier import Notifier
from mount.drivers.kernel.protocol import Malformed
from mount.drivers.kernel.reading import choose
from mount.drivers.kernel.workers import End, Kind, Work, Workers
from mount.errno_map import BAD_MESSAGE, INTERRUPTED, NEVER_ASK_AGAIN, UNKNOWN_PROTOCOL
from mount.settings import MountSettings
from mount.tree import Artifact
from mount.vfs import Vfs

logger = logging.getLogger(__name__)

BUFFER_BYTES = MAX_WRITE + protocol.fuse_in_header.size + protocol.fuse_write_in.size

_header = protocol.fuse_in_header.unpack_from
_HEADER_BYTES = protocol.fuse_in_header.size

# Sent when the last user of something has gone, in the name of whoever that was.
_BY_NOBODY = frozenset(
    (protocol.FUSE_RELEASE, protocol.FUSE_RELEASEDIR, protocol.FUSE_FORGET, protocol.FUSE_BATCH_FORGET)
)


class _Handler(NamedTuple):
    handle: Callable[[Request], Any]
    """Returns the body of the reply; None for no reply at all."""
    is_quick: bool = False
    """Never waits for a store or a lock that is held for long."""
    is_quick_on_versions: bool = False
    """The same, but only for files of versions that are loaded."""
    try_at_once: Callable[[Request], Any] | None = None
    """Answers what can be answered without waiting for anything, None for the rest."""
    waits_for: Callable[[Request], Kind] | None = None
    """The kind of thing that it may have to wait for; without it, no store."""
    is_here: Callable[[Request], bool] | None = None
    """Tells if the bytes of a store that it needs lie in the cache."""
    may_be_given_up: bool = False
    """Changes nothing, so that a program that is killed need not wait for it."""
    undo: Callable[[Request, Any], None] | None = None
    """Takes back what was noted for an answer that nobody got, because the program was killed."""
    afterwards: Callable[[Request], None] | None = None
    """Called after the reply to what was quick, with the request: makes ready what may come next."""


class Session:
    """See the module docstring."""

    def __init__(self, channel: Channel, vfs: Vfs, settings: MountSettings) -> None:
        self.channel = channel
        self.context = Context(channel, vfs, settings)
        self.notifier = Notifier(channel, settings.mountpoint)
        self._under_way = UnderWay(lambda unique: channel.fail(unique, INTERRUPTED))
        self._workers = Workers(self._receive_one, self._handle_one, BUFFER_BYTES)
        self._handlers = self._make_handlers()

    def serve(self, on_ready: Callable[[], None]) -> None:
        """Answer the kernel's hello, call `on_ready`, and serve until the end. Raises DriverUnavailable, OSError."""
        try:
            if not self._say_hello():
                return
            self.notifier.start(can_expire=bool(self.context.flags & protocol.FUSE_HAS_EXPIRE_ONLY))
            self.context.vfs.on_change = self._artifact_changed
            self.context.vfs.count_inodes = self.context.inodes.__len__
            self._choose_reading()
            on_ready()
            read_ahead(self.context.settings.mountpoint)
            self._workers.run()
        finally:
            # What is committed after the unmount concerns no kernel.
            self.context.vfs.on_change = lambda artifact: None
            self.notifier.stop()
            self.context.close()

    @property
    def threads(self) -> int:
        """How many serve at this moment."""
        return 1 + self._workers.count

    def _say_hello(self) -> bool:
        """Agree on a version and on what both sides can; False when unmounted before. Raises DriverUnavailable."""
        buffer = bytearray(BUFFER_BYTES)
        while size := self.channel.receive([buffer]):
            _, opcode, unique, *_ = _header(buffer)
            if opcode != protocol.FUSE_INIT:
                raise DriverUnavailable(f"the kernel begins with request {opcode}")
            agreed = agree(memoryview(buffer)[_HEADER_BYTES:size], lends_stacked=self._lends_stacked())
            if agreed is None:
                self.channel.fail(unique, UNKNOWN_PROTOCOL)
                raise DriverUnavailable("the kernel speaks FUSE older than 7.31 (Linux 5.4): use --driver libfuse")
            self.channel.reply(unique, agreed.reply)
            if agreed.is_final:
                self.context.minor, self.context.flags = agreed.minor, agreed.flags
                logger.info("FUSE protocol 7.%d, flags %#x", agreed.minor, agreed.flags)
                return True
        return False

    def _lends_stacked(self) -> bool:
        context = self.context
        try:
            return disk.is_stacked(context.vfs.manager.local_root or context.settings.cache_dir)
        except OSError:
            return True

    def _choose_reading(self) -> None:
        context = self.context
        context.reading, why = choose(self.channel, context.vfs, context.settings, context.flags)
        context.vfs.reads = f"{context.reading.value} ({why})" if why else context.reading.value
        logger.info("files of versions are read by: %s", context.vfs.reads)

    def _artifact_changed(self, artifact: Artifact) -> None:
        """As `Vfs.on_change`: programs that wait for the commit find its aliases moved."""
        inodes = self.context.inodes
        directory = inodes.known(artifact)
        if directory is not None:
            for name in inodes.aliases_of(artifact):
                self.notifier.expire(directory, name)
            self.notifier.flush()

    # -- one request ---------------------------------------------------------------------------------------------------

    def _receive_one(self, buffer: bytearray) -> Work | None:
        """Receive a request, for `workers.Receive`. Raises End, OSError when the connection fails."""
        size = self.channel.receive([buffer])
        if size == 0:
            raise End
        if size < _HEADER_BYTES:
            logger.error("a message of %d bytes, which is no request", size)
            return None
        header = _header(buffer)
        opcode, unique, nodeid = header[1], header[2], header[3]
        handler = self._handlers.get(opcode)
        if header[0] != size:
            logger.error("a message of %d bytes says it has %d", size, header[0])
            self.channel.fail(unique, BAD_MESSAGE)
            return None
        if handler is None:
            self.channel.fail(unique, NEVER_ASK_AGAIN)
            return None
        request = Request(header, memoryview(buffer))
        if handler.is_quick or (handler.is_quick_on_versions and nodeid >= FIRST_VERSION):
            self._answer(handler.handle, request, afterwards=handler.afterwards)
            return None
        if handler.try_at_once is not None and self._answer(handler.try_at_once, request):
            return None
        if handler.may_be_given_up:
            self._under_way.begin(unique, request.pid)
        return Work(self._kind(handler, request), size, handler.may_be_given_up)

    def _kind(self, handler: _Handler, request: Request) -> Kind:
        try:
            kind = Kind.LOCAL if handler.waits_for is None else handler.waits_for(request)
            if kind is Kind.STORE and handler.is_here is not None and self._workers.is_full(kind):
                # Not looked at before: it may mean to look at a disk, which would keep all others waiting.
                return Kind.LOCAL if handler.is_here(request) else kind
            return kind
        except (Malformed, ArtifactError, OSError):
            # The handler tells.
            return Kind.LOCAL

    def _handle_one(self, buffer: bytearray, work: Work) -> None:
        """Handle a request, for `workers.Handle`. Raises OSError when the connection fails."""
        request = Request(_header(buffer), memoryview(buffer))
        handler = self._handlers[request.opcode]
        if work.may_be_given_up and not self._under_way.is_asked(request.unique):
            return  # given up before its turn came
        self._answer(handler.handle, request, claim=work.may_be_given_up, undo=handler.undo)

    def _answer(
        self,
        handle: Callable[[Request], Any],
        request: Request,
        *,
        claim: bool = False,
        afterwards: Callable[[Request], None] | None = None,
        undo: Callable[[Request, Any], None] | None = None,
    ) -> bool:
        """Handle and reply; False when there is no answer.

        With `claim`, only if nobody else has answered meanwhile: else `undo` is called. `afterwards` is called once the
        reply is sent.
        """
        unique = request.unique
        ASKING.thread = None if request.opcode in _BY_NOBODY else request.pid
        try:
            body = handle(request)
        except Malformed as error:
            logger.error("%s: %s", protocol.OPCODES[request.opcode], error)
            number = BAD_MESSAGE
        except NeverAskAgain:
            number = NEVER_ASK_AGAIN
        except Exception as error:  # noqa: BLE001 - every failure becomes an errno, unknown ones are logged
            number = errno_after(error, protocol.OPCODES[request.opcode], f"{request.nodeid:#x}")
        else:
            if body is None:
                return False
            if not claim or self._under_way.end(unique):
                self.channel.reply(unique, body)
            elif undo is not None:
                undo(request, body)
            if afterwards is not None:
                try:
                    afterwards(request)
                except Exception:
                    # Whoever asks for what was to be made ready meets it again, and is told.
                    logger.exception("after %s", protocol.OPCODES[request.opcode])
            return True
        if not claim or self._under_way.end(unique):
            self.channel.fail(unique, number)
        return True

    # -- requests about the connection ---------------------------------------------------------------------------------

    def _forget(self, request: Request) -> None:
        (count,) = protocol.fuse_forget_in.read(request.body)
        self.context.inodes.forget(request.nodeid, count)

    def _batch_forget(self, request: Request) -> None:
        head, one = protocol.fuse_batch_forget_in, protocol.fuse_forget_one
        count, _ = head.read(request.body)
        if len(request.body) < head.size + count * one.size:
            raise Malformed(f"{count} inodes to forget in {len(request.body)} bytes")
        forget = self.context.inodes.forget
        for offset in range(head.size, head.size + count * one.size, one.size):
            forget(*one.unpack_from(request.body, offset))

    def _interrupt(self, request: Request) -> None:
        (unique,) = protocol.fuse_interrupt_in.read(request.body)
        self._under_way.interrupted(unique)

    def _destroy(self, request: Request) -> bytes:
        return b""

    def _syncfs(self, request: Request) -> bytes:
        self.context.vfs.sync()
        return b""

    def _make_handlers(self) -> dict[int, _Handler]:
        """Opcode → handler. What is not here is never asked for again, or not at all."""
        names, files = Names(self.context), Files(self.context)
        directories, metadata = Directories(self.context), Metadata(self.context)
        inodes = self.context.inodes

        def copied(request: Request) -> Kind:
            return Kind.STORE

        def aliases(request: Request) -> Kind:
            return Kind.NAMES if request.nodeid >= FIRST_VERSION else Kind.LOCAL

        def names_of(request: Request) -> Kind:
            # Those in the root, in collections and in artifacts are the store's.
            return Kind.LOCAL if inodes.is_staged(request.nodeid) else Kind.NAMES

        return {
            protocol.FUSE_LOOKUP: _Handler(
                names.lookup,
                is_quick_on_versions=True,
                waits_for=names_of,
                may_be_given_up=True,
                undo=names.undo_lookup,
            ),
            protocol.FUSE_FORGET: _Handler(self._forget, is_quick=True),
            protocol.FUSE_GETATTR: _Handler(metadata.getattr, is_quick_on_versions=True, may_be_given_up=True),
            protocol.FUSE_SETATTR: _Handler(metadata.setattr, waits_for=metadata.setattr_waits_for),
            protocol.FUSE_READLINK: _Handler(names.readlink, is_quick_on_versions=True, may_be_given_up=True),
            protocol.FUSE_SYMLINK: _Handler(names.symlink),
            protocol.FUSE_MKNOD: _Handler(names.mknod),
            protocol.FUSE_MKDIR: _Handler(names.mkdir, waits_for=names_of),
            protocol.FUSE_UNLINK: _Handler(names.unlink, waits_for=names_of),
            protocol.FUSE_RMDIR: _Handler(names.rmdir, waits_for=names_of),
            protocol.FUSE_RENAME: _Handler(names.rename),
            protocol.FUSE_LINK: _Handler(names.link),
            # Of versions, by the thread that leads only: `prefill` needs that.
            protocol.FUSE_OPEN: _Handler(files.open, is_quick_on_versions=True),
            protocol.FUSE_READ: _Handler(
                files.read,
                try_at_once=files.read_at_once,
                waits_for=files.bytes_wait_for,
                is_here=files.are_bytes_here,
                may_be_given_up=True,
            ),
            protocol.FUSE_WRITE: _Handler(files.write, waits_for=files.bytes_wait_for),
            protocol.FUSE_STATFS: _Handler(metadata.statfs, may_be_given_up=True),
            protocol.FUSE_RELEASE: _Handler(files.release, is_quick_on_versions=True),
            protocol.FUSE_FSYNC: _Handler(files.fsync),
            protocol.FUSE_FLUSH: _Handler(files.flush, try_at_once=files.flush_at_once),
            protocol.FUSE_SETXATTR: _Handler(metadata.setxattr, waits_for=metadata.setxattr_waits_for),
            protocol.FUSE_GETXATTR: _Handler(metadata.getxattr, waits_for=aliases, may_be_given_up=True),
            protocol.FUSE_LISTXATTR: _Handler(metadata.listxattr, is_quick=True),
            protocol.FUSE_REMOVEXATTR: _Handler(metadata.removexattr, is_quick=True),
            protocol.FUSE_OPENDIR: _Handler(directories.opendir, is_quick_on_versions=True),
            protocol.FUSE_READDIR: _Handler(
                directories.readdir, is_quick_on_versions=True, waits_for=names_of, may_be_given_up=True
            ),
            protocol.FUSE_RELEASEDIR: _Handler(directories.releasedir, is_quick=True),
            protocol.FUSE_FSYNCDIR: _Handler(directories.fsyncdir),
            protocol.FUSE_CREATE: _Handler(files.create),
            protocol.FUSE_INTERRUPT: _Handler(self._interrupt, is_quick=True),
            protocol.FUSE_DESTROY: _Handler(self._destroy, is_quick=True),
            protocol.FUSE_BATCH_FORGET: _Handler(self._batch_forget, is_quick=True),
            protocol.FUSE_FALLOCATE: _Handler(files.fallocate, waits_for=files.bytes_wait_for),
            protocol.FUSE_READDIRPLUS: _Handler(
                directories.readdirplus,
                is_quick_on_versions=True,
                waits_for=names_of,
                may_be_given_up=True,
                undo=directories.undo_readdirplus,
                afterwards=directories.pack_ahead,
            ),
            protocol.FUSE_RENAME2: _Handler(names.rename2),
            protocol.FUSE_LSEEK: _Handler(files.lseek),
            protocol.FUSE_COPY_FILE_RANGE: _Handler(files.copy_file_range, waits_for=copied),
            protocol.FUSE_SYNCFS: _Handler(self._syncfs),
            protocol.FUSE_STATX: _Handler(metadata.statx, is_quick_on_versions=True, may_be_given_up=True),
            protocol.FUSE_COPY_FILE_RANGE_64: _Handler(files.copy_file_range_64, waits_for=copied),
        }
