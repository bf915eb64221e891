"""A version is complete when its writer is: real programs that end well, fail, are killed, pause, or run side by side.

Each program has a session of its own, as a batch job has, unless the test says otherwise.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mount import client
from mount.control import COMMIT_AFTER, RUN
from mount.endings import session_members
from tests.mount.conftest import MakeMount
from tests.mount.harness import PROGRAM, Mount, artifactfs, eventually, run, same_tree

pytestmark = pytest.mark.fuse

LABEL = "models/bert"
# A version that is due at once is there within two seconds of the end; a busy machine gets more.
AT_ONCE_S = 60.0
NEVER_QUIET = ("--commit-after", "1000", "--refresh", "0.2")


@pytest.fixture
def drive(make_mount: MakeMount) -> Mount:
    """A mount on which only the ends of the writers decide: nothing is quiet for long enough."""
    return make_mount(*NEVER_QUIET)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two thousand small files."""
    top = tmp_path / "tree"
    for number in range(2000):
        path = top / f"d{number // 100}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number * 100)
    return top


def batch(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    """Run a program in a session of its own; with `check` it must succeed."""
    return subprocess.run(
        list(map(str, command)), start_new_session=True, capture_output=True, check=check, timeout=120
    )


def files_in(directory: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(directory))


def held(mount: Mount, label: str = LABEL) -> str:
    """Why what is staged is held, once it is."""

    def why() -> str | None:
        staged = mount.state(label).staged
        return None if staged is None or staged.held is None else staged.held.why

    found = str(eventually(why, what="a hold"))
    # A process that begins in the same tick of the kernel's clock counts as one that ran already.
    began = time.monotonic()
    eventually(lambda: time.monotonic() > began + 0.03)
    return found


def nothing_committed(mount: Mount, label: str = LABEL) -> bool:
    names = os.listdir(mount / label)
    return not any(re.fullmatch(r"v\d+|latest|pending.*", name) for name in names)


@contextlib.contextmanager
def prompt() -> Iterator[Callable[[bytes], int]]:
    """An interactive shell with a terminal of its own; what is typed into it has to end it."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        ["setsid", "-c", "bash", "--norc", "-i"], stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    ) as shell:
        os.close(slave)
        yield lambda text: os.write(master, text)
        shell.wait()
    os.close(master)


def interrupted_halfway(command: list[str], staging: Path, number: signal.Signals, files: int = 100) -> None:
    """Start a program, stop it when it has written some files, and send its whole job a signal."""
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL) as process:
        eventually(lambda: files_in(staging) >= files)
        os.killpg(process.pid, signal.SIGSTOP)
        os.killpg(process.pid, number)
        os.killpg(process.pid, signal.SIGCONT)
        process.wait()
    assert process.returncode != 0, "it had ended already"


# -- C1: at once, when nobody is left ----------------------------------------------------------------------------------


def test_a_copy_is_a_version_as_soon_as_nobody_is_left(drive: Mount, tree: Path) -> None:
    """C1: it is not waited for a quiet time."""
    staging = drive.make(LABEL)
    batch("cp", "-r", tree, staging)
    same_tree(tree, drive.committed(LABEL, "v0", AT_ONCE_S) / "tree")


def test_a_script_that_pauses_gives_one_version(make_mount: MakeMount) -> None:
    """C1: with the time of quiet that is the default."""
    mount = make_mount()
    staging = mount.make(LABEL)
    batch(
        "sh",
        "-c",
        f"cp /etc/passwd {staging}/1; sleep 8; cp /etc/passwd {staging}/2; sleep 8; cp /etc/passwd {staging}/3",
    )
    assert sorted(os.listdir(mount.committed(LABEL, "v0", AT_ONCE_S))) == ["1", "2", "3"]
    assert not (mount / LABEL / "v1").exists()


def test_a_session_is_waited_for_although_its_writers_have_ended(drive: Mount) -> None:
    """C1, C20: The shell neither wrote nor leads: it is in the session of what wrote."""
    staging = drive.make(LABEL)
    command = f"setsid -w sh -c 'set -m; (sleep 2; true) & cp /etc/passwd {staging}/f; exec true'"
    started = time.monotonic()
    batch("sh", "-c", command)
    drive.committed(LABEL, "v0", AT_ONCE_S)
    assert time.monotonic() - started > 2


def test_a_program_beside_it_that_goes_on_is_waited_for(drive: Mount) -> None:
    staging = drive.make(LABEL)
    command = ["sh", "-c", f"cp /etc/passwd {staging}/a; read line; cp /etc/passwd {staging}/b"]
    with subprocess.Popen(command, start_new_session=True, stdin=subprocess.PIPE) as script:
        eventually(lambda: (staging / "a").exists())
        batch("cp", "/etc/passwd", staging / "c")
        assert nothing_committed(drive)
        script.communicate(b"\n")
    assert sorted(os.listdir(drive.committed(LABEL, "v0", AT_ONCE_S))) == ["a", "b", "c"]


def test_an_answer_is_no_failure(drive: Mount, tmp_path: Path) -> None:
    """``diff`` ends with 1 because the files differ, and the shell passes that on."""
    (tmp_path / "a").write_text("1\n")
    (tmp_path / "b").write_text("2\n")
    staging = drive.make(LABEL)
    done = batch("sh", "-c", f"diff {tmp_path}/a {tmp_path}/b > {staging}/report", check=False)
    assert done.returncode == 1
    assert "< 1" in (drive.committed(LABEL, "v0", AT_ONCE_S) / "report").read_text()


def test_a_pipe_that_was_closed_early_is_no_failure(drive: Mount) -> None:
    staging = drive.make(LABEL)
    batch("bash", "-c", f"seq 100000000 | head -n 3 > {staging}/first")
    assert (drive.committed(LABEL, "v0", AT_ONCE_S) / "first").read_text() == "1\n2\n3\n"


def test_what_was_written_in_memory_is_a_version_at_once(drive: Mount) -> None:
    """C20: the kernel writes it back and does not tell whose it was; who opened the file is the writer."""
    staging = drive.make(LABEL)
    script = "import mmap, sys; f = open(sys.argv[1], 'w+b'); f.truncate(1 << 20); m = mmap.mmap(f.fileno(), 1 << 20)"
    batch(sys.executable, "-c", f"{script}; m[:] = b'x' * (1 << 20)", staging / "f")
    assert (drive.committed(LABEL, "v0", AT_ONCE_S) / "f").read_bytes() == b"x" * (1 << 20)


# -- C1: after quiet, when somebody is left ----------------------------------------------------------------------------


def test_copies_typed_at_a_prompt_are_one_version_after_a_quiet_time(make_mount: MakeMount) -> None:
    mount = make_mount("--commit-after", "4", "--refresh", "0.2")
    staging = mount.make(LABEL)
    with prompt() as type_in:
        for name in "abc":
            type_in(f"cp /etc/passwd {staging}/{name}\n".encode())
            eventually(lambda name=name: (staging / name).exists())
            time.sleep(1)
        assert nothing_committed(mount)
        assert sorted(os.listdir(mount.committed(LABEL, "v0"))) == ["a", "b", "c"]
        # What a person typed last may have failed: that is no failure of what was copied.
        type_in(f"cp /etc/passwd {staging}/d\nfalse\n".encode())
        mount.committed(LABEL, "v1")
        type_in(b"false; exit\n")
    assert not (mount / LABEL / "v2").exists()


def test_a_background_job_of_a_prompt_that_fails_is_held(drive: Mount, tree: Path) -> None:
    staging = drive.make(LABEL)
    with prompt() as type_in:
        type_in(f"cp -r {tree} {staging} &\n".encode())
        eventually(lambda: files_in(staging) > 50)
        type_in(b"kill -INT %1 || kill %1\n")
        assert "was killed by SIG" in held(drive)
        type_in(b"exit\n")
        type_in(b"exit\n")
    assert nothing_committed(drive)


def test_a_program_of_the_test_itself_is_waited_for_until_it_is_quiet(make_mount: MakeMount) -> None:
    """A notebook, a service: it writes and lives on."""
    mount = make_mount("--commit-after", "0.5", "--refresh", "0.2")
    (mount.make(LABEL) / "f").write_text("1")
    mount.committed(LABEL, "v0")


def test_one_artifact_may_be_quiet_for_another_time(drive: Mount) -> None:
    staging = drive.make(LABEL)
    assert os.getxattr(staging, COMMIT_AFTER) == b"1000"
    os.setxattr(staging, COMMIT_AFTER, b"0.2")
    assert os.getxattr(staging, COMMIT_AFTER) == b"0.2"
    (staging / "f").write_text("1")
    drive.committed(LABEL, "v0")
    other = drive.make("models/gpt")
    (other / "f").write_text("1")
    drive.remount()
    assert os.getxattr(staging, COMMIT_AFTER) == b"0.2", "it is kept over remounts"
    os.setxattr(staging, COMMIT_AFTER, b"never")
    batch("cp", "/etc/passwd", staging / "g")
    assert os.getxattr(staging, COMMIT_AFTER) == b"never"
    os.setxattr(staging, COMMIT_AFTER, b"")
    assert os.getxattr(staging, COMMIT_AFTER) == b"1000"
    drive.committed(LABEL, "v1", AT_ONCE_S)
    for wrong in (b"soon", b"-1", b"nan"):
        with pytest.raises(OSError, match="Invalid argument"):
            os.setxattr(staging, COMMIT_AFTER, wrong)


# -- C20, C21: held, when a writer failed ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("program", [["cp", "-r"], ["rsync", "-a"]], ids=["cp", "rsync"])
def test_a_copy_that_was_stopped_halfway_is_held_until_it_is_done_again(
    drive: Mount, tree: Path, program: list[str], number: signal.Signals
) -> None:
    """C21: whatever signal ends it."""
    staging = drive.make(LABEL)
    interrupted_halfway([*program, str(tree), str(staging)], staging, number)
    why = held(drive)
    assert re.match(rf"{program[0]} \(pid \d+\) (was killed by {number.name}|ended with status \d+)", why), why
    assert nothing_committed(drive)
    batch(*program, tree, staging)
    same_tree(tree, drive.committed(LABEL, "v0", AT_ONCE_S) / "tree", "--exclude=.f*")


WORKERS = """
import multiprocessing, os, signal, sys

def save(number):
    with open(f"{sys.argv[1]}/{number}", "w") as file:
        file.write("half")
        file.flush()
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        file.write("whole")

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[2])
    for number in range(3):
        worker = multiprocessing.Process(target=save, args=(number,))
        worker.start()
        worker.join()
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_next_worker_does_not_make_up_for_one_that_was_killed(drive: Mount, tmp_path: Path, method: str) -> None:
    """C21: it is of the same program, with the same arguments, in the same job, and does other work."""
    staging = drive.make(LABEL)
    (tmp_path / "workers.py").write_text(WORKERS)
    batch(sys.executable, tmp_path / "workers.py", staging, method)
    assert "was killed by SIGKILL while writing 1" in held(drive)
    batch("sync", "-f", staging / "0")
    assert nothing_committed(drive)


