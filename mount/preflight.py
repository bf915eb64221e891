"""What must hold before a mount is tried, each failure told in one line.

Called by the mount command, in its own process, before the daemon is started; `take_mountpoint` by the daemon. Nothing
here touches the store beyond looking where a local one lies. Threading: pure checks, no state.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

from artifactfs.errors import ArtifactError
from artifactfs.managers.urls import check_new_place, check_url
from mount import mounts
from mount.client import Liveness, liveness
from mount.settings import MountSettings

FUSE_DEVICE = Path("/dev/fuse")
FUSE_CONF = Path("/etc/fuse.conf")

_IN_CONTAINER = "in a container add --device /dev/fuse --cap-add SYS_ADMIN"
_CAP_SYS_ADMIN = 21
# What stands before them asks for a layout or a library; see artifactfs.connect.
_LOCAL_SCHEMES = ("", *(before + scheme for before in ("", "plain+", "squirrel+") for scheme in ("file", "local")))


class MountRefused(ArtifactError):
    """The mount cannot or must not be made; the message says why and what to do."""


def absolute_url(url: str) -> str:
    """`url` with the path of a local store made absolute: the daemon works in another directory.

    Raises ArgumentError, UnknownScheme for what would become an absolute path by mistake.
    """
    check_url(url)
    scheme, path = _split(url)
    if scheme == "":
        return os.path.abspath(os.path.expanduser(path))
    return f"{scheme}://{os.path.abspath(path)}" if scheme in _LOCAL_SCHEMES else url


def local_root(url: str) -> Path | None:
    """The directory of a local store, whether or not it is there; None for other stores."""
    scheme, path = _split(url)
    return Path(os.path.realpath(path)) if scheme in _LOCAL_SCHEMES else None


def _split(url: str) -> tuple[str, str]:
    """(scheme in lower case, rest); a plain path has the scheme ''."""
    scheme, separator, rest = url.partition("://")
    return (scheme.lower(), rest) if separator else ("", url)


def check(settings: MountSettings) -> str | None:
    """Raises MountRefused. Returns what was put right on the way, to be told to the user."""
    check_fuse(settings)
    cleared = check_mountpoint(settings.mountpoint)
    check_apart(settings)
    if not settings.read_only:
        check_new_place(settings.url)
    return cleared


def check_fuse(settings: MountSettings) -> None:
    """FUSE can be used by this user, with these options. Raises MountRefused."""
    try:
        os.close(os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            raise MountRefused(f"{FUSE_DEVICE} is missing: apt install fuse3; {_IN_CONTAINER}") from error
        raise MountRefused(f"{FUSE_DEVICE} may not be used ({error.strerror}); {_IN_CONTAINER}") from error
    if os.geteuid() == 0:
        if not _may_mount():
            raise MountRefused(f"this process may not mount (it lacks CAP_SYS_ADMIN); {_IN_CONTAINER}")
        return
    if shutil.which("fusermount3") is None:
        raise MountRefused("fusermount3 is missing: apt install fuse3")
    if settings.allow_other and not _user_allow_other():
        raise MountRefused(f"--allow-other needs the line 'user_allow_other' in {FUSE_CONF}, unless root mounts")


def _may_mount() -> bool:
    status = Path("/proc/self/status").read_text()
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return effective is None or bool(int(effective[1], 16) >> _CAP_SYS_ADMIN & 1)


def _user_allow_other() -> bool:
    try:
        lines = FUSE_CONF.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


def check_mountpoint(mountpoint: Path) -> str | None:
    """An empty directory with nothing mounted on it, or a dead mount of ours. Raises MountRefused.

    Returns what `take_mountpoint` is going to clear away.
    """
    entry = mounts.entry_at(mountpoint)
    if entry is None:
        _check_empty(mountpoint)
        return None
    _check_dead(entry)
    return f"cleared the dead mount of {entry.store} at {entry.mountpoint}, left by a daemon that was killed"


def take_mountpoint(settings: MountSettings) -> None:
    """Clear dead mounts away, at the last moment before the new one is made. Raises MountRefused.

    Until then programs meet errors there: an empty directory would make a mirror job delete everything.
    """
    cleared = False
    while (entry := mounts.entry_at(settings.mountpoint)) is not None:
        _check_dead(entry)
        mounts.take_away(entry)
        cleared = True
    if cleared:
        _check_empty(settings.mountpoint)
        check_apart(settings)


def _check_empty(mountpoint: Path) -> None:
    try:
        names = os.listdir(mountpoint)
    except FileNotFoundError:
        raise MountRefused(f"mountpoint {mountpoint} does not exist; make it with mkdir") from None
    except NotADirectoryError:
        raise MountRefused(f"mountpoint {mountpoint} is not a directory") from None
    except OSError as error:
        raise MountRefused(f"mountpoint {mountpoint} cannot be used: {error.strerror}") from error
    if names:
        raise MountRefused(f"mountpoint {mountpoint} is not empty (it holds {min(names)!r}); use an empty directory")


def _check_dead(entry: mounts.MountEntry) -> None:
    """Raises MountRefused when the mount is alive or not ours."""
    if not entry.is_ours:
        raise MountRefused(f"{entry.mountpoint} is a mount already: {entry.source} ({entry.fstype})")
    state = liveness(entry.mountpoint)
    if state is Liveness.ANSWERS:
        raise MountRefused(f"{entry.mountpoint} is mounted already, with the store {entry.store}")
    if state is Liveness.HANGS:
        raise MountRefused(
            f"{entry.mountpoint} is mounted already, with the store {entry.store}, but its daemon does not answer"
        )


def check_apart(settings: MountSettings) -> None:
    """The mountpoint, a local store and the state directory do not hold each other: the daemon would wait for itself.

    Raises MountRefused.
    """
    mountpoint = Path(os.path.realpath(settings.mountpoint))
    store = local_root(settings.url)
    if store is not None:
        if _holds(store, mountpoint):
            raise MountRefused(f"mountpoint {mountpoint} lies inside the store {store}")
        if _holds(mountpoint, store):
            raise MountRefused(f"the store {store} lies inside the mountpoint {mountpoint}")
    for what, directory in (("state directory", settings.state_dir), ("cache directory", settings.cache_dir)):
        if _holds(mountpoint, Path(os.path.realpath(directory))):
            raise MountRefused(f"the {what} {directory} lies inside the mountpoint {mountpoint}")


def _holds(outer: Path, inner: Path) -> bool:
    """Tell whether `inner` is `outer` or below it, also where bind mounts give one directory several paths."""
    if inner.is_relative_to(outer):
        return True
    try:
        outer_stat = os.stat(outer)
    except OSError:
        return False
    for directory in (inner, *inner.parents):
        try:
            if os.path.samestat(os.stat(directory), outer_stat):
                return True
        except OSError:
            continue
    return False
