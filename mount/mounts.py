"""The mounts of this machine: which are ours, whose daemons they are, and how to unmount them.

The kernel's mount table says what is mounted; the records under ``<state-dir>/mounts`` say which daemon process is
behind a mountpoint and where it logs. The daemon writes its record, the commands read them. Threading: no state in
memory, every function is safe from any thread; a record is replaced as a whole, so readers see one or the other.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pwd
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import msgspec

from artifactfs import durable
from artifactfs.beneath import open_regular
from artifactfs.errors import ArtifactError
from artifactfs.redaction import redact
from mount import logs, wire
from mount.processes import Process, users_of

FSTYPE = "fuse.artifactfs"
SOURCE_PREFIX = "artifactfs:"
TABLE = Path("/proc/self/mountinfo")
FUSE_CONNECTIONS = "/sys/fs/fuse/connections"

END = b"1\n"
"""The bytes that end a connection when they are written to the descriptor of `open_end`."""
_MNT_FORCE = 1
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
_FUSERMOUNT_TIMEOUT_S = 30.0
_MAX_USERS_SHOWN = 8
_MAX_SYMLINKS = 40
_MAX_RECORD_BYTES = 1 << 20


class UnmountError(ArtifactError):
    """Unmounting failed; the message says why."""


class MountBusy(UnmountError):
    """Programs have files open in the mount, or work in one of its directories."""


class NotMounted(UnmountError):
    """Nothing is mounted there."""


# -- the kernel's table ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MountEntry:
    """One line of the mount table.

    `root` is the part of the file system shown: ``/`` except in bind mounts. `user_id` is who mounted it, where the
    table tells, as it does of FUSE.
    """

    mountpoint: Path
    fstype: str
    source: str
    device: str
    root: str
    user_id: int | None = None

    @property
    def is_ours(self) -> bool:
        """Tell whether it shows a store of artifactfs."""
        return self.fstype == FSTYPE

    @property
    def store(self) -> str:
        """The URL of the store that is mounted, without credentials."""
        return self.source.removeprefix(SOURCE_PREFIX)

    @property
    def other_user(self) -> str | None:
        """The name of the user who mounted it; None when that is this one, or is not known."""
        if self.user_id is None or self.user_id == os.getuid():
            return None
        try:
            return pwd.getpwuid(self.user_id).pw_name
        except KeyError:
            return f"user {self.user_id}"


def source_of(url: str) -> str:
    """What a mount of that store shows as its source in the mount table."""
    return SOURCE_PREFIX + redact(url)


def mount_table() -> list[MountEntry]:
    """Everything mounted in this mount namespace, in the order of mounting."""
    # surrogateescape: a mountpoint may have any bytes in its name.
    text = TABLE.read_text(encoding="utf-8", errors="surrogateescape")
    # At line feeds alone: the kernel writes any other character of a name as it is.
    return [_parse_entry(line) for line in text.split("\n") if line]


def _parse_entry(line: str) -> MountEntry:
    # 36 35 98:0 /root /mountpoint rw,noatime master:1 - fstype source rw,errors=continue
    left, _, right = line.partition(" - ")
    _, _, device, root, mountpoint = left.split(" ")[:5]
    fstype, source, options = [*right.split(" "), ""][:3]
    user = re.search(r"(?:^|,)user_id=([0-9]+)", options)
    user_id = int(user[1]) if user else None
    return MountEntry(Path(_unescape(mountpoint)), fstype, _unescape(source), device, _unescape(root), user_id)


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def entry_at(mountpoint: Path) -> MountEntry | None:
    """What is mounted exactly there (on top, where several are stacked)."""
    return next((entry for entry in reversed(mount_table()) if entry.mountpoint == mountpoint), None)


def entry_over(path: Path) -> MountEntry | None:
    """The mount that an absolute path without symlinks lies in."""
    inside = [entry for entry in reversed(mount_table()) if path.is_relative_to(entry.mountpoint)]
    return max(inside, key=lambda entry: len(entry.mountpoint.parts), default=None)


def resolve(path: str | os.PathLike[str]) -> Path:
    """The absolute path of a mountpoint, without symlinks, as the mount table has it.

    Does not look at what is mounted there (realpath(3) would): its daemon may be dead, or hang for ever.
    """
    real = Path(os.path.abspath(path))
    for _ in range(_MAX_SYMLINKS):
        real = Path(os.path.realpath(real.parent), real.name)
        if entry_at(real) is not None or not real.is_symlink():
            break
        real = Path(os.path.abspath(real.parent / real.readlink()))
    return real


def our_entries() -> list[MountEntry]:
    """Every mount of ours by mountpoint, without bind mounts of parts of them."""
    return sorted((e for e in mount_table() if e.is_ours and e.root == "/"), key=lambda entry: entry.mountpoint)


# -- records -----------------------------------------------------------------------------------------------------------


class Record(msgspec.Struct, frozen=True):
    """What the daemon of a mount leaves for the commands; removed at a clean end, so that a crash can be told.

    `staging_dir` is None for a read-only mount, "" where an older daemon did not tell it.
    """

    mountpoint: str
    store: str
    log_file: str
    daemon: Process
    staging_dir: str | None = ""


def _record_file(state_dir: Path, mountpoint: Path) -> Path:
    return state_dir / "mounts" / f"{logs.file_stem(mountpoint)}.json"


def write_record(state_dir: Path, record: Record) -> None:
    """Leave or replace the record of a mountpoint. Raises OSError."""
    path = _record_file(state_dir, Path(record.mountpoint))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    durable.replace(path, wire.encode(record))


def read_record(state_dir: Path, mountpoint: Path) -> Record | None:
    """The record of a mountpoint, None when there is none that can be read."""
    return _read(_record_file(state_dir, mountpoint))


def records(state_dir: Path) -> list[Record]:
    """Every record in a state directory."""
    found = (_read(path) for path in sorted((state_dir / "mounts").glob("[!.]*.json")))
    return [record for record in found if record is not None]


def remove_record(state_dir: Path, mountpoint: Path) -> None:
    """Remove the record of a mountpoint, if there is one."""
    _record_file(state_dir, mountpoint).unlink(missing_ok=True)


def _read(path: Path) -> Record | None:
    # A record that is not ours to read, or of a version with other fields, tells as little as a missing one.
    try:
        with open(open_regular(os.fspath(path)), "rb") as file:
            return wire.decode(file.read(_MAX_RECORD_BYTES), Record)
    except (OSError, msgspec.DecodeError):
        return None


# -- unmounting --------------------------------------------------------------------------------------------------------


def unmount(mountpoint: Path, *, lazy: bool = False) -> None:
    """Unmount; `lazy` takes it out of sight at once even when it is in use.

    Raises MountBusy naming who uses it, NotMounted, UnmountError.
    """
    number = _umount2(mountpoint, _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0))
    if number == errno.EPERM:
        # Ordinary users, and root without the capability, unmount through the setuid helper.
        _fusermount(mountpoint, lazy)
    elif number == errno.EBUSY:
        raise _busy(mountpoint)
    elif number == errno.EINVAL:
        raise NotMounted(f"{mountpoint} is not mounted")
    elif number:
        raise UnmountError(f"cannot unmount {mountpoint}: {os.strerror(number)}")


def abort(entry: MountEntry) -> bool:
    """End the connection behind a mount whoever holds on to it; it may be unmounted by that.

    It takes root, or the control file system of FUSE, which is not mounted in most containers. Else it returns False,
    and the connection ends with the daemon's process.
    """
    end = open_end(entry)
    if end is not None:
        with os.fdopen(end, "wb", buffering=0) as file, contextlib.suppress(OSError):
            file.write(END)
            return True
    if entry_at(entry.mountpoint) != entry:
        return False
    # Root can do without: it ends the connection before it looks whether the mount is in use.
    return _umount2(entry.mountpoint, _UMOUNT_NOFOLLOW | _MNT_FORCE) in (0, errno.EBUSY)


def take_away(entry: MountEntry) -> None:
    """Unmount what nobody answers for any more, and let go whoever waits for an answer. Raises UnmountError."""
    abort(entry)
    with contextlib.suppress(NotMounted):
        unmount(entry.mountpoint, lazy=True)


def open_end(entry: MountEntry) -> int | None:
    """A descriptor to which `END` is written to end the connection behind a mount; None where there is none.

    It stands for this connection alone, also when that has ended and another has its number, which happens at once.
    """
    try:
        end = os.open(Path(FUSE_CONNECTIONS, entry.device.partition(":")[2], "abort"), os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return None
    if entry in mount_table():
        return end
    # The number may have been another's by then.
    os.close(end)
    return None


def _umount2(mountpoint: Path, flags: int) -> int:
    """umount2(2); 0 or an errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    return 0 if libc.umount2(os.fsencode(mountpoint), flags) == 0 else ctypes.get_errno()


