"""Trees whose paths no system call takes as a whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import artifactfs
from artifactfs.longpaths import make_directories, reach, remove_tree, walk
from tests.descriptors import open_below

DEPTH = 50
BELOW = "/".join(["n" * 200] * DEPTH)


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Path]:
    """A directory 50 directories deep with a file at the end, 10 KB away; pytest could not remove it."""
    (tmp_path / "top").mkdir()
    make_directories(str(tmp_path / "top"), BELOW, {""})
    with reach(f"{tmp_path}/top/{BELOW}/f") as near:
        Path(near).write_bytes(b"x")
    yield tmp_path / "top"
    if (tmp_path / "top").exists():
        remove_tree(tmp_path / "top")


def test_reach(top: Path) -> None:
    """A path is used as it is, or shortened, as text and as bytes; a name can be added to it."""
    with reach(f"{top}/a") as near:
        assert near == f"{top}/a"
    with reach(f"{top}/{BELOW}") as near:
        assert Path(near, "f").read_bytes() == b"x"
    with reach(os.fsencode(f"{top}/{BELOW}/f")) as raw:
        assert os.stat(raw).st_size == 1
    assert open_below(top) == []
    with pytest.raises(FileNotFoundError), reach(f"{top}/{BELOW}/missing/{BELOW}/f"):
        pass
    with pytest.raises(OSError, match="too long"), reach(f"{top}/{BELOW}/{'n' * 5000}") as near:
        os.stat(near)
    assert open_below(top) == []


def test_relative(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the current directory."""
    monkeypatch.chdir(top)
    with reach(f"{BELOW}/f") as near:
        assert Path(near).read_bytes() == b"x"


def test_walk(top: Path) -> None:
    """Every directory once, a symlink to one is no directory."""
    (top / "link").symlink_to("n" * 200)
    found = list(walk(str(top)))
    assert len(found) == DEPTH + 1
    assert found[0] == (str(top), ["n" * 200], ["link"])
    assert found[-1] == (f"{top}/{BELOW}", [], ["f"])


def test_remove_tree(top: Path, tmp_path: Path) -> None:
    """Whatever permissions say, and never what a symlink leads to."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").touch()
    (top / "link").symlink_to("../other")
    (tmp_path / "link").symlink_to("other")
    (top / "closed").mkdir()
    (top / "closed" / "f").touch()
    (top / "closed").chmod(0)
    remove_tree(top)
    with pytest.raises(NotADirectoryError):
        remove_tree(tmp_path / "link")
    assert sorted(os.listdir(tmp_path)) == ["link", "other"]
    assert os.listdir(tmp_path / "other") == ["precious"]
    with pytest.raises(FileNotFoundError):
        remove_tree(top)


@pytest.mark.parametrize("kind", ["{directory}/store", "plain+file://{directory}/store", "memory://{name}"])
def test_a_version(top: Path, tmp_path: Path, kind: str) -> None:
    """Committed to every kind of store, a large file too, and got back as it was."""
    with reach(f"{top}/{BELOW}/large") as near:
        Path(near).write_bytes(b"large" * 300_000)
    store = artifactfs.connect(kind.format(directory=tmp_path, name=tmp_path.name))
    store.commit_tree("deep", top, "c", commit_id="0" * 32)
    assert [entry.path for entry in store.manifest("deep", "c") if entry.size_bytes] == [f"{BELOW}/f", f"{BELOW}/large"]
    got = store.download_artifact("deep", "c", to=tmp_path / "got")
    with reach(f"{got}/{BELOW}") as near:
        assert Path(near, "f").read_bytes() == b"x"
        assert Path(near, "large").read_bytes() == b"large" * 300_000
    remove_tree(tmp_path / "got")
    if (tmp_path / "store").exists():
        remove_tree(tmp_path / "store")
