"""What another user of a mount with --allow-other may ask of it, by attributes that commit, discard and fill."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mount import control
from tests.mount.harness import Mount, artifactfs, eventually
from tests.mount.shared import mounted

pytestmark = [pytest.mark.fuse, pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")]

LABEL = "c/a"
USER = 12345
ACTIONS = (
    *(control.COMMIT, control.DISCARD, control.STAGE, control.RETRY, control.REOPEN, control.DRAIN, control.LEAVE),
    *(control.ALIASES, control.MESSAGE, control.METADATA),
)


@pytest.fixture
def mount(driver: str) -> Iterator[Mount]:
    """Root's mount that others may enter, in a directory that they may enter too."""
    arguments = ("--commit-after", "never", "--allow-other", "--min-free", "0")
    with tempfile.TemporaryDirectory(prefix="artifactfs-others-") as directory:
        os.chmod(directory, 0o755)
        with mounted(Path(directory, "mount"), driver, *arguments) as mount:
            yield mount


def allowed(place: Path, names: tuple[str, ...] = ACTIONS) -> list[str]:
    """The actions that the user is allowed on a file or directory."""
    done = []
    for name in names:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.setgroups([])
                os.setresgid(USER, USER, USER)
                os.setresuid(USER, USER, USER)
                os.setxattr(place, name, b"{}" if name == control.COMMIT else b"1")
                status = 0
            finally:
                os._exit(status)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
            done.append(name)
    return done


def test_who_controls_staging(mount: Mount) -> None:
    """S14: a file of one's own in somebody's staging gives no power over the rest, nor does what may be written."""
    staging = mount.make(LABEL)
    (staging / "first").write_bytes(b"1")
    (staging / "first").chmod(0o666)
    mount.commit(LABEL)
    (staging / "roots").write_bytes(b"precious")
    (staging / "theirs").write_bytes(b"mine")
    os.chown(staging / "theirs", USER, USER)
    (staging / "shared").mkdir()
    (staging / "shared").chmod(0o777)
    places = ["", "staging", "staging/theirs", "staging/shared", "v0", "v0/first"]
    assert {place: allowed(mount / LABEL / place) for place in places} == {place: [] for place in places}
    assert allowed(mount.path) == []
    assert (staging / "roots").read_bytes() == b"precious"
    assert not list((mount / LABEL).glob("pending.*"))


@pytest.mark.parametrize("action", [control.COMMIT, control.DISCARD])
def test_who_may_write_to_staging_controls_it(mount: Mount, action: str) -> None:
    """S14: a staging that all may write to can be committed and discarded by all."""
    staging = mount.make(LABEL)
    (staging / "f").write_bytes(b"f")
    staging.chmod(0o777)
    assert allowed(staging, (action,)) == [action]
    eventually(lambda: os.listdir(staging) == [])
    if action == control.COMMIT:
        mount.committed(LABEL, "v0")


@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_who_may_reopen(mount: Mount, mode: int) -> None:
    """S14, C19: who may write to the top of what was sealed takes it back, and nobody else, whatever lies below."""
    mount.expect_warning(r"cannot commit pending\.1 of")
    staging = mount.make(LABEL)
    (staging / "open").mkdir()
    (staging / "open").chmod(0o777)
    os.mkfifo(staging / "open" / "bad")
    os.chown(staging / "open" / "bad", USER, USER)
    staging.chmod(mode)
    artifactfs("commit", mount / LABEL, check=False)
    sealed = mount / LABEL / "pending.1"
    assert allowed(sealed / "open", (control.REOPEN,)) == allowed(sealed / "open/bad", (control.REOPEN,)) == []
    assert allowed(sealed, (control.REOPEN,)) == ([control.REOPEN] if mode & 0o002 else [])
    assert (staging / "open").is_dir() == bool(mode & 0o002)
    if mode & 0o002:
        eventually(lambda: os.stat(staging).st_mode & 0o777 == mode)
        assert os.lstat(staging / "open/bad").st_uid == USER


def test_sticky(mount: Mount) -> None:
    """S14: where each removes only what is theirs, only the owner controls the whole."""
    staging = mount.make(LABEL)
    (staging / "f").write_bytes(b"f")
    staging.chmod(0o1777)
    assert allowed(staging) == []


def test_an_area_that_another_user_has_made(tmp_path: Path, driver: str) -> None:
    """S15: the mount is refused in one line that names the area; what it leads to is left alone."""
    mount = Mount(tmp_path / "mount", driver=driver)
    code = "from mount.areas import name_of; from pathlib import Path; import sys; print(name_of(Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, mount.state_dir]
    name = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    (private / "key").write_bytes(b"secret")
    (private / "key").chmod(0o600)
    area = Path(mount.store, "staging", name)
    (area / "artifacts/c/a").mkdir(parents=True)
    (area / "artifacts/c/a/staging").symlink_to(private)
    for path in (area, *area.rglob("*")):
        os.chown(path, USER, USER, follow_symlinks=False)
    done = mount.mount("--commit-after", "0", check=False)
    assert done.returncode != 0
    assert str(area) in done.stderr
    assert "Traceback" not in done.stderr
    assert (private / "key").stat().st_mode & 0o777 == 0o600
    mount.expect_warning("staging area")
    assert mount.tear_down() == []


def test_what_a_container_that_is_gone_has_staged(tmp_path: Path, driver: str) -> None:
    """C8: mount and status say what waits, and taking it goes on with it."""
    mount = Mount(tmp_path / "mount", driver=driver)
    mount.expect_warning("--take-staging")
    try:
        mount.within = ["unshare", "--uts", "sh", "-c", 'hostname container-1; exec "$@"', "sh"]
        mount.mount("--commit-after", "never", "--min-free", "0")
        (mount.make(LABEL) / "f").write_bytes(b"staged")
        mount.umount("--now")
        mount.within = []
        told = mount.mount().stderr
        assert "host container-1" in told
        [waiting] = mount.status().waiting
        assert waiting in told
        name = waiting.partition("--take-staging ")[2].split()[0]
        mount.umount()
        mount.mount("--commit-after", "never", "--min-free", "0", "--take-staging", name)
        assert (mount / LABEL / "staging/f").read_bytes() == b"staged"
        assert mount.commit(LABEL)["version"] == "v0"
    finally:
        assert mount.tear_down() == []