def test_the_same_program_told_otherwise_what_to_do_makes_up_for_nothing(drive: Mount, tmp_path: Path) -> None:
    """C21: here by its input."""
    staging = drive.make(LABEL)
    (tmp_path / "program").write_text(
        "import os, sys; n = sys.stdin.read(); open(os.environ['TO'] + n, 'w').close(); sys.exit(n == '1')"
    )
    program = f"{sys.executable} {tmp_path}/program"
    batch("bash", "-c", f"for i in 1 2; do sleep 0.1; echo -n $i | TO={staging}/ {program}; done; true")
    assert "ended with status 1" in held(drive)
    assert nothing_committed(drive)


@pytest.mark.parametrize("program", [["cp", "-r"], ["rsync", "-a"]], ids=["cp", "rsync"])
def test_a_script_that_tries_again_makes_up_for_a_failure(drive: Mount, tree: Path, program: list[str]) -> None:
    """C21: the same command, anew."""
    staging = drive.make(LABEL)
    script = f"until {' '.join(program)} {tree} {staging}; do sleep 0.1; done; sleep 1"
    with subprocess.Popen(["sh", "-c", script], start_new_session=True, stderr=subprocess.DEVNULL) as batch_job:
        eventually(lambda: files_in(staging) > 100)
        for member in session_members(batch_job.pid):
            if member.pid != batch_job.pid:
                os.kill(member.pid, signal.SIGKILL)
        batch_job.wait()
    same_tree(tree, drive.committed(LABEL, "v0", AT_ONCE_S) / "tree", "--exclude=.f*")


