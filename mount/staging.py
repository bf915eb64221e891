"""The staging of one artifact: the files people write, on disk, until they are a version.

On disk, below the artifact's directory in the staging area::

    staging/            the writable tree
    untouched           staging was filled from a version, and nobody has changed anything since
    held                what is staged is not committed by itself, and why (`control.Hold`)
    reopened            staging is a sealed tree that was taken back (`reopening`)
    writers             who has written to staging and not ended yet (`watched_writers`)
    commit-after        how long this artifact's staging must be quiet, where it was told (`control.COMMIT_AFTER`)
    pending.<n>/        a sealed tree: commit.json and tree/, and what is left out of the version in ignored/
    .discarded.<n>/     a tree that is not staging yet, or not any more

Sealing writes ``commit.json`` first, puts all that is staged on disk, and then renames ``staging`` to
``pending.<n>/tree``: the rename is the moment. A ``pending.<n>`` without ``tree`` is a seal that did not happen and is
removed at the next start. So what has been written is at every moment in exactly one place, whatever dies.

Neighbours: `area` finds and makes these, the vfs reads and writes trees, the committer seals them and takes them away.
Threading: safe from any thread. Lock order: `ArtifactStaging.lock` (also the lock of its trees) → `StagingArea._lock` →
`StagingArea._dirty_lock`, `Holding._lock`, `Watch._lock`, which are leaves. None is held across a backend call, only
across system calls on the local disk.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec

from artifactfs import durable
from artifactfs.longpaths import remove_tree
from artifactfs.managers.commit_id import new_commit_id
from artifactfs.names import PENDING_PREFIX, STAGING
from mount import reopening, wire
from mount.areas import check_artifact
from mount.control import ArtifactState, CommitRequest, CommitState, Finished, Staged, TakenBack
from mount.endings import Ending, Watch, Watched
from mount.errors import Busy, Held, NothingStaged, NotPermitted, StagingNotEmpty
from mount.faults import reason_of
from mount.handles import VersionReader
from mount.holding import HELD, Holding
from mount.ignore import put_back
from mount.pending import IGNORED, PendingTree, SealRecord
from mount.references import References
from mount.reopening import REOPENED, Reopened
from mount.room import DiskRoom
from mount.staged_tree import StagedTree
from mount.tree import LoadedVersion
from mount.waits import wait_of
from mount.watched_writers import WatchedWriters

logger = logging.getLogger(__name__)

Sync = Callable[[], None]
OnDirty = Callable[["ArtifactStaging"], None]

# Beside an artifact's staging directory; see the module docstring.
UNTOUCHED = "untouched"
TRASH = ".discarded"
WRITERS = "writers"
COMMIT_AFTER = "commit-after"

# Between the steps of a save (close, rename, chmod, utimens) a program does nothing for microseconds; on a busy machine
# it may have to wait for its turn. A commit on request seals no sooner after the last change.
SETTLE_S = 0.05
# How long a request waits for such a moment when it was not told how long.
_SETTLE_WAIT_S = 1.0

_REMEMBERED_RESULTS = 64
_MOST_WRITERS = 8
_NOT_TOLD = -1.0
_SYNC_ROUNDS = 3


class ArtifactStaging:
    """What one artifact has staged and pending."""

    def __init__(
        self,
        directory: Path,
        collection: str,
        artifact: str,
        on_dirty: OnDirty,
        room: DiskRoom,
        reader: VersionReader,
        sync: Sync,
        watch: Watch,
        *,
        failures_hold: bool = True,
    ) -> None:
        """`sync` puts the whole staging disk on disk; when it fails it calls `hold_lost` of every artifact.

        `failures_hold`: what a writer that fails leaves is not committed by itself.
        """
        self.directory = directory
        self.collection = collection
        self.artifact = artifact
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self._sealing = threading.Lock()
        self._on_dirty = on_dirty
        self._room = room
        self._sync = sync
        self._references = References(reader)
        self._watch = watch
        self._failures_hold = failures_hold
        self._holding = Holding(directory, self.label, by_writers=failures_hold)
        self._commit_after: float | None = _NOT_TOLD
        self.staged = self._new_tree()
        self.pending: list[PendingTree] = []
        self.reopened: Reopened | None = None
        """The sealed tree that staging was, if it was taken back."""
        self.finished: deque[Finished] = deque(maxlen=_REMEMBERED_RESULTS)
        self._is_recovered = True
        self._was_interrupted = False

    @property
    def label(self) -> str:
        """``collection/artifact``, for messages."""
        return f"{self.collection}/{self.artifact}"

    @property
    def sealing(self) -> str:
        """The name of a fault of sealing it."""
        return f"sealing {self.label}"

    @property
    def committing(self) -> str:
        """The name of a fault of committing it."""
        return f"committing {self.label}"

    def expect_leftovers(self, *, interrupted: bool) -> None:
        """An earlier daemon may have left something: `recover` is to read it back.

        `interrupted`: the machine went down while that daemon ran, and what it had staged may be on disk in part only.
        """
        self._is_recovered = False
        self._was_interrupted = interrupted

    def recover(self) -> None:
        """Read back what an earlier daemon left, unless that is done.

        Raises OSError, and then it is to be called again; AreaRefused when something else is in the place of a tree.
        """
        if self._is_recovered:
            return
        self._on_dirty(self)
        check_artifact(self.directory)
        reopened = reopening.recovered(self.directory, is_empty=self.staged.is_empty())
        for trash in self.directory.glob(f"{TRASH}.*"):
            remove_tree(trash)
        durable.remove_leftovers(self.directory)
        found = []
        for directory in sorted(
            self.directory.glob(f"{PENDING_PREFIX}.*"), key=lambda p: int(p.name.rpartition(".")[2])
        ):
            record = self._recovered_record(directory)
            if record is None:
                remove_tree(directory)
            else:
                found.append(PendingTree(directory, self._sealed_tree(directory), record, recovered=True))
        self._recover_hold()
        self._commit_after = self._recovered_commit_after()
        is_staged = not self.staged.is_empty() and not self.is_untouched
        with self.lock:
            if not self._is_recovered:
                self.pending[:0] = found
                self.reopened = reopened
                self._is_recovered = True
        if is_staged:
            self.staged.touch()

    def _recovered_commit_after(self) -> float | None:
        try:
            return msgspec.json.decode((self.directory / COMMIT_AFTER).read_bytes(), type=float | None)
        except FileNotFoundError:
            return _NOT_TOLD

    def _recovered_record(self, directory: Path) -> SealRecord | None:
        """The record of a sealed tree; None when there is nothing to commit in it (any more)."""
        if not (directory / "tree").is_dir():
            return None
        try:
            record = wire.decode((directory / "commit.json").read_bytes(), SealRecord)
        except (FileNotFoundError, msgspec.DecodeError):
            # Cannot happen by a crash (the record is durable before the tree is moved), but the files matter most.
            record = SealRecord(new_commit_id(), time.time())
        if record.state is CommitState.COMMITTED:
            return None
        record.state = CommitState.SEALED
        return record

    def _recover_hold(self) -> None:
        staged = self.staged
        if staged.is_empty():
            self._forget_marks()
            return
        unseen = staged.writers.recover() if staged.writers is not None else []
        is_changed = not self.is_untouched
        self._holding.recover(
            staged, interrupted=self._was_interrupted and is_changed, unseen=unseen if is_changed else []
        )

    def _new_tree(self) -> StagedTree:
        writers = (
            WatchedWriters(self.directory / WRITERS, self._watch, self.changed, self.writer_ended)
            if self.collection
            else None
        )
        return StagedTree(
            self.directory / STAGING,
            self.changed,
            self._note_touched,
            self._room,
            self._references,
            self.hold_lost,
            lambda hold: self._holding.taking(self.staged, hold),
            writers,
            lambda why: self._holding.failed(self.staged, why),
        )

    def _sealed_tree(self, directory: Path) -> StagedTree:
        return StagedTree(
            directory / "tree",
            self.changed,
            _nothing,
            self._room,
            self._references,
            _nothing,
            nullcontext,
            None,
            _nothing,
            sealed=True,
        )

    def _note_touched(self) -> None:
        (self.directory / UNTOUCHED).unlink(missing_ok=True)
        self._on_dirty(self)

    def hold_lost(self, error: OSError) -> None:
        """Commit nothing of what is staged: see `Holding.lost`. No lock is taken: who finds out may hold another's."""
        self._holding.lost(self.staged, error)

    def wait_for_commit_of(self, thread: int) -> bool:
        """Commit nothing by itself while the process of `thread` lives; False when it cannot be seen.

        Raises Busy while another process is waited for: it would find what it wrote committed by this one.
        """
        with self.lock:
            writers = self.staged.writers
            if writers is not None and writers.waits_for_commit:
                raise Busy(f"another program commits {self.label} itself")
            return writers is not None and writers.commits_itself(thread)

    def writer_ended(self, process: Watched, ending: Ending) -> None:
        """A process has ended that may have written here. Raises OSError."""
        with self.lock:
            staged = self.staged
            if staged.writers is None:
                return
            failure = staged.writer_ended(process, ending)
            is_made_up_for = failure is None and ending.went_well and staged.writers.releases(process)
        # What follows is put on disk, which no other request need wait for.
        if failure is not None:
            self._holding.failed(staged, failure)
        elif is_made_up_for:
            self._holding.made_up_for(staged, process)
        staged.writers.note_end(process)
        self._on_dirty(self)

    def commit_after_s(self, otherwise: float | None) -> float | None:
        """The quiet time before it is committed by itself; None: it is not. `otherwise` where nobody told."""
        return otherwise if self._commit_after == _NOT_TOLD else self._commit_after

    def tell_commit_after(self, seconds: float | None, *, forget: bool = False) -> None:
        """Set what `commit_after_s` returns, over remounts too, or forget what was set. Raises OSError."""
        place = self.directory / COMMIT_AFTER
        with self.lock:
            if forget:
                place.unlink(missing_ok=True)
            else:
                self.directory.mkdir(parents=True, exist_ok=True)
                durable.replace(place, msgspec.json.encode(seconds))
            self._commit_after = _NOT_TOLD if forget else seconds
        self._on_dirty(self)

    @property
    def is_untouched(self) -> bool:
        """Whether staging was filled from a version and nobody changed anything since: there is nothing to commit."""
        return (self.directory / UNTOUCHED).exists()

    def stage(self, loaded: LoadedVersion) -> None:
        """Fill the empty staging from a version, by reference.

        Raises Busy when something is staged, OSError (a disk without extended attributes: ENOTSUP).
        """
        with self._sealing:
            if not self.staged.is_empty():
                raise Busy(f"{self.label} has something staged: commit or discard it first")
            aside = self.directory / f"{TRASH}.{time.monotonic_ns()}"
            self.directory.mkdir(parents=True, exist_ok=True)
            try:
                self._references.fill(aside, loaded)
                durable.replace(self.directory / UNTOUCHED, b"")
                with self.lock:
                    self._replace_staged(aside)
                self._on_dirty(self)
            finally:
                if aside.exists():
                    remove_tree(aside)

    def _replace_staged(self, aside: Path) -> None:
        if not self.staged.is_empty():
            raise Busy(f"{self.label} is being written to")
        # An empty directory gives way to the full one in one step.
        os.rename(aside, self.directory / STAGING)
        self.staged = self._new_tree()

    def seal(
        self,
        request: CommitRequest,
        wait_s: float = 0.0,
        is_due: Callable[[], bool] = lambda: True,
        *,
        automatic: bool = False,
    ) -> PendingTree:
        """Set what is staged aside for committing and start an empty staging.

        Waits up to `wait_s` for files open for writing to be closed. At the moment of the rename nothing may have
        changed for `SETTLE_S`, so that a save in several steps is not cut in two, and `is_due`, which is asked with the
        lock held, must be true. A forced seal waits for neither. `automatic`: nobody asked for it.
        Raises Busy when files are open or were changed, NothingStaged, OSError (the disk).
        """
        with self._sealing:
            sealed = self._repeated(request)
            if sealed is not None:
                return sealed
            if self.staged.is_empty():
                raise NothingStaged(f"nothing is staged for {self.label}")
            self._refuse_held(automatic)
            if not request.force:
                self._wait_for_writers(wait_s)
                self._settle(max(wait_s, _SETTLE_WAIT_S))
            number, record = self._seal_record(request, automatic)
            directory = self.directory / f"{PENDING_PREFIX}.{number}"
            # That of a tree that was taken back may be left.
            directory.mkdir(exist_ok=True)
            pending = PendingTree(directory, self.staged, record)
            try:
                pending.save()
                synced_ns = self._sync_staged()
                with self.lock:
                    self._move_staged(pending, is_due, synced_ns, force=request.force)
            except BaseException:
                if not (directory / "tree").exists():
                    remove_tree(directory)
                raise
            durable.sync_directory(directory)
            durable.sync_directory(self.directory)
            self._on_dirty(self)
            return pending

    def _seal_record(self, request: CommitRequest, automatic: bool) -> tuple[int, SealRecord]:
        """The number of the tree that staging is to be, and its record: a tree that was taken back keeps its turn."""
        before = self.reopened
        record = SealRecord(
            request.commit_id or new_commit_id(),
            time.time(),
            request.message,
            list(request.aliases),
            automatic=automatic,
        )
        if before is None:
            return max([p.number for p in self.pending], default=0) + 1, record
        record.message = request.message or before.message
        record.aliases = list(dict.fromkeys([*before.aliases, *request.aliases]))
        record.automatic = automatic and before.automatic
        return before.number, record

    def _repeated(self, request: CommitRequest) -> PendingTree | None:
        """The tree sealed before under the same commit id: a request may be sent twice."""
        return next((p for p in self.pending if request.commit_id and p.record.commit_id == request.commit_id), None)

    def _wait_for_writers(self, wait_s: float) -> None:
        deadline = time.monotonic() + wait_s
        with self.lock:
            while names := self.staged.open_for_writing():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Busy(f"{len(names)} files of {self.label} are open for writing, such as {names[0]}")
                self.changed.wait(left)

    def _settle(self, wait_s: float) -> None:
        """Wait until nothing has changed for `SETTLE_S`."""
        deadline = time.monotonic() + wait_s
        while (left := SETTLE_S - self.staged.quiet_s) > 0:
            left_to_wait = deadline - time.monotonic()
            if left_to_wait <= 0:
                raise Busy(f"{self.label} is being changed")
            time.sleep(min(left, left_to_wait))

    def _refuse_held(self, automatic: bool) -> None:
        held, writers = self.staged.held, self.staged.writers
        # A failure that is known, and about to be put on disk.
        is_failing = self._failures_hold and writers is not None and writers.have_failed
        if automatic and (is_failing or (held is not None and not held.lost)):
            raise Busy(f"what is staged for {self.label} is held")
        if held is not None and held.lost:
            raise Held(
                f"what is staged for {self.label} is held: {held.why}; copy what is whole to another place, discard "
                "what is staged, and copy it back"
            )

    def _sync_staged(self) -> int:
        """Put the staged files on disk while writers go on; what changes meanwhile is caught by another round.

        Returns the time of the last change that is on disk for certain.
        """
        for _ in range(_SYNC_ROUNDS):
            before = self.staged.last_change_ns
            self._sync()
            if self.staged.last_change_ns == before:
                break
        return before

    def _move_staged(self, pending: PendingTree, is_due: Callable[[], bool], synced_ns: int, *, force: bool) -> None:
        """The rename. Called with the lock held, so that no operation falls between the two trees."""
        if not force:
            self._wait_for_writers(0)
            if self.staged.quiet_s < SETTLE_S or not is_due():
                raise Busy(f"{self.label} is being changed")
        if self.staged.is_empty():
            raise NothingStaged(f"nothing is staged for {self.label}")
        staged = self.staged
        # What may fail for want of room, and all that puts bytes on disk, comes before the rename.
        files = staged.copy_open(pending.directory) if force else None
        if staged.last_change_ns != synced_ns or (files is not None and files.copies):
            self._sync()
        self._refuse_held(pending.record.automatic)
        staged.move(pending.directory / "tree")
        self._forget_marks()
        self.staged = self._new_tree()
        self.pending.append(pending)
        self.pending.sort(key=lambda tree: tree.number)
        if files is not None:
            staged.keep_writing(self.staged, files)

    def discard_staged(self) -> int:
        """Throw away what is staged; returns the number of files. Raises Busy, NothingStaged, OSError."""
        with self._sealing:
            trash = self.directory / f"{TRASH}.{time.monotonic_ns()}"
            with self.lock:
                self._wait_for_writers(0)
                if self.staged.is_empty():
                    raise NothingStaged(f"nothing is staged for {self.label}")
                files, _ = self.staged.usage()
                self.staged.move(trash)
                self._forget_marks()
                self.staged = self._new_tree()
            remove_tree(trash)
            return files

    def _forget_marks(self) -> None:
        for mark in (UNTOUCHED, HELD, WRITERS, REOPENED):
            (self.directory / mark).unlink(missing_ok=True)
        self.reopened = None

    def reopen(self, pending: PendingTree) -> None:
        """Take a sealed tree, of which no commit is under way, back into the empty staging.

        It is committed once something was changed, or on request, and in its old turn.
        Raises StagingNotEmpty, NoRoom, OSError (the disk).
        """
        with self._sealing:
            self._refuse_staged()
            if pending.was_tried:
                put_back(pending.directory / IGNORED, pending.tree.root)
                reopening.take_apart(pending, self._room)
            with self.lock:
                self._refuse_staged()
                self._forget_marks()
                try:
                    durable.replace(self.directory / UNTOUCHED, b"")
                    note = reopening.note(self.directory, pending)
                    # An empty directory gives way to the full one in one step.
                    os.rename(pending.directory / "tree", self.directory / STAGING)
                except BaseException:
                    self._forget_marks()
                    raise
                sealed, self.staged = pending.tree, self._new_tree()
                sealed.become(self.staged)
                self.pending.remove(pending)
                self.reopened = note
            self._on_dirty(self)
            durable.sync_directory(self.directory)
            try:
                remove_tree(pending.directory)
            except OSError as error:
                # It is empty but for a record that nobody reads: the next seal there, or the next start, removes it.
                logger.warning("cannot remove what is left of %s of %s: %s", pending.name, self.label, error)

    def _refuse_staged(self) -> None:
        if not self.staged.is_empty():
            raise StagingNotEmpty(f"{self.label} has something staged")

    def waits_for_reopened(self) -> bool:
        """Whether the oldest sealed tree has to wait for one before it that is in staging again."""
        with self.lock:
            if self.reopened is None or not self.pending or self.pending[0].number < self.reopened.number:
                return False
            if self.staged.is_empty():
                # Thrown away, file by file.
                (self.directory / REOPENED).unlink(missing_ok=True)
                self.reopened = None
            return self.reopened is not None

    def remove_all(self) -> None:
        """Remove the artifact, of which nothing is staged or pending. Raises OSError (ENOTEMPTY).

        What is made in its place has this same object, so that one lock guards what lies there, and another tree, so
        that whoever holds the old one reaches nothing in it.
        """
        with self.lock:
            self.staged.remove()
            self.staged = self._new_tree()
            self._forget_marks()
            self.tell_commit_after(None, forget=True)
            self.directory.rmdir()

    def remove(self, pending: PendingTree) -> None:
        """Take a sealed tree away, after its commit or to discard it. Raises OSError."""
        # First the name, so that a half-deleted tree is never taken for a sealed one after a crash.
        trash = self.directory / f"{TRASH}.{time.monotonic_ns()}"
        with self.lock:
            # Together: a seal takes the next number that is free in the list, and it must be free on disk.
            os.rename(pending.directory, trash)
            self.pending.remove(pending)
            pending.tree.let_go()
        remove_tree(trash)

    def describe_as(self, pending: PendingTree, request: CommitRequest) -> None:
        """Give a tree that was sealed by itself the message and aliases of a request that came after that.

        Raises Busy while it is being committed, NotPermitted when it was sealed on request, OSError.
        """
        with self.lock:
            record = pending.record
            if record.state in (CommitState.COMMITTING, CommitState.COMMITTED):
                raise Busy(f"{pending.name} of {self.label} is being committed")
            if not record.automatic:
                raise NotPermitted(f"{pending.name} of {self.label} was sealed on request, and has its message")
            before = record.message, record.aliases, record.automatic
            record.message = request.message
            record.aliases = list(dict.fromkeys([*record.aliases, *request.aliases]))
            record.automatic = not request.message
            try:
                pending.save()
            except OSError:
                record.message, record.aliases, record.automatic = before
                raise

    def note_message(self, version: str) -> None:
        """Note that a version was given a message: the commit that made it waits for none any more."""
        with self.lock:
            for at, finished in enumerate(self.finished):
                if finished.version == version and finished.created and finished.automatic:
                    self.finished[at] = msgspec.structs.replace(finished, automatic=False)

    def oldest_pending(self) -> PendingTree | None:
        """The sealed tree whose turn it is."""
        with self.lock:
            return self.pending[0] if self.pending and not self.waits_for_reopened() else None

    def become_idle(self) -> bool:
        """Whether nothing is staged, pending or open for writing; then the next change is told again."""
        with self.lock:
            if not self._is_recovered or self.pending or self.staged.open_for_writing() or not self.staged.is_empty():
                return False
            writers = self.staged.writers
            if writers is not None and writers.waits_for_commit:
                return False
            # A job that failed, and goes on, shall not have the rest of its files committed.
            if writers is None or not writers.failed_live_on:
                if self.staged.held is not None or self.reopened is not None:
                    self._forget_marks()
                    self.staged.held = None
                self.staged.forget_writers()
            self.staged.touched = False
            return True

    def find_pending(self, name: str) -> PendingTree | None:
        """The sealed tree shown as `name`."""
        with self.lock:
            return next((p for p in self.pending if p.name == name), None)

    def describe(self, commit_after_s: float | None) -> ArtifactState:
        """For the control surface. A disk that gives errors is a `problem` of the answer.

        `commit_after_s` is that of the mount.
        """
        with self.lock:
            staged, pending, finished = self.staged, list(self.pending), list(self.finished)
        shown = problem = None
        described = []
        try:
            waits_for = self.reopened.name if self.waits_for_reopened() and self.reopened else None
            described = [p.describe(waits_for) for p in pending]
            shown = self._describe_staged(staged, self.commit_after_s(commit_after_s))
        except OSError as error:
            problem = reason_of(error)
        return ArtifactState(self.collection, self.artifact, shown, described, finished, problem=problem)

    def _describe_staged(self, staged: StagedTree, commit_after_s: float | None) -> Staged | None:
        if staged.is_empty():
            return None
        files, size_bytes = staged.usage()
        with self.lock:
            open_files = len(staged.open_for_writing())
            reopened = self.reopened
        back = TakenBack(reopened.name, reopened.error) if reopened is not None else None
        quiet_s, untouched, held, writers = staged.quiet_s, self.is_untouched, staged.held, staged.writers
        wait = wait_of(
            quiet_s=quiet_s,
            commit_after_s=commit_after_s,
            open_files=open_files,
            untouched=untouched,
            held=held,
            is_run=writers is not None and writers.waits_for_commit,
        )
        return Staged(
            files,
            size_bytes,
            open_files,
            round(quiet_s, 3),
            untouched,
            held,
            back,
            writers.describe()[:_MOST_WRITERS] if writers is not None else [],
            wait.seconds,
            wait.what,
            wait.on_request,
        )


def _nothing(*_: Any) -> None:
    """A sealed tree is neither changed nor synced."""
