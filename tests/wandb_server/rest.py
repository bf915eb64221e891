"""The stand-in's HTTP: GraphQL, signed URLs for bytes both ways, file streams of runs, and what tests ask of it.

One thread per connection, which stays open; answers are written whole, without Nagle's delay (40 ms a request).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from graphql import DocumentNode, GraphQLSchema, OperationDefinitionNode, build_schema, execute, parse, validate
from graphql.error import GraphQLError

from tests.wandb_server.faults import Faults
from tests.wandb_server.mutations import Mutations
from tests.wandb_server.state import Conflict, State, User, hex_md5
from tests.wandb_server.views import Denied, Views

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class Server(ThreadingHTTPServer):
    """The server and what its handlers share."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, port: int, state: State, schema: str, expires_s: float) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.state = state
        self.faults = Faults()
        self.schema: GraphQLSchema = build_schema(schema)
        self.expires_s = expires_s
        self.documents: dict[str, tuple[DocumentNode, list[GraphQLError]]] = {}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error."""

    def sign(self, method: str, key: str, extra: str = "") -> str:
        """The URL of a blob, good for some time."""
        expires = f"{time.time() + self.expires_s:.3f}"
        signature = self.signature(method, key, expires, extra)
        return f"{self.url}/storage/{key}?Expires={expires}&Extra={quote(extra, safe='')}&Signature={signature}"

    def signature(self, method: str, key: str, expires: str, extra: str) -> str:
        """What only the server can make."""
        text = f"{method}\n{key}\n{expires}\n{extra}"
        return hmac.new(self.state.secret.encode(), text.encode(), "sha256").hexdigest()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: tests count instead."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path.startswith("/storage/"):
            self._send_blob(parts.path[9:], parse_qs(parts.query, keep_blank_values=True))
        elif parts.path.startswith("/artifactsV2/"):
            self._redirect(parts.path)
        elif parts.path == "/admin/counts":
            self._answer(200, self.server.faults.counts())
        elif parts.path == "/admin/state":
            self._answer(200, self._told())
        else:
            self._answer(404, {"errors": [{"message": "no such page"}]})

    def do_POST(self) -> None:
        body = self._body()
        path = urlsplit(self.path).path
        if path == "/graphql":
            self._graphql(json.loads(body))
        elif path.startswith("/admin/"):
            self._admin(path[7:], json.loads(body or b"null"))
        elif re.fullmatch(r"/files/[^/]+/[^/]+/[^/]+/file_stream", path):
            self.server.faults.count("file_stream")
            if not self._fails("run"):
                self._answer(200, {})
        else:
            self._answer(404, {"errors": [{"message": "no such page"}]})

    def do_PUT(self) -> None:
        body = self._body()
        parts = urlsplit(self.path)
        key = parts.path.removeprefix("/storage/")
        self.server.faults.count("upload")
        self.server.faults.count("upload_bytes", len(body))
        if self._fails("upload") or not self._signed("PUT", key, parse_qs(parts.query, keep_blank_values=True)):
            return
        digest = base64.b64encode(hashlib.md5(body).digest()).decode()
        given = self.headers.get("Content-MD5")
        expected = parse_qs(parts.query, keep_blank_values=True)["Extra"][0]
        if digest not in (given or digest,) or digest not in (expected or digest,):
            self._answer(400, "BadDigest")
            return
        with self.server.state.lock:
            self.server.state.put_blob(key, body)
        self._answer(200, "")

    # -- GraphQL ----------------------------------------------------------------------------------------------------

    def _user(self) -> User | None:
        header = self.headers.get("Authorization", "")
        if not header.startswith("Basic "):
            return None
        _, _, key = base64.b64decode(header[6:]).decode().partition(":")
        return self.server.state.users.get(key)

    def _graphql(self, request: dict[str, Any]) -> None:
        document, problems = self._parsed(request["query"])
        operations = [d for d in document.definitions if isinstance(d, OperationDefinitionNode)]
        name = operations[0].name.value if operations and operations[0].name else "?"
        faults = self.server.faults
        faults.count("graphql")
        faults.count(f"graphql {name}")
        if self._fails("graphql", name):
            return
        user = self._user()
        if user is None:
            self._errors(401, "user is not logged in")
            return
        if problems:
            faults.count("invalid")
            self._errors(400, *(problem.message for problem in problems))
            return
        self._execute(document, request.get("variables") or {}, user, operations[0].operation.value == "mutation")

    def _parsed(self, query: str) -> tuple[DocumentNode, list[GraphQLError]]:
        known = self.server.documents.get(query)
        if known is None:
            document = parse(query)
            known = self.server.documents[query] = document, validate(self.server.schema, document)
        return known

    def _execute(self, document: DocumentNode, variables: dict[str, Any], user: User, changes: bool) -> None:
        server, state = self.server, self.server.state
        views = Views(state, user, lambda key: server.sign("GET", key))
        mutations = Mutations(views, lambda key, digest: server.sign("PUT", key, digest))
        with state.lock:
            root = mutations.root() if changes else views.root()
            result = execute(server.schema, document, root, variable_values=variables)
            for project in mutations.changed.values():
                state.save(project)
        if result.errors:
            first = result.errors[0].original_error
            status = 403 if isinstance(first, Denied) else 409 if isinstance(first, Conflict) else 200
            if not isinstance(first, (Denied, Conflict, ValueError)):
                server.faults.count("invalid")
            self._answer(status, {"data": result.data, "errors": [{"message": e.message} for e in result.errors]})
            return
        self._answer(200, {"data": result.data})

    # -- bytes ------------------------------------------------------------------------------------------------------

    def _signed(self, method: str, key: str, query: dict[str, list[str]]) -> bool:
        """Whether the URL is good; answers when it is not."""
        try:
            expires, extra, signature = (query[name][0] for name in ("Expires", "Extra", "Signature"))
        except KeyError:
            self._answer(403, "MissingSecurityHeader")
            return False
        good = hmac.compare_digest(signature, self.server.signature(method, key, expires, extra))
        if not good or float(expires) < time.time():
            self._answer(403, "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>")
            return False
        return True

    def _send_blob(self, key: str, query: dict[str, list[str]]) -> None:
        kind = "manifest" if key.startswith("manifest-") else "file"
        self.server.faults.count(kind)
        if self._fails(kind) or not self._signed("GET", key, query):
            return
        path = self.server.state.blob(key)
        if not path.exists():
            self._answer(404, "NoSuchKey")
            return
        size = path.stat().st_size
        start, end, status, headers = 0, size, 200, {}
        wanted = _RANGE.fullmatch(self.headers.get("Range", ""))
        if wanted:
            start, end = int(wanted[1]), min(size, int(wanted[2]) + 1 if wanted[2] else size)
            if start >= size:
                self._answer(416, "InvalidRange")
                return
            status, headers = 206, {"Content-Range": f"bytes {start}-{end - 1}/{size}"}
        with open(path, "rb") as file:
            file.seek(start)
            data = file.read(end - start)
        self.server.faults.count(f"{kind}_bytes", len(data))
        self._answer(status, data, headers)

    def _redirect(self, path: str) -> None:
        """``/artifactsV2/default/{entity}/{project}/{collection}/{artifact}/{birth}/{md5}/{name}`` to a signed URL."""
        self.server.faults.count("artifactsV2")
        user = self._user()
        if user is None:
            self._errors(401, "user is not logged in")
            return
        _, _, _, entity, project, collection, artifact, _, key, _ = unquote(path).split("/", 9)
        state = self.server.state
        with state.lock:
            found = state.artifacts.get(artifact)
            there = (
                found is not None
                and entity in user.reads
                and (found.sequence.project.entity, found.sequence.project.name) == (entity, project)
                and found.sequence.name == collection
                and any(hex_md5(e["digest"]) == key for e in state.contents(found).values() if not e.get("ref"))
            )
        if there:
            self._answer(307, "", {"Location": self.server.sign("GET", key)})
        else:
            self._errors(404, "file not found")

    # -- answering --------------------------------------------------------------------------------------------------

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _fails(self, *places: str) -> bool:
        """Do what the faults for these places say; whether that was the answer."""
        self._spoilt: set[str] = set()
        for rule in self.server.faults.matching(*places):
            self.server.faults.count("faults")
            if rule["what"] == "latency":
                time.sleep(rule["seconds"])
            elif rule["what"] == "status":
                self._errors(rule["status"], rule.get("message", f"made to fail with {rule['status']}"))
                return True
            elif rule["what"] == "expired":
                self._answer(403, "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>")
                return True
            else:
                self._spoilt.add(rule["what"])
        return False

    def _errors(self, status: int, *messages: str) -> None:
        self._answer(status, {"errors": [{"message": message} for message in messages]})

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        if isinstance(body, dict):
            body = json.dumps(body)
            kind = "application/json"
        else:
            kind = "application/octet-stream"
        data: bytes = body.encode() if isinstance(body, str) else body
        spoilt = getattr(self, "_spoilt", set())
        self._spoilt = set()
        if "wrong" in spoilt:
            data = bytes(byte ^ 0x55 for byte in data)
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if "cut" in spoilt:
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(data)
        self.wfile.flush()

    # -- for tests --------------------------------------------------------------------------------------------------

    def _admin(self, what: str, given: Any) -> None:
        server, state = self.server, self.server.state
        if what == "fault":
            server.faults.add(given)
        elif what == "clear":
            server.faults.clear()
        elif what == "expires":
            server.expires_s = float(given)
        else:
            with state.lock:
                if what == "user":
                    state.users[given.pop("key")] = User(
                        given["username"], given["entity"], frozenset(given["reads"]), frozenset(given["writes"])
                    )
                elif what == "seed":
                    state.save(state.seed(**given))
                elif what == "project":
                    state.project(*given)
                state.save()
        self._answer(200, {})

    def _told(self) -> dict[str, Any]:
        """The projects, for tests that look behind the client's back."""
        with self.server.state.lock:
            return {
                f"{entity}/{name}": {
                    "runs": list(project.runs.values()),
                    "artifacts": {
                        sequence.name: [
                            {"state": a.state, "version": a.index, "metadata": a.metadata, "digest": a.digest}
                            for a in sequence.artifacts
                        ]
                        for sequence in project.sequences.values()
                    },
                }
                for (entity, name), project in self.server.state.projects.items()
            }
