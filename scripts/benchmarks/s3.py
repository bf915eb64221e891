"""One S3 server on loopback, with and without latency before it, and the file systems that show what is in it.

The server is the Ceph gateway of the tests, all in memory; where it cannot be had, rclone's. It holds the tree twice:
as a version in a store, and file by file, as the other file systems need it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from artifactfs import connect
from artifactfs.managers.commit_id import new_commit_id
from benchmarks.ground import ARTIFACT, COLLECTION, Ground
from benchmarks.peers import Drive, Peer, Shown, installed, mountpoint, rclone_mount
from benchmarks.programs import ROOT, artifactfs, mount_in_foreground, run
from tests.servers import Server, ServerMissing, s3
from tests.servers.ceph import ceph

LATENCY_S = 0.05
UPLOADS = "uploads"
"""Where in the bucket uploads go that are measured."""
MEMORY_BYTES = 12 << 30
# What is overwritten or deleted is given back at once: the default is after two hours.
GARBAGE = ("rgw gc obj min wait = 1", "rgw gc processor period = 5", "rgw gc processor max time = 5")

_PROXY = """
import sys
from tests.servers.proxy import FaultProxy
with FaultProxy(int(sys.argv[1])) as proxy:
    proxy.latency_s = float(sys.argv[2])
    print(proxy.port, flush=True)
    sys.stdin.read()
