"""Files that W&B only refers to (``s3://``, ``gs://``, ``https://`` …), read through fsspec.

Which schemes may be followed is the caller's decision: whoever logged the version chose the address, and reading it
uses the credentials of whoever reads. ``file://`` is this machine's disk and therefore never followed unless named.

Threading: any thread; fsspec keeps one file system per scheme and options.
"""

from __future__ import annotations

from typing import Any

from artifactfs.errors import AccessDenied, IntegrityError, MissingDependency, NotFound, StoreUnreachable
from artifactfs.objects.clients import tuned_options
from artifactfs.objects.replies import asking
from artifactfs.objects.store import translate

FOLLOWED = "s3,gs,http,https"
_WHAT = "{path} refers to {url}"


def schemes_of(text: str) -> frozenset[str]:
    """The schemes in a list with commas; ``none`` for none."""
    return frozenset(part.strip().lower() for part in text.split(",")) - {"", "none"}


class References:
    """Reads what is referred to, where the scheme is among `allowed`."""

    def __init__(self, allowed: frozenset[str]) -> None:
        self._allowed = allowed

    def size_bytes(self, path: str, url: str) -> int | None:
        """How large it is, None when that cannot be learnt."""
        try:
            fs, place = self._open(path, url)
            size = fs.size(place)
        except Exception:  # noqa: BLE001 - any reason not to know it is as good as another
            return None
        return None if size is None else int(size)

    def read(self, path: str, url: str, offset: int, size_bytes: int) -> bytes:
        """Bytes of it, all of which must be there.

        Raises AccessDenied (the scheme is not among those that may be followed), MissingDependency, IntegrityError (it
        is gone or shorter than it was), StoreUnreachable.
        """
        fs, place = self._open(path, url)
        what = _WHAT.format(path=path, url=_shown(url))
        try:
            with asking(size_bytes):
                data = bytes(fs.cat_file(place, start=offset, end=offset + size_bytes))
        except Exception as error:
            found = translate(error, what)
            raise IntegrityError(f"{what}, which is not there") if isinstance(found, NotFound) else found from error
        if len(data) > size_bytes:
            # A server that knows no ranges sent all of it.
            data = data[offset : offset + size_bytes]
        if len(data) != size_bytes:
            raise IntegrityError(f"{what}, which is shorter than when it was logged")
        return data

    def _open(self, path: str, url: str) -> tuple[Any, str]:
        scheme = url.partition("://")[0].lower() if "://" in url else ""
        what = _WHAT.format(path=path, url=_shown(url))
        if scheme not in self._allowed:
            raise AccessDenied(
                f"{what}: references to {scheme or 'such places'} are not followed; the option references= names the "
                f"schemes that are ({','.join(sorted(self._allowed)) or 'none'})"
            )
        import fsspec

        try:
            fs, place = fsspec.url_to_fs(url, **tuned_options(scheme, {}))
        except ImportError as error:
            raise MissingDependency(f"{what}: {error}") from error
        except ValueError as error:
            raise StoreUnreachable(f"{what}, which nothing here can read") from error
        return fs, str(place)


def _shown(url: str) -> str:
    """Without a query, which may hold a signature."""
    return url.partition("?")[0]
