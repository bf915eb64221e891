"""What a check of a store finds, and the check that any manager can do: read every file against its digest.

`objects.verify` does the same for the object layout, where it can look at the objects themselves. Findings are values,
handed out as they are made; one bad thing does not end a check. Threading: `Collector` is safe from any thread, the
rest holds no state.
"""

from __future__ import annotations

import enum
import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from artifactfs.errors import AccessDenied, ArtifactError, FormatError, NotFound
from artifactfs.manifest import Entry, EntryKind

if TYPE_CHECKING:
    from artifactfs.managers.base import ArtifactManager, Progress, VersionInfo

_CHUNK_BYTES = 8 << 20


class FindingKind(str, enum.Enum):
    """What was found. Everything is damage except the last three members, which take room and harm nobody."""

    DAMAGED_RECORD = "damaged-record"
    """A commit record or tombstone that cannot be read, or a record that does not fit its manifest."""
    DAMAGED_ANNOTATION = "damaged-annotation"
    """A message or metadata that was given to a version later, and cannot be read."""
    DAMAGED_ALIAS = "damaged-alias"
    """An alias that cannot be read."""
    DANGLING_ALIAS = "dangling-alias"
    """An alias of a version that does not exist."""
    MISSING_MANIFEST = "missing-manifest"
    """A version whose manifest is not there: none of its files can be found."""
    DAMAGED_MANIFEST = "damaged-manifest"
    """A manifest that does not match its digest, or cannot be read."""
    MISSING_OBJECT = "missing-object"
    """Stored bytes that versions need and that are not there."""
    DAMAGED_OBJECT = "damaged-object"
    """Stored bytes that do not match the digest they are named by."""
    DAMAGED_FILE = "damaged-file"
    """A file whose bytes do not match its digest."""
    UNREADABLE = "unreadable"
    """Something the backend refused to give, or failed to, while it answers for others."""
    UNREFERENCED_OBJECT = "unreferenced-object"
    """Stored bytes that no live version needs: of deleted versions, or of a commit that is still running. See gc."""
    LEFTOVER = "leftover"
    """What a writer that died left, or one is writing right now; what was said of a deleted version. See gc."""
    UNKNOWN_FILE = "unknown-file"
    """A file that artifactfs did not write. Nothing ever deletes it."""

    @property
    def is_damage(self) -> bool:
        """Tell whether somebody misses something."""
        return self not in (FindingKind.UNREFERENCED_OBJECT, FindingKind.LEFTOVER, FindingKind.UNKNOWN_FILE)


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    `where` is what was looked at (a key of the store, or a version), `detail` says in words what is wrong with it.
    `versions` are the versions it concerns, as ``collection/artifact@v3``; `paths` are files of the first of them, at
    most `MOST_PATHS`.
    """

    kind: FindingKind
    where: str
    detail: str
    size_bytes: int = 0
    versions: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.where}: {self.detail}"


MOST_PATHS = 10

OnFinding = Callable[[Finding], None]
"""Called with each finding as it is made, one at a time."""


@dataclass(frozen=True)
class VerifyReport:
    """What a check looked at and found. `files` counts a file once for each place where its bytes lie."""

    versions: int = 0
    objects: int = 0
    files: int = 0
    size_bytes: int = 0
    findings: tuple[Finding, ...] = ()

    @property
    def damage(self) -> tuple[Finding, ...]:
        """The findings that somebody suffers from."""
        return tuple(finding for finding in self.findings if finding.kind.is_damage)

    @property
    def ok(self) -> bool:
        """Tell whether nothing is damaged."""
        return not self.damage


class Collector:
    """Adds up what the threads of a check do and find, for its caller's callbacks."""

    def __init__(self, on_finding: OnFinding | None, progress: Progress | None) -> None:
        self._on_finding = on_finding
        self._progress = progress
        self._lock = threading.Lock()
        self._findings: list[Finding] = []
        self._versions = 0
        self._objects = 0
        self._files = 0
        self._bytes = 0

    def found(self, kind: FindingKind, where: str, detail: object, **more: Any) -> None:
        """Take in a finding; `more` are further fields of it."""
        finding = Finding(kind, where, str(detail), **more)
        with self._lock:
            self._findings.append(finding)
            if self._on_finding is not None:
                self._on_finding(finding)

    def done(self, *, size_bytes: int = 0, files: int = 0, objects: int = 0, versions: int = 0) -> None:
        """So much more has been checked."""
        with self._lock:
            self._bytes += size_bytes
            self._files += files
            self._objects += objects
            self._versions += versions
            if self._progress is not None:
                self._progress(self._bytes, self._files)

    def report(self) -> VerifyReport:
        """Everything so far."""
        with self._lock:
            return VerifyReport(self._versions, self._objects, self._files, self._bytes, tuple(self._findings))


