"""One stand-in for all tests of a process, which is told to use it from then on."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

from tests.wandb_server.handle import WandbServer


@functools.cache
def wandb_server() -> WandbServer:
    """The server; started at first use, ended with the process."""
    directory = Path(tempfile.mkdtemp(prefix="artifactfs-wandb-server-"))
    server = WandbServer(directory / "server")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    atexit.register(server.kill)
    use(server, directory / "home")
    return server


def use(server: WandbServer, home: Path) -> None:
    """Let clients that this process starts find that server and nothing of this machine, but for its home."""
    os.environ.pop("WANDB_SERVICE", None)
    os.environ.update({name: value for name, value in server.environment(home).items() if name.startswith("WANDB_")})
