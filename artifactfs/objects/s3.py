"""A store on S3: every call is one bounded request, or several that are repeated one by one.

Exclusive creates are as in `objects.remote`: one small PUT, and what lies there afterwards is believed, not the answer.

Threading: any thread. The client is built at the first call, under a lock, never before a fork. A single writer's
creates wait for each other, each for a bounded time: its threads would replace each other's records.
"""

# ruff: noqa: D102 - ObjectStore documents the methods

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, NamedTuple, TypeVar

from artifactfs.errors import AlreadyExists, ArtifactError, IntegrityError, NotFound
from artifactfs.objects.bounds import (
    LISTING_TIMEOUT_S,
    MOST_REPLY_BYTES,
    MOST_WHOLE_BYTES,
    PARALLEL_TRANSFERS,
    transfer_timeout_s,
)
from artifactfs.objects.hashing import HashedFile, changed, open_regular, unreadable
from artifactfs.objects.pages import Page, PagedStore
from artifactfs.objects.patience import create_and_read_back, patient_pieces, patiently
from artifactfs.objects.replies import TooMuch, asking
from artifactfs.objects.s3_client import Deadline, S3Place, Upload, open_place, pieces
from artifactfs.objects.store import (
    Buffer,
    Outcome,
    StoredFile,
    changed_ns,
    http_status,
    translate,
)

_PART_BYTES = 16 << 20
# 1 GiB to a server 50 ms away: 11.3 s with 4 at once, 6.9 and 8.7 with 8.
_PARTS_AT_ONCE = PARALLEL_TRANSFERS
_MOST_PARTS = 10_000
_CONTENT_RANGE = re.compile(r"bytes ([0-9]+)-([0-9]+)/")
T = TypeVar("T")


