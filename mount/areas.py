"""The directories of staging areas: where they lie, whose they are, and which wait for a mount.

On disk, below the root of an area::

    lock                                        flock held by the daemon that owns the area
    boot                                        the boot of the machine in which a daemon took it and did not let go
    owner.json                                  `Owner`, for messages
    artifacts/<collection>/<artifact>/          see `staging`

In a store on a local disk each user, host and state directory has an area of its own. Another one is never taken by
itself: a lock that is free proves nothing where the store is shared over a network, and what two mounts have staged
would become one version. So who mounts is told what waits, and asks for it by name.

Nothing is believed of a directory that somebody else may have made: an area belongs to the daemon's user and is closed
to others, and nothing in it is reached through a symlink.

Threading: pure functions on paths, safe from any thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shlex
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from artifactfs import durable
from artifactfs.beneath import open_regular
from artifactfs.errors import ArtifactError
from artifactfs.names import PENDING_PREFIX, STAGING
from mount import wire
from mount.errors import AreaRefused
from mount.settings import MountSettings

ARTIFACTS = "artifacts"
_LOCK = "lock"
_OWNER = "owner.json"
_TAKE_ATTEMPTS = 100
_MAX_OWNER_BYTES = 65536
_NAME = re.compile(r"\d+-[0-9a-f]{16}")


class AreaBusy(ArtifactError):
    """Another daemon owns the staging area."""


class Owner(msgspec.Struct, frozen=True):
    """Which mounts an area belongs to."""

    host: str
    state_dir: str


@dataclass(frozen=True)
class Waiting:
    """An area of this user that no mount has."""

    root: Path
    owner: Owner | None

    def describe(self) -> str:
        """Tell what waits, and how to get at it."""
        by = f" by host {self.owner.host} with --state-dir {shlex.quote(self.owner.state_dir)}" if self.owner else ""
        return (
            f"what was staged{by} waits in {self.root}; if no other machine has it mounted, unmount and mount with "
            f"--take-staging {self.root.name} to go on with it"
        )


def name_of(state_dir: Path) -> str:
    """The name of the area of this user and host with that state directory."""
    owner = f"{socket.gethostname()}\0{os.getuid()}\0{os.path.realpath(state_dir)}"
    return f"{os.getuid()}-{hashlib.sha256(os.fsencode(owner)).hexdigest()[:16]}"


def chosen(staging_root: Path | None, name: str) -> Path:
    """The area that was asked for by name. Raises AreaRefused."""
    if staging_root is None:
        raise AreaRefused("--take-staging is for stores on a local disk: what is staged for others is in --state-dir")
    if not _NAME.fullmatch(name) or not (staging_root / name).exists():
        raise AreaRefused(f"there is no staging area {name!r} in {staging_root}; 'artifactfs status' names what waits")
    return staging_root / name


def make_and_take(root: Path, settings: MountSettings) -> int:
    """Lock an area, which is made where it is missing unless it was asked for by name. Raises as :func:`take`."""
    for _ in range(_TAKE_ATTEMPTS):
        if settings.take_staging is not None:
            break
        # Who unmounts at this moment may take the directories away again.
        with contextlib.suppress(FileNotFoundError):
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            return take(root, settings)
    return take(root, settings)


def take(root: Path, settings: MountSettings) -> int:
    """Lock an area; returns the descriptor that holds the lock. Raises AreaBusy, AreaRefused, OSError."""
    check_private(root)
    lock_fd = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(lock_fd), os.lstat(root / _LOCK)):
            raise FileNotFoundError(f"the staging area {root} was taken away")
        if not (root / _OWNER).exists():
            owner = Owner(socket.gethostname(), os.path.realpath(settings.state_dir))
            durable.replace(root / _OWNER, wire.encode(owner))
    except BlockingIOError as error:
        os.close(lock_fd)
        which = f"the state directory {settings.state_dir}"
        if settings.take_staging is not None:
            which = f"the staging area {settings.take_staging}"
        raise AreaBusy(
            f"{settings.url} is mounted for writing already with {which}: "
            "unmount it, or use --read-only or another --state-dir"
        ) from error
    except BaseException:
        os.close(lock_fd)
        raise
    return lock_fd


def leave(root: Path, place: Path) -> bool:
    """Take away an area that is locked by the caller and holds no file but its own; tells if it is gone.

    `root` leads to it wherever it is, `place` is where it was made. Raises OSError.
    """
    if not _remove_empty(root / ARTIFACTS):
        return False
    # The lock last: until then nobody else takes the area.
    for name in (_OWNER, _LOCK):
        (root / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # a file that is not ours
        place.rmdir()
    return not place.exists()


def _remove_empty(directory: Path) -> bool:
    """Remove a directory with those below it; tells if there was no file in it, and it is gone."""
    for name in subdirectories(directory):
        _remove_empty(directory / name)
    with contextlib.suppress(OSError):
        directory.rmdir()
    return not directory.exists()


def check_private(root: Path) -> None:
    """The area is a directory of this user that others cannot enter. Raises AreaRefused, OSError."""
    check_directory(root)
    found = os.lstat(root)
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise AreaRefused(
            f"the staging area {root} belongs to uid {found.st_uid} and has mode {stat.S_IMODE(found.st_mode):o}; it "
            f"must belong to uid {os.geteuid()} and have mode 700: see what it holds, remove it, and mount again"
        )


def check_directory(path: Path) -> None:
    """Something is really a directory. Raises AreaRefused when it is a symlink or anything else, OSError."""
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise AreaRefused(f"{path} of the staging area is no directory: see what it is, remove it, and mount again")


def check_artifact(directory: Path) -> None:
    """The trees of an artifact are directories. Raises AreaRefused, OSError."""
    for name in os.listdir(directory):
        if name == STAGING or name.startswith(f"{PENDING_PREFIX}."):
            check_directory(directory / name)
        if name.startswith(f"{PENDING_PREFIX}.") and os.path.lexists(directory / name / "tree"):
            check_directory(directory / name / "tree")


def check_same(root: Path, fd: int) -> None:
    """The path still leads to the area that is open as `fd`. Raises AreaRefused."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if os.path.samestat(os.lstat(root), os.fstat(fd)):
            return
    raise AreaRefused(f"the staging area {root} was replaced while it was opened: see what it is, and mount again")


