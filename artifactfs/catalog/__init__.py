"""Catalogs: which versions exist, where they are and how to read them, as one YAML file.

A :class:`Catalog` maps ``collection/artifact`` to numbered :class:`Source` descriptions. Classes, behaviour and file
form are those of squirrel (``squirrel.catalog``), so either side reads what the other wrote. Catalog versions count
from 1: artifactfs's ``v0`` is catalog version 1 (:func:`catalog_key`).

* `address` writes and reads the URL of a version, and keeps credentials out of URLs and options;
* `source` describes one version; `catalog` is the mapping; `text` is the YAML form; `io` moves text over fsspec;
* `drivers` turns a description back into bytes.

Threading: any number of threads may read a catalog nobody changes; changes need the caller's lock. Drivers are safe
from any thread. Importing this package loads neither the YAML library nor fsspec.
"""

from artifactfs.catalog.address import VersionAddress, format_version_url, parse_version_url
from artifactfs.catalog.catalog import Catalog, CatalogKey, CatalogSource, UnsetSource
from artifactfs.catalog.drivers import Driver, register_driver
from artifactfs.catalog.source import DRIVER_NAME, Source, catalog_key, source_of

__all__ = [
    "DRIVER_NAME",
    "Catalog",
    "CatalogKey",
    "CatalogSource",
    "Driver",
    "Source",
    "UnsetSource",
    "VersionAddress",
    "catalog_key",
    "format_version_url",
    "parse_version_url",
    "register_driver",
    "source_of",
]
