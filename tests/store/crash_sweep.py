"""Kill a committing process at every system call in turn, and check the store and the retry each time.

Run as ``crash_sweep.py (calls|delays) (copy|consume) DIRECTORY``; exits non-zero where a promise is broken. A process
of its own because it forks: nothing here starts a thread.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from store_helpers import contents, make_tree, snapshot

from artifactfs.errors import ArtifactNotFound, CollectionNotFound, NotFound
from artifactfs.managers.filesystem import FileSystemArtifactManager
from artifactfs.objects.layout import is_temporary

CALLS = ("open", "write", "fsync", "link", "rename", "replace", "unlink", "chmod", "utime", "mkdir", "copy_file_range")
COMMIT_ID = "the-commit"


def arm(fatal: int) -> None:
    """Die at the `fatal`-th call: even numbers before the call is made, odd ones after it."""
    count = 0

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if 2 * count == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return function(*args, **kwargs)
            finally:
                if 2 * count + 1 == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)

        return wrapped

    for name in CALLS:
        setattr(os, name, wrap(getattr(os, name)))


def commit(store: Path, tree: Path, consume: bool) -> None:
    FileSystemArtifactManager(str(store)).commit_tree(
        "model", tree, commit_id=COMMIT_ID, consume=consume, aliases=["best"]
    )


def run(store: Path, tree: Path, consume: bool, fatal: int = 0, delay_s: float | None = None) -> bool:
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
    if delay_s is not None:
        time.sleep(delay_s)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return False
    assert os.WEXITSTATUS(status) == 0, "the commit failed by itself"
    return True


def versions(store: Path) -> list[str]:
    manager = FileSystemArtifactManager(str(store))
    try:
        found = manager.list_version_names("model")
    except (ArtifactNotFound, CollectionNotFound, NotFound):
        return []
    for version in found:
        contents(manager, "model", version)
    return found


def check(base: Path, before: dict[bytes, tuple[object, ...]], consume: bool) -> None:
    """What must hold after a kill at any moment, then after the retry."""
    store, tree = base / "store", base / "tree"
    made = versions(store)
    assert made in ([], ["v0"]), made
    after = snapshot(tree)
    if made and consume:
        assert {k: v[:2] for k, v in after.items()} == {k: v[:2] for k, v in before.items()}
    else:
        assert after == before, "the tree changed although there is no version"
    commit(store, tree, consume)
    manager = FileSystemArtifactManager(str(store))
    assert versions(store) == ["v0"]
    assert manager.aliases("model") == {"best": "v0"}
    if consume:
        objects = [p for p in (store / "objects").rglob("*") if p.is_file() and not is_temporary(p.name)]
        assert not [p for p in objects if p.stat().st_mode & 0o222]
        assert (tree / "sub/deep/tool").stat().st_nlink >= 2  # a temporary link may be left
        shutil.rmtree(tree)
    got = manager.download_artifact("model", to=base / "out")
    assert snapshot(Path(str(got))) == before
    assert stat.S_IMODE((base / "out/model/sub/deep/tool").stat().st_mode) == 0o751


def attempts(kind: str) -> Iterator[dict[str, Any]]:
    number = 2
    while True:
        yield {"fatal": number} if kind == "calls" else {"delay_s": (number - 2) * 0.0002}
        number += 1


def main() -> None:
    kind, how, directory = sys.argv[1:]
    consume = how == "consume"
    base = Path(directory)
    finished = killed = 0
    # A delay may be outrun by chance, so the sweep of delays ends only after several commits got through.
    for attempt in attempts(kind):
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir()
        before = snapshot(make_tree(base / "tree"))
        done = run(base / "store", base / "tree", consume, **attempt)
        finished += done
        killed += not done
        try:
            check(base, before, consume)
        except BaseException:
            print(f"broken at {attempt}", file=sys.stderr)
            raise
        if finished > (0 if kind == "calls" else 5):
            break
    print(killed)


if __name__ == "__main__":
    main()
