"""One of several processes that commit to one artifact: ``race_worker.py STORE DIRECTORY NUMBER COMMITS``."""

from __future__ import annotations

import sys
from pathlib import Path

from artifactfs import connect


def main() -> None:
    store, directory, number, commits = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    tree = directory / f"tree-{number}"
    tree.mkdir()
    manager = connect(store)
    print("ready", flush=True)
    sys.stdin.readline()
    for i in range(commits):
        (tree / "who").write_text(f"{number} {i}")
        (tree / "shared").write_text("the same in all")
        manager.commit_tree("model", tree, commit_id=f"{number}-{i}", message=f"{number} {i}")


if __name__ == "__main__":
    main()
