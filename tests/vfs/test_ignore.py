"""What stays out of versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from mount.ignore import IGNORE_FILE, prune, put_back
from tests.drives import DirectDrive
from tests.scenarios.reopening import block, reopen

JUNK = [".DS_Store", "._file", "d/.DS_Store", ".fuse_hidden0000000100000002", ".nfs0001", ".f.swp", "Thumbs.db"]


def fill(root: Path, *names: str) -> set[str]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    return set(names)


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_junk(tmp_path: Path) -> None:
    """C9: what systems and editors leave behind goes, at every level; what only looks like it stays."""
    kept = fill(tmp_path, "a", "d/b", "DS_Store", "notes.swp.txt", "fuse_hidden", "d/.hidden", "_._x")
    fill(tmp_path, *JUNK, ".Trash-1000/files/x")
    assert prune(tmp_path, tmp_path.with_name("aside")) == len(JUNK) + 1
    assert files(tmp_path) == kept
    assert prune(tmp_path, tmp_path.with_name("aside")) == 0


def test_rules_of_a_tree(tmp_path: Path) -> None:
    """C9: .artifactignore has gitignore's rules, may bring junk back, and is kept itself."""
    kept = fill(tmp_path, "a.txt", "keep.log", "d/e/x.txt", "._kept", "build2/f")
    fill(tmp_path, "b.log", "d/c.log", "build/x/y", "only-top")
    (tmp_path / "d/only-top").write_text("x")
    (tmp_path / IGNORE_FILE).write_text("*.log\n!keep.log\nbuild/\n/only-top\n!._kept\n# a comment\n\n")
    prune(tmp_path, tmp_path.with_name("aside"))
    assert files(tmp_path) == kept | {IGNORE_FILE, "d/only-top"}


@pytest.mark.parametrize("name", [".DS_Store", "x.swp"])
def test_nothing_but_junk_is_no_version(drive: DirectDrive, name: str) -> None:
    """C5, C9: a tree in which nothing is to be kept makes no version."""
    drive.mkdir("c")
    drive.mkdir("c/a")
    drive.write(f"c/a/staging/{name}", b"x")
    assert drive.commit("c/a").version is None
    assert drive.listdir("c/a") == ["staging"]
    drive.write("c/a/staging/f", b"x")
    drive.write(f"c/a/staging/{name}", b"x")
    assert drive.commit("c/a").version == "v0"
    assert drive.listdir("c/a/v0") == ["f"]


def test_put_back(tmp_path: Path) -> None:
    """C9, C19: what was left out comes back to its place, in directories that look as before."""
    root, aside = tmp_path / "tree", tmp_path / "aside"
    every = fill(root, "a", "d/b", "d/e/x.log", "d/e/f", "build/x/y", *JUNK) | fill(root, IGNORE_FILE)
    (root / IGNORE_FILE).write_text("*.log\nbuild/\n")
    (root / "d/e").chmod(0o555)
    (root / "build").chmod(0o500)
    before = {path: (path.lstat().st_mode, path.lstat().st_mtime_ns) for path in root.rglob("*")}
    for _ in range(2):
        assert prune(root, aside) == len(JUNK) + 2
        assert files(root) == {"a", "d/b", "d/e/f", IGNORE_FILE}
        put_back(aside, root)
        assert files(root) == every
        assert files(aside) == set()
        assert {path: (path.lstat().st_mode, path.lstat().st_mtime_ns) for path in root.rglob("*")} == before
    put_back(tmp_path / "none", root)


def test_reopened_with_what_is_ignored(drive: DirectDrive) -> None:
    """C19: a tree that is taken back has what its rules leave out, so that the rules can be mended too."""
    label = drive.make_artifact()
    drive.mkdir(f"{label}/staging/d")
    for name in ("f", "d/model.log", "x.swp"):
        drive.write(f"{label}/staging/{name}", b"x")
    drive.write(f"{label}/staging/{IGNORE_FILE}", b"*.log\n")
    block(drive, label)
    reopen(drive, label)
    assert set(drive.contents(f"{label}/staging")) == {"f", "d/model.log", "x.swp", IGNORE_FILE}
    drive.unlink(f"{label}/staging/bad")
    drive.unlink(f"{label}/staging/{IGNORE_FILE}")
    assert drive.commit(label).version == "v0"
    assert set(drive.contents(f"{label}/v0")) == {"f", "d/model.log"}
