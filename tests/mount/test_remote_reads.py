"""A mount of a store on a real S3 server: what it asks of the server, and what it does without it."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs import connect
from tests.mount.conftest import MakeMount
from tests.mount.harness import Mount, artifactfs, eventually, same_tree

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
        self.options = {
            "key": "user",
            "secret": "hunter22",
            "client_kwargs": {"endpoint_url": f"http://{host}:{port}"},
            # That a server which is gone is noticed at once.
            "config_kwargs": {"retries": {"max_attempts": 0}},
        }
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
    assert s3.object_reads() == []


def test_a_read_that_the_store_does_not_serve_is_an_error_in_time(s3: S3, prepare_mount: MakeMount):
    """O3: EIO within the bound, cached bytes at once, and the next try succeeds."""
    mount = mount_of(s3, prepare_mount, "--read-only", "--read-timeout", "0.5", "--refresh", "60")
    mount.expect_warning("the store did not give data/set@v0:big within 0.5 s")
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


def test_a_store_that_is_away_is_served_from_what_is_held(s3: S3, prepare_mount: MakeMount, tmp_path: Path):
    """O2, O1: listings, versions and cached bytes after a remount; what was not read is EIO, never absent."""
    mount = mount_of(s3, prepare_mount, "--commit-after", "never")
    top = mount / "data/set/v0"
    assert sorted(os.listdir(mount / "data/set")) == ["latest", "staging", "v0"]
    shutil.copytree(top / "small", tmp_path / "copy", symlinks=True)
    mount.umount()
    s3.stop()
    mount.expect_warning("mounting what is known of a store that does not answer")
    mount.expect_warning("(read|FUSE_READ) .*Could not connect")
    mount.mount()
    assert os.listdir(mount.path) == ["data"]
    assert sorted(os.listdir(mount / "data/set")) == ["latest", "staging", "v0"]
    same_tree(s3.tree / "small", top / "small")
    assert (top / "big").stat().st_size == (s3.tree / "big").stat().st_size
    for unknown in (top / "big", mount / "data/set/latest/big"):
        with pytest.raises(OSError, match=re.escape(f"[Errno {errno.EIO}]")):
            unknown.read_bytes()
    assert not mount.status().reachable
    # What is staged meanwhile waits for the store.
    (mount / "data/set/staging/new").write_bytes(b"later")
    assert (mount / "data/set/staging/new").read_bytes() == b"later"


def test_a_store_that_was_never_reached_is_not_mounted(prepare_mount: MakeMount):
    """O1: with nothing known there is nothing to serve."""
    mount = prepare_mount(store="s3://nowhere/store")
    mount.expect_warning("cannot go on")
    options = ["--storage-option", "key=user", "--storage-option", "secret=hunter22"]
    options += ["--storage-option", "client_kwargs.endpoint_url=http://127.0.0.1:9"]
    done = mount.mount(*options, check=False)
    assert done.returncode != 0
    assert "s3://nowhere/store" in done.stderr
    assert not mount.is_mounted()


def content_of(path: Path) -> bytes | None:
    """What is in a file; None when it cannot be read at the moment."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def test_warming_fills_the_cache_that_a_mount_reads_without_the_store(s3: S3, prepare_mount: MakeMount, tmp_path: Path):
    """O2: what was warmed and never mounted is served while the store is away; status and cache tell of it."""
    mount = prepare_mount(store=s3.url)
    warm = ["warm", "--store", s3.url, *s3.mount_arguments, "--cache-dir", mount.cache_dir, "--json"]
    part = json.loads(artifactfs(*warm, "data/set:small").stdout)
    assert (part["files"], part["path"]) == (200, "small")
    assert 0 < part["fetched_bytes"] < 4 * MIB
    whole = json.loads(artifactfs(*warm, "data/set@v0").stdout)
    assert whole["files"] == 202
    assert whole["fetched_bytes"] == (s3.tree / "big").stat().st_size
    assert json.loads(artifactfs(*warm, "data/set").stdout)["fetched_bytes"] == 0
    s3.stop()
    mount.expect_warning("mounting what is known of a store that does not answer")
    mount.mount(*s3.mount_arguments, "--read-only", "--cache-size", "1G")
    same_tree(s3.tree, mount / "data/set/v0")
    cache = mount.status().cache
    assert cache is not None
    assert (cache.directory, cache.limit_bytes, cache.fetched_bytes) == (str(mount.cache_dir), 1 << 30, 0)
    shown = artifactfs("status", mount.path, "--state-dir", mount.state_dir).stdout
    assert f"cache {mount.cache_dir}: " in shown
    held = json.loads(artifactfs("cache", "--cache-dir", mount.cache_dir, "--json").stdout)
    assert held["size_bytes"] > whole["fetched_bytes"]
    cleared = json.loads(artifactfs("cache", "--cache-dir", mount.cache_dir, "--clear", "--json").stdout)
    assert cleared["cleared_bytes"] == held["size_bytes"]
    assert cleared["size_bytes"] == 0
    assert "deleted" in artifactfs("cache", "--cache-dir", mount.cache_dir, "--clear").stdout


def test_what_warm_refuses(s3: S3, tmp_path: Path):
    """A cache that is too small, a path that is not there, a store on the local disk."""
    store = ["--store", s3.url, *s3.mount_arguments, "--cache-dir", tmp_path / "cache"]
    for arguments, message in (
        (["data/set", "--cache-size", "1M", *store], "do not fit into a cache"),
        (["data/set:none", *store], "no 'none'"),
        (["data/set", "--store", tmp_path], "is read in place"),
    ):
        done = artifactfs("warm", *arguments, check=False)
        assert done.returncode == 1
        assert message in done.stderr
