"""A store on Azure's blob storage through adlfs: its listings page by page, objects renewed where they lie.

adlfs asks two or three times where one request tells, and keeps a whole listing until its last page came; here a page
is one bounded call that can be repeated by itself. Threading: as `objects.remote`.
"""

# ruff: noqa: D102 - ObjectStore documents the methods

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from fsspec.asyn import sync

from artifactfs.errors import NotFound
from artifactfs.objects.layout import TEMPORARY_PREFIX
from artifactfs.objects.remote import FsspecStore
from artifactfs.objects.store import Listing, StoredFile, changed_ns

_PAGE_KEYS = 5000
# What adlfs gives a blob, and goes by.
_METADATA = {"is_directory": "false"}
T = TypeVar("T")


class AzureStore(FsspecStore):
    """A store at ``az://container/prefix``."""

    page_keys = _PAGE_KEYS
    renews_in_place = True

    def listing(self, prefix: str) -> Listing:
        files: list[str] = []
        directories: list[str] = []
        for _, items in self._pages(prefix, "/"):
            for item in items:
                name = item.name.rstrip("/").rpartition("/")[2]
                if item.name.endswith("/"):
                    directories.append(name)
                elif not _is_folder(item) and not name.startswith(TEMPORARY_PREFIX):
                    files.append(name)
        # Where folders are kept as such, one is listed both as a blob and as what blobs' names begin with.
        return Listing(files, list(dict.fromkeys(directories)))

    def walk(self, prefix: str) -> Iterator[StoredFile]:
        for top, items in self._pages(prefix):
            yield from _files(top, items)

    def few(self, prefix: str) -> list[StoredFile] | None:
        pages = self._pages(prefix)
        found = list(_files(*next(pages)))
        return found if next(pages, None) is None else None

    def size(self, key: str) -> int:
        async def ask(client: Any, container: str, name: str) -> int:
            return int((await client.get_blob_client(container, name).get_blob_properties()).size)

        return self._ask("look for", ask, key)

    def renew(self, key: str) -> bool:
        async def ask(client: Any, container: str, name: str) -> None:
            # Of all requests without a body, this one makes the blob count as changed.
            await client.get_blob_client(container, name).set_blob_metadata(_METADATA)

        try:
            self._ask("renew", ask, key)
        except NotFound:
            return False
        return True

    def _pages(self, prefix: str, delimiter: str = "") -> Iterator[tuple[str, list[Any]]]:
        """The store's top in the container, and the blobs of one page after another; at least one page."""
        token: str | None = None
        while True:
            top, items, token = self._ask(
                "list", partial(_page, delimiter=delimiter, token=token, prefix=prefix), prefix
            )
            yield top, items
            if not token:
                return

    def _ask(self, what: str, ask: Callable[[Any, str, str], Awaitable[T]], key: str) -> T:
        """Run `ask` with Azure's client, the container and the name of `key` in it."""

        def action(fs: Any, path: str, bound: dict[str, float]) -> T:
            container, _, name = path.partition("/")
            answer: T = sync(fs.loop, ask, fs.service_client, container, name, **bound)
            return answer

        return self._call(what, action, key)


async def _page(
    client: Any, container: str, name: str, *, delimiter: str, token: str | None, prefix: str
) -> tuple[str, list[Any], str | None]:
    from azure.core.exceptions import ResourceNotFoundError

    blobs = client.get_container_client(container)
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
        if not item.name.endswith("/") and not _is_folder(item):
            yield StoredFile(item.name[len(top) :], int(item.size), changed_ns({"last_modified": item.last_modified}))
