"""Real servers on loopback for the tests of remote stores, each started when a test first asks for it.

`scripts/test` installs what they need: Python packages into the environment, Debian packages unpacked (not installed)
and npm packages below `HOME`. A server that cannot be had is skipped with the reason, unless REQUIRE_FUSE=1.
Every server is a process of its own that dies with the tests.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HOME = Path(
    os.environ.get("ARTIFACTFS_TEST_SERVERS")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "artifactfs-test-servers")
)
DEBIAN = HOME / "debian"
"""The root below which Debian packages are unpacked."""


class ServerMissing(Exception):
    """A server cannot be run on this machine; the message says what is missing."""


@dataclass(frozen=True)
class Server:
    """A running server with an empty place for stores.

    `port` is where it listens on 127.0.0.1; `options_at` gives the options that reach it at a port, so that a proxy may
    come between. `exclusive` is whether it has an exclusive create that can be trusted.
    """

    name: str
    port: int
    prefix: str
    options_at: Callable[[int], Mapping[str, Any]]
    exclusive: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)

    def fresh(self) -> str:
        """The URL of a place that holds nothing."""
        return f"{self.prefix}/{uuid.uuid4().hex}"

    @property
    def options(self) -> dict[str, Any]:
        """What `connect` needs besides the URL."""
        return dict(self.options_at(self.port))

    def arguments(self, port: int | None = None) -> list[str]:
        """The same for the command line."""
        options = self.options_at(self.port if port is None else port)
        return [text for name, value in options.items() for text in ("--storage-option", f"{name}={value}")]
