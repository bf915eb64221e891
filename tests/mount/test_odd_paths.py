"""Stores, mountpoints, state and cache directories with any bytes in their paths."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mount.control import CommitState
from tests.mount.harness import Mount, artifactfs, eventually
from tests.mount.shared import mounted

pytestmark = pytest.mark.fuse


@pytest.fixture(params=[b"not-utf8-\xff\xfe", b"form\x0cfeed", "line\u2028separator".encode(), b"new\nline \\040,"])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A directory with such a name."""
    return tmp_path / os.fsdecode(request.param)


def told(mount: Mount) -> dict[str, object]:
    """What ``status --json`` says of the mount."""
    (found,) = json.loads(artifactfs("status", mount.path, "--json", "--state-dir", mount.state_dir).stdout)["mounts"]
    return found  # type: ignore[no-any-return]


def test_a_whole_life(odd: Path, driver: str) -> None:
    """Mounted, committed to, shown, killed, mounted again and unmounted, each by the path as it is."""
    with mounted(odd, driver, "--commit-after", "never", "--refresh", "0.2") as mount:
        (mount.make("c/a") / "f").write_text("x")
        assert mount.commit("c/a", "-m", "one")["version"] == "v0"
        assert told(mount)["state"] == "mounted"
        assert str(mount.path) in artifactfs("status", "--state-dir", mount.state_dir).stdout
        mount.kill9()
        assert (told(mount)["mountpoint"], told(mount)["state"]) == (str(mount.path), "dead")
        mount.mount()
        assert (mount / "c/a/v0/f").read_text() == "x"


def test_an_odd_name_in_a_failure_leaves_the_status_whole(tmp_path: Path, driver: str) -> None:
    """C6: a commit that is blocked by a link whose name is not UTF-8 is shown, by every command."""
    with mounted(tmp_path, driver, "--commit-after", "never", "--refresh", "0.2") as mount:
        mount.expect_warning(r"cannot commit pending\.1 of c/a")
        staging = os.fsencode(mount.make("c/a"))
        os.symlink(b"/away/\xfd", staging + b"/link\xff")
        done = artifactfs("commit", mount / "c/a", check=False)
        assert (done.returncode, "link" in done.stderr) == (1, True)
        (blocked,) = eventually(lambda: [p for p in mount.state("c/a").pending if p.state is CommitState.BLOCKED])
        assert "link" in str(blocked.error)
        assert "link" in artifactfs("status", mount.path).stdout
        (artifact,) = told(mount)["status"]["artifacts"]  # type: ignore[index]
        assert artifact["pending"][0]["error"] == blocked.error
        artifactfs("discard", "--yes", mount / "c/a/pending.1")


def test_a_version_that_is_not_utf8_is_none(tmp_path: Path, driver: str) -> None:
    """One line, and no trace in the log."""
    with mounted(tmp_path, driver, "--commit-after", "never", "--refresh", "0.2") as mount:
        (mount.make("c/a") / "f").write_text("x")
        mount.commit("c/a")
        done = artifactfs("stage", os.fsencode(mount / "c/a") + b"@\xff", check=False)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "no version or alias" in done.stderr
        for arguments in (["-m", b"\xff"], ["--alias", b"\xff"]):
            done = artifactfs("commit", mount / "c/a", *arguments, check=False)
            assert done.returncode != 0
            assert "Traceback" not in done.stderr
