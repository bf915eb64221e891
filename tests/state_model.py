"""What a drive must look like: plain directories for what is staged, lists for what is pending and committed.

`Model` is told what was asked of the drive and says what must have come of it. What is staged is kept in a directory of
the local disk on which the same system calls are made: their errors are the ones the drive must give.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.drives import Drive, File

ARTIFACTS = [f"c{c}/a{a}" for c in range(2) for a in range(2)]


class Item(NamedTuple):
    """A file, directory or symlink of a tree; `content` is the bytes or the target."""

    kind: int
    mode: int
    content: bytes = b""


Tree = dict[str, Item]


class Backend:
    """What the store does with the committer's calls."""

    WORKS = "works"
    DOWN = "down"
    """Does not answer."""
    DENIES = "denies"
    """Refuses for good."""
    LOSES_ANSWERS = "loses answers"
    """Does it, and does not answer."""
    ALL = (WORKS, DOWN, DENIES, LOSES_ANSWERS)


@dataclass
class Sealed:
    """A sealed tree. `version` is the number it has in the store already although its commit is not acknowledged."""

    number: int
    tree: Tree
    version: int | None = None
    blocked: bool = False


@dataclass
class Opened:
    """A file that is open on the drive and in the model. `generation` is that of the staging it belongs to."""

    label: str
    file: File
    fd: int
    writable: bool
    generation: int

    def has_name(self) -> bool:
        return os.fstat(self.fd).st_nlink > 0


@dataclass
class Artifact:
    """One artifact: the directory of what is staged, what is pending, and the live versions by number."""

    staged: Path
    pending: list[Sealed] = field(default_factory=list)
    versions: dict[int, Tree] = field(default_factory=dict)
    next_version: int = 0
    untouched: bool = False
    generation: int = 0


class Model:
    """See the module docstring."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.artifacts = {label: Artifact(directory / label) for label in ARTIFACTS}
        self.opened: list[Opened] = []
        self.backend = Backend.WORKS
        for artifact in self.artifacts.values():
            artifact.staged.mkdir(parents=True)

    # -- what is staged

    def writers(self, label: str) -> list[Opened]:
        """What keeps the staging from being sealed."""
        generation = self.artifacts[label].generation
        return [
            o for o in self.opened if o.label == label and o.writable and o.generation == generation and o.has_name()
        ]

    def is_empty(self, label: str) -> bool:
        return not os.listdir(self.artifacts[label].staged)

    def touch(self, label: str) -> None:
        self.artifacts[label].untouched = False

    def _new_staging(self, label: str) -> None:
        artifact = self.artifacts[label]
        shutil.rmtree(artifact.staged)
        artifact.staged.mkdir()
        artifact.untouched = False
        artifact.generation += 1

    def discard(self, label: str) -> None:
        self._new_staging(label)

    def stage(self, label: str, number: int) -> None:
        artifact = self.artifacts[label]
        self._new_staging(label)
        put_tree(artifact.versions[number], artifact.staged)
        artifact.untouched = True

    # -- sealing

    def seal(self, label: str) -> None:
        """What is open for writing goes on in the new staging, which only a forced seal finds."""
        artifact = self.artifacts[label]
        number = max([p.number for p in artifact.pending], default=0) + 1
        artifact.pending.append(Sealed(number, read_tree(artifact.staged)))
        writers = self.writers(label)
        old = artifact.staged.with_name(artifact.staged.name + ".old")
        artifact.staged.rename(old)
        artifact.staged.mkdir()
        artifact.untouched = False
        generation = artifact.generation
        artifact.generation += 1
        for opened in self.opened:
            if opened.label == label and opened.writable and opened.generation == generation:
                opened.generation = artifact.generation
        for opened in writers:
            path = os.readlink(f"/proc/self/fd/{opened.fd}")
            if not os.path.lexists(path):
                # The name it was opened by is gone: another one of the file.
                path = min((p for p in _files(old) if os.path.samestat(os.lstat(p), os.fstat(opened.fd))), default="")
            if path.startswith(f"{old}/"):
                kept = artifact.staged / os.path.relpath(path, old)
                kept.parent.mkdir(parents=True, exist_ok=True)
                os.rename(path, kept)
        shutil.rmtree(old)

    def seal_what_is_quiet(self) -> None:
        """The quiet time of everything is over."""
        for label, artifact in self.artifacts.items():
            if not (self.is_empty(label) or artifact.untouched or self.writers(label)):
                self.seal(label)

    # -- committing

    def run_committer(self) -> None:
        """It has had time to do all it can."""
        for artifact in self.artifacts.values():
            while artifact.pending and self._commit(artifact, artifact.pending[0]):
                del artifact.pending[0]

    def _commit(self, artifact: Artifact, sealed: Sealed) -> bool:
        if sealed.blocked or self.backend == Backend.DOWN:
            return False
        if self.backend == Backend.DENIES or escapes(sealed.tree):
            sealed.blocked = True
            return False
        if sealed.version is None:
            sealed.version = self.publish(artifact, sealed.tree)
        elif sealed.version not in artifact.versions and self.backend == Backend.WORKS:
            # Others have deleted it: it cannot be read back.
            sealed.blocked = True
            return False
        return self.backend == Backend.WORKS

    def publish(self, artifact: Artifact, tree: Tree) -> int | None:
        """The number of the new version; None when the content is the latest one's."""
        if artifact.versions and artifact.versions[max(artifact.versions)] == tree:
            return None
        number = artifact.next_version
        artifact.versions[number] = tree
        artifact.next_version += 1
        return number

    def restart(self) -> None:
        """Everything that was open is gone; what waited for the user is tried again."""
        for opened in self.opened:
            os.close(opened.fd)
        self.opened.clear()
        for artifact in self.artifacts.values():
            for sealed in artifact.pending:
                sealed.blocked = False

    def close(self) -> None:
        self.restart()


