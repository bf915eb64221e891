"""The rule of `objects.replies` put into the client libraries: urllib3 (S3 and W&B), aiohttp, httpx.

Threading: pure functions and classes; what they make belongs to one connection or one answer.
"""

from __future__ import annotations

import http.client
import io
import time
from collections.abc import AsyncIterator, Iterator
from functools import lru_cache
from typing import Any

from artifactfs.objects.replies import Allowance


class _Counted(io.RawIOBase):
    """The bytes that come on a socket, counted."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._allowance = Allowance()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        began_s = time.monotonic()
        size_bytes: int | None = self._raw.readinto(buffer)
        self._allowance.count(size_bytes or 0, time.monotonic() - began_s)
        return size_bytes

    def close(self) -> None:
        self._raw.close()
        super().close()


class CountedResponse(http.client.HTTPResponse):
    """An answer that is given up when it takes more than it may, its status line and headers included."""

    def __init__(self, sock: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_Counted(self.fp.detach()))


def counted_pools(pools: dict[str, Any]) -> dict[str, Any]:
    """Classes of urllib3's pools by scheme, such as `pools`, whose connections count their answers."""
    return {scheme: _counted_pool(pool) for scheme, pool in pools.items()}


@lru_cache(maxsize=8)
def _counted_pool(pool: Any) -> Any:
    connection = type(pool.ConnectionCls.__name__, (pool.ConnectionCls,), {"response_class": CountedResponse})
    return type(pool.__name__, (pool,), {"ConnectionCls": connection})


class _CountedStream:
    """The body of an answer of aiohttp's, counted; the rest is as the stream has it."""

    def __init__(self, stream: Any, allowance: Allowance) -> None:
        self._stream = stream
        self._allowance = allowance

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def _next(self, read: Any) -> bytes:
        began_s = time.monotonic()
        data: bytes = await read
        self._allowance.count(len(data), time.monotonic() - began_s)
        return data

    async def read(self, n: int = -1) -> bytes:
        if n >= 0:
            return await self._next(self._stream.read(n))
        pieces = []
        while piece := await self.readany():
            pieces.append(piece)
        return b"".join(pieces)

    async def readany(self) -> bytes:
        return await self._next(self._stream.readany())

    async def iter_chunked(self, n: int) -> AsyncIterator[bytes]:
        while piece := await self.read(n):
            yield piece

    async def iter_any(self) -> AsyncIterator[bytes]:
        while piece := await self.readany():
            yield piece


@lru_cache(maxsize=1)
def counted_aiohttp_response() -> Any:
    """The class of answers for sessions of aiohttp, to be given as ``response_class``."""
    import aiohttp

    class Response(aiohttp.ClientResponse):
        async def start(self, connection: Any) -> aiohttp.ClientResponse:
            await super().start(connection)
            self.content = _CountedStream(self.content, Allowance())  # type: ignore[assignment]
            return self

    return Response


def count_httpx(response: Any) -> None:
    """A hook for httpx, called with each answer before its body is read."""
    import httpx

    stream = response.stream

    class Counted(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            allowance = Allowance()
            began_s = time.monotonic()
            for piece in stream:
                allowance.count(len(piece), time.monotonic() - began_s)
                yield piece
                began_s = time.monotonic()

        def close(self) -> None:
            stream.close()

    response.stream = Counted()
