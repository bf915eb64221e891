"""``python -m tests.soak copiers --minutes 1``: one soak, on a mount of its own."""

from __future__ import annotations

import argparse
import contextlib
import logging
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.mount.harness import Mount


def main() -> None:
    """Run the soak that the command line names."""
    options = _parser().parse_args()
    print(f"seed {options.seed}", flush=True)
    options.run(options)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--driver", default="auto")
    common.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser = argparse.ArgumentParser(prog="scripts/soak", description="Use a mounted store hard and check it.")
    soaks = parser.add_subparsers(required=True, metavar="SOAK")

    copiers = soaks.add_parser("copiers", parents=[common], help="programs that copy while their files are committed")
    copiers.add_argument("--minutes", type=float, default=1.0)
    copiers.add_argument("--copiers", type=int, default=4)
    copiers.add_argument("--commit-after", type=float, default=0.5, metavar="SECONDS")
    copiers.add_argument("--kill-every", type=float, metavar="SECONDS", help="kill -9 the daemon that often")
    copiers.set_defaults(run=_copiers)

    crash = soaks.add_parser("crash", parents=[common], help="kill -9 at random moments, and look for every file")
    crash.add_argument("--kills", type=int, default=200)
    crash.set_defaults(run=_crash)

    drive = soaks.add_parser("drive", parents=[common], help="everything at once, for hangs and leaks")
    drive.add_argument("--minutes", type=float, default=30.0)
    drive.add_argument("--mounts", type=int, default=200, help="mounts and unmounts of a second mount in that time")
    drive.set_defaults(run=_drive)

    fsx = soaks.add_parser("fsx", parents=[common], help="random I/O on one file against a copy in memory")
    fsx.add_argument("--operations", type=int, default=50_000)
    fsx.set_defaults(run=_fsx)

    hosts = soaks.add_parser("hosts", parents=[common], help="hosts that commit to one artifact on real S3 servers")
    hosts.add_argument("--hosts", type=int, default=6)
    hosts.add_argument("--versions", type=int, default=50, help="of each host")
    hosts.add_argument("--cut", type=float, default=120.0, metavar="SECONDS", help="how long the network is away")
    hosts.add_argument("--servers", default="moto,ceph", metavar="NAME,…")
    hosts.set_defaults(run=_hosts)

    power = soaks.add_parser("power", parents=[common], help="loss of power of a local store's disk (as root)")
    power.add_argument("--cuts", type=int, default=60, help="on each file system")
    power.add_argument("--seconds", type=float, default=20.0, help="how long programs work before")
    power.add_argument("--file-systems", default="ext4,xfs", metavar="NAME,…")
    power.set_defaults(run=_power)

    machine = soaks.add_parser("state-machine", parents=[common], help="random histories of a whole drive")
    machine.add_argument("--examples", type=int, default=1000)
    machine.add_argument("--steps", type=int, default=80)
    machine.add_argument("--mounted", action="store_true", help="through real mounts, 20 times slower")
    machine.set_defaults(run=_state_machine)

    writers = soaks.add_parser("writers", parents=[common], help="writers of large files; watches the daemon's memory")
    writers.add_argument("--minutes", type=float, default=10.0)
    writers.add_argument("--writers", type=int, default=8)
    writers.add_argument("--gib", type=float, default=12.0, help="how much they write in all")
    writers.set_defaults(run=_writers)
    return parser


@contextlib.contextmanager
def _mounted(driver: str, *arguments: str) -> Iterator[Mount]:
    """A new store. A soak that fails leaves its directory to look at."""
    directory = tempfile.mkdtemp(prefix="artifactfs-soak-")
    _say(f"in {directory}")
    mount = Mount(Path(directory), driver=driver)
    try:
        mount.mount(*arguments)
        yield mount
    finally:
        wrong = mount.tear_down()
    if wrong:
        raise SystemExit("\n".join(wrong))
    shutil.rmtree(directory)


KILLED_IN_BETWEEN = ("--on-failure", "commit")
"""For programs that are killed, or see the drive die, between files of which each is whole by itself."""


def _say(text: object) -> None:
    print(text, flush=True)


