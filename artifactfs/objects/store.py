"""The seam for store I/O: what the object layout needs of a place that keeps bytes under keys.

`LocalStore` (`objects.local`, plain system calls), `FsspecStore` (`objects.remote`, any fsspec file system) and
`S3Store` (`objects.s3`) implement it; nothing else in the package touches a store's bytes. Every error leaves as one of
`artifactfs.errors`, with its cause; `translate` is the one place that decides which.

Threading: a store is safe from any thread and holds no lock across I/O, except the one that makes memory:// create
exclusively. Nothing is opened before the first call, so a store may be made before a fork.
"""

from __future__ import annotations

import enum
import errno
import math
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Any, NamedTuple, TypeVar

from artifactfs.beneath import NotRegular, open_regular
from artifactfs.errors import (
    AccessDenied,
    AlreadyExists,
    ArtifactError,
    IntegrityError,
    MissingDependency,
    NotFound,
    StoreFull,
    StoreTimeout,
    StoreUnreachable,
    UnsafeStore,
)
from artifactfs.objects import layout
from artifactfs.objects.bounds import CALLS_AT_ONCE
from artifactfs.objects.hashing import HashedFile
from artifactfs.objects.replies import TooMuch
from artifactfs.threads import is_for_want_of_threads

Buffer = bytes | bytearray | memoryview
OnFault = Callable[[str, ArtifactError], None]
"""Is told the key of what cannot be read, and why not."""
S = TypeVar("S")
T = TypeVar("T")


class Outcome(enum.Enum):
    """What became of an exclusive create."""

    CREATED = "created"
    """The key holds our bytes, and nobody else's were ever there."""
    TAKEN = "taken"
    """The key held, or holds, somebody else's bytes."""


class Listing(NamedTuple):
    """The names directly below a key, in no order, temporary names left out."""

    files: list[str]
    directories: list[str]


class StoredFile(NamedTuple):
    """One stored file. `changed_ns` is when it was last put, linked or touched, None where the backend cannot tell."""

    key: str
    size_bytes: int
    changed_ns: int | None


def changed_ns(item: dict[str, Any]) -> int | None:
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
        if isinstance(value, int | float) and math.isfinite(value):
            return int(value * 1_000_000_000)
    return None


