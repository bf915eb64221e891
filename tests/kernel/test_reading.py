"""How the bytes of versions get to programs, and what it costs the daemon: counted in requests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.managers.filesystem import FileSystemArtifactManager
from mount import disk
from mount.descriptors import Descriptor
from mount.drivers.kernel import protocol
from mount.drivers.kernel.session import Session
from tests.kernel.serving import END_S, served
from tests.mount.harness import Mount, eventually, run
from tests.mount.shared import mounted

pytestmark = pytest.mark.fuse

BIG = os.urandom(3 << 20)
MEDIUM = os.urandom(300_000)
SMALL = {f"small{number}": os.urandom(5000 + number) for number in range(20)}

MAPPED = """
import mmap, sys
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
    sys.stdout.buffer.write(pages[:])
"""


@pytest.fixture
def store(tmp_path: Path) -> FileSystemArtifactManager:
    """A version with one file that is an object of its own, and smaller ones in a pack."""
    source = tmp_path / "source"
    source.mkdir()
    for name, data in {"big": BIG, "medium": MEDIUM, **SMALL}.items():
        (source / name).write_bytes(data)
    store = FileSystemArtifactManager(str(tmp_path / "store"))
    store.log_files("a", source, "c")
    return store


def passthrough_works() -> bool:
    """Whether this kernel and this user can have it."""
    release = tuple(map(int, os.uname().release.split(".")[:2]))
    return release >= (6, 9) and os.geteuid() == 0


def counting(session: Session, seen: Counter[str] | None = None) -> Counter[str]:
    """The requests that come from here on, by their names; in `seen`."""
    seen = Counter() if seen is None else seen
    receive = session.channel.receive

    def receive_and_count(buffers: list[bytearray]) -> int:
        size = receive(buffers)
        if size:
            seen[protocol.OPCODES[protocol.fuse_in_header.unpack_from(buffers[0])[1]]] += 1
        return size

    session.channel.receive = receive_and_count  # type: ignore[method-assign]
    return seen


def unless_pages_go(seen: Counter[str], most: int = 0) -> Iterator[int]:
    """Rounds of reading what is in memory, until one asks for bytes at most `most` times; fails when none of some does.

    The kernel may drop pages whenever it likes, and does so on a busy machine; but not in every round.
    """
    for number in range(5):
        seen.clear()
        yield number
        if seen["FUSE_READ"] <= most:
            return
    raise AssertionError(f"the mount is asked for bytes in every round, in the last one by {seen}")


EPOCH = """
import os, sys
with os.scandir(sys.argv[1]) as entries:
    for entry in entries:
        # Not open(): it asks each file whether it is a terminal.
        fd = os.open(entry.path, os.O_RDONLY)
        while os.read(fd, 1 << 20):
            pass
        os.close(fd)
"""


def read_all(directory: Path) -> None:
    """One epoch over the version, by a program of its own."""
    subprocess.run([sys.executable, "-c", EPOCH, directory], check=True, timeout=END_S)


def test_after_the_first_epoch_a_read_only_mount_is_not_asked(store: FileSystemArtifactManager, tmp_path: Path) -> None:
    """D4: not for opening, reading, flushing or closing a file."""
    with served(store, tmp_path, refresh_s=3600) as session:
        version = tmp_path / "mnt/c/a/v0"
        seen = counting(session)
        read_all(version)
        eventually(lambda: not session.context.directories, what="the last request of the epoch")
        for _ in unless_pages_go(seen):
            read_all(version)
            # Directories are opened here, because only a version's list the same for ever.
            assert seen.keys() <= {"FUSE_OPENDIR", "FUSE_RELEASEDIR", "FUSE_READ"}
            assert seen["FUSE_OPENDIR"] == 1


@pytest.mark.skipif(not passthrough_works(), reason="passthrough needs Linux 6.9 and root")
def test_passthrough_reads_and_maps_without_the_daemon(store: FileSystemArtifactManager, tmp_path: Path) -> None:
    """D5: a whole object is read from the store's own file, others in packs through the daemon."""
    with served(store, tmp_path, refresh_s=3600, reads="passthrough") as session:
        version = tmp_path / "mnt/c/a/v0"
        assert session.context.vfs.reads == "passthrough"
        seen = counting(session)
        mapped = [sys.executable, "-c", MAPPED, str(version / "big")]
        assert subprocess.run(mapped, stdout=subprocess.PIPE, check=True, timeout=END_S).stdout == BIG
        assert subprocess.run(["cat", version / "big"], stdout=subprocess.PIPE, check=True).stdout == BIG
        assert seen["FUSE_OPEN"] == 2
        assert seen["FUSE_READ"] == 0
        for name, data in SMALL.items():
            assert subprocess.run(["cat", version / name], stdout=subprocess.PIPE, check=True).stdout == data
        assert seen["FUSE_READ"] <= 2  # the kernel may have dropped pages of the pack
        assert subprocess.run(["cat", version / "medium"], stdout=subprocess.PIPE, check=True).stdout == MEDIUM
        assert seen["FUSE_READ"] > 0
        eventually(lambda: not session.context.files, what="all files to be released")
        assert not session.context.lending._ways


