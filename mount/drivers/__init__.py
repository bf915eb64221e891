"""The drivers: what translates the kernel's requests into calls of the vfs. Only this package knows FUSE bindings.

`load` picks one by name. A driver is used by one thread that calls `serve`; it calls the vfs from many.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from artifactfs.errors import ArtifactError

if TYPE_CHECKING:
    from mount.settings import MountSettings
    from mount.vfs import Vfs

OLDEST_LINUX = (5, 4)
"""From where on the driver called kernel works."""


class DriverUnavailable(ArtifactError):
    """The driver cannot work on this machine; the message says what to install or to allow."""


class Driver(Protocol):
    """Shows a `Vfs` at a mountpoint."""

    name: str

    def serve(self, vfs: Vfs, settings: MountSettings, on_ready: Callable[[], None]) -> None:
        """Mount, call `on_ready` once when the kernel has said hello, and serve until unmounted.

        Raises DriverUnavailable when mounting fails.
        """


def load(name: str) -> Driver:
    """The driver called `name`; "auto" is the best one that works here. Raises DriverUnavailable."""
    if name == "kernel" or (name == "auto" and _has_kernel()):
        from mount.drivers.kernel import KernelDriver

        return KernelDriver()
    if name not in ("auto", "libfuse"):
        raise DriverUnavailable(f"no driver {name!r}: use auto, kernel or libfuse")
    from mount.drivers.libfuse import LibfuseDriver

    return LibfuseDriver()


def _has_kernel() -> bool:
    """Tell whether the kernel speaks a protocol that the native driver knows, and lets this process speak it."""
    uname = os.uname()
    release = re.match(r"(\d+)\.(\d+)", uname.release)
    return (
        uname.sysname == "Linux"
        and release is not None
        and (int(release[1]), int(release[2])) >= OLDEST_LINUX
        and os.access("/dev/fuse", os.R_OK | os.W_OK)
    )
