"""What makes a directory a store: the marker ``artifactfs.json``, and what its absence means.

Threading: any thread; the lock guards the marker once seen, which never changes, and the answers of probes that are
still to be written down; it is not held across I/O.
"""

from __future__ import annotations

import os
import threading
import time
import uuid

from artifactfs.errors import FormatError, NotFound, StoreUnreachable
from artifactfs.objects import layout
from artifactfs.objects.layout import Marker, Probe
from artifactfs.objects.store import ObjectStore

_ATTEMPTS = 20
_PAUSE_S = 0.05


class StoreMarker:
    """The marker of one store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._seen: Marker | None = None
        self._unkept: dict[str, bool] | None = None

    def read(self) -> Marker | None:
        """The marker, None where a store may be made.

        Raises FormatError when what is there is not a store, or one of a newer format; StoreUnreachable, AccessDenied.
        """
        with self._lock:
            if self._seen is not None:
                return self._seen
        marker = self._fetch()
        if marker is None:
            top = self._store.listing("")
            foreign = sorted({*top.files, *top.directories} - layout.NOT_CONTENT)
            if foreign:
                marker = self._fetch_while_it_is_made(layout.MARKER_KEY in top.files)
                if marker is None:
                    raise FormatError(
                        f"{self._store.url} is not an artifactfs store: it has no {layout.MARKER_KEY} but holds "
                        f"{', '.join(map(repr, foreign[:3]))}; choose an empty or new directory, or put plain+ before "
                        "the URL if squirrel-core wrote it"
                    )
        with self._lock:
            self._seen = marker
        return marker

    def _fetch_while_it_is_made(self, is_listed: bool) -> Marker | None:
        """The marker, if somebody made the store while we looked.

        Where a file is not replaced in one step (WebDAV), one that is listed may not be there for a moment.
        """
        for _ in range(_ATTEMPTS if is_listed else 0):
            marker = self._fetch()
            if marker is not None:
                return marker
            time.sleep(_PAUSE_S)
        return self._fetch()

    def require(self) -> Marker | None:
        """As :meth:`read`, for reading: raises NotFound when the directory of a local store does not exist."""
        marker = self.read()
        root = self._store.local_root
        if marker is None and root is not None and not os.path.isdir(root):
            raise NotFound(f"no store at {root}: the directory does not exist (the first commit makes it)")
        return marker

    def create(self) -> Marker:
        """The marker, written if there is none. Raises as :meth:`read`, and UnsafeStore, StoreFull."""
        marker = self.read()
        self.require_exclusive(keep=False)
        if marker is None:
            ours = Marker(id=uuid.uuid4().hex, created=time.time_ns())
            self._store.put_exclusive(layout.MARKER_KEY, layout.encode(ours))
            marker = self.read()
            if marker is None:
                raise StoreUnreachable(f"{self._store.url}: the store's marker was written but cannot be read back")
        self._keep_answer()
        return marker

    def require_exclusive(self, *, keep: bool = True) -> None:
        """Raises UnsafeStore when this store cannot be written to safely.

        The answer is looked for beside the marker before the backend is probed, and kept there.
        """
        store = self._store
        if store.exclusive is None and store.client is not None and not store.single_writer:
            known = self._answers()
            # Only a yes is taken from there: a server may have learned it since.
            store.exclusive = known.get(store.client) or None
            with self._lock:
                self._unkept = None if store.exclusive else known
        store.require_exclusive()
        if keep:
            self._keep_answer()

    def _answers(self) -> dict[str, bool]:
        raw = self._store.get_many([layout.PROBE_KEY])[0]
        return {} if raw is None else layout.decode_probe(raw, layout.PROBE_KEY).exclusive_create

    def _keep_answer(self) -> None:
        """Write down what a probe found, once."""
        with self._lock:
            known, self._unkept = self._unkept, None
        client, sound = self._store.client, self._store.exclusive
        if known is not None and client is not None and sound:
            self._store.replace(layout.PROBE_KEY, layout.encode(Probe({**known, client: True})))

    def check_present(self) -> None:
        """Tell a store that lists nothing from one whose disk went away. Raises StoreUnreachable."""
        with self._lock:
            seen = self._seen
        if seen is not None and self._fetch() is None:
            raise StoreUnreachable(f"{self._store.url}: the store was there and is gone (is its disk still mounted?)")

    def _fetch(self) -> Marker | None:
        raw = self._store.get_many([layout.MARKER_KEY])[0]
        return None if raw is None else layout.decode_marker(raw, layout.MARKER_KEY)