class S3Store(PagedStore):
    """A store at ``s3://bucket/prefix``. `single_writer` waives the sound exclusive create."""

    parallel_transfers = PARALLEL_TRANSFERS
    page_keys = 1000
    renews_in_place = True
    keeps_directories = False
    client = "botocore s3"

    def __init__(self, url: str, *, single_writer: bool = False, **storage_options: Any) -> None:
        """`storage_options` are those of s3fs."""
        self.url = url
        self.single_writer = single_writer
        self._options = storage_options
        self._lock = threading.Lock()
        self._opened: S3Place | None = None
        self._alone = threading.Lock() if single_writer else contextlib.nullcontext()

    def _place(self) -> S3Place:
        with self._lock:
            if self._opened is None:
                self._opened = open_place(self.url, self._options)
            return self._opened

    @contextlib.contextmanager
    def _told(self, what: str, key: str) -> Iterator[S3Place]:
        """The place, for one attempt; what goes wrong leaves the block as an error of ours."""
        try:
            yield self._place()
        except Exception as error:
            # What an Upload raises comes back inside an error of botocore's.
            inner = getattr(error, "kwargs", {}).get("error")
            known = inner if isinstance(inner, ArtifactError | TooMuch) else error
            raise translate(known, f"cannot {what} {key or 'the top'} of {self.url}") from error

    def _call(self, what: str, key: str, action: Callable[[S3Place, str], T], *, repeat: bool = True) -> T:
        """Run `action` with the place and the key's whole name in the bucket."""

        def once() -> T:
            with self._told(what, key) as place:
                return action(place, place.top + key)

        return patiently(once) if repeat else once()

    # -- reading ----------------------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes:
        return b"".join(self._read(key, 0, None, LISTING_TIMEOUT_S))

    def get_range(self, key: str, offset: int, size_bytes: int) -> bytes:
        return b"".join(self.get_pieces(key, offset, size_bytes))

    def get_pieces(self, key: str, offset: int, size_bytes: int) -> Iterator[bytes]:
        if size_bytes <= 0:
            return iter(())
        return self._read(key, offset, offset + size_bytes, transfer_timeout_s(size_bytes))

    def _read(self, key: str, start: int, end: int | None, timeout_s: float) -> Iterator[bytes]:
        def read_from(done_bytes: int) -> Iterator[bytes]:
            first = start + done_bytes
            most_bytes = (MOST_WHOLE_BYTES if end is None else end) - first
            span = {"Range": f"bytes={first}-{'' if end is None else end - 1}"} if first or end is not None else {}
            with self._told("read", key) as place:
                deadline = Deadline(timeout_s, f"read {key} of {self.url}")
                try:
                    with asking(most_bytes):
                        answer = place.call("get_object", Key=place.top + key, **span)
                except Exception as error:
                    if span and http_status(error) == 416:
                        return  # it begins at the end, or after it
                    raise
                if end is None and _headers(answer).get("content-length") is None:
                    most_bytes = MOST_REPLY_BYTES  # who does not tell how much comes is not trusted with much
                if not _is_from(answer, first):
                    answer["Body"].close()
                    raise IntegrityError(
                        f"cannot read {key} of {self.url}: the server gave another part than was asked for"
                    )
                yield from pieces(answer["Body"], most_bytes, deadline)

        return patient_pieces(read_from)

    def _pages(self, prefix: str, delimiter: str = "") -> Iterator[Page]:
        more: dict[str, Any] = {"Delimiter": delimiter} if delimiter else {}
        while True:

            def page(place: S3Place, name: str) -> dict[str, Any]:
                below = f"{name.rstrip('/')}/" if name else ""
                return place.call("list_objects_v2", Prefix=below, **more)

            found = self._call("list", prefix, page)
            is_last = not found.get("IsTruncated")
            yield Page(
                list(self._files(found)),
                [item["Prefix"].rstrip("/").rpartition("/")[2] for item in found.get("CommonPrefixes", ())],
                is_last,
            )
            if is_last:
                return
            more["ContinuationToken"] = found["NextContinuationToken"]

    def _files(self, page: dict[str, Any]) -> Iterator[StoredFile]:
        top = self._place().top
        for item in page.get("Contents", ()):
            # A folder's own marker ends with a slash.
            if item["Key"].startswith(top) and not item["Key"].endswith("/"):
                yield StoredFile(item["Key"][len(top) :], int(item["Size"]), changed_ns(item))

    def size(self, key: str) -> int:
        return self._call(
            "look for", key, lambda place, name: int(place.call("head_object", Key=name)["ContentLength"])
        )

    # -- writing ----------------------------------------------------------------------------------------------------

    def put(self, key: str, data: Buffer) -> None:
        view = memoryview(data)
        self._call("store", key, lambda place, name: self._send(place, name, view))

    def _send(self, place: S3Place, name: str, data: memoryview, **condition: str) -> None:
        deadline = Deadline(transfer_timeout_s(len(data)), f"store {name} in {self.url}")
        body = Upload(lambda offset, size_bytes: data[offset : offset + size_bytes], len(data), deadline)
        place.call("put_object", Key=name, Body=body, **condition)

    def replace(self, key: str, data: Buffer) -> None:
        self.put(key, data)

    def put_exclusive(self, key: str, data: Buffer) -> Outcome:
        raw = bytes(data)

        def create(place: S3Place, name: str) -> None:
            if not self.single_writer:
                self._send(place, name, memoryview(raw), IfNoneMatch="*")
            elif self.exists(key):
                raise AlreadyExists(f"{key} of {self.url} exists")
            else:
                self._send(place, name, memoryview(raw))

        with self._alone:
            return create_and_read_back(
                raw, lambda: self._call("create", key, create, repeat=False), lambda: self.get_if_there(key)
            )

    def put_file(self, key: str, file: HashedFile) -> None:
        file.check_unchanged()
        fd = open_regular(file.path)
        try:
            self._put_descriptor(key, _Source(file.path, fd, file.status.st_size, file.on_sent))
        finally:
            os.close(fd)
        try:
            file.check_unchanged()
        except ArtifactError:
            # What was sent may be anything, and must not stay under this name.
            self.delete(key)
            raise

    def _put_descriptor(self, key: str, source: _Source) -> None:
        if source.size_bytes > _PART_BYTES:
            self._put_parts(key, source)
            return
        body = partial(source.body, 0, source.size_bytes, f"store {key} in {self.url}")
        self._call("store", key, lambda place, name: place.call("put_object", Key=name, Body=body()))

    def _put_parts(self, key: str, source: _Source) -> None:
        begun = self._call("store", key, lambda place, name: place.call("create_multipart_upload", Key=name))
        upload = begun["UploadId"]
        part_bytes = max(_PART_BYTES, -(-source.size_bytes // (_MOST_PARTS - 1)))

        def send(number: int) -> dict[str, Any]:
            offset = (number - 1) * part_bytes
            size_bytes = min(part_bytes, source.size_bytes - offset)
            body = partial(source.body, offset, size_bytes, f"store part {number} of {key} in {self.url}")
            sent = self._call(
                "store",
                key,
                lambda place, name: place.call(
                    "upload_part", Key=name, UploadId=upload, PartNumber=number, Body=body()
                ),
            )
            source.on_sent(size_bytes)
            return {"PartNumber": number, "ETag": sent["ETag"]}

        try:
            with ThreadPoolExecutor(_PARTS_AT_ONCE, "part") as pool:
                sending = [pool.submit(send, number + 1) for number in range(-(-source.size_bytes // part_bytes))]
                wait(sending, return_when=FIRST_EXCEPTION)
                pool.shutdown(cancel_futures=True)
            self._complete(key, upload, [part.result() for part in sending if not part.cancelled()], source.size_bytes)
        except BaseException:
            with contextlib.suppress(ArtifactError):
                self._call("give up", key, lambda place, name: _abort(place, name, upload), repeat=False)
            raise

    def _complete(self, key: str, upload: str, parts: list[dict[str, Any]], size_bytes: int) -> None:
        def complete(place: S3Place, name: str) -> None:
            place.call("complete_multipart_upload", Key=name, UploadId=upload, MultipartUpload={"Parts": parts})

        try:
            self._call("store", key, complete)
        except NotFound:
            # The answer to the first attempt may have been lost: then the upload is no more, and the object is there.
            if self.size(key) != size_bytes:
                raise

    def renew(self, key: str) -> bool:
        def copy(place: S3Place, name: str) -> None:
            # Onto itself a copy is allowed only where it replaces the metadata, of which an object here has none.
            source = {"Bucket": place.bucket, "Key": name}
            place.call("copy_object", Key=name, CopySource=source, MetadataDirective="REPLACE")

        try:
            self._call("renew", key, copy)
        except NotFound:
            return False
        return True

    def delete(self, key: str) -> None:
        with contextlib.suppress(NotFound):
            self._call("delete", key, lambda place, name: place.call("delete_object", Key=name))


class _Source(NamedTuple):
    """An open file of a tree that is being sent."""

    path: str
    fd: int
    size_bytes: int
    on_sent: Callable[[int], None]

    def body(self, offset: int, size_bytes: int, what: str) -> Upload:
        """Some of its bytes. Reading raises UnsupportedTree when the file has become shorter."""
        return Upload(
            lambda start, count: self._read(offset + start, count),
            size_bytes,
            Deadline(transfer_timeout_s(size_bytes), what),
        )

    def _read(self, offset: int, size_bytes: int) -> bytes:
        try:
            piece = os.pread(self.fd, size_bytes, offset)
        except OSError as error:
            raise unreadable(self.path, error) from error
        if not piece:
            raise changed(self.path)
        return piece


def _headers(answer: dict[str, Any]) -> dict[str, str]:
    """The headers of an answer, from which nothing is taken into its other members: see `s3_client`."""
    headers: dict[str, str] = answer["ResponseMetadata"]["HTTPHeaders"]
    return headers


def _is_from(answer: dict[str, Any], first: int) -> bool:
    """Tell whether an answer begins with that byte of the object. A server that knows no ranges sends the first."""
    if not first:
        return True
    is_206 = bool(answer["ResponseMetadata"]["HTTPStatusCode"] == 206)
    place = _headers(answer).get("content-range")
    if place is None:
        return is_206
    found = _CONTENT_RANGE.match(place)
    if found is None or int(found[1]) != first:
        return False
    # rclone's server answers a range with 200; one that sends the whole and tells of a part is known by the length.
    return is_206 or _headers(answer).get("content-length") in (None, str(int(found[2]) - first + 1))


def _abort(place: S3Place, name: str, upload: str) -> None:
    place.call("abort_multipart_upload", Key=name, UploadId=upload)
