"""What is measured against the stand-in for Weights & Biases: reading a version cold, beside the plain client.

The server is the one of the tests, on loopback, the same for both; no figure of a server of W&B is claimed.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from artifactfs import connect
from artifactfs.managers.commit_id import new_commit_id
from artifactfs.managers.wandb import process
from artifactfs.managers.wandb.side_file import SIDE_FILE
from benchmarks.ground import ARTIFACT, COLLECTION, Ground, Sizes, make_small_files
from benchmarks.peers import Drive, Peer, Shown, drives
from benchmarks.programs import COMMAND_TIMEOUT_S, Failed, run_client
from benchmarks.rows import Measured, Row, Target, check, daemon_usage, used_since
from tests.wandb_server.handle import ENTITY, PROJECT, WandbServer
from tests.wandb_server.shared import use

FILES = 1_000
DRIVER = next(drive.driver for drive in drives())
# What the user of the client writes; signing in is not counted, as mounting is not.
_DOWNLOAD = """
import json, sys, time, wandb
api = wandb.Api()
started = time.perf_counter()
api.artifact(sys.argv[1]).download(root=sys.argv[2])
print(json.dumps(time.perf_counter() - started))
"""


class _Site:
    """The server, while rows need it."""

    server: WandbServer | None = None

    def start(self, ground: Ground) -> None:
        """Start it with one version of small files, once."""
        if self.server is not None:
            return
        self.server = WandbServer(ground.directory / "wandb-server")
        use(self.server, ground.directory / "wandb-home")
        source = ground.directory / "wandb-source"
        make_small_files(source, FILES)
        connect(f"wandb://{ENTITY}/{PROJECT}").commit_tree(
            ARTIFACT, source, COLLECTION, commit_id=new_commit_id(), metadata={"files": FILES}
        )

    def stop(self) -> None:
        """End it."""
        process.close_all()
        if self.server is not None:
            self.server.kill()
            self.server = None


SITE = _Site()


class WandbDrive(Drive):
    """A read-only mount of the project, with an empty cache."""

    def __init__(self) -> None:
        super().__init__(DRIVER, read_only=True)
        self.name = "artifactfs"

    @contextlib.contextmanager
    def show(self, ground: Ground) -> Iterator[Shown]:
        """Mount it."""
        with (
            tempfile.TemporaryDirectory(dir=ground.directory) as cache,
            self.mounted(f"wandb://{ENTITY}/{PROJECT}", "--cache-dir", cache) as shown,
        ):
            yield shown


class PlainClient(Peer):
    """``Api().artifact().download()`` with empty caches."""

    name = "wandb download"
    mounts = False

    @contextlib.contextmanager
    def show(self, ground: Ground) -> Iterator[Shown]:
        """Nothing to mount."""
        yield Shown(ground.data)

    def download(self, target: Path) -> float:
        """Seconds that it took. Raises Failed."""
        assert SITE.server is not None
        with tempfile.TemporaryDirectory(dir=target.parent) as home:
            done = subprocess.run(
                [sys.executable, "-c", _DOWNLOAD, f"{ENTITY}/{PROJECT}/{ARTIFACT}:v0", str(target)],
                env=SITE.server.client_environment(Path(home)),
                capture_output=True,
                text=True,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
        if done.returncode != 0:
            raise Failed(f"download ended with {done.returncode}: {done.stderr[-400:]}")
        return float(json.loads(done.stdout.splitlines()[-1]))


class ColdRead(Row):
    """Every file of a version is read: through a fresh mount, or from the disk after it was downloaded."""

    name = f"W&B: cold read of {FILES} small files"
    against = PlainClient.name
    targets = (Target("artifactfs", PlainClient.name, 2.0),)
    peers = (WandbDrive(), PlainClient())
    chosen_by_default = False

    def takes(self, peer: Peer) -> bool:
        """Both."""
        return True

    def prepare(self, ground: Ground, sizes: Sizes) -> None:
        """Start the server."""
        SITE.start(ground)

    def measure(self, peer: Peer, ground: Ground, sizes: Sizes, first: bool) -> Measured:
        """Mount or download, read, compare."""
        expected = run_client("hash", str(ground.directory / "wandb-source"))[1]
        if isinstance(peer, PlainClient):
            with tempfile.TemporaryDirectory(dir=ground.directory) as scratch:
                target = Path(scratch, "downloaded")
                seconds = peer.download(target)
                (target / SIDE_FILE).unlink()
                read_s, digest = run_client("hash", str(target))
            measured = Measured(seconds + read_s)
        else:
            with peer.show(ground) as shown:
                before = daemon_usage(shown)
                seconds, digest = run_client("hash", str(shown.data), daemon=shown.pid)
                measured = used_since(before, shown, seconds)
        check(digest, expected)
        return measured


def rows() -> dict[str, Row]:
    """The rows by the name that ``--rows`` takes."""
    return {"wandb": ColdRead()}


def stop() -> None:
    """End the server."""
    SITE.stop()
