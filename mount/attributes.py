"""The control surface as the drive answers it: extended attributes that tell the state and ask for actions.

`control` holds the names and the messages; here they meet the vfs. The attributes are not listed by listxattr(2), so
that programs which copy attributes along (cp -a, rsync -X, tar) carry none of them away. Safe from any thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import msgspec

from artifactfs import __version__, names
from artifactfs.errors import InvalidName
from artifactfs.redaction import redact
from mount import control
from mount.asking import ASKING
from mount.errors import AttributeUnsupported, NoSuchAttribute, NothingStaged, NotPermitted
from mount.settings import MAX_SECONDS
from mount.tree import Artifact, Node, Root, StagedNode, VersionNode

if TYPE_CHECKING:
    from artifactfs.managers.base import VersionInfo
    from mount.pending import PendingTree
    from mount.staging import ArtifactStaging
    from mount.vfs import Vfs

logger = logging.getLogger(__name__)

# How long a commit waits for files that a program has closed a moment ago: the kernel tells of it a little later.
WRITERS_WAIT_S = 2.0


def get(vfs: Vfs, node: Node, name: str) -> bytes:
    """The value of an attribute. Raises NoSuchAttribute, AttributeUnsupported."""
    if isinstance(node, Root) and name == control.STATUS:
        return _fitting(status(vfs))
    if name == control.DIGEST and isinstance(node, StagedNode):
        return _of_staged(node)
    if name == control.STATE and isinstance(node, (StagedNode, Artifact)) and vfs.area is not None:
        state = vfs.staging_of(node).describe(vfs.settings.commit_after_s)
        problem = state.problem and vfs.area.shown(state.problem)
        return control.encode(_shortened(msgspec.structs.replace(state, problem=problem)))
    if isinstance(node, StagedNode) and not node.path and name == control.COMMIT_AFTER:
        return _shown_commit_after(vfs, vfs.staging_of(node)).encode()
    if isinstance(node, VersionNode):
        value = _of_version(vfs, node, name)
        if value is not None:
            return value.encode()
    if not name.startswith("user."):
        raise AttributeUnsupported(name)
    raise NoSuchAttribute(f"no attribute {name}")


def _of_staged(node: StagedNode) -> bytes:
    """The digest of a staged file that still stands for bytes of a version; other staged files have none yet."""
    reference = node.tree.referred_entry(node.path) if node.path else None
    if reference is None or reference.digest is None:
        raise NoSuchAttribute("a staged file has no digest before it is committed")
    return reference.digest.encode()


def _of_version(vfs: Vfs, node: VersionNode, name: str) -> str | None:
    info = node.version.info
    if name == control.VERSION:
        return info.version
    if name == control.DIGEST:
        return info.digest if node.position is None else node.version.manifest[node.position].digest
    if node.path:
        return None
    if name == control.CREATED:
        return datetime.fromtimestamp(info.created_ns / 1e9, timezone.utc).isoformat()
    if name == control.MESSAGE:
        return vfs.listing.words(info).message
    if name == control.METADATA:
        return msgspec.json.encode(vfs.listing.words(info).metadata).decode()
    if name == control.ALIASES:
        aliases = vfs.listing.aliases(info.collection, info.artifact)
        return msgspec.json.encode(sorted(a for a, version in aliases.items() if version == info.version)).decode()
    return None


def act(vfs: Vfs, node: Node, name: str, value: bytes) -> None:
    """Do what writing an attribute asks for. Raises Busy, NothingStaged, NotPermitted, OSError."""
    action = _ACTIONS.get(name)
    if action is None:
        raise AttributeUnsupported(f"attribute {name} cannot be kept")
    if vfs.area is None or vfs.committer is None:
        raise NotPermitted("the mount is read-only")
    action(vfs, node, value)


def _controlled(vfs: Vfs, node: Node) -> ArtifactStaging:
    """The staging that an action on the node is about. Raises NotPermitted.

    Whoever may write to a file may set its attributes, so the kernel's check stands for the whole only where the
    attribute is that of the directory above it all.
    """
    if isinstance(node, StagedNode) and node.path:
        raise NotPermitted("only who may write to the top directory of staged files controls them: ask there")
    return vfs.staging_of(node)


def _commit(vfs: Vfs, node: Node, value: bytes) -> None:
    assert vfs.committer is not None
    staging, request = _controlled(vfs, node), _request(value)
    for alias in request.aliases:
        names.check_alias(alias)
    if isinstance(node, StagedNode) and node.pending is not None:
        staging.describe_as(_pending(staging, node.pending), request)
        return
    pending = staging.seal(request, WRITERS_WAIT_S)
    logger.info("sealed %s as %s on request", staging.label, pending.name)
    vfs.committer.wake()


def _pending(staging: ArtifactStaging, name: str) -> PendingTree:
    pending = staging.find_pending(name)
    if pending is None:
        raise NothingStaged(f"{name} of {staging.label} is gone")
    return pending


def _version(node: Node) -> VersionInfo:
    """The version that an action on the node is about. Raises NotPermitted."""
    if not isinstance(node, VersionNode) or node.path:
        raise NotPermitted("only a version has aliases, a message and metadata: ask at its top directory")
    return node.version.info


def _aliases(vfs: Vfs, node: Node, value: bytes) -> None:
    info = _version(node)
    try:
        wanted = msgspec.json.decode(value, type=list[str])
    except msgspec.DecodeError as error:
        raise InvalidName(f"not a list of aliases: {error}") from error
    for alias in wanted:
        vfs.manager.set_alias(info.artifact, alias, info.version, info.collection)
        logger.info("alias %s of %s/%s is %s on request", alias, info.collection, info.artifact, info.version)
    vfs.listing.forget(info.collection, info.artifact)


def _message(vfs: Vfs, node: Node, value: bytes) -> None:
    info = _version(node)
    try:
        _annotate(vfs, info, message=value.decode())
    except UnicodeDecodeError as error:
        raise InvalidName(f"not a message: {error}") from error
    # Nothing can be staged for an artifact whose name breaks the rules.
    with contextlib.suppress(NotPermitted):
        vfs.staging_of(Artifact(info.collection, info.artifact)).note_message(info.version)


def _metadata(vfs: Vfs, node: Node, value: bytes) -> None:
    info = _version(node)
    try:
        metadata = msgspec.json.decode(value, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidName(f"not a JSON object: {error}") from error
    _annotate(vfs, info, metadata=metadata)


def _annotate(vfs: Vfs, info: VersionInfo, **said: Any) -> None:
    vfs.listing.learn_words(vfs.manager.annotate(info.artifact, info.version, info.collection, **said))
    logger.info("%s/%s@%s has another %s on request", info.collection, info.artifact, info.version, *said)


def _discard(vfs: Vfs, node: Node, _value: bytes) -> None:
    assert vfs.committer is not None
    staging = _controlled(vfs, node)
    if isinstance(node, StagedNode) and node.pending is not None:
        vfs.committer.discard(staging, _pending(staging, node.pending))
        return
    files = staging.discard_staged()
    logger.info("discarded %d staged files of %s", files, staging.label)
    vfs.committer.wake()


def _retry(vfs: Vfs, node: Node, _value: bytes) -> None:
    assert vfs.committer is not None
    staging = _controlled(vfs, node)
    vfs.committer.retry(staging, _waiting(staging, node, "tried again"))


def _reopen(vfs: Vfs, node: Node, _value: bytes) -> None:
    assert vfs.committer is not None
    staging = _controlled(vfs, node)
    vfs.committer.reopen(staging, _waiting(staging, node, "taken back"))


def _waiting(staging: ArtifactStaging, node: Node, to_be: str) -> PendingTree:
    """The sealed tree that a node is the top of. Raises NothingStaged, which names what it was `to_be`."""
    pending = staging.find_pending(node.pending) if isinstance(node, StagedNode) and node.pending else None
    if pending is None:
        raise NothingStaged(f"nothing of {staging.label} waits there to be {to_be}")
    return pending


def _stage(vfs: Vfs, node: Node, value: bytes) -> None:
    staging = _controlled(vfs, node)
    loaded = vfs.version_of(staging.collection, staging.artifact, os.fsdecode(value) or "latest")
    staging.stage(loaded)
    logger.info("staged %s of %s by reference", loaded.info.version, staging.label)


def _commit_after(vfs: Vfs, node: Node, value: bytes) -> None:
    staging = _controlled(vfs, node)
    try:
        seconds = None if value in (b"never", b"") else float(value)
    except ValueError:
        seconds = -1.0
    if seconds is not None and not 0 <= seconds <= MAX_SECONDS:
        raise InvalidName(f"{control.COMMIT_AFTER} is 'never' or seconds >= 0, got {os.fsdecode(value)!r}")
    staging.tell_commit_after(seconds, forget=not value)
    logger.info("%s is committed after %s", staging.label, _shown_commit_after(vfs, staging))


def _shown_commit_after(vfs: Vfs, staging: ArtifactStaging) -> str:
    seconds = staging.commit_after_s(vfs.settings.commit_after_s)
    return "never" if seconds is None else f"{seconds:g}"


def _run(vfs: Vfs, node: Node, _value: bytes) -> None:
    staging = _controlled(vfs, node)
    if not ASKING.thread or not staging.wait_for_commit_of(ASKING.thread):
        raise NotPermitted("a process that the drive cannot see, as of another container, cannot be waited for")
    logger.info("%s is committed by a process that asked to do so", staging.label)


def _drain(vfs: Vfs, node: Node, _value: bytes) -> None:
    assert vfs.area is not None
    assert vfs.committer is not None
    if not isinstance(node, Root):
        raise NotPermitted("a drain is asked for at the top of the mount")
    vfs.committer.seal_all(WRITERS_WAIT_S)


def _leave(vfs: Vfs, node: Node, value: bytes) -> None:
    assert vfs.committer is not None
    if not isinstance(node, Root):
        raise NotPermitted("leaving is asked for at the top of the mount")
    vfs.committer.leave(is_meant=value != b"0")


_ACTIONS: dict[str, Callable[[Vfs, Node, bytes], None]] = {
    control.COMMIT: _commit,
    control.ALIASES: _aliases,
    control.MESSAGE: _message,
    control.METADATA: _metadata,
    control.DISCARD: _discard,
    control.RETRY: _retry,
    control.REOPEN: _reopen,
    control.STAGE: _stage,
    control.COMMIT_AFTER: _commit_after,
    control.RUN: _run,
    control.DRAIN: _drain,
    control.LEAVE: _leave,
}


def _request(value: bytes) -> control.CommitRequest:
    try:
        return control.decode(value or b"{}", control.CommitRequest)
    except msgspec.DecodeError as error:
        raise InvalidName(f"not a commit request: {error}") from error


def status(vfs: Vfs) -> control.Status:
    """The whole mount."""
    settings = vfs.settings
    return control.Status(
        store=redact(settings.url),
        mountpoint=str(settings.mountpoint),
        pid=os.getpid(),
        driver=vfs.driver,
        program_version=__version__,
        read_only=settings.read_only,
        started_at=vfs.started_at,
        commit_after_s=settings.commit_after_s,
        drain_timeout_s=settings.drain_timeout_s,
        refresh_s=settings.refresh_s,
        log_file=str(vfs.log_file) if vfs.log_file else None,
        staging_dir=str(vfs.area.place) if vfs.area else None,
        reachable=vfs.listing.reachable,
        cache=vfs.reader.describe_cache(),
        exclusive_create=vfs.manager.exclusive_create,
        reads=vfs.reads,
        inodes=vfs.count_inodes(),
        artifacts=[_shortened(state) for state in vfs.states.all()] if vfs.states else [],
        faults=[*vfs.faults.present(), *_shortage(vfs)],
        waiting=vfs.area.waiting() if vfs.area else [],
        made_store=vfs.manager.made_store,
        on_failure=settings.on_failure,
    )


def _shortage(vfs: Vfs) -> list[str]:
    try:
        shortage = vfs.area.room.shortage(vfs.area.place) if vfs.area else None
    except OSError:
        # Who stages is told.
        return []
    return [shortage] if shortage else []


def _shortened(whole: control.ArtifactState) -> control.ArtifactState:
    """The state of an artifact, with pending trees from the middle left off until it takes half an attribute."""
    state, shown = whole, len(whole.pending)
    while shown > 2 and len(control.encode(state)) > control.MAX_VALUE_BYTES // 2:
        shown //= 2
        pending = whole.pending[: shown - shown // 2] + whole.pending[-(shown // 2) :]
        state = msgspec.structs.replace(whole, pending=pending, left_off=len(whole.pending) - len(pending))
    return state


def _fitting(whole: control.Status) -> bytes:
    """The status as JSON, with artifacts left off at the end until it fits into one attribute."""
    value = control.encode(whole)
    artifacts = whole.artifacts
    while len(value) > control.MAX_VALUE_BYTES:
        artifacts = artifacts[: len(artifacts) // 2]
        left_off = len(whole.artifacts) - len(artifacts)
        value = control.encode(msgspec.structs.replace(whole, artifacts=artifacts, left_off=left_off))
    return value