def escapes(tree: Tree) -> bool:
    """Whether a symlink leads out of the tree."""
    for path, item in tree.items():
        if item.kind == stat.S_IFLNK:
            target = os.fsdecode(item.content)
            leads = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            if leads.startswith("/") or leads.split("/")[0] == "..":
                return True
    return False


def _files(root: Path) -> list[str]:
    return [f"{top}/{name}" for top, _, names in os.walk(root) for name in names]


def read_tree(root: Path) -> Tree:
    """A tree on the local disk."""
    found: Tree = {}
    for directory, _, _ in os.walk(root):
        for name in os.listdir(directory):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            found[os.path.relpath(path, root)] = _item(
                status.st_mode,
                lambda path=path: Path(path).read_bytes(),  # type: ignore[misc]
                lambda path=path: os.readlink(path),  # type: ignore[misc]
            )
    return found


def read_drive(drive: Drive, root: str) -> Tree:
    """A tree on the drive."""
    return {
        path: _item(
            found.mode,
            lambda path=path: drive.read(f"{root}/{path}"),  # type: ignore[misc]
            lambda path=path: drive.readlink(f"{root}/{path}"),  # type: ignore[misc]
        )
        for path, found in drive.walk(root)
    }


def _item(mode: int, read: Callable[[], bytes], readlink: Callable[[], str]) -> Item:
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFLNK:
        return Item(kind, 0o777, os.fsencode(readlink()))
    return Item(kind, stat.S_IMODE(mode), read() if kind == stat.S_IFREG else b"")


def put_tree(tree: Tree, root: Path) -> None:
    """Make a tree on the local disk."""
    for path in sorted(tree):
        item, where = tree[path], root / path
        if item.kind == stat.S_IFDIR:
            where.mkdir()
        elif item.kind == stat.S_IFLNK:
            where.symlink_to(os.fsdecode(item.content))
        else:
            where.write_bytes(item.content)
        if item.kind != stat.S_IFLNK:
            where.chmod(item.mode)
