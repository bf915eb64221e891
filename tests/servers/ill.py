"""A web server that answers whatever it is asked as no server should: without end, byte by byte, with more than asked.

One thread accepts, one serves each connection; `sent_bytes` and `asked` are read when that is over, or roughly.
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BLOCK = b"x" * (1 << 20)


class IllServer:
    """Answers every GET as `behaviour` says, one of the methods of `_Handler`. A context manager."""

    def __init__(self, behaviour: str, *, target: str = "") -> None:
        self.behaviour = behaviour
        self.target = target
        self.sent_bytes = 0
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.ended = threading.Event()
        ill = self

        class Handler(_Handler):
            server_of = ill

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> IllServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: IllServer

    def do_GET(self) -> None:
        self.server_of.asked.append((self.path, dict(self.headers)))
        self.close_connection = True
        try:
            getattr(self, self.server_of.behaviour)()
        except OSError:
            return

    do_HEAD = do_GET
    do_POST = do_GET
    do_PROPFIND = do_GET

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def _write(self, data: bytes) -> None:
        if self.command == "HEAD":
            raise BrokenPipeError  # what follows would be taken for the next answer
        self.wfile.write(data)
        self.wfile.flush()
        self.server_of.sent_bytes += len(data)

    def _head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Connection", "close")
        self.end_headers()

    def endless(self) -> None:
        self._head(206, Transfer_Encoding="chunked", Content_Range="bytes 0-99/100")
        self._go_on()

    def endless_error(self) -> None:
        self._head(500, Transfer_Encoding="chunked")
        self._go_on()

    def _go_on(self) -> None:
        while not self.server_of.ended.is_set():
            self._write(b"%x\r\n%b\r\n" % (len(BLOCK), BLOCK))

    def more_than_asked(self) -> None:
        self._head(206, Content_Length=5000, Content_Range="bytes 0-99/100")
        self._write(b"x" * 5000)

    def large(self) -> None:
        self._head(200, Content_Length=40 * len(BLOCK))
        for _ in range(40):
            self._write(BLOCK)

    def part_as_200(self) -> None:
        self._head(200, Content_Length=100, Content_Range="bytes 100-199/5000")
        self._write(b"x" * 100)

    def whole_told_as_part(self) -> None:
        self._head(200, Content_Length=5000, Content_Range="bytes 100-199/5000")
        self._write(b"w" * 5000)

    def byte_by_byte(self) -> None:
        self._head(206, Content_Length=100, Content_Range="bytes 0-99/100")
        while not self.server_of.ended.wait(0.2):
            self._write(b"x")

    def header_by_byte(self) -> None:
        self._write(b"HTTP/1.1 206 Partial Content\r\nX-Long: ")
        while not self.server_of.ended.wait(0.2):
            self._write(b"x")

    def redirect(self) -> None:
        self._head(307, Location=self.server_of.target + self.path, Content_Length=0)

    def same_page(self) -> None:
        page = (
            b'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            b"<IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken>"
            b"<Contents><Key>x/collections/c/a/v0.version</Key><Size>1</Size></Contents></ListBucketResult>"
        )
        self._head(200, Content_Length=len(page))
        self._write(page)

    def keys_from_elsewhere(self) -> None:
        keys = ("x/c/a/b", "x/c/../b", "x/c//b", "elsewhere/c/a", "x/d/a", "x/c/a/../../b", "x/c/./b", "x/c/good")
        page = "".join(f"<Contents><Key>{key}</Key><Size>1</Size></Contents>" for key in keys)
        prefixes = "".join(f"<CommonPrefixes><Prefix>x/c/{name}/</Prefix></CommonPrefixes>" for name in ("..", "dir"))
        page = f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{page}{prefixes}</ListBucketResult>'
        self._head(200, Content_Length=len(page))
        self._write(page.encode())

    def reason_in_lines(self) -> None:
        body = b"<Error><Code>AccessDenied</Code><Message>\n  The policy\n  denies this.\n</Message></Error>"
        self._head(403, Content_Length=len(body))
        self._write(body)
