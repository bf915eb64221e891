"""Manifests: what goes in comes out, look-ups agree with a plain model, and nothing hostile is believed."""

from __future__ import annotations

import os
import tracemalloc
from contextlib import suppress
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from artifactfs import Entry, EntryKind, Manifest
from artifactfs.errors import FormatError, InvalidName
from artifactfs.manifest_builder import ManifestBuilder

HEX = st.binary(min_size=32, max_size=32).map(bytes.hex)
NAMES = st.sampled_from(["a", "b", "a.b", "a0", "é", os.fsdecode(b"\xff"), "-", "~", "A", "a b", "a\nb"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@st.composite
def entries(draw: Any) -> list[Entry]:
    """A tree: a path that is a prefix of another is a directory."""
    paths = sorted(draw(st.sets(PATHS, max_size=12)))
    found = []
    for path in paths:
        common = {"mtime_ns": draw(st.integers(-(2**62), 2**62)), "mode": draw(st.integers(0, 0o777))}
        kind = draw(st.sampled_from(EntryKind))
        if any(other.startswith(path + "/") for other in paths) or kind is EntryKind.DIRECTORY:
            found.append(Entry(path, EntryKind.DIRECTORY, **common))
        elif kind is EntryKind.SYMLINK:
            found.append(Entry(path, kind, target=draw(NAMES), **common))
        else:
            size = draw(st.integers(0, 2**61))
            place = {"object": draw(HEX), "offset": draw(st.integers(0, 2**61))} if draw(st.booleans()) else {}
            found.append(Entry(path, kind, size, draw(HEX.filter(lambda d: d.strip("0"))), **place, **common))
    return found


def by_bytes(found: list[Entry]) -> list[Entry]:
    return sorted(found, key=lambda entry: os.fsencode(entry.path))


@given(entries(), st.randoms())
def test_round_trip_in_any_order(found: list[Entry], random: Any):
    manifest = Manifest(found)
    raw = manifest.encode()
    assert list(manifest) == list(Manifest.decode(raw)) == by_bytes(found)
    random.shuffle(found)
    shuffled = Manifest(iter(found))
    assert shuffled.encode() == raw
    assert shuffled.content_digest() == manifest.content_digest()
    assert manifest.file_count == sum(entry.kind is EntryKind.FILE for entry in found)
    assert manifest.size_bytes == sum(entry.size_bytes for entry in found)


@given(entries())
def test_lookups_agree_with_a_plain_model(found: list[Entry]):
    manifest = Manifest(found)
    model = {entry.path: entry for entry in found}
    directories = {""} | {e.path for e in found if e.kind is EntryKind.DIRECTORY}
    for path in model:
        while "/" in path:
            path = path.rpartition("/")[0]
            directories.add(path)
    for path in {*model, *directories, "none", "a/none"}:
        assert manifest.find(path) == model.get(path)
        assert manifest.is_directory(path) == (path in directories)
    for directory in directories:
        prefix = directory + "/" if directory else ""
        expected = {p[len(prefix) :].partition("/")[0] for p in {*model, *directories} - {""} if p.startswith(prefix)}
        children = list(manifest.children(directory))
        assert [name for name, _ in children] == sorted(expected, key=os.fsencode)
        for name, position in children:
            assert position == manifest.index(prefix + name)
    assert sorted(manifest.objects) == sorted({e.object for e in found if e.object is not None})


@given(entries())
def test_contents_and_places(found: list[Entry]):
    manifest = Manifest(found)
    placed = [entry for entry in by_bytes(found) if entry.object is not None]
    assert [
        (digest.hex(), manifest.objects[number], offset, size) for digest, number, offset, size in manifest.contents()
    ] == [(entry.digest, entry.object, entry.offset, entry.size_bytes) for entry in placed]
    for position, entry in enumerate(by_bytes(found)):
        where = manifest.content_at(position)
        if entry.object is None or entry.digest is None:
            assert where is None
        else:
            digest, name, offset, size_bytes = where
            assert (digest.hex(), name.hex(), offset, size_bytes) == (
                *(entry.digest, entry.object),
                *(entry.offset, entry.size_bytes),
            )
        assert manifest.raw_index(manifest.raw_path(position)) == position
    assert [row for row, _, _ in manifest.places()] == [
        i for i, entry in enumerate(by_bytes(found)) if entry.kind is EntryKind.FILE
    ]


def test_the_content_digest_covers_content_and_nothing_else():
    base = [
        Entry("a", EntryKind.FILE, 1, "11" * 32, "22" * 32, 0, 5, 0o644),
        Entry("d", EntryKind.DIRECTORY),
        Entry("d/e", EntryKind.DIRECTORY),
        Entry("l", EntryKind.SYMLINK, target="a"),
    ]
    digest = Manifest(base).content_digest()
    same = [
        [base[0]._replace(mtime_ns=9, object="33" * 32, offset=4, mode=0o600), *base[1:]],
        [base[0], base[1]._replace(mode=0o700, mtime_ns=3), *base[2:]],
        [base[0], *base[2:]],  # "d" is implied by "d/e"
    ]
    for entries in same:
        assert Manifest(entries).content_digest() == digest
    different = [
        [base[0]._replace(path="b"), *base[1:]],
        [base[0]._replace(size_bytes=2), *base[1:]],
        [base[0]._replace(digest="44" * 32), *base[1:]],
        [base[0]._replace(mode=0o755), *base[1:]],
        [base[0], base[1], base[3]],  # "d" is empty
        [*base[:3], base[3]._replace(target="d")],
        base[:3],
        [*base, Entry("z", EntryKind.DIRECTORY)],
    ]
    digests = [Manifest(entries).content_digest() for entries in different]
    assert len({digest, *digests}) == len(different) + 1


def test_permission_bits_beside_the_digest():
    """Of what both list; a symlink has none."""
    base = [
        Entry("d", EntryKind.DIRECTORY, mode=0o755),
        Entry("d/a", EntryKind.FILE, 1, "11" * 32, mode=0o644),
        Entry("l", EntryKind.SYMLINK, target="d"),
    ]
    for entries in (base, base[1:], [*base[:2], base[2]._replace(mode=0o700)]):
        assert Manifest(base).has_modes_of(Manifest(entries))
        assert Manifest(entries).has_modes_of(Manifest(base))
    for entries in ([base[0]._replace(mode=0o700), *base[1:]], [base[0], base[1]._replace(mode=0o640), base[2]]):
        assert not Manifest(base).has_modes_of(Manifest(entries))


def test_digests_of_other_algorithms():
    manifest = Manifest([Entry("a", digest="ab" * 16), Entry("b")], algorithm="md5")
    again = Manifest.decode(manifest.encode())
    assert again.algorithm == "md5"
    assert [entry.digest for entry in again] == ["ab" * 16, None]
    assert Manifest([Entry("a"), Entry("b")])[0].digest is None
    with pytest.raises(InvalidName, match="another length"):
        Manifest([Entry("a", digest="ab" * 16), Entry("b", digest="ab" * 32)])


@pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\0b"])
def test_paths_no_version_can_have(path: str):
    with pytest.raises(InvalidName):
        Manifest([Entry("fine"), Entry(path)])


def test_a_path_twice():
    with pytest.raises(InvalidName, match="twice"):
        Manifest([Entry("a"), Entry("b"), Entry("a")])


def test_a_million_entries_are_lean():
    builder = ManifestBuilder()
    digest = bytes(range(32))
    for i in range(20_000):
        row = builder.add(b"d%03d/f%05d" % (i % 100, i), EntryKind.FILE, size_bytes=1)
        builder.set_content(row, digest, digest, i)
    manifest = Manifest.of(builder.rows())
    assert manifest.memory_bytes < 20_000 * 200
    assert manifest[0].path == "d000/f00000"
    assert manifest[-1].offset == 19_999


GOOD = Manifest(
    [
        Entry("a", EntryKind.FILE, 1, "11" * 32, "22" * 32),
        Entry("b", EntryKind.FILE, 1, "33" * 32, "22" * 32, 1),
        Entry("l", EntryKind.SYMLINK, target="a"),
    ]
).encode()


def doctored(**changes: Any) -> bytes:
    columns = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(GOOD))
    assert set(changes) <= set(columns) | {"surprise", "padding"}
    columns.update(changes)
    return zstandard.ZstdCompressor().compress(msgspec.msgpack.encode(columns))


def test_the_doctor_does_no_harm():
    assert Manifest.decode(doctored()).encode() == GOOD


@pytest.mark.parametrize(
    "changes",
    [
        {"paths": b"../b\0a\0l"},
        {"paths": b"/a\0b\0l"},
        {"paths": b"a/../../b\0b\0l"},
        {"paths": b"a//b\0b\0l"},
        {"paths": b"a/.\0b\0l"},
        {"paths": b"\0a\0l"},
        {"paths": b"b\0a\0l"},
        {"paths": b"a\0a\0l"},
        {"paths": b"a\0b\0l\0m"},
        {"paths": b""},
        {"kinds": b"\0\0"},
        {"kinds": b"\0\0\7"},
        {"kinds": b"\0\0\0"},
        {"modes": b"\0\0"},
        {"modes": b"\xff\xff" * 3},
        {"sizes": b"\0" * 23},
        {"sizes": b"\xff" * 24},
        {"offsets": b"\xff" * 24},
        {"mtimes": b""},
        {"digests": b"\0" * 95},
        {"objects": b"\0" * 33},
        {"objects": b""},
        {"object_index": b"\x09\0\0\0" * 3},
        {"targets": {}},
        {"targets": {2: b"/etc/passwd"}},
        {"targets": {2: b"../up"}},
        {"targets": {2: b""}},
        {"targets": {2: b"a\0b"}},
        {"targets": {0: b"a", 2: b"a"}},
        {"targets": {7: b"a"}},
        {"paths": 7},
        {"paths": b"a" * 256 + b"\0b\0l"},
        {"paths": b"a\0a/" + b"b" * 256 + b"\0l"},
        {"paths": b"a\0b\0b/l", "kinds": b"\0\2\0", "targets": {1: b"a"}},
        {"paths": b"a\0d/e\0l", "kinds": b"\0\2\2", "targets": {1: b"..", 2: b"d/e/../a"}},
        {"targets": {2: b"a" * 4096}},
        {"targets": {2: "a"}},
        {"targets": {-1: b"a"}},
        {"targets": {2**40: b"a"}},
        {"targets": [b"a"]},
        {"targets": None},
        {"algorithm": "b" * 100},
        {"objects": b"\0" * 32 * 4},
        {"sizes": (1 << 62).to_bytes(8, "little") * 3},
    ],
    ids=repr,
)
def test_hostile_and_damaged_columns(changes: dict[str, Any]):
    with pytest.raises(FormatError):
        Manifest.decode(doctored(**changes))


def test_a_newer_format_names_both():
    with pytest.raises(FormatError, match=r"format 2.*format 1.*upgrade"):
        Manifest.decode(doctored(format=2, paths="another type"))
    assert len(Manifest.decode(doctored(surprise=1))) == 3, "a column more is no other format"


def test_bombs():
    compressor = zstandard.ZstdCompressor(level=1)
    with pytest.raises(FormatError, match="refused"):
        Manifest.decode(compressor.compress(bytes(64 << 20)))
    stream = compressor.compressobj()
    with pytest.raises(FormatError, match="refused"):
        Manifest.decode(stream.compress(bytes(64 << 20)) + stream.flush())


@pytest.mark.parametrize(
    "raw",
    [
        GOOD + b"junk",
        GOOD + GOOD,
        zstandard.ZstdCompressor(write_content_size=False).compress(zstandard.ZstdDecompressor().decompress(GOOD)),
        b"\x50\x2a\x4d\x18\4\0\0\0skip" + GOOD,
    ],
    ids=["junk-behind", "two-frames", "no-size", "skippable-before"],
)
def test_frames_that_are_not_one_whole(raw: bytes):
    with pytest.raises(FormatError):
        Manifest.decode(raw)


ROWS = 4 << 20


@pytest.mark.parametrize(
    "changes",
    [
        {"paths": bytes(ROWS)},
        {"paths": bytes(ROWS), "kinds": bytes(ROWS)},
        {"objects": bytes(32 * (ROWS // 8))},
        {
            "targets": msgspec.Raw(
                b"\xdf\0\x40\0\0" + b"".join(b"\xce%s\xc4\0" % i.to_bytes(4, "big") for i in range(9))
            )
        },
        {"targets": dict.fromkeys(range(200_000), b"")},
        {"surprise": [[]] * ROWS},
    ],
    ids=["paths", "paths-and-kinds", "objects", "targets-that-are-not-there", "targets", "unknown"],
)
def test_what_a_column_claims_is_counted_before_anything_is_made_of_it(changes: dict[str, Any]):
    changes = {**changes, "padding": os.urandom(2 << 20)}  # it shrinks to no less than a reader takes
    raw = doctored(**changes)
    tracemalloc.start()
    try:
        with suppress(FormatError):
            Manifest.decode(raw)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    decoded = zstandard.frame_content_size(raw)
    assert peak < 3 * decoded + (8 << 20)


@pytest.mark.parametrize("common", [b"", b"/".join([b"d" * 200] * 10) + b"/"], ids=["files", "deep-files"])
def test_what_is_written_is_read_however_far_it_shrinks(common: bytes):
    builder = ManifestBuilder()
    for i in range(20_000 if common else 300_000):
        builder.add(common + b"%07d" % i, EntryKind.FILE, mtime_ns=1)
    manifest = Manifest.of(builder.rows())
    raw = manifest.encode()
    assert Manifest.decode(raw).encode() == raw


@pytest.mark.parametrize("name", ["a" * 256, "é" * 128, "d/" + "a" * 256])
def test_a_name_longer_than_any_disk_holds_is_refused(name: str):
    with pytest.raises(InvalidName, match="255 bytes"):
        Manifest([Entry(name)])
    assert len(Manifest([Entry("a" * 255), Entry("/".join(["b" * 255] * 3))])) == 2


@pytest.mark.parametrize("size_bytes", [-1, 1 << 62, 1 << 70])
def test_a_size_that_no_version_can_hold_is_refused(size_bytes: int):
    with pytest.raises(InvalidName, match="'big' has a size"):
        Manifest([Entry("a"), Entry("big", size_bytes=size_bytes)])


@pytest.mark.parametrize(("mtime_ns", "kept"), [(10**30, 2**63 - 1), (-(10**30), -(2**63)), (-5, -5)])
def test_an_mtime_out_of_range_becomes_the_nearest_in_it(mtime_ns: int, kept: int):
    assert Manifest.decode(Manifest([Entry("a", mtime_ns=mtime_ns)]).encode())[0].mtime_ns == kept


@given(st.binary(max_size=80) | st.integers(0, len(GOOD) - 1).map(lambda i: GOOD[:i]))
def test_bytes_that_are_no_manifest(raw: bytes):
    with pytest.raises(FormatError):
        Manifest.decode(raw)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_an_error_or_a_manifest(position: int, flip: int):
    raw = bytearray(GOOD)
    raw[position] ^= flip
    try:
        manifest = Manifest.decode(bytes(raw))
    except FormatError:
        return
    assert len(list(manifest)) == len(manifest)
