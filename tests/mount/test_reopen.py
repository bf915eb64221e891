"""What the store will never take: told by its path on the drive, and mended in place by `artifactfs reopen`."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mount.commands.umount import LEFT
from mount.control import CommitState, Pending
from tests.mount.conftest import MakeMount
from tests.mount.harness import PROGRAM, Mount, artifactfs, eventually, run
from tests.mount.ordinary_user import User, ordinary_user, why_not
from tests.mount.shared import mounted

pytestmark = pytest.mark.fuse

LARGE = b"large!" * 250_000


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory, driver: str) -> Iterator[Mount]:
    """Commits on request only; every commit here is refused once."""
    directory = tmp_path_factory.mktemp("reopen")
    with mounted(directory, driver, "--commit-after", "never", "--refresh", "0.2") as mount:
        mount.expect_warning(r"cannot commit pending\.\d+ of")
        yield mount


def _socket(path: Path) -> None:
    # A short path, because the name of a socket is short.
    before = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(before)


KINDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "fifo": (os.mkfifo, "is a FIFO"),
    "socket": (_socket, "is a socket"),
    "device": (lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3)), "is a device"),
    "absolute-link": (lambda path: path.symlink_to("/etc/hostname"), "leads to '/etc/hostname'"),
    "leaving-link": (lambda path: path.symlink_to("../../outside"), "leads to '../../outside'"),
    "long-link": (lambda path: path.symlink_to("../" * 1364 + "x"), "(4,093 bytes)"),
}
"""What makes it, and what is said of it."""


def blocked(mount: Mount, label: str) -> Pending:
    """The sealed tree that a commit has given up on."""
    return eventually(lambda: next((p for p in mount.state(label).pending if p.state is CommitState.BLOCKED), None))


def assert_names_the_drive(mount: Mount, text: str, path: Path) -> None:
    """The text names the file by its path on the drive, and no place of the daemon's own."""
    assert str(path) in text, text
    for hidden in ("/proc/self", f"{mount.store}/", str(mount.state_dir), "/tree/"):
        assert hidden not in text, text


@pytest.mark.parametrize("kind", KINDS)
def test_what_no_store_takes(mount: Mount, kind: str) -> None:
    """C6, C19: it is named by its path on the drive everywhere, and once it is removed the rest becomes the version."""
    if kind == "device" and os.geteuid() != 0:
        pytest.skip("only root makes devices")
    make, says = KINDS[kind]
    label = f"refused/{kind}"
    staging = mount.make(label)
    (staging / "d").mkdir()
    (staging / "f").write_text("kept")
    (staging / "large").write_bytes(LARGE)
    make(staging / "d" / "bad one")
    path = mount / label / "pending.1/d/bad one"
    said = artifactfs("commit", mount / label, "-m", "the message", check=False)
    assert said.returncode == 1
    assert "artifactfs reopen" in said.stderr
    log = [line for line in mount.log().splitlines() if f"of {label}" in line and "cannot commit" in line]
    assert len(log) == 1
    shown = [line for line in artifactfs("status", mount.path).stdout.splitlines() if label in line]
    left = mount.umount(check=False)
    assert left.returncode == LEFT
    mount.mount()
    for text in (said.stderr, str(blocked(mount, label).error), log[0], shown[0], left.stderr):
        assert says in text
        assert_names_the_drive(mount, text, path)
    told = artifactfs("reopen", mount / label).stdout
    assert told.startswith(f"took pending.1 of {label} back into staging: 2 files, ")
    assert_names_the_drive(mount, told, path)
    shown = [line for line in artifactfs("status", mount.path).stdout.splitlines() if label in line]
    assert "pending.1 taken back: " in shown[0]
    assert_names_the_drive(mount, shown[0], staging / "d/bad one")
    assert sorted(os.listdir(mount / label)) == ["staging"]
    run("rm", staging / "d" / "bad one")
    assert mount.commit(label)["version"] == "v0"
    assert (mount / label / "v0/f").read_text() == "kept"
    assert (mount / label / "v0/large").read_bytes() == LARGE
    assert os.getxattr(mount / label / "v0", "user.artifactfs.message") == b"the message"