def test_a_failure_that_left_nothing_holds_nothing(drive: Mount) -> None:
    """C21: it could create nothing, or it took away what it had written."""
    staging = drive.make(LABEL)
    batch("sh", "-c", f"echo 1 > {staging}/f; rm {staging}/f; exit 3", check=False)
    began = time.monotonic()
    # Nothing shows when the daemon has learnt of the end; the copy is to begin later.
    eventually(lambda: time.monotonic() > began + 0.5)
    batch("cp", "/etc/passwd", staging / "f")
    drive.committed(LABEL, "v0", AT_ONCE_S)


def test_a_job_that_failed_before_it_wrote_the_rest_is_held(drive: Mount) -> None:
    staging = drive.make(LABEL)
    failing = f"(echo 1 > {staging}/a; kill -9 $BASHPID)"
    batch("bash", "-c", f"{failing}; sleep 0.5; rm {staging}/a; sleep 0.5; echo 1 > {staging}/b; true")
    assert "was killed by SIGKILL" in held(drive)
    assert nothing_committed(drive)


def test_what_holds_is_told_everywhere(drive: Mount) -> None:
    staging = drive.make(LABEL)
    batch("sh", "-c", f"echo half > {staging}/weights.bin; exit 3", check=False)
    why = held(drive)
    assert re.fullmatch(r"sh \(pid \d+\) ended with status 3 while writing weights\.bin", why)
    assert f"held: {why}, {time.strftime('%H:')}" in artifactfs("status", drive.path).stdout
    assert why in drive.log()
    assert os.readlink(drive / LABEL / "staging.held").startswith(why)
    assert f"staging.held -> {why}" in run("ls", "-l", drive / LABEL)
    drive.umount(check=False)
    drive.mount()
    assert held(drive) == why


