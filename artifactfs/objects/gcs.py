"""A store on Google Cloud Storage through gcsfs: its JSON API alone, page by page, objects renewed where they lie.

What gcsfs gives out as its file system asks first what kind of bucket it has, by gRPC, through a client of its own that
goes to Google wherever ``endpoint_url`` leads, and tries for a minute: longer than any call here may take. Only zonal
buckets need that. So the file system that it builds on is used, and of that not the listings, which make more requests
than there are pages and tell an absent place by asking for an object of that name. Threading: as `objects.remote`.

https://cloud.google.com/storage/docs/json_api/v1/objects
"""

# ruff: noqa: D102 - ObjectStore documents the methods

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

from artifactfs.errors import NotFound
from artifactfs.objects import bounds
from artifactfs.objects.guards import counted_aiohttp_response
from artifactfs.objects.pages import Page, PagedStore
from artifactfs.objects.remote import FsspecStore
from artifactfs.objects.store import StoredFile, changed_ns

_PAGE_KEYS = 1000


class GcsStore(PagedStore, FsspecStore):
    """A store at ``gs://bucket/prefix``."""

    page_keys = _PAGE_KEYS
    renews_in_place = True
    keeps_directories = False

    def _build(self) -> tuple[Any, str]:
        from aiohttp import ClientTimeout

        options: dict[str, Any] = {
            "requests_timeout": ClientTimeout(sock_connect=bounds.CONNECT_TIMEOUT_S, sock_read=bounds.READ_TIMEOUT_S),
            **self._options,
            "use_listings_cache": False,
            "session_kwargs": {
                "response_class": counted_aiohttp_response(),
                **self._options.get("session_kwargs", {}),
            },
        }
        fs = _client_class()(**options)
        return fs, str(fs._strip_protocol(self.url)).rstrip("/")

    def size(self, key: str) -> int:
        async def ask(fs: Any, bucket: str, name: str) -> int:
            return int((await fs._call("GET", "b/{}/o/{}", bucket, name, fields="size", json_out=True))["size"])

        return self._ask("look for", ask, key)

    def renew(self, key: str) -> bool:
        # Rewritten onto itself: a new generation, and no bytes leave the store.
        try:
            self._call("renew", lambda fs, path, bound: fs.cp_file(path, path, **bound), key)
        except NotFound:
            return False
        return True

    def _pages(self, prefix: str, delimiter: str = "") -> Iterator[Page]:
        more: dict[str, str] = {"delimiter": delimiter} if delimiter else {}

        async def ask(fs: Any, bucket: str, name: str) -> tuple[str, dict[str, Any]]:
            top = name[: len(name) - len(prefix)].rstrip("/")
            wanted = {"prefix": f"{name}/" if name else "", "maxResults": _PAGE_KEYS, **more}
            try:
                page = await fs._call("GET", "b/{}/o", bucket, json_out=True, **wanted)
            except FileNotFoundError as error:
                raise NotFound(f"there is no bucket {bucket!r}: make it first") from error
            return f"{top}/" if top else "", page

        while True:
            top, page = self._ask("list", ask, prefix)
            token = page.get("nextPageToken")
            folders = [name.rstrip("/").rpartition("/")[2] for name in page.get("prefixes", ())]
            yield Page(list(_files(top, page)), folders, not token)
            if not token:
                return
            more["pageToken"] = token


def _client_class() -> Any:
    from gcsfs.core import GCSFileSystem

    request_once = GCSFileSystem._request.__wrapped__

    class Client(GCSFileSystem):  # type: ignore[misc]
        async def _request(self, *arguments: Any, **options: Any) -> Any:
            """Once: `objects.patience` repeats, and knows for how long."""
            try:
                return await request_once(self, *arguments, **options)
            except OSError as error:
                if type(error) is OSError and str(error).startswith("Forbidden"):
                    raise PermissionError(errno.EACCES, str(error)) from error
                raise

    return Client


def _files(top: str, page: dict[str, Any]) -> Iterator[StoredFile]:
    for item in page.get("items", ()):
        # A name that ends with a slash stands for a folder, made by other programs.
        if item["name"].startswith(top) and not item["name"].endswith("/"):
            yield StoredFile(item["name"][len(top) :], int(item["size"]), changed_ns(item))
