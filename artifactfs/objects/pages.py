"""What stores have in common whose listings come page by page, each by one bounded request that can be repeated.

Threading: as `objects.store`.
"""

# ruff: noqa: D102 - ObjectStore documents the methods

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

from artifactfs.objects.layout import TEMPORARY_PREFIX
from artifactfs.objects.store import Listing, ObjectStore, StoredFile


class Page(NamedTuple):
    """One answer: files, without what stands for a folder, and the names of directories where it was delimited."""

    files: list[StoredFile]
    directories: list[str]
    is_last: bool


class PagedStore(ObjectStore):
    """See the module docstring."""

    @abstractmethod
    def _pages(self, prefix: str, delimiter: str = "") -> Iterator[Page]:
        """What lies below `prefix`, with a delimiter what lies directly there; at least one page."""

    def listing(self, prefix: str) -> Listing:
        files: list[str] = []
        # Where folders are kept as such, Azure lists one both as a blob and as what blobs' names begin with.
        directories: dict[str, None] = {}
        for page in self._pages(prefix, "/"):
            names = (file.key.rpartition("/")[2] for file in page.files)
            files += (name for name in names if not name.startswith(TEMPORARY_PREFIX))
            directories |= dict.fromkeys(page.directories)
        return Listing(files, list(directories))

    def walk(self, prefix: str) -> Iterator[StoredFile]:
        for page in self._pages(prefix):
            yield from page.files

    def few(self, prefix: str) -> list[StoredFile] | None:
        page = next(self._pages(prefix))
        return page.files if page.is_last else None
