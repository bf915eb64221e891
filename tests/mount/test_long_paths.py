"""Paths that fit into a system call in the mount and not on the disk behind it: writing, committing, getting them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.longpaths import remove_tree
from mount import client
from tests.mount.harness import Mount, artifactfs
from tests.mount.shared import mounted

pytestmark = pytest.mark.fuse

PATH_MAX = 4096
LABEL = "long/paths"


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A temporary directory that is emptied here, because pytest cannot remove what is so deep."""
    yield tmp_path
    for path in tmp_path.iterdir():
        remove_tree(path)


@pytest.fixture(params=["objects", "plain"])
def mount(request: pytest.FixtureRequest, directory: Path, driver: str) -> Iterator[Mount]:
    """One mount of each layout."""
    store = None if request.param == "objects" else f"plain+file://{directory}/store"
    with mounted(directory / "mount", driver, "--commit-after", "never", "--refresh", "0.2", store=store) as mount:
        yield mount


def chain(top: Path) -> list[str]:
    """Names of directories, short and long in turn, so that the path of a file "f" in the last has 4,095 bytes."""
    left = PATH_MAX - 1 - len(os.fsencode(top)) - len("/f")
    names = []
    while left > 0:
        take = min(left, (2, 256)[len(names) % 2])
        take += left - take if left - take == 1 else 0
        names.append("d" * (take - 1))
        left -= take
    return names


class Deep:
    """A directory at the end of a chain, reached as a program reaches it: from directory to directory."""

    def __init__(self, top: Path, names: list[str], *, make: bool = False) -> None:
        self.fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
        for name in names:
            if make:
                os.mkdir(name, dir_fd=self.fd)
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.fd)
            os.close(self.fd)
            self.fd = below

    def __enter__(self) -> Deep:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def write(self, name: str, data: bytes, flags: int = os.O_CREAT | os.O_TRUNC) -> None:
        fd = os.open(name, os.O_WRONLY | flags, 0o644, dir_fd=self.fd)
        try:
            assert os.write(fd, data) == len(data)
        finally:
            os.close(fd)

    def read(self, name: str) -> bytes:
        fd = os.open(name, os.O_RDONLY, dir_fd=self.fd)
        try:
            return os.read(fd, 1 << 22)
        finally:
            os.close(fd)

    def fill(self) -> None:
        """Files small and large, links, attributes, and junk."""
        os.umask(0o022)
        self.write("f", b"small")
        os.chmod("f", 0o640, dir_fd=self.fd)
        os.utime("f", ns=(1, 1_500_000_000_000_000_001), dir_fd=self.fd)
        self.write("large", b"large" * 300_000)
        self.write("junk.swp", b"junk")
        self.write("gone", b"gone")
        os.unlink("gone", dir_fd=self.fd)
        self.write("old", b"moved")
        os.rename("old", "moved", src_dir_fd=self.fd, dst_dir_fd=self.fd)
        os.link("moved", "linked", src_dir_fd=self.fd, dst_dir_fd=self.fd)
        os.mkdir("sub", dir_fd=self.fd)
        os.symlink("sub/../f", "symlink", dir_fd=self.fd)

    def check(self, *, small: bytes = b"small") -> None:
        """That it is what `fill` made, but for junk."""
        assert set(os.listdir(self.fd)) - {"junk.swp"} == {"f", "large", "moved", "linked", "sub", "symlink"}
        assert self.read("f") == self.read("symlink") == small
        assert self.read("large") == b"large" * 300_000
        assert self.read("moved") == self.read("linked") == b"moved"
        assert os.readlink("symlink", dir_fd=self.fd) == "sub/../f"
        found = os.stat("f", dir_fd=self.fd)
        assert stat.S_IMODE(found.st_mode) == 0o640
        if small == b"small":
            assert found.st_mtime_ns == 1_500_000_000_000_000_001


@pytest.fixture
def names(mount: Mount) -> list[str]:
    """The chain, made and filled in staging."""
    staging = mount.make(LABEL)
    names = chain(staging)
    with Deep(staging, names, make=True) as deep:
        deep.fill()
    return names


