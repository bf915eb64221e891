"""A store on S3 through s3fs: its listings page by page, uploads bounded in memory, objects renewed where they lie.

s3fs keeps a whole listing until its last page came; here a page is one bounded call that can be repeated by itself.
Threading: as `objects.remote`.
"""

# ruff: noqa: D102 - ObjectStore documents the methods

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from artifactfs.errors import NotFound
from artifactfs.objects.layout import TEMPORARY_PREFIX
from artifactfs.objects.remote import FsspecStore, changed_ns, transfer_timeout_s
from artifactfs.objects.store import Listing, StoredFile

_PART_BYTES = 16 << 20
_PARTS_AT_ONCE = 4
_MOST_PARTS = 10_000


class S3Store(FsspecStore):
    """A store at ``s3://bucket/prefix``."""

    page_keys = 1000
    renews_in_place = True

    def _pages(self, prefix: str, delimiter: str = "") -> Iterator[dict[str, Any]]:
        more: dict[str, Any] = {"Delimiter": delimiter} if delimiter else {}
        while True:

            def page(fs: Any, path: str, bound: dict[str, float]) -> dict[str, Any]:
                bucket, _, top = path.partition("/")
                below = f"{top}/" if top else ""
                found = fs.call_s3("list_objects_v2", fs.kwargs, Bucket=bucket, Prefix=below, **more, **bound)
                return dict(found)

            found = self._call("list", page, prefix)
            yield found
            if not found.get("IsTruncated"):
                return
            more["ContinuationToken"] = found["NextContinuationToken"]

    def _top(self) -> str:
        """What precedes every key of the store in the bucket."""
        _, root = self._open()
        top = root.partition("/")[2]
        return f"{top}/" if top else ""

    def listing(self, prefix: str) -> Listing:
        files: list[str] = []
        directories: list[str] = []
        for page in self._pages(prefix, "/"):
            names = [item["Key"].rpartition("/")[2] for item in page.get("Contents", ())]
            # A folder's own marker has no name of its own.
            files += [name for name in names if name and not name.startswith(TEMPORARY_PREFIX)]
            directories += [item["Prefix"].rstrip("/").rpartition("/")[2] for item in page.get("CommonPrefixes", ())]
        return Listing(files, directories)

    def walk(self, prefix: str) -> Iterator[StoredFile]:
        for page in self._pages(prefix):
            yield from self._files(page)

    def few(self, prefix: str) -> list[StoredFile] | None:
        page = next(self._pages(prefix))
        return None if page.get("IsTruncated") else list(self._files(page))

    def _files(self, page: dict[str, Any]) -> Iterator[StoredFile]:
        top = len(self._top())
        for item in page.get("Contents", ()):
            if not item["Key"].endswith("/"):
                yield StoredFile(item["Key"][top:], int(item["Size"]), changed_ns(item))

    def renew(self, key: str) -> bool:
        def copy(fs: Any, path: str, bound: dict[str, float]) -> None:
            bucket, _, name = path.partition("/")
            # Onto itself a copy is allowed only where it replaces the metadata, of which an object here has none.
            source = {"Bucket": bucket, "Key": name}
            fs.call_s3("copy_object", Bucket=bucket, Key=name, CopySource=source, MetadataDirective="REPLACE", **bound)

        try:
            self._call("renew", copy, key, timeout_s=transfer_timeout_s(0) * 10)
        except NotFound:
            return False
        return True

    def _upload(self, fs: Any, source: str, path: str, size_bytes: int, bound: dict[str, float]) -> None:
        part_bytes = max(_PART_BYTES, -(-size_bytes // (_MOST_PARTS - 1)))
        fs.put_file(source, path, chunksize=part_bytes, max_concurrency=_PARTS_AT_ONCE, **bound)