def _fusermount(mountpoint: Path, lazy: bool) -> None:
    helper = shutil.which("fusermount3") or shutil.which("fusermount")
    if helper is None:
        raise UnmountError(f"cannot unmount {mountpoint}: fusermount3 is missing (apt install fuse3)")
    command = [helper, "-u", *(["-z"] if lazy else []), "--", str(mountpoint)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_FUSERMOUNT_TIMEOUT_S,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:
        raise UnmountError(f"cannot unmount {mountpoint}: {helper} does not end") from error
    if done.returncode == 0:
        return
    if "busy" in done.stderr:
        raise _busy(mountpoint)
    if "not found in" in done.stderr or "not mounted" in done.stderr:
        # The helper looks for what this user has mounted.
        entry = entry_at(mountpoint)
        if entry is None:
            raise NotMounted(f"{mountpoint} is not mounted")
        raise UnmountError(
            f"{mountpoint} was mounted by {entry.other_user or 'another user'}, who alone can unmount it"
        )
    raise UnmountError(f"cannot unmount {mountpoint}: {done.stderr.strip() or f'{helper} failed'}")


def _busy(mountpoint: Path) -> MountBusy:
    users = users_of(mountpoint)
    shown = ", ".join(users[:_MAX_USERS_SHOWN]) + (", …" if len(users) > _MAX_USERS_SHOWN else "")
    return MountBusy(f"{mountpoint} is in use by {shown or 'programs that cannot be seen from here'}")
