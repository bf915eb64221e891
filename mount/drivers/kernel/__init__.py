"""The native driver: the FUSE protocol of the Linux kernel, spoken on /dev/fuse without a library.

::

    mounting      a connection: mount(2) or fusermount3
    channel       messages on it
    protocol      what they look like
    negotiation   INIT
    session       dispatch
    workers       threads          interrupts    programs that are killed while they wait
    names, files, directories, metadata          the requests
    reading       by which way bytes of versions get to programs
    prefill       small files, which come with being opened
    context       what those share               replies       the bodies of answers
    inodes, staged_inodes                        node ids
    notifier      what the kernel's caches may believe no longer

It translates; the vfs decides. See SEMANTICS.md for what differs from the driver on libfuse.
"""

from __future__ import annotations

from collections.abc import Callable

from mount.drivers.kernel import mounting
from mount.drivers.kernel.channel import Channel
from mount.drivers.kernel.session import Session
from mount.settings import MountSettings
from mount.vfs import Vfs


class KernelDriver:
    """See the package docstring."""

    name = "kernel"

    def serve(self, vfs: Vfs, settings: MountSettings, on_ready: Callable[[], None]) -> None:
        """Mount and serve until unmounted. Raises DriverUnavailable, OSError."""
        channel = Channel(mounting.mount(settings))
        try:
            Session(channel, vfs, settings).serve(on_ready)
        finally:
            channel.close()
