"""A sealed tree on its way to a version, and the record that says how far it is.

The record, ``commit.json``, is written before the tree is sealed and whenever an attempt has failed; it is what the
next daemon goes by. Neighbours: `staging` makes and removes sealed trees, the committer moves them on.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from artifactfs import durable
from mount import wire
from mount.control import CommitState, Pending
from mount.rate import Rate
from mount.staged_tree import StagedTree

IGNORED = "ignored"
"""What C9 leaves out of the version lies in a directory of that name beside the tree until the tree is removed."""


class SealRecord(msgspec.Struct):
    """``commit.json``: what is known of a sealed tree. Times are seconds since the epoch."""

    commit_id: str
    sealed_at: float
    message: str = ""
    aliases: list[str] = []
    state: CommitState = CommitState.SEALED
    attempts: int = 0
    error: str | None = None
    version: str | None = None
    automatic: bool = False


class PendingTree:
    """A sealed tree on its way to a version.

    While it is being committed its record belongs to the committer's one thread for it; else to the artifact's lock.
    """

    def __init__(self, directory: Path, tree: StagedTree, record: SealRecord, *, recovered: bool = False) -> None:
        """`recovered`: an earlier daemon sealed it, and may have tried to commit it."""
        self.directory = directory
        self.tree = tree
        self.record = record
        self._recovered = recovered
        self._done_bytes = 0
        self._rate = Rate()
        self._retry_at_s: float | None = None

    @property
    def name(self) -> str:
        """``pending.3``."""
        return self.directory.name

    @property
    def number(self) -> int:
        """3 for ``pending.3``; the order of commits."""
        return int(self.name.rpartition(".")[2])

    @property
    def was_tried(self) -> bool:
        """Tell whether an attempt to commit it may have begun, here or in an earlier daemon."""
        return self._recovered or self.record.attempts > 0

    def retry_after(self, delay_s: float | None) -> None:
        """Note when to try again; None for no wait. A clock that is set, back or forward, does not move that moment."""
        self._retry_at_s = None if delay_s is None else time.monotonic() + delay_s

    @property
    def retry_in_s(self) -> float | None:
        """Seconds until the next try, None when it waits for no time."""
        return None if self._retry_at_s is None else max(0.0, self._retry_at_s - time.monotonic())

    def begin(self) -> None:
        """An attempt to commit it begins."""
        self._done_bytes = 0
        self._rate.begin(time.monotonic())

    def moved(self, done_bytes: int) -> None:
        """So many bytes of it are in the store by now. Called from any thread."""
        self._done_bytes = done_bytes
        self._rate.note(done_bytes, time.monotonic())

    def save(self) -> None:
        """Make the record durable. Raises OSError."""
        durable.replace(self.directory / "commit.json", wire.encode(self.record))

    def describe(self, waits_for: str | None = None) -> Pending:
        """For the control surface. `waits_for` names the tree before it that is in staging again."""
        files, size_bytes = self.tree.usage()
        r, retry_in_s = self.record, self.retry_in_s
        state, error = r.state, r.error
        if waits_for is not None:
            state, error = CommitState.BLOCKED, f"{waits_for} is in staging again: commit or discard that first"
        bytes_s = seconds_left = None
        if r.state is CommitState.COMMITTING:
            now_s = time.monotonic()
            bytes_s, seconds_left = self._rate.bytes_s(now_s), self._rate.seconds_left(size_bytes, now_s)
        return Pending(
            self.name,
            r.commit_id,
            state,
            r.sealed_at,
            files,
            size_bytes,
            self._done_bytes,
            r.attempts,
            error,
            None if retry_in_s is None else time.time() + retry_in_s,
            r.automatic,
            None if bytes_s is None else round(bytes_s),
            None if seconds_left is None else round(seconds_left, 1),
        )
