"""A proxy between a client and a server that does on command what networks and servers do at their worst.

It reads HTTP/1.1 as far as it must to tell requests apart, count them and spoil one answer. With ``http=False`` (SFTP)
it passes on bytes that it cannot read: there each block is a Request, "up" to the server or "down" from it. One thread
accepts, one serves each connection (four without HTTP). `_lock` guards the plan and the counts and is never
held across I/O.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import BinaryIO, NamedTuple

_BLOCK_BYTES = 64 << 10
_PIECE_BYTES = 1 << 20


class Fault(enum.Enum):
    """What happens to one request."""

    SLOW_DOWN = "answered 503 SlowDown"
    TOO_MANY = "answered 429"
    DENIED = "answered 403 AccessDenied"
    CUT = "the connection breaks in the middle of the answer's body"
    STALL = "the answer's body stops in the middle and nothing more comes"
    CORRUPT = "one bit of the answer's body is wrong"
    LOST_ANSWER = "the request has its effect and the connection breaks before the answer"
    LOST_REQUEST = "the connection breaks before the request has any effect"


_REFUSALS = {
    Fault.SLOW_DOWN: ("503 Slow Down", "SlowDown"),
    Fault.TOO_MANY: ("429 Too Many Requests", "TooManyRequests"),
    Fault.DENIED: ("403 Forbidden", "AccessDenied"),
}


class Request(NamedTuple):
    """The first line of a request; without HTTP the direction of a block and its size."""

    method: str
    target: str

    @property
    def block_bytes(self) -> int:
        """The size of a block; 0 for HTTP."""
        return int(self.target) if self.method in ("up", "down") else 0


@dataclass
class _Planned:
    fault: Fault
    matches: Callable[[Request], bool]
    times: int
    after: int
    after_pieces: int


class FaultProxy:
    """Listens at `port` of `address` and passes on to `upstream_port` of 127.0.0.1. A context manager.

    Each request waits for `latency_s` before it is passed on, without HTTP each block, whatever is on its way already.
    """

    def __init__(self, upstream_port: int, *, http: bool = True, address: str = "127.0.0.1") -> None:
        self._upstream_port = upstream_port
        self.is_http = http
        self._address = address
        self.latency_s = 0.0
        self._lock = threading.Lock()
        self._plan: list[_Planned] = []
        self._requests: list[Request] = []
        self._spans: list[tuple[float, float]] = []
        self._sockets: set[socket.socket] = set()
        self._over = threading.Event()
        self._listener: socket.socket | None = None
        self.port = 0
        self.restore()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self.cut_network()

    # -- commands -----------------------------------------------------------------------------------------------------

    def plan(
        self,
        fault: Fault,
        *,
        times: int = 1,
        after: int = 0,
        after_pieces: int = 0,
        matches: Callable[[Request], bool] = lambda request: True,
    ) -> None:
        """The next `times` requests that match meet this fault, the first `after` of them left out.

        A fault of an answer's body comes after so many MiB of it.
        """
        with self._lock:
            self._plan.append(_Planned(fault, matches, times, after, after_pieces))

    @property
    def has_struck(self) -> bool:
        """Whether all that was planned has happened."""
        with self._lock:
            return not any(planned.times for planned in self._plan)

    def clear(self) -> None:
        """Plan nothing any more."""
        with self._lock:
            self._plan.clear()
        self.latency_s = 0.0

    def cut_network(self) -> None:
        """Break all connections and refuse new ones until :meth:`restore`."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # Closing alone would leave the accepting thread with it.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            sockets = list(self._sockets)
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def restore(self) -> None:
        """Accept connections (again), at the same port."""
        if self._listener is not None:
            return
        self._listener = socket.create_server((self._address, self.port), backlog=512)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def count_from_now(self) -> None:
        """Forget the requests so far."""
        with self._lock:
            self._requests.clear()
            self._spans.clear()

    @property
    def requests(self) -> list[Request]:
        """The requests since the count began."""
        with self._lock:
            return list(self._requests)

    @property
    def methods(self) -> Counter[str]:
        """How many requests there were of each method."""
        return Counter(request.method for request in self.requests)

    @property
    def round_trips(self) -> int:
        """How many of the answered requests were sent one after the other's answer, at most."""
        with self._lock:
            spans = sorted(self._spans, key=lambda span: span[1])
        found, last_s = 0, 0.0
        for began_s, ended_s in spans:
            if began_s >= last_s:
                found, last_s = found + 1, ended_s
        return found

    # -- at work ------------------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, _Broken), contextlib.ExitStack() as stack:
            stack.enter_context(client)
            server = stack.enter_context(socket.create_connection(("127.0.0.1", self._upstream_port)))
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                stack.enter_context(self._tracked(one))
            if self.is_http:
                self._pass_http(client, server)
            else:
                back = threading.Thread(target=self._pump, args=(server, client, "down"), daemon=True)
                back.start()
                self._pump(client, server, "up")
                back.join()

    @contextlib.contextmanager
    def _tracked(self, one: socket.socket) -> Iterator[None]:
        with self._lock:
            self._sockets.add(one)
        try:
            yield
        finally:
            with self._lock:
                self._sockets.discard(one)

    def _pump(self, source: socket.socket, target: socket.socket, direction: str) -> None:
        """Pass on what comes, each block as late as `latency_s` says, with many on their way at once."""
        line: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
        threading.Thread(target=self._take, args=(source, line), daemon=True).start()
        with contextlib.suppress(OSError):
            while (sent := line.get())[1]:
                due_s, block = sent
                self._over.wait(max(0.0, due_s - time.monotonic()))
                fault, _ = self._next_fault(Request(direction, str(len(block))))
                half = len(block) // 2
                if fault is Fault.CORRUPT:
                    block = block[:half] + bytes([block[half] ^ 1]) + block[half + 1 :]
                elif fault is Fault.CUT:
                    target.sendall(block[:half])
                    break
                elif fault is Fault.STALL:
                    while line.get()[1]:
                        pass  # until a side gives up
                    break
                elif fault is not None:
                    break
                target.sendall(block)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _take(self, source: socket.socket, line: SimpleQueue[tuple[float, bytes]]) -> None:
        """Put what comes, and when it is due, on the line; an empty block at the end."""
        block = b"any"
        while block:
            try:
                block = source.recv(_BLOCK_BYTES)
            except OSError:
                block = b""
            line.put((time.monotonic() + self.latency_s, block))

    def _next_fault(self, request: Request) -> tuple[Fault | None, int]:
        with self._lock:
            self._requests.append(request)
            for planned in self._plan:
                if planned.times and planned.matches(request):
                    if planned.after:
                        planned.after -= 1
                        continue
                    planned.times -= 1
                    return planned.fault, planned.after_pieces
        return None, 0

    def _pass_http(self, client: socket.socket, server: socket.socket) -> None:
        from_client, from_server = client.makefile("rb"), server.makefile("rb")
        while True:
            head = _Head.read(from_client)
            began_s = time.monotonic()
            request = Request(*head.first.split(" ")[:2])
            fault, after_pieces = self._next_fault(request)
            self._over.wait(self.latency_s)
            if fault is Fault.LOST_REQUEST:
                return
            if fault is not None and fault in _REFUSALS:
                if not head.waits:
                    for _ in head.body(from_client):
                        pass  # a connection closed with bytes unread would be reset, and the answer lost
                client.sendall(_refusal(fault, request.method))
                return
            server.sendall(head.raw)
            answer: _Head | None = None
            if head.waits:
                answer = _Head.read(from_server)
                if answer.status == 100:
                    client.sendall(answer.raw)
                    answer = None
            if answer is None:
                for piece, _ in head.body(from_client):
                    server.sendall(piece)
                answer = _Head.read(from_server)
            with self._lock:
                # Before the client can send its next.
                self._spans.append((began_s, time.monotonic()))
            if not self._answer(client, from_server, answer, request.method, fault, after_pieces):
                return

    def _answer(
        self,
        client: socket.socket,
        from_server: BinaryIO,
        answer: _Head,
        method: str,
        fault: Fault | None,
        after_pieces: int,
    ) -> bool:
        """Pass an answer on; whether the connection can be used again."""
        pieces = iter(()) if method == "HEAD" or answer.status in (204, 304) else answer.body(from_server)
        if fault is Fault.LOST_ANSWER:
            for _ in pieces:
                pass
            return False
        client.sendall(answer.raw)
        for piece, is_data in pieces:
            if fault is None or not is_data or not piece or after_pieces:
                client.sendall(piece)
                after_pieces -= after_pieces > 0 and is_data
                continue
            half = len(piece) // 2
            if fault is Fault.CORRUPT:
                client.sendall(piece[:half] + bytes([piece[half] ^ 1]) + piece[half + 1 :])
                fault = None
                continue
            client.sendall(piece[:half])
            if fault is Fault.STALL:
                # Until the client gives up, or somebody cuts the network.
                client.recv(1)
            return False
        return not answer.closes


