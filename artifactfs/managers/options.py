"""The keywords of :func:`artifactfs.connect`: those that nothing would ever read are refused, with the one meant.

Which ones a backend reads is found from the signature of its fsspec class. A class that passes further keywords on to a
library of its own takes any, but none that is nearly the name of one it knows.

Pure functions, safe from any thread.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from artifactfs.errors import ArgumentError

OURS = ("collection", "single_writer")
_OF_EVERY_FILESYSTEM = (
    *("asynchronous", "batch_size", "loop", "skip_instance_cache", "use_listings_cache"),
    *("listings_expiry_time", "max_paths"),
)
_OF_A_DISK = ("auto_mkdir",)
# Classes of fsspec itself that take every keyword and read none but those they name and the above.
_TAKE_ALL_READ_NONE = frozenset({"AbstractFileSystem", "AsyncFileSystem", "MemoryFileSystem", "object"})
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def check_options(scheme: str, options: Mapping[str, Any], known: Iterable[str] = OURS) -> None:
    """Raise ArgumentError for a keyword that the store of that scheme ('' is a local path) does not know.

    `known` are the keywords that the manager itself takes.
    """
    named, takes_more = _keywords_of(scheme)
    check_known(options, {*named, *known}, takes_more)


def check_known(options: Mapping[str, Any], known: Collection[str], takes_more: bool = False) -> None:
    """Raises ArgumentError for a keyword that is not known, or where others may be taken, for a misspelt one."""
    for name in options:
        if name in known:
            continue
        near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.8)
        if near:
            raise ArgumentError(f"unknown option {name!r}: did you mean {near[0]!r}?")
        if not takes_more:
            raise ArgumentError(f"unknown option {name!r}: this store takes {', '.join(sorted(known))}")


def _keywords_of(scheme: str) -> tuple[set[str], bool]:
    """The keywords that the file system of a scheme reads, and whether it passes others on."""
    if scheme in ("", "file", "local"):
        # Not asked: fsspec takes longer to import than many a command.
        return {*_OF_EVERY_FILESYSTEM, *_OF_A_DISK}, False
    if scheme in ("s3", "s3a"):
        from artifactfs.objects.s3_client import OPTIONS

        return {*OPTIONS, *_OF_EVERY_FILESYSTEM}, False
    from fsspec.registry import get_filesystem_class

    named, takes_more = set(_OF_EVERY_FILESYSTEM), False
    try:
        kinds = get_filesystem_class(scheme).__mro__
    except (ImportError, ValueError):
        # The first call says what is missing.
        return named, True
    for kind in kinds:
        if "__init__" not in vars(kind) or kind.__name__ in _TAKE_ALL_READ_NONE:
            continue
        _, *parameters = inspect.signature(vars(kind)["__init__"]).parameters.values()
        named |= {parameter.name for parameter in parameters if parameter.kind in _NAMED}
        takes_more |= any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    return named, takes_more
