"""The hold on what one artifact has staged: why it is not committed by itself, over remounts too.

Three things hold: the staging disk, when it tells that it did not keep what was written; the machine, when it went down
before all of it was on disk; and a writer that failed (see `writers`). The first is for good: not even a request
commits. A writer's failure is made up for by a later job that ends well.

Neighbours: `staging` tells what happens, and asks `StagedTree.held` before it seals. Threading: safe from any thread;
`_lock` keeps what a tree is told and what is on disk alike. It is a leaf, held while one small file is written.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from artifactfs import durable
from mount.control import Hold, printable
from mount.endings import Watched
from mount.staged_tree import StagedTree

logger = logging.getLogger(__name__)

HELD = "held"
"""The name of the mark, beside the staging directory."""


class Holding:
    """See the module docstring."""

    def __init__(self, directory: Path, label: str, *, by_writers: bool) -> None:
        """`by_writers`: a writer that fails holds what is staged."""
        self._mark = directory / HELD
        self._label = label
        self._by_writers = by_writers
        self._lock = threading.Lock()

    def recover(self, tree: StagedTree, *, interrupted: bool, unseen: list[str]) -> None:
        """Hold what an earlier daemon held, and what it left when it was interrupted. Raises OSError.

        `interrupted`: the machine went down. `unseen`: writers that ended while no daemon ran.
        """
        try:
            tree.held = msgspec.json.decode(self._mark.read_bytes(), type=Hold)
        except FileNotFoundError:
            tree.held = None if tree.writers is None else tree.writers.noted_hold()
            if tree.held is None and interrupted:
                self._hold(tree, Hold("the machine went down before all of it was on disk", time.time()))
            elif tree.held is None and unseen:
                self.failed(tree, f"the drive ended while {', '.join(unseen[:3])} wrote there")
        except msgspec.DecodeError as error:
            tree.held = Hold(f"the note of why it is held is damaged: {error}", time.time(), lost=True)
        if tree.held is not None and tree.writers is not None:
            tree.writers.held()

    def lost(self, tree: StagedTree, error: OSError) -> None:
        """A sync has told that not all of it is on disk.

        Programs may still see it all in memory, and a sync that succeeds now proves nothing. So it waits, over remounts
        too, until it is discarded or its last file is removed.
        """
        held = tree.held
        if (held is None or not held.lost) and not tree.is_empty():
            reason = error.strerror or type(error).__name__
            self._hold(tree, Hold(f"the staging disk did not keep all of it: {reason}", time.time(), lost=True))

    def failed(self, tree: StagedTree, why: str) -> None:
        """A writer has failed, so that what is staged may be incomplete, or what its job goes on to write."""
        if not self._by_writers:
            logger.info("what is staged for %s is not held, as was asked for: %s", self._label, why)
            return
        if tree.writers is not None:
            tree.writers.held()
        if tree.held is None:
            self._hold(tree, Hold(printable(why), time.time(), by_writer=True), first_on_disk=True)

    def made_up_for(self, tree: StagedTree, process: Watched) -> None:
        """A later job has ended well: a writer's failure holds no longer. Raises OSError."""
        with self._lock:
            was_held = tree.held is not None
            if tree.held is not None and not tree.held.by_writer:
                return
            self._mark.unlink(missing_ok=True)
            tree.held = None
        if tree.writers is not None:
            tree.writers.released()
        if was_held:
            logger.info(
                "what is staged for %s is not held any more: %s wrote there since, and ended well", self._label, process
            )

    def _hold(self, tree: StagedTree, hold: Hold, *, first_on_disk: bool = False) -> None:
        """`first_on_disk`: what is told is sure to be kept; until then something else keeps it from being committed."""
        with self._lock:
            if not first_on_disk:
                tree.held = hold
            try:
                durable.replace(self._mark, msgspec.json.encode(hold))
            except OSError as unsaved:
                self._note_otherwise(tree, hold, unsaved)
            tree.held = hold
            self._tell(hold)

    def _note_otherwise(self, tree: StagedTree, hold: Hold, unsaved: OSError) -> None:
        """Note a hold for which the disk has no room in the note of the writers, which is there already."""
        try:
            if tree.writers is None:
                raise unsaved
            tree.writers.note_hold(hold)
        except OSError as error:
            # While nothing is staged, nothing could be committed at the next mount.
            level = logging.INFO if _is_surely_empty(tree) else logging.ERROR
            logger.log(level, "cannot note on disk that what is staged for %s is held: %s", self._label, error)

    def _tell(self, hold: Hold) -> None:
        # Of its own disk the drive tells an error; that a program failed is that program's.
        level = logging.INFO if hold.by_writer else logging.ERROR
        logger.log(level, "what is staged for %s is held: %s", self._label, hold.why)

    @contextmanager
    def taking(self, tree: StagedTree, hold: Hold) -> Iterator[None]:
        """Hold what is staged for the reason for which a file was held that the body moves here.

        It is on disk before that, and taken back when the body fails. Call with the artifact's lock held. Raises
        OSError.
        """
        before = tree.held
        if before is not None and (before.lost or not hold.lost):
            yield
            return
        with self._lock:
            durable.replace(self._mark, msgspec.json.encode(hold))
        try:
            yield
        except BaseException:
            with self._lock:
                if before is None:
                    self._mark.unlink(missing_ok=True)
                else:
                    durable.replace(self._mark, msgspec.json.encode(before))
            raise
        tree.held = hold
        self._tell(hold)


def _is_surely_empty(tree: StagedTree) -> bool:
    try:
        return tree.is_empty()
    except OSError:
        # Where no more files can be opened, say.
        return False
