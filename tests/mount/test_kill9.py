"""The daemon dies at any moment: the next mount goes on, nothing closed is lost, nothing is committed twice."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

import artifactfs
from mount import control
from mount.control import CommitState
from tests import trees
from tests.mount.conftest import MakeMount
from tests.mount.harness import EVENTUALLY_S, Mount, eventually
from tests.scenarios import refused

pytestmark = pytest.mark.fuse

MOMENTS = 20
FILES = 40


def write_round(staging: Path, number: int) -> dict[str, bytes]:
    """Files of one round, all closed, some of them large."""
    directory = staging / f"round{number}"
    directory.mkdir()
    files = {f"round{number}/f{each}": f"{number}/{each} ".encode() * 500 for each in range(FILES)}
    files[f"round{number}/large"] = f"{number:07d}\n".encode() * 1_500_000
    for name, data in files.items():
        (staging / name).write_bytes(data)
    return files


def versions_of(mount: Mount, label: str) -> list[artifactfs.VersionInfo]:
    collection, artifact = label.split("/")
    return artifactfs.connect(mount.store).list_versions(artifact, collection)


@pytest.mark.long(20)
def test_twenty_moments(make_mount: MakeMount) -> None:
    """S2, C7, C8: killed while staging, sealing and committing, every sealed tree is one version and whole."""
    mount = make_mount("--commit-after", "never", "--refresh", "0.2")
    label = "kill/nine"
    staging = mount.make(label)
    written: dict[str, bytes] = {}
    for number in range(MOMENTS):
        written |= write_round(staging, number)
        asker = threading.Thread(target=_ask, args=(staging,))
        if number % 5:
            asker.start()
            # Syncing, sealing, storing and removing take some 60 ms; some kills come before and after.
            time.sleep(number * 0.004)
        mount.kill9()
        if number % 5:
            asker.join()
        mount.mount()
    eventually(lambda: not mount.state(label).pending)
    if mount.state(label).staged is not None:
        mount.commit(label)
    infos = versions_of(mount, label)
    assert len({info.commit_id for info in infos}) == len(infos)
    assert [info.version for info in infos] == [f"v{number}" for number in range(len(infos))]
    assert 1 < len(infos) <= MOMENTS
    found: dict[str, bytes] = {}
    for info in infos:
        version = mount / label / info.version
        for path in (path for path in version.rglob("*") if path.is_file()):
            name = str(path.relative_to(version))
            assert name not in found, f"{name} is in two versions"
            found[name] = path.read_bytes()
    assert found == written


def _ask(staging: Path) -> None:
    with contextlib.suppress(OSError):
        os.setxattr(staging, control.COMMIT, b"{}")


def test_staged_files_survive(make_mount: MakeMount, tmp_path: Path) -> None:
    """S2, C8: a staged tree is found by the next mount as it was, the bytes of an open file included."""
    mount = make_mount("--commit-after", "never")
    staging = mount.make("kill/staged")
    source = trees.make_tree(tmp_path / "source")
    subprocess.run(["cp", "-a", f"{source}/.", staging], check=True)
    fd = os.open(staging / "open", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"written, not closed")
    mount.kill9()
    for call in (lambda: os.write(fd, b"into nothing"), lambda: os.listdir(mount.path), lambda: os.close(fd)):
        with refused(errno.ENOTCONN, errno.ECONNABORTED):
            call()
    mount.mount()
    assert (staging / "open").read_bytes() == b"written, not closed"
    (staging / "open").unlink()
    trees.assert_same(source, staging)
    assert mount.commit("kill/staged")["version"] == "v0"
    trees.assert_same(source, mount / "kill/staged/v0")


def test_automatic_commits_go_on(make_mount: MakeMount) -> None:
    """C1, C8: what was staged when the daemon died is committed by the next one after its quiet time."""
    mount = make_mount("--commit-after", "3600")
    (mount.make("kill/auto") / "f").write_text("x")
    mount.kill9()
    mount.mount("--commit-after", "0.3")
    mount.committed("kill/auto", "v0")
    assert (mount / "kill/auto/v0/f").read_text() == "x"
    eventually(lambda: mount.status().artifacts == [])


def test_blocked_trees_are_tried_again(make_mount: MakeMount) -> None:
    """C6, C8: a blocked tree is kept over a kill, tried again by the next mount, and can be discarded there."""
    mount = make_mount("--commit-after", "never", "--refresh", "0.2")
    mount.expect_warning("cannot commit pending.1 of kill/blocked")
    staging = mount.make("kill/blocked")
    (staging / "away").symlink_to("/outside")
    (staging / "f").write_text("first")
    os.setxattr(staging, control.COMMIT, b'{"message": "kept"}')
    eventually(lambda: mount.state("kill/blocked").pending[0].state is CommitState.BLOCKED)
    (staging / "g").write_text("second")
    os.setxattr(staging, control.COMMIT, b"{}")
    mount.kill9()
    mount.mount()
    assert (mount / "kill/blocked/pending.1/f").read_text() == "first"
    first = eventually(
        lambda: next((p for p in mount.state("kill/blocked").pending if p.state is CommitState.BLOCKED), None)
    )
    assert (first.name, first.attempts) == ("pending.1", 2)
    os.setxattr(mount / "kill/blocked/pending.1", control.DISCARD, b"1")
    mount.committed("kill/blocked", "v0")
    assert os.listdir(mount / "kill/blocked/v0") == ["g"]


def test_a_record_without_its_acknowledgement(make_mount: MakeMount) -> None:
    """C7: a tree whose version exists already, because the daemon died between the two, makes no second one."""
    mount = make_mount("--commit-after", "never", "--refresh", "0.2")
    staging = mount.make("kill/late")
    (staging / "away").symlink_to("/outside")
    (staging / "f").write_text("x")
    mount.expect_warning("cannot commit pending.1 of kill/late")
    os.setxattr(staging, control.COMMIT, b'{"commit_id": "1234567890abcdef1234567890abcdef"}')
    eventually(lambda: mount.state("kill/late").pending[0].state is CommitState.BLOCKED)
    mount.kill9()
    # As if the version had been made: the same commit by hand, without what blocked it.
    tree = next(Path(mount.store).glob("staging/*/artifacts/kill/late/pending.1/tree"))
    (tree / "away").unlink()
    manager = artifactfs.connect(mount.store)
    manager.commit_tree("late", tree, "kill", commit_id="1234567890abcdef1234567890abcdef")
    mount.mount()
    eventually(lambda: mount.status().artifacts == [])
    assert [info.version for info in versions_of(mount, "kill/late")] == ["v0"]
    assert os.listdir(mount / "kill/late/staging") == []
    assert (mount / "kill/late/v0/f").read_text() == "x"


def test_unmounted_now(make_mount: MakeMount) -> None:
    """C8: umount --now leaves what is staged and pending for the next mount."""
    mount = make_mount("--commit-after", "never", "--refresh", "0.2")
    mount.expect_warning("cannot commit pending.1 of now/late")
    (mount.make("now/staged") / "f").write_text("staged")
    staging = mount.make("now/late")
    (staging / "away").symlink_to("/outside")
    os.setxattr(staging, control.COMMIT, b"{}")
    eventually(lambda: mount.state("now/late").pending[0].state is CommitState.BLOCKED)
    mount.umount("--now")
    assert not mount.is_mounted()
    mount.mount()
    assert (mount / "now/staged/staging/f").read_text() == "staged"
    assert os.readlink(mount / "now/late/pending.1/away") == "/outside"
    assert mount.commit("now/staged")["version"] == "v0"
    os.setxattr(mount / "now/late/pending.1", control.DISCARD, b"1")


def test_unmounted_by_others(make_mount: MakeMount) -> None:
    """C8: after fusermount3 -u behind our back the daemon ends by itself, and the next mount finds everything."""
    mount = make_mount("--commit-after", "3600")
    (mount.make("behind/back") / "f").write_text("x")
    daemon = mount.daemon
    subprocess.run(["fusermount3", "-u", mount.path], check=True)
    assert daemon.wait_gone(EVENTUALLY_S)
    assert not mount.is_mounted()
    assert os.listdir(mount.path) == []
    mount.mount("--commit-after", "0.3")
    mount.committed("behind/back", "v0")


def test_another_user_or_state_directory_stages_apart(make_mount: MakeMount, tmp_path: Path) -> None:
    """C8: a mount with another state directory has a staging of its own and sees the same versions."""
    first = make_mount("--commit-after", "never", "--refresh", "0.2")
    (first.make("shared/a") / "f").write_text("mine")
    second = make_mount("--commit-after", "never", "--refresh", "0.2", store=first.store)
    assert not (second / "shared").exists()
    (second.make("shared/a") / "f").write_text("theirs")
    assert second.commit("shared/a")["version"] == "v0"
    assert first.commit("shared/a")["version"] == "v1"
    eventually(lambda: (second / "shared/a/latest/f").read_text() == "mine")
    assert (first / "shared/a/v0/f").read_text() == "theirs"
