"""The bytes of one file of a version, piece by piece, checked as they pass. Safe from any thread."""

from __future__ import annotations

from collections.abc import Iterator

from artifactfs.content.integrity import check_digest, hasher
from artifactfs.errors import IntegrityError
from artifactfs.managers.base import ArtifactManager, VersionInfo
from artifactfs.manifest import Entry

_CHUNK_BYTES = 8 << 20


def chunks(
    manager: ArtifactManager, info: VersionInfo, entry: Entry, *, algorithm: str = "blake3", checked_first_bytes: int
) -> Iterator[bytes]:
    """The bytes of the file `entry`; one of at most `checked_first_bytes` is checked before any of it is given.

    `algorithm` is the manifest's. Raises IntegrityError, for a larger file after its last byte; and as
    `ArtifactManager.read_entry`.
    """
    label = f"{info.collection}/{info.artifact}@{info.version}:{entry.path}"
    if entry.size_bytes <= checked_first_bytes:
        data = manager.read_entry(info, entry)
        if entry.digest is not None:
            check_digest(data, entry.digest, algorithm, label)
        yield data
        return
    digest = hasher(algorithm)
    for offset in range(0, entry.size_bytes, _CHUNK_BYTES):
        chunk = manager.read_entry(info, entry, offset, min(_CHUNK_BYTES, entry.size_bytes - offset))
        digest.update(chunk)
        yield chunk
    if entry.digest is not None and digest.hexdigest() != entry.digest:
        raise IntegrityError(f"{label} is damaged: its bytes do not match their digest")