def test_a_file_cut_while_it_is_handed_to_the_kernel(
    store: FileSystemArtifactManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """V6: the program that reads it gets EIO, the daemon lives and serves the others."""
    view = Descriptor.view

    def view_and_cut(self: Descriptor, size_bytes: int, offset: int) -> memoryview | None:
        seen = view(self, size_bytes, offset)
        os.truncate(f"/proc/self/fd/{self.fd}", 0)
        return seen

    with served(store, tmp_path, refresh_s=3600):
        for path in Path(store.url, "objects").rglob("*"):
            if path.is_file():
                path.chmod(0o644)
        monkeypatch.setattr(Descriptor, "view", view_and_cut)
        version = tmp_path / "mnt/c/a/v0"
        failed = subprocess.run(["cat", version / "big"], capture_output=True, timeout=END_S)
        assert b"Input/output error" in failed.stderr
        # The program may be told before the log is.
        eventually(lambda: "was cut while it was read" in caplog.text)
        for name, data in SMALL.items():
            assert subprocess.run(["cat", version / name], stdout=subprocess.PIPE, check=True).stdout == data


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """A mount that reads as it likes."""
    with mounted(tmp_path_factory.mktemp("reads"), "kernel", "--commit-after", "never", "--refresh", "0.2") as mount:
        yield mount


def test_what_is_done_and_why_is_told(mount: Mount, tmp_path: Path) -> None:
    """D6: in the status."""
    expected = "passthrough" if passthrough_works() else "cache (no passthrough"
    assert mount.status().reads.startswith(expected)
    with mounted(tmp_path / "other", "kernel", "--read-only", store=mount.store) as other:
        assert other.status().reads == "cache, without open (read-only)"
    with mounted(tmp_path / "third", "kernel", "--read-only", "--reads", "passthrough", store=mount.store) as other:
        assert other.status().reads.startswith(expected)


def test_how_many_inodes_are_held_is_told(mount: Mount) -> None:
    """D6: each place and each version once, however many files of it are known."""
    staging = mount.make("inodes/a")
    for number in range(5):
        (staging / str(number)).touch()
    mount.commit("inodes/a")
    before = mount.status().inodes
    assert before is not None
    assert len(os.listdir(staging.parent / "v0")) == 5
    for number in range(5):
        (staging.parent / "v0" / str(number)).stat()
    after = mount.status().inodes
    assert after is not None
    assert before <= after <= before + 3


def test_a_file_open_when_its_object_is_damaged_or_read_by_many_at_once(mount: Mount) -> None:
    """V6: a small file that is an object of its own is checked before it is lent to the kernel."""
    staging = mount.make("damage/a")
    (staging / "alone").write_bytes(b"a file that is the only one of its pack")
    mount.commit("damage/a")
    mount.expect_warning("is damaged")
    version = staging.parent / "v0"
    assert (version / "alone").read_bytes().startswith(b"a file")
    mount.remount()
    (the_object,) = [
        path for path in Path(mount.store, "objects").rglob("*") if path.is_file() and b"only one" in path.read_bytes()
    ]
    the_object.chmod(0o644)
    the_object.write_bytes(the_object.read_bytes().replace(b"only one", b"lonely 1"))
    with pytest.raises(OSError, match="Input/output error"):
        (version / "alone").read_bytes()


def test_openers_of_one_file_all_go_one_way(mount: Mount) -> None:
    """D5: also when they open and close at the same time."""
    staging = mount.make("openers/a")
    (staging / "file").write_bytes(BIG)
    mount.commit("openers/a")
    opener = "import sys\nfor _ in range(300):\n    open(sys.argv[1], 'rb').read(4096)"
    openers = [subprocess.Popen([sys.executable, "-c", opener, str(staging.parent / "v0/file")]) for _ in range(4)]
    assert [each.wait(END_S) for each in openers] == [0] * 4


def test_a_version_can_lie_below_an_overlay(store: FileSystemArtifactManager, tmp_path: Path) -> None:
    """D5: passthrough leaves room for it, where the store lies on a disk; large and small files read the same."""
    if os.geteuid() != 0 or disk.is_stacked(tmp_path):
        pytest.skip("an overlay takes root, and a disk below the store")
    with mounted(tmp_path / "drive", "kernel", "--commit-after", "never", store=tmp_path / "store") as mount:
        upper, work, merged = (tmp_path / name for name in ("upper", "work", "merged"))
        for directory in (upper, work, merged):
            directory.mkdir()
        options = f"lowerdir={mount / 'c/a/v0'},upperdir={upper},workdir={work}"
        run("mount", "-t", "overlay", "-o", options, "none", merged)
        try:
            (merged / "small0").write_bytes(b"mine")
            assert (merged / "small0").read_bytes() == b"mine"
            assert (merged / "small1").read_bytes() == SMALL["small1"]
            assert (merged / "big").read_bytes() == BIG
        finally:
            run("umount", merged)
        assert (mount / "c/a/v0/small0").read_bytes() == SMALL["small0"]
