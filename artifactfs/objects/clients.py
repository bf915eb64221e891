"""How the client libraries below fsspec are set: bounded in time, and trying once, since `objects.patience` repeats.

What the caller gives is kept. Safe from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from artifactfs.objects.bounds import CONNECT_TIMEOUT_S, READ_TIMEOUT_S
from artifactfs.objects.guards import count_httpx, counted_aiohttp_response


def tuned_options(protocol: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The storage options for a file system of that protocol: those given, and what bounds it."""
    options = dict(given)
    if protocol in ("az", "abfs", "abfss"):
        options.setdefault("connection_timeout", CONNECT_TIMEOUT_S)
        options.setdefault("read_timeout", READ_TIMEOUT_S)
    elif protocol in ("sftp", "ssh"):
        for name in ("timeout", "banner_timeout", "auth_timeout"):
            options.setdefault(name, CONNECT_TIMEOUT_S)
    elif protocol in ("webdav", "dav"):
        options.setdefault("timeout", READ_TIMEOUT_S)
        options.setdefault("retry", False)
        options.setdefault("event_hooks", {"response": [count_httpx]})
    elif protocol in ("http", "https"):
        options["client_kwargs"] = {"response_class": counted_aiohttp_response(), **options.get("client_kwargs", {})}
    return options


def try_once(protocol: str, fs: Any, options: Mapping[str, Any]) -> None:
    """Have a file system, made with these tuned options, try once where no option tells it to."""
    if hasattr(fs, "retries"):
        fs.retries = 1
    if protocol in ("az", "abfs", "abfss"):
        _try_once_on_azure(fs, options)


def _try_once_on_azure(fs: Any, options: Mapping[str, Any]) -> None:
    """Its own attempts are 15 s and more apart, and adlfs passes neither that nor the time-outs on to what lists."""
    from azure.storage.blob.aio import BlobServiceClient

    with _lock:
        made = fs.service_client
        # fsspec gives the same file system to all who give the same options.
        if not hasattr(fs, "tries_once"):
            fs.tries_once = True
            timeouts = {name: options[name] for name in ("connection_timeout", "read_timeout")}
            fs.service_client = BlobServiceClient(
                made.url, credential=made.credential, retry_total=0, transport=_azure_transport(timeouts), **timeouts
            )


def _azure_transport(timeouts: dict[str, Any]) -> Any:
    """Azure's own transport, on a session whose answers are counted."""
    import aiohttp
    from azure.core.pipeline.transport import AioHttpTransport

    class Transport(AioHttpTransport):  # type: ignore[misc]
        async def open(self) -> None:
            if not self.session:
                self.session: Any = aiohttp.ClientSession(
                    trust_env=True,
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,
                    response_class=counted_aiohttp_response(),
                )
            await super().open()

    return Transport(**timeouts)


_lock = threading.Lock()
