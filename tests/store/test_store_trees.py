"""What a tree may hold, what happens when it changes while it is logged, and giving a tree away."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest
from store_helpers import MIB, contents, make_tree, snapshot

from artifactfs.errors import ArtifactNotFound, UnsupportedTree
from artifactfs.managers.filesystem import FileSystemArtifactManager
from artifactfs.objects import packs
from artifactfs.objects.scan import scan_tree


def test_paths_come_in_the_order_of_their_bytes(tmp_path: Path):
    for name in ("a/z", "a.txt", "a0", "a/b/c", "B", "é", "a-"):
        path = tmp_path / "t" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    paths = scan_tree(str(tmp_path / "t")).builder.paths
    assert paths == sorted(paths)
    assert len(paths) == 9


def test_a_tree_deeper_than_the_stack(tmp_path: Path):
    directory = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=directory)
        below = os.open("d", os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(directory)
    try:
        assert len(scan_tree(str(tmp_path)).builder) == 1200
    finally:
        # Python's rmtree, which pytest tidies with, is too recursive for it.
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)


@pytest.mark.parametrize(
    "target", ["a.txt", "./a.txt", "sub/../a.txt", "sub//deep", "nowhere", "sub/deep/../../a.txt", "."]
)
def test_symlinks_that_stay_inside(manager: FileSystemArtifactManager, tree: Path, tmp_path: Path, target: str):
    (tree / "new").symlink_to(target)
    manager.commit_tree("m", tree, commit_id="a")
    manager.download_artifact("m", to=tmp_path / "out")
    assert os.readlink(tmp_path / "out/m/new") == target


@pytest.mark.parametrize("target", ["/etc/passwd", "..", "../tree/a.txt", "sub/../../x", "sub/deep/up/../../x"])
def test_symlinks_that_leave(manager: FileSystemArtifactManager, tree: Path, target: str):
    # "up" leads to the top, so that "up/.." reads as sub/deep but is the directory above the tree.
    (tree / "sub" / "deep" / "up").symlink_to("../..")
    (tree / "new").symlink_to(target)
    with pytest.raises(UnsupportedTree, match="new"):
        manager.commit_tree("m", tree, commit_id="a")
    with pytest.raises(ArtifactNotFound):
        manager.version_info("m")


def test_special_files_are_refused(manager: FileSystemArtifactManager, tree: Path):
    os.mkfifo(tree / "sub" / "pipe")
    with pytest.raises(UnsupportedTree, match=r"sub/pipe is a FIFO"):
        manager.commit_tree("m", tree, commit_id="a")
    (tree / "sub" / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        previous = os.getcwd()
        os.chdir(tree)  # the path of a socket is short
        try:
            server.bind("sock")
        finally:
            os.chdir(previous)
        with pytest.raises(UnsupportedTree, match="socket"):
            manager.commit_tree("m", tree, commit_id="a")


def test_a_tree_that_is_none(manager: FileSystemArtifactManager, tree: Path):
    with pytest.raises(UnsupportedTree):
        manager.commit_tree("m", tree / "missing", commit_id="a")
    os.mkfifo(tree / "pipe")
    with pytest.raises(UnsupportedTree):
        manager.commit_tree("m", tree / "pipe", commit_id="a")


@pytest.mark.parametrize("name", ["a.txt", "sub/deep/tool"])
@pytest.mark.parametrize("consume", [False, True])
@pytest.mark.parametrize("change", ["append", "truncate", "rewrite", "unlink", "replace", "fifo"])
def test_a_file_that_changes_after_the_scan(
    manager: FileSystemArtifactManager,
    tree: Path,
    name: str,
    consume: bool,
    change: str,
    monkeypatch: pytest.MonkeyPatch,
):
    run = packs.Packer.run

    def interfere(packer: packs.Packer, *arguments: object) -> None:
        path = tree / name
        if change == "append":
            with path.open("ab") as file:
                file.write(b"x")
        elif change == "truncate":
            os.truncate(path, 2)
        elif change == "rewrite":
            path.write_bytes(b"?" * path.stat().st_size)
        else:
            path.unlink()
            if change == "replace":
                path.symlink_to("/etc/passwd")
            elif change == "fifo":
                os.mkfifo(path)
        run(packer, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(packs.Packer, "run", interfere)
    with pytest.raises(UnsupportedTree, match="changed or went"):
        manager.commit_tree("m", tree, commit_id="a", consume=consume)
    with pytest.raises(ArtifactNotFound):
        manager.version_info("m")


def test_a_large_file_that_changes_between_hashing_and_copying(
    manager: FileSystemArtifactManager, tree: Path, monkeypatch: pytest.MonkeyPatch
):
    """Same size and mtime: only the bytes written to the store tell."""
    hash_file = packs.hash_file

    def interfere(path: str) -> object:
        hashed = hash_file(path)
        with open(path, "r+b") as file:
            file.write(b"XXXX")
        if manager.local_root is not None:
            os.utime(path, ns=(hashed.status.st_atime_ns, hashed.status.st_mtime_ns))
        return hashed

    monkeypatch.setattr(packs, "hash_file", interfere)
    with pytest.raises(UnsupportedTree, match="changed or went"):
        manager.commit_tree("m", tree, commit_id="a")
    stored = [file.key for file in manager.store.walk("objects") if file.size_bytes >= MIB]
    assert stored == [], "nothing wrong stays under a digest"


class TestConsume:
    def test_large_files_are_linked_and_the_rest_copied(self, local: FileSystemArtifactManager, tree: Path):
        before = snapshot(tree)
        info = local.commit_tree("m", tree, commit_id="a", consume=True).info
        manifest = local.manifest("m")
        tool = manifest.find("sub/deep/tool")
        assert tool is not None
        assert (tool.mode, tool.mtime_ns) == before[b"sub/deep/tool"][2:]
        place = local.local_range(info, tool)
        assert place is not None
        assert os.path.samefile(place.path, tree / "sub/deep/tool")
        assert stat.S_IMODE(os.stat(place.path).st_mode) == 0o400
        assert {k: v[:2] for k, v in snapshot(tree).items()} == {k: v[:2] for k, v in before.items()}

    def test_no_program_of_somebody_gets_into_the_store(
        self, local: FileSystemArtifactManager, tree: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """Not even while a commit is under way: killed before its end, what is linked stays as it is."""
        (tree / "sub/deep/tool").chmod(0o6755)
        monkeypatch.setattr(type(local.store), "settle", lambda *_: None)
        info = local.commit_tree("m", tree, commit_id="a", consume=True).info
        tool = local.manifest("m").find("sub/deep/tool")
        assert tool is not None
        assert tool.mode == 0o755
        place = local.local_range(info, tool)
        assert place is not None
        assert os.path.samefile(place.path, tree / "sub/deep/tool")
        assert stat.S_IMODE(os.stat(place.path).st_mode) == 0o755

    def test_nothing_is_linked_that_was_not_given_away(self, local: FileSystemArtifactManager, tree: Path):
        local.commit_tree("m", tree, commit_id="a")
        assert all(path.stat().st_nlink == 1 for path in tree.rglob("*") if path.is_file())
        (tree / "sub/deep/tool").write_bytes(b"edited in place")
        assert contents(local, "m", "v0")["sub/deep/tool"].startswith(b"\x7fELF")

    def test_a_file_on_another_file_system_is_copied(
        self, local: FileSystemArtifactManager, tree: Path, monkeypatch: pytest.MonkeyPatch
    ):
        link = os.link

        def refuse(source: str, target: str) -> None:
            if source.startswith(str(tree)):
                raise OSError(18, "Invalid cross-device link")
            link(source, target)

        monkeypatch.setattr(os, "link", refuse)
        before = snapshot(tree)
        local.commit_tree("m", tree, commit_id="a", consume=True)
        assert snapshot(tree) == before
        assert contents(local, "m", "v0")["sub/deep/tool"] == (tree / "sub/deep/tool").read_bytes()

    def test_known_files_are_not_linked_again(self, local: FileSystemArtifactManager, tree: Path, tmp_path: Path):
        local.commit_tree("m", tree, commit_id="a")
        again = make_tree(tmp_path / "again")
        (again / "new").write_bytes(b"N" * MIB)
        result = local.commit_tree("m", again, commit_id="b", consume=True)
        assert result.sent_bytes == MIB
        assert (again / "sub/deep/tool").stat().st_nlink == 1
        assert (again / "new").stat().st_nlink == 2

    def test_two_trees_with_one_large_file(self, local: FileSystemArtifactManager, tmp_path: Path):
        """The object is one tree's inode; the other's commit leaves that tree's mode alone."""
        for name in "ab":
            (tmp_path / name).mkdir()
            (tmp_path / name / "big").write_bytes(b"B" * MIB)
            (tmp_path / name / "big").chmod(0o755)
        local.ensure_created()
        flush = local.store.flush
        local.store.flush = lambda keys: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            local.commit_tree("m", tmp_path / "a", commit_id="a", consume=True)
        local.store.flush = flush  # type: ignore[method-assign]
        for _ in range(2):
            local.commit_tree("other", tmp_path / "b", commit_id="b", consume=True)
        assert stat.S_IMODE((tmp_path / "a/big").stat().st_mode) == 0o755
        local.commit_tree("m", tmp_path / "a", commit_id="a", consume=True)
        entry = local.manifest("m").find("big")
        assert entry is not None
        assert entry.mode == 0o755
        assert stat.S_IMODE((tmp_path / "a/big").stat().st_mode) == 0o400
