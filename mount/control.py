"""The control surface of a mount: names of extended attributes and the JSON they carry.

Extended attributes work through containers and from any language, so the commands use nothing else to talk to a
running mount. Pure data and (de)serialisation, no state; safe from any thread.

===========================  =====================  ======  ==========================================================
attribute                    on                     access  value
===========================  =====================  ======  ==========================================================
``user.artifactfs.status``   the mount's root       read    `Status`
``user.artifactfs.drain``    the mount's root       write   `CommitRequest`: seal everything staged; b"" will do
``user.artifactfs.leave``    the mount's root       write   ``1``: if unmounted within half a minute, end without
                                                            committing more; ``0``: commit at the end after all
``user.artifactfs.state``    ``staging``, pending   read    `ArtifactState`
``user.artifactfs.commit``   ``staging``            write   `CommitRequest`: seal, and commit in the background
``user.artifactfs.commit``   pending                write   `CommitRequest`: its message and aliases, when it was
                                                            sealed by itself and is not being committed
``user.artifactfs.discard``  ``staging``, pending   write   anything: throw the files away
``user.artifactfs.retry``    pending               write   anything: try the commit again at once
``user.artifactfs.reopen``   pending               write   anything: take the files back into staging, if that is empty
``user.artifactfs.stage``    ``staging``            write   ``v3``, ``latest`` or an alias: fill staging from it
``user.artifactfs.commit-after``  ``staging``       both    seconds of quiet, or ``never``, instead of the mount's own;
                                                            b"" for the mount's own again
``user.artifactfs.run``      ``staging``            write   anything: commit nothing by itself before the process that
                                                            writes this has asked for a commit or ended
``user.artifactfs.version``  versions, their files  read    ``v3``
``user.artifactfs.digest``   versions, their files  read    hex digest of the content
``user.artifactfs.created``  versions               read    ISO 8601, UTC
``user.artifactfs.message``  versions               both    the message; written: another one, in UTF-8
``user.artifactfs.metadata`` versions               both    JSON object; written: keys to add to it, or to replace
``user.artifactfs.aliases``  versions               both    JSON list; written: names to give the version too
===========================  =====================  ======  ==========================================================

A commit is followed by polling ``state`` for the commit id the caller chose: among `pending` while it is under way,
among `finished` afterwards.
"""

from __future__ import annotations

import enum
from typing import Any, TypeVar

import msgspec

PREFIX = "user.artifactfs."
STATUS = PREFIX + "status"
DRAIN = PREFIX + "drain"
LEAVE = PREFIX + "leave"
STATE = PREFIX + "state"
COMMIT = PREFIX + "commit"
DISCARD = PREFIX + "discard"
RETRY = PREFIX + "retry"
REOPEN = PREFIX + "reopen"
STAGE = PREFIX + "stage"
COMMIT_AFTER = PREFIX + "commit-after"
RUN = PREFIX + "run"
VERSION = PREFIX + "version"
DIGEST = PREFIX + "digest"
CREATED = PREFIX + "created"
MESSAGE = PREFIX + "message"
METADATA = PREFIX + "metadata"
ALIASES = PREFIX + "aliases"

# The kernel carries at most 64 KiB in one attribute (XATTR_SIZE_MAX).
MAX_VALUE_BYTES = 65536


class CommitState(str, enum.Enum):
    """Where a set of staged files is on its way to a version."""

    STAGED = "staged"
    """In staging, still writable."""
    SEALED = "sealed"
    """Set aside, waiting for its turn."""
    COMMITTING = "committing"
    """On its way to the store."""
    RETRYING = "retrying"
    """A passing failure; tried again at `next_retry`."""
    BLOCKED = "blocked"
    """A lasting failure; waits for the user."""
    COMMITTED = "committed"
    """A version exists and was read back."""


class CommitRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Ask to commit what is staged. `commit_id` is chosen by the caller (`artifactfs.managers.commit_id`).

    With `force`, files that are open for writing do not stand in the way: what is in them at that moment is committed,
    and what their programs write later belongs to the next version.
    """

    commit_id: str = ""
    message: str = ""
    aliases: list[str] = msgspec.field(default_factory=list)
    force: bool = False


class Hold(msgspec.Struct, frozen=True):
    """The reason why staged files are not committed by themselves. `at` is in seconds since the epoch.

    `lost`: the staging disk did not keep all of it, and a request does not commit it either. `by_writer`: a writer
    failed, and a later job that writes there and ends well makes up for it.
    """

    why: str
    at: float
    lost: bool = False
    by_writer: bool = False


class TakenBack(msgspec.Struct, frozen=True):
    """A sealed tree that is in staging again: the name it had, and the reason why it was not committed, if any."""

    name: str
    error: str | None = None


class Staged(msgspec.Struct, frozen=True):
    """What lies in one staging directory. `quiet_s` is the time since the last change.

    `untouched`: it was filled from a version, or taken back, and nobody has changed anything, so it is not committed by
    itself. `held`: why it waits for a request, if it does. `reopened`: the sealed tree that it was. `writers`: those
    who wrote there and have not ended, such as ``cp (pid 4711)``. If nothing changes it is committed by itself in
    `commits_in_s`, and sooner when all who wrote have ended well; that is None where it waits for something else, which
    `waits_for` tells, and `on_request` when that is a request.
    """

    files: int
    size_bytes: int
    open_for_writing: int
    quiet_s: float
    untouched: bool = False
    held: Hold | None = None
    reopened: TakenBack | None = None
    writers: list[str] = msgspec.field(default_factory=list)
    commits_in_s: float | None = None
    waits_for: str = ""
    on_request: bool = False


class Pending(msgspec.Struct, frozen=True):
    """One sealed tree. Times are seconds since the epoch; `next_retry` is None unless the state is retrying.

    `automatic`: it was sealed by itself, and nobody has given it a message. While it is being committed,
    `done_bytes` are in the store, `bytes_s` more come there a second, and the rest takes `seconds_left`; both are None
    before that can be told.
    """

    name: str
    commit_id: str
    state: CommitState
    sealed_at: float
    files: int
    size_bytes: int
    done_bytes: int
    attempts: int
    error: str | None = None
    next_retry: float | None = None
    automatic: bool = False
    bytes_s: int | None = None
    seconds_left: float | None = None


class Finished(msgspec.Struct, frozen=True):
    """One commit that is over. `created` is False when the content was that of the version already there.

    `automatic` as in `Pending`; `message_recorded` is False when the version lacks the message that was asked for.
    """

    commit_id: str
    version: str | None
    created: bool
    files: int
    sent_bytes: int
    deduplicated_bytes: int
    seconds: float
    note: str = ""
    automatic: bool = False
    message_recorded: bool = True


class ArtifactState(msgspec.Struct, frozen=True):
    """What is staged, pending and lately finished for one artifact of this mount.

    Of very many pending trees the oldest and the newest are listed; `left_off` counts those between them. `problem`
    says why the rest may be incomplete or old: the disk of the staging area gives errors, or takes long to answer.
    """

    collection: str
    artifact: str
    staged: Staged | None = None
    pending: list[Pending] = msgspec.field(default_factory=list)
    finished: list[Finished] = msgspec.field(default_factory=list)
    left_off: int = 0
    problem: str | None = None


class Cache(msgspec.Struct, frozen=True):
    """The content cache of a mount, and what the mount has fetched into it.

    `used_bytes` is what the cache holds, as far as this mount knows; None before it has fetched anything.
    """

    directory: str
    limit_bytes: int
    used_bytes: int | None
    fetched_bytes: int
    requests: int


class Status(msgspec.Struct, frozen=True):
    """A whole mount. `cache` is None for a local store. `reads` tells how the driver gets bytes of versions
    to programs, `inodes` how many it holds for the kernel, a version counted as one; None where it cannot tell.

    `artifacts` lists those with something staged or pending; `left_off` counts what did not fit. `faults` are what
    does not work in the daemon at present, one line each.
    `made_store`: the store was not there, and this mount has made it.
    `on_failure`: ``commit`` where what a program leaves that failed is committed all the same.
    `waiting` tells, a line each, of what other mounts have staged in a local store, when no mount seems to have it.
    """

    store: str
    mountpoint: str
    pid: int
    driver: str
    program_version: str
    read_only: bool
    started_at: float
    commit_after_s: float | None
    drain_timeout_s: float
    refresh_s: float
    log_file: str | None
    staging_dir: str | None
    reachable: bool
    cache: Cache | None = None
    exclusive_create: str | None = None
    artifacts: list[ArtifactState] = msgspec.field(default_factory=list)
    left_off: int = 0
    reads: str = ""
    inodes: int | None = None
    faults: list[str] = msgspec.field(default_factory=list)
    waiting: list[str] = msgspec.field(default_factory=list)
    made_store: bool = False
    on_failure: str = "hold"


Message = TypeVar("Message", CommitRequest, ArtifactState, Status)


def printable(text: str) -> str:
    """Text of which every character can be written as UTF-8; bytes of a name that are none are shown as ``\\xff``."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def encode(message: CommitRequest | ArtifactState | Status) -> bytes:
    """The JSON an attribute carries; what is not UTF-8 in it is made `printable`."""
    try:
        return msgspec.json.encode(message)
    except UnicodeEncodeError:
        return msgspec.json.encode(_all_printable(msgspec.to_builtins(message)))


def _all_printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {name: _all_printable(each) for name, each in value.items()}
    return [_all_printable(each) for each in value] if isinstance(value, list) else value


def decode(raw: bytes, kind: type[Message]) -> Message:
    """Read it back. Raises msgspec.DecodeError (a ValueError) when `raw` is not such a message."""
    return msgspec.json.decode(raw, type=kind)
