"""A web server on loopback that serves a directory in ranges, counts what it is asked for, and misbehaves on request.

A real client (fsspec's over aiohttp) reads a store through it. Faults are attributes, to be set at any time.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        server: RangedServer = self.server.owner  # type: ignore[attr-defined]
        path = server.directory / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        size_bytes = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end = (int(asked[1]), min(int(asked[2] or size_bytes) + 1, size_bytes)) if asked else (0, size_bytes)
        if start >= end:
            self.send_error(416)
            return
        with server.lock:
            server.requests.append((self.path, start, end))
            server.now += 1
            server.most_at_once = max(server.most_at_once, server.now)
        try:
            self._answer(server, path, start, end, size_bytes)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with server.lock:
                server.now -= 1

    def do_HEAD(self) -> None:
        server: RangedServer = self.server.owner  # type: ignore[attr-defined]
        path = server.directory / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(path.stat().st_size))
        self.end_headers()

    def _answer(self, server: RangedServer, path: Path, start: int, end: int, size_bytes: int) -> None:
        assert server.gate.wait(60)
        if server.status != 200:
            self.send_error(server.status)
            return
        with path.open("rb") as file:
            file.seek(start)
            data = server.change(file.read(end - start))
        time.sleep(server.latency_s)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size_bytes}")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if server.cut:
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        return


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients are killed here."""


class RangedServer:
    """See the module docstring."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lock = threading.Lock()
        self.requests: list[tuple[str, int, int]] = []
        self.now = self.most_at_once = 0
        self.gate = threading.Event()
        """Answers wait while it is not set."""
        self.reset()
        self._server = QuietServer(("127.0.0.1", 0), Handler)
        self._server.owner = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def reset(self) -> None:
        """Behave, and count from 0."""
        self.status = 200
        self.cut = False
        self.change: Callable[[bytes], bytes] = lambda data: data
        self.latency_s = 0.0
        self.requests = []
        self.most_at_once = 0
        self.gate.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
