"""The inode table against a model: names that come, go and move, in the order the kernel may tell of them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from artifactfs.managers.filesystem import FileSystemArtifactManager
from mount.descriptors import OwnedFd
from mount.drivers.kernel.inodes import FIRST_STAGED, FIRST_VERSION, Inodes
from mount.drivers.kernel.staged_inodes import Anchor, StagedInode, StagedInodes
from mount.errors import Stale
from mount.settings import MountSettings
from mount.tree import Alias, Artifact, Collection, Node, Root, StagedNode, VersionNode
from mount.vfs import Vfs

NAMES = st.sampled_from("abc")
FILE, DIRECTORY = 0o100644, 0o040755
DISK = 66


class StagedMachine(RuleBasedStateMachine):
    """A tree with hard links. The kernel looks up what it likes and forgets it again."""

    def __init__(self) -> None:
        super().__init__()
        top = StagedNode(cast(Any, object()), "", Artifact("c", "a"))
        self.table = StagedInodes(FIRST_STAGED)
        self.anchor = Anchor(top)
        self.inos = iter(range(100, 10**9))
        # (number of the directory or None, name) → number; number → mode
        self.entries: dict[tuple[int | None, str], int] = {}
        self.modes: dict[int, int] = {}
        # What the kernel holds: number on disk → (inode, lookups).
        self.held: dict[int, tuple[StagedInode, int]] = {}

    def teardown(self) -> None:
        self.table.close()

    # -- the model -----------------------------------------------------------------------------------------------------

    def directory(self, choice: int) -> int | None:
        """One of the directories that the kernel knows, the top among them."""
        known = [ino for ino in self.held if self.modes[ino] == DIRECTORY and ino in self.entries.values()]
        return [None, *known][choice % (len(known) + 1)]

    def paths(self, ino: int) -> set[str]:
        """All paths of a file."""
        found = set()
        for (parent, name), each in self.entries.items():
            if each == ino:
                found |= {name} if parent is None else {f"{above}/{name}" for above in self.paths(parent)}
        return found

    def name_of(self, parent: int | None, name: str) -> tuple[StagedInode | None, str]:
        return (None if parent is None else self.held[parent][0], name)

    def is_below(self, ino: int, parent: int | None) -> bool:
        while parent is not None:
            if parent == ino:
                return True
            parent = next((above for (above, _), each in self.entries.items() if each == parent), None)
        return False

    # -- what happens --------------------------------------------------------------------------------------------------

    @rule(choice=st.integers(0, 9), name=NAMES, is_directory=st.booleans())
    def make(self, choice: int, name: str, is_directory: bool) -> None:
        parent = self.directory(choice)
        if (parent, name) not in self.entries:
            ino = self.entries[parent, name] = next(self.inos)
            self.modes[ino] = DIRECTORY if is_directory else FILE
            self.look_up(choice, name)

    @rule(choice=st.integers(0, 9), name=NAMES)
    def look_up(self, choice: int, name: str) -> None:
        parent = self.directory(choice)
        ino = self.entries.get((parent, name))
        if ino is not None:
            inode = self.table.enter(self.anchor, self.name_of(parent, name), (DISK, ino), self.modes[ino])
            known, count = self.held.get(ino, (inode, 0))
            assert inode is known
            self.held[ino] = (inode, count + 1)

    @rule(choice=st.integers(0, 9), name=NAMES, source=st.integers(0, 9))
    def link(self, choice: int, name: str, source: int) -> None:
        parent = self.directory(choice)
        files = [ino for ino in self.entries.values() if self.modes[ino] == FILE and ino in self.held]
        if files and (parent, name) not in self.entries:
            self.entries[parent, name] = files[source % len(files)]
            self.look_up(choice, name)

    @rule(choice=st.integers(0, 9), name=NAMES)
    def remove(self, choice: int, name: str) -> None:
        parent = self.directory(choice)
        ino = self.entries.get((parent, name))
        if ino is None or any(above == ino for above, _ in self.entries):
            return
        del self.entries[parent, name]
        self.lose(ino, parent, name)

    def lose(self, ino: int, parent: int | None, name: str) -> None:
        inode = self.table.find(self.anchor, (DISK, ino))
        if inode is not None:
            self.table.lost(inode, self.name_of(parent, name), OwnedFd(os.open("/", os.O_PATH)))

    @rule(old=st.integers(0, 9), name=NAMES, new=st.integers(0, 9), new_name=NAMES)
    def rename(self, old: int, name: str, new: int, new_name: str) -> None:
        source, target = (self.directory(old), name), (self.directory(new), new_name)
        ino, replaced = self.entries.get(source), self.entries.get(target)
        if ino is None or ino == replaced or self.is_below(ino, target[0]):
            return
        if replaced is not None and (self.modes[replaced] != self.modes[ino] or self.modes[ino] == DIRECTORY):
            return
        moved = self.table.find(self.anchor, (DISK, ino))
        if replaced is not None:
            self.lose(replaced, *target)
        self.entries[target] = self.entries.pop(source)
        if moved is not None:
            self.table.moved(moved, self.name_of(*source), self.name_of(*target))

    @precondition(lambda self: self.held)
    @rule(choice=st.integers(0, 99), everything=st.booleans())
    def forget(self, choice: int, everything: bool) -> None:
        # The kernel keeps a directory for as long as it knows anything in it.
        pinned = {parent for (parent, _), ino in self.entries.items() if ino in self.held and parent is not None}
        free = sorted(self.held.keys() - pinned)
        if free:
            ino = free[choice % len(free)]
            inode, count = self.held[ino]
            gone = count if everything else 1
            self.table.forget(inode.nodeid, gone)
            if count > gone:
                self.held[ino] = (inode, count - gone)
            else:
                del self.held[ino]

    # -- what must hold ------------------------------------------------------------------------------------------------

    @invariant()
    def the_kernel_is_understood(self) -> None:
        """An inode leads to one of its names for as long as it has one, and to a descriptor after that."""
        assert len(self.table) == len(self.held)
        assert len({inode.nodeid for inode, _ in self.held.values()}) == len(self.held)
        for ino, (inode, count) in self.held.items():
            assert self.table.get(inode.nodeid) is inode
            assert inode.lookups == count
            paths = self.paths(ino)
            if inode.name is None:
                # Names it has besides were never looked up.
                assert inode.fd is not None
            else:
                assert inode.node().path in paths
            if not paths:
                assert inode.fd is not None
                with pytest.raises(Stale):
                    inode.node()


TestStagedMachine = StagedMachine.TestCase
TestStagedMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@pytest.fixture(scope="module")
def vfs() -> Any:
    """A store with a version of some files, some directories of which are only implied."""
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "source")
        (source / "deep/er").mkdir(parents=True)
        for name in ("a", "b", "deep/c", "deep/er/d"):
            (source / name).write_bytes(name.encode())
        manager = FileSystemArtifactManager(str(Path(directory, "store")))
        manager.log_files("a", source, "c")
        where = Path(directory)
        given = MountSettings("store", where, read_only=True, state_dir=where / "state", cache_dir=where / "cache")
        vfs = Vfs(manager, given, None, None, driver="kernel", log_file=None)
        yield vfs
        vfs.close()


def table() -> Inodes:
    """One of a read-only mount."""

    def no_staging(artifact: Artifact) -> Node:
        raise AssertionError(artifact)

    return Inodes(no_staging)


def test_nodes_of_versions_need_no_table(vfs: Vfs) -> None:
    """A number leads to the same node every time, and one lookup of many holds the whole version."""
    inodes = table()
    paths = ["", "a", "b", "deep", "deep/c", "deep/er", "deep/er/d"]
    nodes = [vfs.resolve(f"/c/a/v0/{path}".rstrip("/")) for path in paths]
    ids = [inodes.enter(node) for node in nodes]
    assert len(set(ids)) == len(ids)
    assert min(ids) >= FIRST_VERSION
    for nodeid, node, path in zip(ids, nodes, paths, strict=True):
        found = inodes.node(nodeid)
        assert isinstance(found, VersionNode)
        assert found == node
        assert found.path == path
    assert len(inodes) == 2
    for nodeid in ids[1:]:
        inodes.forget(nodeid, 1)
    assert inodes.node(ids[3]) == nodes[3]
    inodes.forget(ids[0], 1)
    with pytest.raises(Stale):
        inodes.node(ids[0])
    assert len(inodes) == 1
    # And again, under numbers that were never used.
    assert inodes.enter(nodes[1]) not in ids


def test_what_is_prefilled_is_known_until_it_is_forgotten(vfs: Vfs) -> None:
    """For each entry by itself; with the version all of it goes."""
    inodes = table()
    a, b, deep = (inodes.enter(vfs.resolve(f"/c/a/v0/{path}")) for path in ("a", "b", "deep"))
    for nodeid in (a, b):
        assert not inodes.is_prefilled(nodeid)
        inodes.note_prefilled(nodeid)
        assert inodes.is_prefilled(nodeid)
    inodes.forget(deep, 1)
    inodes.forget(a, 1)
    assert not inodes.is_prefilled(a)
    assert inodes.is_prefilled(b)
    inodes.forget(b, 1)
    assert not inodes.is_prefilled(inodes.enter(vfs.resolve("/c/a/v0/b")))


def test_entries_and_directories_are_found_without_a_node(vfs: Vfs) -> None:
    """As their nodes are: the version and the position of what is listed, and the paths of directories as stored."""
    inodes = table()
    for path in ("", "a", "deep", "deep/c", "deep/er", "deep/er/d"):
        node = vfs.resolve(f"/c/a/v0/{path}".rstrip("/"))
        assert isinstance(node, VersionNode)
        nodeid = inodes.enter(node)
        assert inodes.entry(nodeid) == (None if node.position is None else (node.version, node.position))
        assert inodes.directory(nodeid) == (node.version, os.fsencode(path))
        if node.position is not None:
            attrs = vfs.getattr(node)
            assert vfs.stat_at(node.version, node.position) == attrs[:4]
    for nothing in (FIRST_VERSION << 5, nodeid + 1000):
        with pytest.raises(Stale):
            inodes.directory(nothing)
    assert inodes.entry(FIRST_VERSION << 5) is None


def test_places_are_found_by_what_they_are() -> None:
    """A collection is one inode however often it is looked up; an alias that moved is another."""
    inodes = table()
    assert inodes.node(1) == Root()
    collection = inodes.enter(Collection("c"))
    assert inodes.enter(Collection("c")) == collection
    artifact = Artifact("c", "a")
    old, new = inodes.enter(Alias(artifact, "latest", "v0")), inodes.enter(Alias(artifact, "latest", "v1"))
    assert old != new
    assert inodes.aliases_of(artifact) == ["latest", "latest"]
    inodes.forget(collection, 1)
    assert inodes.node(collection) == Collection("c")
    inodes.forget(collection, 1)
    with pytest.raises(Stale):
        inodes.node(collection)
    inodes.forget(1, 1 << 40)
    assert inodes.node(1) == Root()


@pytest.mark.parametrize("nodeid", [0, 2, 1 << 33, FIRST_VERSION, FIRST_VERSION | 1, (1 << 64) - 1])
def test_numbers_of_nothing(nodeid: int) -> None:
    """Are stale, and forgetting them does nothing."""
    inodes = table()
    with pytest.raises(Stale):
        inodes.node(nodeid)
    inodes.forget(nodeid, 5)
    assert len(inodes) == 1


def test_a_number_of_another_disk_is_another_file() -> None:
    """An overlay shows files of several disks, and each disk counts from one."""
    table = StagedInodes(FIRST_STAGED)
    anchor = Anchor(StagedNode(cast(Any, object()), "", Artifact("c", "a")))
    one = table.enter(anchor, (None, "one"), (DISK, 5), FILE)
    other = table.enter(anchor, (None, "other"), (DISK + 1, 5), FILE)
    assert one is not other
    assert table.find(anchor, (DISK, 5)) is one
    assert (one.name, other.name) == ((None, "one"), (None, "other"))