def _copiers(options: argparse.Namespace) -> None:
    from tests.soak import copiers

    plan = copiers.Plan(options.minutes * 60, options.copiers, options.seed, options.kill_every)
    with _mounted(
        options.driver, "--commit-after", str(options.commit_after), "--refresh", "0.5", *KILLED_IN_BETWEEN
    ) as mount:
        _say(copiers.soak(mount, plan))


def _crash(options: argparse.Namespace) -> None:
    from tests.soak.crash import CrashLoop

    with _mounted(options.driver, "--commit-after", "0.2", "--refresh", "0.5", *KILLED_IN_BETWEEN) as mount:
        _say(CrashLoop(mount, options.seed).run(options.kills, _say))


def _drive(options: argparse.Namespace) -> None:
    from tests.soak import drive

    plan = drive.Plan(options.minutes * 60, options.mounts, options.seed)
    with _mounted(options.driver, "--commit-after", "never", "--refresh", "0.5") as mount:
        _say(drive.soak(mount, plan, _say))


def _fsx(options: argparse.Namespace) -> None:
    from mount import client
    from tests.fsx import LARGEST_BYTES, Fsx

    with _mounted(options.driver, "--commit-after", "never") as mount:
        staging = mount.make("soak/fsx")
        (staging / "f").write_bytes(random.Random(options.seed).randbytes(LARGEST_BYTES // 2))
        mount.commit("soak/fsx")
        client.stage(staging, "v0")
        runs = {
            "a new file": Fsx(staging / "new", options.seed),
            "a file staged by reference": Fsx(staging / "f", options.seed, mount / "soak/fsx/v0/f"),
        }
        for what, fsx in runs.items():
            fsx.run(options.operations)
            _say(f"{what}: {', '.join(f'{number} {name}' for name, number in fsx.counts.most_common())}")
        mount.commit("soak/fsx")
        for path, fsx in zip(("new", "f"), runs.values(), strict=True):
            assert (mount / "soak/fsx/v1" / path).read_bytes() == fsx.model, path


def _hosts(options: argparse.Namespace) -> None:
    from tests.servers.fixtures import KINDS
    from tests.soak.hosts import Plan, soak
    from tests.soak.network import why_no_hosts

    reason = why_no_hosts()
    _say(f"hosts in network namespaces of their own: {f'no, {reason}' if reason else 'yes'}")
    plan = Plan(options.hosts, options.versions, options.cut, options.driver, namespaces=reason is None)
    for name in options.servers.split(","):
        with tempfile.TemporaryDirectory(prefix="artifactfs-soak-") as place:
            directory = Path(place)
            (directory / name).mkdir()
            with KINDS[name](directory / name) as server:
                soak(server, directory, plan, _say)


def _power(options: argparse.Namespace) -> None:
    from tests.soak.power import Plan, soak
    from tests.soak.power_disk import why_no_disk

    kinds = tuple(options.file_systems.split(","))
    if reason := why_no_disk(*kinds):
        raise SystemExit(f"scripts/soak power: {reason}")
    plan = Plan(kinds, options.cuts, options.seconds, options.driver, options.seed)
    directory = Path(tempfile.mkdtemp(prefix="artifactfs-soak-"))
    _say(f"in {directory}")
    soak(directory, plan, _say)
    shutil.rmtree(directory)


def _state_machine(options: argparse.Namespace) -> None:
    logging.disable(logging.CRITICAL)
    if options.mounted:
        from tests.mount import test_state_machine_mounted

        test_state_machine_mounted.run(options.driver, options.examples, options.steps)
    else:
        from tests.vfs import test_state_machine

        test_state_machine.run(options.examples, options.steps)
    _say(f"{options.examples} histories of {options.steps} steps")


def _writers(options: argparse.Namespace) -> None:
    from tests.soak import writers

    plan = writers.Plan(options.minutes * 60, options.writers, options.seed, int(options.gib * (1 << 30)))
    with _mounted(options.driver, "--commit-after", "never", "--refresh", "0.5") as mount:
        _say(writers.soak(mount, plan, _say))


if __name__ == "__main__":
    main()
