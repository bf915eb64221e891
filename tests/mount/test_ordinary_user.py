"""A whole session of an ordinary user, for whom fusermount3 mounts: what root's tests cannot see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from mount.commands.umount import LEFT
from tests.mount.harness import PROGRAM, eventually
from tests.mount.ordinary_user import User, ordinary_user, why_not

pytestmark = [pytest.mark.fuse, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]


@pytest.fixture
def user() -> Iterator[User]:
    """Nobody, with a home that fusermount3 can enter."""
    with ordinary_user() as user:
        yield user


def test_session_of_an_ordinary_user(user: User, driver: str) -> None:
    """Mount in the background, log by copy, read back, unmount; another user sees nothing."""
    user.run("mkdir", "mnt", "source")
    user.run("sh", "-c", "echo text > source/file; chmod 640 source/file; ln -s file source/link; mkdir source/empty")
    user.run(PROGRAM, "mount", "store", "mnt", "--driver", driver, "--commit-after", "0.3", "--refresh", "0.2")
    user.run("mkdir", "-p", "mnt/c/a")
    copy(user, "source", "mnt/c/a/staging")
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


@pytest.mark.skipif(os.geteuid() != 0, reason="it takes two users")
def test_mounts_of_other_users(user: User, driver: str) -> None:
    """The status tells whose they are, and so does an unmount that is refused."""

    def told(done: subprocess.CompletedProcess[str], name: str) -> str:
        assert done.returncode == 0, done
        (found,) = [each for each in json.loads(done.stdout)["mounts"] if each["mountpoint"] == f"{user.home}/{name}"]
        assert (found["state"], found["status"]) == ("mounted", None)
        return str(found["problem"])

    def refused(done: subprocess.CompletedProcess[str], said: str) -> None:
        assert done.returncode == 1, done
        assert said in done.stderr
        assert "Traceback" not in done.stderr

    user.run("mkdir", "mnt", "of-root")
    name = user.run("id", "-un").stdout.strip()
    user.run(PROGRAM, "mount", "store", "mnt", "--driver", driver)
    mounted = user.as_root(PROGRAM, "mount", "store-of-root", "of-root", "--driver", driver)
    assert mounted.returncode == 0, mounted
    try:
        assert told(user.as_root(PROGRAM, "status", "--json"), "mnt") == f"its user is {name}, who alone may ask it"
        assert told(user.run(PROGRAM, "status", "--json"), "of-root") == "its user is root, who alone may ask it"
        assert "its user is root" in user.run(PROGRAM, "status", "of-root").stdout
        refused(user.run(PROGRAM, "umount", "of-root", check=False), "umount --now does not ask")
        refused(user.run(PROGRAM, "umount", "--now", "of-root", check=False), "was mounted by root, who alone can")
        refused(user.as_root(PROGRAM, "umount", "mnt"), "umount --now does not ask")
        refused(user.as_root(PROGRAM, "commit", "mnt/c/a"), "Permission denied")
    finally:
        assert user.as_root(PROGRAM, "umount", "of-root").returncode == 0
    user.run(PROGRAM, "umount", "mnt")


def copy(user: User, source: str, staging: str) -> None:
    """Copy a tree into one version however long the machine pauses: a file that is in none is open meanwhile (C9)."""
    user.run("sh", "-c", 'exec 3>"$2/held.swp"; cp -a "$1/." "$2"', "sh", source, staging)


def test_a_staging_closed_by_its_owner(user: User, driver: str) -> None:
    """C14: it costs no other artifact, no status, no unmount without it, and no mount; opened again it is committed."""
    user.run("mkdir", "mnt")
    mount = (PROGRAM, "mount", "store", "mnt", "--driver", driver, "--commit-after", "0.5", "--refresh", "0.2")
    user.run(*mount)
    user.run("mkdir", "-p", "mnt/c/odd/staging/d", "mnt/c/other")
    user.run("sh", "-c", "echo x > mnt/c/odd/staging/f; chmod 000 mnt/c/odd/staging")
    user.run("sh", "-c", "echo x > mnt/c/other/staging/f")
    eventually(lambda: user.run("test", "-d", "mnt/c/other/v0", check=False).returncode == 0, what="v0")
    reason = f"c/odd: Permission denied: {user.home}/mnt/c/odd/staging"
    assert f"fault: {reason}" in user.run(PROGRAM, "status", "mnt").stdout
    impatient = "from mount.commands import umount; umount.WRITERS_S = 0.5; from mount.cli import main; main()"
    refused = user.run(sys.executable, "-c", impatient, "umount", "mnt", check=False)
    assert refused.returncode == 1
    assert reason in refused.stderr
    left = user.run(PROGRAM, "umount", "--now", "mnt", check=False)
    assert left.returncode == LEFT
    assert f"  c/odd: cannot be looked at: Permission denied: {user.home}/mnt/c/odd/staging\n" in left.stderr
    user.run(*mount)
    eventually(lambda: reason in user.run(PROGRAM, "status", "mnt").stdout, what=reason)
    user.run("chmod", "755", "mnt/c/odd/staging")
    eventually(lambda: user.run("test", "-d", "mnt/c/odd/v0", check=False).returncode == 0, what="v0")
    user.run(PROGRAM, "umount", "mnt")


def check_closed_directories(user: User) -> None:
    """C7, C9: directories that their owner may not write to are committed, rid of junk, and removed afterwards."""
    user.run("mkdir", "closed")
    user.run("sh", "-c", "mkdir closed/d && echo x | tee closed/d/f closed/d/junk.swp && chmod 555 closed/d closed")
    user.run("mkdir", "-p", "mnt/c/closed")
    copy(user, "closed", "mnt/c/closed/staging")
    eventually(lambda: user.run("test", "-d", "mnt/c/closed/v0", check=False).returncode == 0, what="v0")
    assert (
        user.run("stat", "-c", "%a %Y", "mnt/c/closed/v0/d").stdout
        == user.run("stat", "-c", "%a %Y", "closed/d").stdout
    )
    assert user.run("ls", "-A", "mnt/c/closed/v0/d").stdout == "f\n"
    eventually(lambda: user.run("ls", "mnt/c/closed").stdout.split() == ["latest", "staging", "v0"])
    left = user.run("sh", "-c", "ls -A store/staging/*/artifacts/c/closed").stdout.split()
    assert set(left) <= {"staging"}
