"""A store on any fsspec file system but the local disk and S3 (`objects.s3`), memory:// included.

`objects.azure` and `objects.sftp` build on it.

What fsspec says of an exclusive create is not believed: ``mode="create"`` is ignored by some file systems, racy in
others, and clients that retry report "already exists" for their own write. So the record is one small PUT, any error is
followed by reading the key back (our bytes = won, others = lost, nothing = again), and a store is probed once by
creating a name twice. SFTP has its own primitive, the rename of protocol version 3, which fails on an existing name.

Every call is bounded: by a time-out of ours on asynchronous file systems, by those of the client library on others
(`objects.clients` sets them). Calls that may be repeated are, as `objects.patience` says; the library itself tries once
where it can be told to.

Threading: any thread. The file system is built at the first call, under a lock, never before a fork. One process-wide
lock makes every step on memory:// one, its check-then-set too. A single writer's creates wait for each other, each for
a bounded time: its threads would replace each other's records. fsspec's listing caches never expire, so they are off.
"""

# ruff: noqa: D102 - ObjectStore documents the methods

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import nullcontext
from typing import Any, TypeVar

import fsspec
from fsspec.asyn import AsyncFileSystem, sync
from fsspec.callbacks import Callback

from artifactfs.errors import ArtifactError, NotFound
from artifactfs.longpaths import reach
from artifactfs.names import is_clean_path
from artifactfs.objects import bounds
from artifactfs.objects.clients import try_once, tuned_options
from artifactfs.objects.hashing import HashedFile
from artifactfs.objects.layout import TEMPORARY_PREFIX
from artifactfs.objects.patience import create_and_read_back, patiently
from artifactfs.objects.replies import TooMuch, asking
from artifactfs.objects.store import Buffer, Listing, ObjectStore, Outcome, StoredFile, changed_ns, translate

_BUCKETS = frozenset({"gs", "gcs", "az", "abfs", "abfss", "oss"})
"""Protocols whose paths begin with a bucket (a container), which must exist."""
# A PUT to these shows the whole object or none of it; elsewhere a file is written aside and renamed.
_WHOLE_PUTS = _BUCKETS | {"memory"}
_WEBDAV = frozenset({"webdav", "dav"})
T = TypeVar("T")


class _Told(Callback):  # type: ignore[misc]
    """Hands on what fsspec tells of a file that it sends."""

    def __init__(self, on_sent: Callable[[int], None]) -> None:
        super().__init__()
        self.value = 0
        self._on_sent = on_sent

    def relative_update(self, inc: int = 1) -> None:
        self.absolute_update(self.value + inc)

    def absolute_update(self, value: int) -> None:
        news, self.value = value - self.value, value
        if news > 0:
            self._on_sent(news)


