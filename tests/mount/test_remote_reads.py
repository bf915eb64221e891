"""A mount of a store on a real S3 server: what it asks of the server, and what it does without it."""

from __future__ import annotations

import errno
import json
import random
import re
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs import connect
from tests.mount.conftest import MakeMount
from tests.mount.harness import Mount, eventually, same_tree

moto_server = pytest.importorskip("moto.server")
pytest.importorskip("s3fs")

pytestmark = pytest.mark.fuse

MIB = 1 << 20


class S3:
    """A server in this process, the requests it has answered, and a store in it."""

    def __init__(self, tree: Path) -> None:
        import s3fs

        self.tree = tree
        self.requests: list[str] = []
        self.gate = threading.Event()
        """Answers wait while it is not set."""
        self._server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.options = {"key": "user", "secret": "hunter22", "client_kwargs": {"endpoint_url": f"http://{host}:{port}"}}
        bucket = uuid.uuid4().hex  # moto has one memory for all servers of a process
        s3fs.S3FileSystem(**self.options).mkdir(bucket)
        self.url = f"s3://{bucket}/store"
        connect(self.url, collection="data", **self.options).log_files("set", tree)

    @property
    def mount_arguments(self) -> list[str]:
        found = []
        for name, value in self.options.items():
            found += ["--storage-option", f"{name}={json.dumps(value) if isinstance(value, dict) else value}"]
        return found

    def object_reads(self) -> list[str]:
        """The requests for bytes of files."""
        return [request for request in self.requests if request.startswith("GET") and "/objects/" in request]

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("remote") / "tree"
    (root / "small" / "deeper").mkdir(parents=True)
    chance = random.Random(2)
    for number in range(200):
        (root / "small" / f"{number:03}").write_bytes(chance.randbytes(chance.randrange(1, 20_000)))
    (root / "small" / "deeper" / "link").symlink_to("../001")
    (root / "big").write_bytes(chance.randbytes(6 * MIB + 17))
    (root / "empty").touch()
    return root


@pytest.fixture
def s3(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    from werkzeug.serving import WSGIRequestHandler

    requests: list[str] = []
    gate = threading.Event()
    gate.set()
    answer = WSGIRequestHandler.run_wsgi
    monkeypatch.setattr(WSGIRequestHandler, "run_wsgi", lambda self: (gate.wait(60), answer(self)))
    monkeypatch.setattr(
        WSGIRequestHandler, "log_request", lambda self, *_: requests.append(f"{self.command} {self.path}")
    )
    server = S3(tree)
    server.requests, server.gate = requests, gate
    requests.clear()
    yield server
    gate.set()
    server.stop()


def mount_of(s3: S3, prepare_mount: MakeMount, *arguments: str) -> Mount:
    mount = prepare_mount(store=s3.url)
    mount.mount(*s3.mount_arguments, *arguments)
    return mount


def test_bytes_are_fetched_once_for_all_reads_and_mounts(s3: S3, prepare_mount: MakeMount):
    """O2: the second read, another mount with the same cache and a remount move nothing."""
    mount = mount_of(s3, prepare_mount, "--read-only")
    same_tree(s3.tree, mount / "data/set/v0")
    cold = s3.object_reads()
    assert 0 < len(cold) <= 12
    s3.requests.clear()
    same_tree(s3.tree, mount / "data/set/v0")
    assert s3.object_reads() == []
    mount.remount()
    same_tree(s3.tree, mount / "data/set/v0")
    assert [request for request in s3.object_reads() if request not in cold] == []
    # Each object read anew is the manifest, whole.
    assert len(s3.object_reads()) <= 1


def test_a_read_that_the_store_does_not_serve_is_an_error_in_time(s3: S3, prepare_mount: MakeMount):
    """O3: EIO within the bound, cached bytes at once, and the next try succeeds."""
    mount = mount_of(s3, prepare_mount, "--read-only", "--read-timeout", "0.5", "--refresh", "60")
    mount.expect_warning(r"read .* the store did not give data/set@v0:big within 0.5 s")
    top = mount / "data/set/v0"
    assert (top / "small/000").read_bytes() == (s3.tree / "small/000").read_bytes()
    s3.gate.clear()
    started = time.monotonic()
    with pytest.raises(OSError, match=re.escape(f"[Errno {errno.EIO}]")):
        (top / "big").read_bytes()
    assert time.monotonic() - started < 20
    assert (top / "small/001").read_bytes() == (s3.tree / "small/001").read_bytes()
    s3.gate.set()
    assert eventually(lambda: content_of(top / "big")) == (s3.tree / "big").read_bytes()


def content_of(path: Path) -> bytes | None:
    """What is in a file; None when it cannot be read at the moment."""
    try:
        return path.read_bytes()
    except OSError:
        return None
