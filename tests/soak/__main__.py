"""``python -m tests.soak copiers --minutes 1``: one soak, on a mount of its own."""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
from pathlib import Path

from tests.mount.harness import Mount
from tests.soak import copiers


def main() -> None:
    """Mount, soak, check, unmount."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description="Use a mounted store hard and check it.")
    parser.add_argument("soak", choices=["copiers"], help="copiers: programs that copy while their files are committed")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--copiers", type=int, default=4)
    parser.add_argument("--commit-after", type=float, default=0.5, metavar="SECONDS")
    parser.add_argument("--kill-every", type=float, metavar="SECONDS", help="kill -9 the daemon that often and remount")
    parser.add_argument("--driver", default="auto")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    # Kept when something is wrong: the store, the log and the ledgers tell what.
    directory = Path(tempfile.mkdtemp(prefix="artifactfs-soak-"))
    plan = copiers.Plan(
        seconds=options.minutes * 60,
        copiers=options.copiers,
        seed=options.seed,
        kill_every_s=options.kill_every,
    )
    print(f"seed {plan.seed}, in {directory}", flush=True)
    mount = Mount(directory, driver=options.driver)
    try:
        mount.mount("--commit-after", str(options.commit_after), "--refresh", "0.5")
        print(copiers.soak(mount, plan))
    finally:
        wrong = mount.tear_down()
    if wrong:
        raise SystemExit("\n".join(wrong))
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