class FsspecStore(ObjectStore):
    """A store at an fsspec URL. `single_writer` waives the sound exclusive create: the caller promises to be alone."""

    parallel_transfers = bounds.PARALLEL_TRANSFERS

    def __init__(self, url: str, *, single_writer: bool = False, **storage_options: Any) -> None:
        self.url = url
        self._protocol = url.partition("://")[0].lower()
        self.single_writer = single_writer
        self._options = storage_options
        self._lock = threading.Lock()
        self._opened: tuple[Any, str] | None = None
        self._alone = threading.Lock() if single_writer else nullcontext()
        if self._protocol == "memory":
            self.exclusive = True
        else:
            self.client = f"fsspec {self._protocol}"

    def _open(self) -> tuple[Any, str]:
        """The file system and the root's path in it."""
        with self._lock:
            if self._opened is None:
                self._opened = self._build()
            return self._opened

    def _build(self) -> tuple[Any, str]:
        cls = fsspec.get_filesystem_class(self._protocol)
        options = tuned_options(self._protocol, self._options)
        if issubclass(cls, AsyncFileSystem):
            options.setdefault("use_listings_cache", False)
        fs, root = fsspec.url_to_fs(self.url, **options)
        try_once(self._protocol, fs, options)
        return fs, str(root).rstrip("/")

    @contextlib.contextmanager
    def _connection(self) -> Iterator[tuple[Any, str]]:
        """A file system for one call, and the root's path in it."""
        yield self._open()

    def _call(
        self,
        what: str,
        action: Callable[[Any, str, dict[str, float]], T],
        key: str,
        *,
        timeout_s: float = bounds.CALL_TIMEOUT_S,
        repeat: bool = True,
    ) -> T:
        """Run `action` with the file system, the path of `key` and the arguments that bound a call in time."""

        def once() -> T:
            try:
                with self._connection() as (fs, root), _memory_lock if self._protocol == "memory" else nullcontext():
                    bound = {"timeout": timeout_s} if isinstance(fs, AsyncFileSystem) else {}
                    return action(fs, f"{root}/{key}" if key else root or "/", bound)
            except Exception as error:
                raise translate(error, f"cannot {what} {key or 'the top'} of {self.url}") from error

        return patiently(once) if repeat else once()

    def _ask(self, what: str, ask: Callable[[Any, str, str], Awaitable[T]], key: str) -> T:
        """Run `ask` with an asynchronous file system, the bucket or container, and the name of `key` in it."""

        def action(fs: Any, path: str, bound: dict[str, float]) -> T:
            bucket, _, name = path.partition("/")
            answer: T = sync(fs.loop, ask, fs, bucket, name, **bound)
            return answer

        return self._call(what, action, key)

    # -- reading ----------------------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes:
        return self._cat(key, 0, bounds.MOST_WHOLE_BYTES, bounds.LISTING_TIMEOUT_S)

    def get_range(self, key: str, offset: int, size_bytes: int) -> bytes:
        if size_bytes <= 0:
            return b""
        return self._cat(key, offset, offset + size_bytes, bounds.transfer_timeout_s(size_bytes))

    def _cat(self, key: str, start: int, end: int, timeout_s: float) -> bytes:
        def read(fs: Any, path: str, bound: dict[str, float]) -> bytes:
            with asking(end - start):
                data = self._read(fs, path, start, end, bound)
            if len(data) > end - start:
                # Servers that know no ranges send all of it, from its beginning.
                raise TooMuch("the answer is larger than what was asked for")
            return data

        try:
            return self._call("read", read, key, timeout_s=timeout_s)
        except ArtifactError as error:
            # A range that begins at the end is an error to HTTP servers, of no kind of its own.
            if type(error) is ArtifactError and self.size(key) <= start:
                return b""
            raise

    def _read(self, fs: Any, path: str, start: int, end: int, bound: dict[str, float]) -> bytes:
        return bytes(fs.cat_file(path, start=start, end=end, **bound))

    def listing(self, prefix: str) -> Listing:
        files: list[str] = []
        directories: list[str] = []
        for name, item in self._ls(prefix):
            if not name.startswith(TEMPORARY_PREFIX):
                (directories if item.get("type") == "directory" else files).append(name)
        return Listing(files, directories)

    def _ls(self, prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """What is directly below `prefix`: names, and what the file system says of each."""

        def ls(fs: Any, path: str, bound: dict[str, float]) -> tuple[str, list[dict[str, Any]]]:
            fs.invalidate_cache(path)
            try:
                return path, list(fs.ls(path, detail=True, **bound))
            except (FileNotFoundError, NotADirectoryError):
                if not prefix:
                    self._require_bucket(fs, path, bound)
                return path, []

        top, items = self._call("list", ls, prefix, timeout_s=bounds.LISTING_TIMEOUT_S)
        for item in items:
            path = str(item["name"]).rstrip("/")
            name = path.rpartition("/")[2]
            # Object stores list a folder's own marker among what is in it.
            if name and is_clean_path(name) and path.lstrip("/") != top.strip("/"):
                yield name, item

    def _require_bucket(self, fs: Any, path: str, bound: dict[str, float]) -> None:
        """Tell an empty place from one that cannot be: raises NotFound where there is no such bucket."""
        bucket = path.partition("/")[0]
        if self._protocol in _BUCKETS and not fs.exists(bucket, **bound):
            raise NotFound(f"there is no bucket or container {bucket!r} for {self.url}: make it first")

    def walk(self, prefix: str) -> Iterator[StoredFile]:
        def find(fs: Any, path: str, bound: dict[str, float]) -> tuple[str, dict[str, dict[str, Any]]] | None:
            if not isinstance(fs, AsyncFileSystem) or type(fs)._find is AsyncFileSystem._find:
                return None
            fs.invalidate_cache(path)
            root = path[: len(path) - len(prefix)].strip("/")
            try:
                return root, dict(fs.find(path, detail=True, **bound))
            except FileNotFoundError:
                return root, {}

        found = self._call("list", find, prefix, timeout_s=bounds.LISTING_TIMEOUT_S)
        if found is None:
            yield from self._walk_directories(prefix)
            return
        root, items = found
        for path, item in items.items():
            key = path.lstrip("/")[len(root) :].lstrip("/")
            if not key.startswith(f"{prefix}/" if prefix else "") or not is_clean_path(key):
                continue
            yield StoredFile(key, int(item.get("size") or 0), changed_ns(item))

    def _walk_directories(self, prefix: str) -> Iterator[StoredFile]:
        """fsspec's own ``find`` leaves out what could not be listed, without a word: gc would take it for absent."""
        waiting = [prefix]
        while waiting:
            top = waiting.pop()
            for name, item in self._ls(top):
                key = f"{top}/{name}" if top else name
                if item.get("type") == "directory":
                    waiting.append(key)
                else:
                    yield StoredFile(key, int(item.get("size") or 0), changed_ns(item))

    def size(self, key: str) -> int:
        def info(fs: Any, path: str, bound: dict[str, float]) -> int:
            fs.invalidate_cache(fs._parent(path))
            return int(fs.info(path, **bound)["size"] or 0)

        return self._call("look for", info, key)

    # -- writing ----------------------------------------------------------------------------------------------------

    def put(self, key: str, data: Buffer) -> None:
        raw = bytes(data)
        self._call(
            "store",
            lambda fs, path, bound: self._put_whole(fs, path, lambda to: self._write(fs, to, raw, bound)),
            key,
            timeout_s=bounds.transfer_timeout_s(len(raw)),
        )

    def _write(self, fs: Any, path: str, data: bytes, bound: dict[str, float]) -> None:
        fs.pipe_file(path, data, **bound)

    def _write_file(
        self, fs: Any, path: str, place: str, bound: dict[str, float], on_sent: Callable[[int], None]
    ) -> None:
        fs.put_file(place, path, callback=_Told(on_sent), **bound)

    def replace(self, key: str, data: Buffer) -> None:
        self.put(key, data)

    def put_file(self, key: str, file: HashedFile) -> None:
        def send(fs: Any, path: str, bound: dict[str, float]) -> None:
            with reach(file.path) as place:
                self._put_whole(fs, path, lambda to: self._write_file(fs, to, place, bound, file.on_sent))

        file.check_unchanged()
        self._call("store", send, key, timeout_s=bounds.transfer_timeout_s(file.status.st_size))
        try:
            file.check_unchanged()
        except ArtifactError:
            # What was sent may be anything, and must not stay under this name.
            self.delete(key)
            raise

    @staticmethod
    def _is_there(fs: Any, path: str, bound: dict[str, float]) -> bool:
        """``exists`` of many file systems says no to whatever goes wrong."""
        try:
            fs.info(path, **bound)
        except FileNotFoundError:
            return False
        return True

    def _put_whole(self, fs: Any, path: str, write: Callable[[str], object], *, replace: bool = True) -> None:
        if self._protocol in _WHOLE_PUTS:
            write(path)
            return
        parent = path.rpartition("/")[0]
        fs.makedirs(parent, exist_ok=True)
        temporary = f"{parent}/{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        try:
            write(temporary)
            if self._protocol in _WEBDAV:
                fs.client.move(temporary, path, overwrite=replace)
            else:
                fs.mv(temporary, path)
        except BaseException:
            with contextlib.suppress(Exception):
                fs.rm_file(temporary)  # else gc does, after its grace period
            raise

    def delete(self, key: str) -> None:
        def remove(fs: Any, path: str, bound: dict[str, float]) -> None:
            try:
                fs.rm_file(path, **bound)
            except FileNotFoundError:
                return

        self._call("delete", remove, key)

    def put_exclusive(self, key: str, data: Buffer) -> Outcome:
        raw = bytes(data)

        def create() -> None:
            self._call("create", lambda fs, path, bound: self._create(fs, path, raw, bound), key, repeat=False)

        with self._alone:
            return create_and_read_back(raw, create, lambda: self.get_if_there(key))

    def _create(self, fs: Any, path: str, data: bytes, bound: dict[str, float]) -> None:
        if self.single_writer or self._protocol == "memory":
            if self._is_there(fs, path, bound):
                raise FileExistsError(path)
            self._put_whole(fs, path, lambda to: fs.pipe_file(to, data, **bound), replace=False)
        else:
            fs.pipe_file(path, data, mode="create", **bound)


_memory_lock = threading.Lock()
