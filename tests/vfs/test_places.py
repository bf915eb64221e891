"""Names and paths that lead out of a staged tree: refused by the drive itself, whatever kernel or driver asks."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from artifactfs.errors import ArtifactError, InvalidName, NotFound
from mount import places
from mount.disk import RENAME_EXCHANGE
from mount.errno_map import errno_of
from mount.handles import StagedFile
from mount.staged_tree import StagedTree
from mount.tree import Artifact, Caller, Collection, Node, Root, StagedNode
from mount.vfs import Vfs
from tests.drives import DirectDrive

ME = Caller(os.getuid(), os.getgid())
NOT_IN_A_DIRECTORY = ("", ".", "..", "a/b", "../x", "/etc", "a\0b", "\0")


@pytest.fixture
def vfs(drive: DirectDrive) -> Vfs:
    """With something staged: a file, a directory, and symlinks to the directory `outside`."""
    drive.mkdir("c")
    drive.mkdir("c/a")
    drive.write("c/a/staging/file", b"staged")
    drive.mkdir("c/a/staging/d")
    drive.write("c/a/staging/d/inner", b"staged")
    return drive.vfs


@pytest.fixture
def top(vfs: Vfs) -> StagedNode:
    """The top of the staging."""
    node = vfs.resolve("/c/a/staging")
    assert isinstance(node, StagedNode)
    return node


@pytest.fixture
def outside(tmp_path: Path, top: StagedNode) -> Path:
    """A directory that is none of the drive's, and symlinks in staging that lead there."""
    directory = tmp_path / "outside"
    (directory / "sub").mkdir(parents=True)
    (directory / "file").write_bytes(b"secret")
    (directory / "link").symlink_to("file")
    for name in ("out", "d/out"):
        top.tree.symlink(name, str(directory), ME)
    return directory


