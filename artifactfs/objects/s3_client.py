"""The S3 client, botocore's own, and the bodies that it sends and receives.

Options are named as s3fs names them, which users know. The bytes go through botocore, in the threads that want them:
1 GiB in ranges of 8 MiB takes 0.5 s of CPU, with s3fs 1.1 (asyncio's one thread gathers every body from pieces) and
with obstore 0.5; 1 GiB sent in parts of 16 MiB 1.3 s, with s3fs 2.3 and with obstore 1.6.

Threading: any thread. Nothing here is built before a fork.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from artifactfs.errors import ArtifactError, StoreTimeout
from artifactfs.objects.bounds import CONNECT_TIMEOUT_S, READ_TIMEOUT_S
from artifactfs.objects.guards import counted_pools
from artifactfs.objects.replies import TooMuch
from artifactfs.objects.s3_models import quick_loader

_CONNECTIONS = 64
# What s3fs takes besides: how it caches, lists and threads.
_WITHOUT_MEANING = frozenset(
    {
        *("default_block_size", "default_fill_cache", "default_cache_type", "version_aware", "cache_regions"),
        *("asynchronous", "loop", "max_concurrency", "fixed_upload_size", "local_expiry_check", "skip_instance_cache"),
        *("use_listings_cache", "listings_expiry_time", "max_paths"),
    }
)
OPTIONS = _WITHOUT_MEANING | {
    *("anon", "key", "username", "secret", "password", "token", "endpoint_url", "use_ssl", "client_kwargs"),
    *("config_kwargs", "s3_additional_kwargs", "requester_pays", "profile"),
}
"""The storage options that :func:`open_place` takes."""
PIECE_BYTES = 1 << 20
"""What is sent or received at once: a connection holds so much in memory."""


class S3Place(NamedTuple):
    """A client, and where in which bucket a store lies. `top` precedes every key: empty, or ends with a slash."""

    client: Any
    bucket: str
    top: str
    extra: dict[str, Any]
    """Arguments for every operation that knows them."""

    def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """What S3 answers to an operation in the bucket. Raises what botocore raises."""
        known = _argument_names(self.client, operation)
        extra = {name: value for name, value in self.extra.items() if name in known}
        answer: dict[str, Any] = getattr(self.client, operation)(Bucket=self.bucket, **{**extra, **arguments})
        return answer


@lru_cache(maxsize=64)
def _argument_names(client: Any, operation: str) -> frozenset[str]:
    model = client.meta.service_model.operation_model(client.meta.method_to_api_mapping[operation])
    return frozenset(model.input_shape.members)


def open_place(url: str, options: dict[str, Any]) -> S3Place:
    """The place of an ``s3://`` URL with the storage options of s3fs.

    Raises ArtifactError for an option that nothing knows, ImportError, and what botocore raises.
    """
    import botocore
    import botocore.config
    import botocore.session

    from artifactfs import __version__

    given = {**_configured(), **options}
    anonymous = given.pop("anon", False)
    credentials = {
        "aws_access_key_id": given.pop("key", None) or given.pop("username", None),
        "aws_secret_access_key": given.pop("secret", None) or given.pop("password", None),
        "aws_session_token": given.pop("token", None),
    }
    arguments = {
        "endpoint_url": given.pop("endpoint_url", None),
        "use_ssl": given.pop("use_ssl", True),
        **({} if anonymous else credentials),
        **given.pop("client_kwargs", {}),
    }
    config = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": READ_TIMEOUT_S,
        # `objects.patience` repeats.
        "retries": {"total_max_attempts": 1},
        "max_pool_connections": _CONNECTIONS,
        # Objects are named by their digests, which say more than another checksum; servers such as Ceph 16 know none.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        # Botocore's own takes a fifth of the time of a request to put together.
        "user_agent": f"artifactfs/{__version__}",
        **given.pop("config_kwargs", {}),
        **({"signature_version": botocore.UNSIGNED} if anonymous else {}),
    }
    extra = given.pop("s3_additional_kwargs", {})
    if given.pop("requester_pays", False):
        extra = {**extra, "RequestPayer": "requester"}
    profile = given.pop("profile", None)
    if unknown := set(given) - _WITHOUT_MEANING:
        raise ArtifactError(f"{url}: unknown storage option {', '.join(sorted(unknown))}")
    session = botocore.session.Session(profile=profile)
    session.register_component("data_loader", quick_loader(session.get_config_variable("data_path")))
    client = session.create_client("s3", config=botocore.config.Config(**config), **arguments)
    bucket, top = _split(url.partition("://")[2].strip("/"))
    _count_answers(client)
    _follow_no_redirects(client)
    return S3Place(client, bucket, f"{top}/" if top else "", extra)


def _count_answers(client: Any) -> None:
    """Have the connections of a client that was just made count what they are answered."""
    session = client._endpoint.http_session
    pools = counted_pools(session._pool_classes_by_scheme)
    session._pool_classes_by_scheme = session._manager.pool_classes_by_scheme = pools


def _configured() -> dict[str, Any]:
    """The options that fsspec was configured with, by files, variables or the program."""
    places = (os.environ.get("FSSPEC_CONFIG_DIR"), os.path.expanduser("~/.config/fsspec"))
    if (
        "fsspec" not in sys.modules
        and not any(place and os.path.isdir(place) for place in places)
        and not any(name.startswith("FSSPEC_") for name in os.environ)
    ):
        return {}  # fsspec takes a tenth of a command's start to import
    from fsspec.config import conf

    found: dict[str, Any] = conf.get("s3", {})
    return found


def _split(path: str) -> tuple[str, str]:
    """The bucket and what follows it; an access point is named by an ARN, with slashes in it."""
    parts = path.split("/")
    length = 1
    if path.startswith("arn:"):
        length = 4 if ":s3-outposts:" in path else 2
    return "/".join(parts[:length]), "/".join(parts[length:])


def _follow_no_redirects(client: Any) -> None:
    """Have a client follow no redirects but Amazon's own, to the region of a bucket.

    Elsewhere they would lead the credentials to a place that the server chose; and a server that redirects the question
    for the region as well has botocore ask it without end.
    """

    def mark(params: dict[str, Any], **_: Any) -> None:
        params["context"].setdefault("s3_redirect", {})["redirected"] = True

    is_amazon = urlsplit(client.meta.endpoint_url).hostname.endswith((".amazonaws.com", ".amazonaws.com.cn"))
    client.meta.events.register("before-call.s3.HeadBucket" if is_amazon else "before-call.s3", mark)


class Deadline:
    """The end of the time that a transfer has. `what` names it."""

    def __init__(self, seconds: float, what: str) -> None:
        self._end_s = time.monotonic() + seconds
        self._seconds = seconds
        self._what = what

    def check(self) -> None:
        """Raises StoreTimeout when it has passed."""
        if time.monotonic() > self._end_s:
            raise StoreTimeout(f"cannot {self._what} within {self._seconds:.0f} s")


def pieces(body: Any, most_bytes: int, deadline: Deadline) -> Iterator[bytes]:
    """The bytes of an answer, `most_bytes` of which were asked for. Raises StoreTimeout, TooMuch, as botocore."""
    try:
        while piece := body.read(PIECE_BYTES):
            deadline.check()
            most_bytes -= len(piece)
            if most_bytes < 0:
                raise TooMuch("the answer is larger than what was asked for")
            yield piece
    finally:
        body.close()


class Upload(io.RawIOBase):
    """The body of a request: `size_bytes` bytes that `read_at` (offset, at most so many) gives piece by piece."""

    def __init__(self, read_at: Callable[[int, int], bytes | memoryview], size_bytes: int, deadline: Deadline) -> None:
        self._read_at = read_at
        self._size_bytes = size_bytes
        self._deadline = deadline
        self._position = 0

    def __len__(self) -> int:
        return self._size_bytes

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is: what is sent over a connection that is not encrypted is first read for its signature."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go there."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size_bytes}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> Any:
        """The next piece, of whatever size: urllib3 asks for 16 KiB at a time and takes what it gets.

        Raises StoreTimeout, and what `read_at` raises.
        """
        del size
        self._deadline.check()
        wanted = min(PIECE_BYTES, self._size_bytes - self._position)
        if wanted <= 0:
            return b""
        piece = self._read_at(self._position, wanted)
        self._position += len(piece)
        return piece
