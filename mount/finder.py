"""From paths to nodes: which collection, artifact, version, alias or staged file a name means.

Neighbours: asks `listing` what the store holds and the staging area what is here only; keeps the manifests of versions
in use. Threading: safe from any thread. `_lock` guards the cache of manifests; it is a leaf and never held across a
backend call.
"""

from __future__ import annotations

import threading
import time

from cachetools import LRUCache

from artifactfs import names
from artifactfs.content.metadata import StoreMemory
from artifactfs.errors import (
    ArtifactNotFound,
    CollectionNotFound,
    InvalidName,
    PathNotFound,
    StoreUnreachable,
    VersionNotFound,
)
from artifactfs.managers.base import ArtifactManager, VersionInfo
from artifactfs.manifest import Manifest
from mount.area import NO_COLLECTION, StagingArea
from mount.errors import NotPermitted
from mount.listing import Listing
from mount.staging import ArtifactStaging
from mount.tree import (
    Alias,
    Artifact,
    Collection,
    LoadedVersion,
    Node,
    Root,
    StagedNode,
    VersionNode,
    ino_of,
)

MANIFEST_CACHE_BYTES = 512 << 20
HELD_LINK = "staging.held"
"""A symlink beside `staging` while that is held, whose target is the reason: ``ls -l`` shows it."""


