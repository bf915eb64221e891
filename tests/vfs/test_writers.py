"""Judging writers by how they ended, with processes that are only told of."""

from __future__ import annotations

import itertools
import os
import signal

import pytest

from mount.descriptors import CLOSED
from mount.endings import Ending, ProcessStat, Watched
from mount.writers import Writers

WELL = Ending(0)
STATUS_1 = Ending(1 << 8)
INTERRUPTED = Ending(int(signal.SIGINT))
BROKEN_PIPE = Ending(int(signal.SIGPIPE))

_pids = itertools.count(1000)
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def process(
    name: str = "cp",
    *,
    job: Watched | None = None,
    at_terminal: bool = False,
    start_s: int = 1,
    command: bytes = b"cp\0a\0b\0",
    run_start_s: int | None = None,
) -> Watched:
    """A process that leads a job and session of its own, or belongs to those of `job`."""
    pid = next(_pids)
    group, session = (pid, pid) if job is None else (job.group, job.session)
    stat = ProcessStat(pid, name, group, session, at_terminal, False, False, start_s * TICKS_A_SECOND, 0)
    run_ticks = None if run_start_s is None else run_start_s * TICKS_A_SECOND
    return Watched(stat, command, CLOSED, may_look=False, run_ticks=run_ticks)


def test_nobody_is_left_when_all_who_wrote_have_ended_well() -> None:
    writers, first, second = Writers(), process(), process("rsync")
    assert not writers.all_have_ended, "nobody is known to have written"
    assert writers.wrote(first)
    assert not writers.wrote(first)
    writers.wrote(second)
    assert writers.describe() == [str(first), str(second)]
    assert writers.ended(first, WELL, "") is None
    assert not writers.all_have_ended
    assert writers.ended(second, WELL, "") is None
    assert writers.all_have_ended
    assert writers.sessions == {first.session, second.session}


@pytest.mark.parametrize(
    ("ending", "words"), [(STATUS_1, "ended with status 1"), (INTERRUPTED, "was killed by SIGINT")]
)
def test_a_writer_that_fails_is_told_with_what_it_wrote(ending: Ending, words: str) -> None:
    writers, copy = Writers(), process()
    writers.wrote(copy)
    assert writers.ended(copy, ending, "weights.bin") == f"cp (pid {copy.pid}) {words} while writing weights.bin"
    assert not writers.all_have_ended


def test_what_another_wrote_last_is_not_told_of_a_writer() -> None:
    writers, copy, other = Writers(), process(), process("tar")
    writers.wrote(copy)
    writers.wrote(other)
    assert writers.ended(copy, STATUS_1, "of-tar") == f"cp (pid {copy.pid}) ended with status 1"


def test_a_process_that_never_wrote_here_means_nothing() -> None:
    writers = Writers()
    assert writers.ended(process(), INTERRUPTED, "") is None
    assert not writers.all_have_ended


def test_an_unknown_writer_or_end_is_no_failure_and_no_end() -> None:
    writers, copy = Writers(), process()
    writers.wrote_unseen()
    writers.wrote(copy)
    writers.ended(copy, WELL, "")
    assert not writers.all_have_ended
    writers = Writers()
    writers.wrote(copy)
    assert writers.ended(copy, Ending(None), "") is None
    assert not writers.all_have_ended


def test_a_leader_that_fails_counts_although_it_wrote_nothing() -> None:
    """``make``, whose compiler wrote all it wrote, and a batch job whose last command failed."""
    writers, make = Writers(), process("make")
    compiler = process("cc1", job=make)
    writers.wrote(compiler)
    assert writers.leads(make)
    assert not writers.leads(make)
    writers.ended(compiler, WELL, "")
    assert not writers.all_have_ended
    assert writers.ended(make, Ending(2 << 8), "main.o") == f"make (pid {make.pid}) ended with status 2"


def test_a_prompt_may_end_as_it_likes() -> None:
    writers, shell = Writers(), process("bash", at_terminal=True)
    writers.wrote(shell)
    assert writers.ended(shell, STATUS_1, "") is None
    assert writers.all_have_ended


def test_the_answer_of_a_program_is_no_failure() -> None:
    writers, shell = Writers(), process("sh")
    diff = process("diff", job=shell)
    writers.wrote(diff)
    writers.leads(shell)
    assert writers.ended(diff, STATUS_1, "report") is None
    assert writers.ended(shell, STATUS_1, "report") is None, "it passes the answer on"
    assert writers.all_have_ended


@pytest.mark.parametrize(("name", "ending"), [("diff", Ending(2 << 8)), ("grep", INTERRUPTED), ("cp", STATUS_1)])
def test_other_ends_are_failures_whatever_the_program(name: str, ending: Ending) -> None:
    writers, program = Writers(), process(name)
    writers.wrote(program)
    assert writers.ended(program, ending, "") is not None


