"""A store on Azure's blob storage through adlfs: its listings page by page, objects renewed where they lie.

adlfs asks two or three times where one request tells, and keeps a whole listing until its last page came; here a page
is one bounded call that can be repeated by itself. Threading: as `objects.remote`.
"""

# ruff: noqa: D102 - ObjectStore documents the methods

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from artifactfs.errors import NotFound
from artifactfs.objects.pages import Page, PagedStore
from artifactfs.objects.remote import FsspecStore
from artifactfs.objects.store import StoredFile, changed_ns

_PAGE_KEYS = 5000
# What adlfs gives a blob, and goes by.
_METADATA = {"is_directory": "false"}


class AzureStore(PagedStore, FsspecStore):
    """A store at ``az://container/prefix``."""

    page_keys = _PAGE_KEYS
    renews_in_place = True

    def size(self, key: str) -> int:
        async def ask(fs: Any, container: str, name: str) -> int:
            return int((await fs.service_client.get_blob_client(container, name).get_blob_properties()).size)

        return self._ask("look for", ask, key)

    def renew(self, key: str) -> bool:
        async def ask(fs: Any, container: str, name: str) -> None:
            # Of all requests without a body, this one makes the blob count as changed.
            await fs.service_client.get_blob_client(container, name).set_blob_metadata(_METADATA)

        try:
            self._ask("renew", ask, key)
        except NotFound:
            return False
        return True

    def _pages(self, prefix: str, delimiter: str = "") -> Iterator[Page]:
        token: str | None = None
        while True:
            top, items, token = self._ask(
                "list", partial(_page, delimiter=delimiter, token=token, prefix=prefix), prefix
            )
            folders = [item.name.rstrip("/").rpartition("/")[2] for item in items if item.name.endswith("/")]
            yield Page(list(_files(top, items)), folders, not token)
            if not token:
                return


async def _page(
    fs: Any, container: str, name: str, *, delimiter: str, token: str | None, prefix: str
) -> tuple[str, list[Any], str | None]:
    from azure.core.exceptions import ResourceNotFoundError

    blobs = fs.service_client.get_container_client(container)
    wanted = {"name_starts_with": f"{name}/" if name else "", "results_per_page": _PAGE_KEYS, "include": ["metadata"]}
    pages = (blobs.walk_blobs(delimiter=delimiter, **wanted) if delimiter else blobs.list_blobs(**wanted)).by_page(
        token
    )
    top = f"{name}/"[: -len(prefix) - 1] if prefix else f"{name}/" if name else ""
    try:
        async for page in pages:
            return top, [item async for item in page], pages.continuation_token
    except ResourceNotFoundError as error:
        raise NotFound(f"there is no container {container!r}: make it first") from error
    return top, [], None


def _is_folder(item: Any) -> bool:
    return bool((item.metadata or {}).get("hdi_isfolder"))


def _files(top: str, items: list[Any]) -> Iterator[StoredFile]:
    for item in items:
        if item.name.startswith(top) and not item.name.endswith("/") and not _is_folder(item):
            yield StoredFile(item.name[len(top) :], int(item.size), changed_ns({"last_modified": item.last_modified}))
