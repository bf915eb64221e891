"""Kill a process that commits, or takes a sealed tree back, at every system call in turn; the next finishes it, once.

Run as ``python -m tests.vfs.crash_sweep_drive DIRECTORY STRIDE [reopen]``. A process of its own because it forks:
nothing in the parent starts a thread. Prints how many times it killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import artifactfs
from mount import control
from mount.control import CommitState
from mount.settings import MountSettings
from tests.drives import DirectDrive
from tests.mount.harness import eventually

CALLS = ("open", "write", "fsync", "link", "rename", "replace", "unlink", "rmdir", "chmod", "utime", "mkdir", "close")
LABEL = "c/a"
FILES = {"small": b"small" * 100, "d/other": b"other", "large": b"large!" * 250_000, "empty": b""}


def arm(fatal: int) -> None:
    """Die before the `fatal`-th call from now on, in whichever thread it is made."""
    count = 0

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return wrapped

    for name in CALLS:
        setattr(os, name, wrap(getattr(os, name)))


def open_drive(directory: Path) -> DirectDrive:
    store = str(directory / "store")
    manager = artifactfs.connect(store)
    manager.ensure_created()
    settings = MountSettings(
        store, directory / "mnt", commit_after_s=None, refresh_s=0.0, state_dir=directory / "state", min_free_bytes=0
    )
    return DirectDrive(manager, settings)


def seal_and_commit(directory: Path, fatal: int) -> None:
    with open_drive(directory) as drive:
        drive.mkdir("c")
        drive.mkdir(LABEL)
        drive.mkdir(f"{LABEL}/staging/d")
        for path, data in FILES.items():
            drive.write(f"{LABEL}/staging/{path}", data)
        drive.chmod(f"{LABEL}/staging/small", 0o750)
        drive.symlink("small", f"{LABEL}/staging/link")
        arm(fatal)
        drive.commit(LABEL, "the message")


def reopen_and_commit(directory: Path, fatal: int) -> None:
    """What a store refused goes back into staging and is mended; a tree that was sealed after it waits meanwhile."""
    with open_drive(directory) as drive:
        drive.mkdir("c")
        drive.mkdir(LABEL)
        drive.mkdir(f"{LABEL}/staging/d")
        for path, data in FILES.items():
            drive.write(f"{LABEL}/staging/{path}", data)
        drive.mknod(f"{LABEL}/staging/bad", stat.S_IFIFO | 0o600)
        drive.seal(LABEL, "the message")
        eventually(lambda: drive.state(LABEL).pending[0].state is CommitState.BLOCKED)
        drive.write(f"{LABEL}/staging/later", b"later")
        drive.seal(LABEL)
        assert drive.area is not None
        own = drive.area.root / "artifacts" / LABEL
        # As a store leaves a file that it took in an attempt that failed.
        os.link(own / "pending.1/tree/large", directory / "taken")
        arm(fatal)
        drive.setxattr(f"{LABEL}/pending.1", control.REOPEN, b"1")
        drive.unlink(f"{LABEL}/staging/bad")
        # The commit itself is the other sweep's.
        drive.seal(LABEL)


def finish_reopened(directory: Path) -> None:
    """The next daemon: the tree is in one place, whole, and before the one that was sealed after it."""
    with open_drive(directory) as drive:
        _finish(drive)
        assert drive.versions(LABEL) == ["v0", "v1"]
        assert drive.contents(f"{LABEL}/v0") == FILES
        assert drive.contents(f"{LABEL}/v1") == {"later": b"later"}
        assert [drive.manager.version_info("a", "c", v).message for v in ("v0", "v1")] == ["the message", ""]
        assert (directory / "taken").read_bytes() == FILES["large"]
        assert drive.listdir(f"{LABEL}/staging") == []
        assert drive.area is not None
        own = drive.area.root / "artifacts" / LABEL
        eventually(lambda: os.listdir(own) in ([], ["staging"]), 5)


def _finish(drive: DirectDrive) -> None:
    """Do what whoever was interrupted would do."""
    while state := drive.state(LABEL):
        stuck = [p for p in state.pending if p.state is CommitState.BLOCKED]
        if state.staged is not None:
            with contextlib.suppress(FileNotFoundError):
                drive.unlink(f"{LABEL}/staging/bad")
            drive.commit(LABEL)
        elif stuck:
            drive.setxattr(f"{LABEL}/{stuck[0].name}", control.REOPEN, b"1")
        elif not state.pending:
            return
        time.sleep(0.005)


def finish_and_check(directory: Path) -> None:
    """The next daemon: what is sealed is committed by itself, what is staged on request; it is one version."""
    with open_drive(directory) as drive:
        assert drive.area is not None
        eventually(lambda: not drive.state(LABEL).pending)
        if drive.state(LABEL).staged is not None:
            drive.commit(LABEL, "the message")
        assert drive.versions(LABEL) == ["v0"]
        assert drive.contents(f"{LABEL}/v0") == FILES
        assert drive.readlink(f"{LABEL}/v0/link") == "small"
        assert stat.S_IMODE(drive.lstat(f"{LABEL}/v0/small").mode) == 0o750
        assert drive.manager.version_info("a", "c", "v0").message == "the message"
        assert drive.listdir(f"{LABEL}/staging") == []
        own = drive.area.root / "artifacts/c/a"
        eventually(lambda: os.listdir(own) in ([], ["staging"]))


def in_child(call: Callable[[], None]) -> bool:
    """Whether a child got to the end of `call`; False when it was killed."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            call()
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return False
    assert os.WEXITSTATUS(status) == 0
    return True


def main() -> None:
    base, stride = Path(sys.argv[1]), int(sys.argv[2])
    swept, finish = seal_and_commit, finish_and_check
    if sys.argv[3:] == ["reopen"]:
        swept, finish = reopen_and_commit, finish_reopened
    fatal, killed = 1, 0
    while True:
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir()
        done = in_child(lambda fatal=fatal: swept(base, fatal))
        try:
            in_child(lambda: finish(base))
        except AssertionError:
            print(f"broken by a kill before call {fatal}", file=sys.stderr)
            raise
        if done:
            break
        killed += 1
        fatal += stride
    print(killed)


if __name__ == "__main__":
    main()
