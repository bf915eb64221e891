"""What making a version is, wherever it is made: is it there already, and if not, under which record.

Threading: pure functions on the parts of a store, which are safe from any thread.
"""

from __future__ import annotations

from typing import NamedTuple

from blake3 import blake3

from artifactfs.errors import RECORD_FAULTS
from artifactfs.managers.base import CommitResult, VersionInfo
from artifactfs.manifest import EntryKind, Manifest
from artifactfs.objects.commit import Commit, record_of
from artifactfs.objects.history import Known, Numbers
from artifactfs.objects.layout import Record
from artifactfs.plain.contents import Contents
from artifactfs.plain.history import PlainHistory


class Made(NamedTuple):
    """The content of a version to be: its manifest, that encoded, the encoding's digest, and the content digest."""

    manifest: Manifest
    encoded: bytes
    name: str
    digest: str

    @classmethod
    def of(cls, manifest: Manifest) -> Made:
        """What is needed of a manifest."""
        encoded = manifest.encode()
        return cls(manifest, encoded, blake3(encoded).hexdigest(), manifest.content_digest())

    def record(self, commit: Commit, number: int, parent: str | None, latest_clock: int) -> Record:
        """The version's record at that number. `latest_clock` is from `History.latest_clock`."""
        return record_of(commit, number, parent, self.digest, self.name, self.manifest, latest_clock)


class Latest(NamedTuple):
    """The latest version of an artifact, and its record; None where somebody else wrote it."""

    info: VersionInfo
    known: Known | None


def made_before(history: PlainHistory, commit: Commit, numbers: Numbers, since: int = 0) -> CommitResult | None:
    """What the commit with that id made, None when it made nothing. Raises FormatError."""
    record = history.find_commit(commit.collection, commit.artifact, commit.commit_id, numbers, since)
    if record is None:
        return None
    if commit.progress is not None:
        commit.progress(record.size_bytes, record.file_count)
    return CommitResult(record.info(commit.collection, commit.artifact), created=True)


def latest_of(history: PlainHistory, contents: Contents, commit: Commit, numbers: Numbers) -> Latest | None:
    """The latest version of the artifact that is committed to, None when there is none, or it cannot be read."""
    if not numbers.live:
        return None
    found = history.found(commit.collection, commit.artifact, numbers.live[-1:])
    if not found:
        return None  # it cannot be read
    known = found[numbers.live[-1]]
    try:
        return Latest(contents.info(commit.collection, commit.artifact, numbers.live[-1], known), known)
    except RECORD_FAULTS:
        return None


def has_content(contents: Contents, latest: Latest, made: Made) -> bool:
    """Tell whether a version holds that content whole. One that somebody else wrote is read for it, if it may."""
    info = latest.info
    if latest.known is not None:
        return info.digest == made.digest and contents.is_whole(info, latest.known, made.manifest)
    try:
        theirs = contents.manifest(info.collection, info.artifact, info.number, None)
        return _outline(theirs) == _outline(made.manifest) and contents.digest(info, theirs) == made.digest
    except RECORD_FAULTS:
        return False


def _outline(manifest: Manifest) -> list[tuple[str, int]]:
    return [(entry.path, entry.size_bytes) for entry in manifest if entry.kind is EntryKind.FILE]
