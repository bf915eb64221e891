"""Bringing a version of one store of the object layout into another: the objects as they are, then a record.

Nothing is unpacked and packed again: the same manifest names the same objects there. An object that a live version of
the target is known to need is not sent, nor is one that is found on a local disk; any other is put again, because gc
would not know that somebody counts on it (`objects.gc` says what it relies on). Every object is checked against its
name on the way. The order is that of `objects.commit`: objects, flush, record; a transfer that was cut short is
repeated with the same commit id.

Threading: a Transfer belongs to one thread, which has several objects sent at once.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import IO

from blake3 import blake3

from artifactfs.errors import IntegrityError, NotFound
from artifactfs.managers.base import Progress
from artifactfs.manifest import Manifest
from artifactfs.objects.commit import Commit, Committed, Committer, Content, Look
from artifactfs.objects.disk import has_digest
from artifactfs.objects.hashing import HashedFile, hash_file
from artifactfs.objects.history import History, Numbers
from artifactfs.objects.layout import Record, object_key
from artifactfs.objects.relied import ends_of, lost_objects
from artifactfs.objects.store import ObjectStore
from artifactfs.objects.uploads import renewed

# A pack fits; what is larger goes through a file instead of memory.
_IN_MEMORY_BYTES = 32 << 20
_CHUNK_BYTES = 8 << 20


class Transfer(Committer):
    """Makes versions in `target` of manifests in `source`. `known` are objects that need not be looked for."""

    def __init__(
        self, source: ObjectStore, target: ObjectStore, known: set[str], load_manifest: Callable[[str], Manifest]
    ) -> None:
        super().__init__(target, History(target), load_manifest)
        self._source = source
        self._known = known
        self._lock = threading.Lock()

    def bring(self, manifest: Manifest, commit: Commit) -> Committed:
        """Make the version, or find the one that the same commit made before. `commit.tree` is not used.

        Raises IntegrityError (the source is damaged), StoreUnreachable, AccessDenied, StoreFull, UnsafeStore.
        """
        self._content = Content(manifest)
        return self._until_it_stays(commit, self.look(commit), self._brought)

    def _brought(self, commit: Commit, look: Look) -> Committed | None:
        manifest = self._content.manifest
        ends = ends_of(manifest)
        lost = lost_objects(self._store, {name: end for name, end in ends.items() if name in self._known})
        wanted = [name for name in ends if name in lost or name not in self._known]
        held = _held_bytes(manifest)
        sent = self._send(wanted, held, commit.progress)
        published = self._publish(commit, self._content, [object_key(name) for name in wanted], look)
        if published is None:
            return None
        self._known.update(wanted)
        spared = sum(size_bytes for name, size_bytes in held.items() if name not in sent)
        return Committed(*published, sum(sent.values()), spared)

    def _mended(self, commit: Commit, numbers: Numbers, made: Record, manifest: Manifest | None) -> Manifest:
        """Send again what was lost of the copy that the same commit made before."""
        if self._content.name != made.manifest:
            raise IntegrityError(f"{made.version} is a copy of another version, and bytes of it were lost")
        objects = self._content.manifest.objects
        self._send(objects, _held_bytes(self._content.manifest), commit.progress)
        self._flush(self._content, [object_key(name) for name in objects])
        return self._content.manifest

    def _send(self, wanted: list[str], held: dict[str, int], progress: Progress | None) -> dict[str, int]:
        """Send what the target lacks; the bytes sent by the object's name."""
        sent: dict[str, int] = {}
        done_bytes = 0

        def one(name: str) -> None:
            nonlocal done_bytes
            size_bytes = self._send_one(name)
            with self._lock:
                if size_bytes is not None:
                    sent[name] = size_bytes
                done_bytes += held.get(name, 0)
                if progress is not None:
                    progress(done_bytes, 0)

        workers = max(self._source.parallel_transfers, self._store.parallel_transfers)
        names = iter(wanted)
        with ThreadPoolExecutor(workers) as pool:
            while batch := list(islice(names, 4 * workers)):
                for each in [pool.submit(one, name) for name in batch]:
                    each.result()
        return sent

    def _send_one(self, name: str) -> int | None:
        """The bytes sent, None when the target had the object."""
        key = object_key(name)
        if self._is_there(key, name):
            return None
        try:
            size_bytes = self._source.size(key)
            local = self._source.local_path(key)
            if local is not None:
                self._send_file(key, name, local)
            elif size_bytes <= _IN_MEMORY_BYTES:
                data = self._source.get(key)
                self._check(name, blake3(data).hexdigest())
                self._store.put(key, data)
            else:
                with tempfile.NamedTemporaryFile(prefix="artifactfs-") as file:
                    self._fetch(key, size_bytes, file)
                    self._send_file(key, name, file.name)
        except NotFound as error:
            raise IntegrityError(f"object {name} is missing from {self._source.url}") from error
        return size_bytes

    def _is_there(self, key: str, name: str) -> bool:
        """Tell whether the target has the object whole; it then counts as put just now, as after a commit's put."""
        path = self._store.local_path(key)
        if path is not None:
            return os.path.exists(path) and has_digest(path, name)
        return self._store.renews_in_place and renewed(self._store, name)

    def _send_file(self, key: str, name: str, path: str) -> None:
        hashed = hash_file(path)
        self._check(name, hashed.digest)
        self._store.put_file(key, HashedFile(path, name, hashed.status))

    def _fetch(self, key: str, size_bytes: int, file: IO[bytes]) -> None:
        for offset in range(0, size_bytes, _CHUNK_BYTES):
            file.write(self._source.get_range(key, offset, min(_CHUNK_BYTES, size_bytes - offset)))
        file.flush()

    def _check(self, name: str, digest: str) -> None:
        if digest != name:
            raise IntegrityError(f"object {name} of {self._source.url} does not match its digest")


def _held_bytes(manifest: Manifest) -> dict[str, int]:
    """How many bytes of the version lie in each object."""
    names = manifest.objects
    held: dict[str, int] = {}
    for _, number, _, size_bytes in manifest.contents():
        held[names[number]] = held.get(names[number], 0) + size_bytes
    return held
