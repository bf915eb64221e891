"""Opening beneath a directory, by one system call and by walking the path."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from artifactfs import beneath
from artifactfs.beneath import (
    DIRECTORY,
    NotRegular,
    make_directory_beneath,
    open_beneath,
    open_directory_beneath,
    open_regular,
)
from artifactfs.errors import InvalidName
from artifactfs.longpaths import make_directories, reach, remove_tree

LONG = "/".join(["n" * 200] * 50)


@pytest.fixture(params=["openat2", "walked"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to open; the second is what an old kernel or a sandbox leaves."""
    way: str = request.param
    if way == "walked":
        monkeypatch.setattr(beneath, "_has_openat2", lambda: False)
    elif not beneath._has_openat2():
        pytest.skip("no openat2 here")
    return way


@pytest.fixture
def top(tmp_path: Path) -> Iterator[int]:
    """A directory with a file, a directory, and symlinks to both, inside and outside."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (inside / "d/e").mkdir(parents=True)
    (inside / "d/e/f").write_text("f")
    (inside / "to_file").symlink_to("d/e/f")
    (inside / "to_directory").symlink_to("d")
    (inside / "d/out").symlink_to(outside)
    (inside / "loop").symlink_to("loop")
    fd = os.open(inside, beneath.DIRECTORY)
    yield fd
    os.close(fd)


def read(fd: int) -> bytes:
    with open(fd, "rb") as file:
        return file.read()


def test_what_lies_beneath_is_opened(top: int):
    """By text and by bytes, to read, to make and to hold; no descriptor is inherited."""
    fd = open_beneath(top, "d/e/f", os.O_RDONLY)
    assert not os.get_inheritable(fd)
    assert read(fd) == b"f"
    assert read(open_beneath(top, b"d/e/f", os.O_RDONLY)) == b"f"
    os.close(open_beneath(top, "d/new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640))
    assert os.stat("d/new", dir_fd=top).st_mode & 0o777 == 0o640
    with pytest.raises(FileExistsError):
        open_beneath(top, "d/new", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    held = open_directory_beneath(top, "d/e")
    assert os.listdir(f"/proc/self/fd/{held}") == ["f"]
    os.close(held)
    itself = open_directory_beneath(top, "")
    assert os.path.samestat(os.fstat(itself), os.fstat(top))
    os.close(itself)


@pytest.mark.parametrize("path", ["", "/etc/passwd", "/", "..", "../outside/secret", "d/../d/e/f", "d/./e/f", "."])
@pytest.mark.parametrize("suffix", ["", "/"])
def test_a_path_that_is_no_plain_one_is_refused(top: int, path: str, suffix: str):
    for odd in (path + suffix, os.fsencode(path + suffix)):
        with pytest.raises(InvalidName):
            open_beneath(top, odd, os.O_RDONLY)


@pytest.mark.parametrize("path", ["d//e/f", "d/e/f/", "d\0/e/f", "d/e/f\0x"])
def test_empty_parts_and_nul_are_refused(top: int, path: str):
    with pytest.raises(InvalidName):
        open_beneath(top, path, os.O_RDONLY)
    with pytest.raises(InvalidName):
        open_regular(path, beneath=top)


@pytest.mark.parametrize(
    ("path", "flags"),
    [
        ("to_file", os.O_RDONLY),
        ("to_file", os.O_RDWR),
        ("to_file", os.O_PATH),
        ("to_file", os.O_WRONLY | os.O_CREAT),
        ("loop", os.O_RDONLY),
        ("to_directory", os.O_RDONLY),
        ("to_directory", beneath.DIRECTORY),
        ("to_directory", beneath.DIRECTORY | os.O_NOFOLLOW),
        ("to_directory/e/f", os.O_RDONLY),
        ("to_directory/e/new", os.O_WRONLY | os.O_CREAT),
        ("d/out/secret", os.O_RDONLY),
    ],
)
def test_no_symlink_is_followed(top: int, path: str, flags: int, way: str):
    """Not at the end, not on the way, whether or not it would lead out."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=r"symbolic links|Not a directory") as caught:
        open_beneath(top, path, flags)
    # A directory that must not be a symlink is ENOTDIR where the kernel is asked for both.
    assert caught.value.errno == errno.ELOOP or (flags & os.O_NOFOLLOW and caught.value.errno == errno.ENOTDIR)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_symlink_itself_can_be_held(top: int):
    fd = open_beneath(top, "to_file", os.O_PATH | os.O_NOFOLLOW)
    assert os.readlink("", dir_fd=fd) == "d/e/f"
    os.close(fd)


def test_what_is_missing_or_no_directory_is_told_as_by_open(top: int):
    with pytest.raises(FileNotFoundError):
        open_beneath(top, "d/missing/f", os.O_RDONLY)
    with pytest.raises(NotADirectoryError):
        open_beneath(top, "d/e/f/g", os.O_RDONLY)
    with pytest.raises(OSError, match="too long") as caught:
        open_beneath(top, "n" * 256, os.O_RDONLY)
    assert caught.value.errno == errno.ENAMETOOLONG


