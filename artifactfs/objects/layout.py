"""Where things lie in a store, and what its small JSON files hold.

Pure functions and immutable structs, no I/O, safe from any thread. A key is a path below the store's root with ``/``
between its parts. Times are integers, nanoseconds since the epoch (UTC): exact, sortable and free of parsing.

::

    artifactfs.json                                     Marker
    artifactfs.probe.json                               Probe, beside the marker of a remote store
    objects/<2 hex>/<64 hex>                            immutable bytes, named by their BLAKE3
    collections/<collection>/<artifact>/v3.version      Record: the version exists because this does
    collections/<collection>/<artifact>/v3.deleted      Tombstone: the number is never used again
    collections/<collection>/<artifact>/v3.annotation   Annotation: what was said of the version later
    collections/<collection>/<artifact>/<alias>.alias   Alias
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from artifactfs import names
from artifactfs.errors import FormatError, InvalidName, SerializationError
from artifactfs.managers.base import VersionInfo

LAYOUT_FORMAT = 1
RECORD_FORMAT = 1
ANNOTATION_FORMAT = 1
DIGEST = "blake3"
MARKER_KEY = "artifactfs.json"
PROBE_KEY = "artifactfs.probe.json"
OBJECTS = "objects"
COLLECTIONS = "collections"
STAGING = "staging"
VERSION_SUFFIX = ".version"
DELETED_SUFFIX = ".deleted"
ANNOTATION_SUFFIX = ".annotation"
ALIAS_SUFFIX = ".alias"
TEMPORARY_PREFIX = ".tmp-"
# Names in a store's root that do not make it a foreign directory: the drive's area, and what mkfs puts on a disk.
NOT_CONTENT = frozenset({STAGING, PROBE_KEY, "lost+found"})
# A record is one small single PUT, so that its exclusive create is sound (conditional multipart uploads are not).
MAX_RECORD_BYTES = 64 << 10

# Times, sizes and counts fit 64 bits.
_LATEST = 1 << 63
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class Marker(msgspec.Struct, frozen=True):
    """``artifactfs.json``: makes a directory a store."""

    id: str
    created: int
    digest: str = DIGEST
    format: int = LAYOUT_FORMAT


class Probe(msgspec.Struct, frozen=True):
    """``artifactfs.probe.json``: by which clients an exclusive create was tried, and whether it held."""

    exclusive_create: dict[str, bool]
    format: int = LAYOUT_FORMAT


class Creator(msgspec.Struct, frozen=True):
    """Who committed, and where."""

    host: str = ""
    user: str = ""


class Record(msgspec.Struct, frozen=True):
    """The commit record ``vN.version``: everything a listing needs, so that it never opens a manifest.

    `commit` is the commit id, `digest` the content digest, `manifest` the hex name of the manifest's object. `created`
    is what the clock of the committing host said. `clock` puts versions in order where the clocks of hosts do not
    agree: it is that time too, but never before the `clock` of an earlier version or the time in the commit's own id.
    """

    version: str
    created: int
    commit: str
    digest: str
    manifest: str
    file_count: int
    size_bytes: int
    message: str = ""
    metadata: dict[str, Any] = {}
    creator: Creator = Creator()
    parent: str | None = None
    clock: int = 0
    format: int = RECORD_FORMAT

    @property
    def order_ns(self) -> int:
        """The time that orders versions; records of the first programs have only `created`."""
        return self.clock or self.created

    def info(self, collection: str, artifact: str) -> VersionInfo:
        """The record as the manager's callers see it."""
        who = self.creator
        return VersionInfo(
            collection,
            artifact,
            self.version,
            self.created,
            self.size_bytes,
            self.file_count,
            self.digest,
            self.message,
            self.metadata,
            f"{who.user}@{who.host}" if who.user and who.host else who.user or who.host,
            self.parent,
            self.commit,
        )


class Tombstone(msgspec.Struct, frozen=True):
    """``vN.deleted``. Keeps the record, so that a repeated commit learns that its version was made, and deleted."""

    version: str
    deleted: int
    record: Record
    format: int = RECORD_FORMAT


class Annotation(msgspec.Struct, frozen=True):
    """``vN.annotation``: what was said of a version after it was made.

    `message` takes the place of the record's, None leaves that one; `metadata` is laid over the record's, key by key.
    `written` is what the clock of the writing host said, `writer` who wrote it.
    """

    version: str
    written: int
    message: str | None = None
    metadata: dict[str, Any] = {}
    writer: Creator = Creator()
    format: int = ANNOTATION_FORMAT

    def over(self, info: VersionInfo) -> VersionInfo:
        """The version with what was said of it."""
        message = info.message if self.message is None else self.message
        return replace(info, message=message, metadata={**info.metadata, **self.metadata})


