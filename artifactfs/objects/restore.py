"""Making a tree of a version: its files checked against their digests, with modes, mtimes, symlinks, empty directories.

The whole tree is made aside, under a temporary name in the target's directory, and then put in place by renames: as
one when the target does not exist, file by file when it does. So a failure leaves no half file under a final name, and
nothing is ever written through a symlink, neither one of the version (they are made last, in a tree that was made
fresh) nor one that lies in the target.

Threading: pure functions; a restore reads several spans at once where the store says that pays.
"""

from __future__ import annotations

import os
import shutil
import stat
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from blake3 import blake3

from artifactfs.errors import (
    AccessDenied,
    AlreadyExists,
    ArtifactError,
    FormatError,
    IntegrityError,
    NotFound,
    StoreFull,
)
from artifactfs.managers.base import Progress
from artifactfs.manifest import Entry, EntryKind, Manifest
from artifactfs.objects.layout import TEMPORARY_PREFIX, object_key
from artifactfs.objects.store import ObjectStore, translate

_SPAN_BYTES = 16 << 20
_CHUNK_BYTES = 8 << 20


class Span(NamedTuple):
    """Files that lie one after another in an object, read at once; a file larger than a span comes alone."""

    object: str
    offset: int
    size_bytes: int
    entries: list[Entry]


class _Report:
    """Adds up what the threads of a restore have done, for the caller's progress."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._bytes = 0
        self._files = 0

    def add(self, more_bytes: int, more_files: int) -> None:
        if self._progress is None:
            return
        with self._lock:
            self._bytes += more_bytes
            self._files += more_files
            self._progress(self._bytes, self._files)


def restore(store: ObjectStore, manifest: Manifest, target: str, progress: Progress | None = None) -> None:
    """Write the files of a manifest to the directory `target`, which may exist; files of the same path are replaced.

    Raises IntegrityError, FormatError, AlreadyExists (something that is no directory is in the way of one, or the other
    way round), StoreUnreachable, AccessDenied and StoreFull of the store or of the target's disk.
    """
    parent, name = os.path.split(os.path.abspath(target))
    aside = f"{parent}/{TEMPORARY_PREFIX}{name}-{uuid.uuid4().hex}"
    try:
        os.makedirs(aside)
        try:
            _make_tree(store, manifest, aside, _Report(progress))
            _put_in_place(aside, f"{parent}/{name}")
        finally:
            if os.path.lexists(aside):
                _remove_tree(aside)
    except ArtifactError:
        raise
    except OSError as error:
        raise _target_error(error, target) from error


def read_whole(store: ObjectStore, entry: Entry) -> bytes:
    """A file's bytes, checked. Raises IntegrityError."""
    data = read_range(store, entry, 0, entry.size_bytes)
    _check(entry, blake3(data).hexdigest())
    return data


def read_range(store: ObjectStore, entry: Entry, offset: int, size_bytes: int) -> bytes:
    """`size_bytes` of a file from `offset`, which must be inside it. Raises IntegrityError when the object is short."""
    if size_bytes == 0:
        return b""
    if entry.object is None:
        raise IntegrityError(f"the manifest names no object for {entry.path}")
    return _get(store, entry.object, entry.offset + offset, size_bytes, entry.path)


def _get(store: ObjectStore, name: str, offset: int, size_bytes: int, what: str) -> bytes:
    try:
        data = store.get_range(object_key(name), offset, size_bytes)
    except NotFound as error:
        raise IntegrityError(f"{what}: its object {name} is missing from {store.url}") from error
    if len(data) != size_bytes:
        raise IntegrityError(f"{what}: its object {name} in {store.url} is cut short")
    return data


def _check(entry: Entry, digest: str) -> None:
    if digest != entry.digest:
        raise IntegrityError(f"{entry.path}: the stored bytes in object {entry.object} do not match their digest")


def _make_tree(store: ObjectStore, manifest: Manifest, root: str, report: _Report) -> None:
    directories: list[Entry] = []
    symlinks: list[Entry] = []
    made = {""}
    for entry in manifest:
        if entry.kind is EntryKind.DIRECTORY:
            directories.append(entry)
            _make_directories(root, entry.path, made)
        else:
            _make_directories(root, entry.path.rpartition("/")[0], made)
            if entry.kind is EntryKind.SYMLINK:
                symlinks.append(entry)
    _write_files(store, manifest, root, report)
    for link in symlinks:
        path = f"{root}/{link.path}"
        os.symlink(link.target or "", path)
        os.utime(path, ns=(link.mtime_ns, link.mtime_ns), follow_symlinks=False)
    # Deepest first: a directory that may not be written to, or whose mtime is set, gets nothing new afterwards.
    for directory in reversed(directories):
        path = f"{root}/{directory.path}"
        os.chmod(path, directory.mode)
        os.utime(path, ns=(directory.mtime_ns, directory.mtime_ns))


