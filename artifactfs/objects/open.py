"""From a store's path or URL to what reaches it. Backends are imported when they are asked for, from any thread."""

from __future__ import annotations

import os
from typing import Any

from artifactfs.objects.local import LocalStore
from artifactfs.objects.store import ObjectStore
from artifactfs.redaction import remember


def open_store(url: str, *, single_writer: bool = False, **storage_options: Any) -> ObjectStore:
    """The store at a path or URL; nothing is touched yet."""
    remember(url, storage_options)
    scheme, separator, rest = url.partition("://")
    if not separator:
        return LocalStore(os.path.expanduser(url), single_writer=single_writer)
    if scheme in ("file", "local"):
        return LocalStore(rest, single_writer=single_writer)
    # Imported here: fsspec takes longer to import than everything else together.
    if scheme.lower() in ("s3", "s3a"):
        from artifactfs.objects.s3 import S3Store

        return S3Store(url, single_writer=single_writer, **storage_options)
    if scheme.lower() in ("az", "abfs", "abfss"):
        from artifactfs.objects.azure import AzureStore

        return AzureStore(url, single_writer=single_writer, **storage_options)
    if scheme.lower() in ("gs", "gcs"):
        from artifactfs.objects.gcs import GcsStore

        return GcsStore(url, single_writer=single_writer, **storage_options)
    if scheme.lower() in ("sftp", "ssh"):
        from artifactfs.objects.sftp import SftpStore

        return SftpStore(url, single_writer=single_writer, **storage_options)
    from artifactfs.objects.remote import FsspecStore

    return FsspecStore(url, single_writer=single_writer, **storage_options)
