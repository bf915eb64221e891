"""Where the symlinks of a version lead: inside, whichever others they lead through."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifactfs.errors import UnsupportedTree
from artifactfs.objects.scan import scan_tree
from artifactfs.symlinks import MAX_TARGET_BYTES, leading_out, stays_inside

_numbers = count()


@pytest.mark.parametrize(
    ("path", "target", "inside"),
    [
        ("l", "a", True),
        ("d/l", "../a", True),
        ("d/l", "..", True),
        ("d/l", "../../a", False),
        ("l", "..", False),
        ("l", "d/../..", False),
        ("l", "d/../e", True),
        ("l", "/a", False),
        ("l", "", False),
        ("l", "a\0b", False),
        ("l", "./.", True),
        ("l", "a" * MAX_TARGET_BYTES, True),
        ("l", "a" * (MAX_TARGET_BYTES + 1), False),
    ],
)
def test_where_one_reads_that_it_leads(path: str, target: str, inside: bool):
    assert stays_inside(path.encode(), target.encode()) is inside
    assert leading_out({path.encode(): target.encode()}) == (set() if inside else {path.encode()})


@pytest.mark.parametrize(
    ("links", "out"),
    [
        ({"a/b/top": "../..", "l": "a/b/top/../secret"}, {"l"}),
        ({"a/b/top": "../..", "l": "a/b/top/x"}, set()),
        ({"d/...": "..", "d/l": ".../../secret"}, {"d/l"}),
        ({"d/..a": "..", "d/l": "..a/../secret"}, {"d/l"}),
        ({"a/up": "..", "b": "a/up", "l": "b/../x"}, {"l"}),
        ({"a/down": "b/c", "l": "a/down/../../x"}, set()),
        ({"l": "l/../x"}, {"l"}),
        ({"l": "m", "m": "l"}, set()),
    ],
)
def test_where_one_leads_through_others(links: dict[str, str], out: set[str]):
    found = leading_out({path.encode(): target.encode() for path, target in links.items()})
    assert found == {path.encode() for path in out}


def test_what_lies_beneath_a_symlink_condemns_it():
    assert leading_out({b"a": b"b"}, [b"a", b"a.txt", b"a/x", b"b"]) == {b"a"}
    assert leading_out({b"a": b"b"}, [b"a", b"a.txt", b"a0", b"b"]) == set()


def test_links_made_to_cost_time_are_refused_in_bounded_time():
    links = {b"d%05d" % i: b"x/" * 800 + b"../" * 800 + b"x" for i in range(1_000)}
    assert leading_out(links), "followed to the end, whatever it takes"
    assert leading_out(dict(list(links.items())[:10])) == set()


NAMES = st.sampled_from(["a", "b", "c"])
TARGETS = st.lists(st.sampled_from(["a", "b", "c", "..", "."]), min_size=1, max_size=6).map("/".join)


@settings(deadline=None)
@given(links=st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map("/".join), TARGETS, max_size=5))
def test_what_is_believed_never_leads_out_on_a_disk(links: dict[str, str], tmp_path_factory: Any):
    paths = sorted(links)
    links = {path: links[path] for path in paths if not any(path.startswith(f"{other}/") for other in paths)}
    top = tmp_path_factory.getbasetemp() / f"links{next(_numbers)}" / "top"
    top.mkdir(parents=True)
    for path, target in links.items():
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).symlink_to(target)
    out = leading_out({os.fsencode(path): os.fsencode(target) for path, target in links.items()})
    if out:
        with pytest.raises(UnsupportedTree, match=r"only relative ones that stay inside"):
            scan_tree(str(top))
    else:
        assert len(scan_tree(str(top)).builder) >= len(links)
    for path in out:
        (top / os.fsdecode(path)).unlink()
    for path in links:
        assert os.path.realpath(top / path).startswith(str(top))


def test_a_directory_named_by_dots_hides_no_way_out(tmp_path: Path):
    top = tmp_path / "top"
    (top / "d").mkdir(parents=True)
    (top / "d" / "...").symlink_to("..")
    (top / "d" / "l").symlink_to(".../../secret")
    with pytest.raises(UnsupportedTree, match="d/l"):
        scan_tree(str(top))