"""


class Site:
    """The server. Started by the first row that needs it, ended by :meth:`stop`."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._server: Server | None = None
        self._proxy_port = 0

    def start(self, ground: Ground) -> None:
        """Start it and fill it, once. Raises Failed."""
        if self._server is not None:
            return
        directory = ground.directory / "s3"
        directory.mkdir()
        try:
            settings = GARBAGE if shutil.which("setpriv") else ()
            self._server = self._stack.enter_context(ceph(directory, memory_bytes=MEMORY_BYTES, settings=settings))
        except ServerMissing:
            self._server = self._stack.enter_context(s3.rclone(directory))
        proxy = self._stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", _PROXY, str(self._server.port), str(LATENCY_S)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                start_new_session=True,
            )
        )
        assert proxy.stdout is not None
        self._proxy_port = int(proxy.stdout.readline())
        self._fill(ground)

    def _fill(self, ground: Ground) -> None:
        tree = ground.directory / "remote"
        tree.mkdir()
        run("cp", "-al", str(ground.data / "small"), str(ground.data / "big.bin"), str(tree))
        connect(self.store, **self.options()).commit_tree(ARTIFACT, tree, COLLECTION, commit_id=new_commit_id())
        rclone_copy(self, tree, "plain", far=False)

    def empty(self, place: str) -> None:
        """Remove everything below a place of the bucket."""
        command = (installed("rclone"), "--config", "/dev/null", "purge", f":s3:{s3.BUCKET}/{place}")
        run(*command, environment=self.environment(far=False))

    def stop(self) -> None:
        """End it, if it runs."""
        self._stack.close()
        self._server = None

    @property
    def server(self) -> Server:
        """The running server."""
        assert self._server is not None
        return self._server

    @property
    def store(self) -> str:
        """The URL of the store."""
        return f"{self.server.prefix}/store"

    def port(self, far: bool) -> int:
        """Where to connect to; `far` is with latency."""
        return self._proxy_port if far else self.server.port

    def options(self, far: bool = False) -> dict[str, object]:
        """What `connect` needs."""
        options = dict(self.server.options_at(self.port(far)))
        return options if self.server.exclusive else {**options, "single_writer": True}

    def arguments(self, far: bool) -> list[str]:
        """The same on the command line."""
        options = self.options(far)
        return [text for name, value in options.items() for text in ("--storage-option", f"{name}={value}")]

    def environment(self, far: bool) -> dict[str, str]:
        """What rclone and aws need."""
        at = f"http://127.0.0.1:{self.port(far)}"
        key, secret = (self.server.environment[f"AWS_{name}"] for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"))
        return {
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_ENDPOINT_URL": at,
            "AWS_REGION": "us-east-1",
            # Ceph 16 does not know the checksums that aws adds by itself.
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "RCLONE_S3_PROVIDER": "Ceph",
            "RCLONE_S3_ACCESS_KEY_ID": key,
            "RCLONE_S3_SECRET_ACCESS_KEY": secret,
            "RCLONE_S3_ENDPOINT": at,
        }


SITE = Site()


def rclone_copy(site: Site, source: Path, place: str, far: bool) -> None:
    """Copy a directory or a file into the bucket."""
    command = (installed("rclone"), "--config", "/dev/null", "copy", str(source), f":s3:{s3.BUCKET}/{place}")
    run(*command, environment=site.environment(far))


class S3Drive(Drive):
    """A read-only mount of the store in the bucket, with an empty cache or with one that is `kept`."""

    def __init__(self, driver: str, far: bool, kept: bool = False) -> None:
        super().__init__(driver, read_only=True)
        self._far = far
        self._kept = kept

    @contextlib.contextmanager
    def show(self, ground: Ground) -> Iterator[Shown]:
        with tempfile.TemporaryDirectory(dir=ground.directory) as scratch:
            cache = str(ground.directory / f"cache-{self.driver}") if self._kept else scratch
            with self.mounted(SITE.store, *SITE.arguments(self._far), "--cache-dir", cache) as shown:
                yield shown


class S3Rclone(Peer):
    """``rclone mount`` of the files in the bucket."""

    writable = False

    def __init__(self, cache: str, far: bool) -> None:
        self.name = f"rclone {cache}"
        self._cache = cache
        self._far = far

    @contextlib.contextmanager
    def show(self, ground: Ground) -> Iterator[Shown]:
        with mountpoint() as point, tempfile.TemporaryDirectory(dir=ground.directory) as scratch:
            command = rclone_mount(f":s3:{s3.BUCKET}/plain", point, self._cache, Path(scratch), "--read-only")
            with mount_in_foreground(point, *command, environment=SITE.environment(self._far)) as pid:
                yield Shown(point, pid=pid)


class S3fsFuse(Peer):
    """s3fs-fuse over the files in the bucket, with its defaults."""

    name = "s3fs-fuse"
    writable = False

    def __init__(self, far: bool) -> None:
        self._far = far

    @contextlib.contextmanager
    def show(self, ground: Ground) -> Iterator[Shown]:
        environment = SITE.environment(self._far)
        with mountpoint() as point, tempfile.TemporaryDirectory(dir=ground.directory) as scratch:
            passwords = Path(scratch, "passwords")
            passwords.touch(0o600)
            passwords.write_text(f"{environment['AWS_ACCESS_KEY_ID']}:{environment['AWS_SECRET_ACCESS_KEY']}\n")
            options = f"url={environment['AWS_ENDPOINT_URL']},use_path_request_style,passwd_file={passwords},ro"
            command = (installed("s3fs"), f"{s3.BUCKET}:/plain", str(point), "-f", "-o", options)
            with mount_in_foreground(point, *command) as pid:
                yield Shown(point, pid=pid)


class Uploader(Peer):
    """A program that copies a directory, or a file, into the bucket; no mount."""

    mounts = writable = False

    @contextlib.contextmanager
    def show(self, ground: Ground) -> Iterator[Shown]:
        yield Shown(ground.data)

    def prepare(self) -> None:
        """What is not measured."""

    def upload(self, source: Path, far: bool) -> None:
        """Bring it below UPLOADS. Raises Failed."""
        raise NotImplementedError


class Put(Uploader):
    """``artifactfs put`` into a store that exists."""

    name = "artifactfs put"
    ours = True

    def prepare(self) -> None:
        with connect(self._store, **SITE.options()).log_folder("made", COLLECTION) as directory:
            (directory / "file").touch()

    def upload(self, source: Path, far: bool) -> None:
        artifactfs("put", str(source), f"{COLLECTION}/{ARTIFACT}", "--store", self._store, *SITE.arguments(far))

    @property
    def _store(self) -> str:
        return f"{SITE.server.prefix}/{UPLOADS}"


class RcloneCopy(Uploader):
    """``rclone copy``."""

    name = "rclone copy"

    def upload(self, source: Path, far: bool) -> None:
        rclone_copy(SITE, source, UPLOADS, far)


class AwsCopy(Uploader):
    """``aws s3 cp``."""

    name = "aws s3 cp"

    def upload(self, source: Path, far: bool) -> None:
        recursive = ("--recursive",) if source.is_dir() else ()
        command = (installed("aws"), "s3", "cp", "--quiet", *recursive, str(source), f"s3://{s3.BUCKET}/{UPLOADS}/")
        run(*command, environment=SITE.environment(far))


class PlainGet(Peer):
    """``s3fs.S3FileSystem.get`` of a file, the plain download."""

    name = "plain s3fs.get"
    mounts = writable = False

    @contextlib.contextmanager
    def show(self, ground: Ground) -> Iterator[Shown]:
        yield Shown(ground.data)

    def download(self, name: str, target: Path, far: bool) -> None:
        """Raises Failed."""
        code = "import sys, json, s3fs; s3fs.S3FileSystem(**json.loads(sys.argv[1])).get(sys.argv[2], sys.argv[3])"
        options = json.dumps(SITE.server.options_at(SITE.port(far)))
        run(sys.executable, "-c", code, options, f"{s3.BUCKET}/plain/{name}", str(target))
