"""Making a tree of a version: its files checked against their digests, with modes, mtimes, symlinks, empty directories.

The whole tree is made aside, under a temporary name in the target's directory, and then put in place by renames: as
one when the target does not exist, file by file when it does. So a failure leaves no half file under a final name, and
nothing is ever written through a symlink, neither one of the version (they are made last, in a tree that was made
fresh) nor one that lies in the target.

`restore` reads the objects of a store; `restore_tree` does the same for a manager with its own source of bytes, which
writes each file with `write_file`.

Threading: pure functions; a restore reads several spans at once where the store says that pays.
"""

from __future__ import annotations

import os
import stat
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import NamedTuple

from blake3 import blake3

from artifactfs.durable import write_all
from artifactfs.errors import (
    AccessDenied,
    AlreadyExists,
    ArtifactError,
    FormatError,
    IntegrityError,
    NotFound,
    StoreFull,
    UnsupportedTree,
)
from artifactfs.longpaths import make_directories, reach, remove_tree
from artifactfs.managers.base import Progress
from artifactfs.manifest import Entry, EntryKind, Manifest
from artifactfs.objects.disk import copy_new
from artifactfs.objects.hashing import open_regular, stored_digest
from artifactfs.objects.layout import TEMPORARY_PREFIX, object_key
from artifactfs.objects.store import ObjectStore, translate

_SPAN_BYTES = 16 << 20
_CHUNK_BYTES = 8 << 20
# Below this one read, hashed on the way, is faster than copying by reference and reading again.
_COPIED_BY_HAND_BYTES = 1 << 20


class Span(NamedTuple):
    """Files that lie one after another in an object, read at once; a file larger than a span comes alone."""

    object: str
    offset: int
    size_bytes: int
    entries: list[Entry]


