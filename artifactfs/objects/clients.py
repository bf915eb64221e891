"""How the client libraries below fsspec are set: bounded in time, and trying once, since `objects.patience` repeats.

What the caller gives is kept. Pure functions, safe from any thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CONNECT_TIMEOUT_S = 10
_READ_TIMEOUT_S = 20
_CONNECTIONS = 64


def tuned_options(protocol: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The storage options for a file system of that protocol: those given, and what bounds it."""
    options = dict(given)
    if protocol in ("s3", "s3a"):
        config = {
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "read_timeout": _READ_TIMEOUT_S,
            "retries": {"total_max_attempts": 1},
            "max_pool_connections": _CONNECTIONS,
        }
        options["config_kwargs"] = {**config, **options.get("config_kwargs", {})}
    elif protocol in ("az", "abfs", "abfss"):
        options.setdefault("connection_timeout", _CONNECT_TIMEOUT_S)
        options.setdefault("read_timeout", _READ_TIMEOUT_S)
    elif protocol in ("sftp", "ssh"):
        for name in ("timeout", "banner_timeout", "auth_timeout"):
            options.setdefault(name, _CONNECT_TIMEOUT_S)
    elif protocol in ("webdav", "dav"):
        options.setdefault("timeout", _READ_TIMEOUT_S)
    return options
