"""The daemon process of one mount: ``python -m mount.daemon``, settings as JSON on a descriptor.

Started by `mount.launch` as a fresh process: libraries with threads or event loops of their own do not survive a
fork, so the store is touched here and nowhere else. It tells the starter, on a pipe, that the mount is ready or why
it cannot be; later it is talked to through extended attributes and signals only.

Threading: the main thread owns start and end. It handles signals and waits for events; the driver serves in a second
thread, because Python runs signal handlers in the main thread only, and never while that is inside the C loop of a
FUSE library. (libfuse puts its own handlers only where none are, so it leaves these alone. The kernel gives a signal
for the process to its main thread, which waits interruptibly.) `_events` is the one thing shared: a SimpleQueue, safe
to put to from a signal handler.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import enum
import faulthandler
import logging
import os
import queue
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING

import msgspec

from artifactfs.errors import ArtifactError, NotFound, StoreUnreachable
from artifactfs.redaction import redact
from mount import logs, mounts, preflight, wire
from mount.processes import Process
from mount.settings import MountSettings, SettingsError

if TYPE_CHECKING:
    from artifactfs.managers.base import ArtifactManager
    from mount.area import StagingArea
    from mount.committer import Committer
    from mount.drivers import Driver
    from mount.vfs import Vfs

# By name: this module runs as __main__.
logger = logging.getLogger("mount.daemon")

# Commits under way get this long to finish when the mount ends; what is left is taken up by the next mount.
COMMITTER_STOP_S = 10.0
# How long the driver may take to end after the unmount. A bind mount in another mount namespace, or files that stay
# open, keep a connection alive without limit; ending the process closes it.
SERVE_END_S = 1.0
_UNMOUNT_RETRY_S = 0.1
_LOOK_UP_S = 1.0


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the daemon tells its starter, once: an `error` in one line, or None when the mount is about to answer."""

    error: str | None = None


class Event(enum.Enum):
    """What the main thread waits for."""

    READY = "ready"
    """The driver has mounted and is about to answer."""
    STOP = "stop"
    """A signal asks to end."""
    ENDED = "ended"
    """The driver has stopped serving: unmounted, or failed."""


class ServeFailed(ArtifactError):
    """The driver could not mount."""


class Stopped(BaseException):
    """A signal to end that came before the mount was made."""


# From <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def bound_heap() -> None:
    """Have the C library give freed memory back; it must be called before threads are started.

    glibc by itself keeps a heap for each of many threads, and after a buffer of 1 MiB was freed, tens of MiB in each
    before it trims it. Eight writers of files up to 64 MiB: 65 MiB resident after a minute and growing, with this 40.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none, and needs none
        mallopt(_M_ARENA_MAX, 2)
        mallopt(_M_MMAP_THRESHOLD, 4 << 20)
        mallopt(_M_TRIM_THRESHOLD, 2 << 20)


def raise_descriptor_limit() -> None:
    """Take as many open files as the system allows this process: each open staged file is one of them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (ValueError, OSError) as error:
        logger.info("cannot raise the limit of open files to %d: %s", most, error)


