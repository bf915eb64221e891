"""How processes end, told from outside, tried on real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mount.endings import Ending, Watch, Watched, is_thread_of, process_of, read_stat, run_of, session_members
from tests.mount.harness import eventually

SLEEP = ["sleep", "60"]
MakeWatch = Callable[..., Watch]


@pytest.fixture
def make_watch() -> Iterator[MakeWatch]:
    made: list[tuple[Watch, threading.Thread]] = []

    def make(*, asks_pidfd: bool = True) -> Watch:
        watch = Watch(asks_pidfd=asks_pidfd)
        thread = threading.Thread(target=watch.run)
        thread.start()
        made.append((watch, thread))
        return watch

    yield make
    for watch, thread in made:
        watch.close()
        thread.join()


def watched(watch: Watch, pid: int) -> tuple[Watched, list[Ending]]:
    process = watch.of_thread(pid)
    assert process is not None
    endings: list[Ending] = []
    watch.tell(process, lambda _process, ending: endings.append(ending))
    return process, endings


def has_pidfd_exit() -> bool:
    major, minor = map(int, os.uname().release.split(".")[:2])
    return (major, minor) >= (6, 15)


@pytest.mark.parametrize("asks_pidfd", [True, False])
@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("exit 0", "ended with status 0"),
        ("exit 3", "ended with status 3"),
        ("kill -9 $$", "was killed by SIGKILL"),
        ("kill -2 $$; sleep 60", "was killed by SIGINT"),
    ],
)
def test_the_end_of_a_child_is_told_as_it_was(make_watch: MakeWatch, asks_pidfd: bool, script: str, text: str) -> None:
    with subprocess.Popen(["sh", "-c", f"read line; {script}"], stdin=subprocess.PIPE) as child:
        process, endings = watched(make_watch(asks_pidfd=asks_pidfd), child.pid)
        assert child.stdin is not None
        child.stdin.write(b"\n")
        child.stdin.close()
        # While it is a zombie it has not been reaped: /proc tells.
        eventually(lambda: endings, what="the end")
    assert [str(ending) for ending in endings] == [text]
    assert process.ending == endings[0]
    assert endings[0].went_well == (text == "ended with status 0")


def test_the_end_of_a_process_that_was_reaped_at_once_is_told(make_watch: MakeWatch) -> None:
    """Not our child: its parent waits for it, and reaps it before anybody can look."""
    if not has_pidfd_exit():
        pytest.skip("this kernel has no PIDFD_INFO_EXIT")
    parent = subprocess.Popen(
        [sys.executable, "-c", "import subprocess; c = subprocess.Popen(['sh', '-c', 'read l; exit 7'], "
         "stdin=subprocess.PIPE); print(c.pid, flush=True); input(); c.communicate(b'\\n'); print(c.wait()); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent:
        pid = int(parent.stdout.readline())
        # Its status is not read from /proc in this test.
        watch = make_watch()
        process, endings = watched(watch, pid)
        process._may_look = False  # as of another user's process
        parent.stdin.write("\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == "7\n"
        eventually(lambda: endings, what="the end")
        parent.stdin.write("\n")
    assert str(endings[0]) == "ended with status 7"


def test_the_end_is_unknown_where_nothing_tells_it(make_watch: MakeWatch) -> None:
    with subprocess.Popen(SLEEP) as child:
        process, endings = watched(make_watch(asks_pidfd=False), child.pid)
        process._may_look = False  # as of another user's process
        child.kill()
        child.wait()
        eventually(lambda: endings, what="the end")
    assert endings == [Ending(None)]
    assert not endings[0].went_well


def test_a_listener_that_comes_after_the_end_is_told_at_once(make_watch: MakeWatch) -> None:
    with subprocess.Popen(SLEEP) as child:
        watch = make_watch()
        process, endings = watched(watch, child.pid)
        child.kill()
        eventually(lambda: endings, what="the end")
    late: list[Ending] = []
    watch.tell(process, lambda _process, ending: late.append(ending))
    assert late == endings


def test_a_process_is_watched_once_and_a_listener_told_once(make_watch: MakeWatch) -> None:
    watch = make_watch()
    with subprocess.Popen(SLEEP) as child:
        endings: list[Ending] = []

        def listener(_process: Watched, ending: Ending) -> None:
            endings.append(ending)

        processes = {watch.of_thread(child.pid) for _ in range(3)}
        assert len(processes) == 1
        for process in processes:
            assert process is not None
            watch.tell(process, listener)
            watch.tell(process, listener)
        child.kill()
        eventually(lambda: endings, what="the end")
        assert len(endings) == 1
        assert watch.of_thread(child.pid) is None, "a zombie counts as ended"


def test_one_listener_that_fails_keeps_no_other_from_being_told(
    make_watch: MakeWatch, caplog: pytest.LogCaptureFixture
) -> None:
    watch = make_watch()
    with subprocess.Popen(SLEEP) as first, subprocess.Popen(SLEEP) as second:

        def fails(_process: Watched, _ending: Ending) -> None:
            raise OSError("the disk")

        process, _ = watched(watch, first.pid)
        watch.tell(process, fails)
        _, endings = watched(watch, second.pid)
        first.kill()
        first.wait()
        second.kill()
        eventually(lambda: endings, what="the end of the second")
    assert "what that means could not be noted" in caplog.text


def test_a_number_that_belongs_to_another_process_by_now_is_not_mistaken(make_watch: MakeWatch) -> None:
    watch = make_watch()
    with subprocess.Popen(SLEEP) as child:
        stat = read_stat(child.pid)
        assert stat is not None
        assert watch.of(child.pid, stat.start_ticks) is not None
        assert watch.of(child.pid, stat.start_ticks - 1) is None
        child.kill()


def test_a_thread_stands_for_its_process(make_watch: MakeWatch) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "import threading as t; tell = lambda: (print(t.get_native_id(), flush=True), input()); "
         "thread = t.Thread(target=tell); thread.start(); thread.join()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        thread = int(child.stdout.readline())
        assert thread != child.pid
        assert process_of(thread) == child.pid
        assert is_thread_of(child.pid, thread)
        assert not is_thread_of(child.pid, os.getpid())
        watch = make_watch()
        assert watch.of_thread(thread) is watch.of_thread(child.pid) is watch.of_thread(thread)
        child.kill()


@pytest.mark.parametrize("thread", [0, 1 << 30])
def test_what_cannot_be_seen_is_nobody(make_watch: MakeWatch, thread: int) -> None:
    assert make_watch().of_thread(thread) is None


def test_stat_tells_the_job_and_the_session_whatever_the_name(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([str(program), "60"], start_new_session=True) as child:
        stat = read_stat(child.pid)
        assert stat is not None
        assert (stat.name, stat.group, stat.session) == ("a) R 1 (b", child.pid, child.pid)
        assert not stat.has_terminal
        assert not stat.has_ended
        assert [member.pid for member in session_members(child.pid)] == [child.pid]
        child.kill()
        child.wait()
        assert read_stat(child.pid) is None
        assert list(session_members(child.pid)) == []


def test_a_process_goes_on_when_its_first_thread_has_ended() -> None:
    """``/proc`` shows a zombie then."""
    script = (
        "import ctypes, os, threading, time; threading.Thread(target=lambda: (time.sleep(60), os._exit(0))).start(); "
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    with subprocess.Popen([sys.executable, "-c", script], start_new_session=True) as child:
        try:
            eventually(lambda: "(zombie)" in Path(f"/proc/{child.pid}/status").read_text())
            assert [member.pid for member in session_members(child.pid)] == [child.pid]
        finally:
            child.kill()
        eventually(lambda: not list(session_members(child.pid)))


def test_a_fork_goes_on_with_what_its_parent_runs() -> None:
    script = (
        "import os, subprocess, sys; read, write = os.pipe(); pid = os.fork(); "
        "pid or (os.close(write), os.read(read, 1), os._exit(0)); print(pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        fork = read_stat(int(parent.stdout.readline()))
        assert fork is not None
        assert fork.is_fork
        run = run_of(fork)
        assert run is not None
        assert run.pid == parent.pid
        assert not run.is_fork
        parent.communicate("")


def test_this_process_is_no_member_of_its_session() -> None:
    assert os.getpid() not in [member.pid for member in session_members(os.getsid(0))]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts /proc anew")
@pytest.mark.parametrize(("options", "sees"), [("hidepid=0", True), ("hidepid=2", False)])
def test_hidden_processes_are_noticed(options: str, sees: bool) -> None:
    become_nobody = "os.setgroups([]); os.setgid(65534); os.setuid(65534)"
    code = f"import os; from mount.endings import sees_everybody; {become_nobody}; print(sees_everybody())"
    script = f'mount -t proc -o {options} proc /proc && exec "$0" -c "{code}"'
    command = ["unshare", "--mount", "sh", "-c", script, sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(sees)


@pytest.mark.parametrize(
    ("status", "text"),
    [(0, "ended with status 0"), (256, "ended with status 1"), (int(signal.SIGTERM), "was killed by SIGTERM"),
     (9 | 0x80, "was killed by SIGKILL"), (65, "was killed by signal 65"), (None, "ended in an unknown way")],
)  # fmt: skip
def test_endings_are_told_in_words(status: int | None, text: str) -> None:
    assert str(Ending(status)) == text
