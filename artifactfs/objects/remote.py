"""A store on any fsspec file system other than the local disk, memory:// included.

What fsspec says of an exclusive create is not believed: ``mode="create"`` is ignored by some file systems, racy in
others, and clients that retry report "already exists" for their own write. So the record is one small PUT, any error is
followed by reading the key back (our bytes = won, others = lost, nothing = again), and a store is probed once by
creating a name twice. SFTP has its own primitive, the rename of protocol version 3, which fails on an existing name.

Threading: any thread. The file system is built at the first call, under a lock, never before a fork. One process-wide
lock makes every step on memory:// one, its check-then-set too. fsspec's listing caches never expire, so they are off.
"""

# ruff: noqa: D102 - ObjectStore documents the methods

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from datetime import datetime, timezone
from typing import Any, TypeVar

import fsspec
from fsspec.asyn import AsyncFileSystem

from artifactfs.errors import AlreadyExists, ArtifactError, NotFound, UnsafeStore
from artifactfs.objects.hashing import HashedFile
from artifactfs.objects.layout import MAX_RECORD_BYTES, TEMPORARY_PREFIX
from artifactfs.objects.store import Buffer, Listing, ObjectStore, Outcome, StoredFile, translate

# A PUT to these shows the whole object or none of it; elsewhere a file is written aside and renamed.
_WHOLE_PUTS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "memory"})
_SFTP = frozenset({"sftp", "ssh"})
_CREATE_ATTEMPTS = 5
_FIRST_PAUSE_S = 0.05
_PARALLEL_TRANSFERS = 8
_memory_lock = threading.Lock()
T = TypeVar("T")


