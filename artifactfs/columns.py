"""The stored form of a manifest: a zstd frame around a MessagePack map of columns.

Knows the outer form only: sizes, the format number, the types of the columns. What the columns must hold to be a
manifest is checked by `manifest.Manifest`. Pure functions, safe from any thread.
"""

from __future__ import annotations

import sys
from array import array

import msgspec
import zstandard

from artifactfs.errors import FormatError

MANIFEST_FORMAT = 1
# A manifest of ten million long paths is about 2 GB; anything that claims more is a bomb.
MAX_DECODED_BYTES = 4 << 30
# An entry takes 63 bytes and its path; all alike, they shrink to less than 1 % but never to nothing.
_MAX_RATIO = 256
_MAX_RATIO_SLACK_BYTES = 1 << 20
_COMPRESSION_LEVEL = 3


class _Format(msgspec.Struct):
    format: int


class Columns(msgspec.Struct, array_like=False):
    """The stored form; see the module docstring."""

    format: int
    algorithm: str
    paths: bytes
    kinds: bytes
    modes: bytes
    sizes: bytes
    mtimes: bytes
    digests: bytes
    objects: bytes
    object_index: bytes
    offsets: bytes
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


def encode_columns(columns: Columns) -> bytes:
    """The stored form; the same columns always give the same bytes (for one zstd library)."""
    return zstandard.ZstdCompressor(level=_COMPRESSION_LEVEL).compress(msgspec.msgpack.encode(columns))


def decode_columns(raw: bytes) -> Columns:
    """The stored columns, their format checked and nothing else. Raises FormatError."""
    try:
        size = zstandard.frame_content_size(raw)
        if not 0 <= size <= min(MAX_DECODED_BYTES, len(raw) * _MAX_RATIO + _MAX_RATIO_SLACK_BYTES):
            raise FormatError(f"manifest of {len(raw)} bytes claims to unpack to {size}: refused")
        plain = zstandard.ZstdDecompressor().decompress(raw, max_output_size=size)
    except (zstandard.ZstdError, MemoryError) as error:
        raise FormatError(f"damaged manifest: {error}") from error
    try:
        # The format first: a newer one may have other columns altogether.
        found = msgspec.msgpack.decode(plain, type=_Format).format
        if found == MANIFEST_FORMAT:
            return msgspec.msgpack.decode(plain, type=Columns)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"damaged manifest: {error}") from error
    raise FormatError(f"manifest has format {found}, this program reads format {MANIFEST_FORMAT}: upgrade artifactfs")