def _make_directories(root: str, path: str, made: set[str]) -> None:
    if path not in made:
        _make_directories(root, path.rpartition("/")[0], made)
        os.mkdir(f"{root}/{path}")
        made.add(path)


def _write_files(store: ObjectStore, manifest: Manifest, root: str, report: _Report) -> None:
    spans = spans_of(manifest)
    if store.parallel_transfers == 1:
        for span in spans:
            _write_span(store, span, root, report)
        return
    with ThreadPoolExecutor(store.parallel_transfers) as pool:
        # Batches, so that a version of a million files is not a million waiting tasks.
        while batch := list(islice(spans, 4 * store.parallel_transfers)):
            for done in [pool.submit(_write_span, store, span, root, report) for span in batch]:
                done.result()


def spans_of(manifest: Manifest) -> Iterator[Span]:
    """Every file in the order of the objects, neighbours together; empty files in spans without an object."""
    places = sorted((number, offset, row) for row, number, offset in manifest.places())
    span: Span | None = None
    for _, offset, row in places:
        entry = manifest[row]
        name = entry.object if entry.size_bytes else ""
        if entry.size_bytes and name is None:
            raise IntegrityError(f"the manifest names no object for {entry.path}")
        end = offset + entry.size_bytes
        if (
            span is None
            or span.object != name
            or span.size_bytes > _SPAN_BYTES
            or offset > span.offset + span.size_bytes
            or end > span.offset + _SPAN_BYTES
        ):
            if span is not None:
                yield span
            span = Span(name or "", offset, entry.size_bytes, [entry])
        else:
            span.entries.append(entry)
            span = span._replace(size_bytes=max(span.size_bytes, end - span.offset))
    if span is not None:
        yield span


def _write_span(store: ObjectStore, span: Span, root: str, report: _Report) -> None:
    if span.size_bytes > _SPAN_BYTES:
        (entry,) = span.entries
        _write_large(store, entry, root, report)
        return
    data = memoryview(b"")
    if span.size_bytes:
        data = memoryview(_get(store, span.object, span.offset, span.size_bytes, span.entries[0].path))
    for entry in span.entries:
        first = entry.offset - span.offset
        content = data[first : first + entry.size_bytes]
        _check(entry, blake3(content).hexdigest())
        fd = _create(f"{root}/{entry.path}")
        try:
            while content:
                content = content[os.write(fd, content) :]
            _finish(fd, entry)
        finally:
            os.close(fd)
        report.add(entry.size_bytes, 1)


def _write_large(store: ObjectStore, entry: Entry, root: str, report: _Report) -> None:
    digest = blake3()
    fd = _create(f"{root}/{entry.path}")
    try:
        for offset in range(0, entry.size_bytes, _CHUNK_BYTES):
            chunk = memoryview(read_range(store, entry, offset, min(_CHUNK_BYTES, entry.size_bytes - offset)))
            digest.update(chunk)
            report.add(len(chunk), 0)
            while chunk:
                chunk = chunk[os.write(fd, chunk) :]
        _check(entry, digest.hexdigest())
        _finish(fd, entry)
    finally:
        os.close(fd)
    report.add(0, 1)


def _create(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _finish(fd: int, entry: Entry) -> None:
    os.fchmod(fd, entry.mode)
    os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))


def _put_in_place(aside: str, target: str, *, top: bool = True) -> None:
    """Move a finished tree to its place, into what is there already."""
    status = os.stat(aside)
    # Neither a directory that may not be written to nor what is in it can be moved by its owner.
    os.chmod(aside, 0o700)
    merge = os.path.lexists(target)
    if not merge:
        os.rename(aside, target)
    elif not stat.S_ISDIR(os.lstat(target).st_mode):
        raise AlreadyExists(f"{target} is in the way: it is no directory, and nothing is written through a symlink")
    else:
        if not top:
            os.chmod(target, 0o700)
        with os.scandir(aside) as entries:
            children = list(entries)
        for child in children:
            place = f"{target}/{child.name}"
            if child.is_dir(follow_symlinks=False):
                _put_in_place(child.path, place, top=False)
            elif os.path.isdir(place) and not os.path.islink(place):
                raise AlreadyExists(f"{place} is in the way: it is a directory")
            else:
                os.replace(child.path, place)
    if not (merge and top):
        os.chmod(target, stat.S_IMODE(status.st_mode))
        os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))


def _remove_tree(path: str) -> None:
    for directory, _, _ in os.walk(path):
        with suppress(PermissionError):  # rmtree says so if it matters
            os.chmod(directory, 0o700)
    shutil.rmtree(path)


def _target_error(error: OSError, target: str) -> ArtifactError:
    """What an error of the target's disk means: it is not the store that cannot be reached."""
    if isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError):
        return FormatError(f"cannot write {target}: two entries of the version are in each other's way: {error}")
    found = translate(error, f"cannot write {target}")
    return found if isinstance(found, AccessDenied | StoreFull) else ArtifactError(str(found))