def test_a_broken_pipe_is_a_failure_only_of_who_wrote() -> None:
    writers, sequence = Writers(), process("seq")
    head = process("head", job=sequence)
    writers.wrote(head)
    writers.leads(sequence)
    writers.ended(head, WELL, "")
    assert writers.ended(sequence, BROKEN_PIPE, "") is None
    tee = process("tee")
    writers.wrote(tee)
    assert writers.ended(tee, BROKEN_PIPE, "") is not None


def test_an_error_that_a_writer_was_told_spoils_its_job_whatever_it_ends_with() -> None:
    writers, copy = Writers(), process()
    writers.wrote(copy)
    full = "No space left on device"
    assert (
        writers.was_told(copy, full, "big")
        == f"cp (pid {copy.pid}) was told 'No space left on device' while writing big"
    )
    writers.held(now_s=5.0)
    writers.ended(copy, WELL, "")
    assert not writers.all_have_ended
    assert not writers.releases(copy)
    assert writers.was_told(None, full, "") == "a program was told 'No space left on device'"


def test_a_later_job_that_ends_well_releases() -> None:
    writers, first, again = Writers(), process(start_s=1), process(start_s=9)
    writers.wrote(first)
    writers.ended(first, INTERRUPTED, "")
    writers.held(now_s=5.0)
    writers.wrote(again)
    writers.ended(again, WELL, "")
    assert writers.releases(again)


def test_a_job_that_ran_already_does_not_release() -> None:
    writers, first, beside = Writers(), process(start_s=1), process(start_s=2)
    writers.wrote(first)
    writers.wrote(beside)
    writers.ended(first, INTERRUPTED, "")
    writers.held(now_s=5.0)
    writers.ended(beside, WELL, "")
    assert not writers.releases(beside)


def test_a_later_job_releases_only_when_all_of_it_has_ended_well() -> None:
    writers, first = Writers(), process(start_s=1)
    writers.wrote(first)
    writers.ended(first, INTERRUPTED, "")
    writers.held(now_s=5.0)
    script = process("bash", start_s=6)
    copy = process("cp", job=script, start_s=7)
    writers.wrote(copy)
    writers.leads(script)
    writers.ended(copy, WELL, "")
    assert not writers.releases(copy), "the script may go on"
    assert writers.ended(script, STATUS_1, "") is not None
    assert writers.have_failed


@pytest.mark.parametrize(
    ("failed", "later", "releases"),
    [
        (b"cp\0a\0", b"cp\0a\0", True),
        (b"cp\0a\0", b"cp\0b\0", False),
        (b"", b"", False),
    ],
    ids=["the same", "another", "unknown"],
)
def test_in_the_job_that_failed_only_the_same_command_releases(failed: bytes, later: bytes, releases: bool) -> None:
    writers, notebook = Writers(), process("python3", command=b"python3\0")
    first = process(job=notebook, command=failed)
    writers.wrote(first)
    writers.leads(notebook)
    writers.ended(first, STATUS_1, "")
    writers.held(now_s=5.0)
    again = process(job=notebook, command=later, start_s=6)
    writers.wrote(again)
    writers.ended(again, WELL, "")
    assert writers.releases(again) == releases


def test_a_fork_of_what_ran_already_does_not_release() -> None:
    """It began later, and what it runs did not."""
    writers, pool = Writers(), process("python3", command=b"python3\0")
    first = process(job=pool, command=pool.command)
    writers.wrote(first)
    writers.leads(pool)
    writers.ended(first, INTERRUPTED, "")
    writers.held(now_s=5.0)
    again = process(job=pool, command=pool.command, start_s=6, run_start_s=1)
    writers.wrote(again)
    assert writers.failed_live_on
    writers.ended(again, WELL, "")
    assert not writers.releases(again)


def test_what_was_spoiled_is_whole_again_after_a_release() -> None:
    writers, first, again = Writers(), process(start_s=1), process(start_s=9)
    writers.wrote(first)
    writers.ended(first, INTERRUPTED, "")
    writers.held(now_s=5.0)
    writers.wrote(again)
    writers.ended(again, WELL, "")
    writers.released()
    assert writers.all_have_ended


def test_a_program_that_commits_itself_is_waited_for_until_it_ends() -> None:
    writers, run, copy = Writers(), process("artifactfs"), process()
    writers.commits_itself(run)
    assert writers.waits_for_commit
    writers.wrote(copy)
    writers.ended(copy, WELL, "")
    assert writers.waits_for_commit
    assert writers.ended(run, STATUS_1, "") == f"artifactfs (pid {run.pid}) ended with status 1"
    assert not writers.waits_for_commit
