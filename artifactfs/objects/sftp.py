"""A store on an SFTP server through fsspec and paramiko.

With paramiko a file system is one connection, on which two threads take each other's answers away: so a call has one to
itself, kept for the next call unless it broke. What is written is written aside and renamed; an exclusive create is the
rename of protocol version 3, which fails on an existing name.

Threading: any thread; the lock guards the idle connections and is not held across I/O.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

from artifactfs.errors import NotFound
from artifactfs.objects import bounds
from artifactfs.objects.layout import TEMPORARY_PREFIX
from artifactfs.objects.remote import FsspecStore


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
