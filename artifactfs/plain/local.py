"""Making versions on this machine's disk.

A version is made whole in a hidden directory, with its record in it, put on disk, and renamed to the first free number
in one step that fails where the number is taken; then the next one is tried. So nobody, squirrel-core included, sees
half a version, any number of processes may commit at once, and a commit that is repeated after a crash finds the record
if the rename had come through, and nothing if not. A tree that is given away is linked file by file, so that it stays
readable until its owner deletes it and is whole after a crash at any moment; another one is copied.

Threading: any thread and any process; no lock is needed. What a killed process left is removed by a later commit.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from blake3 import blake3

from artifactfs import names
from artifactfs.beneath import DIRECTORY, make_directory_beneath
from artifactfs.durable import sync_directory, sync_file
from artifactfs.errors import ArtifactError
from artifactfs.longpaths import reach, remove_tree, walk
from artifactfs.managers.base import CommitResult
from artifactfs.manifest import Entry, EntryKind, Manifest
from artifactfs.objects.commit import Commit, check_recordable, refuse_own_store
from artifactfs.objects.disk import (
    READ_ONLY,
    copy_new,
    exposed,
    link_new,
    rename_new,
    write_new,
)
from artifactfs.objects.hashing import changed, hash_file, stored_digest, unreadable
from artifactfs.objects.layout import encode
from artifactfs.objects.local import SYNC_EACH_LIMIT
from artifactfs.objects.packs import SMALL_FILE_BYTES, read_small
from artifactfs.objects.root import HeldRoot, StoreRoot
from artifactfs.objects.scan import Scan, scan_tree
from artifactfs.objects.store import translate
from artifactfs.plain import layout
from artifactfs.plain.contents import Contents
from artifactfs.plain.detect import holds_version
from artifactfs.plain.history import PlainHistory
from artifactfs.plain.making import Made, has_content, latest_of, made_before

# What has not been touched for so long, and whose maker does not hold its lock, was left by a process that died.
_STALE_NS = 3600 * 1_000_000_000
_OLD_README = "README.txt"


class LocalCommitter:
    """Commits trees to the plain store in a local directory."""

    def __init__(self, root: StoreRoot, history: PlainHistory, contents: Contents) -> None:
        self._root = root
        self._history = history
        self._contents = contents

    def commit(self, commit: Commit) -> CommitResult:
        """Make the version, or find the one this commit made before. Raises as `ArtifactManager.commit_tree`."""
        refuse_own_store(self._root.path, commit.tree)
        check_recordable(commit)
        numbers = self._history.numbers(commit.collection, commit.artifact)
        made = made_before(self._history, commit, numbers)
        if made is not None:
            return made
        scan = scan_tree(commit.tree, commit.below)
        try:
            with self.aside() as (held, directory):
                failures = held.failures
                _Filling(commit, scan, f"{directory}/{layout.FILES}", held).run()
                manifest = Manifest.of(scan.builder.rows())
                return self._publish(commit, manifest, held, failures, directory, numbers.next)
        except ArtifactError:
            raise
        except OSError as error:
            raise translate(error, f"cannot commit to {self._root.path}") from error

    def mark(self) -> None:
        """Make the store's directory, and what makes it a store while it has no version.

        Raises OSError, StoreUnreachable.
        """
        self._root.make()
        if not holds_version(self._root.path):
            with self._root.directory(layout.MARK, make=True):
                pass

    def tidy(self) -> None:
        """Take away what lies apart from the versions, as far as it is empty: squirrel sees a collection in it.

        The mark of a store without versions stays. Raises StoreUnreachable.
        """
        # What cannot be taken away shows in a listing, and nothing else comes of it.
        with suppress(OSError), self._root.directory(layout.SIDE) as (_, side):
            for key in (layout.OLD_NOTES, layout.OLD_ABOUT):
                _remove_empty(f"{side}/{os.path.basename(key)}")
            for key in (layout.TEMPORARY, layout.STAGING):
                # Where another is at work, or something is staged, it is not empty.
                with suppress(OSError):
                    os.rmdir(f"{side}/{os.path.basename(key)}")
        with suppress(OSError), self._root.directory(layout.MARK) as (_, mark):
            os.rmdir(f"{mark}/{os.path.basename(layout.SIDE)}")
        if holds_version(self._root.path):
            with suppress(OSError), self._root.directory("") as (_, top):
                os.rmdir(f"{top}/{layout.MARK}")
                os.rmdir(f"{top}/{os.path.dirname(layout.MARK)}")

    @contextmanager
    def aside(self) -> Iterator[tuple[HeldRoot, str]]:
        """The store, and a fresh directory on its disk that nobody sees, gone at the end if still there.

        Raises OSError, StoreUnreachable.
        """
        try:
            with self._fresh() as (held, directory, lock):
                try:
                    _remove_stale(os.path.dirname(directory), os.fstat(lock).st_ctime_ns)
                    yield held, directory
                finally:
                    if os.path.lexists(directory):
                        remove_tree(directory)
        finally:
            self.tidy()

    @contextmanager
    def _fresh(self) -> Iterator[tuple[HeldRoot, str, int]]:
        """The store, a new directory in it, and a descriptor of that which holds a lock on it."""
        while True:
            with self._root.directory(layout.TEMPORARY, make=True) as (held, parent):
                directory = f"{parent}/{uuid.uuid4().hex}"
                try:
                    os.mkdir(directory, held.mode)
                except FileNotFoundError:
                    continue  # another was done and tidied up
                lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    yield held, directory, lock
                finally:
                    os.close(lock)
                return

    def _publish(
        self, commit: Commit, manifest: Manifest, held: HeldRoot, failures: int, directory: str, looked_below: int
    ) -> CommitResult:
        """Rename the finished version to the first free number, unless it is there already.

        `failures` is how many syncs of the disk had failed before its files were put.
        Versions numbered below `looked_below` are known not to be of this commit.
        """
        made = Made.of(manifest)
        synced = False
        artifact = layout.artifact_key(commit.collection, commit.artifact)
        while True:
            numbers = self._history.numbers(commit.collection, commit.artifact)
            before = made_before(self._history, commit, numbers, looked_below)
            if before is not None:
                self._make_durable(artifact)
                return before
            looked_below = numbers.next
            latest = latest_of(self._history, self._contents, commit, numbers)
            if latest is not None and has_content(self._contents, latest, made):
                self._make_durable(artifact)
                return CommitResult(latest.info, created=False)
            if not synced:
                # This may take seconds; so look again what there is before trying a number.
                _finish(made, directory, held)
                held.check_since(failures)
                synced = True
                continue
            clock = self._history.latest_clock(commit.collection, commit.artifact, numbers)
            record = made.record(commit, numbers.next, latest.info.version if latest else None, clock)
            _write_record(f"{directory}/{layout.RECORD}", encode(record), held.mode)
            with self._root.directory(artifact, make=True) as (_, near):
                is_new = rename_new(directory, f"{near}/{names.version_name(numbers.next)}")
            if is_new:
                self._make_durable(artifact)
                self._contents.read_back(commit.collection, commit.artifact, record)
                info = record.info(commit.collection, commit.artifact)
                return CommitResult(info, created=True, sent_bytes=info.size_bytes)

    def _make_durable(self, artifact: str) -> None:
        """Have the names of an artifact's versions on disk, whoever made them; the store must still be there."""
        while True:
            with self._root.directory(artifact) as (_, near):
                sync_directory(near)
            if not artifact:
                return
            artifact = os.path.dirname(artifact)