def test_what_the_command_refuses(mount: Mount) -> None:
    """C19: nothing to take back, staging in use, another tree: each is one line that says what to do."""

    def failing(*arguments: str | os.PathLike[str]) -> str:
        done = artifactfs("reopen", *arguments, check=False)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        return done.stderr

    staging = mount.make("refused/command")
    assert "no commit of refused/command has failed" in failing(mount / "refused/command")
    assert "there is no pending.7" in failing(mount / "refused/command/pending.7")
    os.mkfifo(staging / "bad")
    artifactfs("commit", mount / "refused/command", check=False)
    (staging / "next").write_text("x")
    said = failing(mount / "refused/command")
    assert "has something staged" in said
    assert "artifactfs commit --no-wait" in said
    artifactfs("commit", "--no-wait", mount / "refused/command")
    artifactfs("reopen", mount / "refused/command/pending.1")
    assert "pending.1 of refused/command is in staging already" in failing(mount / "refused/command")
    assert "has something staged" in failing(mount / "refused/command/pending.2")
    shown = [line for line in artifactfs("status", mount.path).stdout.splitlines() if "refused/command" in line]
    assert "blocked: pending.1 is in staging again" in "\n".join(shown)
    left = mount.umount(check=False)
    assert left.returncode == LEFT
    assert "refused/command staging: 0 files, 0 B: pending.1 was taken back: " in left.stderr
    mount.mount()
    artifactfs("discard", staging, "--yes")
    eventually(lambda: not mount.state("refused/command").pending)
    assert os.listdir(mount / "refused/command/v0") == ["next"]


def test_a_commit_behind_one_that_is_blocked_tells_where_its_files_are(mount: Mount) -> None:
    """C6: both trees are named, because what was just staged lies in the later one."""
    staging = mount.make("refused/order")
    os.mkfifo(staging / "bad")
    first = artifactfs("commit", mount / "refused/order", check=False).stderr
    assert "the files are kept in pending.1" in first
    assert "pending.2" not in first
    (staging / "good").write_text("x")
    later = artifactfs("commit", mount / "refused/order", check=False)
    assert later.returncode == 1
    assert "the files are kept in pending.1" in later.stderr
    assert "; pending.2, with what was just staged, waits until that is done\n" in later.stderr
    artifactfs("discard", mount / "refused/order/pending.1", "--yes")
    eventually(lambda: (mount / "refused/order/v0").exists())
    assert os.listdir(mount / "refused/order/v0") == ["good"]


def test_a_daemon_that_is_killed(make_mount: MakeMount) -> None:
    """C19, C8: killed after a tree was taken back, the next daemon finds it in staging and leaves it there."""
    mount = make_mount("--commit-after", "0.2", "--refresh", "0.2")
    mount.expect_warning(r"cannot commit pending\.\d+ of|cleared the dead mount")
    staging = mount.make("models/bert")
    with open(staging / "large", "wb") as file:
        file.write(LARGE)
        os.mkfifo(staging / "bad")
    blocked(mount, "models/bert")
    with open(mount / "models/bert/pending.1/large", "rb") as file:
        artifactfs("reopen", mount / "models/bert")
        assert file.read() == LARGE
    mount.kill9()
    mount.mount()
    state = mount.state("models/bert")
    assert state.pending == []
    assert state.staged is not None
    assert state.staged.untouched
    assert (staging / "large").read_bytes() == LARGE
    run("rm", staging / "bad")
    mount.committed("models/bert", "v0")
    assert os.listdir(mount / "models/bert/v0") == ["large"]
    eventually(lambda: not mount.state("models/bert").pending)


