"""The daemon's log: where it is, how it looks, and that no credential gets into it.

Used by the daemon and by the commands that name the log file. Threading: the file names are pure;
`set_up` is called once, before the daemon starts threads; `logging` does its own locking.

A line is ``time LEVEL thread logger: message``. WARNING and above is only for what an operator should look at.
"""

from __future__ import annotations

import hashlib
import logging
import logging.handlers
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from artifactfs import names
from artifactfs.redaction import redact, remember

if TYPE_CHECKING:
    from mount.settings import MountSettings

logger = logging.getLogger(__name__)

LINE_FORMAT = "%(asctime)s.%(msecs)03dZ %(levelname)s %(threadName)s %(name)s: %(message)s"
MAX_FILE_BYTES = 5 * 1024 * 1024
KEPT_FILES = 3

# Two of the longest names (a log and its rotated copies) must fit in NAME_MAX, 255 bytes.
_MAX_ESCAPED = 200
_OURS = ("artifactfs", "mount")


def file_stem(mountpoint: Path) -> str:
    """The name, without suffix, of the files that belong to a mountpoint: its path, percent-encoded."""
    escaped = names.escape(str(mountpoint).lstrip("/"))
    if len(escaped) <= _MAX_ESCAPED:
        return escaped
    return f"{escaped[:_MAX_ESCAPED]}-{hashlib.sha256(escaped.encode()).hexdigest()[:16]}"


def log_file(state_dir: Path, mountpoint: Path) -> Path:
    """Where the daemon of a mountpoint logs."""
    return state_dir / "logs" / f"{file_stem(mountpoint)}.log"


class RedactingFormatter(logging.Formatter):
    """Formats a line, tracebacks included, and hides what is secret in it."""

    def __init__(self) -> None:
        super().__init__(LINE_FORMAT, datefmt="%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        return redact(super().format(record))


def set_up(settings: MountSettings, *, to_stderr: bool) -> None:
    """Log to the file of this mount (bounded, rotating) and, when asked, to stderr."""
    path = log_file(settings.state_dir, settings.mountpoint)
    remember(settings.url, settings.options)
    formatter = RedactingFormatter()
    handlers: list[logging.Handler] = [
        logging.handlers.RotatingFileHandler(
            path, maxBytes=MAX_FILE_BYTES, backupCount=KEPT_FILES, encoding="utf-8", errors="backslashreplace"
        )
    ]
    if to_stderr:
        handlers.append(logging.StreamHandler())
    root = logging.getLogger()
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    # Libraries at DEBUG print requests with their signatures, and drown what matters.
    root.setLevel(logging.WARNING)
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.DEBUG if settings.verbose else logging.INFO)
    logging.captureWarnings(True)
    log_uncaught()


def log_uncaught() -> None:
    """Send exceptions that nobody catches to the log: those of threads, of finalisers and of the main thread."""

    def in_main(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        logger.critical("uncaught exception", exc_info=(kind, error, traceback))

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not issubclass(args.exc_type, SystemExit):
            name = args.thread.name if args.thread else "unknown"
            exc_info = (args.exc_type, args.exc_value, args.exc_traceback)
            logger.critical("uncaught exception in thread %s", name, exc_info=exc_info)

    def unraisable(args: sys.UnraisableHookArgs) -> None:
        logger.error("exception ignored in %r: %s", args.object, args.err_msg or "", exc_info=args.exc_value)

    sys.excepthook = in_main
    threading.excepthook = in_thread
    sys.unraisablehook = unraisable
