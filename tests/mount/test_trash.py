"""Deleting by moving to the trash, as Jupyter (by send2trash) and file managers (by gio) do."""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from mount import control
from mount.control import Hold
from tests.mount.harness import COMMAND_TIMEOUT_S, EVENTUALLY_S, Mount, eventually

pytestmark = pytest.mark.fuse

PROGRAMS = {
    "send2trash": [sys.executable, "-c", "import sys, send2trash; send2trash.send2trash(sys.argv[1])"],
    "gio": ["gio", "trash"],
}
ARE_THERE = {
    "send2trash": importlib.util.find_spec("send2trash") is not None,
    "gio": shutil.which("gio") is not None,
}


def trash(program: str, path: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run the program, with a home on another file system."""
    return subprocess.run(
        [*PROGRAMS[program], str(path)],
        env={**os.environ, "HOME": str(home), "XDG_DATA_HOME": str(home / "data")},
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_is_staged_can_be_deleted(mount: Mount, tmp_path: Path, program: str) -> None:
    """S16: it is moved to the drive's trash, is in no version, and may be taken back until the unmount."""
    if not ARE_THERE[program]:
        pytest.skip(f"{program} is not installed")
    staging = mount.make("c/a")
    for name in ("file", "kept", "d/inner"):
        (staging / name).parent.mkdir(exist_ok=True)
        (staging / name).write_text(name)
    for name in ("file", "d"):
        done = trash(program, staging / name, tmp_path)
        assert done.returncode == 0, done.stderr
    assert os.listdir(staging) == ["kept"]
    place = mount / f".Trash-{os.getuid()}"
    assert sorted(os.listdir(place / "files")) == ["d", "file"]
    assert (place / "files/d/inner").read_text() == "d/inner"
    assert sorted(os.listdir(place / "info")) == ["d.trashinfo", "file.trashinfo"]
    assert os.listdir(mount.path) == ["c"]
    os.rename(place / "files/d", staging / "d")
    assert mount.commit("c/a")["version"] == "v0"
    assert sorted(os.listdir(mount / "c/a/v0")) == ["d", "kept"]
    assert (mount / "c/a/v0/d/inner").read_text() == "d/inner"
    eventually(lambda: not mount.status().artifacts)
    mount.remount()
    assert not place.exists()


@pytest.mark.parametrize("program", PROGRAMS)
def test_versions_cannot_be_deleted(mount: Mount, tmp_path: Path, program: str) -> None:
    """V3, S16: whoever tries is told, and nothing is copied."""
    if not ARE_THERE[program]:
        pytest.skip(f"{program} is not installed")
    (mount.make("c/a") / "f").write_text("x")
    mount.commit("c/a")
    for path in ("c/a/v0/f", "c/a/v0", "c/a", "c"):
        done = trash(program, mount / path, tmp_path)
        assert done.returncode != 0
        assert (mount / "c/a/v0/f").read_text() == "x"
    assert os.listdir(mount / f".Trash-{os.getuid()}" / "files") == []
    assert not (tmp_path / "data/Trash/files").exists() or os.listdir(tmp_path / "data/Trash/files") == []


def test_moving_both_ways_at_once(mount: Mount) -> None:
    """S16: two programs that move files to the trash and back never wait for each other."""
    staging = mount.make("c/a")
    place = mount / ".Trash-12345"
    place.mkdir()
    (place / "files").mkdir()
    (staging / "one").write_text("one")
    (place / "files/two").write_text("two")
    loop = "import os, sys\nfor _ in range(200): os.rename(*sys.argv[1:]); os.rename(*sys.argv[:0:-1])"
    movers = [
        subprocess.Popen([sys.executable, "-c", loop, staging / "one", place / "files/one"]),
        subprocess.Popen([sys.executable, "-c", loop, place / "files/two", staging / "two"]),
    ]
    assert [mover.wait(EVENTUALLY_S) for mover in movers] == [0, 0]
    assert ((staging / "one").read_text(), (place / "files/two").read_text()) == ("one", "two")


def test_what_a_disk_did_not_keep_is_not_committed_by_way_of_the_trash(mount: Mount) -> None:
    """S12, S16: it can be deleted, and is held again when it is taken back."""
    mount.expect_warning("is held: the disk failed")
    staging = mount.make("c/a")
    (staging / "f").write_text("lost")
    mount.umount("--now")
    [directory] = Path(mount.store).glob("staging/*/artifacts/c/a")
    (directory / "held").write_bytes(msgspec.json.encode(Hold("the disk failed", 1.0, lost=True)))
    mount.mount("--commit-after", "0.2")
    place = mount / ".Trash-12345"
    (place / "files").mkdir(parents=True)
    subprocess.run(["mv", staging / "f", place / "files/f"], check=True, timeout=COMMAND_TIMEOUT_S)
    eventually(lambda: not mount.status().artifacts)
    subprocess.run(["mv", place / "files/f", staging / "f"], check=True, timeout=COMMAND_TIMEOUT_S)
    late = mount.make("c/late")
    (late / "g").write_text("fine")
    eventually(lambda: (mount / "c/late/v0").exists())
    staged = mount.state("c/a").staged
    assert staged is not None
    assert staged.held == Hold("the disk failed", 1.0, lost=True)
    assert not (mount / "c/a/v0").exists()
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        os.setxattr(staging, control.COMMIT, b"")