class FsspecStore(ObjectStore):
    """A store at an fsspec URL. `single_writer` waives the sound exclusive create: the caller promises to be alone."""

    parallel_transfers = _PARALLEL_TRANSFERS

    def __init__(self, url: str, *, single_writer: bool = False, **storage_options: Any) -> None:
        self.url = url
        self._protocol = url.partition("://")[0].lower()
        self._single_writer = single_writer
        self._options = storage_options
        self._lock = threading.Lock()
        self._opened: tuple[Any, str] | None = None
        self._sound: bool | None = None

    def _open(self) -> tuple[Any, str]:
        """The file system and the root's path in it."""
        with self._lock:
            if self._opened is None:
                cls = fsspec.get_filesystem_class(self._protocol)
                options = dict(self._options)
                if issubclass(cls, AsyncFileSystem):
                    options.setdefault("use_listings_cache", False)
                fs, root = fsspec.url_to_fs(self.url, **options)
                self._opened = fs, str(root).rstrip("/")
            return self._opened

    def _call(self, what: str, action: Callable[[Any, str], T], key: str) -> T:
        """Run `action` with the file system and the path of `key`, its errors translated."""
        try:
            fs, root = self._open()
            with _memory_lock if self._protocol == "memory" else nullcontext():
                return action(fs, f"{root}/{key}" if key else root or "/")
        except Exception as error:
            raise translate(error, f"cannot {what} {key or 'the top'} of {self.url}") from error

    # -- reading ----------------------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes:
        return self._call("read", lambda fs, path: bytes(fs.cat_file(path)), key)

    def get_range(self, key: str, offset: int, size_bytes: int) -> bytes:
        if size_bytes <= 0:
            return b""
        return self._call("read", lambda fs, path: bytes(fs.cat_file(path, start=offset, end=offset + size_bytes)), key)

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        if not keys:
            return []

        def fetch(fs: Any, root: str) -> list[Any]:
            # A range, because a plain read costs s3fs a HEAD more.
            paths = [f"{root}/{key}" for key in keys]
            ends = [2 * MAX_RECORD_BYTES] * len(keys)
            return list(fs.cat_ranges(paths, [0] * len(keys), ends, on_error="return"))

        found: list[bytes | None] = []
        for key, answer in zip(keys, self._call("read from", fetch, ""), strict=True):
            if isinstance(answer, Exception):
                error = translate(answer, f"cannot read {key} of {self.url}")
                if not isinstance(error, NotFound):
                    raise error from answer
                found.append(None)
            else:
                found.append(bytes(answer))
        return found

    def listing(self, prefix: str) -> Listing:
        def ls(fs: Any, path: str) -> list[dict[str, Any]]:
            fs.invalidate_cache(path)
            try:
                return list(fs.ls(path, detail=True))
            except (FileNotFoundError, NotADirectoryError):
                return []

        files: list[str] = []
        directories: list[str] = []
        _, root = self._call("open", lambda fs, path: (fs, path), prefix)
        for item in self._call("list", ls, prefix):
            path = str(item["name"]).rstrip("/")
            name = path.rpartition("/")[2]
            # Object stores list a folder's own marker among what is in it.
            if name and path.lstrip("/") != root.strip("/") and not name.startswith(TEMPORARY_PREFIX):
                (directories if item.get("type") == "directory" else files).append(name)
        return Listing(files, directories)

    def walk(self, prefix: str) -> Iterator[StoredFile]:
        def find(fs: Any, path: str) -> dict[str, dict[str, Any]]:
            fs.invalidate_cache(path)
            try:
                return dict(fs.find(path, detail=True))
            except FileNotFoundError:
                return {}

        root = self._call("open", lambda fs, path: path.lstrip("/"), "")
        for path, item in self._call("list", find, prefix).items():
            key = path.lstrip("/")[len(root) :].lstrip("/")
            yield StoredFile(key, int(item.get("size") or 0), _changed_ns(item))

    def exists(self, key: str) -> bool:
        try:
            self.size(key)
        except NotFound:
            return False
        return True

    def size(self, key: str) -> int:
        def info(fs: Any, path: str) -> int:
            fs.invalidate_cache(fs._parent(path))
            return int(fs.info(path)["size"] or 0)

        return self._call("look for", info, key)

    # -- writing ----------------------------------------------------------------------------------------------------

    def put(self, key: str, data: Buffer) -> None:
        self._call("store", lambda fs, path: self._put_whole(fs, path, lambda to: fs.pipe_file(to, bytes(data))), key)

    def replace(self, key: str, data: Buffer) -> None:
        self.put(key, data)

    def put_file(self, key: str, file: HashedFile) -> None:
        def send(fs: Any, target: str) -> None:
            self._put_whole(fs, target, lambda to: fs.put_file(file.path, to))

        file.check_unchanged()
        self._call("store", send, key)
        try:
            file.check_unchanged()
        except ArtifactError:
            # What was sent may be anything, and must not stay under this name.
            self.delete(key)
            raise

    def _put_whole(self, fs: Any, path: str, write: Callable[[str], object]) -> None:
        if self._protocol in _WHOLE_PUTS:
            write(path)
            return
        parent = path.rpartition("/")[0]
        fs.makedirs(parent, exist_ok=True)
        temporary = f"{parent}/{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        try:
            write(temporary)
            fs.mv(temporary, path)
        except BaseException:
            if fs.exists(temporary):
                fs.rm_file(temporary)
            raise

    def delete(self, key: str) -> None:
        def remove(fs: Any, path: str) -> None:
            try:
                fs.rm_file(path)
            except FileNotFoundError:
                return

        self._call("delete", remove, key)

    def put_exclusive(self, key: str, data: Buffer) -> Outcome:
        data = bytes(data)
        pause_s = _FIRST_PAUSE_S
        for attempt in range(_CREATE_ATTEMPTS):
            try:
                self._call("create", lambda fs, path: self._create(fs, path, data), key)
                return Outcome.CREATED
            except ArtifactError as error:
                found = self.get_many([key])[0]
                if found is not None:
                    return Outcome.CREATED if found == data else Outcome.TAKEN
                # "Already exists" with nothing there is a lost race with a conflict (409), worth another try.
                hopeless = not (error.transient or isinstance(error, AlreadyExists))
                if hopeless or attempt == _CREATE_ATTEMPTS - 1:
                    raise
            time.sleep(pause_s)
            pause_s *= 2
        raise AssertionError("the last attempt returns or raises")

    def _create(self, fs: Any, path: str, data: bytes) -> None:
        if self._single_writer or self._protocol == "memory":
            if fs.exists(path):
                raise FileExistsError(path)
            self._put_whole(fs, path, lambda to: fs.pipe_file(to, data))
        elif self._protocol in _SFTP:
            parent = path.rpartition("/")[0]
            fs.makedirs(parent, exist_ok=True)
            temporary = f"{parent}/{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
            fs.pipe_file(temporary, data)
            try:
                fs.ftp.rename(temporary, path)
            except OSError:
                fs.rm_file(temporary)
                raise
        else:
            fs.pipe_file(path, data, mode="create")

    def require_exclusive(self) -> None:
        if self._single_writer or self._protocol == "memory":
            return
        if self._sound is None:
            self._sound = self._probe()
        if not self._sound:
            raise UnsafeStore(
                f"{self.url}: creating a name twice did not fail, so two writers could overwrite each other's "
                "versions; pass single_writer=True if nothing else ever writes to this store at the same time"
            )

    def _probe(self) -> bool:
        key = f"{TEMPORARY_PREFIX}probe-{uuid.uuid4().hex}"
        first = uuid.uuid4().hex.encode()
        try:
            if self.put_exclusive(key, first) is not Outcome.CREATED:
                return False
            second = self.put_exclusive(key, uuid.uuid4().hex.encode())
            return second is Outcome.TAKEN and self.get_many([key])[0] == first
        except ArtifactError as error:
            if type(error) is not ArtifactError:
                raise
            return False  # the file system does not know the mode at all (TypeError, NotImplementedError)
        finally:
            self.delete(key)


def _changed_ns(item: dict[str, Any]) -> int | None:
    """When a listed file was written; every file system has its own word for it."""
    for name in ("LastModified", "last_modified", "updated", "mtime", "modified", "created"):
        value = item.get(name)
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value.replace("Z", "+00:00"))
            except ValueError:
                continue
        if isinstance(value, datetime):
            value = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
            return int(value.timestamp() * 1_000_000_000)
        if isinstance(value, int | float):
            return int(value * 1_000_000_000)
    return None
