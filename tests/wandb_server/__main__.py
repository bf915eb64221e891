"""Run the stand-in: ``python -m tests.wandb_server DIRECTORY [PORT]``; prints its port when it listens."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from tests.wandb_server.rest import Server
from tests.wandb_server.state import State


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("port", type=int, nargs="?", default=0)
    parser.add_argument("--expires", type=float, default=3600.0, help="seconds a signed URL is good for")
    given = parser.parse_args()
    schema = (Path(__file__).parent / "schema.graphql").read_text()
    server = Server(given.port, State(given.directory), schema, given.expires)
    print(server.server_address[1], flush=True)
    # What is started by tests must not outlive them.
    parent = os.getppid()
    server.timeout = 1.0
    while os.getppid() == parent:
        server.handle_request()


if __name__ == "__main__":
    main()
