"""Starting the daemon of a mount: in the background, or in the foreground in place of this process.

Called by the mount command after `mount.preflight`. The daemon is a fresh program, never a fork of this process, and
gets its settings on a descriptor, so that credentials show in no process list. Threading: used by one thread.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from typing import NoReturn

from artifactfs.durable import write_all
from artifactfs.errors import ArtifactError
from mount import client, control, logs, mounts, wire
from mount.daemon import Report
from mount.settings import MountSettings

START_TIMEOUT_S = 60.0
# How long a daemon that cannot mount may take to end before it is killed.
_FAILED_END_S = 15.0
# Names of files are UTF-8 to the daemon in any locale, as they are in versions.
_OPTIONS = ("-X", "utf8")


class StartFailed(ArtifactError):
    """The daemon could not be started or could not mount; the message says why."""


def _make_state_dirs(settings: MountSettings) -> None:
    """The directories for the log and the record; only for this user. Raises OSError."""
    # One by one: mkdir gives the mode to the last directory only.
    for directory in (settings.state_dir, settings.state_dir / "logs", settings.state_dir / "mounts"):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)


def in_foreground(settings: MountSettings) -> NoReturn:
    """Become the daemon: this process goes on as it. Raises OSError."""
    _make_state_dirs(settings)
    fd = os.memfd_create("artifactfs-settings", 0)
    write_all(fd, settings.to_json())
    os.lseek(fd, 0, os.SEEK_SET)
    # Away from a directory that could be wanted for unmounting, and that would come first in sys.path.
    os.chdir("/")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *_OPTIONS, "-m", "mount.daemon", "--settings-fd", str(fd)])


def in_background(settings: MountSettings) -> control.Status:
    """Start the daemon and wait until the mount answers; returns its status.

    Raises StartFailed, with nothing left mounted and no process left; OSError.
    """
    _make_state_dirs(settings)
    log_file = logs.log_file(settings.state_dir, settings.mountpoint)
    deadline = time.monotonic() + START_TIMEOUT_S
    read_fd, write_fd = os.pipe()
    try:
        before = mounts.entry_at(settings.mountpoint)
        daemon = _spawn(settings, write_fd)
        os.close(write_fd)
        try:
            _await_report(daemon, read_fd, deadline, log_file)
            status = _await_answer(daemon, settings, deadline, log_file)
        except BaseException:
            _clean_up(daemon, settings, before)
            raise
    finally:
        os.close(read_fd)
    return status


def _spawn(settings: MountSettings, report_fd: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, *_OPTIONS, "-m", "mount.daemon", "--settings-fd", "0", "--report-fd", str(report_fd)]
    log_file = logs.log_file(settings.state_dir, settings.mountpoint)
    # What C libraries have to say, and the traceback of a crash in one, goes to stderr.
    fd = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        daemon = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=fd,
            cwd="/",
            start_new_session=True,
            pass_fds=(report_fd,),
        )
    finally:
        os.close(fd)
    assert daemon.stdin is not None
    with daemon.stdin:
        daemon.stdin.write(settings.to_json())
    return daemon


def _await_report(daemon: subprocess.Popen[bytes], fd: int, deadline: float, log_file: os.PathLike[str]) -> None:
    """Wait until the daemon says that it is ready. Raises StartFailed with what it says instead."""
    raw = b""
    while not raw.endswith(b"\n"):
        readable, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            raise StartFailed(f"the mount was not ready within {START_TIMEOUT_S:g} s; see {log_file}")
        chunk = os.read(fd, 65536)
        if not chunk:
            status = daemon.wait()
            how = f"by signal {-status}" if status < 0 else f"with status {status}"
            raise StartFailed(f"the daemon ended {how} before the mount was ready; see {log_file}")
        raw += chunk
    report = wire.decode(raw, Report)
    if report.error is not None:
        raise StartFailed(report.error)


def _await_answer(
    daemon: subprocess.Popen[bytes], settings: MountSettings, deadline: float, log_file: os.PathLike[str]
) -> control.Status:
    """Ask through the mountpoint, as any program would. Raises StartFailed."""
    try:
        status = client.read_status(settings.mountpoint, max(1.0, deadline - time.monotonic()))
    except client.ClientError as error:
        raise StartFailed(f"{error}; see {log_file}") from error
    if status.pid != daemon.pid:
        raise StartFailed(f"another daemon (process {status.pid}) answers at {settings.mountpoint}; see {log_file}")
    return status


def _clean_up(daemon: subprocess.Popen[bytes], settings: MountSettings, before: mounts.MountEntry | None) -> None:
    """Leave nothing of a failed start behind; `before` is the dead mount that it found at the mountpoint."""
    daemon.terminate()
    try:
        daemon.wait(_FAILED_END_S)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
    entry = mounts.entry_at(settings.mountpoint)
    is_new = entry is not None and entry.is_ours and (before is None or entry.device != before.device)
    if is_new and client.liveness(settings.mountpoint) is client.Liveness.DEAD:
        mounts.unmount(settings.mountpoint, lazy=True)
    record = mounts.read_record(settings.state_dir, settings.mountpoint)
    if record is not None and record.daemon.pid == daemon.pid:
        mounts.remove_record(settings.state_dir, settings.mountpoint)
