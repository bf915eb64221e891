"""Getting a mounted connection to the kernel: mount(2) as root, ``fusermount3`` as an ordinary user.

Neighbours: `channel` speaks on the descriptor that comes out of here; unmounting is in `mount.mounts`, for every
driver. Threading: no state.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import logging
import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path

from mount.drivers import DriverUnavailable
from mount.drivers.kernel.protocol import DEVICE
from mount.mounts import FSTYPE, entry_at, source_of
from mount.settings import MountSettings

logger = logging.getLogger(__name__)

FUSERMOUNT_TIMEOUT_S = 30.0
READ_AHEAD_KIB = 1024

# <sys/mount.h>
_MS_RDONLY = 1
_MS_NOSUID = 2
_MS_NODEV = 4


def mount(settings: MountSettings) -> int:
    """Mount on the mountpoint; the descriptor that the kernel asks on. Raises DriverUnavailable."""
    fd = _open_device()
    number = _mount(fd, settings)
    if number == 0:
        return fd
    os.close(fd)
    if number != errno.EPERM:
        raise DriverUnavailable(f"cannot mount on {settings.mountpoint}: {os.strerror(number)}")
    return _fusermount(settings)


def read_ahead(mountpoint: Path) -> None:
    """Let the kernel read as far ahead as one request carries, where we may; it begins at 128 KiB."""
    entry = entry_at(mountpoint)
    if entry is None:
        return
    try:
        Path(f"/sys/class/bdi/{entry.device}/read_ahead_kb").write_text(f"{READ_AHEAD_KIB}\n")
    except OSError as error:
        logger.debug("reading ahead is left as it is: %s", error)


def _open_device() -> int:
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise DriverUnavailable(
            f"{DEVICE} cannot be opened ({error.strerror}): in a container: --device {DEVICE} --cap-add SYS_ADMIN"
        ) from error


def _mount(fd: int, settings: MountSettings) -> int:
    """mount(2); 0 or an errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _MS_NOSUID | _MS_NODEV | (_MS_RDONLY if settings.read_only else 0)
    # The kernel checks permissions by the modes and owners that are shown.
    options = f"fd={fd},rootmode={stat.S_IFDIR:o},user_id={os.getuid()},group_id={os.getgid()},default_permissions"
    if settings.allow_other:
        options += ",allow_other"
    done = libc.mount(
        os.fsencode(source_of(settings.url)),
        os.fsencode(settings.mountpoint),
        FSTYPE.encode(),
        ctypes.c_ulong(flags),
        options.encode(),
    )
    return 0 if done == 0 else ctypes.get_errno()


def _fusermount(settings: MountSettings) -> int:
    """Let the setuid helper mount; it sends the descriptor over a socket. Raises DriverUnavailable."""
    helper = shutil.which("fusermount3")
    if helper is None:
        raise DriverUnavailable("fusermount3 is missing, which mounts for ordinary users: apt install fuse3")
    source = source_of(settings.url).replace("\\", "\\\\").replace(",", "\\,")
    options = f"fsname={source},subtype={FSTYPE.partition('.')[2]},default_permissions"
    options += ",allow_other" * settings.allow_other + ",ro" * settings.read_only
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(FUSERMOUNT_TIMEOUT_S)
        try:
            helping = subprocess.Popen(
                [helper, "-o", options, "--", str(settings.mountpoint)],
                env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno()), "LC_ALL": "C"},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise DriverUnavailable(f"cannot start {helper}: {error.strerror}") from error
        theirs.close()
        with helping:
            fd = _receive_descriptor(ours)
            try:
                _, said = helping.communicate(timeout=FUSERMOUNT_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                helping.kill()
                said = f"{helper} does not end"
    if fd is None:
        raise DriverUnavailable(f"cannot mount on {settings.mountpoint}: {said.strip() or f'{helper} failed'}")
    return fd


def _receive_descriptor(ours: socket.socket) -> int | None:
    """The descriptor in the ancillary data of one message; None when the other end closes or is late."""
    with contextlib.suppress(TimeoutError):
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(array.array("i").itemsize))
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fd = array.array("i", data[: array.array("i").itemsize])[0]
                os.set_inheritable(fd, False)
                return fd
    return None