@pytest.mark.parametrize(
    ("last_words", "told"),
    [
        ("raise ValueError('loss is nan')", r"ended with status 1"),
        (
            "f = open(f'{to}/b', 'wb'); f.write(b'x' * 100_000); f.flush(); os.kill(os.getpid(), 9)",
            r"was killed by SIGKILL",
        ),
    ],
    ids=["exception", "killed"],
)
def test_a_trainer_that_dies_while_it_saves_is_held(drive: Mount, last_words: str, told: str) -> None:
    staging = drive.make(LABEL)
    program = f"import os; to = {str(staging)!r}; open(f'{{to}}/a', 'wb').write(b'1' * 9999)\n{last_words}"
    batch(sys.executable, "-c", program, check=False)
    assert re.search(told, held(drive))
    assert nothing_committed(drive)
    artifactfs("commit", staging, "-m", "it will do")
    assert (drive / LABEL / "v0" / "a").stat().st_size == 9999


def test_a_build_that_fails_is_held(drive: Mount, tmp_path: Path) -> None:
    staging = drive.make(LABEL)
    makefile = tmp_path / "Makefile"
    makefile.write_text(
        f"all:\n\tcp /etc/passwd {staging}/a\n\ttest -e {tmp_path}/mended\n\tcp /etc/passwd {staging}/b\n"
    )
    batch("make", "-f", makefile, check=False)
    assert re.fullmatch(r"make \(pid \d+\) ended with status 2.*", held(drive))
    (tmp_path / "mended").touch()
    batch("make", "-f", makefile)
    assert sorted(os.listdir(drive.committed(LABEL, "v0", AT_ONCE_S))) == ["a", "b"]


def test_of_two_jobs_at_once_the_one_that_fails_decides(drive: Mount) -> None:
    staging = drive.make(LABEL)
    command = ["sh", "-c", f"cp /etc/passwd {staging}/a; read line; cp /etc/passwd {staging}/b"]
    with subprocess.Popen(command, start_new_session=True, stdin=subprocess.PIPE) as good:
        eventually(lambda: (staging / "a").exists())
        batch("sh", "-c", f"echo half > {staging}/c; kill -9 $$", check=False)
        why = held(drive)
        good.communicate(b"\n")
    assert good.returncode == 0
    assert (staging / "b").exists()
    assert held(drive) == why, "a job that ran already makes up for nothing"
    assert nothing_committed(drive)
    batch("cp", "/etc/passwd", staging / "c")
    assert sorted(os.listdir(drive.committed(LABEL, "v0", AT_ONCE_S))) == ["a", "b", "c"]


def test_a_hold_survives_the_death_of_the_daemon(drive: Mount) -> None:
    staging = drive.make(LABEL)
    batch("sh", "-c", f"echo half > {staging}/weights.bin; kill -TERM $$", check=False)
    why = held(drive)
    drive.kill9()
    drive.mount()
    assert held(drive) == why
    assert nothing_committed(drive)
    batch("cp", "/etc/passwd", staging / "weights.bin")
    drive.committed(LABEL, "v0", AT_ONCE_S)


