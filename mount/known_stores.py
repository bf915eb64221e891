"""The local stores that a state directory has seen mounted, so that one whose disk is away is not begun anew.

Where a disk is not mounted there is an empty directory, or none. What is committed to a store that was begun there
would be missing from the one that is meant. So each mount of a local store leaves a note of its path and its id, and
one that finds a note and no store is refused.

    <state-dir>/stores/<hash of the path>.json      `Known`

Who writes to a store without mounting it (`artifactfs put`, Python) has no state directory, and begins one where none
is. Threading: no state in memory; a note is replaced as a whole.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import msgspec

from artifactfs import durable
from artifactfs.beneath import open_regular
from artifactfs.errors import StoreUnreachable
from artifactfs.managers.base import ArtifactManager
from mount import wire

logger = logging.getLogger(__name__)

_MAX_NOTE_BYTES = 65536


class Known(msgspec.Struct, frozen=True):
    """The store that lay at a path; `id` is None in squirrel's layout, which has none."""

    path: str
    id: str | None


def check(state_dir: Path, manager: ArtifactManager) -> None:
    """Raises StoreUnreachable when a local store was mounted from its path before and none is there now.

    Raises as `ArtifactManager.is_made`.
    """
    place = _place(manager)
    known = None if place is None else _read(_note_file(state_dir, place))
    if known is None or manager.is_made() is not False:
        return
    which = "a store in squirrel's layout" if known.id is None else f"the store {known.id}"
    raise StoreUnreachable(
        f"{known.path} held {which} when it was last mounted, and holds no store now: mount its disk there, or remove "
        f"{_note_file(state_dir, known.path)} if a new store is to be begun"
    )


def remember(state_dir: Path, manager: ArtifactManager) -> None:
    """Note which store lies at a path. A note that cannot be written is told to the log."""
    place = _place(manager)
    if place is None or not manager.is_made():
        return
    now = Known(place, manager.store_id)
    note = _note_file(state_dir, place)
    before = _read(note)
    if before == now:
        return
    if before is not None:
        logger.info("%s holds another store than when it was last mounted: %s, not %s", place, now.id, before.id)
    try:
        note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        durable.replace(note, wire.encode(now))
    except OSError as error:
        logger.warning("cannot note which store lies at %s: %s", place, error)


def _place(manager: ArtifactManager) -> str | None:
    root = manager.local_root
    return None if root is None else os.path.realpath(root)


def _note_file(state_dir: Path, place: str) -> Path:
    return state_dir / "stores" / f"{hashlib.sha256(os.fsencode(place)).hexdigest()[:32]}.json"


def _read(note: Path) -> Known | None:
    # One that is not ours to read, or of a version with other fields, tells as little as a missing one.
    try:
        with open(open_regular(os.fspath(note)), "rb") as file:
            return wire.decode(file.read(_MAX_NOTE_BYTES), Known)
    except (OSError, msgspec.DecodeError):
        return None
