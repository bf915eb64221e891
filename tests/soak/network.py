"""Hosts of one machine: each in a network namespace of its own, which reaches the other end of one cable and no more.

Making them takes root and ``ip`` (iproute2); what is made goes away with the block.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

# The block of addresses for measuring networks (RFC 2544): four for each host.
_NETWORK = "198.18"
_numbers = itertools.count()


@dataclass(frozen=True)
class Host:
    """A namespace. `within` comes before a command to run it there; `gateway` is this side of its cable."""

    within: tuple[str, ...]
    gateway: str


def why_no_hosts() -> str | None:
    """What this machine lacks to make a namespace; None when it lacks nothing."""
    if missing := [program for program in ("ip", "nsenter") if shutil.which(program) is None]:
        return f"{', '.join(missing)} not installed"
    try:
        with host():
            return None
    except subprocess.CalledProcessError as error:
        return str(error.stderr).strip()


@contextlib.contextmanager
def host() -> Iterator[Host]:
    """One more host. Raises CalledProcessError where the machine does not allow it."""
    number = next(_numbers)
    name, cable = f"artifactfs-{os.getpid()}-{number}", f"afs{os.getpid()}x{number}"
    first = f"{_NETWORK}.{number // 64}.{number % 64 * 4}".rpartition(".")
    ours, theirs = (f"{first[0]}.{int(first[2]) + place}" for place in (1, 2))
    with contextlib.ExitStack() as stack:
        _ip("netns", "add", name)
        stack.callback(_ip, "netns", "delete", name)
        # Its other end goes with the namespace.
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("address", "add", f"{ours}/30", "dev", cable)
        _ip("link", "set", cable, "up")
        for command in (("address", "add", f"{theirs}/30", "dev", "eth0"), ("link", "set", "eth0", "up")):
            _ip("-n", name, *command)
        _ip("-n", name, "link", "set", "lo", "up")
        yield Host(("nsenter", f"--net=/run/netns/{name}"), ours)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