class Daemon:
    """One mount from start to end."""

    def __init__(self, settings: MountSettings, on_ready: Callable[[], None]) -> None:
        """`on_ready` is called in the main thread when the mount is about to answer."""
        self._settings = settings
        self._on_ready = on_ready
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._entry: mounts.MountEntry | None = None
        self._end_fd: int | None = None
        self._area: StagingArea | None = None
        self._is_serving = False

    def stop(self, _number: int, _frame: FrameType | None = None) -> None:
        """Signal handler: unmount and end. Raises Stopped while the store is still being opened."""
        if not self._is_serving:
            raise Stopped
        self._events.put(Event.STOP)

    def run(self) -> None:
        """Mount, serve until unmounted, leave what is pending for the next mount.

        Raises what keeps the store from being opened or mounted: ArtifactError, OSError, or a defect.
        """
        settings = self._settings
        bound_heap()
        raise_descriptor_limit()
        with contextlib.ExitStack() as stack:
            manager = open_store(settings)
            driver = self._load_driver()
            vfs = self._build(manager, driver, stack)
            logger.info("mounting %s on %s, driver %s", redact(settings.url), settings.mountpoint, driver.name)
            preflight.take_mountpoint(settings)
            self._is_serving = True
            serving = threading.Thread(target=self._serve, args=(driver, vfs), name="serve", daemon=True)
            serving.start()
            self._wait()
        if isinstance(self._failure, ArtifactError):
            # What the FUSE library had to say about it went to stderr, which is the log.
            log_file = logs.log_file(settings.state_dir, settings.mountpoint)
            raise ServeFailed(f"{self._failure}; see {log_file}") from self._failure
        if self._failure is not None:
            raise self._failure
        mounts.remove_record(settings.state_dir, settings.mountpoint)
        logger.info("%s is unmounted", settings.mountpoint)

    def _load_driver(self) -> Driver:
        from mount import drivers

        return drivers.load(self._settings.driver)

    def _build(self, manager: ArtifactManager, driver: Driver, stack: contextlib.ExitStack) -> Vfs:
        """The file system, with its staging area and committer unless it is read-only; `stack` takes them down."""
        from mount.area import StagingArea
        from mount.committer import Committer
        from mount.vfs import Vfs

        settings = self._settings
        log_file = logs.log_file(settings.state_dir, settings.mountpoint)
        if settings.read_only:
            vfs = Vfs(manager, settings, None, None, driver=driver.name, log_file=log_file)
            stack.callback(vfs.close)
            return vfs
        area = self._area = StagingArea.open(manager, settings)
        stack.callback(area.close)
        # The committer tells the file system of new versions, the file system asks the committer for them.
        committer = Committer(area, manager, settings, on_commit=lambda *names: vfs.on_commit(*names))
        vfs = Vfs(manager, settings, area, committer, driver=driver.name, log_file=log_file)
        stack.callback(vfs.close)
        committer.start()
        stack.callback(self._finish, committer, area)
        return vfs

    def _finish(self, committer: Committer, area: StagingArea) -> None:
        """After the unmount: commit what there is time for, and tell the rest; a second signal cuts that short."""
        from mount.left import left_in

        settings = self._settings
        in_time = f"not committed within {settings.drain_timeout_s:g} s"
        is_left = committer.is_leaving
        if is_left:
            in_time = "the unmount did not wait for its commit"
        self._drop_events()
        committer.drain(settings.drain_timeout_s, give_up=lambda: not self._events.empty())
        if not self._events.empty():
            in_time = "a second signal did not wait for its commit"
        committer.stop(COMMITTER_STOP_S)
        try:
            unfinished = {} if is_left else committer.unfinished()
            left = left_in(area.root, in_time, on_request=settings.commit_after_s is None, unfinished=unfinished)
        except OSError as error:
            logger.error("cannot tell what is left for the next mount: %s", error)
            return
        for each in left:
            logger.info(
                "left for the next mount: %s %s, %d files, %d bytes: %s",
                each.label,
                each.where,
                each.files,
                each.size_bytes,
                area.shown(each.why),
            )

    def _drop_events(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._events.get_nowait()

    def _serve(self, driver: Driver, vfs: Vfs) -> None:
        """Body of the thread that the driver serves in."""
        try:
            driver.serve(vfs, self._settings, lambda: self._events.put(Event.READY))
        except BaseException as error:  # noqa: BLE001 - raised again by run() in the main thread
            self._failure = error
        finally:
            self._events.put(Event.ENDED)

    def _wait(self) -> None:
        """Handle events until the driver has ended, or has had its time to."""
        while (event := self._next_event()) is not Event.ENDED:
            if event is Event.READY:
                self._announce()
            elif not self._end():
                return

    def _next_event(self) -> Event:
        """The next event. A signal that comes just before this thread waits does not wake it, so it looks up."""
        while True:
            with contextlib.suppress(queue.Empty):
                return self._events.get(timeout=_LOOK_UP_S)

    def _announce(self) -> None:
        settings = self._settings
        self._entry = mounts.entry_at(settings.mountpoint)
        # Kept for as long as this process lives: once unmounted, the connection cannot be found by its number.
        self._end_fd = mounts.open_end(self._entry) if self._entry is not None else None
        daemon = Process.of(os.getpid())
        assert daemon is not None
        log_file = str(logs.log_file(settings.state_dir, settings.mountpoint))
        place = str(self._area.place) if self._area is not None else None
        record = mounts.Record(str(settings.mountpoint), redact(settings.url), log_file, daemon, place)
        try:
            mounts.write_record(settings.state_dir, record)
        except OSError:
            # The start has failed, and a start that failed leaves nothing mounted.
            self._unmount_own()
            raise
        logger.info("mounted %s on %s", record.store, settings.mountpoint)
        self._on_ready()

    def _end(self) -> bool:
        """Unmount; whether the driver is still to report its end. False when it had its time and did not."""
        logger.info("asked to end: unmounting %s", self._settings.mountpoint)
        deadline = time.monotonic() + SERVE_END_S
        aborted = False
        while True:
            self._unmount_own()
            with contextlib.suppress(queue.Empty):
                event = self._events.get(timeout=_UNMOUNT_RETRY_S)
                if event is Event.READY:
                    # The signal came while the driver was still mounting.
                    self._announce()
                elif event is Event.ENDED:
                    return False
            if time.monotonic() < deadline:
                continue
            if not aborted and self._abort():
                logger.info("something still holds the connection: aborted it")
                aborted, deadline = True, time.monotonic() + SERVE_END_S
                continue
            logger.info("something still holds the connection; it ends with this process")
            return False

    def _abort(self) -> bool:
        """End the connection of this mount, whoever holds on to it; False where that cannot be done."""
        if self._entry is None:
            return False
        if self._end_fd is None:
            return mounts.abort(self._entry)
        try:
            os.write(self._end_fd, mounts.END)
        except OSError:
            return False
        return True

    def _unmount_own(self) -> None:
        """Take the mountpoint out of sight, if it is this mount that is there."""
        mountpoint = self._settings.mountpoint
        entry = mounts.entry_at(mountpoint)
        if entry is None or self._entry is None or entry.device != self._entry.device:
            return
        try:
            mounts.unmount(mountpoint)
        except mounts.NotMounted:
            return
        except mounts.MountBusy as error:
            logger.warning("%s; unmounting all the same, because this process was told to end", error)
            mounts.unmount(mountpoint, lazy=True)


def open_store(settings: MountSettings) -> ArtifactManager:
    """The store of a mount, made when it is missing and may be made. Raises ArtifactError.

    One that cannot be reached and was mounted before, with the same cache, is served from there.
    """
    import artifactfs
    from mount import known_stores
    from mount.listing import memory_of

    manager: ArtifactManager = artifactfs.connect(settings.url, **settings.options)
    known_stores.check(settings.state_dir, manager)
    try:
        if settings.read_only:
            # Reading is the test of what is there: a missing store, another format, missing rights.
            if manager.is_made() is False:
                raise NotFound(f"no store at {redact(settings.url)}: nothing is there, and --read-only makes none")
            manager.list_collection_names()
        else:
            manager.ensure_created()
            if manager.made_store:
                logger.info("made a new store at %s", redact(settings.url))
    except StoreUnreachable as error:
        memory = memory_of(manager, settings)
        if memory is None or not memory.recall():
            raise
        logger.warning("mounting what is known of a store that does not answer: %s", error)
    known_stores.remember(settings.state_dir, manager)
    return manager


# -- the process -------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the daemon process; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m mount.daemon", description="Started by 'artifactfs mount'.")
    parser.add_argument("--settings-fd", type=int, required=True)
    parser.add_argument("--report-fd", type=int, help="background: where to tell that the mount is ready")
    options = parser.parse_args(arguments)
    faulthandler.enable()
    settings = _read_settings(options.settings_fd)
    foreground = options.report_fd is None
    logs.set_up(settings, to_stderr=foreground)
    report = _say_error if foreground else _Reporter(options.report_fd)
    try:
        _run(settings, report, foreground)
    except Stopped:
        logger.info("told to end before the mount was made")
        report(Report("stopped before the mount was made"))
        return 1
    except (ArtifactError, SettingsError, OSError) as error:
        logger.error("cannot go on: %s", error, exc_info=settings.verbose)
        report(Report(redact(str(error))))
        return 1
    except Exception as error:
        logger.critical("cannot go on", exc_info=True)
        report(Report(redact(f"{type(error).__name__}: {error}")))
        return 1
    return 0


def _run(settings: MountSettings, report: Callable[[Report], None], foreground: bool) -> None:
    daemon = Daemon(settings, on_ready=lambda: report(Report()))
    stops = {signal.SIGTERM, signal.SIGINT}
    if foreground:
        # The terminal is gone: nobody is left to stop it.
        stops.add(signal.SIGHUP)
    else:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in stops:
        signal.signal(number, daemon.stop)
    try:
        daemon.run()
    finally:
        # It is ending already; a starter that has heard of a failure does not wait politely.
        for number in stops:
            signal.signal(number, signal.SIG_IGN)


def _say_error(report: Report) -> None:
    """Foreground: what the starter would print."""
    if report.error is not None:
        sys.stderr.write(f"artifactfs: {report.error}\n")


class _Reporter:
    """Background: tells the starter on a pipe, and closes it."""

    def __init__(self, fd: int) -> None:
        # Programs that this process starts (fusermount3) must not keep the pipe open.
        os.set_inheritable(fd, False)
        self._fd: int | None = fd

    def __call__(self, report: Report) -> None:
        fd, self._fd = self._fd, None
        if fd is None:
            return
        # A starter that gave up has closed its end.
        with contextlib.suppress(BrokenPipeError):
            os.write(fd, wire.encode(report) + b"\n")
        os.close(fd)


def _read_settings(fd: int) -> MountSettings:
    with open(fd, "rb") as file:
        settings = MountSettings.from_json(file.read())
    if fd == sys.stdin.fileno():
        # Else the next file to be opened would be the standard input of programs started here; fusermount3, which
        # mounts for ordinary users, does not start without one.
        os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)
    return settings


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    # Threads inside a FUSE library or a hanging backend call would hold up an orderly end of the interpreter.
    os._exit(status)