def verify_by_reading(
    manager: ArtifactManager,
    artifact: str | None,
    collection: str | None,
    version: str | None,
    on_finding: OnFinding | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Read every file of the versions asked for; see `ArtifactManager.verify`."""
    collector = Collector(on_finding, progress)
    for info in _versions(manager, artifact, collection, version, collector):
        label = f"{info.collection}/{info.artifact}@{info.version}"
        try:
            manifest = manager.manifest(info.artifact, info.collection, info.version)
            new_hasher(manifest.algorithm)
        except NotFound:
            continue  # deleted since it was listed
        except ArtifactError as error:
            _refused(manager, collector, FindingKind.DAMAGED_MANIFEST, label, error, versions=(label,))
            continue
        for entry in manifest:
            if entry.kind is EntryKind.FILE:
                _read_file(manager, info, entry, manifest.algorithm, label, collector)
        collector.done(versions=1)
    collector.done()
    return collector.report()


def _versions(
    manager: ArtifactManager, artifact: str | None, collection: str | None, version: str | None, collector: Collector
) -> Iterator[VersionInfo]:
    if artifact is not None:
        collection = collection or manager.active_collection
        if version is not None:
            yield manager.version_info(artifact, collection, version)
            return
        artifacts = [(collection, artifact)]
    elif collection is not None:
        artifacts = [(collection, found) for found in manager.list_artifacts(collection)]
    else:
        artifacts = []
        for name in manager.list_collection_names():
            listed = _listed(manager, collector, name, partial(manager.list_artifacts, name))
            artifacts += [(name, found) for found in listed]
    for name, found in artifacts:
        list_versions = partial(manager.list_version_names, found, name)
        # Of the one that was asked for an error is the answer.
        versions = list_versions() if artifact else _listed(manager, collector, f"{name}/{found}", list_versions)
        for number in versions:
            label = f"{name}/{found}@{number}"
            try:
                yield manager.version_info(found, name, number)
            except NotFound:
                continue  # deleted since it was listed
            except ArtifactError as error:
                _refused(manager, collector, FindingKind.DAMAGED_RECORD, label, error, versions=(label,))


def _listed(manager: ArtifactManager, collector: Collector, where: str, names: Callable[[], list[str]]) -> list[str]:
    """What a collection or artifact holds: nothing where it was deleted meanwhile, or cannot be listed."""
    try:
        return names()
    except NotFound:
        return []
    except ArtifactError as error:
        _refused(manager, collector, FindingKind.UNREADABLE, where, error)
        return []


def _refused(
    manager: ArtifactManager, collector: Collector, kind: FindingKind, where: str, error: ArtifactError, **more: Any
) -> None:
    """A finding of what an error tells. Raises what the backend raises when it answers for nothing any more."""
    if isinstance(error, AccessDenied):
        kind = FindingKind.UNREADABLE
    elif error.transient:
        # A sector that cannot be read looks like a store that does not answer.
        manager.list_collection_names()
        kind = FindingKind.UNREADABLE
    collector.found(kind, where, error, **more)


def _read_file(
    manager: ArtifactManager, info: VersionInfo, entry: Entry, algorithm: str, label: str, collector: Collector
) -> None:
    hasher = new_hasher(algorithm)
    offset = 0
    try:
        while offset < entry.size_bytes:
            # Never the whole of a larger file: it would have to fit in memory.
            chunk = manager.read_entry(info, entry, offset, min(_CHUNK_BYTES, entry.size_bytes - offset))
            if not chunk:
                break
            hasher.update(chunk)
            offset += len(chunk)
            collector.done(size_bytes=len(chunk))
    except ArtifactError as error:
        concerns = {"size_bytes": entry.size_bytes, "versions": (label,), "paths": (entry.path,)}
        _refused(manager, collector, FindingKind.DAMAGED_FILE, f"{label}:{entry.path}", error, **concerns)
        return
    wrong = ""
    if offset != entry.size_bytes:
        wrong = f"has {offset} bytes instead of {entry.size_bytes}"
    elif entry.digest is not None and hasher.hexdigest() != entry.digest:
        wrong = "does not match its digest"
    if wrong:
        collector.found(
            FindingKind.DAMAGED_FILE,
            f"{label}:{entry.path}",
            wrong,
            size_bytes=entry.size_bytes,
            versions=(label,),
            paths=(entry.path,),
        )
    collector.done(files=1)


def new_hasher(algorithm: str) -> Any:
    """A hasher for the digests of a manifest. Raises FormatError for an algorithm that nobody here knows."""
    if algorithm == "blake3":
        return blake3()
    try:
        return hashlib.new(algorithm, usedforsecurity=False)
    except ValueError as error:
        raise FormatError(f"unknown digest algorithm {algorithm!r}: upgrade artifactfs") from error