def test_a_descriptor_of_the_tree(mount: Mount) -> None:
    """C19, D2: fstat(2) of a file that was open for reading tells of the file in staging."""
    if mount.driver != "kernel":
        pytest.skip("libfuse is asked by name")
    staging = mount.make("refused/descriptor")
    (staging / "f").write_text("before")
    os.mkfifo(staging / "bad")
    artifactfs("commit", mount / "refused/descriptor", check=False)
    with open(mount / "refused/descriptor/pending.1/f", "rb") as file:
        assert os.fstat(file.fileno()).st_size == 6
        artifactfs("reopen", mount / "refused/descriptor")
        assert os.fstat(file.fileno()).st_size == 6
        (staging / "f").write_text("afterwards")
        assert os.fstat(file.fileno()).st_size == 10
        assert os.fstat(file.fileno()).st_ino == os.stat(staging / "f").st_ino
        (staging / "bad").unlink()
        assert mount.commit("refused/descriptor")["version"] == "v0"


def test_a_shell_in_the_tree(mount: Mount) -> None:
    """C19: a program that works below the pending directory gets errors, and never another's file."""
    staging = mount.make("refused/shell")
    (staging / "d").mkdir()
    (staging / "d/f").write_text("old")
    os.mkfifo(staging / "bad")
    artifactfs("commit", mount / "refused/shell", check=False)
    script = "cat f; read line; cat f; echo $?; ls >/dev/null; echo $?; touch new 2>/dev/null; echo $?"
    with subprocess.Popen(
        ["sh", "-c", script],
        cwd=mount / "refused/shell/pending.1/d",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as shell:
        assert shell.stdout is not None
        assert shell.stdout.read(3) == "old"
        artifactfs("reopen", mount / "refused/shell")
        (staging / "bad").unlink()
        (staging / "d/f").write_text("new")
        out, _ = shell.communicate("\n")
    # Either the directory is gone for it or it sees the one file; it makes nothing.
    assert out.split()[-1] != "0"
    assert os.listdir(staging / "d") == ["f"]
    assert mount.commit("refused/shell")["version"] == "v0"
    assert (mount / "refused/shell/v0/d/f").read_text() == "new"


@pytest.fixture
def user() -> Iterator[User]:
    """Nobody, with a home that fusermount3 can enter."""
    with ordinary_user() as user:
        yield user


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
@pytest.mark.parametrize("bad", ["f", "d"])
def test_what_an_ordinary_user_cannot_read(user: User, driver: str, bad: str) -> None:
    """C6, C19: a file or directory without rights is named by its path on the drive; chmod in staging mends it."""
    user.run("mkdir", "mnt")
    options = ["--driver", driver, "--commit-after", "never", "--refresh", "0.2"]
    user.run(PROGRAM, "mount", "store", "mnt", *options)
    user.run("mkdir", "-p", "mnt/c/a/staging/d")
    user.run("sh", "-c", f"cd mnt/c/a/staging; echo x > f; echo y > d/g; chmod 000 {bad}")
    said = user.run(PROGRAM, "commit", "mnt/c/a", check=False)
    assert said.returncode == 1
    status = user.run(PROGRAM, "status", "mnt").stdout
    umount = user.run(PROGRAM, "umount", "mnt", check=False)
    for text in (said.stderr, status.split("log:")[0], umount.stderr):
        assert "Permission denied" in text
        assert f"{user.home}/mnt/c/a/pending.1/{bad}" in text
        assert "/proc/self" not in text
        assert "/tree" not in text
    assert umount.returncode == LEFT
    user.run(PROGRAM, "mount", "store", "mnt", *options)
    user.run(PROGRAM, "reopen", "mnt/c/a")
    user.run("chmod", "755", f"mnt/c/a/staging/{bad}")
    assert "c/a v0: 2 files" in user.run(PROGRAM, "commit", "mnt/c/a").stdout
    user.run("test", "-f", "mnt/c/a/v0/d/g")
    user.run(PROGRAM, "umount", "mnt")
