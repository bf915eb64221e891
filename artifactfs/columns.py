"""The stored form of a manifest: a zstd frame around a MessagePack map of columns.

The one reader of it, which trusts nothing: `decode_columns` bounds what is unpacked before it is unpacked and checks
the outer form, `checked` what the columns must hold to be a manifest, each count before anything is made of it. What
is written keeps to the same bounds. Pure functions, safe from any thread.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from itertools import islice
from operator import lt
from typing import Annotated, NamedTuple

import msgspec
import zstandard
from blake3 import blake3

from artifactfs.entry import EntryKind
from artifactfs.errors import FormatError
from artifactfs.names import MAX_NAME_BYTES
from artifactfs.symlinks import leading_out

MANIFEST_FORMAT = 1
DIGEST_SIZE_BYTES = 32
NO_OBJECT = 0xFFFFFFFF
MAX_SIZE = 1 << 62
"""A size or an offset is less than this, so that their sum is a number for every system call."""
# A manifest of ten million long paths is about 2 GB; anything that claims more is a bomb.
MAX_DECODED_BYTES = 4 << 30
# What is stored may unpack to so many times as much, and where that is large to fewer times: entries that are all
# alike shrink to less than 1 %, and a writer pads those that shrink to less than a reader takes.
_MAX_RATIO = 256
_MAX_RATIO_SLACK_BYTES = 1 << 20
_LARGE_BYTES = 128 << 20
_MAX_RATIO_OF_LARGE = 64
_COMPRESSION_LEVEL = 3
# Of the most significant byte of numbers: all that it may be.
_IN_SIZES = bytes(range(MAX_SIZE >> 56))
_IN_MODES = bytes(range((0o777 >> 8) + 1))


class _Format(msgspec.Struct):
    format: int


class Columns(msgspec.Struct, omit_defaults=True):
    """The stored form; see the module docstring. `targets` is the MessagePack map of row → symlink's target."""

    format: int
    algorithm: Annotated[str, msgspec.Meta(max_length=32)]
    paths: bytes
    kinds: bytes
    modes: bytes
    sizes: bytes
    mtimes: bytes
    digests: bytes
    objects: bytes
    object_index: bytes
    offsets: bytes
    targets: msgspec.Raw
    padding: bytes = b""


class Rows(NamedTuple):
    """The columns of a manifest, unpacked: sorted by path, one row for each entry."""

    algorithm: str
    paths: list[bytes]
    kinds: bytes
    modes: array[int]
    sizes: array[int]
    mtimes: array[int]
    offsets: array[int]
    digests: bytes
    object_index: array[int]
    objects: list[bytes]
    targets: dict[int, bytes]


def pack(column: array[int]) -> bytes:
    """A column of numbers as stored: little-endian."""
    if sys.byteorder == "big":
        column = array(column.typecode, column)
        column.byteswap()
    return column.tobytes()


def unpack(typecode: str, raw: bytes, count: int, what: str) -> array[int]:
    """The inverse of :func:`pack`. Raises FormatError unless it holds `count` numbers; `what` names the column."""
    column: array[int] = array(typecode)
    if len(raw) != count * column.itemsize:
        raise FormatError(f"damaged manifest: column {what} has {len(raw)} bytes for {count} entries")
    column.frombytes(raw)
    if sys.byteorder == "big":
        column.byteswap()
    return column


def encode_targets(targets: dict[int, bytes]) -> msgspec.Raw:
    """The column of symlinks' targets as stored."""
    return msgspec.Raw(msgspec.msgpack.encode(targets))


def encode_columns(columns: Columns) -> bytes:
    """The stored form; the same columns always give the same bytes (for one zstd library)."""
    plain = msgspec.msgpack.encode(columns)
    raw = _compress(plain)
    if len(plain) > _most_decoded_bytes(len(raw)):
        # Bytes that do not shrink: what a reader refuses must not be written.
        columns.padding = blake3(b"padding").digest(length=len(plain) // (_MAX_RATIO_OF_LARGE - 1))
        raw = _compress(msgspec.msgpack.encode(columns))
    return raw


def _compress(plain: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=_COMPRESSION_LEVEL).compress(plain)


def _most_decoded_bytes(stored_bytes: int) -> int:
    """The number of bytes that so many stored ones may unpack to."""
    small = min(_LARGE_BYTES, stored_bytes * _MAX_RATIO + _MAX_RATIO_SLACK_BYTES)
    return min(MAX_DECODED_BYTES, max(small, stored_bytes * _MAX_RATIO_OF_LARGE))


def decode_columns(raw: bytes) -> Columns:
    """The stored columns, their outer form checked and nothing else. Raises FormatError."""
    try:
        size = zstandard.frame_content_size(raw)
        if not 0 <= size <= _most_decoded_bytes(len(raw)):
            raise FormatError(f"manifest of {len(raw)} bytes claims to unpack to {size}: refused")
        plain = zstandard.ZstdDecompressor().decompress(raw, max_output_size=size, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError) as error:
        raise FormatError(f"damaged manifest: {error}") from error
    try:
        # The format first: a newer one may have other columns altogether.
        found = msgspec.msgpack.decode(plain, type=_Format).format
        if found == MANIFEST_FORMAT:
            columns = msgspec.msgpack.decode(plain, type=Columns)
            columns.targets = columns.targets.copy()  # else it keeps all of `plain` in memory
            return columns
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, MemoryError) as error:
        raise FormatError(f"damaged manifest: {error}") from error
    raise FormatError(f"manifest has format {found}, this program reads format {MANIFEST_FORMAT}: upgrade artifactfs")