class _Filling:
    """Puts the files of a scanned tree into a directory that does not exist yet, hashing them on the way."""

    def __init__(self, commit: Commit, scan: Scan, root: str, held: HeldRoot) -> None:
        """Nothing goes beyond the permissions of the store; the manifest has what the file's own were."""
        self._commit = commit
        self._scan = scan
        self._root = os.fsencode(root)
        self._most = held.mode
        # After a sync that failed a linked file may never get to the disk, whatever the next sync says: a copy does.
        self._may_link = commit.consume and not held.failures
        self._done_bytes = 0
        self._done_files = 0

    def run(self) -> None:
        """Place directories and files; symlinks come last, in `_finish`.

        Raises UnsupportedTree when a file is not as it was scanned, AccessDenied, OSError.
        """
        builder = self._scan.builder
        self._make_top()
        for row, path in enumerate(builder.paths):
            place = self._root + b"/" + path
            kind = builder.kinds[row]
            if kind == EntryKind.DIRECTORY:
                with reach(place) as directory:
                    os.mkdir(directory, 0o700)
            elif kind == EntryKind.FILE:
                builder.set_content(row, bytes.fromhex(self._file(row, os.fsdecode(place))), None)
                self._report(builder.sizes[row])
        if self._commit.progress is not None:
            self._commit.progress(self._done_bytes, self._done_files)

    def _make_top(self) -> None:
        above, name = os.path.split(self._root)
        parent = os.open(above, DIRECTORY)
        try:
            above_files = os.path.dirname(self._scan.prefix)
            top = name + b"/" + above_files if above_files else name
            os.close(make_directory_beneath(parent, top, self._most))
        finally:
            os.close(parent)

    def _file(self, row: int, place: str) -> str:
        """Give the file its place; returns its digest."""
        builder = self._scan.builder
        if self._may_link and (digest := self._link(row, place)) is not None:
            return digest
        if builder.sizes[row] < SMALL_FILE_BYTES:
            data = read_small(self._scan, row, builder.sizes[row])
            write_new(place, data, sync=False, mode=0o600)
            digest = blake3(data).hexdigest()
        else:
            copy_new(self._scan.path(row), place, 0o600)
            self._check_unchanged(row)
            digest = stored_digest(place)
        with reach(place) as file:
            os.chmod(file, builder.modes[row] & ~exposed(self._most))
            os.utime(file, ns=(builder.mtimes[row], builder.mtimes[row]))
        return digest

    def _link(self, row: int, place: str) -> str | None:
        file = hash_file(self._scan.path(row))
        # Somebody else's file would stay theirs to change.
        if os.geteuid() not in (file.status.st_uid, 0) or not link_new(file, place, self._most):
            return None
        file.check_unchanged()
        self._check_unchanged(row)
        return file.digest

    def _check_unchanged(self, row: int) -> None:
        path = self._scan.path(row)
        try:
            with reach(path) as place:
                status = os.lstat(place)
        except OSError as error:
            raise unreadable(path, error) from error
        if not self._scan.is_as_found(row, status):
            raise changed(path)

    def _report(self, size_bytes: int) -> None:
        self._done_bytes += size_bytes
        self._done_files += 1
        if self._commit.progress is not None:
            self._commit.progress(self._done_bytes, self._done_files)