class Alias(msgspec.Struct, frozen=True):
    """``<alias>.alias``."""

    version: str


class _Format(msgspec.Struct, frozen=True):
    format: int


class _Names(msgspec.Struct, frozen=True):
    format: int
    manifest: str


T = TypeVar("T")
_format_decoder = msgspec.json.Decoder(_Format)
_manifest_decoder = msgspec.json.Decoder(_Names)
_encode = msgspec.json.Encoder(order="deterministic").encode


Stored = Marker | Probe | Record | Tombstone | Annotation | Alias


def encode(value: Stored) -> bytes:
    """The JSON of a small file, after the reader's own check of it.

    Raises:
        SerializationError: it is nothing that a reader would take, a message that is no text say, or metadata that
            cannot be JSON; or it makes a record or an annotation of more than 64 KiB.
    """
    try:
        raw = _encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise SerializationError(f"message or metadata cannot be written as JSON: {error}") from error
    if isinstance(value, Record | Annotation) and len(raw) > MAX_RECORD_BYTES:
        raise too_long(len(raw))
    try:
        _check_readable(value, raw)
    except FormatError as error:
        raise SerializationError(f"this cannot be kept in a store: {error.__cause__ or error}") from error
    return raw


def too_long(size_bytes: int) -> SerializationError:
    """The error for a message and metadata of that size."""
    return SerializationError(
        f"message and metadata take {size_bytes} bytes, at most {MAX_RECORD_BYTES} fit a version: "
        "log what is larger as a file"
    )


def _check_readable(value: Stored, raw: bytes) -> None:
    """Raises FormatError when what was encoded could not be read again."""
    what = f"the {type(value).__name__.lower()}"
    match value:
        case Record() | Tombstone() | Annotation():
            if not names.is_version(value.version):
                raise FormatError(f"{value.version!r} is no version")
            number = names.version_number(value.version)
            match value:
                case Record():
                    decode_record(raw, what, number)
                case Tombstone():
                    decode_tombstone(raw, what, number)
                case Annotation():
                    decode_annotation(raw, what, number)
        case Alias():
            decode_alias(raw, what)
        case Marker():
            decode_marker(raw, what)
        case Probe():
            decode_probe(raw, what)


def _decoder(kind: type[T], highest: int) -> Callable[[bytes, str], T]:
    decode = msgspec.json.Decoder(kind).decode

    def decode_checked(raw: bytes, key: str) -> T:
        try:
            value = decode(raw)
            # A newer format may have other fields altogether, so the format is looked at before complaining.
            found = getattr(value, "format", highest)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            try:
                found = _format_decoder.decode(raw).format
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                found = highest
            if found == highest:
                raise FormatError(f"{key} is damaged or not written by artifactfs: {error}") from error
        if found != highest:
            raise FormatError(f"{key} has format {found}, this program reads format {highest}: upgrade artifactfs")
        return value

    return decode_checked


_decode_marker = _decoder(Marker, LAYOUT_FORMAT)
decode_probe = _decoder(Probe, LAYOUT_FORMAT)
_decode_record = _decoder(Record, RECORD_FORMAT)
_decode_tombstone = _decoder(Tombstone, RECORD_FORMAT)
_decode_annotation = _decoder(Annotation, ANNOTATION_FORMAT)
_decode_alias = _decoder(Alias, LAYOUT_FORMAT)


def decode_marker(raw: bytes, key: str) -> Marker:
    """Read the store's marker. Raises FormatError."""
    marker = _decode_marker(raw, key)
    if marker.digest != DIGEST:
        raise FormatError(f"{key} asks for digest {marker.digest!r}, this program knows {DIGEST!r}: upgrade artifactfs")
    return marker


def decode_record(raw: bytes, key: str, number: int) -> Record:
    """Read the record stored at `key` for version `number`. Raises FormatError."""
    record = _decode_record(raw, key)
    _check_record(record, key, number)
    return record


def unreadable_record(number: int) -> Record:
    """A stand-in for the record of a version whose own cannot be read, for the tombstone of that version."""
    return Record(f"v{number}", 0, "", "", "0" * 64, 0, 0)


def manifest_named_in(raw: bytes) -> str | None:
    """The manifest that a record of this format names though something else in it is damaged; None when none is."""
    try:
        found = _manifest_decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found.manifest if found.format == RECORD_FORMAT and is_object_name(found.manifest) else None


def decode_tombstone(raw: bytes, key: str, number: int) -> Tombstone:
    """Read the tombstone stored at `key` for version `number`. Raises FormatError."""
    tombstone = _decode_tombstone(raw, key)
    _check_record(tombstone.record, key, number)
    return tombstone


