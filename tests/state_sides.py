"""The drive and its model side by side: doing the same to both, comparing them. The rules are in `state_machine`."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis.stateful import RuleBasedStateMachine

import artifactfs
from tests.mount.harness import eventually
from tests.state_model import ARTIFACTS, Model, Tree, read_drive, read_tree
from tests.state_worlds import World

NAMES = "abc"
NOWHERE = {"ENOENT", "ENOTDIR"}

PATHS = [*NAMES, *("/".join(pair) for pair in itertools.product(NAMES, NAMES))]
# Which of the paths that make sense, and, when the second is 0, which of all.
Pick = tuple[int, int]


def outcome(call: Callable[[], Any]) -> str:
    """The name of the error a call gives; "" when it succeeds."""
    try:
        call()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return ""


class DriveSides(RuleBasedStateMachine):
    """A subclass gives the world and the rules."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = contextlib.ExitStack()
        directory = self._stack.enter_context(contextlib.ExitStack())
        self.world = self.make_world(directory)
        self.model = Model(Path(directory.enter_context(tempfile.TemporaryDirectory(prefix="artifactfs-model-"))))
        self.other = artifactfs.connect(self.world.store)
        self._looked_at = dict.fromkeys(ARTIFACTS, 0)
        for label in ARTIFACTS:
            with contextlib.suppress(FileExistsError):
                self.world.drive.mkdir(label.partition("/")[0])
            self.world.drive.mkdir(label)

    def make_world(self, stack: contextlib.ExitStack) -> World:
        raise NotImplementedError

    # -- the two sides

    def staged(self, label: str, path: str = "") -> str:
        return f"{label}/staging/{path}".rstrip("/")

    def native(self, label: str, path: str = "") -> str:
        return os.path.join(self.model.artifacts[label].staged, path)

    def place(self, label: str, pick: Pick, *, there: bool) -> str:
        """Of the paths that are there, or that could be made, one; now and then one that is neither."""
        number, wild = pick
        sensible = [
            path
            for path in PATHS
            if (os.path.lexists(self.native(label, path)) if there else os.path.isdir(self._parent(label, path)))
        ]
        path = PATHS[number] if wild == 0 or not sensible else sensible[number % len(sensible)]
        # Through a symlink the two sides would leave for different places.
        hypothesis.assume(not os.path.islink(self._parent(label, path)))
        return path

    def _parent(self, label: str, path: str) -> str:
        return os.path.dirname(self.native(label, path)).rstrip("/")

    def both(self, label: str, on_drive: Callable[[], Any], natively: Callable[[], Any]) -> bool:
        """Do it on both sides; whether it succeeded, which it did on both or on none."""
        wanted = outcome(natively)
        found = outcome(on_drive)
        # Of two paths that lead nowhere, it depends on the kernel which is looked at first.
        assert found == wanted or {found, wanted} == NOWHERE, f"{found or 'success'} instead of {wanted or 'success'}"
        if not wanted:
            self.model.touch(label)
        return not wanted

    def check(self, label: str) -> None:
        """The artifact is as the model has it; of the versions the newest are read."""
        drive, artifact = self.world.drive, self.model.artifacts[label]
        numbers = sorted(artifact.versions)
        shown = [f"pending.{sealed.number}" for sealed in artifact.pending]
        shown += [f"v{number}" for number in numbers] + ["staging"]
        shown += ["latest"] if numbers else []
        eventually(lambda: sorted(drive.listdir(label)) == sorted(shown), what=f"{drive.listdir(label)} to be {shown}")
        # Another name of a file that has changed may be believed to be as it was, for as long as a driver allows.
        with contextlib.suppress(AssertionError):
            eventually(lambda: read_drive(drive, self.staged(label)) == read_tree(artifact.staged), 10)
        _same(read_drive(drive, self.staged(label)), read_tree(artifact.staged), "staging")
        for sealed in artifact.pending:
            _same(_without_modes(read_drive(drive, f"{label}/pending.{sealed.number}")), _without_modes(sealed.tree))
        if numbers:
            eventually(lambda: drive.readlink(f"{label}/latest") == f"v{numbers[-1]}")
        for number in [n for n in numbers if n >= self._looked_at[label]]:
            _same(read_drive(drive, f"{label}/v{number}"), artifact.versions[number], f"v{number}")
        self._looked_at[label] = artifact.next_version
        self._check_state(label)

    def _check_state(self, label: str) -> None:
        artifact = self.model.artifacts[label]
        self._await_writers(label)
        state = self.world.drive.state(label)
        assert (state.staged is None) == self.model.is_empty(label)
        assert [p.name for p in state.pending] == [f"pending.{sealed.number}" for sealed in artifact.pending]

    def _await_writers(self, label: str) -> None:
        """The kernel tells of a close a little later."""
        if not self.model.is_empty(label):
            writers = len(self.model.writers(label))
            eventually(lambda: self._open_for_writing(label) == writers, what=f"{writers} writers of {label}")

    def _open_for_writing(self, label: str) -> int:
        staged = self.world.drive.state(label).staged
        assert (staged is None) == self.model.is_empty(label)
        return staged.open_for_writing if staged else 0

    def check_opened(self) -> None:
        for opened in self.model.opened:
            sealed = opened.generation != self.model.artifacts[opened.label].generation
            if sealed and not self.world.follows_sealed_files:
                continue
            size = os.fstat(opened.fd).st_size
            assert opened.file.stat().size_bytes == size
            if _is_readable(opened.fd):
                assert opened.file.read(size + 1, 0) == os.pread(opened.fd, size + 1, 0)

    def teardown(self) -> None:
        """All versions are what they were when they were made, on the drive and for a new reader."""
        with self._stack:
            try:
                self._looked_at = dict.fromkeys(ARTIFACTS, 0)
                for label in ARTIFACTS:
                    self.check(label)
                    self._check_store(label)
            finally:
                for opened in self.model.opened:
                    with contextlib.suppress(OSError):
                        opened.file.close()
                self.model.close()

    def _check_store(self, label: str) -> None:
        collection, name = label.split("/")
        if not self.model.artifacts[label].versions:
            return
        infos = artifactfs.connect(self.world.store).list_versions(name, collection)
        assert [info.number for info in infos] == sorted(self.model.artifacts[label].versions)
        assert len({info.commit_id for info in infos}) == len(infos)


def _is_readable(fd: int) -> bool:
    with open(f"/proc/self/fdinfo/{fd}") as info:
        flags = next(int(line.split()[1], 8) for line in info if line.startswith("flags:"))
    return flags & os.O_ACCMODE != os.O_WRONLY


def _without_modes(tree: Tree) -> Tree:
    """A local store makes the files that it takes over read-only, those that are still pending too."""
    return {path: item._replace(mode=0) for path, item in tree.items()}


def _same(found: Tree, wanted: Tree, what: str = "") -> None:
    differ = {path for path in found.keys() | wanted.keys() if found.get(path) != wanted.get(path)}
    shown = {path: (_short(found.get(path)), _short(wanted.get(path))) for path in differ}
    assert not differ, f"{what}: {shown} (found, wanted)"


def _short(item: Any) -> Any:
    return item and item._replace(content=(len(item.content), item.content[:20]))