class Finder:
    """See the module docstring. `area` is None on a read-only mount, `memory` for a local store."""

    def __init__(
        self, manager: ArtifactManager, listing: Listing, area: StagingArea | None, memory: StoreMemory | None = None
    ) -> None:
        self._manager = manager
        self._memory = memory
        self._listing = listing
        self._area = area
        self._lock = threading.Lock()
        self._versions: LRUCache[tuple[str, str, str], LoadedVersion] = LRUCache(
            MANIFEST_CACHE_BYTES, getsizeof=lambda loaded: loaded.memory_bytes
        )

    def resolve(self, path: str) -> Node:
        """The node at an absolute path of the mount.

        Raises InvalidName, NotFound, NotADirectoryError, StoreUnreachable.

        In staging the answer does not promise that the file exists: the operation on it tells.
        """
        if path == "/":
            return Root()
        before, *parts = path.split("/", 4)
        if before or not parts:
            raise InvalidName(f"invalid path {path!r}: must begin at the top of the mount")
        node: Node = self._collection(parts[0])
        if isinstance(node, StagedNode):
            for name in (below := "/".join(parts[1:])).split("/") if len(parts) > 1 else ():
                names.check_name(name)
            return self._below(node, below) if len(parts) > 1 else node
        if len(parts) > 1:
            node = self._artifact(parts[0], parts[1])
        if len(parts) > 2:
            node = self._in_artifact(Artifact(parts[0], parts[1]), parts[2])
        if len(parts) > 3:
            for name in parts[3].split("/"):
                names.check_name(name)
            node = self._below(node, parts[3])
        return node

    def lookup(self, parent: Node, name: str) -> Node:
        """The node `name` in the directory `parent`. Raises as `resolve`."""
        if isinstance(parent, Root):
            return self._collection(name)
        if isinstance(parent, Collection):
            return self._artifact(parent.name, name)
        if isinstance(parent, Artifact):
            return self._in_artifact(parent, name)
        return self._below(parent, names.check_name(name))

    def _below(self, node: Node, path: str) -> Node:
        if isinstance(node, StagedNode):
            return node._replace(path=f"{node.path}/{path}" if node.path else path)
        if isinstance(node, VersionNode):
            path = f"{node.path}/{path}" if node.path else path
            position = node.version.manifest.index(path)
            if position is None and not node.version.manifest.is_directory(path):
                raise PathNotFound(f"no {path!r} in {node.version.info.artifact}@{node.version.info.version}")
            return VersionNode(node.version, path, position)
        raise NotADirectoryError(path)

    def _collection(self, name: str) -> Collection | StagedNode:
        if self._area is not None and self._area.has_trash(name):
            trash = Artifact(NO_COLLECTION, name)
            return StagedNode(self.staging(trash).staged, "", trash)
        if name in self._listing.collections() or (self._area and name in self._area.local_collections()):
            return Collection(name)
        raise CollectionNotFound(f"no collection {name!r}")

    def _artifact(self, collection: str, name: str) -> Artifact:
        # The versions are asked for first: they are what a path that leads further needs anyway.
        if (
            self._listing.versions(collection, name)
            or (self._area and name in self._area.local_artifacts(collection))
            or name in self._listing.artifacts(collection)
        ):
            return Artifact(collection, name)
        raise ArtifactNotFound(f"no artifact {name!r} in {collection!r}")

    def _in_artifact(self, artifact: Artifact, name: str) -> Node:
        if name == names.STAGING and self.has_staging(artifact):
            return StagedNode(self.staging(artifact).staged, "", artifact)
        if name.startswith(names.PENDING_PREFIX) and self.has_staging(artifact):
            pending = self.staging(artifact).find_pending(name)
            if pending is not None:
                return StagedNode(pending.tree, "", artifact, name)
        if name == HELD_LINK and (why := self.why_held(artifact)) is not None:
            return Alias(artifact, name, why)
        if names.is_version(name):
            return VersionNode(self._version(artifact, name), "", None)
        version = self._listing.aliases(artifact.collection, artifact.name).get(name)
        if version is None:
            raise VersionNotFound(f"{artifact.label} has no version or alias {name!r}")
        return Alias(artifact, name, version)

    def why_held(self, artifact: Artifact) -> str | None:
        """The reason why what is staged for an artifact is not committed by itself, and since when; None if it is."""
        held = self.staging(artifact).staged.held if self.has_staging(artifact) else None
        return None if held is None else f"{held.why}, {time.strftime('%H:%M', time.localtime(held.at))}"

    def version_of(self, artifact: Artifact, name: str) -> LoadedVersion:
        """The version called `name`: ``v3``, ``latest`` or an alias. Raises VersionNotFound, StoreUnreachable."""
        name = self._listing.aliases(artifact.collection, artifact.name).get(name, name)
        return self._version(artifact, name)

    def _version(self, artifact: Artifact, name: str) -> LoadedVersion:
        if name not in self._listing.versions(artifact.collection, artifact.name):
            raise VersionNotFound(f"{artifact.label} has no version {name}")
        key = (artifact.collection, artifact.name, name)
        with self._lock:
            loaded = self._versions.get(key)
        if loaded is None:
            loaded = LoadedVersion(*self._load(*key), ino_of("version", *key))
            with self._lock:
                # A manifest too large for the whole cache is used and not kept.
                if loaded.memory_bytes <= MANIFEST_CACHE_BYTES:
                    loaded = self._versions.setdefault(key, loaded)
        return loaded

    def _load(self, collection: str, artifact: str, name: str) -> tuple[VersionInfo, Manifest]:
        """A version from the store, or as it was noted before; it never changes."""
        manager, memory = self._manager, self._memory
        known = memory.version(collection, artifact, name) if memory is not None else None
        if memory is not None and known is not None and (not self._listing.reachable or memory.identity(manager).id):
            # Where a store has an id, a number is never used twice.
            return known
        try:
            info = manager.version_info(artifact, collection, name)
            if known is not None and known[0] == info:
                return known
            manifest = manager.manifest(artifact, collection, name)
        except StoreUnreachable:
            if known is None:
                raise
            return known
        if memory is not None:
            memory.note_version(info, manifest)
        return info, manifest

    def has_staging(self, artifact: Artifact) -> bool:
        """Tell whether versions can be added to the artifact through this mount."""
        if artifact.collection == NO_COLLECTION:
            return True
        # A foreign name that breaks the rules can be read, and no version can be added to it.
        return self._area is not None and names.is_collection(artifact.collection) and names.is_artifact(artifact.name)

    def staging(self, artifact: Artifact) -> ArtifactStaging:
        """The staging of an artifact that `has_staging`."""
        assert self._area is not None
        return self._area.artifact(artifact.collection, artifact.name)

    def staging_of(self, node: Node) -> ArtifactStaging:
        """The staging an artifact's node or a staged node belongs to. Raises NotPermitted for another."""
        if isinstance(node, StagedNode) and node.artifact.collection != NO_COLLECTION:
            return self.staging(node.artifact)
        if isinstance(node, Artifact) and self.has_staging(node):
            return self.staging(node)
        raise NotPermitted("only staging/ and pending directories have something to commit or discard")
