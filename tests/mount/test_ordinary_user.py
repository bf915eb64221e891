"""A whole session of an ordinary user, for whom fusermount3 mounts: what root's tests cannot see."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.harness import COMMAND_TIMEOUT_S, PROGRAM, eventually

pytestmark = pytest.mark.fuse

USER = "nobody"


# What root's tests have and an ordinary desktop user does not need: run in a mount namespace of its own, with a
# /dev/fuse for all, which is what udev makes of it.
ENTER = """
set -e
mknod "$1/fuse" c 10 229 && chmod 666 "$1/fuse"
mount --bind "$1/fuse" /dev/fuse
echo ready
exec sleep infinity
"""


class User:
    """Runs commands as an ordinary user below a directory of theirs."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._prefix: list[str] = []
        self._namespace: subprocess.Popen[str] | None = None
        if os.geteuid() == 0:
            entry = pwd.getpwnam(USER)
            os.chown(home, entry.pw_uid, entry.pw_gid)
            self._namespace = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", ENTER, "sh", str(home)], stdout=subprocess.PIPE, text=True
            )
            assert self._namespace.stdout is not None
            assert self._namespace.stdout.readline() == "ready\n"
            enter = ["nsenter", f"--mount=/proc/{self._namespace.pid}/ns/mnt"]
            # The one capability lets the user run an interpreter that lies in root's home.
            become = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
            self._prefix = [*enter, *become, "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]

    def close(self) -> None:
        """End what is left of the user's processes and mounts."""
        if self._namespace is not None:
            self.run("pkill", "-u", USER, "-f", str(self.home), check=False)
            self._namespace.kill()
            self._namespace.communicate()

    def run(self, *command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command; with `check` it must succeed."""
        environment = {**os.environ, "HOME": str(self.home), "XDG_STATE_HOME": str(self.home / "state")}
        done = subprocess.run(
            [*self._prefix, "env", f"--chdir={self.home}", *map(str, command)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        if check:
            logs = "".join(path.read_text() for path in self.home.glob("state/artifactfs/logs/*.log"))
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{logs}"
        return done


@pytest.fixture
def user() -> Iterator[User]:
    """Nobody, with a home that fusermount3 can enter."""
    home = Path(tempfile.mkdtemp(prefix="artifactfs-user-"))
    home.chmod(0o755)
    user = User(home)
    try:
        yield user
    finally:
        user.close()
        shutil.rmtree(home)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv of util-linux is needed to become a user")
def test_session_of_an_ordinary_user(user: User, driver: str) -> None:
    """Mount in the background, log by copy, read back, unmount; another user sees nothing."""
    user.run("mkdir", "mnt", "source")
    user.run("sh", "-c", "echo text > source/file; chmod 640 source/file; ln -s file source/link; mkdir source/empty")
    user.run(PROGRAM, "mount", "store", "mnt", "--driver", driver, "--commit-after", "0.3", "--refresh", "0.2")
    user.run("mkdir", "-p", "mnt/c/a")
    user.run("cp", "-a", "source/.", "mnt/c/a/staging")
    eventually(lambda: user.run("test", "-d", "mnt/c/a/v0", check=False).returncode == 0, what="v0")
    user.run("diff", "-r", "--no-dereference", "source", "mnt/c/a/latest/")
    listed = user.run("stat", "-c", "%U %a", "mnt/c/a/v0/file").stdout.split()
    assert listed == [user.run("id", "-un").stdout.strip(), "640"]
    refused = user.run("rm", "-rf", "mnt/c/a/v0", check=False)
    assert refused.returncode == 1
    assert "Read-only file system" in refused.stderr
    user.run("sh", "-c", "echo more > mnt/c/a/staging/more")
    eventually(lambda: user.run("test", "-d", "mnt/c/a/v1", check=False).returncode == 0, what="v1")
    check_closed_directories(user)
    user.run(PROGRAM, "umount", "mnt")
    assert user.run("ls", "mnt").stdout == ""


def check_closed_directories(user: User) -> None:
    """C7, C9: directories that their owner may not write to are committed, rid of junk, and removed afterwards."""
    user.run("mkdir", "closed")
    user.run("sh", "-c", "mkdir closed/d && echo x | tee closed/d/f closed/d/junk.swp && chmod 555 closed/d closed")
    user.run("mkdir", "-p", "mnt/c/closed")
    user.run("cp", "-a", "closed/.", "mnt/c/closed/staging")
    eventually(lambda: user.run("test", "-d", "mnt/c/closed/v0", check=False).returncode == 0, what="v0")
    assert (
        user.run("stat", "-c", "%a %Y", "mnt/c/closed/v0/d").stdout
        == user.run("stat", "-c", "%a %Y", "closed/d").stdout
    )
    assert user.run("ls", "-A", "mnt/c/closed/v0/d").stdout == "f\n"
    eventually(lambda: user.run("ls", "mnt/c/closed").stdout.split() == ["latest", "staging", "v0"])
    left = user.run("sh", "-c", "ls -A store/staging/*/artifacts/c/closed").stdout.split()
    assert set(left) <= {"staging"}
