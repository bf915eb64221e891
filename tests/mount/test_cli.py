"""The commands as people and scripts use them: what they print, their exit status, and what they leave."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from mount import mounts
from tests.mount.conftest import MakeMount
from tests.mount.harness import EVENTUALLY_S, PROGRAM, Mount, artifactfs, eventually
from tests.mount.stuck import block, broken_store, failing, impatient, is_retrying, running, stage, stop

pytestmark = pytest.mark.fuse


# -- the program -------------------------------------------------------------------------------------------------------


def test_version_is_that_of_the_package():
    from artifactfs import __version__

    assert artifactfs("--version").stdout == f"artifactfs {__version__}\n"


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("mount", "--help")], ids=" ".join)
def test_help_answers_at_once(arguments: tuple[str, ...]):
    def cpu_seconds() -> float:
        """Not by the clock, which others on the machine hold up; it waits for nothing."""
        before = os.times()
        artifactfs(*arguments)
        after = os.times()
        return after.children_user - before.children_user + after.children_system - before.children_system

    assert min(cpu_seconds() for _ in range(5)) < 0.3


@pytest.mark.parametrize(
    "arguments",
    [("nonsense",), ("mount",), ("mount", "a", "b", "--umask", "9"), ("mount", "a", "b", "--commit-after", "soon")],
    ids=" ".join,
)
def test_wrong_usage_is_2(arguments: tuple[str, ...]):
    done = artifactfs(*arguments, check=False)
    assert done.returncode == 2
    assert "Usage: artifactfs" in done.stderr


def test_secret_in_a_bad_option_is_not_repeated():
    done = artifactfs("mount", "a", "b", "--storage-option", "hunter2", check=False)
    assert done.returncode == 2
    assert "hunter2" not in done.stderr


def test_output_into_a_closed_pipe_is_no_traceback(mount: Mount):
    reader = subprocess.run(
        f"{PROGRAM} status --json --state-dir {mount.state_dir} | true", shell=True, capture_output=True, text=True
    )
    assert "Traceback" not in reader.stderr


# -- status ------------------------------------------------------------------------------------------------------------


def status_of(mount: Mount) -> dict:
    shown = json.loads(artifactfs("status", mount.path, "--json", "--state-dir", mount.state_dir).stdout)
    (only,) = shown["mounts"]
    return only


def test_status_lists_mounts_and_what_is_staged(mount: Mount):
    stage(mount, files=3)
    out = artifactfs("status", "--state-dir", mount.state_dir).stdout
    assert f"{mount.path}  {mount.store}" in out
    assert "commits on request only" in out
    who = rf"by \S+ \(pid {os.getpid()}\)[^;\n]*"
    assert re.search(rf"models/bert  staging  3 files  2\.9 KiB  {who}; waits for a request\n", out), out
    assert str(mount.log_file) in out


def test_status_as_json(mount: Mount):
    stage(mount, files=3)
    found = status_of(mount)
    assert found | {"status": None} == {
        "mountpoint": str(mount.path),
        "store": mount.store,
        "state": "mounted",
        "pid": mount.daemon.pid,
        "log_file": str(mount.log_file),
        "problem": None,
        "status": None,
    }
    (artifact,) = found["status"]["artifacts"]
    assert artifact["staged"]["files"] == 3


def test_status_of_a_path_inside_a_mount(mount: Mount):
    stage(mount)
    assert str(mount.path) in artifactfs("status", ".", cwd=mount / "models/bert").stdout


def test_status_shows_failures_with_reason_and_next_try(mount: Mount):
    stage(mount)
    with broken_store(mount):
        artifactfs("commit", mount / "models/bert", "--no-wait")
        eventually(lambda: is_retrying(mount))
        out = artifactfs("status", mount.path).stdout
        assert "models/bert  pending.1  1 file  1000 B  retrying: " in out
        assert "(try " in out
    eventually(lambda: not mount.state("models/bert").pending)


def test_status_of_a_killed_daemon_is_dead(mount: Mount):
    mount.kill9()
    assert status_of(mount)["state"] == "dead"
    out = artifactfs("status", mount.path, "--state-dir", mount.state_dir).stdout
    assert "dead: the daemon of the mount" in out
    assert f"artifactfs mount {mount.store} {mount.path}" in out


def test_killed_daemon_is_shown_after_its_mountpoint_is_cleared_by_hand(mount: Mount):
    mount.kill9()
    mounts.unmount(mount.path, lazy=True)
    assert status_of(mount)["state"] == "dead"
    assert "was not mounted any more" in mount.umount().stdout
    assert "no store is mounted on" in failing("status", mount.path, "--state-dir", mount.state_dir)


def test_hanging_daemon_does_not_hang_status(mount: Mount):
    stop(mount.daemon)
    try:
        done = impatient("status.ANSWER_S = 0.3", "status", "--json", "--state-dir", mount.state_dir)
        found = {each["mountpoint"]: each for each in json.loads(done.stdout)["mounts"]}[str(mount.path)]
        assert found["state"] == "hangs"
        assert "no answer within 0.3 s" in found["problem"]
        assert found["pid"] == mount.daemon.pid
    finally:
        mount.daemon.send(signal.SIGCONT)


@pytest.mark.parametrize("command", ["status", "umount"])
def test_what_is_no_mount(command: str, tmp_path: Path):
    assert "no store is mounted on" in failing(command, tmp_path, "--state-dir", tmp_path / "state")


# -- commit ------------------------------------------------------------------------------------------------------------


def test_commit_prints_the_version(mount: Mount):
    stage(mount, files=3)
    out = artifactfs("commit", mount / "models/bert", "-m", "first", "--alias", "best", "--alias", "prod").stdout
    assert out.startswith("models/bert v0: 3 files, 2.9 KiB sent, 0 B already there, ")
    assert os.readlink(mount / "models/bert/best") == os.readlink(mount / "models/bert/prod") == "v0"
    assert os.getxattr(mount / "models/bert/v0", "user.artifactfs.message") == b"first"


@pytest.mark.parametrize("inside", ["", "staging", "staging/file0", "staging/sub/deep"])
def test_commit_takes_any_path_of_the_artifact(mount: Mount, inside: str):
    (stage(mount) / "sub/deep").mkdir(parents=True)
    assert mount.commit(f"models/bert/{inside}")["version"] == "v0"


def test_commit_of_the_working_directory(mount: Mount):
    staging = stage(mount)
    done = artifactfs("commit", ".", "--json", cwd=staging)
    assert json.loads(done.stdout)["version"] == "v0"


def test_commit_as_json(mount: Mount):
    stage(mount, files=2)
    result = mount.commit("models/bert")
    assert result | {"commit_id": "", "seconds": 0} == {
        "collection": "models",
        "artifact": "bert",
        "commit_id": "",
        "version": "v0",
        "created": True,
        "files": 2,
        "sent_bytes": 2000,
        "deduplicated_bytes": 0,
        "seconds": 0,
        "message_recorded": True,
    }


def test_same_content_is_no_new_version(mount: Mount):
    staging = mount.make("models/bert")
    for expected in ("models/bert v0: 1 file", "models/bert unchanged: same content as v0"):
        (staging / "f").write_text("same")
        os.utime(staging / "f", (1, 1))
        assert artifactfs("commit", staging).stdout.startswith(expected)
    assert not (mount / "models/bert/v1").exists()


def test_nothing_staged(mount: Mount):
    stage(mount)
    mount.commit("models/bert")
    assert "nothing is staged for models/bert; the last commit gave v0" in failing("commit", mount / "models/bert")


def test_commit_without_waiting(mount: Mount):
    stage(mount)
    assert artifactfs("commit", mount / "models/bert", "--no-wait").stdout.startswith("committing models/bert")
    mount.committed("models/bert", "v0")


def test_commit_waits_for_a_writer(mount: Mount):
    staging = mount.make("models/bert")
    file = open(staging / "f", "wb")  # noqa: SIM115
    file.write(b"part")
    timer = threading.Timer(3.0, file.close)
    timer.start()
    try:
        assert mount.commit("models/bert")["version"] == "v0"
    finally:
        timer.join()
    assert (mount / "models/bert/v0/f").read_bytes() == b"part"


def test_commit_gives_up_on_a_writer(mount: Mount):
    with open(mount.make("models/bert") / "f", "wb") as file:
        file.write(b"part")
        done = impatient("commit.WRITERS_S = 0.0", "commit", mount / "models/bert")
    assert done.returncode == 1
    assert "models/bert has 1 file open for writing" in done.stderr


def test_blocked_commit_tells_why(mount: Mount):
    block(mount)
    said = failing("commit", mount / "models/bert")
    assert "not committed: models/bert pending.1: blocked: " in said
    assert "/etc/passwd" in said
    artifactfs("discard", mount / "models/bert/pending.1", "--yes")


def test_commit_of_a_sealed_tree_is_refused(mount: Mount):
    """It would commit what is staged beside it."""
    block(mount)
    artifactfs("commit", mount / "models/bert", check=False)
    assert "pending.1 is sealed for its commit" in failing("commit", mount / "models/bert/pending.1")


def test_commit_waits_while_the_store_is_away(mount: Mount):
    stage(mount)
    with broken_store(mount) as repair, running("commit", mount / "models/bert", "--json") as process:
        eventually(lambda: is_retrying(mount))
        repair()
        out, said = process.communicate(timeout=EVENTUALLY_S)
    assert json.loads(out)["version"] == "v0"
    assert said.count("models/bert pending.1: retrying: ") == 1


def test_interrupted_commit_goes_on(mount: Mount):
    stage(mount)
    with broken_store(mount), running("commit", mount / "models/bert") as process:
        eventually(lambda: is_retrying(mount))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=EVENTUALLY_S)
        assert process.returncode == 130
        assert "the commit of models/bert goes on" in said
    mount.committed("models/bert", "v0")


@pytest.mark.parametrize("alias", ["latest", "v7", "a b", "pending.1"])
def test_alias_that_breaks_the_rules_is_refused_before_anything_happens(mount: Mount, alias: str):
    staging = stage(mount)
    assert "invalid alias" in failing("commit", mount / "models/bert", "--alias", alias)
    assert os.listdir(staging) == ["file0"]


@pytest.mark.parametrize("command", ["commit", "discard"])
def test_paths_that_are_no_artifact(mount: Mount, command: str, tmp_path: Path):
    stage(mount)
    mount.commit("models/bert")
    assert "is not in a mounted store" in failing(command, tmp_path)
    assert "is neither an artifact nor" in failing(command, mount.path)
    assert "is neither an artifact nor" in failing(command, mount / "models")
    assert "is neither an artifact nor" in failing(command, mount / "models/bert/v0/file0")
    assert "there is no artifact models/missing" in failing(command, mount / "models/missing")


def test_message_that_does_not_fit(mount: Mount):
    stage(mount)
    assert "the message is too long" in failing("commit", mount / "models/bert", "-m", "x" * 70_000)


def test_commit_on_a_read_only_mount(mount: Mount, make_mount: MakeMount):
    stage(mount)
    mount.commit("models/bert")
    reader = make_mount("--read-only", store=mount.store)
    assert "read-only" in failing("commit", reader / "models/bert")
    assert "read-only" in failing("discard", reader / "models/bert", "--yes")


@pytest.mark.parametrize("command", ["commit", "discard"])
def test_dead_mount_is_told(mount: Mount, command: str):
    stage(mount)
    mount.kill9()
    assert "is gone" in failing(command, mount / "models/bert")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_commit_through_a_bind_mount(mount: Mount, tmp_path: Path):
    """As a container sees it: only a part of the mount, somewhere else."""
    stage(mount)
    bound = tmp_path / "bound"
    bound.mkdir()
    subprocess.run(["mount", "--bind", mount / "models/bert", bound], check=True)
    try:
        assert json.loads(artifactfs("commit", bound / "staging", "--json").stdout)["version"] == "v0"
    finally:
        subprocess.run(["umount", bound], check=True)


# -- discard -----------------------------------------------------------------------------------------------------------


def test_discard_asks(mount: Mount):
    staging = stage(mount, files=2)
    done = artifactfs("discard", staging, input="n\n", stdin=None, check=False)
    assert done.returncode == 1
    assert "Throw away 2 files, 2.0 KiB, in models/bert/staging?" in done.stdout
    assert len(os.listdir(staging)) == 2
    artifactfs("discard", staging, input="y\n", stdin=None)
    eventually(lambda: os.listdir(staging) == [])


def test_discard_without_a_terminal_keeps_the_files(mount: Mount):
    staging = stage(mount)
    assert "--yes" in failing("discard", staging)
    assert os.listdir(staging) == ["file0"]


def test_discard_with_yes(mount: Mount):
    staging = stage(mount)
    assert "discarded 1 file, 1000 B, in models/bert/staging" in artifactfs("discard", staging, "--yes").stdout
    assert "nothing is staged" in failing("discard", staging, "--yes")


def test_discard_of_a_sealed_tree(mount: Mount):
    block(mount)
    artifactfs("commit", mount / "models/bert", check=False)
    artifactfs("discard", mount / "models/bert/pending.1", "--yes")
    assert mount.state("models/bert").pending == []
    assert "there is no pending.1" in failing("discard", mount / "models/bert/pending.1", "--yes")


def test_discard_refuses_while_a_file_is_written(mount: Mount):
    staging = mount.make("models/bert")
    with open(staging / "f", "wb"):
        assert "open for writing" in failing("discard", staging, "--yes")
    assert os.listdir(staging) == ["f"]


# -- on a terminal -----------------------------------------------------------------------------------------------------


def test_bar_on_a_terminal(make_mount: MakeMount):
    mount = make_mount("--commit-after", "1000")
    stage(mount)
    master, slave = pty.openpty()
    command = [PROGRAM, "umount", str(mount.path), "--state-dir", str(mount.state_dir)]
    environment = dict(os.environ)
    with (
        broken_store(mount) as repair,
        subprocess.Popen(command, stdout=slave, stderr=slave, env=environment) as process,
    ):
        os.close(slave)
        shown = b""
        # A terminal whose last writer is gone reads as an I/O error.
        with contextlib.suppress(OSError):
            while chunk := os.read(master, 65536):
                shown += chunk
                if b"retrying" in shown and b"committing 1 file in 1 commit" in shown:
                    repair()
        assert process.wait(EVENTUALLY_S) == 0
    os.close(master)
    assert b"\x1b[" in shown
    assert b"models/bert pending.1: retrying: " in shown
    assert f"unmounted {mount.path}".encode() in shown
