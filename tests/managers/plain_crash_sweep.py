"""Kill a process that commits to a plain store at every system call in turn; check the store and the retry each time.

Run as ``plain_crash_sweep.py (copy|consume) DIRECTORY``; prints how often it killed. A process of its own because it
forks: nothing here starts a thread.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from artifactfs import durable
from artifactfs.errors import NotFound
from artifactfs.managers.plain import PlainArtifactManager
from artifactfs.objects import disk

CALLS = ("open", "write", "fsync", "link", "rename", "unlink", "chmod", "utime", "mkdir", "copy_file_range", "symlink")
FILES = {"a": b"alpha", "sub/b": b"beta", "sub/large": b"large" * 300_000}


def arm(fatal: int) -> None:
    """Die before the `fatal`-th call, which is after the one before it."""
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
    disk._call = wrap(disk._call)  # renameat2
    syncfs = durable._syncfs()
    assert syncfs is not None
    wrapped = wrap(syncfs)
    durable._syncfs = lambda: wrapped


def files_in(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and not p.is_symlink()}


def make(tree: Path) -> None:
    for path, data in FILES.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(data)
    (tree / "link").symlink_to("sub/b")


def commit(store: Path, tree: Path, consume: bool) -> Any:
    manager = PlainArtifactManager(str(store))
    return manager.commit_tree("model", tree, commit_id="the-commit", consume=consume, aliases=["best"])


def finishes(store: Path, tree: Path, consume: bool, fatal: int) -> bool:
    """Commit in a child that is killed; whether it got to the end first."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            arm(fatal)
            commit(store, tree, consume)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the commit failed by itself"
    return not os.WIFSIGNALED(status)


def check(store: Path, tree: Path, consume: bool) -> None:
    manager = PlainArtifactManager(str(store))
    try:
        made = manager.list_version_names("model")
    except NotFound:
        made = []
    assert made in ([], ["v0"]), made
    directories = os.listdir(store / "default" / "model") if (store / "default" / "model").exists() else []
    assert directories == made, f"squirrel would count {directories}"
    if made:
        assert files_in(store / "default" / "model" / "v0" / "files") == FILES
    assert files_in(tree) == FILES
    result = commit(store, tree, consume)
    assert (result.info.version, result.created) == ("v0", True)
    manager = PlainArtifactManager(str(store))
    assert manager.list_version_names("model") == ["v0"]
    assert manager.aliases("model") == {"best": "v0"}
    shutil.rmtree(tree)
    info = manager.version_info("model")
    read = {e.path: manager.read_entry(info, e) for e in manager.manifest("model") if e.path in FILES}
    assert read == FILES
    assert os.readlink(store / "default" / "model" / "v0" / "files" / "link") == "sub/b"


def main() -> None:
    how, directory = sys.argv[1:]
    base = Path(directory)
    fatal = 1
    while True:
        shutil.rmtree(base, ignore_errors=True)
        make(base / "tree")
        finished = finishes(base / "store", base / "tree", how == "consume", fatal)
        try:
            check(base / "store", base / "tree", how == "consume")
        except BaseException:
            print(f"broken at {fatal}", file=sys.stderr)
            raise
        if finished:
            break
        fatal += 1
    print(fatal - 1)


if __name__ == "__main__":
    main()
