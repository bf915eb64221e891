"""Talking to a running mount, through extended attributes and nothing else (see `mount.control`).

Used by the commands. Threading: no state, safe from any thread. Every read is bounded in time, because a mount whose
daemon hangs would hold the caller for ever: the call is made in a helper thread, which is left behind when it is late.
"""

from __future__ import annotations

import enum
import errno
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from artifactfs import names
from artifactfs.errors import ArtifactError
from artifactfs.threads import try_start
from mount import control, mounts

ANSWER_TIMEOUT_S = 30.0

# What is left of a mount whose daemon is gone: the connection was closed, or aborted.
_DEAD_ERRNOS = (errno.ENOTCONN, errno.ECONNABORTED)

Result = TypeVar("Result")
Read = TypeVar("Read", control.ArtifactState, control.Status)


class ClientError(ArtifactError):
    """A mount does not do what was asked of it; the message says why."""


class NoAnswer(ClientError):
    """The mount's daemon does not answer in time."""


class DeadMount(ClientError):
    """The mount's daemon is gone."""


class Liveness(enum.Enum):
    """How a mountpoint reacts."""

    ANSWERS = "answers"
    """statvfs(3) succeeds, or fails as it may on any file system."""
    DEAD = "dead"
    """The daemon behind it is gone."""
    HANGS = "hangs"
    """No answer in time."""


def within(timeout_s: float, call: Callable[[], Result]) -> Result:
    """The result of `call`, made in a thread of its own. Raises NoAnswer when it is late, else what `call` raises."""
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            failure.append(error)

    thread = threading.Thread(target=run, name="ask-mount", daemon=True)
    if not try_start(thread):
        raise ClientError("the system gives no thread to ask a mount with")
    thread.join(timeout_s)
    if failure:
        raise failure[0]
    if not outcome:
        raise NoAnswer(f"no answer within {timeout_s:g} s")
    return outcome[0]


def liveness(mountpoint: Path, timeout_s: float = ANSWER_TIMEOUT_S) -> Liveness:
    """Tell whether something answers at a mountpoint."""
    try:
        # Not stat(2): the kernel goes on answering that from its cache after the daemon is gone.
        within(timeout_s, lambda: os.statvfs(mountpoint))
    except NoAnswer:
        return Liveness.HANGS
    except OSError as error:
        return Liveness.DEAD if error.errno in _DEAD_ERRNOS else Liveness.ANSWERS
    return Liveness.ANSWERS


# -- the attributes ----------------------------------------------------------------------------------------------------


def read_status(mountpoint: Path, timeout_s: float = ANSWER_TIMEOUT_S) -> control.Status:
    """The status of a mount. Raises NoAnswer, DeadMount, ClientError."""
    return _read(mountpoint, control.STATUS, control.Status, timeout_s)


def read_state(directory: Path, timeout_s: float = ANSWER_TIMEOUT_S) -> control.ArtifactState:
    """What is staged, pending and finished, asked on a ``staging`` or ``pending.N`` directory. Raises as above."""
    return _read(directory, control.STATE, control.ArtifactState, timeout_s)


def request_commit(directory: Path, request: control.CommitRequest) -> None:
    """Ask to commit what is in a ``staging`` directory; returns once it is sealed.

    Of a ``pending.N`` directory that was sealed by itself: give its version message and aliases of the request.
    Raises OSError EBUSY while files are open for writing, or it is being committed, ENODATA when nothing is staged;
    ClientError.
    """
    value = control.encode(request)
    if len(value) > control.MAX_VALUE_BYTES:
        raise ClientError(
            f"the message is too long: {len(value)} bytes with the aliases, {control.MAX_VALUE_BYTES} fit"
        )
    os.setxattr(directory, control.COMMIT, value)


def add_aliases(version: Path, aliases: Sequence[str]) -> None:
    """Give a version of the mount further names. Raises OSError."""
    os.setxattr(version, control.ALIASES, msgspec.json.encode(list(aliases)))


def annotate(version: Path, message: str) -> None:
    """Give a version of the mount another message. Raises OSError."""
    os.setxattr(version, control.MESSAGE, message.encode())


def request_drain(mountpoint: Path) -> None:
    """Ask to seal and commit everything that is staged, but for artifacts with files open for writing.

    Raises OSError.
    """
    try:
        os.setxattr(mountpoint, control.DRAIN, control.encode(control.CommitRequest()))
    except OSError as error:
        # Says that such artifacts were left out; the status tells which.
        if error.errno != errno.EBUSY:
            raise