def test_what_was_being_written_when_the_daemon_died_is_held(drive: Mount, tree: Path) -> None:
    staging = drive.make(LABEL)
    with subprocess.Popen(["cp", "-r", tree, staging], start_new_session=True, stderr=subprocess.DEVNULL) as copy:
        eventually(lambda: files_in(staging) > 100)
        drive.kill9()
        copy.wait()
    assert copy.returncode != 0
    drive.mount()
    assert re.fullmatch(r"the drive ended while cp \(pid \d+\) wrote there", held(drive))
    batch("cp", "-r", tree, staging)
    same_tree(tree, drive.committed(LABEL, "v0", AT_ONCE_S) / "tree")


def test_a_writer_that_outlives_the_daemon_is_watched_on(drive: Mount) -> None:
    staging = drive.make(LABEL)
    script = f"cp /etc/passwd {staging}/a; read line; cp /etc/passwd {staging}/b"
    with subprocess.Popen(["sh", "-c", script], start_new_session=True, stdin=subprocess.PIPE) as job:
        note = eventually(lambda: next(Path(drive.store).rglob("writers"), None))
        eventually(lambda: b"ended" in note.read_bytes(), what="the end of cp to be seen")
        drive.kill9()
        drive.mount()
        assert nothing_committed(drive)
        job.communicate(b"\n")
    assert sorted(os.listdir(drive.committed(LABEL, "v0", AT_ONCE_S))) == ["a", "b"]


def test_what_a_program_is_in_the_middle_of_is_left_at_the_end_of_the_drive(drive: Mount) -> None:
    """C12: nobody asked for its end."""
    staging = drive.make(LABEL)
    script = f"cp /etc/passwd {staging}/a; read line; exit 1"
    with subprocess.Popen(["sh", "-c", script], start_new_session=True, stdin=subprocess.PIPE) as job:
        eventually(lambda: (staging / "a").exists())
        drive.expect_warning("is in use by")
        daemon = drive.daemon
        daemon.send(signal.SIGTERM)
        eventually(lambda: not drive.is_mounted())
        job.communicate(b"\n")
        assert daemon.wait_gone(60)
    drive.mount()
    assert re.match(r"sh \(pid \d+\) ended with status 1", held(drive))
    assert nothing_committed(drive)


def test_discard_ends_a_hold(drive: Mount) -> None:
    staging = drive.make(LABEL)
    batch("sh", "-c", f"echo half > {staging}/f; exit 1", check=False)
    held(drive)
    artifactfs("discard", staging, "--yes")
    eventually(lambda: "staging.held" not in os.listdir(drive / LABEL))
    batch("cp", "/etc/passwd", staging / "f")
    drive.committed(LABEL, "v0", AT_ONCE_S)


def test_failures_are_committed_where_that_was_asked_for(make_mount: MakeMount) -> None:
    mount = make_mount("--commit-after", "0.5", "--refresh", "0.2", "--on-failure", "commit")
    staging = mount.make(LABEL)
    batch("sh", "-c", f"echo half > {staging}/f; kill -9 $$", check=False)
    assert (mount.committed(LABEL, "v0") / "f").read_text() == "half\n"


# -- C22: artifactfs run -----------------------------------------------------------------------------------------------


def test_a_run_is_one_version(make_mount: MakeMount) -> None:
    """C22: pauses of the command do not matter."""
    mount = make_mount("--commit-after", "0.3", "--refresh", "0.2")
    staging = mount.make(LABEL)
    script = f"echo 1 > {staging}/a; sleep 1.5; echo 2 > {staging}/b"
    done = artifactfs("run", mount / LABEL, "-m", "both", "--alias", "best", "--", "sh", "-c", script)
    assert done.stdout.strip() == f"{LABEL}@v0"
    assert sorted(os.listdir(mount / LABEL / "best")) == ["a", "b"]
    assert os.getxattr(mount / LABEL / "v0", "user.artifactfs.message") == b"both"
    assert not (mount / LABEL / "v1").exists()


def test_a_run_that_fails_is_held_and_passes_its_status_on(make_mount: MakeMount) -> None:
    mount = make_mount("--commit-after", "0.3", "--refresh", "0.2")
    staging = mount.make(LABEL)
    done = artifactfs("run", staging, "--", "sh", "-c", f"echo 1 > {staging}/a; exit 7", check=False)
    assert done.returncode == 7
    assert f"sh ended with status 7: what is staged for {LABEL} is held; run it again, or decide with " in done.stderr
    assert "status 7" in held(mount)
    assert nothing_committed(mount)
    artifactfs("run", staging, "--", "cp", "/etc/passwd", str(staging / "a"))
    assert os.listdir(mount / LABEL / "v0") == ["a"]