class ObjectStore(ABC):
    """Bytes under keys. Keys come from `objects.layout`. All methods raise StoreUnreachable and AccessDenied."""

    url: str
    local_root: str | None = None
    """The directory of a store on this machine, as an absolute path."""
    parallel_transfers: int = 1
    """How many transfers at once pay."""
    page_keys: int = 0
    """How many keys :meth:`walk` gets by one request while it goes on; 0 where it lists all before the first."""
    keeps_directories: bool = True
    """Tell whether a directory may be listed below which there is no file."""
    renews_in_place: bool = False
    """Tell whether :meth:`renew` moves no bytes to or from this machine."""
    client: str | None = None
    """What reaches the backend, the name a probe's answer is kept under; None where none is needed."""
    exclusive: bool | None = None
    """Tell whether :meth:`put_exclusive` can be trusted; None while nobody knows."""
    single_writer: bool = False
    """Tell whether the caller promised that nothing else writes, so that nothing need be exclusive."""

    @abstractmethod
    def put(self, key: str, data: Buffer) -> None:
        """Store an object, whole or not at all; the same again is no error. Durable after :meth:`flush`.

        Raises StoreFull.
        """

    @abstractmethod
    def put_file(self, key: str, file: HashedFile) -> None:
        """As :meth:`put`, with the bytes of a file, streamed.

        Raises UnsupportedTree, and stores nothing, when the file changed since it was hashed.
        """

    def adopt_file(self, key: str, file: HashedFile) -> bool:
        """As :meth:`put_file` for a file the caller gives away; a local store links it instead of copying.

        Returns whether the object shares the file's inode; such an object needs :meth:`settle` later.
        """
        self.put_file(key, file)
        return False

    @abstractmethod
    def put_exclusive(self, key: str, data: Buffer) -> Outcome:
        """Store bytes that differ from anybody else's only if `key` is free; durable on return.

        When this raises, the outcome is unknown: calling again with the same bytes tells.
        Raises StoreFull.
        """

    @abstractmethod
    def replace(self, key: str, data: Buffer) -> None:
        """Store small bytes whether or not `key` exists; readers see the old or the new; durable on return."""

    @abstractmethod
    def get(self, key: str) -> bytes:
        """All bytes of `key`. Raises NotFound."""

    @abstractmethod
    def get_range(self, key: str, offset: int, size_bytes: int) -> bytes:
        """Up to `size_bytes` from `offset`, fewer only at the end. Raises NotFound."""

    def get_pieces(self, key: str, offset: int, size_bytes: int) -> Iterator[bytes]:
        """As :meth:`get_range`, piece by piece as the bytes come where that is cheaper."""
        yield self.get_range(key, offset, size_bytes)

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """The bytes of small files, None for each that is not there; many at once where the store takes that."""
        return self.at_once(self.get_if_there, keys)

    def at_once(self, action: Callable[[S], T], items: Sequence[S]) -> list[T]:
        """What `action` gives of each, at the same time where the store takes that, else in order.

        Where the system gives no threads `action` is called in order too, of some for the second time.
        Raises what it raised of the first of those for which it did.
        """
        if len(items) > 1 and self.parallel_transfers > 1:
            try:
                with ThreadPoolExecutor(min(len(items), CALLS_AT_ONCE), "at-once") as pool:
                    return list(pool.map(action, items))
            except RuntimeError as error:
                if not is_for_want_of_threads(error):
                    raise
        return [action(item) for item in items]

    def get_if_there(self, key: str) -> bytes | None:
        """The bytes of a small file, None when it is not there."""
        try:
            return self.get_range(key, 0, 2 * layout.MAX_RECORD_BYTES)
        except NotFound:
            return None

    @abstractmethod
    def listing(self, prefix: str) -> Listing:
        """The names directly below `prefix` ('' is the root), nothing when it does not exist. Never cached."""

    @abstractmethod
    def walk(self, prefix: str) -> Iterator[StoredFile]:
        """Every file below `prefix`, temporary ones included. Never cached."""

    def walk_readable(self, prefix: str, on_fault: OnFault) -> Iterator[StoredFile]:
        """Walk as :meth:`walk`, passing over each directory that cannot be listed: `on_fault` is told its key, and why.

        `on_fault` raises what must not be passed over. A backend that lists all at once has no such directories.
        """
        return self.walk(prefix)

    def few(self, prefix: str) -> list[StoredFile] | None:
        """As :meth:`walk`, when one request tells all there is; None when it takes more, or is not known to."""
        return None

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove `key`; it may be gone already."""

    def exists(self, key: str) -> bool:
        """Tell whether `key` is there."""
        try:
            self.size(key)
        except NotFound:
            return False
        return True

    def renew(self, key: str) -> bool:
        """Tell whether `key` is there; then it counts as put just now, which gc goes by."""
        try:
            self.put(key, self.get_range(key, 0, self.size(key)))
        except NotFound:
            return False
        return True

    @abstractmethod
    def size(self, key: str) -> int:
        """Bytes of `key`. Raises NotFound."""

    def local_path(self, key: str) -> str | None:
        """The file on this machine that holds `key`, whether or not it exists; None when the store is remote."""
        return None

    def expect(self, witness: str, is_same: Callable[[int], bool]) -> None:
        """From now on a local store is the directory that is held, and one whose descriptor `is_same` says yes to.

        `witness` is the key of the file that makes it the store, '' for the directory itself; `objects.root` says more.
        """
        return  # a remote store answers or does not

    def check_there(self) -> None:
        """Raises StoreUnreachable when a local store was there and is gone. A remote one is not asked."""
        return

    def open_local(self, path: str) -> int:
        """A descriptor for reading a file that :meth:`local_path` named. Raises OSError, and as :meth:`get`."""
        return open_regular(path)

    def flush(self, keys: Sequence[str]) -> None:
        """Make the objects just put under `keys` survive a power cut. Raises StoreFull."""
        return  # what a remote store has answered for is durable

    def settle(self, adopted: Iterable[tuple[str, str]]) -> None:
        """Make adopted objects read-only, each given with the file it was. See `objects.commit` for when.

        An object that has become some other tree's file stays as it is.
        """
        return  # only a local store links

    def require_exclusive(self) -> None:
        """Raises UnsafeStore when :meth:`put_exclusive` cannot be trusted. Asks the backend unless it is known."""
        if self.single_writer:
            return
        if self.exclusive is None:
            self.exclusive = self._probe()
        if not self.exclusive:
            raise UnsafeStore(
                f"{self.url}: creating a name twice did not fail, so two writers could overwrite each other's "
                "versions; pass single_writer=True (--storage-option single_writer=true) if nothing else ever writes "
                "to this store at the same time, or mount it with --read-only"
            )

    def _probe(self) -> bool:
        """Tell whether a name that is created twice keeps its first content."""
        key = f"{layout.TEMPORARY_PREFIX}probe-{uuid.uuid4().hex}"
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


def raise_fault(_key: str, error: ArtifactError) -> None:
    """The `OnFault` of who passes over nothing."""
    raise error


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR})
# Cloud libraries raise classes of their own; they are told by name because none of them may be imported here.
_DENIED_CLASSES = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "TokenRetrievalError",
        "UnauthorizedSSOTokenError",
        "ClientAuthenticationError",
        "DefaultCredentialsError",
        "RefreshError",
        "AuthenticationException",
        "PermissionDeniedError",
        "UnauthenticatedError",
        "PasswordRequiredException",
        "BadHostKeyException",
    }
)
_TAKEN_CLASSES = frozenset({"AlreadyExistsError", "PreconditionError"})
_ABSENT_CLASSES = frozenset({"ResourceNotFoundError", "NotFoundError"})
_UNREACHABLE_MODULES = (
    *("aiohttp", "botocore", "azure", "google", "gcsfs", "paramiko", "requests", "httpx", "httpcore"),
    *("webdav4", "urllib3"),
)
# What a server says for good to what it was asked; repeating it would not help.
_REFUSED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EMSGSIZE, errno.ENAMETOOLONG})
# What S3 servers answer, where the status alone does not tell: the condition of a conditional PUT does not hold …
_TAKEN_CODES = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict"})
_DENIED_CODES = frozenset({"ExpiredToken", "InvalidToken", "TokenRefreshRequired"})
_FULL_CODES = frozenset({"QuotaExceeded", "XMinioStorageFull"})
# … and what was sent did not come as it was sent, or too slowly.
_GARBLED_CODES = frozenset({"IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "RequestTimeout"})
_TRANSIENT_STATUSES = frozenset({408, 409, 429})
_INSUFFICIENT_STORAGE = 507


# The characters of a server's reason that an error repeats.
_MOST_SAID = 1000


def translate(error: Exception, what: str) -> ArtifactError:
    """The error of `artifactfs.errors` that says what `error` means; `what` names the key or place concerned.

    Use as ``raise translate(error, what) from error``. What nobody foresaw becomes a plain ArtifactError, which is
    not transient, so that a bug is not retried for ever.
    """
    if isinstance(error, ArtifactError):
        return error
    if isinstance(error, TooMuch):
        return IntegrityError(f"{what}: {error}")
    # Azure's messages go on with the request's number and the answer's XML; the cause keeps them.
    said = str(error).strip().partition("\n")[0].rstrip()
    if said.endswith(":"):
        said = " ".join(str(error).split())[:_MOST_SAID]  # the reason comes in the lines behind
    text = f"{what}: {said or type(error).__name__}"
    if isinstance(getattr(error, "response", None), dict):
        # Servers break the reason they give into lines, or begin it with one.
        return _translate_s3(error, f"{what}: {' '.join(str(error).split())[:_MOST_SAID]}")
    if isinstance(error, NotRegular):
        return IntegrityError(text)
    class_names = {cls.__name__ for cls in type(error).__mro__}
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ELOOP:
        return IntegrityError(f"{text} (nothing in a store is read through a symlink)")
    if isinstance(error, FileNotFoundError | NotADirectoryError) or number in _ABSENT or class_names & _ABSENT_CLASSES:
        return NotFound(text)
    if isinstance(error, FileExistsError) or class_names & _TAKEN_CLASSES:
        return AlreadyExists(text)
    # aiohttp warns of who asks for "code" where there is a "status".
    status = getattr(error, "status", None) or getattr(error, "status_code", None) or getattr(error, "code", None)
    if (
        isinstance(error, PermissionError)
        or number in _DENIED
        or class_names & _DENIED_CLASSES
        or status in (401, 403, "401", "403")
    ):
        return AccessDenied(text)
    if number in _FULL or status == _INSUFFICIENT_STORAGE:
        return StoreFull(text)
    if isinstance(status, int) and 400 <= status < 500 and status not in _TRANSIENT_STATUSES:
        return ArtifactError(text)
    if "TimeoutError" in class_names or number == errno.ETIMEDOUT:
        return StoreTimeout(text)
    if isinstance(error, ImportError):
        return MissingDependency(text)
    if number in _REFUSED:
        return ArtifactError(text)
    if (
        isinstance(error, OSError | EOFError)
        or is_for_want_of_threads(error)
        or type(error).__module__.startswith(_UNREACHABLE_MODULES)
    ):
        return StoreUnreachable(text)
    return ArtifactError(f"{what}: unexpected {type(error).__name__}: {error}")


def _translate_s3(error: Exception, text: str) -> ArtifactError:
    """The meaning of an answer of an S3 server, which botocore keeps in the error."""
    code, status = _code(error), http_status(error) or 0
    if code in _TAKEN_CODES:
        return AlreadyExists(text)
    if code in _FULL_CODES:
        return StoreFull(text)
    if code in _DENIED_CODES or status in (401, 403):
        return AccessDenied(text)
    if status == 404:
        return NotFound(text)
    if code in _GARBLED_CODES or status in _TRANSIENT_STATUSES or (status >= 500 and status != 501):
        return StoreUnreachable(text)
    return ArtifactError(text)


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code"))


def http_status(error: Any) -> int | None:
    """The status of the answer that an error of botocore's tells of."""
    response = getattr(error, "response", None)
    found = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    return found if isinstance(found, int) else None