class _Broken(Exception):
    """A side went away, or said something that is no HTTP."""


class _Head:
    """The head of a request or an answer."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        lines = raw.decode("latin-1").split("\r\n")
        self.first = lines[0]
        self._fields = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }

    @classmethod
    def read(cls, stream: BinaryIO) -> _Head:
        raw = b""
        while not raw.endswith(b"\r\n\r\n"):
            line = stream.readline()
            if not line:
                raise _Broken
            raw += line
        return cls(raw)

    @property
    def status(self) -> int:
        return int(self.first.split(" ")[1])

    @property
    def waits(self) -> bool:
        """Whether the client sends the body only when told to go on."""
        return self._fields.get("expect", "").lower() == "100-continue"

    @property
    def closes(self) -> bool:
        return self._fields.get("connection", "").lower() == "close" or not self._is_framed

    @property
    def _is_framed(self) -> bool:
        return "content-length" in self._fields or "transfer-encoding" in self._fields

    def body(self, stream: BinaryIO) -> Iterator[tuple[bytes, bool]]:
        """The body as it comes: bytes, and whether they are data rather than framing."""
        if "chunked" in self._fields.get("transfer-encoding", "").lower():
            while True:
                line = stream.readline()
                yield line, False
                size = int(line.split(b";")[0], 16)
                yield from _pieces(stream, size)
                yield stream.readline(), False
                if size == 0:
                    return
        elif "content-length" in self._fields:
            yield from _pieces(stream, int(self._fields["content-length"]))
        elif self.first.startswith("HTTP/"):
            while block := stream.read1(_BLOCK_BYTES):  # type: ignore[attr-defined]
                yield block, True


def _pieces(stream: BinaryIO, size: int) -> Iterator[tuple[bytes, bool]]:
    while size:
        piece = stream.read(min(size, _PIECE_BYTES))
        if not piece:
            raise _Broken
        size -= len(piece)
        yield piece, True


def _refusal(fault: Fault, method: str) -> bytes:
    status, code = _REFUSALS[fault]
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>as planned</Message></Error>'
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\nConnection: close"
    return f"{head}\r\n\r\n{'' if method == 'HEAD' else body}".encode()