def test_from_staging_to_a_version_and_back(mount: Mount, names: list[str], directory: Path) -> None:
    """N6: through kill -9, seal and commit to a version, out of it by `get`, back into staging by reference."""
    longest = f"{mount / LABEL / 'staging'}/{'/'.join(names)}/f"
    assert len(os.fsencode(longest)) == PATH_MAX - 1
    assert Path(longest).read_bytes() == b"small"
    assert os.lstat(longest).st_size == 5
    staged = mount.state(LABEL).staged
    assert staged is not None
    assert (staged.files, staged.size_bytes) == (5, len("small") + 1_500_000 + len("junk") + 2 * len("moved"))
    mount.kill9()
    mount.mount("--commit-after", "never")
    with Deep(mount / LABEL / "staging", names) as deep:
        deep.check()
    preview = artifactfs("diff", mount / LABEL / "staging", check=False).stdout
    assert f"+ {'/'.join(names)}/f" in preview
    assert "junk" not in preview
    result = mount.commit(LABEL)
    assert (result["version"], result["files"]) == ("v0", 4)
    for name in ("v0", "latest"):
        with Deep(mount / LABEL / name, names) as deep:
            deep.check()
    with pytest.raises(FileNotFoundError):
        os.stat(longest)
    artifactfs("verify", "--store", mount.store)
    to = directory / "copy"
    artifactfs("get", LABEL, to, "--store", mount.store)
    with Deep(to / "paths", names) as deep:
        deep.check()
    # Once more, into what is there.
    artifactfs("get", LABEL, to, "--store", mount.store)
    with Deep(to / "paths", names) as deep:
        deep.check()
    client.stage(mount / LABEL / "staging", "v0")
    with Deep(mount / LABEL / "staging", names) as deep:
        deep.check()
        deep.write("f", b"more", os.O_APPEND)
    mount.kill9()
    mount.mount("--commit-after", "never")
    assert mount.commit(LABEL)["version"] == "v1"
    with Deep(mount / LABEL / "v1", names) as deep:
        deep.check(small=b"smallmore")


def test_sealed_while_it_is_written(mount: Mount, names: list[str]) -> None:
    """N6, C2, C10: a file that is open there keeps others waiting, and goes on in staging after a forced commit."""
    with Deep(mount / LABEL / "staging", names) as deep:
        fd = os.open("f", os.O_WRONLY | os.O_APPEND, dir_fd=deep.fd)
    try:
        staged = mount.state(LABEL).staged
        assert staged is not None
        assert staged.open_for_writing == 1
        os.write(fd, b" before")
        assert mount.commit(LABEL, "--force")["version"] == "v0"
        os.write(fd, b" after")
    finally:
        os.close(fd)
    with Deep(mount / LABEL / "v0", names) as deep:
        assert deep.read("f") == b"small before"
    with Deep(mount / LABEL / "staging", names) as deep:
        assert os.listdir(deep.fd) == ["f"]
        assert deep.read("f") == b"small before after"
    artifactfs("discard", "--yes", mount / LABEL)
    assert os.listdir(mount / LABEL / "staging") == []


def test_refused_and_discarded(mount: Mount, names: list[str]) -> None:
    """N6, C6: what a version cannot hold is found there too; the tree waits, readable, and can be thrown away."""
    mount.expect_warning("cannot commit")
    with Deep(mount / LABEL / "staging", names) as deep:
        # Out of the version only for who follows it: "out" is "." of the directory above.
        os.symlink("..", "up", dir_fd=deep.fd)
        os.symlink("/".join(["up", *[".."] * len(names)]), "out", dir_fd=deep.fd)
    done = artifactfs("commit", mount / LABEL, check=False)
    assert done.returncode != 0
    assert "leads to" in done.stderr
    with Deep(mount / LABEL / "pending.1", names) as deep:
        assert deep.read("f") == b"small"
    artifactfs("discard", "--yes", mount / LABEL / "pending.1")
    assert not (mount / LABEL / "pending.1").exists()
    assert mount.state(LABEL).pending == []


@pytest.mark.parametrize("mount", ["plain"], indirect=True)
def test_deeper_than_the_stack(mount: Mount) -> None:
    """N6: more directories, one in the other, than Python calls itself."""
    names = ["d"] * 1100
    staging = mount.make(LABEL)
    with Deep(staging, names, make=True) as deep:
        deep.write("f", b"deep")
    assert mount.commit(LABEL)["files"] == 1
    with Deep(mount / LABEL / "v0", names) as deep:
        assert deep.read("f") == b"deep"
    client.stage(staging, "v0")
    with Deep(staging, names) as deep:
        assert deep.read("f") == b"deep"
    artifactfs("discard", "--yes", mount / LABEL)
    assert os.listdir(staging) == []