def request_leave(mountpoint: Path, *, is_meant: bool = True) -> None:
    """Tell the daemon to end without committing more if it is unmounted now; not meant, take that back.

    Raises OSError.
    """
    os.setxattr(mountpoint, control.LEAVE, b"1" if is_meant else b"0")


def discard(directory: Path) -> None:
    """Throw away what is in a ``staging`` or ``pending.N`` directory. Raises OSError EBUSY, ENODATA."""
    os.setxattr(directory, control.DISCARD, b"1")


def retry(directory: Path) -> None:
    """Try the commit of a ``pending.N`` directory again at once. Raises OSError ENODATA."""
    os.setxattr(directory, control.RETRY, b"1")


def reopen(directory: Path) -> None:
    """Take the files of a ``pending.N`` directory back into staging.

    Raises OSError EBUSY while it is being committed, ENOTEMPTY when something is staged, EEXIST when it is a version
    already, ENODATA when it is gone, EIO when the store cannot tell.
    """
    os.setxattr(directory, control.REOPEN, b"1")


def request_run(staging: Path) -> None:
    """Have what is staged wait until this process asks for its commit or ends.

    Raises OSError EBUSY while another process is waited for, EPERM when this one cannot be seen.
    """
    os.setxattr(staging, control.RUN, b"1")


def stage(staging: Path, version: str) -> None:
    """Fill a ``staging`` directory from a version. Raises OSError EBUSY, ENOENT, ENOTSUP."""
    os.setxattr(staging, control.STAGE, os.fsencode(version))


def refused(error: OSError, doing: str) -> ClientError:
    """What to tell when the mount answers `doing` with an error that has no meaning of its own there."""
    if error.errno in _DEAD_ERRNOS:
        return DeadMount(f"{doing}: the mount's daemon is gone")
    reason = "the mount is read-only" if error.errno == errno.EROFS else error.strerror
    return ClientError(f"{doing}: {reason}; the mount's log may say more (artifactfs status)")


def _read(path: Path, attribute: str, kind: type[Read], timeout_s: float) -> Read:
    try:
        raw = within(timeout_s, lambda: os.getxattr(path, attribute))
    except NoAnswer as error:
        raise NoAnswer(f"the mount at {path} gives {error}") from error
    except OSError as error:
        if error.errno in _DEAD_ERRNOS:
            raise DeadMount(f"the daemon of the mount at {path} is gone") from error
        raise ClientError(f"cannot ask the mount at {path}: {error.strerror}") from error
    try:
        return control.decode(raw, kind)
    except msgspec.DecodeError as error:
        raise ClientError(f"the mount at {path} runs another version of artifactfs: {error}") from error


# -- paths -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """An artifact in a mount. `tree` is ``staging`` or ``pending.N``, None for the artifact directory itself."""

    collection: str
    artifact: str
    directory: Path
    tree: str | None

    @property
    def label(self) -> str:
        """``collection/artifact``, for messages."""
        return f"{self.collection}/{self.artifact}"

    @property
    def staging(self) -> Path:
        """The artifact's staging directory."""
        return self.directory / names.STAGING


def find_place(path: Path) -> Place:
    """Which artifact's staging, sealed tree or directory a path lies in. Raises ClientError."""
    real = within(ANSWER_TIMEOUT_S, lambda: Path(os.path.realpath(path)))
    entry = mounts.entry_over(real)
    if entry is None or not entry.is_ours:
        raise ClientError(f"{path} is not in a mounted store; 'artifactfs status' lists the mounts")
    if liveness(entry.mountpoint) is Liveness.DEAD:
        raise DeadMount(f"the daemon of the mount at {entry.mountpoint} is gone; mount it again")
    # A bind mount (in a container, say) may show only a part: the names above it are in the table.
    inner = Path(entry.root, real.relative_to(entry.mountpoint)).parts[1:]
    below = len(inner) - 2
    # A path below a tree that is not there is as good as the tree: only the names matter.
    if below < 0 or (below > 0 and inner[2] != names.STAGING and not inner[2].startswith(f"{names.PENDING_PREFIX}.")):
        raise ClientError(f"{path} is neither an artifact nor in its {names.STAGING} directory")
    directory = real.parents[below - 1] if below else real
    if not directory.is_relative_to(entry.mountpoint):
        raise ClientError(f"{path}: the artifact's directory is not visible here")
    if not directory.is_dir():
        raise ClientError(f"{path}: there is no artifact {inner[0]}/{inner[1]} in this mount")
    if not (directory / names.STAGING).exists():
        raise ClientError(f"{path}: nothing can be staged here, the mount is read-only")
    return Place(inner[0], inner[1], directory, inner[2] if below else None)