def _finish(made: Made, directory: str, held: HeldRoot) -> None:
    """Make a version's symlinks, give its directories what they are like, write its manifest, put it all on disk."""
    write_new(f"{directory}/{layout.MANIFEST}", made.encoded, sync=False, mode=READ_ONLY & held.mode)
    files = f"{directory}/{layout.FILES}"
    directories: list[Entry] = []
    for entry in made.manifest:
        if entry.kind is EntryKind.DIRECTORY:
            directories.append(entry)
        elif entry.kind is EntryKind.SYMLINK:
            # With the target that was checked, not what the tree's symlink may say by now.
            with reach(f"{files}/{entry.path}") as place:
                os.symlink(entry.target or "", place)
                os.utime(place, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)
    # Deepest first: a directory whose mtime is set gets nothing new afterwards.
    for entry in reversed(directories):
        with reach(f"{files}/{entry.path}") as place:
            os.chmod(place, entry.mode & ~exposed(held.mode))
            os.utime(place, ns=(entry.mtime_ns, entry.mtime_ns))
    if len(made.manifest) > SYNC_EACH_LIMIT:
        held.sync()
        return
    try:
        _sync_tree(directory)
    except OSError:
        held.note_failure()
        raise


def _sync_tree(directory: str) -> None:
    for parent, _, found in walk(directory):
        with reach(parent) as near:
            for path in (f"{near}/{name}" for name in found):
                if not os.path.islink(path):
                    sync_file(path)
        sync_directory(parent)


def _write_record(path: str, record: bytes, most: int) -> None:
    if os.path.lexists(path):
        os.unlink(path)
    write_new(path, record, sync=True, mode=READ_ONLY & most)
    sync_directory(os.path.dirname(path))


def _remove_empty(directory: str) -> None:
    """Remove a directory with all below it that holds no file but what the first programs wrote to explain it."""
    with suppress(OSError):
        for name in os.listdir(directory):
            if name == _OLD_README:
                os.unlink(f"{directory}/{name}")
            else:
                _remove_empty(f"{directory}/{name}")
        os.rmdir(directory)


def _remove_stale(parent: str, now_ns: int) -> None:
    """Remove what processes that died left in `parent`; `now_ns` is the time by the clock of its file system."""
    with os.scandir(parent) as entries:
        old = [entry.path for entry in entries if _is_old(entry, now_ns)]
    for path in old:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # its maker lives and is done
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(path)
        except (BlockingIOError, FileNotFoundError):
            continue  # its maker lives, or another removes it
        finally:
            os.close(fd)


def _is_old(entry: os.DirEntry[str], now_ns: int) -> bool:
    try:
        return entry.stat(follow_symlinks=False).st_ctime_ns < now_ns - _STALE_NS
    except FileNotFoundError:
        return False
