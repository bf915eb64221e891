"""The staging area of a mount: the artifacts that have something staged, and what is true of all of them.

Neighbours: `areas` says where areas lie on disk and whose they are; the vfs and the committer ask this one for the
staging of an artifact. Threading: safe from any thread; for the order of the locks see `staging`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

from artifactfs import durable
from artifactfs.errors import ArtifactError
from artifactfs.longpaths import remove_tree
from artifactfs.managers.base import ArtifactManager
from artifactfs.names import STAGING
from mount.areas import (
    ARTIFACTS,
    Waiting,
    check_directory,
    check_same,
    chosen,
    holds_anything,
    leave,
    make_and_take,
    name_of,
    others_waiting,
    subdirectories,
)
from mount.control import Hold
from mount.drive_paths import shown_on_drive
from mount.endings import Watch
from mount.faults import Faults, keep_alive
from mount.handles import VersionReader
from mount.listing import memory_of
from mount.room import DiskRoom
from mount.settings import MountSettings
from mount.staging import ArtifactStaging
from mount.tree import Caller

logger = logging.getLogger(__name__)

NO_COLLECTION = ""
"""Stands for the collection of a trash."""
_TRASHES = "trash"
_TRASH = re.compile(r"\.Trash-[0-9]+\Z")
_BOOT = "boot"
_KERNELS_BOOT = Path("/proc/sys/kernel/random/boot_id")


class StagingArea:
    """Everything staged through one mount. One daemon at a time owns it."""

    def __init__(self, root: Path, lock_fd: int, manager: ArtifactManager, settings: MountSettings) -> None:
        self.place = root
        # From before anything is written: so it is told of every error of the disk since.
        self._disk = durable.Disk(root)
        check_same(root, self._disk.fd)
        self.root = Path(f"/proc/self/fd/{self._disk.fd}")
        """A path that leads to the area wherever its disk is moved, and never to what is put in its place."""
        self.room = DiskRoom(self.root, settings.min_free_bytes)
        self.reader = VersionReader(manager, settings)
        self._lock_fd = lock_fd
        self._manager = manager
        self._lock = threading.Lock()
        self._artifacts: dict[tuple[str, str], ArtifactStaging] = {}
        self._dirty_lock = threading.Lock()
        self._dirty: set[ArtifactStaging] = set()
        self.on_dirty: Callable[[], None] = lambda: None
        self.shown = shown_on_drive(self.root / ARTIFACTS, settings.mountpoint)
        """Puts the paths of the drive into a message, in place of those of the disk."""
        self.faults = Faults(self.shown)
        self._waiting: list[Waiting] = []
        self._watch = Watch()
        self._failures_hold = settings.on_failure == "hold"

    @classmethod
    def open(cls, manager: ArtifactManager, settings: MountSettings) -> StagingArea:
        """Take the area that belongs to this store, user, host and state directory, and read back what it holds.

        Raises AreaBusy when another daemon has it, AreaRefused, OSError.
        """
        root = area_root(manager, settings)
        lock_fd = make_and_take(root, settings)
        area = cls(root, lock_fd, manager, settings)
        keep_alive("writers", area._watch.run, area.faults)
        area._recover()
        if manager.staging_root is not None:
            area._waiting = others_waiting(root)
            for other in area._waiting:
                logger.warning("%s", other.describe())
        return area

    def waiting(self) -> list[str]:
        """Areas that no mount had when this one was made, and that still hold something: see `areas`."""
        return [other.describe() for other in self._waiting if holds_anything(other.root)]

    def _recover(self) -> None:
        boot = self.root / _BOOT
        this_boot = _KERNELS_BOOT.read_bytes()
        try:
            interrupted = boot.read_bytes() != this_boot
        except FileNotFoundError:
            interrupted = False
        (self.root / ARTIFACTS).mkdir(exist_ok=True)
        check_directory(self.root / ARTIFACTS)
        self._empty_trash()
        is_whole = True
        for collection in self.local_collections():
            try:
                artifacts = self.local_artifacts(collection)
            except OSError as error:
                self.faults.note(f"what is staged in {collection}", error)
                is_whole = False
                continue
            for artifact in artifacts:
                staging = self.artifact(collection, artifact)
                staging.expect_leftovers(interrupted=interrupted)
                try:
                    staging.recover()
                except OSError as error:
                    # It stays among those that have something, and whoever looks at it next tries again.
                    self.faults.note(staging.label, error)
                    is_whole = False
        if is_whole or not interrupted:
            # Till then the earlier boot is the one that counts.
            durable.replace(boot, this_boot)

    def close(self) -> None:
        """Let another daemon have the area. What is staged is on disk then; if that fails, the next one holds it.

        The directory itself stays held for as long as a commit may be under way.
        """
        self._watch.close()
        self._empty_trash()
        try:
            if self.active():
                self.sync()
            os.unlink(_BOOT, dir_fd=self._disk.fd)
        except OSError as error:
            logger.error("cannot put what is staged on disk: %s", error)
        if self._manager.shows_staging:
            self._leave()
        os.close(self._lock_fd)

    def _leave(self) -> None:
        """Take the area out of a store whose other readers see it, unless something is staged or pending."""
        try:
            check_same(self.place, self._disk.fd)
            if not holds_anything(self.root) and self._all_in_store() and leave(self.root, self.place):
                self._manager.forget_staging()
        except (ArtifactError, OSError) as error:
            logger.info("the staging area %s stays: %s", self.place, error)

    def _all_in_store(self) -> bool:
        """Tell whether nothing was made here that waits for its first commit: an artifact without files, say."""
        stored = set(self._manager.list_collection_names())
        return all(
            collection in stored
            and all(self._manager.exists_in_collection(name, collection) for name in self.local_artifacts(collection))
            for collection in self.local_collections()
        )

    def sync(self) -> None:
        """Put everything staged on disk. Raises OSError, and then holds it all: see `ArtifactStaging.hold_lost`."""
        try:
            self._disk.sync()
        except OSError as error:
            # Without the lock, which an artifact's comes before.
            for staging in list(self._artifacts.values()):
                staging.hold_lost(error)
            raise

    def artifact(self, collection: str, artifact: str) -> ArtifactStaging:
        """The staging of an artifact; nothing is made on disk before something is written."""
        with self._lock:
            found = self._artifacts.get((collection, artifact))
            if found is None:
                is_artifact = collection != NO_COLLECTION
                directory = self.root / (Path(ARTIFACTS, collection) if is_artifact else _TRASHES) / artifact
                found = self._artifacts[collection, artifact] = ArtifactStaging(
                    directory,
                    collection,
                    artifact,
                    self._note_dirty,
                    self.room,
                    self.reader,
                    self.sync,
                    self._watch,
                    failures_hold=self._failures_hold,
                )
                if not is_artifact and found.staged.exists():
                    # It could not be emptied, and what was held of it is not known.
                    found.staged.held = Hold("it lay in the trash of an earlier mount", time.time(), lost=True)
            return found

    def has_trash(self, name: str) -> bool:
        """Tell whether a program has made the trash `name` at the top of the mount."""
        return is_trash(name) and (self.root / _TRASHES / name).is_dir()

    def make_trash(self, name: str, mode: int, caller: Caller) -> None:
        """Make a trash, which is no artifact and never committed. Raises FileExistsError, OSError."""
        self.artifact(NO_COLLECTION, name).staged.make_top(mode, caller)

    def _empty_trash(self) -> None:
        try:
            remove_tree(self.root / _TRASHES)
        except FileNotFoundError:
            return
        except OSError as error:
            self.faults.note("emptying the trash", error)

    def _note_dirty(self, staging: ArtifactStaging) -> None:
        if staging.collection == NO_COLLECTION:
            return
        with self._dirty_lock:
            self._dirty.add(staging)
        self.on_dirty()

    def candidates(self) -> list[ArtifactStaging]:
        """The artifacts that may have something staged or pending, in the order of their names; no disk is asked."""
        with self._dirty_lock:
            return sorted(self._dirty, key=lambda staging: staging.label)

    def active(self) -> list[ArtifactStaging]:
        """The artifacts that have something staged or pending, or cannot be looked at, in the order of their names."""
        candidates = self.candidates()
        idle = {staging for staging in candidates if self._has_become_idle(staging)}
        with self._dirty_lock:
            # One that was written to since is dirty again and has told so: its tree would not tell twice.
            self._dirty -= {staging for staging in idle if not staging.staged.touched}
        return [staging for staging in candidates if staging not in idle]

    def _has_become_idle(self, staging: ArtifactStaging) -> bool:
        try:
            is_idle = staging.become_idle()
        except OSError:
            return False
        if is_idle:
            for concerned in (staging.label, staging.sealing, staging.committing):
                self.faults.clear(concerned)
        return is_idle

    def local_collections(self) -> list[str]:
        """Collections that exist on the staging disk, whether the store has them or not."""
        return subdirectories(self.root / ARTIFACTS)

    def local_artifacts(self, collection: str) -> list[str]:
        """Artifacts of a collection that exist on the staging disk."""
        return subdirectories(self.root / ARTIFACTS / collection)

    def make_collection(self, collection: str) -> None:
        """A new collection, local until its first commit. Raises FileExistsError."""
        (self.root / ARTIFACTS / collection).mkdir()

    def make_artifact(self, collection: str, artifact: str) -> None:
        """A new artifact, local until its first commit. Raises FileExistsError."""
        (self.root / ARTIFACTS / collection / artifact / STAGING).mkdir(parents=True)

    def remove_collection(self, collection: str) -> None:
        """Undo `make_collection`. Raises OSError (ENOTEMPTY) while it holds artifacts."""
        (self.root / ARTIFACTS / collection).rmdir()

    def remove_artifact(self, collection: str, artifact: str) -> None:
        """Undo `make_artifact`. Raises OSError (ENOTEMPTY) while anything is staged or pending."""
        self.artifact(collection, artifact).remove_all()


def area_root(manager: ArtifactManager, settings: MountSettings) -> Path:
    """The place where this mount stages: in the store itself if that is a local directory, so a commit moves files.

    The name tells user, host and state directory apart, so mounts of one store never share an area by accident and
    find theirs again after a crash. Raises AreaRefused when another area is asked for and cannot be.
    """
    staging_root = manager.staging_root
    if settings.take_staging is not None:
        return chosen(staging_root, settings.take_staging)
    if staging_root is not None:
        return staging_root / name_of(settings.state_dir)
    memory = memory_of(manager, settings)
    store_id = manager.store_id if memory is None else memory.identity(manager).id
    store = store_id or hashlib.sha256(os.fsencode(settings.url)).hexdigest()[:32]
    return settings.state_dir / STAGING / store


def is_trash(name: str) -> bool:
    """Tell whether programs that delete by moving to a trash give a trash at the top of a file system that name."""
    return _TRASH.match(name) is not None
