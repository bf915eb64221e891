"""What lies in local stores of both layouts: whose it is, who may read it, and what of it is read."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from artifactfs import connect
from artifactfs.errors import ArtifactError, FormatError, IntegrityError, NotFound
from artifactfs.managers.filesystem import FileSystemArtifactManager
from artifactfs.managers.plain import PlainArtifactManager
from artifactfs.objects import layout
from artifactfs.objects.hashing import hash_file
from artifactfs.objects.local import LocalStore

MIB = 1 << 20
NOBODY, TEAM = 65534, 54321
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
Stored = FileSystemArtifactManager | PlainArtifactManager


@pytest.fixture
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    if "open_place" in request.fixturenames:
        return request.getfixturevalue("open_place") / "store"
    return tmp_path / "store"


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that other users get to, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="artifactfs-test-") as place:
        os.chmod(place, 0o755)
        yield Path(place)


@pytest.fixture(params=["", "plain+"], ids=["native", "plain"])
def opened(request: pytest.FixtureRequest, root: Path) -> Callable[[], Stored]:
    def opened() -> Stored:
        found = connect(f"{request.param}file://{root}")
        assert isinstance(found, FileSystemArtifactManager | PlainArtifactManager)
        return found

    return opened


@pytest.fixture
def tree(root: Path) -> Path:
    """A small file and a large one, which is an object of its own."""
    tree = root.with_name("tree")
    (tree / "sub").mkdir(parents=True)
    (tree / "key").write_text("secret")
    (tree / "key").chmod(0o600)
    (tree / "sub/large").write_bytes(b"L" * MIB)
    (tree / "sub/large").chmod(0o666)
    return tree


def below(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            yield path, path.lstat()


# -- O10: who may read and write it ------------------------------------------------------------------------------------


@pytest.mark.parametrize("consume", [False, True])
@pytest.mark.parametrize(
    ("mode", "mask", "most"),
    [
        (None, 0o022, 0o700),
        (None, 0o000, 0o700),
        (0o755, 0o022, 0o755),
        (0o755, 0o000, 0o755),
        (0o755, 0o077, 0o755),
        (0o750, 0o000, 0o750),
        (0o2770, 0o007, 0o770),
        (0o2770, 0o000, 0o770),
    ],
)
def test_nothing_in_a_store_is_wider_than_its_directory(
    opened: Callable[[], Stored], root: Path, tree: Path, consume: bool, mode: int | None, mask: int, most: int
):
    """O10: whatever was staged with which mode; nobody writes to a version whom the directory does not let write."""
    if mode is not None:
        root.mkdir()
        root.chmod(mode)
    before = os.umask(mask)
    try:
        manager = opened()
        manager.commit_tree("m", tree, commit_id="a", consume=consume, aliases=["best"])
        manager.commit_tree("m", tree / "sub", commit_id="b")
        manager.delete_version("m", "v1")
    finally:
        os.umask(before)
    assert stat.S_IMODE(root.stat().st_mode) == (0o700 if mode is None else mode)
    wide = {}
    for path, status in below(root):
        found = stat.S_IMODE(status.st_mode) & 0o777
        # What keeps others out above keeps them out of all that is below.
        for bits in (0o070, 0o007):
            if most & bits & 0o111 and found & bits & ~most:
                wide[path] = oct(found)
    assert wide == {}
    if isinstance(manager, FileSystemArtifactManager):
        files = [status.st_mode & 0o777 for path, status in below(root) if path.is_file()]
        assert set(files) == {0o444 & most & ~mask}
    entry = manager.manifest("m").find("key")
    assert entry is not None
    assert entry.mode == 0o600


@as_root
@pytest.mark.parametrize("mode", [0o755, 0o2770])
def test_what_others_staged_belongs_to_the_store(
    opened: Callable[[], Stored], root: Path, tree: Path, mode: int, tmp_path: Path
):
    """O10: else they could make it writable again, and change a version."""
    root.mkdir()
    os.chown(root, 0, TEAM)
    root.chmod(mode)
    for path in [tree, *tree.rglob("*")]:
        os.chown(path, NOBODY, NOBODY)
    manager = opened()
    manager.commit_tree("m", tree, commit_id="a", consume=True)
    assert {status.st_uid for _, status in below(root)} == {0}
    assert {status.st_gid for path, status in below(root) if path != root} == {TEAM if mode & 0o2000 else 0}
    manager.download_artifact("m", to=tmp_path / "out")


def test_a_file_that_has_another_name_is_copied(opened: Callable[[], Stored], root: Path, tree: Path, tmp_path: Path):
    """O10: whoever has the other name, open for writing perhaps, does not write to the version."""
    os.link(tree / "sub/large", tmp_path / "kept")
    with open(tmp_path / "kept", "r+b") as kept:
        manager = opened()
        manager.commit_tree("m", tree, commit_id="a", consume=True)
        kept.write(b"EVIL")
    entry = manager.manifest("m").find("sub/large")
    assert entry is not None
    assert manager.read_entry(manager.version_info("m"), entry) == b"L" * MIB


@as_root
def test_a_group_shares_a_store(open_place: Path, opened: Callable[[], Stored], root: Path, tree: Path):
    """O10: as README says; each commits, deletes and frees what others committed."""
    root.mkdir()
    os.chown(root, 0, TEAM)
    root.chmod(0o2770)
    tree.chmod(0o755)
    (tree / "key").chmod(0o644)
    manager = opened()
    url = manager.url
    # First as root, in a store of its own: other users may not be able to import what this Python needs.
    program = f"""
