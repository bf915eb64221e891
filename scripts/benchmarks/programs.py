"""Programs that the bench runs and processes that it watches: every one is bounded in time and ended by its own id."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import client

COMMAND_TIMEOUT_S = 300.0
CLIENT_TIMEOUT_S = 120.0
MOUNT_TIMEOUT_S = 30.0
ROOT = Path(__file__).resolve().parent.parent.parent
PEER_PROGRAMS = ROOT / ".venv-bench" / "bin"


class Failed(Exception):
    """A peer cannot do the work, or took too long, or gave something else than was written; the message says which."""


@dataclass(frozen=True)
class Usage:
    """What a daemon has used so far: CPU time in user and kernel mode, and the most memory it ever had."""

    cpu_s: float
    peak_rss_mib: float


def usage(pid: int) -> Usage:
    """Read from /proc, see proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    status = Path(f"/proc/{pid}/status").read_text()
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return Usage(cpu_s, kib / 1024)


def artifactfs(*arguments: str, environment: dict[str, str] | None = None) -> None:
    """Run the command that is installed beside this Python. What an unmount leaves is no failure."""
    program = str(Path(sys.executable).with_name("artifactfs"))
    run(program, *arguments, environment=environment, well=(0, 5) if arguments[0] == "umount" else (0,))


def run(
    *command: str,
    timeout_s: float = COMMAND_TIMEOUT_S,
    environment: dict[str, str] | None = None,
    well: Collection[int] = (0,),
) -> None:
    """Run a program, which ends with one of the statuses `well`. Raises Failed with what it said."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            env={**os.environ, **(environment or {})},
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{Path(command[0]).name} took over {timeout_s:.0f} s") from error
    if done.returncode not in well:
        said = (done.stderr or done.stdout).strip()
        raise Failed(f"{Path(command[0]).name} ended with {done.returncode}: {said[-400:]}")


def run_client(
    *arguments: str, daemon: int | None = None, timeout_s: float = CLIENT_TIMEOUT_S
) -> tuple[float, str | None]:
    """Seconds and digest of one client program (`client`).

    One that takes too long is ended; before it `daemon` is, since a process that waits for a mount cannot be killed.
    Raises Failed.
    """
    command = [sys.executable, "-I", "-S", client.__file__, *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as program:
        try:
            said, errors = program.communicate(timeout=timeout_s)
        except BaseException as error:
            end(daemon)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise Failed(f"over {timeout_s:.0f} s") from error
            raise
    if program.returncode != 0:
        raise Failed(errors.strip().splitlines()[-1] if errors.strip() else f"ended with {program.returncode}")
    answer = json.loads(said)
    return answer["seconds"], answer["digest"]


def end(pid: int | None) -> None:
    """Kill a process that may be gone."""
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def mount_in_foreground(point: Path, *command: str, environment: dict[str, str] | None = None) -> Iterator[int]:
    """A file system whose program stays in the foreground, mounted on `point`; its process id.

    Raises Failed where it does not mount. Unmounted at the end, by force if need be.
    """
    log = point.with_name(f"{point.name}.log")
    try:
        with open(log, "wb") as output:
            daemon = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        try:
            _wait_for_mount(point, daemon, log)
            yield daemon.pid
        finally:
            _unmount(point, daemon)
    finally:
        log.unlink(missing_ok=True)


def _wait_for_mount(point: Path, daemon: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + MOUNT_TIMEOUT_S
    while not is_mounted(point):
        if daemon.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace").strip()
            raise Failed(f"does not mount: {said[-300:]}")
        time.sleep(0.01)


def _unmount(point: Path, daemon: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.SubprocessError):
        subprocess.run(("fusermount3", "-u", str(point)), capture_output=True, timeout=MOUNT_TIMEOUT_S, check=False)
    try:
        daemon.wait(MOUNT_TIMEOUT_S if not is_mounted(point) else 1.0)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
    if is_mounted(point):
        subprocess.run(("fusermount3", "-uz", str(point)), capture_output=True, check=False)


def is_mounted(point: Path) -> bool:
    """Whether the mount table has it; asks no file system."""
    return any(line.split()[4] == str(point) for line in Path("/proc/self/mountinfo").read_text().splitlines())


def settle() -> None:
    """Write out what earlier work left, so that it is not counted."""
    os.sync()


def can_drop_page_cache() -> bool:
    """Root may."""
    return os.access("/proc/sys/vm/drop_caches", os.W_OK)


def drop_page_cache() -> None:
    """Forget every clean page, directory entry and inode."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")
