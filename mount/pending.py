"""A sealed tree on its way to a version, and the record that says how far it is.

The record, ``commit.json``, is written before the tree is sealed and whenever an attempt has failed; it is what the
next daemon goes by. Neighbours: `staging` makes and removes sealed trees, the committer moves them on.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from artifactfs import durable
from mount.control import CommitState, Pending
from mount.staged_tree import StagedTree


class SealRecord(msgspec.Struct):
    """``commit.json``: what is known of a sealed tree. Times are seconds since the epoch."""

    commit_id: str
    sealed_at: float
    message: str = ""
    aliases: list[str] = []
    state: CommitState = CommitState.SEALED
    attempts: int = 0
    error: str | None = None
    next_retry: float | None = None
    version: str | None = None
    automatic: bool = False


class PendingTree:
    """A sealed tree on its way to a version.

    While it is being committed its record belongs to the committer's one thread for it; else to the artifact's lock.
    """

    def __init__(self, directory: Path, tree: StagedTree, record: SealRecord) -> None:
        self.directory = directory
        self.tree = tree
        self.record = record
        self.done_bytes = 0

    @property
    def name(self) -> str:
        """``pending.3``."""
        return self.directory.name

    @property
    def number(self) -> int:
        """3 for ``pending.3``; the order of commits."""
        return int(self.name.rpartition(".")[2])

    def save(self) -> None:
        """Make the record durable. Raises OSError."""
        durable.replace(self.directory / "commit.json", msgspec.json.encode(self.record))

    def describe(self) -> Pending:
        """For the control surface."""
        files, size_bytes = self.tree.usage()
        r = self.record
        return Pending(
            self.name,
            r.commit_id,
            r.state,
            r.sealed_at,
            files,
            size_bytes,
            self.done_bytes,
            r.attempts,
            r.error,
            r.next_retry,
            r.automatic,
        )
