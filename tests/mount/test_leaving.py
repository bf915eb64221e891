"""The end of a mount: it commits first, and says what it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from mount import client, mounts
from mount.cli import cli
from mount.commands.umount import LEFT
from tests.mount.conftest import MakeMount
from tests.mount.harness import EVENTUALLY_S, Mount, artifactfs, eventually
from tests.mount.stuck import block, broken_store, failing, hangs, impatient, is_retrying, running, stage, stop
from tests.servers.fixtures import MakeProxy, StartServer

pytestmark = pytest.mark.fuse

LISTED = "not committed, waiting for the next mount:\n"

# -- umount ------------------------------------------------------------------------------------------------------------


def test_umount_commits_what_is_staged(make_mount: MakeMount):
    mount = make_mount("--commit-after", "1000")
    stage(mount, "models/bert")
    stage(mount, "models/gpt")
    done = mount.umount()
    assert done.stdout == f"unmounted {mount.path}\n"
    assert "waiting for the next mount" not in done.stderr
    mount.mount("--read-only")
    assert (mount / "models/bert/v0").is_dir()
    assert (mount / "models/gpt/v0").is_dir()


def test_umount_waits_for_the_store(make_mount: MakeMount):
    mount = make_mount("--commit-after", "1000")
    stage(mount)
    with broken_store(mount) as repair, running("umount", mount.path, "--state-dir", mount.state_dir) as process:
        eventually(lambda: is_retrying(mount))
        assert process.poll() is None
        repair()
        out, said = process.communicate(timeout=EVENTUALLY_S)
    assert process.returncode == 0, said
    assert out == f"unmounted {mount.path}\n"
    assert "committing 1 file in 1 commit" in said
    assert said.count("models/bert pending.1: retrying: ") == 1


def test_umount_now_leaves_what_is_pending_for_the_next_mount(make_mount: MakeMount):
    mount = make_mount("--commit-after", "1000")
    stage(mount, files=2)
    with broken_store(mount):
        artifactfs("commit", mount / "models/bert", "--no-wait")
        done = mount.umount("--now")
    assert done.returncode == LEFT
    assert done.stderr.startswith(f"{LISTED}  models/bert pending.1: 2 files, 2.0 KiB: ")
    mount.mount()
    mount.committed("models/bert", "v0")


def test_what_nobody_asked_to_commit_is_left(mount: Mount):
    """C23: staging that is committed on request only is told, whichever way the mount ends."""
    stage(mount, files=2)
    done = mount.umount(check=False)
    assert (done.returncode, done.stdout) == (LEFT, f"unmounted {mount.path}\n")
    line = "models/bert staging: 2 files, 2.0 KiB: it is committed on request only"
    assert done.stderr == f"{LISTED}  {line}\n"
    mount.mount()
    assert mount.umount("--now").stderr == done.stderr
    mount.mount()
    assert mount.commit("models/bert")["version"] == "v0"
    done = mount.umount("--now")
    assert (done.returncode, done.stderr) == (0, "")


def test_interrupted_umount_leaves_the_mount(make_mount: MakeMount):
    mount = make_mount("--commit-after", "1000")
    stage(mount)
    with broken_store(mount), running("umount", mount.path, "--state-dir", mount.state_dir) as process:
        eventually(lambda: is_retrying(mount))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=EVENTUALLY_S)
        assert process.returncode == 130
        assert f"interrupted: {mount.path} is still mounted" in said
        assert mount.status().pid == mount.daemon.pid
    mount.committed("models/bert", "v0")


def test_umount_does_not_wait_for_what_is_blocked(make_mount: MakeMount):
    """C23: nor for what waits behind it, whatever the time; both are told, and the rest is committed."""
    mount = make_mount("--commit-after", "1000", "--drain-timeout", "100000")
    block(mount)
    artifactfs("commit", mount / "models/bert", check=False)
    for name in ("file0", "file1"):
        (mount / "models/bert/staging" / name).write_bytes(b"x" * 1024)
    artifactfs("commit", mount / "models/bert", "--no-wait")
    stage(mount, "models/gpt")
    done = mount.umount(check=False)
    assert (done.returncode, done.stdout) == (LEFT, f"unmounted {mount.path}\n")
    (line,) = done.stderr.split(LISTED)[1].splitlines()
    assert line.startswith("  models/bert pending.1 to pending.2: 2 files, 2.0 KiB: blocked: ")
    assert "link" in line
    assert not mount.is_mounted()
    mount.mount()
    assert (mount / "models/gpt/v0").is_dir()
    assert sorted(os.listdir(mount / "models/bert/pending.2")) == ["file0", "file1"]


def test_umount_of_a_busy_mount_names_who_uses_it(mount: Mount):
    mount.make("models/bert")
    with subprocess.Popen(["sleep", "1000"], cwd=mount / "models") as process:
        said = failing("umount", mount.path, "--state-dir", mount.state_dir)
        assert f"{mount.path} is in use by sleep ({process.pid})" in said
        mount.status()
        process.kill()


def test_umount_commits_what_it_can_while_it_waits_for_a_writer(make_mount: MakeMount):
    mount = make_mount("--commit-after", "1000")
    stage(mount, "models/gpt")
    with (
        open(mount.make("models/bert") / "f", "wb") as file,
        running("umount", mount.path, "--state-dir", mount.state_dir) as process,
    ):
        file.write(b"part")
        mount.committed("models/gpt", "v0")
        assert process.poll() is None
        file.close()
        assert process.wait(EVENTUALLY_S) == 0
    mount.mount("--read-only")
    assert (mount / "models/bert/v0/f").read_bytes() == b"part"


def test_umount_gives_up_on_a_writer(make_mount: MakeMount):
    mount = make_mount("--commit-after", "1000")
    with open(mount.make("models/bert") / "f", "wb") as file:
        file.write(b"part")
        done = impatient("umount.WRITERS_S = 0.0", "umount", mount.path, "--state-dir", mount.state_dir)
        assert "still mounted: 1 file in staging open for writing" in done.stderr
        mount.status()


def test_umount_is_not_in_its_own_way(mount: Mount):
    artifactfs("umount", ".", "--state-dir", mount.state_dir, cwd=mount.path)
    assert not mount.is_mounted()


def test_umount_finds_the_daemon_without_its_record(mount: Mount, tmp_path: Path):
    daemon = mount.daemon
    artifactfs("umount", mount.path, "--state-dir", tmp_path / "elsewhere")
    assert not daemon.is_alive()


def test_umount_now_ends_a_daemon_that_hangs(mount: Mount):
    at_once = "umount.ANSWER_S = umount.DAEMON_END_S = 0.3"
    (mount.make("models/bert") / "f").write_text("precious")
    daemon = mount.daemon
    stop(daemon)
    eventually(lambda: client.liveness(mount.path, 0.2) is client.Liveness.HANGS)
    # The kernel remembers for a second what a directory is: a command must not look at it later either.
    eventually(lambda: hangs(["stat", str(mount.path)]))
    command = ["umount", mount.path, "--state-dir", mount.state_dir]
    assert "umount --now does not ask" in impatient(at_once, *command).stderr
    assert daemon.is_alive()
    done = impatient(at_once, *command, "--now")
    assert done.returncode == LEFT
    assert "its daemon did not answer" in done.stdout
    assert "models/bert staging: 1 file, 8 B: its daemon did not answer" in done.stderr
    assert not daemon.is_alive()
    assert not mount.is_mounted()
    mount.mount()
    assert (mount / "models/bert/staging/f").read_text() == "precious"


# -- what is left ------------------------------------------------------------------------------------------------------


def test_what_is_not_committed_in_time_is_left(
    start_server: StartServer, make_proxy: MakeProxy, prepare_mount: MakeMount
):
    """C23: a drain that ends too early tells the files, and why their commit failed so far."""
    moto = start_server("moto")
    proxy = make_proxy(moto)
    mount = prepare_mount(moto.fresh())
    mount.expect_warning("cannot commit|does not answer")
    mount.mount("--commit-after", "1000", *moto.arguments(proxy.port))
    stage(mount, files=3)
    proxy.cut_network()
    done = mount.umount("--drain-timeout", "2", check=False)
    assert (done.returncode, done.stdout) == (LEFT, f"unmounted {mount.path}\n")
    (line,) = done.stderr.split(LISTED)[1].splitlines()
    assert line.startswith("  models/bert pending.1: 3 files, 2.9 KiB: ")
    assert "left for the next mount: models/bert pending.1, 3 files, 3000 bytes: " in mount.log()
    proxy.restore()
    mount.mount()
    mount.committed("models/bert", "v0")
    assert mount.umount().returncode == 0


def test_what_is_held_is_left(make_mount: MakeMount):
    """C23: with the reason for which it is held."""
    mount = make_mount("--commit-after", "1000")
    mount.expect_warning("is held")
    stage(mount)
    place = mount.status().staging_dir
    assert place is not None
    mount.kill9()
    Path(place, "boot").write_text("another boot")
    mount.mount()
    done = mount.umount(check=False)
    assert done.returncode == LEFT
    why = "held: the machine went down before all of it was on disk"
    assert done.stderr == f"{LISTED}  models/bert staging: 1 file, 1000 B: {why}\n"
    assert f"left for the next mount: models/bert staging, 1 files, 1000 bytes: {why}" in mount.log()


def test_what_was_filled_and_not_changed_is_nothing(mount: Mount):
    """C23: it is in a version already."""
    stage(mount)
    mount.commit("models/bert")
    artifactfs("stage", mount / "models/bert@v0")
    assert mount.umount().stderr == ""


def test_nothing_is_left_of_a_read_only_mount(make_mount: MakeMount):
    """C23: also when its daemon was killed."""
    mount = make_mount("--commit-after", "1000")
    stage(mount)
    mount.umount()
    mount.mount("--read-only")
    assert mount.umount("--now").returncode == 0
    mount.mount("--read-only")
    mount.kill9()
    assert mount.umount().returncode == 0


@pytest.mark.parametrize("cleared", [False, True], ids=["dead mountpoint", "cleared by hand"])
def test_a_daemon_that_was_killed_tells_nothing_but_its_disk_does(mount: Mount, cleared: bool):
    """C23: what is left is looked up where it lies."""
    mount.make("models/bert")
    for files, status in ((0, 0), (2, LEFT)):
        for number in range(files):
            (mount / f"models/bert/staging/file{number}").write_bytes(b"x" * 1000)
        mount.kill9()
        if cleared:
            mounts.unmount(mount.path, lazy=True)
        done = mount.umount(check=False)
        assert done.returncode == status, done
        assert ("models/bert staging: 2 files, 2.0 KiB: its daemon was gone" in done.stderr) == bool(files)
        mount.mount()


def test_what_comes_at_the_last_moment_is_left(make_mount: MakeMount, monkeypatch: pytest.MonkeyPatch):
    """C23: between the last question and the unmount too."""
    mount = make_mount("--commit-after", "1000")
    staging = mount.make("models/bert")
    leave = client.request_leave

    def write_and_leave(mountpoint: Path) -> None:
        (staging / "late").write_text("late")
        leave(mountpoint)

    monkeypatch.setattr(client, "request_leave", write_and_leave)
    monkeypatch.setattr(os, "chdir", lambda _: None)
    done = CliRunner().invoke(cli, ["umount", str(mount.path), "--state-dir", str(mount.state_dir)])
    assert done.exit_code == LEFT
    assert "models/bert staging: 1 file, 4 B: not committed within 60 s" in done.output


def test_a_disk_in_another_container(make_mount: MakeMount, monkeypatch: pytest.MonkeyPatch):
    """C23: where the staging area cannot be seen, what the mount told last counts."""
    mount = make_mount("--commit-after", "never")
    stage(mount, files=2)
    ask = client.read_status
    monkeypatch.setattr(
        client, "read_status", lambda *given: msgspec.structs.replace(ask(*given), staging_dir="/nothing/here")
    )
    monkeypatch.setattr(os, "chdir", lambda _: None)
    done = CliRunner().invoke(cli, ["umount", str(mount.path), "--state-dir", str(mount.state_dir)])
    assert done.exit_code == LEFT
    assert "models/bert staging: 2 files, 2.0 KiB: it is committed on request only" in done.output


@pytest.mark.parametrize("way", ["SIGTERM", "fusermount"])
def test_the_log_tells_what_an_end_without_umount_leaves(make_mount: MakeMount, way: str):
    """C23: a daemon that nobody asks tells its log what it leaves, and why."""
    mount = make_mount("--commit-after", "1000", "--drain-timeout", "1")
    block(mount)
    artifactfs("commit", mount / "models/bert", check=False)
    subprocess.run(["cp", "/etc/passwd", mount.make("models/gpt") / "f"], check=True, start_new_session=True)
    stage(mount, "models/own")
    daemon = mount.daemon
    if way == "SIGTERM":
        daemon.send(signal.SIGTERM)
    else:
        subprocess.run(["fusermount3", "-u", mount.path], check=True)
    assert daemon.wait_gone(EVENTUALLY_S)
    lines = [line for line in mount.log().splitlines() if "left for the next mount: " in line]
    assert len(lines) == 2, lines
    assert "models/bert pending.1, 0 files, 0 bytes: blocked: " in lines[0]
    assert "models/own staging, 1 files, 1000 bytes: " in lines[1]
    assert f"(pid {os.getpid()})" in lines[1]
    assert lines[1].endswith(" may go on writing there")
    mount.mount("--read-only")
    assert (mount / "models/gpt/v0").is_dir()
