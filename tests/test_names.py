"""The naming rules, and showing names that break them."""

from __future__ import annotations

import os
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs import names
from artifactfs.errors import InvalidName

ANY_NAME = st.binary(min_size=1, max_size=12).filter(lambda raw: b"/" not in raw and b"\0" not in raw).map(os.fsdecode)


@pytest.mark.parametrize("name", ["a", "models", "A_b:c-9", "x" * 128, "v0", "latest"])
def test_collections(name: str):
    assert names.check_collection(name) == name


@pytest.mark.parametrize("name", ["", "a.b", ".a", "a/b", "a b", "é", "a\n", "x" * 129, "..", "a\0"])
def test_no_collections(name: str):
    with pytest.raises(InvalidName, match="collection"):
        names.check_collection(name)


@pytest.mark.parametrize("name", ["a", ".a", "a.b", "...", "v0", "latest", "A_b-9", "x" * 128])
def test_artifacts(name: str):
    assert names.check_artifact(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "a:b", "a/b", "a b", "é", "a\n", "x" * 129])
def test_no_artifacts(name: str):
    with pytest.raises(InvalidName, match="artifact"):
        names.check_artifact(name)


@pytest.mark.parametrize("name", ["best", "v", "v1a", "vv1", "V1", "1", "v1.0", "latest2", "stagings", "pend"])
def test_aliases(name: str):
    assert names.check_alias(name) == name


@pytest.mark.parametrize("name", ["v0", "v17", "v007", "latest", "staging", "pending", "pending.1", "", "..", "a b"])
def test_no_aliases(name: str):
    with pytest.raises(InvalidName, match="alias"):
        names.check_alias(name)


@given(st.integers(0, 10**17))
def test_versions_and_numbers(number: int):
    name = names.version_name(number)
    assert names.is_version(name)
    assert names.version_number(name) == number
    assert not names.is_alias(name)


@pytest.mark.parametrize("name", ["", "v", "v00", "v01", "v-1", "V1", "1", "v1 ", "v1\n", "v" + "9" * 19, "v१"])
def test_no_versions(name: str):
    with pytest.raises(InvalidName, match="version"):
        names.check_version(name)


@pytest.mark.parametrize("path", ["a", "a/b", ".a/..b/...", os.fsdecode(b"\xff/x"), "a b\n"])
def test_paths(path: str):
    assert names.check_path(path) == path


@pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", ".", "a/.", "..", "a/../b", "a\0"])
def test_no_paths(path: str):
    with pytest.raises(InvalidName, match="path"):
        names.check_path(path)


@given(ANY_NAME)
def test_escaping_comes_back(name: str):
    shown = names.escape(name)
    assert names.unescape(shown) == name
    assert shown not in (".", "..")
    assert set(shown) <= set(string.ascii_letters + string.digits + "_.:-%")


@given(ANY_NAME)
def test_good_names_are_shown_as_they_are(name: str):
    if names.is_artifact(name) or names.is_collection(name):
        assert names.escape(name) == name