class Report:
    """Adds up what the threads of a restore have done, for the caller's progress. Safe from any thread."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._bytes = 0
        self._files = 0

    def add(self, more_bytes: int, more_files: int) -> None:
        """So many more bytes, and so many more files, are written."""
        if self._progress is None:
            return
        with self._lock:
            self._bytes += more_bytes
            self._files += more_files
            self._progress(self._bytes, self._files)


WriteFiles = Callable[[str, Report], None]
"""Called with the directory to write to and where to report; see `restore_tree`."""


def restore(store: ObjectStore, manifest: Manifest, target: str, progress: Progress | None = None) -> None:
    """Write the files of a manifest to the directory `target`, which may exist; files of the same path are replaced.

    Raises IntegrityError, FormatError, AlreadyExists (something that is no directory is in the way of one, or the other
    way round), StoreUnreachable, AccessDenied and StoreFull of the store or of the target's disk.
    """
    restore_tree(manifest, target, partial(_write_files, store, manifest), progress)


def restore_tree(manifest: Manifest, target: str, write_files: WriteFiles, progress: Progress | None = None) -> None:
    """As :func:`restore`, where `write_files` writes every file of the manifest below the directory it is given.

    The directories of the files are there; symlinks, and what directories are like, come after it.
    """
    parent, name = os.path.split(os.path.abspath(target))
    aside = f"{parent}/{TEMPORARY_PREFIX}{name}-{uuid.uuid4().hex}"
    try:
        os.makedirs(aside)
        try:
            _make_tree(manifest, aside, write_files, Report(progress))
            _put_in_place(aside, f"{parent}/{name}")
        finally:
            if os.path.lexists(aside):
                remove_tree(aside)
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
        where = f" in object {entry.object}" if entry.object else ""
        raise IntegrityError(f"{entry.path}: the stored bytes{where} do not match their digest")


def _make_tree(manifest: Manifest, root: str, write_files: WriteFiles, report: Report) -> None:
    directories: list[Entry] = []
    symlinks: list[Entry] = []
    made = {""}
    for entry in manifest:
        if entry.kind is EntryKind.DIRECTORY:
            directories.append(entry)
            make_directories(root, entry.path, made)
        else:
            make_directories(root, entry.path.rpartition("/")[0], made)
            if entry.kind is EntryKind.SYMLINK:
                symlinks.append(entry)
    write_files(root, report)
    for link in symlinks:
        with reach(f"{root}/{link.path}") as path:
            os.symlink(link.target or "", path)
            os.utime(path, ns=(link.mtime_ns, link.mtime_ns), follow_symlinks=False)
    # Deepest first: a directory that may not be written to, or whose mtime is set, gets nothing new afterwards.
    for directory in reversed(directories):
        with reach(f"{root}/{directory.path}") as path:
            os.chmod(path, directory.mode)
            os.utime(path, ns=(directory.mtime_ns, directory.mtime_ns))


def _write_files(store: ObjectStore, manifest: Manifest, root: str, report: Report) -> None:
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


def _write_span(store: ObjectStore, span: Span, root: str, report: Report) -> None:
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
            write_all(fd, content)
            _finish(fd, entry)
        finally:
            os.close(fd)
        report.add(entry.size_bytes, 1)


def _write_large(store: ObjectStore, entry: Entry, root: str, report: Report) -> None:
    write_file(root, entry, partial(read_range, store, entry), report)


def write_file(root: str, entry: Entry, read: Callable[[int, int], bytes], report: Report) -> None:
    """Make one file of a tree that is made aside; `read` gives the bytes at an offset, as many as it is asked for.

    Raises IntegrityError when they do not match the digest; an entry without one is believed.
    """
    digest = blake3()
    fd = _create(f"{root}/{entry.path}")
    try:
        for offset in range(0, entry.size_bytes, _CHUNK_BYTES):
            chunk = memoryview(read(offset, min(_CHUNK_BYTES, entry.size_bytes - offset)))
            digest.update(chunk)
            report.add(len(chunk), 0)
            write_all(fd, chunk)
        if entry.digest is not None:
            _check(entry, digest.hexdigest())
        _finish(fd, entry)
    finally:
        os.close(fd)
    report.add(0, 1)


def copy_file(root: str, entry: Entry, source: str, report: Report, name: str) -> None:
    """As :func:`write_file` with the bytes of a local file, copied by reference where the disk can.

    `name` is what errors call the source.
    Raises IntegrityError when it is missing, no regular file, of another size or with another digest.
    """
    try:
        if entry.size_bytes > _COPIED_BY_HAND_BYTES:
            _copy_large(f"{root}/{entry.path}", entry, source, name)
            report.add(entry.size_bytes, 1)
        else:
            reader = open_regular(source)
            try:
                # One byte more, to see that nothing follows.
                data = os.read(reader, entry.size_bytes + 1)
            finally:
                os.close(reader)
            if len(data) != entry.size_bytes:
                raise _other_size(entry, name)
            write_file(root, entry, lambda _offset, _size_bytes: data, report)
    except UnsupportedTree as error:
        raise IntegrityError(f"{entry.path}: {name} is missing or no regular file") from error


def _copy_large(path: str, entry: Entry, source: str, name: str) -> None:
    copy_new(source, path)
    with reach(path) as place:
        fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_size != entry.size_bytes:
            raise _other_size(entry, name)
        if entry.digest is not None:
            _check(entry, stored_digest(path))
        _finish(fd, entry)
    finally:
        os.close(fd)


def _other_size(entry: Entry, source: str) -> IntegrityError:
    return IntegrityError(f"{entry.path}: {source} does not have the {entry.size_bytes} bytes it should")


def _create(path: str) -> int:
    with reach(path) as place:
        return os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _finish(fd: int, entry: Entry) -> None:
    os.fchmod(fd, entry.mode)
    os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))


def _put_in_place(aside: str, target: str) -> None:
    """Move a finished tree to its place, into what is there already. Raises AlreadyExists before anything is moved."""
    moves: list[tuple[str, os.stat_result | None]] = []
    merged: list[tuple[str, os.stat_result]] = []
    waiting = [""]
    while waiting:
        below = waiting.pop()
        with reach(aside + below) as source, reach(target + below) as place:
            status = os.stat(source)
            # Neither a directory that may not be written to nor what is in it can be moved by its owner.
            os.chmod(source, 0o700)
            if not os.path.lexists(place):
                moves.append((below, status))
                continue
            if not stat.S_ISDIR(os.lstat(place).st_mode):
                raise AlreadyExists(
                    f"{target}{below} is in the way: it is no directory, and nothing is written through a symlink"
                )
            if below:
                os.chmod(place, 0o700)
                merged.append((below, status))
            directories, others = _checked_names(source, place)
            waiting.extend(f"{below}/{name}" for name in directories)
            moves.extend((f"{below}/{name}", None) for name in others)
    for below, like in moves:
        with reach(aside + below) as source, reach(target + below) as place:
            os.replace(source, place)
            if like is not None:
                _set_like(place, like)
    for below, like in reversed(merged):
        with reach(target + below) as place:
            _set_like(place, like)


def _checked_names(source: str, place: str) -> tuple[list[str], list[str]]:
    """The directories and the rest of what is in `source`. Raises AlreadyExists when a directory is in a file's way."""
    directories: list[str] = []
    others: list[str] = []
    with os.scandir(source) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
                continue
            there = f"{place}/{entry.name}"
            if os.path.isdir(there) and not os.path.islink(there):
                raise AlreadyExists(f"{there} is in the way: it is a directory")
            others.append(entry.name)
    return directories, others


def _set_like(place: str, status: os.stat_result) -> None:
    os.chmod(place, stat.S_IMODE(status.st_mode))
    os.utime(place, ns=(status.st_mtime_ns, status.st_mtime_ns))


def _target_error(error: OSError, target: str) -> ArtifactError:
    """What an error of the target's disk means: it is not the store that cannot be reached."""
    if isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError):
        return FormatError(f"cannot write {target}: two entries of the version are in each other's way: {error}")
    found = translate(error, f"cannot write {target}")
    return found if isinstance(found, AccessDenied | StoreFull) else ArtifactError(str(found))