def test_a_run_that_fails_is_committed_where_that_was_asked_for(make_mount: MakeMount) -> None:
    """C21, C22: the command says so, instead of that it is held."""
    mount = make_mount("--commit-after", "0.3", "--refresh", "0.2", "--on-failure", "commit")
    staging = mount.make(LABEL)
    done = artifactfs("run", staging, "--", "sh", "-c", f"echo 1 > {staging}/a; exit 7", check=False)
    assert done.returncode == 7
    assert (
        done.stderr
        == f"sh ended with status 7: what is staged for {LABEL} is committed all the same (--on-failure commit)\n"
    )
    eventually(lambda: (mount / LABEL / "v0/a").exists())


def test_a_signal_reaches_the_command_of_a_run_first(make_mount: MakeMount) -> None:
    mount = make_mount("--commit-after", "0.3", "--refresh", "0.2")
    staging = mount.make(LABEL)
    script = f"trap 'echo cleaned > {staging}/log; exit 9' INT; echo 1 > {staging}/a; while :; do sleep 0.1; done"
    command = [PROGRAM, "run", str(staging), "--", "sh", "-c", script]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE) as run:
        eventually(lambda: (staging / "a").exists())
        os.killpg(run.pid, signal.SIGINT)
        run.communicate(timeout=60)
    assert run.returncode == 9
    assert (staging / "log").read_text() == "cleaned\n"
    assert nothing_committed(mount)
    held(mount)


def test_two_runs_of_one_artifact_do_not_mix(drive: Mount) -> None:
    staging = drive.make(LABEL)
    script = f"echo 1 > {staging}/a; read line; echo 2 > {staging}/b"
    with subprocess.Popen([PROGRAM, "run", str(staging), "--", "sh", "-c", script], stdin=subprocess.PIPE) as first:
        eventually(lambda: (staging / "a").exists())
        done = artifactfs("run", staging, "--", "sh", "-c", f"echo 3 > {staging}/c", check=False)
        assert done.returncode == 1
        assert "another 'artifactfs run' is under way for models/bert" in done.stderr
        first.communicate(b"\n")
    assert first.returncode == 0
    assert sorted(os.listdir(drive / LABEL / "v0")) == ["a", "b"]


def test_an_interrupt_of_the_run_alone_reaches_its_command(drive: Mount) -> None:
    staging = drive.make(LABEL)
    script = f"trap 'exit 9' INT; echo 1 > {staging}/a; while :; do sleep 0.1; done"
    command = [PROGRAM, "run", str(staging), "--", "sh", "-c", script]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE) as run:
        eventually(lambda: (staging / "a").exists())
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=60)
    assert run.returncode == 9
    assert nothing_committed(drive)


def test_a_run_that_is_killed_is_held(make_mount: MakeMount) -> None:
    mount = make_mount("--commit-after", "0.3", "--refresh", "0.2")
    staging = mount.make(LABEL)
    command = [PROGRAM, "run", str(staging), "--", "sh", "-c", f"echo 1 > {staging}/a; sleep 60"]
    with subprocess.Popen(command, start_new_session=True) as run:
        eventually(lambda: (staging / "a").exists())
        os.killpg(run.pid, signal.SIGKILL)
    assert "was killed by SIGKILL" in held(mount)
    assert nothing_committed(mount)


def test_a_run_needs_a_command_that_can_be_found(drive: Mount) -> None:
    staging = drive.make(LABEL)
    done = artifactfs("run", staging, "--", "no-such-program", check=False)
    assert done.returncode == 127
    assert "no-such-program" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.endswith(f"no-such-program ended with status 127: nothing is staged for {LABEL}\n")
    assert artifactfs("run", staging, check=False).returncode == 2
    assert artifactfs("run", "/etc", "--", "true", check=False).returncode not in (0, 2)


def test_a_run_that_writes_nothing_makes_no_version(drive: Mount) -> None:
    staging = drive.make(LABEL)
    done = artifactfs("run", staging, "--", "true")
    assert "nothing" in done.stdout + done.stderr
    assert nothing_committed(drive)


def test_only_who_may_write_the_top_has_a_run(drive: Mount) -> None:
    staging = drive.make(LABEL)
    (staging / "d").mkdir()
    with pytest.raises(PermissionError):
        os.setxattr(staging / "d", RUN, b"1")
    assert client.read_state(staging).staged is not None


@pytest.fixture(autouse=True)
def _no_core_files() -> Iterator[None]:
    """Programs that are killed here leave no dumps."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)
