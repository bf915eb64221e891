"""The states of all artifacts, for a status that answers whatever the staging disk does.

To look at the artifacts means to ask the disk, and to count files: it is done by a thread of its own. Who asks waits
for it a little, and is then told what was found before.

Neighbours: asks `staging`, is asked by `attributes`. Threading: `all` is safe from any thread. `_lock` guards what is
known and is a leaf; one thread at a time looks.
"""

from __future__ import annotations

import threading
import time

import msgspec

from artifactfs.threads import try_start
from mount.area import StagingArea
from mount.control import ArtifactState
from mount.staging import ArtifactStaging

WAIT_S = 2.0
_COUNTED = "what is staged is still being looked at"


class _Look:
    """One look at all artifacts."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.is_complete = False


class States:
    """See the module docstring."""

    def __init__(self, area: StagingArea, commit_after_s: float | None) -> None:
        self._area = area
        self._commit_after_s = commit_after_s
        self._lock = threading.Lock()
        self._known: dict[ArtifactStaging, ArtifactState] = {}
        self._look: _Look | None = None

    def all(self) -> list[ArtifactState]:
        """The artifacts with something staged or pending. What could not be looked at in time says so."""
        deadline = time.monotonic() + WAIT_S
        look, is_mine = self._begin()
        if not is_mine:
            # It began before this question, and may not have seen what came just before it.
            look.done.wait(max(0.0, deadline - time.monotonic()))
            if look.done.is_set():
                look, _ = self._begin()
        look.done.wait(max(0.0, deadline - time.monotonic()))
        return self._answer(look.is_complete)

    def _begin(self) -> tuple[_Look, bool]:
        """The look under way, and whether it was begun just now."""
        with self._lock:
            if self._look is not None:
                return self._look, False
            look = self._look = _Look()
        if not try_start(threading.Thread(target=self._run, args=(look,), name="status", daemon=True)):
            self._end(look)
        return look, True

    def _run(self, look: _Look) -> None:
        try:
            active = self._area.active()
            for staging in active:
                state = self._described(staging)
                with self._lock:
                    self._known[staging] = state
            with self._lock:
                self._known = {staging: state for staging, state in self._known.items() if staging in active}
            look.is_complete = True
            self._area.faults.clear("status")
        except Exception as error:  # noqa: BLE001 - the status shows it
            self._area.faults.note("status", error)
        finally:
            self._end(look)

    def _described(self, staging: ArtifactStaging) -> ArtifactState:
        state = staging.describe(self._commit_after_s)
        problem = state.problem or self._area.faults.of(staging.sealing) or self._area.faults.of(staging.committing)
        return msgspec.structs.replace(state, problem=problem and self._area.shown(problem))

    def _end(self, look: _Look) -> None:
        with self._lock:
            self._look = None
        look.done.set()

    def _answer(self, is_complete: bool) -> list[ArtifactState]:
        with self._lock:
            known = dict(self._known)
        if is_complete:
            return [known[staging] for staging in sorted(known, key=lambda staging: staging.label)]
        return [
            msgspec.structs.replace(
                known.get(staging) or ArtifactState(staging.collection, staging.artifact), problem=_COUNTED
            )
            for staging in self._area.candidates()
        ]
