"""What the drive is made of: its nodes, their attributes and their inode numbers.

Nodes are small immutable values that name a place in the tree; the vfs gives them meaning. Pure, safe from any
thread. ::

    /                                Root
    /<collection>                    Collection
    /<collection>/<artifact>         Artifact
    …/v3  …/v3/a/b                   VersionNode   (a directory, file or symlink of a version)
    …/latest  …/<alias>              Alias         (a symlink)
    …/staging  …/staging/a/b         StagedNode    (writable)
    …/pending.1/…                    StagedNode    of a sealed tree (read-only)
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from artifactfs.manifest import EntryKind, Manifest
from artifactfs.names import check_name

if TYPE_CHECKING:
    from artifactfs.managers.base import VersionInfo
    from mount.staged_tree import StagedTree

ROOT_INO = 1
# Inode numbers made here have bit 62 set and bit 63 clear: they never meet those of a disk, and fit a signed number.
_INO_FLAG = 1 << 62
_INO_MASK = _INO_FLAG - 1
BLOCK_BYTES = 512


class Attrs(NamedTuple):
    """The answer of stat(2). `mode` has the file type bits; times are nanoseconds since the epoch; 512-byte `blocks`.

    `device` is that of the disk where a staged file lies: only with it `ino` says which file it is.
    """

    ino: int
    mode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    atime_ns: int
    uid: int
    gid: int
    nlink: int = 1
    blocks: int = 0
    rdev: int = 0
    device: int = 0


class Dirent(NamedTuple):
    """One name in a directory; `mode` has at least the file type bits."""

    name: str
    ino: int
    mode: int


class Caller(NamedTuple):
    """The program that asks; it owns what it makes where the daemon may give files away (as root)."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Root:
    """The top of the mount."""


@dataclass(frozen=True)
class Collection:
    """A top-level directory."""

    name: str


@dataclass(frozen=True)
class Artifact:
    """A directory that holds versions, aliases and the staging."""

    collection: str
    name: str

    @property
    def label(self) -> str:
        """``collection/artifact``, for messages."""
        return f"{self.collection}/{self.name}"


@dataclass(frozen=True)
class Alias:
    """A symlink from an alias (or ``latest``) to a version."""

    artifact: Artifact
    name: str
    version: str


@dataclass(frozen=True, eq=False)
class LoadedVersion:
    """A version whose manifest is in memory; shared by the nodes of all its files."""

    info: VersionInfo
    manifest: Manifest
    base_ino: int

    @property
    def memory_bytes(self) -> int:
        """What it costs to keep, for the cache."""
        return self.manifest.memory_bytes


class VersionNode(NamedTuple):
    """A place in a version. `position` is that in the manifest, None for the top and implied directories."""

    version: LoadedVersion
    path: str
    position: int | None


class StagedNode(NamedTuple):
    """A place in a staged tree, or in a sealed one looked up as ``pending.<n>``; `path` is relative, '' is its top."""

    tree: StagedTree
    path: str
    artifact: Artifact
    pending: str | None = None


Node = Root | Collection | Artifact | Alias | VersionNode | StagedNode

_TYPES = {EntryKind.FILE: stat.S_IFREG, EntryKind.DIRECTORY: stat.S_IFDIR, EntryKind.SYMLINK: stat.S_IFLNK}
KIND_MODES = tuple(_TYPES[kind] for kind in EntryKind)
"""The file type bits of each kind: a tuple, because to hash a member of an enum costs more than all else about it."""


def ino_of(*parts: str) -> int:
    """A stable inode number for what these names lead to, the same in every daemon and on every host."""
    digest = blake2b("\0".join(parts).encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return _INO_FLAG | (int.from_bytes(digest, "little") & _INO_MASK)


def ino_at(base: int, position: int) -> int:
    """The inode number of the file at a position of the version whose number is `base`."""
    return _INO_FLAG | ((base + position + 1) & _INO_MASK)


def join(directory: str, name: str) -> str:
    """The path of `name` in `directory`, where '' is the top. Raises InvalidName."""
    return f"{directory}/{check_name(name)}" if directory else check_name(name)