def picture(directory: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """All that can be changed of what a directory holds."""
    found = {}
    for path in [directory, *directory.rglob("*")]:
        status = path.lstat()
        data = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[str(path)] = status.st_mode, status.st_uid, status.st_mtime_ns, data
    return found


@pytest.mark.parametrize("name", NOT_IN_A_DIRECTORY)
def test_no_operation_takes_what_is_no_name(vfs: Vfs, top: StagedNode, name: str) -> None:
    """N6: the drive checks names itself, and changes nothing for a wrong one."""
    file = top._replace(path="file")
    asked: list[Callable[[], object]] = [
        lambda: vfs.lookup(top, name),
        lambda: vfs.create(top, name, os.O_WRONLY, 0o644, ME),
        lambda: vfs.mkdir(top, name, 0o755, ME),
        lambda: vfs.mknod(top, name, stat.S_IFREG | 0o644, ME),
        lambda: vfs.symlink(top, name, "x", ME),
        lambda: vfs.link(file, top, name),
        lambda: vfs.unlink(top, name),
        lambda: vfs.rmdir(top, name),
        lambda: vfs.rename(top, name, top, "new"),
        lambda: vfs.rename(top, "file", top, name),
        lambda: vfs.mkdir(Root(), name, 0o755, ME),
        lambda: vfs.mkdir(Collection("c"), name, 0o755, ME),
    ]
    before = picture(top.tree.root)
    for ask in asked:
        with pytest.raises(InvalidName):
            ask()
    places: list[Node] = [Root(), Collection("c"), Artifact("c", "a")]
    for place in places:
        with pytest.raises((InvalidName, NotFound)):
            vfs.lookup(place, name)
    assert picture(top.tree.root) == before


@pytest.mark.parametrize(
    "path",
    [
        *("", "//", "/c/", "/c//a", "/c/a/", "/c/../c", "/./c", "/../c", "/c/a/../a/staging", "c/a"),
        *(f"/c/a/staging/{rest}" for rest in ("", ".", "..", "d/", "d//inner", "d/./inner", "d/../file", "a\0b")),
        "/c/a/staging/../../../../etc/hostname",
    ],
)
def test_no_path_leads_up(vfs: Vfs, path: str) -> None:
    """N6: a path from the top has names in it and nothing else."""
    with pytest.raises((InvalidName, NotFound)):
        vfs.resolve(path)


@pytest.mark.parametrize("link", ["out", "d/out"])
def test_no_operation_follows_a_symlink_on_its_way(vfs: Vfs, top: StagedNode, outside: Path, link: str) -> None:
    """S1: what lies behind a staged symlink is neither read nor changed, by whatever operation."""
    before = picture(outside)
    file = top._replace(path="file")
    node, behind = top._replace(path=link), top._replace(path=f"{link}/file")
    asked: list[Callable[[], object]] = [
        lambda: vfs.getattr(behind),
        lambda: vfs.open(behind, os.O_RDONLY),
        lambda: vfs.open(behind, os.O_RDWR),
        lambda: vfs.create(node, "file", os.O_RDWR, 0o644, ME),
        lambda: vfs.create(node, "new", os.O_RDWR, 0o644, ME),
        lambda: vfs.mkdir(node, "new", 0o755, ME),
        lambda: vfs.mknod(node, "new", stat.S_IFIFO | 0o644, ME),
        lambda: vfs.symlink(node, "new", "x", ME),
        lambda: vfs.link(file, node, "new"),
        lambda: vfs.link(behind, top, "new"),
        lambda: vfs.unlink(node, "file"),
        lambda: vfs.rmdir(node, "sub"),
        lambda: vfs.rename(node, "file", top, "new"),
        lambda: vfs.rename(top, "file", node, "new"),
        lambda: vfs.rename(top, "file", node, "file", 2),
        lambda: vfs.chmod(behind, 0o777),
        lambda: vfs.chown(behind, 1, 1),
        lambda: vfs.utime(behind, (1, 1)),
        lambda: vfs.truncate(behind, 0),
        lambda: vfs.readlink(top._replace(path=f"{link}/link")),
        lambda: vfs.readdir(node),
        lambda: vfs.getxattr(behind, "user.artifactfs.digest"),
        lambda: node.tree.fsync_directory(f"{link}/sub"),
        lambda: node.tree.pin(behind.path),
    ]
    for ask in asked:
        with pytest.raises((OSError, ArtifactError)) as caught:
            ask()
        assert errno_of(caught.value) in (errno.ELOOP, errno.ENOTDIR, errno.ESTALE), caught.value
    assert picture(outside) == before
    assert top.tree.stat("file").st_nlink == 1


def test_a_directory_that_gave_way_to_a_symlink(vfs: Vfs, top: StagedNode, outside: Path) -> None:
    """S1: what was found in a directory a moment ago is not looked for behind a symlink that has its name now."""
    inner = top._replace(path="d/inner")
    vfs.getattr(inner)
    vfs.rename(top, "d", top, "moved")
    vfs.symlink(top, "d", str(outside), ME)
    (outside / "inner").write_bytes(b"secret")
    with pytest.raises((OSError, ArtifactError)):
        vfs.open(inner, os.O_RDWR)
    handle = vfs.open(top._replace(path="moved/inner"), os.O_RDONLY)
    assert handle.read(10, 0) == b"staged"
    handle.close()


def test_a_directory_that_was_made_anew(vfs: Vfs, top: StagedNode) -> None:
    """S1: its old descriptor is not used for the new one."""
    vfs.unlink(top._replace(path="d"), "inner")
    vfs.rmdir(top, "d")
    vfs.mkdir(top, "d", 0o755, ME)
    _, handle = vfs.create(top._replace(path="d"), "again", os.O_RDWR, 0o644, ME)
    handle.close()
    assert [entry.name for entry in vfs.readdir(top._replace(path="d"))] == ["again"]


@pytest.fixture(params=[1, 2, 512], ids="{} held".format)
def few_held(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few directories stay open, or all."""
    monkeypatch.setattr(places, "_most_held", lambda: request.param)


@pytest.mark.usefixtures("few_held")
@pytest.mark.parametrize("flags", [0, RENAME_EXCHANGE])
def test_what_lies_below_a_directory_moves_with_it(vfs: Vfs, top: StagedNode, flags: int) -> None:
    """S4: what was found below it is not taken for what has its name then, however deep."""
    d, other = top._replace(path="d"), top._replace(path="other")
    for directory, below in ((d, b"of d"), (other, b"of other")):
        if directory is other:
            vfs.mkdir(top, "other", 0o755, ME)
        vfs.mkdir(directory, "e", 0o755, ME)
        put(vfs, directory._replace(path=f"{directory.path}/e"), "f", below)
    if flags:
        vfs.rename(top, "d", top, "other", flags)
    else:
        vfs.rename(top, "d", top, "moved")
        vfs.rename(top, "other", top, "d")
        other = top._replace(path="moved")
    put(vfs, d._replace(path="d/e"), "new", b"new")
    assert vfs.open(top._replace(path="d/e/f"), os.O_RDONLY).read(10, 0) == b"of other"
    assert vfs.open(top._replace(path=f"{other.path}/e/f"), os.O_RDONLY).read(10, 0) == b"of d"
    assert Path(top.tree.disk_path("d/e/new")).read_bytes() == b"new"


@pytest.mark.usefixtures("few_held")
def test_directories_below_one_that_was_made_anew(vfs: Vfs, top: StagedNode) -> None:
    """S1: none of those that were removed with the old one is used."""
    for again in (b"first", b"second"):
        for path in ("x", "x/y", "x/y/z"):
            above, _, name = path.rpartition("/")
            vfs.mkdir(top._replace(path=above), name, 0o755, ME)
        put(vfs, top._replace(path="x/y/z"), "f", again)
        assert Path(top.tree.disk_path("x/y/z/f")).read_bytes() == again
        vfs.unlink(top._replace(path="x/y/z"), "f")
        for path in ("x/y/z", "x/y", "x"):
            above, _, name = path.rpartition("/")
            vfs.rmdir(top._replace(path=above), name)


@pytest.mark.usefixtures("few_held")
def test_saving_a_file_over_another_goes_on_in_its_directory(vfs: Vfs, top: StagedNode) -> None:
    """S4: a file that takes the place of another moves no directory."""
    d = top._replace(path="d")
    for content in (b"one", b"two"):
        put(vfs, d, "saved~", content)
        vfs.rename(d, "saved~", d, "saved")
        assert vfs.open(top._replace(path="d/saved"), os.O_RDONLY).read(10, 0) == content


def test_an_artifact_that_is_removed_and_made_again(vfs: Vfs) -> None:
    """S17: nothing is made in the staging of the old one."""
    for content in (b"old", b"new"):
        vfs.mkdir(Collection("c"), "gone", 0o755, ME)
        top = vfs.resolve("/c/gone/staging")
        assert isinstance(top, StagedNode)
        put(vfs, top, "f", content)
        assert Path(top.tree.disk_path("f")).read_bytes() == content
        vfs.unlink(top, "f")
        vfs.rmdir(Collection("c"), "gone")
        assert not top.tree.exists()


def put(vfs: Vfs, directory: StagedNode, name: str, content: bytes) -> None:
    """Make a file."""
    _, handle = vfs.create(directory, name, os.O_WRONLY, 0o644, ME)
    handle.write(content, 0)
    handle.close()


def test_changing_a_symlink_leaves_what_it_leads_to(vfs: Vfs, top: StagedNode, outside: Path) -> None:
    """S1: a mode is refused, as symlinks have none; owner and times are its own."""
    before = picture(outside)
    link = top._replace(path="out")
    with pytest.raises(OSError, match="not supported"):
        vfs.chmod(link, 0o777)
    vfs.utime(link, (1, 1))
    vfs.chown(link, ME.uid, ME.gid)
    with pytest.raises(OSError, match="symlink"):
        vfs.open(link, os.O_RDONLY)
    assert picture(outside) == before


def test_opening_a_fifo_waits_for_nobody(vfs: Vfs, top: StagedNode) -> None:
    """S5: fifos and sockets are the kernel's to open; the drive opens regular files."""
    vfs.mknod(top, "fifo", stat.S_IFIFO | 0o644, ME)
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        with pytest.raises(OSError, match="not a regular file"):
            vfs.open(top._replace(path="fifo"), flags)


def test_open_files_stay_open_when_their_directory_moves(top: StagedNode) -> None:
    """S4: what was opened by one name is written by no other."""
    tree: StagedTree = top.tree
    handle: StagedFile = tree.open("d/inner", os.O_RDWR)
    tree.rename("d", "moved", 0)
    handle.write(b"STAGED", 0)
    handle.close()
    assert Path(tree.disk_path("moved/inner")).read_bytes() == b"STAGED"