import os, sys, tempfile
from pathlib import Path
import artifactfs
url, tree, name, uid = sys.argv[1:]
def work(url):
    manager = artifactfs.connect(url)
    manager.commit_tree("m", Path(tree), commit_id=name)
    manager.commit_tree("x", Path(tree), commit_id="x" + name, aliases=["best"])
    # A version of squirrel's layout keeps the modes of its directories, which need not let the group in.
    if not url.startswith("plain+"):
        if len(manager.list_version_names("m")) > 1:
            manager.delete_version("m", manager.list_version_names("m")[0])
        manager.gc(grace_s=0)
        manager.gc(grace_s=0)
        assert manager.verify().ok
with tempfile.TemporaryDirectory() as place:
    work(url.partition("file://")[0] + "file://" + place)
os.setgroups([{TEAM}])
os.setgid(int(uid))
os.setuid(int(uid))
os.umask(0o007)
work(url)
"""
    for number, uid in enumerate((54001, 54002, 54003)):
        (tree / "n").write_text(str(number))
        (tree / "n").chmod(0o644)
        command = [sys.executable, "-c", program, url, str(tree), f"c{number}", str(uid)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert opened().list_version_names("x") == ["v0", "v1", "v2"]


# -- O9: what is read --------------------------------------------------------------------------------------------------


def fifo(place: Path, _kept: Path) -> None:
    os.mkfifo(place)


def a_socket(place: Path, _kept: Path) -> None:
    here = os.open(place.parent, os.O_PATH | os.O_DIRECTORY)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"/proc/self/fd/{here}/{place.name}")
    listening.close()
    os.close(here)


def directory(place: Path, _kept: Path) -> None:
    place.mkdir()


def link(place: Path, kept: Path) -> None:
    place.symlink_to(kept)


def link_to_fifo(place: Path, kept: Path) -> None:
    os.mkfifo(kept.with_name("fifo"))
    place.symlink_to(kept.with_name("fifo"))


def giant(place: Path, _kept: Path) -> None:
    place.touch()
    os.truncate(place, 1 << 43)


KINDS = [fifo, a_socket, directory, link, link_to_fifo, giant]


def places(manager: Stored) -> dict[str, str]:
    """What of a store can be replaced: by a name, its key."""
    info = manager.version_info("m")
    if isinstance(manager, PlainArtifactManager):
        version = "default/m/v0"
        return {
            "record": f"{version}/.artifactfs.json",
            "manifest": f"{version}/.artifactfs.manifest",
            "file": f"{version}/files/sub/large",
            "small": f"{version}/files/key",
            "alias": f"{version}/.artifactfs/best.alias",
        }
    record = layout.decode_record(manager.store.get("collections/default/m/v0.version"), "", 0)
    found = {"record": "collections/default/m/v0.version", "alias": "collections/default/m/best.alias"}
    found["manifest"] = layout.object_key(record.manifest)
    for path, name in (("sub/large", "file"), ("key", "small")):
        entry = manager.manifest("m", version=info.version).find(path)
        assert entry is not None
        assert entry.object is not None
        found[name] = layout.object_key(entry.object)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["record", "alias", "manifest", "file", "small"])
def test_only_regular_files_are_read(
    opened: Callable[[], Stored], root: Path, tree: Path, tmp_path: Path, what: str, kind: Callable[[Path, Path], None]
):
    """O9: whatever lies there is told at once, and hides no other artifact."""
    manager = opened()
    manager.commit_tree("m", tree, commit_id="a", aliases=["best"])
    manager.commit_tree("other", tree / "sub", commit_id="b")
    place = root / places(manager)[what]
    kept = tmp_path / "kept"
    place.rename(kept)
    kind(place, kept)
    fresh = opened()
    # A directory is no record, so there is no version; that is told, too.
    told = (IntegrityError, FormatError, NotFound) if kind is directory else (IntegrityError, FormatError)
    with pytest.raises(told):
        fresh.download_artifact("m", version="best" if what == "alias" else None, to=tmp_path / "out")
    assert "other" in fresh.list_artifacts()
    assert fresh.version_info("other").version == "v0"
    if isinstance(fresh, FileSystemArtifactManager) and kind not in (giant, directory):
        assert not fresh.verify().ok


@pytest.mark.parametrize("kind", [fifo, a_socket, directory, link])
def test_a_commit_meets_something_else_where_its_record_should_be(
    root: Path, tree: Path, kind: Callable[[Path, Path], None]
):
    """O9: it ends with an error, or takes the next number; it neither waits nor tries for ever."""
    manager = FileSystemArtifactManager(str(root))
    manager.commit_tree("m", tree, commit_id="a")
    kind(root / "collections/default/m/v1.version", root / "collections/default/m/v0.version")
    told = None
    try:
        manager.commit_tree("m", tree / "sub", commit_id="b")
    except (IntegrityError, FormatError) as error:
        told = str(error)
    assert told is None or "v1.version" in told
    assert (told is None) == (manager.list_version_names("m")[-1] == "v2")


@pytest.mark.parametrize("kind", KINDS)
def test_a_marker_that_is_something_else(tmp_path: Path, root: Path, tree: Path, kind: Callable[[Path, Path], None]):
    """O9: neither read nor written over."""
    FileSystemArtifactManager(str(root)).commit_tree("m", tree, commit_id="a")
    (root / "artifactfs.json").rename(tmp_path / "kept")
    kind(root / "artifactfs.json", tmp_path / "kept")
    fresh = FileSystemArtifactManager(str(root))
    for call in (fresh.list_collection_names, lambda: fresh.commit_tree("m", tree / "sub", commit_id="b")):
        with pytest.raises(ArtifactError):
            call()


@pytest.mark.parametrize("kind", [fifo, a_socket, link, link_to_fifo, giant])
def test_what_lies_where_an_object_should_be_is_replaced(
    root: Path, tree: Path, tmp_path: Path, kind: Callable[[Path, Path], None]
):
    """A commit does not take it for the object, nor wait for it."""
    store = LocalStore(str(root))
    file = hash_file(str(tree / "sub/large"))
    key = layout.object_key(file.digest)
    (tmp_path / "kept").write_bytes(b"L" * MIB)
    for put in (
        lambda: store.put(key, b"L" * MIB),
        lambda: store.put_file(key, file),
        lambda: store.adopt_file(key, file),
    ):
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fifo").unlink(missing_ok=True)
        kind(root / key, tmp_path / "kept")
        put()
        assert stat.S_ISREG((root / key).lstat().st_mode)
        assert store.get(key) == b"L" * MIB
        (root / key).unlink()


@pytest.mark.parametrize("where", ["objects", "collections", "collections/default", "collections/default/m"])
def test_nothing_is_written_through_a_symlink(root: Path, tree: Path, tmp_path: Path, where: str):
    """O9: one that was planted in a store leads a commit nowhere."""
    root.mkdir()
    FileSystemArtifactManager(str(root)).ensure_created()
    (tmp_path / "outside").mkdir()
    (root / where).parent.mkdir(parents=True, exist_ok=True)
    (root / where).symlink_to(tmp_path / "outside")
    manager = FileSystemArtifactManager(str(root))
    with pytest.raises((IntegrityError, NotFound)):
        manager.commit_tree("m", tree, commit_id="a", aliases=["best"])
    assert os.listdir(tmp_path / "outside") == []
