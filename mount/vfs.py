"""The drive itself: what every operation does on every kind of node. No FUSE types, no errno.

`SEMANTICS.md` is the contract. Neighbours: drivers translate the kernel's requests into these calls; `finder` finds
nodes, `listing` knows what the store holds, `staging` what has been written, `handles` the open files, `attributes`
the control surface.

Threading: every method is safe from any thread; the vfs itself has no lock.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from artifactfs import names
from artifactfs.errors import InvalidName
from artifactfs.managers.base import ArtifactManager
from artifactfs.manifest import EntryKind
from mount import attributes
from mount.area import NO_COLLECTION, StagingArea, is_trash
from mount.committer import Committer
from mount.control import Status
from mount.errors import CrossTree, NotPermitted, ReadOnly, Stale
from mount.faults import Faults
from mount.finder import HELD_LINK, Finder
from mount.handles import Handle, StagedFile, VersionReader
from mount.listing import Listing, memory_of
from mount.references import ATTRIBUTE_BLOCKS
from mount.settings import MountSettings
from mount.small_files import SmallFiles
from mount.staging import ArtifactStaging
from mount.states import States
from mount.tree import (
    BLOCK_BYTES,
    KIND_MODES,
    ROOT_INO,
    Alias,
    Artifact,
    Attrs,
    Caller,
    Collection,
    Dirent,
    LoadedVersion,
    Node,
    Root,
    StagedNode,
    VersionNode,
    ino_at,
    ino_of,
    join,
)

logger = logging.getLogger(__name__)

DIRECTORY_MODE = 0o755
_RESERVED = (names.LATEST, names.STAGING)
# Not only versions themselves: v007 beside v7 would only confuse.
_LIKE_VERSION = re.compile(r"v[0-9]+\Z")


class Vfs:
    """See the module docstring. `area` and `committer` are None on a read-only mount."""

    def __init__(
        self,
        manager: ArtifactManager,
        settings: MountSettings,
        area: StagingArea | None,
        committer: Committer | None,
        *,
        driver: str,
        log_file: Path | None,
    ) -> None:
        self.manager = manager
        self.settings = settings
        self.area = area
        self.committer = committer
        self.driver = driver
        self.log_file = log_file
        self.started_at = time.time()
        self._uid, self._gid, self._shown = settings.uid, settings.gid, ~settings.umask
        # Told by three system calls, and needed for every stat(2) of a staged file.
        self._keeps_owner = settings.keeps_owner
        self._memory = memory_of(manager, settings)
        created_ns = manager.created_ns if self._memory is None else self._memory.identity(manager).created_ns
        self._store_created_ns = created_ns or int(self.started_at * 1e9)
        self.listing = Listing(manager, settings.refresh_s, self._memory)
        self.reader = VersionReader(manager, settings) if area is None else area.reader
        self.small_files = SmallFiles(self.reader)
        self.faults = Faults() if area is None else area.faults
        self.states = None if area is None else States(area, settings.commit_after_s)
        self._finder = Finder(manager, self.listing, area, self._memory)
        self.reads = ""
        """Set by the driver: by which way programs get the bytes of versions, and why."""
        self.count_inodes: Callable[[], int | None] = lambda: None
        """Set by the driver: how many inodes it holds for the kernel."""
        self.on_change: Callable[[Artifact], None] = lambda artifact: None
        """Set by the driver; called in a committer's thread, with no lock held, when a version or an alias appeared."""

    def close(self) -> None:
        """Let go of open descriptors, and fetch nothing more."""
        self.small_files.close()
        self.reader.close()
        self.listing.close()
        if self._memory is not None:
            self._memory.close()

    # -- finding nodes ----------------------------------------------------------------------------------------------

    def resolve(self, path: str) -> Node:
        """As `Finder.resolve`."""
        return self._finder.resolve(path)

    def lookup(self, parent: Node, name: str) -> Node:
        """As `Finder.lookup`."""
        return self._finder.lookup(parent, name)

    def version_of(self, collection: str, artifact: str, name: str) -> LoadedVersion:
        """The version of an artifact called `name`: ``v3``, ``latest`` or an alias. Raises VersionNotFound."""
        return self._finder.version_of(Artifact(collection, artifact), name)

    def staging_of(self, node: Node) -> ArtifactStaging:
        """As `Finder.staging_of`."""
        return self._finder.staging_of(node)

    def on_commit(self, collection: str, artifact: str) -> None:
        """A version was committed here: the next listing shows it, and what a driver's caller believes is put right."""
        self.listing.forget(collection, artifact)
        self.listing.learn(collection, artifact)
        self.on_change(Artifact(collection, artifact))

    def _writable(self, node: Node, doing: str) -> StagedNode:
        """`node` when it is in staging; raises ReadOnly with the reason otherwise, which is logged."""
        if isinstance(node, StagedNode) and node.pending is None:
            return node
        if isinstance(node, StagedNode):
            why = f"{node.artifact.label}/{node.pending} is sealed for its commit"
        elif isinstance(node, (VersionNode, Alias)):
            why = "versions and aliases do not change"
        elif self.area is None:
            why = "the mount is read-only"
        else:
            why = "files belong into <collection>/<artifact>/staging/"
        logger.info("refused %s: %s", doing, why)
        raise ReadOnly(f"{doing}: {why}")

    # -- attributes -------------------------------------------------------------------------------------------------

    def getattr_of(self, handle: Handle) -> Attrs:
        """What fstat(2) tells of an open file, which may have lost its name."""
        if isinstance(handle, StagedFile):
            attrs = self._disk_attrs(os.fstat(handle.fd))
            return attrs._replace(blocks=_full_blocks(attrs)) if handle.is_reference else attrs
        return self._version_attrs(handle.node)

    def getattr_of_fd(self, fd: int) -> Attrs:
        """What fstat(2) tells of a staged file that a descriptor stands for. Raises OSError."""
        return self._disk_attrs(os.fstat(fd))

    def lifetime_s(self, node: Node) -> float:
        """For how many seconds a name in the root, a collection or an artifact leads where it was found to lead.

        Changes made through this mount are told by `on_change` before.
        """
        if isinstance(node, VersionNode):
            return self.listing.lifetime_s(node.version.info.collection, node.version.info.artifact)
        if isinstance(node, (Alias, StagedNode)):
            return self.listing.lifetime_s(node.artifact.collection, node.artifact.name)
        if isinstance(node, Artifact):
            return self.listing.lifetime_s(node.collection, node.name)
        return self.listing.lifetime_s(node.name if isinstance(node, Collection) else None)

    def getattr(self, node: Node) -> Attrs:
        """What stat(2) tells of a node. Raises OSError (in staging)."""
        if isinstance(node, VersionNode):
            return self._version_attrs(node)
        if isinstance(node, StagedNode):
            return self._staged_attrs(node)
        if isinstance(node, Alias):
            ino = ino_of("alias", node.artifact.collection, node.artifact.name, node.name)
            return self._made_attrs(ino, stat.S_IFLNK | 0o777, len(os.fsencode(node.version)))
        return self._made_attrs(self._ino(node), stat.S_IFDIR | DIRECTORY_MODE)

    def _ino(self, node: Root | Collection | Artifact) -> int:
        if isinstance(node, Collection):
            return ino_of("collection", node.name)
        if isinstance(node, Artifact):
            return ino_of("artifact", node.collection, node.name)
        return ROOT_INO

    def _made_attrs(self, ino: int, mode: int, size_bytes: int = 0, time_ns: int | None = None) -> Attrs:
        when = self._store_created_ns if time_ns is None else time_ns
        blocks = -(-size_bytes // BLOCK_BYTES) if stat.S_ISREG(mode) else 0
        return Attrs(ino, mode & self._shown, size_bytes, when, when, when, self._uid, self._gid, 1, blocks)

    def _version_attrs(self, node: VersionNode) -> Attrs:
        version, path, position = node
        if position is not None:
            return self.attrs_at(version, position)
        ino = ino_of("directory", str(version.base_ino), path) if path else version.base_ino
        return self._made_attrs(ino, stat.S_IFDIR | DIRECTORY_MODE, 0, version.info.created_ns)

    def attrs_at(self, version: LoadedVersion, position: int) -> Attrs:
        """What stat(2) tells of the entry at a position of a version."""
        ino, mode, size_bytes, mtime_ns = self.stat_at(version, position)
        return self._made_attrs(ino, mode, size_bytes, mtime_ns)

    def stat_at(self, version: LoadedVersion, position: int) -> tuple[int, int, int, int]:
        """(inode number, mode, size in bytes, mtime_ns) of it: that in which the attributes of entries differ."""
        kind, mode, size_bytes, mtime_ns = version.manifest.stat_at(position)
        shown = (KIND_MODES[kind] | mode) & self._shown
        return ino_at(version.base_ino, position), shown, size_bytes, mtime_ns

    def stats_at(self, version: LoadedVersion, positions: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
        """As `stat_at`, of many positions, in less time."""
        base, shown = version.base_ino, self._shown
        found = map(version.manifest.stat_at, positions)
        for position, (kind, mode, size_bytes, mtime_ns) in zip(positions, found, strict=True):
            yield ino_at(base, position), (KIND_MODES[kind] | mode) & shown, size_bytes, mtime_ns

    def _staged_attrs(self, node: StagedNode) -> Attrs:
        if node.path:
            attrs = self._disk_attrs(node.tree.stat(node.path))
            if attrs.blocks <= ATTRIBUTE_BLOCKS < attrs.size_bytes // BLOCK_BYTES and node.tree.refers(node.path):
                return attrs._replace(blocks=_full_blocks(attrs))
            return attrs
        ino = ino_of("staging", node.artifact.collection, node.artifact.name, node.pending or "")
        try:
            top = self._disk_attrs(node.tree.stat(""))
        except FileNotFoundError:
            if node.pending is not None:
                raise
            return self._made_attrs(ino, stat.S_IFDIR | DIRECTORY_MODE)
        # The number is not the disk's: a seal puts another directory in its place.
        return top._replace(ino=ino, nlink=1)

    def _disk_attrs(self, found: os.stat_result) -> Attrs:
        return Attrs(
            found.st_ino,
            found.st_mode & self._shown,
            found.st_size,
            found.st_mtime_ns,
            found.st_ctime_ns,
            found.st_atime_ns,
            found.st_uid if self._keeps_owner else self._uid,
            found.st_gid if self._keeps_owner else self._gid,
            found.st_nlink,
            found.st_blocks,
            found.st_rdev,
            found.st_dev,
        )

    def readlink(self, node: Node) -> str:
        """Where a symlink points. Raises OSError."""
        if isinstance(node, Alias):
            return node.version
        if isinstance(node, StagedNode):
            return node.tree.readlink(node.path)
        if isinstance(node, VersionNode) and node.position is not None:
            target = node.version.manifest[node.position].target
            if target is not None:
                return target
        raise InvalidName("not a symlink")

    def statfs(self) -> os.statvfs_result:
        """The room on the disk that staged files go to; of the state directory when nothing can be staged."""
        if self.area is None:
            return os.statvfs(self.manager.local_root or self.settings.state_dir)
        found = os.statvfs(self.area.root)
        usable = self.area.room.free_bytes() // found.f_frsize
        fields = list(found)
        fields[3] = fields[4] = usable  # f_bfree, f_bavail
        return os.statvfs_result(fields)

    def sync(self) -> None:
        """Make everything staged durable. Raises OSError."""
        if self.area is not None:
            self.area.sync()

    # -- directories ------------------------------------------------------------------------------------------------

    def readdir(self, node: Node) -> Iterator[Dirent]:
        """What a directory holds, without '.' and '..'. Raises NotADirectoryError, StoreUnreachable."""
        if isinstance(node, Root):
            local = self.area.local_collections() if self.area else []
            return (
                Dirent(name, ino_of("collection", name), stat.S_IFDIR)
                for name in sorted(self.listing.collections().union(local))
            )
        if isinstance(node, Collection):
            local = self.area.local_artifacts(node.name) if self.area else []
            return (
                Dirent(name, ino_of("artifact", node.name, name), stat.S_IFDIR)
                for name in sorted(self.listing.artifacts(node.name).union(local))
            )
        if isinstance(node, Artifact):
            return iter(self._list_artifact(node))
        if isinstance(node, VersionNode):
            return self._list_version(node)
        if isinstance(node, StagedNode):
            return iter(node.tree.list(node.path))
        raise NotADirectoryError(node.name)

    def _list_artifact(self, node: Artifact) -> list[Dirent]:
        key = (node.collection, node.name)
        found = [Dirent(v, ino_of("version", *key, v), stat.S_IFDIR) for v in self.listing.versions(*key)]
        found += [Dirent(a, ino_of("alias", *key, a), stat.S_IFLNK) for a in sorted(self.listing.aliases(*key))]
        if self._finder.has_staging(node):
            staging = self._finder.staging(node)
            with staging.lock:
                pending = [p.name for p in staging.pending]
            found += [Dirent(name, ino_of("staging", *key, name), stat.S_IFDIR) for name in pending]
            found.append(Dirent(names.STAGING, ino_of("staging", *key, ""), stat.S_IFDIR))
            if self._finder.why_held(node) is not None:
                found.append(Dirent(HELD_LINK, ino_of("alias", *key, HELD_LINK), stat.S_IFLNK))
        return found

    def _list_version(self, node: VersionNode) -> Iterator[Dirent]:
        version, manifest = node.version, node.version.manifest
        if not manifest.is_directory(node.path):
            raise NotADirectoryError(node.path)
        for name, position in manifest.children(node.path):
            if position is None:
                ino = ino_of("directory", str(version.base_ino), join(node.path, name))
                yield Dirent(name, ino, stat.S_IFDIR)
            else:
                yield Dirent(name, ino_at(version.base_ino, position), KIND_MODES[manifest.kind(position)])

    def mkdir(self, parent: Node, name: str, mode: int, caller: Caller) -> None:
        """A new collection, artifact, or directory in staging. Raises InvalidName, ReadOnly, NotPermitted, OSError."""
        if isinstance(parent, StagedNode):
            tree_node = self._writable(parent, f"mkdir {name}")
            tree_node.tree.mkdir(join(tree_node.path, name), mode, caller)
            return
        if self.area is None or isinstance(parent, (VersionNode, Alias)):
            self._writable(parent, f"mkdir {name}")
        assert self.area is not None
        if isinstance(parent, Artifact):
            logger.info("refused mkdir %s/%s: versions are made by writing to staging/", parent.label, name)
            raise NotPermitted(f"mkdir {name}: versions are made by writing to staging/")
        if isinstance(parent, Root) and is_trash(name):
            self.area.make_trash(name, mode, caller)
            return
        try:
            self._check_new_name(parent, name)
        except InvalidName as error:
            logger.info("refused mkdir %s: %s", name, error)
            raise
        if isinstance(parent, Root):
            if name in self.listing.collections():
                raise FileExistsError(name)
            self.area.make_collection(name)
        elif isinstance(parent, Collection):
            if name in self.listing.artifacts(parent.name):
                raise FileExistsError(name)
            self.area.make_artifact(parent.name, name)

    def _check_new_name(self, parent: Node, name: str) -> None:
        if name in _RESERVED or _LIKE_VERSION.match(name) or name.startswith(names.PENDING_PREFIX):
            raise InvalidName(f"invalid name {name!r}: it is kept for versions, latest, staging and pending")
        if isinstance(parent, Root):
            names.check_collection(name)
        else:
            names.check_artifact(name)

    def rmdir(self, parent: Node, name: str) -> None:
        """Remove an empty directory in staging, or an artifact or collection that exists only here. Raises OSError."""
        node = self.lookup(parent, name)
        if isinstance(node, StagedNode) and node.path:
            staged = self._writable(node, f"rmdir {name}")
            staged.tree.rmdir(staged.path)
        elif isinstance(node, StagedNode):
            logger.info("refused rmdir %s of %s", name, node.artifact.label)
            raise NotPermitted(f"rmdir {name}: it belongs to the artifact")
        elif isinstance(node, Artifact) and self.area and not self.listing.versions(node.collection, node.name):
            self.area.remove_artifact(node.collection, node.name)
        elif isinstance(node, Collection) and self.area and node.name not in self.listing.collections():
            self.area.remove_collection(node.name)
        else:
            self._writable(node, f"rmdir {name}")

    # -- files ------------------------------------------------------------------------------------------------------

    def open(self, node: Node, flags: int) -> Handle:
        """Open an existing file. Raises ReadOnly, IsADirectoryError, Stale, IntegrityError, OSError."""
        if isinstance(node, StagedNode):
            if flags & (os.O_ACCMODE | os.O_TRUNC):
                self._writable(node, f"writing {node.path}")
            try:
                return node.tree.open(node.path, flags)
            except FileNotFoundError as error:
                # The kernel has looked it up a moment ago: sealed or removed since. It looks again on Stale.
                raise Stale(f"{node.path} is gone") from error
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            self._writable(node, "writing")
        if isinstance(node, VersionNode) and node.position is not None:
            entry = node.version.manifest[node.position]
            if entry.kind is EntryKind.FILE:
                return self.reader.open(node, entry)
        raise IsADirectoryError("not a file")

    def create(self, parent: Node, name: str, flags: int, mode: int, caller: Caller) -> tuple[Node, StagedFile]:
        """Create (or open, without O_EXCL) a file in staging. Raises ReadOnly, OSError."""
        into = self._writable(parent, f"creating {name}")
        node = into._replace(path=join(into.path, name))
        return node, node.tree.create(node.path, flags, mode, caller)

    def mknod(self, parent: Node, name: str, mode: int, caller: Caller, device: int = 0) -> None:
        """A file, fifo, socket or device (number as of os.makedev) in staging. Raises NotPermitted, ReadOnly, OSError.

        That the caller may make devices is for the driver's kernel to check.
        """
        into = self._writable(parent, f"creating {name}")
        into.tree.mknod(join(into.path, name), mode, caller, device)

    def symlink(self, parent: Node, name: str, target: str, caller: Caller) -> None:
        """A symlink in staging. Raises ReadOnly, OSError."""
        into = self._writable(parent, f"linking {name}")
        into.tree.symlink(join(into.path, name), target, caller)

    def link(self, node: Node, parent: Node, name: str) -> None:
        """A hard link within one staging. Raises ReadOnly, CrossTree, OSError."""
        into = self._writable(parent, f"linking {name}")
        if not isinstance(node, StagedNode) or node.tree is not into.tree:
            raise CrossTree(f"linking {name}: both ends must lie in the same staging")
        into.tree.link(node.path, join(into.path, name))

    def unlink(self, parent: Node, name: str) -> None:
        """Remove a file in staging. Raises ReadOnly, OSError."""
        if isinstance(parent, StagedNode):
            staged = self._writable(parent, f"removing {name}")
            staged.tree.unlink(join(staged.path, name))
        else:
            self._writable(self.lookup(parent, name), f"removing {name}")

    def rename(self, parent: Node, name: str, new_parent: Node, new_name: str, flags: int = 0) -> None:
        """Rename within one staging; `flags` as in renameat2(2). Raises ReadOnly, NotPermitted, CrossTree, OSError."""
        if not isinstance(parent, (StagedNode, VersionNode)):
            logger.info("refused renaming %s to %s", name, new_name)
            raise NotPermitted(f"renaming {name}: collections, artifacts and versions keep their names")
        source = self._writable(parent, f"renaming {name}")
        target = self._writable(new_parent, f"renaming to {new_name}")
        if source.tree is not target.tree:
            if (source.artifact.collection == NO_COLLECTION) == (target.artifact.collection == NO_COLLECTION):
                raise CrossTree(f"renaming {name}: to another staging it has to be copied")
            source.tree.rename_into(target.tree, join(source.path, name), join(target.path, new_name), flags)
            return
        source.tree.rename(join(source.path, name), join(target.path, new_name), flags)

    # -- changing attributes ----------------------------------------------------------------------------------------

    def chmod(self, node: Node, mode: int) -> None:
        """Change permissions in staging. Raises ReadOnly, OSError."""
        staged = self._writable(node, "chmod")
        staged.tree.chmod(staged.path, mode)

    def chown(self, node: Node, uid: int, gid: int) -> None:
        """Change the owner in staging, -1 for no change. Raises ReadOnly, OSError."""
        staged = self._writable(node, "chown")
        staged.tree.chown(staged.path, uid, gid)

    def truncate(self, node: Node, size_bytes: int) -> None:
        """Cut or extend a file in staging. Raises ReadOnly, OSError."""
        staged = self._writable(node, "truncate")
        staged.tree.truncate(staged.path, size_bytes)

    def utime(self, node: Node, times_ns: tuple[int | None, int | None] | None) -> None:
        """Set (atime, mtime) in staging; None in the pair leaves one as it is, no pair means the current time."""
        staged = self._writable(node, "utime")
        staged.tree.utime(staged.path, times_ns)

    # -- the control surface ----------------------------------------------------------------------------------------

    def getxattr(self, node: Node, name: str) -> bytes:
        """The value of an extended attribute. Raises NoSuchAttribute, AttributeUnsupported."""
        return attributes.get(self, node, name)

    def setxattr(self, node: Node, name: str, value: bytes) -> None:
        """Ask for something (`control`). Raises Busy, NothingStaged, NotPermitted, AttributeUnsupported, OSError."""
        attributes.act(self, node, name, value)

    def status(self) -> Status:
        """The whole mount, for the control surface."""
        return attributes.status(self)


def _full_blocks(attrs: Attrs) -> int:
    """Of a file that stands for bytes elsewhere: one hole on disk; to programs it is full of bytes."""
    return -(-attrs.size_bytes // BLOCK_BYTES)