def has_bad_part(joined: bytes) -> bool:
    """Tell whether one of the paths, joined by NUL, is absolute or has an empty part, '.' or '..'."""
    # Few looks, because each takes as long as to split the paths: that of a million files has 30 MB of them.
    parts = b"/" + joined.replace(b"\0", b"/") + b"/"
    return b"//" in parts or (b"/." in parts and (b"/./" in parts or b"/../" in parts))


def has_long_name(paths: Sequence[bytes]) -> bool:
    """Tell whether one of the paths has a part that is longer than a name may be."""
    if max(map(len, paths), default=0) <= MAX_NAME_BYTES:
        return False
    return any(len(path) > MAX_NAME_BYTES and max(map(len, path.split(b"/"))) > MAX_NAME_BYTES for path in paths)


def checked(columns: Columns) -> Rows:
    """The rows of stored columns that are a manifest, damaged and hostile ones refused. Raises FormatError."""
    count = len(columns.kinds)
    if columns.kinds.translate(None, bytes(EntryKind)):
        raise FormatError("damaged manifest: entry kinds")
    paths = _checked_paths(columns.paths, count)
    sizes = unpack("Q", columns.sizes, count, "sizes")
    offsets = unpack("Q", columns.offsets, count, "offsets")
    modes = unpack("H", columns.modes, count, "modes")
    if (
        _is_out_of(columns.sizes, 8, _IN_SIZES)
        or _is_out_of(columns.offsets, 8, _IN_SIZES)
        or _is_out_of(columns.modes, 2, _IN_MODES)
    ):
        raise FormatError("damaged manifest: a size, offset or mode is absurd")
    if sum(sizes) >> 63:
        raise FormatError("damaged manifest: its files have more bytes than a number can tell")
    if columns.digests and len(columns.digests) % max(count, 1):
        raise FormatError("damaged manifest: digests")
    object_index = unpack("I", columns.object_index, count, "object_index")
    return Rows(
        columns.algorithm,
        paths,
        columns.kinds,
        modes,
        sizes,
        unpack("q", columns.mtimes, count, "mtimes"),
        offsets,
        columns.digests,
        object_index,
        _checked_objects(columns.objects, object_index),
        _checked_targets(columns.targets, columns.kinds, paths),
    )


def _is_out_of(raw: bytes, width: int, most_significant: bytes) -> bool:
    """Tell whether a number in a stored column has another most significant byte than these."""
    # A column of a million numbers in 1 ms; to make numbers of them, as max() does, takes 25 ms.
    return bool(raw[width - 1 :: width].translate(None, most_significant))


def _checked_paths(joined: bytes, count: int) -> list[bytes]:
    # Counted before they are split: each takes many times the memory of the byte that it may be here.
    found = joined.count(b"\0") + 1 if joined else 0
    if found != count:
        raise FormatError(f"damaged manifest: {found} paths for {count} entries")
    if count and has_bad_part(joined):
        raise FormatError("hostile manifest: a path is absolute, empty or leaves the version")
    paths = joined.split(b"\0") if count else []
    if not all(map(lt, paths, islice(paths, 1, None))):
        raise FormatError("damaged manifest: paths are not sorted")
    if has_long_name(paths):
        raise FormatError(f"damaged manifest: a name has more than {MAX_NAME_BYTES} bytes")
    return paths


def _checked_objects(raw: bytes, object_index: array[int]) -> list[bytes]:
    count, rest = divmod(len(raw), DIGEST_SIZE_BYTES)
    if rest or count > len(object_index):
        raise FormatError("damaged manifest: objects")
    if max(object_index, default=0) >= count and set(object_index) - {NO_OBJECT} - set(range(count)):
        raise FormatError("damaged manifest: an entry names an object that is not listed")
    return [raw[i : i + DIGEST_SIZE_BYTES] for i in range(0, len(raw), DIGEST_SIZE_BYTES)]


def _checked_targets(raw: msgspec.Raw, kinds: bytes, paths: list[bytes]) -> dict[int, bytes]:
    count = kinds.count(EntryKind.SYMLINK)
    if _map_length(bytes(raw)) != count:
        raise FormatError("damaged manifest: symlink targets")
    try:
        targets = msgspec.msgpack.decode(raw, type=dict[int, bytes])
    except msgspec.DecodeError as error:
        raise FormatError(f"damaged manifest: symlink targets: {error}") from error
    # As many as there are symlinks, each for a row that is one: so every symlink has one.
    if len(targets) != count or any(not 0 <= row < len(kinds) or kinds[row] != EntryKind.SYMLINK for row in targets):
        raise FormatError("damaged manifest: symlink targets")
    if out := leading_out({paths[row]: target for row, target in targets.items()}, paths):
        raise FormatError(f"hostile manifest: a symlink leads out of the version, or may: {min(out)[:256]!r}")
    return targets


def _map_length(raw: bytes) -> int:
    """The number of items that a MessagePack map says it has; -1 when it is no map."""
    kind = raw[0]
    if kind & 0xF0 == 0x80:
        return kind & 0x0F
    width = {0xDE: 2, 0xDF: 4}.get(kind, 0)
    return int.from_bytes(raw[1 : 1 + width], "big") if width else -1
