"""What stores have in common whose listings come page by page, each by one bounded request that can be repeated.

Threading: as `objects.store`.
"""

# ruff: noqa: D102 - ObjectStore documents the methods

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

from artifactfs.errors import FormatError
from artifactfs.names import is_clean_path
from artifactfs.objects.bounds import MOST_PAGES
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
        skip = len(prefix) + 1 if prefix else 0
        for page in self._bounded_pages(prefix, "/"):
            names = (file.key[skip:] for file in page.files)
            files += (name for name in names if "/" not in name and not name.startswith(TEMPORARY_PREFIX))
            directories |= dict.fromkeys(name for name in page.directories if is_clean_path(name))
        return Listing(files, list(directories))

    def walk(self, prefix: str) -> Iterator[StoredFile]:
        for page in self._bounded_pages(prefix):
            yield from page.files

    def few(self, prefix: str) -> list[StoredFile] | None:
        page = next(self._bounded_pages(prefix))
        return page.files if page.is_last else None

    def _bounded_pages(self, prefix: str, delimiter: str = "") -> Iterator[Page]:
        """The pages, with nothing in them that was not asked for. Raises FormatError when they go round in a circle."""
        below = f"{prefix}/" if prefix else ""
        before: tuple[list[StoredFile], list[str]] | None = None
        for number, page in enumerate(self._pages(prefix, delimiter)):
            same = before == (page.files, page.directories) and (page.files or page.directories)
            if same or number == MOST_PAGES:
                raise FormatError(f"the listing of {prefix or 'the top'} of {self.url} does not end")
            before = page.files, page.directories
            files = [file for file in page.files if file.key.startswith(below) and is_clean_path(file.key)]
            yield page._replace(files=files)
