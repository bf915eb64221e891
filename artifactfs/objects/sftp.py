"""A store on an SFTP server through fsspec and paramiko.

With paramiko a file system is one connection, on which two threads take each other's answers away: so a call has one to
itself, kept for the next call unless it broke. What is written is written aside and renamed; an exclusive create is the
rename of protocol version 3, which fails on an existing name.

Threading: any thread; the lock guards the idle connections and is not held across I/O.
"""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, BinaryIO, TypeVar

from artifactfs.errors import NotFound, StoreTimeout
from artifactfs.objects import bounds
from artifactfs.objects.layout import TEMPORARY_PREFIX
from artifactfs.objects.remote import FsspecStore

_log = logging.getLogger(__name__)

# What a server answers at once, as paramiko and OpenSSH's own client ask for.
_REQUEST_BYTES = 32 << 10
# So much is asked for before the first answer: 64 MiB from a server 50 ms away come in 4.3 s. With each answer waited
# for, 8 MiB took 16.7 s, and a pack of 16 MiB took 15 s to be written even on loopback, where it takes 0.24.
_AT_ONCE_BYTES = 8 << 20
_PIECE_BYTES = 1 << 20
T = TypeVar("T")


class SftpStore(FsspecStore):
    """A store at ``sftp://user@host/path``."""

    def __init__(self, url: str, *, single_writer: bool = False, **storage_options: Any) -> None:
        super().__init__(url, single_writer=single_writer, **storage_options)
        self._idle: list[tuple[Any, str]] = []

    def _build(self) -> tuple[Any, str]:
        # Else fsspec gives the same connection to all who give the same options.
        self._options["skip_instance_cache"] = True
        fs, root = super()._build()
        fs.ftp.get_channel().settimeout(bounds.CALL_TIMEOUT_S)
        return fs, root

    @contextlib.contextmanager
    def _connection(self) -> Iterator[tuple[Any, str]]:
        with self._lock:
            held = self._idle.pop() if self._idle else None
        fs, root = held or self._build()
        intact = False
        try:
            yield fs, root
            intact = True
        except (FileNotFoundError, FileExistsError, PermissionError, NotFound):
            intact = True
            raise
        finally:
            with self._lock:
                intact = intact and len(self._idle) < bounds.PARALLEL_TRANSFERS
                if intact:
                    self._idle.append((fs, root))
            if not intact:
                fs.client.close()

    def _call(
        self,
        what: str,
        action: Callable[[Any, str, dict[str, float]], T],
        key: str,
        *,
        timeout_s: float = bounds.CALL_TIMEOUT_S,
        repeat: bool = True,
    ) -> T:
        def timed(fs: Any, path: str, bound: dict[str, float]) -> T:
            # The channel's own time-out begins anew with each byte.
            end = threading.Timer(timeout_s, fs.client.close)
            end.daemon = True
            end.start()
            try:
                return action(fs, path, bound)
            except (OSError, EOFError) as error:
                if end.finished.is_set():
                    raise StoreTimeout(f"cannot {what} {key} of {self.url} within {timeout_s:.0f} s") from error
                raise
            finally:
                end.cancel()

        return super()._call(what, timed, key, timeout_s=timeout_s, repeat=repeat)

    def _read(self, fs: Any, path: str, start: int, end: int, bound: dict[str, float]) -> bytes:
        with fs.ftp.open(path, "rb") as file:
            # Paramiko asks ahead in a thread of its own, where an error would be printed and go nowhere.
            file._prefetch_thread = partial(_ask, file._prefetch_thread)
            end = min(end, file.stat().st_size)
            pieces: list[bytes] = []
            for first in range(start, end, _AT_ONCE_BYTES):
                last = min(first + _AT_ONCE_BYTES, end)
                spans = [(offset, min(_REQUEST_BYTES, last - offset)) for offset in range(first, last, _REQUEST_BYTES)]
                pieces += file.readv(spans)
            return b"".join(pieces)

    def _write(self, fs: Any, path: str, data: bytes, bound: dict[str, float]) -> None:
        with fs.ftp.open(path, "wb") as file:
            _write_ahead(file, io.BytesIO(data))

    def _write_file(
        self, fs: Any, path: str, place: str, bound: dict[str, float], on_sent: Callable[[int], None]
    ) -> None:
        with open(place, "rb") as source, fs.ftp.open(path, "wb") as file:
            _write_ahead(file, source, on_sent)

    def _create(self, fs: Any, path: str, data: bytes, bound: dict[str, float]) -> None:
        if self.single_writer:
            super()._create(fs, path, data, bound)
            return
        parent = path.rpartition("/")[0]
        fs.makedirs(parent, exist_ok=True)
        temporary = f"{parent}/{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        fs.pipe_file(temporary, data)
        try:
            fs.ftp.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(Exception):
                fs.rm_file(temporary)
            raise


def _ask(ask: Callable[..., None], *arguments: Any) -> None:
    try:
        ask(*arguments)
    except Exception as error:  # noqa: BLE001
        # Whoever waits for the answers meets the same broken connection, or waits no longer than the channel allows.
        _log.debug("no more is asked for: %s", error)


def _write_ahead(file: Any, source: BinaryIO, on_sent: Callable[[int], None] = lambda _: None) -> None:
    """Write all of `source`, many requests under way at once. Raises what any of them was answered."""
    size_bytes = source.seek(0, io.SEEK_END)
    source.seek(0)
    file.set_pipelined(True)
    while piece := source.read(min(_PIECE_BYTES, max(0, size_bytes - 1 - source.tell()))):
        file.write(piece)
        on_sent(len(piece))
    # The answers that have not been looked at are waited for by a request that is not sent ahead.
    file.set_pipelined(False)
    file.write(source.read())
