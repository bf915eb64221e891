"""Rules of a Hypothesis state machine for the whole drive, against `state_model.Model`. Names are few and collide."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from artifactfs.managers.commit_id import new_commit_id
from mount import control
from mount.disk import RENAME_EXCHANGE, RENAME_NOREPLACE
from tests.drives import rename_paths
from tests.mount.harness import eventually
from tests.state_model import ARTIFACTS, Backend, Item, Opened, Sealed, Tree, put_tree
from tests.state_sides import PATHS, DriveSides, Pick, outcome

MOST_OPEN = 5
# Stored as an object of its own, which a local store takes over as it is.
LARGE_BYTES = 1_100_000
# "../b" leads out from the top of a tree only.
TARGETS = ("b", "../b", "/nowhere/at/all", "a/c")
ACCESS = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)
EXTRA = (0, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_CREAT | os.O_TRUNC, os.O_TRUNC)

# One artifact gets most of it, so that much happens to it.
labels = st.sampled_from([ARTIFACTS[0]] * 5 + ARTIFACTS[1:])
# One in ten is any path at all, of the others those that make sense are taken: see `DriveMachine.place`.
paths = st.tuples(st.integers(0, len(PATHS) - 1), st.integers(0, 9))
small = st.sampled_from([b"", b"1", b"22", b"33333"])
sizes = st.sampled_from([0, 1, 3, 6000])


class DriveMachine(DriveSides):
    """A subclass gives the world."""

    # -- rules: names

    @initialize(data=small)
    def begin(self, data: bytes) -> None:
        self._fill(data)

    @precondition(lambda self: self.model.is_empty(ARTIFACTS[0]))
    @rule(data=small)
    def fill(self, data: bytes) -> None:
        self._fill(data)

    def _fill(self, data: bytes) -> None:
        """Something in most places, where nothing is."""
        label = ARTIFACTS[0]
        self.world.drive.mkdir(self.staged(label, "a"))
        os.mkdir(self.native(label, "a"), 0o755)
        for path in ("b", "a/a", "a/b"):
            self.world.drive.write(self.staged(label, path), data + path.encode())
            Path(self.native(label, path)).write_bytes(data + path.encode())
            Path(self.native(label, path)).chmod(0o644)
        self.model.touch(label)

    @rule(label=labels, at=paths, data=small, large=st.integers(0, 7), executable=st.booleans())
    def write(self, label: str, at: Pick, data: bytes, large: int, executable: bool) -> None:
        """As the shell does."""
        path = self.place(label, at, there=False)
        data = data.ljust(LARGE_BYTES, b"x") if large == 0 else data
        flags, mode = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o755 if executable else 0o644

        def on_drive() -> None:
            with self.world.drive.open(self.staged(label, path), flags, mode) as file:
                file.write(data, 0)

        def natively() -> None:
            fd = os.open(self.native(label, path), flags, mode)
            os.write(fd, data)
            os.close(fd)

        self.both(label, on_drive, natively)
        self.check(label)

    @rule(label=labels, at=paths)
    def mkdir(self, label: str, at: Pick) -> None:
        path = self.place(label, at, there=False)
        drive = self.world.drive
        self.both(
            label, lambda: drive.mkdir(self.staged(label, path)), lambda: os.mkdir(self.native(label, path), 0o755)
        )

    @rule(label=labels, at=paths)
    def rmdir(self, label: str, at: Pick) -> None:
        path = self.place(label, at, there=True)
        drive = self.world.drive
        self.both(label, lambda: drive.rmdir(self.staged(label, path)), lambda: os.rmdir(self.native(label, path)))

    @rule(label=labels, at=paths)
    def unlink(self, label: str, at: Pick) -> None:
        path = self.place(label, at, there=True)
        drive = self.world.drive
        self.both(label, lambda: drive.unlink(self.staged(label, path)), lambda: os.unlink(self.native(label, path)))
        self.check_opened()

    @rule(label=labels, at=paths, to=paths, flags=st.sampled_from([0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE]))
    def rename(self, label: str, at: Pick, to: Pick, flags: int) -> None:
        path = self.place(label, at, there=True)
        new = self.place(label, to, there=False)
        self.both(
            label,
            lambda: self.world.drive.rename(self.staged(label, path), self.staged(label, new), flags),
            lambda: rename_paths(self.native(label, path), self.native(label, new), flags),
        )
        self.check(label)

    @rule(label=labels, at=paths, to=paths)
    def link(self, label: str, at: Pick, to: Pick) -> None:
        path = self.place(label, at, there=True)
        new = self.place(label, to, there=False)
        self.both(
            label,
            lambda: self.world.drive.link(self.staged(label, path), self.staged(label, new)),
            lambda: os.link(self.native(label, path), self.native(label, new), follow_symlinks=False),
        )

    @rule(label=labels, at=paths, leads=st.sampled_from(TARGETS))
    def symlink(self, label: str, at: Pick, leads: str) -> None:
        path = self.place(label, at, there=False)
        self.both(
            label,
            lambda: self.world.drive.symlink(leads, self.staged(label, path)),
            lambda: os.symlink(leads, self.native(label, path)),
        )

    @rule(label=labels, at=paths, size=sizes)
    def truncate(self, label: str, at: Pick, size: int) -> None:
        path = self.place(label, at, there=True)
        hypothesis.assume(not os.path.islink(self.native(label, path)))
        self.both(
            label,
            lambda: self.world.drive.truncate(self.staged(label, path), size),
            lambda: os.truncate(self.native(label, path), size),
        )
        self.check_opened()

    # -- rules: open files

    @precondition(lambda self: len(self.model.opened) < MOST_OPEN)
    @rule(label=labels, at=paths, access=st.sampled_from(ACCESS), extra=st.sampled_from(EXTRA))
    def open(self, label: str, at: Pick, access: int, extra: int) -> None:
        path = self.place(label, at, there=False)
        native = self.native(label, path)
        hypothesis.assume(not os.path.isdir(native) and not os.path.islink(native))
        hypothesis.assume(access != os.O_RDONLY or not extra & os.O_TRUNC)
        flags = access | extra | os.O_NOFOLLOW
        artifact = self.model.artifacts[label]
        untouched, existed = artifact.untouched, os.path.lexists(native)
        got: dict[str, Any] = {}
        done = self.both(
            label,
            lambda: got.update(file=self.world.drive.open(self.staged(label, path), flags, 0o644)),
            lambda: got.update(fd=os.open(native, flags, 0o644)),
        )
        if done:
            writable = access != os.O_RDONLY
            self.model.opened.append(Opened(label, got["file"], got["fd"], writable, artifact.generation))
            if existed and not extra & os.O_TRUNC:
                # Only what changes something is a change.
                artifact.untouched = untouched

    @precondition(lambda self: self.model.opened)
    @rule(data=st.data(), offset=sizes, content=small, size=st.one_of(st.none(), sizes))
    def change_open(self, data: st.DataObject, offset: int, content: bytes, size: int | None) -> None:
        opened = data.draw(st.sampled_from(self.model.opened))
        hypothesis.assume(opened.writable)
        if size is None:
            opened.file.write(content, offset)
            os.pwrite(opened.fd, content, offset)
        else:
            opened.file.truncate(size)
            os.ftruncate(opened.fd, size)
        opened.file.fsync()
        if opened.generation == self.model.artifacts[opened.label].generation:
            self.model.touch(opened.label)
        self.check(opened.label)
        self.check_opened()

    @precondition(lambda self: self.model.opened)
    @rule(data=st.data())
    def close_one(self, data: st.DataObject) -> None:
        opened = data.draw(st.sampled_from(self.model.opened))
        opened.file.close()
        os.close(opened.fd)
        self.model.opened.remove(opened)
        if opened.writable and opened.generation == self.model.artifacts[opened.label].generation:
            self.model.touch(opened.label)

    # -- rules: versions

    @rule(label=labels, force=st.booleans())
    def commit(self, label: str, force: bool) -> None:
        wanted = ""
        if self.model.is_empty(label):
            hypothesis.assume(force)
            wanted = "ENODATA"
        elif self.model.writers(label) and not force:
            # A mount waits two seconds for a writer that may be about to close.
            hypothesis.assume(self.world.can_fail)
            wanted = "EBUSY"
        request = control.encode(control.CommitRequest(new_commit_id(), force=force))
        assert outcome(lambda: self.world.drive.setxattr(self.staged(label), control.COMMIT, request)) == wanted
        if not wanted:
            self.model.seal(label)
            self.check_opened()
        self._run_committer()

    def _run_committer(self) -> None:
        self.world.run_committer()
        self.model.run_committer()
        for label in ARTIFACTS:
            self.check(label)

    @rule(label=labels)
    def discard_staged(self, label: str) -> None:
        wanted = "EBUSY" if self.model.writers(label) else "ENODATA" if self.model.is_empty(label) else ""
        eventually(
            lambda: self.model.is_empty(label) or self._open_for_writing(label) == len(self.model.writers(label))
        )
        assert outcome(lambda: self.world.drive.setxattr(self.staged(label), control.DISCARD, b"1")) == wanted
        if not wanted:
            self.model.discard(label)
        self.check(label)
        self.check_opened()

    def _pending(self, data: st.DataObject) -> tuple[str, Sealed]:
        label = data.draw(st.sampled_from([label for label in ARTIFACTS if self.model.artifacts[label].pending]))
        return label, data.draw(st.sampled_from(self.model.artifacts[label].pending))

    def _anything_pending(self) -> bool:
        return any(artifact.pending for artifact in self.model.artifacts.values())

    @precondition(_anything_pending)
    @rule(data=st.data())
    def discard_pending(self, data: st.DataObject) -> None:
        label, sealed = self._pending(data)
        self.world.drive.setxattr(f"{label}/pending.{sealed.number}", control.DISCARD, b"1")
        self.model.artifacts[label].pending.remove(sealed)
        self._run_committer()

    @precondition(_anything_pending)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        label, sealed = self._pending(data)
        self.world.drive.setxattr(f"{label}/pending.{sealed.number}", control.RETRY, b"1")
        sealed.blocked = False
        self._run_committer()

    @precondition(lambda self: self.world.can_fail)
    @rule(kind=st.sampled_from(Backend.ALL + (Backend.WORKS,) * 2))
    def backend(self, kind: str) -> None:
        self.world.set_backend(kind)
        self.model.backend = kind

    @precondition(lambda self: self.world.can_fail)
    @rule()
    def time_passes(self) -> None:
        self.world.let_be_quiet()
        self.model.seal_what_is_quiet()
        self._run_committer()

    @rule(label=labels, data=small)
    def another_host_commits(self, label: str, data: bytes) -> None:
        tree: Tree = {"b": Item(stat.S_IFREG, 0o644, data)}
        collection, name = label.split("/")
        with tempfile.TemporaryDirectory(prefix="artifactfs-") as directory:
            put_tree(tree, Path(directory))
            self.other.commit_tree(name, Path(directory), collection, commit_id=new_commit_id())
        self.model.publish(self.model.artifacts[label], tree)
        self.check(label)

    def _anything_committed(self) -> bool:
        return any(artifact.versions for artifact in self.model.artifacts.values())

    def _version(self, data: st.DataObject) -> tuple[str, int]:
        label = data.draw(st.sampled_from([label for label in ARTIFACTS if self.model.artifacts[label].versions]))
        return label, data.draw(st.sampled_from(sorted(self.model.artifacts[label].versions)))

    @precondition(_anything_committed)
    @rule(data=st.data())
    def delete_version(self, data: st.DataObject) -> None:
        label, number = self._version(data)
        collection, name = label.split("/")
        self.other.delete_version(name, f"v{number}", collection)
        del self.model.artifacts[label].versions[number]
        self.check(label)

    @precondition(_anything_committed)
    @rule(data=st.data())
    def stage(self, data: st.DataObject) -> None:
        label, number = self._version(data)
        wanted = "" if self.model.is_empty(label) else "EBUSY"
        version = f"v{number}".encode()
        assert outcome(lambda: self.world.drive.setxattr(self.staged(label), control.STAGE, version)) == wanted
        if not wanted:
            self.model.stage(label, number)
        self.check(label)

    @rule()
    def restart(self) -> None:
        self.world.restart(self.model.opened)
        self.model.restart()
        self._run_committer()
