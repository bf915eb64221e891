"""Drives that the state machine can drive: directly on the vfs, with the committer on a string, and mounted."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import artifactfs
from artifactfs.errors import AccessDenied, StoreUnreachable
from mount import attributes, committer
from mount.area import StagingArea
from mount.descriptors import CLOSED
from mount.settings import MountSettings
from tests.drives import DirectDrive, DirectFile, Drive
from tests.mount.harness import Mount
from tests.mount.shared import drive_on
from tests.state_model import Backend, Opened
from tests.vfs.faults import Faulty, When

WAIT_S = 30.0
# Far longer than an example takes, however busy the machine is: only `let_be_quiet` makes it pass.
COMMIT_AFTER_S = 1e6


class World(ABC):
    """One drive and the ways to disturb it."""

    drive: Drive
    store: str
    can_fail: bool
    """Whether the backend can be made to fail and the clock be moved."""
    follows_sealed_files: bool = True
    """Whether fstat finds an open file that has been sealed."""

    @abstractmethod
    def run_committer(self) -> None:
        """Let the committer do all it can do now."""

    @abstractmethod
    def restart(self, opened: list[Opened]) -> None:
        """The daemon dies, and the next one starts."""

    @abstractmethod
    def let_be_quiet(self) -> None:
        """The quiet time of everything staged is over."""

    @abstractmethod
    def set_backend(self, kind: str) -> None:
        """Make the store behave as one of `Backend`."""


class DirectWorld(World):
    """No thread runs but the committer's jobs, and those only within `run_committer`."""

    can_fail = True

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._backend = Backend.WORKS
        self.store = str(directory / "store")
        artifactfs.connect(self.store).ensure_created()
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(mock.patch.object(committer, "FIRST_RETRY_S", 0.0))
        self._stack.enter_context(mock.patch.object(attributes, "WRITERS_WAIT_S", 0.0))
        self._open()

    def _open(self) -> None:
        self._faulty = Faulty(artifactfs.connect(self.store))
        settings = MountSettings(
            self.store,
            self._directory / "mnt",
            commit_after_s=COMMIT_AFTER_S,
            refresh_s=0.0,
            state_dir=self._directory / "state",
            min_free_bytes=0,
        )
        with mock.patch.object(committer.Committer, "start"):
            self.drive: DirectDrive = DirectDrive(self._faulty, settings)  # type: ignore[arg-type]
        self.set_backend(self._backend)

    def _area(self) -> StagingArea:
        assert self.drive.area is not None
        return self.drive.area

    def run_committer(self) -> None:
        scheduler = self.drive.committer
        assert scheduler is not None
        scheduler._start_due_jobs()
        with scheduler._wake:
            assert scheduler._wake.wait_for(lambda: not scheduler._jobs, WAIT_S)

    def restart(self, opened: list[Opened]) -> None:
        for each in opened:
            assert isinstance(each.file, DirectFile)
            # As the kernel does for a process that is killed: nobody hears of it.
            each.file._open().fd = CLOSED  # type: ignore[union-attr]
        self._area().close()
        self.drive.vfs.close()
        self._open()

    def let_be_quiet(self) -> None:
        for staging in self._area().active():
            staging.staged.last_change_ns -= int(2 * COMMIT_AFTER_S * 1e9)

    def set_backend(self, kind: str) -> None:
        self._backend = kind
        if kind == Backend.WORKS:
            self._faulty.heal()
        elif kind == Backend.LOSES_ANSWERS:
            self._faulty.arm("commit_tree", When.AFTER, StoreUnreachable("the answer is lost"))
        else:
            error = AccessDenied("no") if kind == Backend.DENIES else StoreUnreachable("no route")
            self._faulty.arm("commit_tree", When.BEFORE, error)

    def close(self) -> None:
        self.drive.close()
        self._stack.close()


class MountedWorld(World):
    """A real mount, which commits on request; it is killed for a restart."""

    can_fail = False
    # libfuse asks for attributes by path, and the path is gone or another file's.
    follows_sealed_files = False

    def __init__(self, mount: Mount) -> None:
        self.mount = mount
        self.store = mount.store
        self.drive = drive_on(mount, mount.path.parent)

    def run_committer(self) -> None:
        """It runs by itself; what is compared is waited for."""

    def restart(self, opened: list[Opened]) -> None:
        self.mount.kill9()
        for each in opened:
            # ENOTCONN: nobody is there to hear of it.
            with contextlib.suppress(OSError):
                each.file.close()
        self.mount.mount()

    def let_be_quiet(self) -> None:
        raise NotImplementedError

    def set_backend(self, kind: str) -> None:
        raise NotImplementedError


@contextlib.contextmanager
def direct_world(directory: Path) -> Iterator[DirectWorld]:
    """A new store and a drive of it."""
    with contextlib.closing(DirectWorld(directory)) as world:
        yield world
