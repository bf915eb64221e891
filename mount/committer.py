"""Turns staged files into versions: when, in which order, and again after failures.

One scheduler thread looks at the artifacts that have something staged or pending and starts at most one job per
artifact, `MAX_JOBS` in all. A job seals what is due and commits the sealed trees of its artifact oldest first; it
stops at the first failure, so a version never overtakes an earlier one. Failures that may pass (`passing`) are tried
again for as long as it takes, others wait for the user. Whatever fails about one artifact costs no other.

Neighbours: `staging` holds the trees, the manager makes the versions. Threading: `start`, `stop` and `wake` are safe
from any thread. `_wake` guards the set of jobs and is never held across disk or backend I/O. Everything about one
artifact's pending trees is done by the one job of that artifact.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from artifactfs.errors import AlreadyExists, ArtifactError, IntegrityError
from artifactfs.managers.base import ArtifactManager, CommitResult
from artifactfs.passing import may_pass
from artifactfs.threads import try_start
from mount.area import StagingArea
from mount.control import CommitRequest, CommitState, Finished
from mount.errors import Busy, NothingStaged
from mount.faults import keep_alive, reason_of
from mount.ignore import IGNORE_FILE, prune
from mount.pending import IGNORED, PendingTree
from mount.references import referred_entry
from mount.settings import MountSettings
from mount.staged_tree import StagedTree
from mount.staging import ArtifactStaging

logger = logging.getLogger(__name__)

MAX_JOBS = 4
FIRST_RETRY_S = 1.0
# A store that was away is committed to within a minute of its return; one listing a minute is no load.
LONGEST_RETRY_S = 60.0
# How long to leave an artifact alone whose staging disk gave an error, or whose files stay open.
_LOOK_AGAIN_S = 1.0
# An unmount follows at once when the daemon was told to leave; whoever told it may have died before.
LEAVE_S = 30.0
# A program that is cut off in the middle of writing by the end of the drive fails within that.
LIVES_ON_S = 5.0
_NAME = "committer"

OnCommit = Callable[[str, str], None]


class Committer:
    """See the module docstring. `on_commit(collection, artifact)` is called after each version, from a job's thread."""

    def __init__(
        self, area: StagingArea, manager: ArtifactManager, settings: MountSettings, on_commit: OnCommit
    ) -> None:
        self._area = area
        self._manager = manager
        self._commit_after_s = settings.commit_after_s
        self._on_commit = on_commit
        self._faults = area.faults
        self._wake = threading.Condition()
        self._woken = False
        self._stopping = False
        self._leave_until = 0.0
        self._jobs: set[ArtifactStaging] = set()
        self._alone_until: dict[ArtifactStaging, float] = {}

    def start(self) -> None:
        """Begin; what earlier daemons left pending is committed first."""
        self._area.on_dirty = self.wake
        keep_alive(_NAME, self._schedule, self._faults)

    def wake(self) -> None:
        """Look for work at once: something was staged or sealed."""
        with self._wake:
            self._woken = True
            self._wake.notify_all()

    def stop(self, timeout_s: float) -> None:
        """Start no more jobs and wait up to `timeout_s` for those that run; what is pending stays."""
        deadline = time.monotonic() + timeout_s
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
            while self._jobs and time.monotonic() < deadline:
                self._wake.wait(deadline - time.monotonic())

    def leave(self, *, is_meant: bool = True) -> None:
        """Commit nothing more when the end comes within `LEAVE_S`: what is staged and pending is for the next mount.

        Not meant (any more), the end is as without this.
        """
        self._leave_until = time.monotonic() + LEAVE_S if is_meant else 0.0

    @property
    def is_leaving(self) -> bool:
        """Tell whether an end that comes now commits nothing more: see `leave`."""
        return time.monotonic() < self._leave_until

    def drain(self, timeout_s: float, give_up: Callable[[], bool]) -> list[str]:
        """Commit what is staged and pending before the end, unless told to leave it.

        Waits until all is done, `timeout_s` have passed or `give_up` says so. Returns the labels of the artifacts with
        something left, which the next mount finds.
        """
        deadline = time.monotonic() + timeout_s
        is_leaving = self.is_leaving
        with contextlib.suppress(Busy):
            if not is_leaving:
                self.seal_all(0.0, at_end=True)
        while not is_leaving and self._is_busy(at_end=True) and time.monotonic() < deadline and not give_up():
            with self._wake:
                self._wake.wait(_LOOK_AGAIN_S / 10)
            with contextlib.suppress(Busy):
                self.seal_all(0.0, at_end=True)
        return [staging.label for staging in self._area.active()]

    def unfinished(self) -> dict[str, str]:
        """The labels of the artifacts that `drain` leaves because programs may go on writing there, and which."""
        found = {}
        for staging in self._area.candidates():
            writers = staging.staged.writers
            if writers is not None and not self._is_finished(staging, at_end=True) and writers.may_go_on():
                found[staging.label] = f"{', '.join(writers.describe()[:3])} may go on writing there"
        return found

    def _is_busy(self, *, at_end: bool = False) -> bool:
        """Tell whether a commit is under way, waiting for its turn, or about to be tried again.

        `at_end`: or about to be sealed, once its writers have lived on for a while.
        """
        active = self._area.active()
        return bool(self._jobs) or any(
            self._commit_due_in(staging) is not None or (at_end and self._is_about_to_be_sealed(staging))
            for staging in active
        )

    def _is_about_to_be_sealed(self, staging: ArtifactStaging) -> bool:
        writers = staging.staged.writers
        try:
            is_dirty = staging.staged.is_dirty()
        except OSError:
            return False  # sealing it meets the same error, and notes it
        if not is_dirty or self._quiet_time_s(staging) is None or writers is None or not writers.may_go_on():
            return False
        with staging.lock:
            return not staging.staged.open_for_writing()

    def seal_all(self, wait_s: float, *, at_end: bool = False) -> None:
        """Seal everything staged, but for what is committed on request only.

        `at_end`: nobody asked for it, so that what a program may be in the middle of writing is left too. Waits up to
        `wait_s` for files open for writing. Raises Busy when some stay open; the rest is sealed. What the disk refuses
        is a fault of that artifact.
        """
        busy: Busy | None = None
        for staging in self._area.active():
            try:
                if staging.staged.is_dirty() and self._is_finished(staging, at_end):
                    staging.seal(CommitRequest(), wait_s, automatic=True)
                    self._faults.clear(staging.sealing)
            except NothingStaged:
                continue
            except Busy as error:
                busy = error
            except (ArtifactError, OSError) as error:
                self._faults.note(staging.sealing, error)
        self.wake()
        if busy is not None:
            raise busy

    def _is_finished(self, staging: ArtifactStaging, at_end: bool) -> bool:
        """Tell whether everything staged may be committed although its time has not come."""
        quiet_time_s = self._quiet_time_s(staging)
        if quiet_time_s is None:
            return False
        writers = staging.staged.writers
        is_writing = at_end and writers is not None and writers.may_go_on()
        return not is_writing or staging.staged.quiet_s >= min(quiet_time_s, LIVES_ON_S)

    def retry(self, staging: ArtifactStaging, pending: PendingTree) -> None:
        """Try a commit that failed again at once. A commit under way is left alone."""
        with self._wake:
            self._await_end_of_job(staging, pending)
            if staging in self._jobs:
                return
            if pending.record.state in (CommitState.RETRYING, CommitState.BLOCKED):
                pending.record.state = CommitState.SEALED
                pending.retry_after(None)
        logger.info("trying %s of %s again on request", pending.name, staging.label)
        self.wake()

    def discard(self, staging: ArtifactStaging, pending: PendingTree) -> None:
        """Throw a sealed tree away. Raises Busy while it is being committed, OSError."""
        with self._in_place_of_job(staging, pending):
            staging.remove(pending)
            logger.info("discarded %s of %s", pending.name, staging.label)

    def reopen(self, staging: ArtifactStaging, pending: PendingTree) -> None:
        """Take a sealed tree back into staging, unless the store has made a version of it.

        Raises Busy while it is being committed, AlreadyExists when it is a version, StagingNotEmpty, StoreUnreachable
        when the store cannot tell, OSError.
        """
        with self._in_place_of_job(staging, pending):
            if pending.was_tried:
                self._refuse_made(staging, pending)
            staging.reopen(pending)
            logger.info("took %s of %s back into staging on request", pending.name, staging.label)

    def _refuse_made(self, staging: ArtifactStaging, pending: PendingTree) -> None:
        """Raises AlreadyExists when an attempt has made the version and was not told; the next one finds it."""
        record = pending.record
        made = self._manager.find_commit(staging.artifact, record.commit_id, staging.collection)
        if made is not None:
            with staging.lock:
                record.state = CommitState.SEALED
                pending.retry_after(None)
            raise AlreadyExists(f"{pending.name} of {staging.label} has become {made.version}")

    @contextlib.contextmanager
    def _in_place_of_job(self, staging: ArtifactStaging, pending: PendingTree) -> Iterator[None]:
        """Have no job of the artifact run meanwhile. Raises Busy when one does, NothingStaged when the tree is gone."""
        with self._wake:
            self._await_end_of_job(staging, pending)
            if staging in self._jobs:
                raise Busy(f"{pending.name} of {staging.label} is being committed")
            self._jobs.add(staging)
        try:
            if staging.find_pending(pending.name) is not pending:
                raise NothingStaged(f"{pending.name} of {staging.label} is gone")
            yield
        finally:
            self._end_job(staging)

    def _await_end_of_job(self, staging: ArtifactStaging, pending: PendingTree) -> None:
        """A job that has given up on a tree shows so a moment before it ends. Called with `_wake` held."""
        self._wake.wait_for(
            lambda: staging not in self._jobs or pending.record.state is CommitState.COMMITTING, _LOOK_AGAIN_S
        )

    # -- the scheduler ----------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        while True:
            with self._wake:
                if self._stopping:
                    return
                self._woken = False
            delay_s = self._start_due_jobs()
            self._faults.clear(_NAME)
            with self._wake:
                if not self._woken and not self._stopping:
                    self._wake.wait(delay_s)

    def _start_due_jobs(self) -> float | None:
        """Start what is due; returns the seconds until something else may be, None when nothing is waiting."""
        delays = []
        for staging in self._area.active():
            delay_s = self._look_at(staging)
            if delay_s is None:
                continue
            with self._wake:
                if staging in self._jobs:
                    continue
                if delay_s > 0 or len(self._jobs) >= MAX_JOBS:
                    delays.append(max(delay_s, _LOOK_AGAIN_S / 10))
                    continue
                self._jobs.add(staging)
            if not self._start(staging):
                delays.append(_LOOK_AGAIN_S)
        return min(delays, default=None)

    def _start(self, staging: ArtifactStaging) -> bool:
        """Start the job of an artifact; False when there is no room for a thread."""
        started = False
        try:
            started = try_start(
                threading.Thread(target=self._work, args=(staging,), name=f"commit {staging.label}", daemon=True)
            )
        finally:
            if not started:
                with self._wake:
                    self._jobs.discard(staging)
        if started:
            self._faults.clear("starting commits")
        else:
            self._faults.note("starting commits", RuntimeError("the system gives this process no more threads"))
        return started

    def _look_at(self, staging: ArtifactStaging) -> float | None:
        """Ask `_due_in` of an artifact that may give errors: then it is looked at again a little later."""
        left_alone_s = self._alone_until.get(staging, 0.0) - time.monotonic()
        if left_alone_s > 0:
            return left_alone_s
        self._alone_until.pop(staging, None)
        try:
            staging.recover()
            delay_s = self._due_in(staging)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this artifact's alone
            self._leave_alone(staging, staging.label, error)
            return _LOOK_AGAIN_S
        self._faults.clear(staging.label)
        return delay_s

    def _leave_alone(self, staging: ArtifactStaging, concerned: str, error: Exception) -> None:
        self._faults.note(concerned, error)
        self._alone_until[staging] = time.monotonic() + _LOOK_AGAIN_S

    def _due_in(self, staging: ArtifactStaging) -> float | None:
        """Seconds until the artifact needs a job; None when it needs none."""
        delays = [d for d in (self._seal_due_in(staging), self._commit_due_in(staging)) if d is not None]
        if staging.waits_for_reopened():
            # Nobody tells when the last file of staging is removed.
            delays.append(_LOOK_AGAIN_S)
        return min(delays, default=None)

    def _seal_due_in(self, staging: ArtifactStaging) -> float | None:
        quiet_time_s = self._quiet_time_s(staging)
        if quiet_time_s is None or not staging.staged.is_dirty():
            return None
        with staging.lock:
            is_open = bool(staging.staged.open_for_writing())
        writers = staging.staged.writers
        if writers is not None and writers.left_by_all():
            # What they had open is closed a moment after their end.
            return _LOOK_AGAIN_S / 10 if is_open else 0.0
        return max(quiet_time_s - staging.staged.quiet_s, _LOOK_AGAIN_S if is_open else 0.0)

    def _quiet_time_s(self, staging: ArtifactStaging) -> float | None:
        """The quiet time after which staging is committed by itself; None where a request, or a program, does it."""
        writers = staging.staged.writers
        if writers is not None and writers.waits_for_commit:
            return None
        return staging.commit_after_s(self._commit_after_s)

    def _commit_due_in(self, staging: ArtifactStaging) -> float | None:
        pending = staging.oldest_pending()
        if pending is None or pending.record.state is CommitState.BLOCKED:
            return None
        return pending.retry_in_s or 0.0

    # -- a job ------------------------------------------------------------------------------------------------------

    def _work(self, staging: ArtifactStaging) -> None:
        try:
            if self._seal_due_in(staging) == 0.0:
                self._seal(staging)
            while self._commit_due_in(staging) == 0.0 and not self._stopping:
                pending = staging.oldest_pending()
                if pending is None or not self._attempt(staging, pending):
                    break
            self._faults.clear(staging.committing)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this artifact's alone
            self._leave_alone(staging, staging.committing, error)
        finally:
            self._end_job(staging)

    def _end_job(self, staging: ArtifactStaging) -> None:
        with self._wake:
            self._jobs.discard(staging)
            self._woken = True
            self._wake.notify_all()

    def _seal(self, staging: ArtifactStaging) -> None:
        try:
            pending = staging.seal(CommitRequest(), is_due=lambda: self._is_due(staging), automatic=True)
        except (Busy, NothingStaged):
            # What hinders a seal that seemed to be due may stay: looked at without a pause, it would take a processor.
            self._alone_until[staging] = time.monotonic() + _LOOK_AGAIN_S / 10
        except OSError as error:
            self._faults.note(staging.sealing, error)
            staging.staged.touch()
        else:
            self._faults.clear(staging.sealing)
            logger.info("sealed %s as %s", staging.label, pending.name)

    def _is_due(self, staging: ArtifactStaging) -> bool:
        """Tell if a seal that was due still is, after the time that syncing takes: somebody may have come since."""
        writers = staging.staged.writers
        if writers is not None and writers.have_all_ended():
            return True
        quiet_time_s = self._quiet_time_s(staging)
        return quiet_time_s is not None and staging.staged.quiet_s >= quiet_time_s

    def _attempt(self, staging: ArtifactStaging, pending: PendingTree) -> bool:
        """Commit one sealed tree; False when it has to be tried again or is blocked."""
        record = pending.record
        with staging.lock:
            record.state = CommitState.COMMITTING
            pending.begin()
            pending.retry_after(None)
        record.attempts += 1
        started = time.monotonic()
        try:
            ignored = self._prune(pending.tree)
            pending.tree.touch()
            if pending.tree.is_empty():
                self._left_out(staging, pending, ignored)
            else:
                result = self._commit(staging, pending)
                self._succeeded(staging, pending, result, ignored, time.monotonic() - started)
        except Exception as error:  # noqa: BLE001 - whatever it is, the files stay
            self._failed(staging, pending, error)
            return False
        return True

    def _prune(self, tree: StagedTree) -> int:
        """Put aside what the tree's own rules ignore; these may lie in a version so far."""
        with contextlib.suppress(FileNotFoundError):
            tree.references.resolve(f"{tree.root}/{IGNORE_FILE}")
        return prune(tree.root, tree.root.parent / IGNORED)

    def _commit(self, staging: ArtifactStaging, pending: PendingTree) -> CommitResult:
        record = pending.record
        result = self._manager.commit_tree(
            staging.artifact,
            pending.tree.root,
            staging.collection,
            commit_id=record.commit_id,
            message=record.message,
            aliases=record.aliases,
            consume=True,
            progress=lambda done_bytes, _: pending.moved(done_bytes),
            **self._by_reference(pending.tree),
        )
        # Nothing is deleted before the store has shown the version back.
        seen = self._manager.version_info(staging.artifact, staging.collection, result.info.version)
        files = self._manager.manifest(staging.artifact, staging.collection, result.info.version).file_count
        if (seen.digest, seen.file_count) != (result.info.digest, files):
            raise IntegrityError(f"{staging.label}@{result.info.version} reads back different from what was committed")
        if result.created and record.message and not (seen.message or result.note):
            # An attempt whose answer was lost had made it, before the message came.
            seen = self._manager.annotate(staging.artifact, seen.version, staging.collection, message=record.message)
        return replace(result, info=seen)

    def _by_reference(self, tree: StagedTree) -> dict[str, Any]:
        """What lets the manager take files that stand for bytes it has; if it cannot, they get bytes of their own."""
        if self._manager.takes_references:
            return {"reference_of": referred_entry}
        tree.references.resolve_all(tree.root)
        return {}

    def _succeeded(
        self, staging: ArtifactStaging, pending: PendingTree, result: CommitResult, ignored: int, seconds: float
    ) -> None:
        version = result.info.version
        record = pending.record
        record.state, record.version, record.error = CommitState.COMMITTED, version, None
        pending.save()
        logger.info(
            "committed %s@%s%s: %d files, %d bytes, %d sent, %.2f s%s",
            staging.label,
            version,
            "" if result.created else " (same content, no new version)",
            result.info.file_count,
            result.info.size_bytes,
            result.sent_bytes,
            seconds,
            _ignored_note(ignored, ", "),
        )
        self._on_commit(staging.collection, staging.artifact)
        finished = Finished(
            record.commit_id,
            version,
            result.created,
            result.info.file_count,
            result.sent_bytes,
            result.deduplicated_bytes,
            round(seconds, 3),
            "; ".join(filter(None, (result.note, _ignored_note(ignored)))),
            record.automatic,
            # A store that keeps no messages says so in its note.
            not record.message or record.message == result.info.message or bool(result.note),
        )
        self._finish(staging, pending, finished)

    def _left_out(self, staging: ArtifactStaging, pending: PendingTree, ignored: int) -> None:
        """Nothing but ignored files was staged: no version."""
        logger.info("nothing to commit in %s of %s%s", pending.name, staging.label, _ignored_note(ignored, ": "))
        note = _ignored_note(ignored)
        record = pending.record
        finished = Finished(record.commit_id, None, False, 0, 0, 0, 0.0, note, record.automatic, not record.message)
        self._finish(staging, pending, finished)

    def _finish(self, staging: ArtifactStaging, pending: PendingTree, finished: Finished) -> None:
        with staging.lock:
            staging.finished.append(finished)
        staging.remove(pending)

    def _failed(self, staging: ArtifactStaging, pending: PendingTree, error: Exception) -> None:
        record = pending.record
        lasting = not may_pass(error)
        reason = self._area.shown(reason_of(error))
        first = record.error != reason
        with staging.lock:
            record.error = reason
            if lasting:
                record.state = CommitState.BLOCKED
            else:
                record.state = CommitState.RETRYING
                pending.retry_after(retry_delay_s(record.attempts))
            try:
                pending.save()
            except OSError as unsaved:
                # The record on disk says less, the files are all there: after a restart the commit is tried again.
                logger.error("cannot write the commit record of %s: %s", staging.label, unsaved)
        if first:
            expected = isinstance(error, (ArtifactError, OSError))
            logger.warning(
                "cannot commit %s of %s, %s: %s",
                pending.name,
                staging.label,
                "it waits for 'artifactfs reopen', 'retry' or 'discard'" if lasting else "trying again until it works",
                reason,
                exc_info=None if expected else error,
            )


def retry_delay_s(attempts: int) -> float:
    """How long to wait after so many failures: twice as long each time up to a bound, and not at the same moment."""
    return min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(attempts - 1, 20)) * random.uniform(0.5, 1.0)


def _ignored_note(ignored: int, before: str = "") -> str:
    """How many files were left out, as a part of a message; '' when none were."""
    return f"{before}{ignored} ignored file{'' if ignored == 1 else 's'} left out" if ignored else ""
