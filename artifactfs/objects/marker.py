"""What makes a directory a store: the marker ``artifactfs.json``, and what its absence means.

Threading: any thread; the lock guards the marker once seen, which never changes, and the answers of probes that are
still to be written down; it is not held across I/O.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Sequence
from functools import partial

from artifactfs.beneath import open_regular
from artifactfs.errors import FormatError, NotFound, StoreUnreachable
from artifactfs.objects import layout
from artifactfs.objects.layout import Marker, Probe
from artifactfs.objects.store import ObjectStore, Outcome

_ATTEMPTS = 20
_PAUSE_S = 0.05

_log = logging.getLogger(__name__)


class StoreMarker:
    """The marker of one store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._seen: Marker | None = None
        self.made = False
        """Tell whether this object wrote the marker."""
        self._unkept: dict[str, bool] | None = None

    def read(self) -> Marker | None:
        """The marker, None where a store may be made.

        Raises FormatError when what is there is not a store, or one of a newer format; StoreUnreachable, AccessDenied.
        """
        with self._lock:
            if self._seen is not None:
                return self._seen
        return self._see(self._fetch())

    def _see(self, marker: Marker | None) -> Marker | None:
        """As :meth:`read`, when that is what was found at the marker's key."""
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
        if marker is not None:
            self._store.expect(layout.MARKER_KEY, partial(_is_store, marker.id))
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
        self._store.check_there()
        marker = self.read()
        root = self._store.local_root
        if marker is None and root is not None and not os.path.isdir(root):
            raise NotFound(f"no store at {root}: the directory does not exist (the first commit makes it)")
        return marker

    def create(self) -> Marker:
        """The marker, written if there is none. Raises as :meth:`read`, and UnsafeStore, StoreFull."""
        self._store.check_there()
        with self._lock:
            marker = self._seen
        if marker is None:
            wanted = [layout.MARKER_KEY, *([layout.PROBE_KEY] if self._is_probed() else [])]
            raw = self._store.get_many(wanted)
            marker = self._see(_decoded(raw[0]))
            self._require_exclusive(raw[1:])
        else:
            self.require_exclusive(keep=False)
        if marker is None:
            marker = self._write()
        self._keep_answer()
        return marker

    def _write(self) -> Marker:
        ours = Marker(id=uuid.uuid4().hex, created=time.time_ns())
        outcome = self._store.put_exclusive(layout.MARKER_KEY, layout.encode(ours))
        self.made = outcome is Outcome.CREATED
        marker = self._see(ours) if outcome is Outcome.CREATED else self.read()
        if marker is None:
            raise StoreUnreachable(f"{self._store.url}: the store's marker was written but cannot be read back")
        return marker

    def require_exclusive(self, *, keep: bool = True) -> None:
        """Raises UnsafeStore when this store cannot be written to safely.

        The answer is looked for beside the marker before the backend is probed, and kept there.
        """
        self._require_exclusive(self._store.get_many([layout.PROBE_KEY]) if self._is_probed() else [])
        if keep:
            self._keep_answer()

    def _is_probed(self) -> bool:
        """Tell whether it is not known yet if this store can be written to safely."""
        store = self._store
        return store.exclusive is None and store.client is not None and not store.single_writer

    def _require_exclusive(self, answers: Sequence[bytes | None]) -> None:
        """`answers` is what lies at the key of the probes' answers, empty where the store need not be probed."""
        for raw in answers:
            known = {} if raw is None else _answers(raw)
            with self._lock:
                if self._store.exclusive is None:
                    # Only a yes is taken from there: a server may have learned it since.
                    self._store.exclusive = known.get(self._store.client or "") or None
                    self._unkept = None if self._store.exclusive else known
        self._store.require_exclusive()

    def _keep_answer(self) -> None:
        """Write down what a probe found, once."""
        client = self._store.client
        with self._lock:
            if not self._store.exclusive:
                return  # another thread's probe may be under way
            known, self._unkept = self._unkept, None
        if known is not None and client is not None:
            self._store.replace(layout.PROBE_KEY, layout.encode(Probe({**known, client: True})))

    def check_present(self) -> None:
        """Tell a store that lists nothing from one whose disk went away. Raises StoreUnreachable."""
        with self._lock:
            seen = self._seen
        if seen is not None and self._fetch() is None:
            raise StoreUnreachable(f"{self._store.url}: the store was there and is gone (is its disk still mounted?)")

    def _fetch(self) -> Marker | None:
        return _decoded(self._store.get_many([layout.MARKER_KEY])[0])


def _is_store(store_id: str, directory: int) -> bool:
    """Tell whether the local directory with that descriptor is the store with that id."""
    try:
        fd = open_regular(layout.MARKER_KEY, beneath=directory)
        with open(fd, "rb") as file:
            return layout.decode_marker(file.read(layout.MAX_RECORD_BYTES), layout.MARKER_KEY).id == store_id
    except (OSError, FormatError):
        return False


def _answers(raw: bytes) -> dict[str, bool]:
    """The answers of earlier probes; none where they are damaged, so that the backend is probed anew."""
    try:
        return layout.decode_probe(raw, layout.PROBE_KEY).exclusive_create
    except FormatError as error:
        _log.warning("probing the store anew: %s", error)
        return {}


def _decoded(raw: bytes | None) -> Marker | None:
    return None if raw is None else layout.decode_marker(raw, layout.MARKER_KEY)
