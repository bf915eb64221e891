"""The one way to name things in a store: ``collection/artifact@version:path``.

Everything after the collection may be left out; without ``@version`` the latest version is meant. The version is
``v3``, ``latest`` or an alias. A path begins after the first colon behind the artifact and may hold anything, further
colons and ``@`` included. Names that a foreign store holds are written as listings show them, percent-encoded.

Pure functions, safe from any thread. `catalog.address` puts the store's URL before such an address.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from artifactfs import names
from artifactfs.errors import InvalidName

FORM = "collection[/artifact[@version][:path]]"

_ADDRESS = re.compile(
    r"(?P<collection>[\w:.%-]+)(/((?P<artifact>[\w.%-]+)(@(?P<version>[^@:/]+))?(:(?P<path>.+))?)?)?\Z",
    re.ASCII | re.DOTALL,
)


class Address(NamedTuple):
    """A parsed address; what was left out is None."""

    collection: str
    artifact: str | None = None
    version: str | None = None
    path: str | None = None

    def __str__(self) -> str:
        text = self.collection
        if self.artifact is not None:
            text += f"/{self.artifact}"
        if self.version is not None:
            text += f"@{self.version}"
        return text if self.path is None else f"{text}:{self.path}"


def parse_address(text: str) -> Address:
    """Read an address; slashes at its end are dropped. Raises InvalidName.

    Example:
        >>> parse_address("models/bert@best:weights/encoder.bin")
        Address(collection='models', artifact='bert', version='best', path='weights/encoder.bin')
    """
    match = _ADDRESS.match(text)
    if match is None:
        raise InvalidName(
            f"not an address: {text!r}; use {FORM}, such as models/bert@v3:weights.bin, not a path on a drive"
        )
    path = match["path"]
    if path is not None:
        path = names.check_path(path.rstrip("/"))
    version = match["version"]
    if version is not None and version != names.LATEST and not names.is_version(version):
        names.check_alias(version)
    return Address(match["collection"], match["artifact"], version, path)
