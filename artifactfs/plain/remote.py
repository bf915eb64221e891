"""Making versions in squirrel's layout at an fsspec URL, where no tree appears in one step.

So only one may write at a time, and promises it (``single_writer``). A note of what is being made comes first, then
the files, the manifest, the record; when the note goes, the version is there. A commit that was interrupted leaves the
note: for us that version does not exist, for squirrel-core it does, incomplete, until the same commit is repeated.

Threading: any thread; one commit at a time per manager, the lock being held across its uploads, since the number it
takes must stay free.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import msgspec

from artifactfs.errors import ArtifactError, UnsupportedTree
from artifactfs.managers.base import CommitResult
from artifactfs.manifest import EntryKind, Manifest
from artifactfs.objects.commit import Commit, check_recordable
from artifactfs.objects.hashing import HashedFile, changed, hash_file
from artifactfs.objects.layout import encode, tombstone_key
from artifactfs.objects.scan import Scan, scan_tree
from artifactfs.objects.store import ObjectStore
from artifactfs.plain import layout
from artifactfs.plain.contents import Contents
from artifactfs.plain.history import PlainHistory
from artifactfs.plain.making import Made, has_content, latest_of, made_before


class RemoteCommitter:
    """Commits trees to one plain store that nothing else writes to."""

    def __init__(self, store: ObjectStore, history: PlainHistory, contents: Contents) -> None:
        self._store = store
        self._history = history
        self._contents = contents
        self._lock = threading.Lock()

    def commit(self, commit: Commit) -> CommitResult:
        """Make the version, or find the one this commit made before. Raises as `ArtifactManager.commit_tree`."""
        check_recordable(commit)
        numbers = self._history.numbers(commit.collection, commit.artifact)
        before = made_before(self._history, commit, numbers)
        if before is not None:
            return before
        scan = scan_tree(commit.tree, commit.below)
        files = _hashed(scan)
        made = Made.of(Manifest.of(scan.builder.rows()))
        with self._lock:
            return self._publish(commit, made, files)

    def _publish(self, commit: Commit, made: Made, files: list[tuple[str, HashedFile]]) -> CommitResult:
        collection, artifact = commit.collection, commit.artifact
        prefix = self._history.prefix(collection, artifact)
        number = self._history.pending(collection, artifact, commit.commit_id)
        if number is not None and self._is_whole(commit, prefix, number):
            self._store.delete(layout.pending_key(prefix, number))
        numbers = self._history.numbers(collection, artifact)
        before = made_before(self._history, commit, numbers)
        if before is not None:
            return before
        latest = latest_of(self._history, self._contents, commit, numbers)
        if number is None:
            if latest is not None and has_content(self._contents, latest, made):
                return CommitResult(latest.info, created=False)
            number = numbers.next
        key = layout.version_key(collection, artifact, number)
        clock = self._history.latest_clock(collection, artifact, numbers)
        record = made.record(commit, number, latest.info.version if latest else None, clock)
        self._store.replace(layout.pending_key(prefix, number), msgspec.json.encode(layout.Pending(commit.commit_id)))
        try:
            self._clear(key)
            self._send(commit, key, files)
        except ArtifactError as error:
            if not error.transient:
                # The same commit could not do better, so nothing of it stays for squirrel-core to see.
                self._clear(key)
                self._store.delete(layout.pending_key(prefix, number))
            raise
        self._store.put(f"{key}/{layout.MANIFEST}", made.encoded)
        self._store.replace(f"{key}/{layout.RECORD}", encode(record))
        self._contents.read_back(collection, artifact, record)
        self._store.delete(layout.pending_key(prefix, number))
        info = record.info(collection, artifact)
        return CommitResult(info, created=True, sent_bytes=info.size_bytes)

    def _is_whole(self, commit: Commit, prefix: str, number: int) -> bool:
        """Tell whether an interrupted commit had written its record, which is the last thing it does."""
        if self._store.exists(tombstone_key(prefix, number)):
            return False
        found = self._history.records(commit.collection, commit.artifact, [number])
        return bool(found) and found[0].record.commit == commit.commit_id

    def _clear(self, key: str) -> None:
        for stored in list(self._store.walk(key)):
            # The notes in v0 are of all versions.
            if not stored.key.startswith(f"{key}/{layout.NOTES}/"):
                self._store.delete(stored.key)

    def _send(self, commit: Commit, key: str, files: list[tuple[str, HashedFile]]) -> None:
        done_bytes = done_files = 0
        waiting = iter(files)
        at_once = self._store.parallel_transfers
        with ThreadPoolExecutor(at_once) as pool:
            while batch := list(islice(waiting, 4 * at_once)):
                sent = [pool.submit(self._store.put_file, f"{key}/{layout.FILES}/{path}", file) for path, file in batch]
                for (_, file), future in zip(batch, sent, strict=True):
                    future.result()
                    done_bytes += file.status.st_size
                    done_files += 1
                    if commit.progress is not None:
                        commit.progress(done_bytes, done_files)
        if commit.progress is not None:
            commit.progress(done_bytes, done_files)


def _hashed(scan: Scan) -> list[tuple[str, HashedFile]]:
    """The files of a tree with their paths in the version; their digests go into the scan's builder.

    Raises UnsupportedTree when a file is not as it was scanned, or a path is no UTF-8 and so no name of an object.
    """
    builder = scan.builder
    files: list[tuple[str, HashedFile]] = []
    for row, kind in enumerate(builder.kinds):
        if kind != EntryKind.FILE:
            continue
        try:
            path = builder.paths[row].decode()
        except UnicodeDecodeError as error:
            raise UnsupportedTree(
                f"{scan.path(row)} is not named in UTF-8: a remote store cannot hold a file of that name"
            ) from error
        file = hash_file(scan.path(row))
        if not scan.is_as_found(row, file.status):
            raise changed(file.path)
        builder.set_content(row, bytes.fromhex(file.digest), None)
        files.append((path, file))
    return files
