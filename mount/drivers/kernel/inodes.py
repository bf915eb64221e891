"""The inode table: which node the kernel means by a node id, and how many lookups it holds of it.

Node ids come from three ranges, so that a number alone says what it is about::

    1 … 2³²-1     places       the root, collections, artifacts, aliases, tops of staged trees: a table by value
    2³² … 2³⁴-1   staged       `staged_inodes`
    2³⁴ …         versions     bits 34 up: the version; bit 0: 0 for an entry of the manifest, whose position is in
                               bits 1 to 33, 1 for a directory that is only implied, numbered as they are met

Versions never change, so their files need no table at all: looking up 10,000 of them makes no object. A version stays
loaded as long as the kernel knows any file of it. Numbers are never used twice.

Threading: safe from any thread. `_lock` guards the tables and the counts and is a leaf.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from mount.drivers.kernel.protocol import FUSE_ROOT_ID
from mount.drivers.kernel.staged_inodes import Anchor, StagedInodes
from mount.errors import Stale
from mount.tree import Alias, Artifact, Collection, LoadedVersion, Node, Root, StagedNode, VersionNode

FIRST_STAGED = 1 << 32
VERSION_BITS = 34
FIRST_VERSION = 1 << VERSION_BITS
_POSITION_MASK = FIRST_VERSION - 1


class TreeTop(NamedTuple):
    """The key of the top of a staged tree: ``staging``, or the sealed tree called `pending`."""

    artifact: Artifact
    pending: str | None


class _Place:
    __slots__ = ("key", "lookups", "node", "nodeid")

    def __init__(self, nodeid: int, key: Hashable, node: Node) -> None:
        self.nodeid = nodeid
        self.key = key
        self.node = node
        self.lookups = 0


class _Version:
    """A version the kernel knows files of."""

    __slots__ = ("base", "directories", "loaded", "lookups", "numbers", "prefilled")

    def __init__(self, number: int, loaded: LoadedVersion) -> None:
        self.base = number << VERSION_BITS
        self.loaded = loaded
        self.lookups = 0
        # Paths as the manifest stores them.
        self.directories: list[bytes] = []
        self.numbers: dict[str, int] = {}
        # A bit for each entry; empty while there is none.
        self.prefilled = bytearray()

    def directory(self, path: str) -> int:
        """The number of an implied directory."""
        number = self.numbers.get(path)
        if number is None:
            number = self.numbers[path] = len(self.directories)
            self.directories.append(os.fsencode(path))
        return number


class Inodes:
    """See the module docstring."""

    def __init__(self, staging: Callable[[Artifact], Node]) -> None:
        """`staging` gives the top of an artifact's staging as it is at this moment: a seal changes it."""
        self._staging = staging
        self.staged = StagedInodes(FIRST_STAGED)
        self._lock = threading.Lock()
        self._numbers = itertools.count(FUSE_ROOT_ID)
        self._places: dict[int, _Place] = {}
        self._by_key: dict[Hashable, _Place] = {}
        self._version_numbers = itertools.count(1)
        self._versions: dict[int, _Version] = {}
        self._by_version: dict[tuple[str, str, str], _Version] = {}
        self._anchors: dict[TreeTop, Anchor] = {}
        # Never forgotten.
        self.enter(Root())

    # -- from node ids to nodes ----------------------------------------------------------------------------------------

    def node(self, nodeid: int) -> Node:
        """The node that the kernel means. Raises Stale when it was never told of it, or that staging is removed."""
        if nodeid >= FIRST_VERSION:
            return self._version_node(nodeid)
        if nodeid >= FIRST_STAGED:
            return self.staged.get(nodeid).node()
        try:
            place = self._places[nodeid]
        except KeyError:
            raise Stale(f"no inode {nodeid}") from None
        key = place.key
        if not isinstance(key, TreeTop) or key.pending is not None:
            return place.node
        if self._by_key.get(key) is not place:
            raise Stale(f"{key.artifact.label} has been removed")
        return self._staging(key.artifact)

    def _version_node(self, nodeid: int) -> VersionNode:
        loaded, path = self.directory(nodeid)
        return VersionNode(loaded, os.fsdecode(path), None if nodeid & 1 else (nodeid & _POSITION_MASK) >> 1)

    def entry(self, nodeid: int) -> tuple[LoadedVersion, int] | None:
        """The version and the position of an entry of a manifest; None for any other inode."""
        version = self._versions.get(nodeid >> VERSION_BITS)
        return (version.loaded, (nodeid & _POSITION_MASK) >> 1) if version is not None and not nodeid & 1 else None

    def directory(self, nodeid: int) -> tuple[LoadedVersion, bytes]:
        """The version that an inode lies in, and its path there as the manifest stores it. Raises Stale."""
        version = self._versions.get(nodeid >> VERSION_BITS)
        if version is None:
            raise Stale(f"no inode {nodeid}")
        loaded, position = version.loaded, (nodeid & _POSITION_MASK) >> 1
        try:
            return loaded, version.directories[position] if nodeid & 1 else loaded.manifest.raw_path(position)
        except IndexError:
            raise Stale(f"no inode {nodeid}") from None

    def is_staged(self, nodeid: int) -> bool:
        """Tell whether an inode is the top of a staged tree, or below one."""
        place = self._places.get(nodeid)
        return FIRST_STAGED <= nodeid < FIRST_VERSION or (place is not None and isinstance(place.key, TreeTop))

    def known(self, node: Node) -> int | None:
        """The id of a place or the top of a staged tree, if the kernel knows it."""
        place = self._by_key.get(_key(node))
        return place.nodeid if place is not None else None

    def aliases_of(self, artifact: Artifact) -> list[str]:
        """The aliases of an artifact that the kernel knows."""
        with self._lock:
            return [key.name for key in self._by_key if isinstance(key, Alias) and key.artifact == artifact]

    def anchor(self, top: StagedNode) -> Anchor:
        """The anchor of a staged tree, given its top as it is at this moment."""
        key = TreeTop(top.artifact, top.pending)
        with self._lock:
            anchor = self._anchors.get(key)
            if anchor is None or anchor.tree is not top.tree:
                anchor = self._anchors[key] = Anchor(top)
            return anchor

    def removed(self, node: Collection | Artifact) -> None:
        """Give a directory made under the same name, and all in it, ids of their own.

        To the kernel the inode of a removed directory stays dead for as long as any program holds it.
        """
        with self._lock:
            for key in [key for key in self._by_key if _lies_in(key, node)]:
                self._drop_key(key)

    # -- lookups -------------------------------------------------------------------------------------------------------

    def enter(self, node: Node) -> int:
        """The id of a node that is not below the top of a staged tree; counts one lookup."""
        with self._lock:
            if isinstance(node, VersionNode):
                return self._enter_version(node)
            key = _key(node)
            place = self._by_key.get(key)
            if place is None:
                place = _Place(next(self._numbers), key, node)
                self._places[place.nodeid] = self._by_key[key] = place
            place.lookups += 1
            place.node = node
            return place.nodeid

    def _enter_version(self, node: VersionNode) -> int:
        loaded = node.version
        info = loaded.info
        key = (info.collection, info.artifact, info.version)
        version = self._by_version.get(key)
        if version is None or (version.loaded is not loaded and version.loaded.info.digest != info.digest):
            number = next(self._version_numbers)
            version = self._versions[number] = self._by_version[key] = _Version(number, loaded)
        version.lookups += 1
        if node.position is None:
            return version.base | version.directory(node.path) << 1 | 1
        return version.base | node.position << 1

    def version_base(self, nodeid: int) -> int:
        """What positions in the version of `nodeid` are added to: see `enter_at`."""
        return nodeid >> VERSION_BITS << VERSION_BITS

    def enter_at(self, base: int, position: int) -> int:
        """The id of the entry at a position of the version that `version_base` gave; counts one lookup."""
        with self._lock:
            self._versions[base >> VERSION_BITS].lookups += 1
        return base | position << 1

    def ids_at(self, base: int, positions: Sequence[int]) -> list[int]:
        """As `enter_at`, of many positions, without counting: see `note_lookups`."""
        return [base | position << 1 for position in positions]

    def note_lookups(self, base: int, count: int) -> None:
        """The kernel is told of so many ids that `ids_at` gave."""
        with self._lock:
            self._versions[base >> VERSION_BITS].lookups += count

    def is_prefilled(self, nodeid: int) -> bool:
        """Tell whether `note_prefilled` was called for an entry since the kernel last forgot it."""
        version = self._versions[nodeid >> VERSION_BITS]
        byte, mask = _bit_of(nodeid)
        return bool(version.prefilled and version.prefilled[byte] & mask)

    def note_prefilled(self, nodeid: int) -> None:
        """The kernel was given the bytes of an entry that it knows."""
        byte, mask = _bit_of(nodeid)
        with self._lock:
            version = self._versions[nodeid >> VERSION_BITS]
            if not version.prefilled:
                version.prefilled = bytearray(len(version.loaded.manifest) // 8 + 1)
            version.prefilled[byte] |= mask

    def forget(self, nodeid: int, count: int) -> None:
        """The kernel lets go of so many lookups. What it was never told of is ignored."""
        if FIRST_STAGED <= nodeid < FIRST_VERSION:
            self.staged.forget(nodeid, count)
            return
        with self._lock:
            if nodeid >= FIRST_VERSION:
                self._forget_version(nodeid, count)
                return
            place = self._places.get(nodeid)
            if place is None or nodeid == FUSE_ROOT_ID:
                return
            place.lookups -= count
            if place.lookups <= 0:
                del self._places[nodeid]
                # Since a removal the key may be that of another place.
                if self._by_key.get(place.key) is place:
                    self._drop_key(place.key)

    def _drop_key(self, key: Hashable) -> None:
        del self._by_key[key]
        if isinstance(key, TreeTop):
            self._anchors.pop(key, None)

    def _forget_version(self, nodeid: int, count: int) -> None:
        number = nodeid >> VERSION_BITS
        version = self._versions.get(number)
        if version is None:
            return
        byte, mask = _bit_of(nodeid)
        if not nodeid & 1 and byte < len(version.prefilled):
            version.prefilled[byte] &= ~mask
        version.lookups -= count
        if version.lookups <= 0:
            del self._versions[number]
            info = version.loaded.info
            key = (info.collection, info.artifact, info.version)
            if self._by_version.get(key) is version:
                del self._by_version[key]

    def __len__(self) -> int:
        """How many the kernel knows, a version counted as one."""
        return len(self._places) + len(self._versions) + len(self.staged)

    def close(self) -> None:
        """Let go of what is held open."""
        self.staged.close()


def _bit_of(nodeid: int) -> tuple[int, int]:
    """Which byte of `_Version.prefilled` tells of an entry, and the mask of its bit there."""
    position = (nodeid & _POSITION_MASK) >> 1
    return position >> 3, 1 << (position & 7)


def _key(node: Node) -> Hashable:
    return TreeTop(node.artifact, node.pending) if isinstance(node, StagedNode) else node


def _lies_in(key: Hashable, node: Collection | Artifact) -> bool:
    """Tell whether a key is that of a collection or artifact, or of anything below."""
    artifact = key.artifact if isinstance(key, (TreeTop, Alias)) else key
    if isinstance(node, Collection) and isinstance(artifact, Artifact):
        return artifact.collection == node.name
    return artifact == node