def others_waiting(root: Path) -> list[Waiting]:
    """The other areas beside `root` that are this user's, hold something, and are in use by no mount we can see."""
    found = []
    for name in subdirectories(root.parent):
        other = root.parent / name
        if other == root or not _NAME.fullmatch(name):
            continue
        # What cannot be looked at is nothing that this user could take.
        with contextlib.suppress(ArtifactError, OSError):
            check_private(other)
            if holds_anything(other) and not _is_locked(other):
                found.append(Waiting(other, _owner(other)))
    return found


def holds_anything(root: Path) -> bool:
    """Tell whether something is staged or pending in an area."""
    return any(_trees(root))


def _trees(root: Path) -> Iterator[Path]:
    for collection in subdirectories(root / ARTIFACTS):
        for artifact in subdirectories(root / ARTIFACTS / collection):
            directory = root / ARTIFACTS / collection / artifact
            for name in subdirectories(directory):
                if name.startswith(f"{PENDING_PREFIX}."):
                    yield directory / name
                elif name == STAGING:
                    with os.scandir(directory / name) as entries:
                        if next(entries, None) is not None:
                            yield directory / name


def _is_locked(root: Path) -> bool:
    fd = open_regular(str(root / _LOCK))
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _owner(root: Path) -> Owner | None:
    try:
        fd = open_regular(str(root / _OWNER))
    except OSError:
        return None  # of a mount that left no such note
    with open(fd, "rb") as file:
        try:
            return wire.decode(file.read(_MAX_OWNER_BYTES), Owner)
        except msgspec.DecodeError:
            return None


def subdirectories(path: Path) -> list[str]:
    """The directories in a directory, in order; none where it is not there."""
    try:
        with os.scandir(path) as entries:
            return sorted(e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith(".tmp"))
    except FileNotFoundError:
        return []