@pytest.mark.parametrize("steps", [19, 20, 21, 50])
def test_paths_of_any_length(tmp_path: Path, steps: int):
    """Up to one system call's length and beyond; symlinks are not followed at its seams either."""
    (tmp_path / "top").mkdir()
    below = "/".join(["n" * 200] * steps)
    make_directories(str(tmp_path / "top"), below, {""})
    with reach(f"{tmp_path}/top/{below}/f") as near:
        Path(near).write_bytes(b"deep")
        os.symlink(".", f"{near}_link")
    fd = os.open(tmp_path / "top", beneath.DIRECTORY)
    before = len(os.listdir("/proc/self/fd"))
    try:
        assert read(open_beneath(fd, f"{below}/f", os.O_RDONLY)) == b"deep"
        assert read(open_regular(f"{below}/f", beneath=fd)) == b"deep"
        with pytest.raises(OSError, match="symbolic links") as caught:
            open_beneath(fd, f"{below}/f_link/f", os.O_RDONLY)
        assert caught.value.errno == errno.ELOOP
        with pytest.raises(FileNotFoundError):
            open_beneath(fd, f"{below}/missing/{below}", os.O_RDONLY)
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        os.close(fd)
        remove_tree(tmp_path / "top")


def test_regular_files_are_opened(top: int, tmp_path: Path):
    """Beneath a directory, and at any path, also one that leads to its directory through a symlink."""
    assert read(open_regular("d/e/f", beneath=top)) == b"f"
    assert read(open_regular(f"{tmp_path}/inside/d/e/f")) == b"f"
    assert read(open_regular(f"{tmp_path}/inside/to_directory/e/f".encode())) == b"f"
    fd = open_regular("d/e/f", os.O_RDWR, beneath=top)
    os.write(fd, b"F")
    os.close(fd)
    assert (tmp_path / "inside/d/e/f").read_text() == "F"


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR, os.O_WRONLY])
@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "directory", "symlink", "symlink_to_fifo"])
def test_nothing_else_is_opened_as_a_regular_file(tmp_path: Path, kind: str, flags: int):
    """Nor waited for, whichever way it is opened; the error names it."""
    place = tmp_path / kind
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "socket":
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(place))
        listening.close()
    elif kind == "device":
        if os.geteuid() != 0:
            pytest.skip("only root makes devices")
        os.mknod(place, 0o20666, os.makedev(1, 3))
    elif kind == "directory":
        place.mkdir()
    else:
        os.mkfifo(tmp_path / "behind")
        place.symlink_to("behind")
    fd = os.open(tmp_path, beneath.DIRECTORY)
    before = len(os.listdir("/proc/self/fd"))
    try:
        with pytest.raises(NotRegular, match=r"is a .*: .*" + kind) as caught:
            open_regular(kind, flags, beneath=fd)
        assert caught.value.errno
        with pytest.raises(NotRegular, match=r"is a .*: .*" + kind):
            open_regular(str(place), flags)
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        os.close(fd)


def test_missing_files_are_told_as_such(top: int, tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        open_regular("missing", beneath=top)
    with pytest.raises(FileNotFoundError):
        open_regular(str(tmp_path / "missing"))


@pytest.mark.parametrize("taken", ["a/b/c", "a/b", "a"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_directory_that_others_remove_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: str, moment: str
):
    """Whoever tidies removes what is empty, and so what another has just made."""
    made, mkdir = 0, os.mkdir

    def call(name: str, mode: int, *, dir_fd: int) -> None:
        nonlocal made
        made += 1

        def tidy() -> None:
            if made < 12:
                for place in ("a/b/c", "a/b", "a"):
                    if len(place) >= len(taken):
                        with suppress(OSError):
                            (tmp_path / place).rmdir()

        if moment == "before":
            tidy()
        mkdir(name, mode, dir_fd=dir_fd)
        if moment == "after":
            tidy()

    monkeypatch.setattr(os, "mkdir", call)
    with holding(tmp_path) as top:
        os.close(make_directory_beneath(top, "a/b/c", 0o700))
    assert (tmp_path / "a/b/c").is_dir()


def test_no_directory_is_made_in_one_that_is_gone(tmp_path: Path):
    (tmp_path / "gone").mkdir()
    with holding(tmp_path / "gone") as top:
        (tmp_path / "gone").rmdir()
        with pytest.raises(FileNotFoundError):
            make_directory_beneath(top, "a/b/c", 0o700)


@contextmanager
def holding(path: Path) -> Iterator[int]:
    directory = os.open(path, DIRECTORY)
    try:
        yield directory
    finally:
        os.close(directory)