def decode_annotation(raw: bytes, key: str, number: int) -> Annotation:
    """Read the annotation stored at `key` for version `number`. Raises FormatError."""
    annotation = _decode_annotation(raw, key)
    if annotation.version != f"v{number}" or not -_LATEST < annotation.written < _LATEST:
        raise FormatError(f"{key} is damaged: it names version {annotation.version!r}, time {annotation.written}")
    return annotation


def is_newer_annotation(raw: bytes) -> bool:
    """Tell whether a newer program wrote an annotation that cannot be read, so that it must not be replaced."""
    try:
        return _format_decoder.decode(raw).format > ANNOTATION_FORMAT
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def decode_alias(raw: bytes, key: str) -> str:
    """The version that the alias stored at `key` names; it may not exist. Raises FormatError."""
    version = _decode_alias(raw, key).version
    if not names.is_version(version):
        raise FormatError(f"{key} is damaged: it names {version!r}, which is no version")
    return version


def _check_record(record: Record, key: str, number: int) -> None:
    if record.version != f"v{number}" or _HEX_DIGEST.match(record.manifest) is None:
        raise FormatError(f"{key} is damaged: it names version {record.version!r}, manifest {record.manifest!r}")
    if not (
        -_LATEST < record.created < _LATEST
        and 0 <= record.clock < _LATEST
        and 0 <= record.file_count < _LATEST
        and 0 <= record.size_bytes < _LATEST
    ):
        raise FormatError(f"{key} is damaged: a time, a size or a count in it is out of range")


def object_key(name: str) -> str:
    """The key of the object with that hex name."""
    return f"{OBJECTS}/{name[:2]}/{name}"


def is_object_name(name: str) -> bool:
    """Tell whether `name` is the hex name of an object."""
    return _HEX_DIGEST.match(name) is not None


def is_temporary(key: str) -> bool:
    """Tell whether the key's last part is a temporary name: left by a writer that died, unless one is writing it."""
    return key.rpartition("/")[2].startswith(TEMPORARY_PREFIX)


def stored_collection(shown: str) -> str:
    """The name in the store of a collection as listings show it. Raises InvalidName."""
    return shown if names.is_collection(shown) else _foreign(shown, names.check_collection)


def stored_artifact(shown: str) -> str:
    """The name in the store of an artifact as listings show it. Raises InvalidName."""
    return shown if names.is_artifact(shown) else _foreign(shown, names.check_artifact)


def _foreign(shown: str, check: Callable[[str], str]) -> str:
    """A name that breaks the rules but was found in a store, and is shown percent-encoded."""
    stored = names.unescape(shown)
    if names.escape(stored) != shown:
        return check(shown)
    if "/" in stored or "\0" in stored or stored in ("", ".", ".."):
        raise InvalidName(f"invalid name {shown!r}: it is no part of a path")
    return stored


def shown_collection(stored: str) -> str:
    """How listings show a collection found in the store."""
    return stored if names.is_collection(stored) else names.escape(stored)


def shown_artifact(stored: str) -> str:
    """How listings show an artifact found in the store."""
    return stored if names.is_artifact(stored) else names.escape(stored)


def collection_prefix(collection: str) -> str:
    """The key below which a collection lies; `collection` as shown. Raises InvalidName."""
    return f"{COLLECTIONS}/{stored_collection(collection)}"


def artifact_prefix(collection: str, artifact: str) -> str:
    """The key below which an artifact's records lie; names as shown. Raises InvalidName."""
    return f"{COLLECTIONS}/{stored_collection(collection)}/{stored_artifact(artifact)}"


def record_key(prefix: str, number: int) -> str:
    """The key of a version's record, `prefix` from :func:`artifact_prefix`."""
    return f"{prefix}/v{number}{VERSION_SUFFIX}"


def tombstone_key(prefix: str, number: int) -> str:
    """The key of a version's tombstone."""
    return f"{prefix}/v{number}{DELETED_SUFFIX}"


def annotation_key(prefix: str, number: int) -> str:
    """The key of what was said of a version later."""
    return f"{prefix}/v{number}{ANNOTATION_SUFFIX}"


def alias_key(prefix: str, alias: str) -> str:
    """The key of an alias. Raises InvalidName."""
    return f"{prefix}/{names.check_alias(alias)}{ALIAS_SUFFIX}"


def number_of(name: str, suffix: str) -> int | None:
    """The version number of a file name such as ``v3.version``, None when it is something else."""
    stem = name[: -len(suffix)]
    return int(stem[1:]) if name.endswith(suffix) and names.is_version(stem) else None
