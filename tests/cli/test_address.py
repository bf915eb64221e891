"""The one form of address, and what a path of a version leads to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs import Entry, EntryKind, Manifest
from artifactfs.address import Address, parse_address
from artifactfs.errors import InvalidName, PathNotFound
from artifactfs.links import file_at, resolve
from artifactfs.parts import part_of

PARTS = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1).filter(
    lambda part: part not in (".", "..")
)
ADDRESSES = st.one_of(
    st.from_regex(r"[a-zA-Z0-9_:-]{1,9}", fullmatch=True).map(Address),
    st.builds(
        Address,
        st.from_regex(r"[a-zA-Z0-9_:-]{1,9}", fullmatch=True),
        st.from_regex(r"[a-zA-Z0-9_.-]{1,9}", fullmatch=True),
        st.none() | st.sampled_from(["v0", "v12", "latest", "best.one"]),
        st.none() | st.lists(PARTS, min_size=1, max_size=4).map("/".join),
    ),
)


@given(ADDRESSES)
def test_an_address_is_read_as_it_was_written(address: Address):
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models", Address("models")),
        ("models/", Address("models")),
        ("a:b/x", Address("a:b", "x")),
        ("m/x@v3", Address("m", "x", "v3")),
        ("m/x:a@b:c", Address("m", "x", None, "a@b:c")),
        ("m/x@best:dir/", Address("m", "x", "best", "dir")),
        ("m/x:new\nline", Address("m", "x", None, "new\nline")),
        ("m%2Fn/x%20y@v0", Address("m%2Fn", "x%20y", "v0")),
    ],
)
def test_forms(text: str, expected: Address):
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "/", "/x", "m/@v0", "m/x@", "m/x:", "m/x:/", "m/x:/etc/passwd", "m/x:../up", "m/x:a//b", "m/x/y"),
        *("m/x@v0/y", "m/x@staging", "m/x@v07", "m n/x", "m/x\0", "m/x:a\0b", "ünï/x"),
    ],
)
def test_what_is_no_address_says_what_is_one(text: str):
    with pytest.raises(InvalidName) as refused:
        parse_address(text)
    assert "\n" not in str(refused.value)


TREE = Manifest(
    [
        Entry("data/a", size_bytes=1, digest="00" * 32),
        Entry("data/sub/b", size_bytes=2, digest="11" * 32),
        Entry("data/sub-z", size_bytes=2, digest="11" * 32),
        Entry("dir", EntryKind.SYMLINK, target="data/sub"),
        Entry("file", EntryKind.SYMLINK, target="dir/b"),
        Entry("data/up", EntryKind.SYMLINK, target="../file"),
        Entry("loop", EntryKind.SYMLINK, target="loop"),
        Entry("gone", EntryKind.SYMLINK, target="nowhere"),
        Entry("top", EntryKind.SYMLINK, target="."),
        Entry("empty", EntryKind.DIRECTORY, mode=0o700),
    ]
)


@pytest.mark.parametrize(
    ("path", "real"),
    [
        ("data/a", "data/a"),
        ("data", "data"),
        ("empty", "empty"),
        ("dir", "data/sub"),
        ("dir/b", "data/sub/b"),
        ("file", "data/sub/b"),
        ("data/up", "data/sub/b"),
        ("top", ""),
        ("top/data/a", "data/a"),
        ("loop", None),
        ("gone", None),
        ("data/a/b", None),
        ("missing", None),
    ],
)
def test_links_are_followed_inside_the_version(path: str, real: str | None):
    assert resolve(TREE, path) == real


def test_a_file_is_found_through_links_and_nothing_else_is_one():
    for path in ("file", "dir/b", "data/up", "data/sub/b"):
        assert (file_at(TREE, path) or Entry("")).path == "data/sub/b"
    assert [file_at(TREE, path) for path in ("dir", "data", "loop", "gone", "missing", "top")] == [None] * 6


def test_a_part_has_its_own_name_at_the_top():
    part = part_of(TREE, "dir")
    assert (part.path, part.name, [entry.path for entry in part.manifest]) == ("data/sub", "dir", ["dir/b"])
    assert [entry.path for entry in part_of(TREE, "data").manifest] == [
        "data/a",
        "data/sub-z",
        "data/sub/b",
        "data/up",
    ]
    assert list(part_of(TREE, "file").manifest) == [Entry("file", size_bytes=2, digest="11" * 32)]
    (empty,) = part_of(TREE, "empty").manifest
    assert (empty.path, empty.kind, empty.mode) == ("empty", EntryKind.DIRECTORY, 0o700)


@pytest.mark.parametrize("path", ["missing", "gone", "loop", "data/a/b", "top"])
def test_no_part_of_what_is_not_there(path: str):
    with pytest.raises(PathNotFound):
        part_of(TREE, path)
