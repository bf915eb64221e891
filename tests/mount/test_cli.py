"""The commands as people and scripts use them: what they print, their exit status, and what they leave."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mount import client, mounts
from mount.control import CommitState
from mount.processes import Process
from tests.mount.conftest import MakeMount
from tests.mount.harness import COMMAND_TIMEOUT_S, EVENTUALLY_S, PROGRAM, Mount, artifactfs, eventually

pytestmark = pytest.mark.fuse


def stage(mount: Mount, label: str = "models/bert", files: int = 1, size_bytes: int = 1000) -> Path:
    """A new artifact with some files staged; returns its staging directory."""
    staging = mount.make(label)
    for number in range(files):
        (staging / f"file{number}").write_bytes(os.urandom(size_bytes))
    return staging


def failing(*arguments: str | Path, status: int = 1) -> str:
    """What a command that must fail says, in one line."""
    done = artifactfs(*arguments, check=False)
    assert done.returncode == status, done
    assert done.stderr.splitlines()[-1].startswith("artifactfs: "), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def impatient(changed: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command with other constants, such as ``umount.ANSWER_S = 0.3``, in a process of its own."""
    code = f"from mount.commands import commit, status, umount; {changed}; from mount.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)


@contextlib.contextmanager
def broken_store(mount: Mount) -> Iterator[Callable[[], None]]:
    """Until what it gives is called, or at the latest to its end, the store is not where it was: a passing failure."""
    store, aside = Path(mount.store), Path(f"{mount.store}.aside")

    def repair() -> None:
        if aside.exists():
            aside.rename(store)

    mount.expect_warning("cannot commit|the store does not answer")
    store.rename(aside)
    try:
        yield repair
    finally:
        repair()


@contextlib.contextmanager
def running(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """The command while it runs; killed when the test is through with it."""
    command = [PROGRAM, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def stop(daemon: Process) -> None:
    """Make it hang, until SIGCONT."""
    daemon.send(signal.SIGSTOP)
    stat = Path(f"/proc/{daemon.pid}/stat")
    eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")


def hangs(command: list[str]) -> bool:
    """Whether a command waits; it goes on doing so until the daemon answers or dies."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(0.3)
    except subprocess.TimeoutExpired:
        _waiting.append(process)
        return True
    return False


_waiting: list[subprocess.Popen[bytes]] = []


def is_retrying(mount: Mount) -> bool:
    return any(pending.state is CommitState.RETRYING for pending in mount.state("models/bert").pending)


def block(mount: Mount, label: str = "models/bert") -> None:
    """Stage what no version can keep: a lasting failure."""
    (mount.make(label) / "link").symlink_to("/etc/passwd")
    mount.expect_warning("cannot commit")


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
    assert "models/bert  staging  3 files  2.9 KiB  quiet for" in out
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
        said = mount.umount("--now").stderr
    assert "waiting for the next mount:\n  models/bert: 2 files, 2.0 KiB\n" in said
    mount.mount()
    mount.committed("models/bert", "v0")


def test_umount_says_what_nobody_asked_to_commit(mount: Mount):
    stage(mount, files=2)
    said = mount.umount().stderr
    assert "not committed, waiting for the next mount:\n  models/bert: 2 files, 2.0 KiB\n" in said
    mount.mount()
    assert mount.commit("models/bert")["version"] == "v0"


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
    mount = make_mount("--commit-after", "1000")
    block(mount)
    said = failing("umount", mount.path, "--state-dir", mount.state_dir)
    assert "is still mounted: models/bert pending.1: blocked: " in said
    assert f"artifactfs discard {mount.path}/models/bert/pending.1" in said
    assert "--now" in said
    assert mount.is_mounted()


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
    assert "its daemon did not answer" in impatient(at_once, *command, "--now").stdout
    assert not daemon.is_alive()
    assert not mount.is_mounted()
    mount.mount()
    assert (mount / "models/bert/staging/f").read_text() == "precious"


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
