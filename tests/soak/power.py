"""Cut the power of a local store's disk at random moments, mount what is left, and look for everything acknowledged.

Programs work on a store whose disk notes what is written and flushed (`power_disk`): puts from Python, commits through
a drive whose staging lies on the same disk, forced commits of logs that are being appended to, and changes of versions
staged by reference. Each notes in a ledger what was acknowledged to it, and the disk's time after that.

After the run the disk is put back to random moments of it. What was acknowledged before such a moment must be there:
a file of a commit whole in one version and in no other, a synced line in a version, a sealed tree or staging. No
version may hold anything that was not written, before and after the drive is mounted again and has committed what
it found.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import artifactfs
from mount import client, control
from tests.mount.harness import Mount, eventually
from tests.soak.power_disk import Boot, Cuts, Disk, moments, unmount

COLLECTION = "power"
LINE_BYTES = 64
# Every byte on the disk is read again after every cut: not much more than makes packs and objects.
_SIZES = (0, 10, 5_000, 100_000, 1_500_000)
_BASE_BYTES = 1_500_000


@dataclass(frozen=True)
class Plan:
    """Which file systems, how many cuts of each, how long the programs work."""

    kinds: tuple[str, ...]
    cuts: int
    seconds: float
    driver: str
    seed: int


@dataclass
class Counts:
    """What was looked for and found, over all cuts."""

    cuts: int = 0
    files: int = 0
    lines: int = 0
    versions: int = 0
    places: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        where = ", ".join(f"{number} in {place}" for place, number in sorted(self.places.items()))
        return (
            f"{self.cuts} cuts: {self.files} files of acknowledged commits and {self.lines} logs with synced lines "
            f"looked for ({where}), {self.versions} versions read, nothing lost, torn or doubled"
        )


# -- what is written: its name tells its bytes -------------------------------------------------------------------------


def content(name: str, size_bytes: int) -> bytes:
    """The bytes of a whole file."""
    return b"%d\n" % size_bytes + random.Random(name).randbytes(size_bytes)


def line(number: int) -> bytes:
    """A line of a log."""
    return f"{number} ".ljust(LINE_BYTES - 1, ".").encode() + b"\n"


def check_bytes(where: object, name: str, data: bytes) -> None:
    """Fail unless these are bytes that the file with that name had at some time."""
    if name.startswith(("log", "base")):
        begin = content(name, _BASE_BYTES) if name.startswith("base") else b""
        lines = b"".join(line(number) for number in range(len(data) // LINE_BYTES + 1))
        assert (begin + lines).startswith(data), f"{where} is torn: {_describe(data)}"
        assert len(data) >= len(begin), f"{where} is cut: {_describe(data)}"
        return
    size, _, _ = data.partition(b"\n")
    whole = size.isdigit() and data == content(name, int(size))
    assert whole, f"{where} is torn: {_describe(data)}"


def _describe(data: bytes) -> str:
    zeros = next((i for i, byte in enumerate(data) if byte == 0), len(data))
    return f"{len(data)} bytes, the first zero at {zeros}, sha256 {hashlib.sha256(data).hexdigest()[:12]}"


# -- the programs, in processes of their own ---------------------------------------------------------------------------


class Program:
    """What the programs share: where they work, their ledger, when to stop."""

    def __init__(self, arguments: list[str]) -> None:
        place, ledger, log, stop, seed, number = arguments
        self.place = Path(place)
        self.artifact = f"a{number}"
        self.rng = random.Random(int(seed) * 1000 + int(number))
        self._ledger = open(ledger, "a")  # noqa: SIM115 - lives as long as the process
        self._log = Path(log)
        self._stop = Path(stop)

    def rounds(self) -> Iterator[int]:
        """Numbers until the run is over."""
        return itertools.takewhile(lambda _: not self._stop.exists(), itertools.count())

    def acknowledged(self, **fact: object) -> None:
        """Note a fact, and the disk's time."""
        note = {"artifact": self.artifact, "moment": self._log.stat().st_size, **fact}
        self._ledger.write(json.dumps(note) + "\n")
        self._ledger.flush()

    def write_files(self, directory: Path, number: int) -> list[str]:
        """Make some files with new names."""
        names = [f"r{number}-{count}" for count in range(self.rng.randrange(1, 12))]
        for name in names:
            path = directory / f"d{self.rng.randrange(3)}" / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content(name, self.rng.choice(_SIZES)))
        return names


def put(program: Program) -> None:
    """Log folders with Python."""
    store = artifactfs.connect(str(program.place))
    for number in program.rounds():
        with tempfile.TemporaryDirectory() as directory:
            names = program.write_files(Path(directory), number)
            store.commit_tree(program.artifact, Path(directory), COLLECTION, commit_id=f"{program.artifact}-{number}")
        program.acknowledged(files=names)


def copy(program: Program) -> None:
    """Write into staging and commit. The drive may commit a part by itself before."""
    artifact = program.place / COLLECTION / program.artifact
    for number in program.rounds():
        while True:
            # A directory of staging may be sealed while files are written into it.
            with contextlib.suppress(FileNotFoundError):
                names = program.write_files(artifact / "staging", number)
                break
        _commit(artifact)
        program.acknowledged(files=names)


def append(program: Program) -> None:
    """Append synced lines to logs, and commit by force meanwhile."""
    artifact = program.place / COLLECTION / program.artifact
    for number in program.rounds():
        name = f"log{number}"
        with open(artifact / "staging" / name, "xb", buffering=0) as log:
            for count in range(program.rng.randrange(1, 30)):
                log.write(line(count))
                os.fsync(log.fileno())
                program.acknowledged(log=name, lines=count + 1)
                if program.rng.random() < 0.1:
                    _commit(artifact, "--force")


def change(program: Program) -> None:
    """Stage versions by reference, append to a large file of them, and commit."""
    artifact = program.place / COLLECTION / program.artifact
    base = artifact / "staging/base"
    base.write_bytes(content("base", _BASE_BYTES))
    _commit(artifact)
    program.acknowledged(log="base", lines=0)
    lines = 0
    for _ in program.rounds():
        # The drive may commit what is there by itself before.
        with contextlib.suppress(OSError):
            client.stage(artifact / "staging", "latest")
        for _ in range(program.rng.randrange(1, 4)):
            with open(base, "r+b", buffering=0) as file:
                lines = (file.seek(0, os.SEEK_END) - len(content("base", _BASE_BYTES))) // LINE_BYTES
                file.write(line(lines))
                if synced := program.rng.random() < 0.5:
                    os.fsync(file.fileno())
            if synced:
                program.acknowledged(log="base", lines=lines + 1)
        if program.rng.random() < 0.7:
            _commit(artifact)
            program.acknowledged(log="base", lines=lines + 1)


def _commit(artifact: Path, *options: str) -> None:
    """Commit what is staged, if anything is, and wait until it is a version."""
    program = str(Path(sys.executable).with_name("artifactfs"))
    done = subprocess.run([program, "commit", artifact, *options], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        # The drive was faster: its commit is the one to wait for.
        assert "nothing" in done.stderr, done.stderr
        eventually(lambda: not client.read_state(artifact / "staging").pending, 60)


PROGRAMS: dict[str, Callable[[Program], None]] = {
    "put": put,
    "put too": put,
    "copy": copy,
    "append": append,
    "change": change,
}


# -- the run -----------------------------------------------------------------------------------------------------------


def soak(directory: Path, plan: Plan, say: Callable[[object], None]) -> None:
    """Run the programs on each kind of disk, then cut its power in the past. Fails when anything is wrong."""
    for kind in plan.kinds:
        place = directory / kind
        place.mkdir()
        say(f"{kind}: {_soak(place, kind, plan, say)}")


def _soak(directory: Path, kind: str, plan: Plan, say: Callable[[object], None]) -> Counts:
    rng = random.Random(plan.seed)
    disk = Disk(directory, kind, directory / "disk")
    begin, end = _work(disk, directory, plan)
    disk.close()
    facts = [json.loads(note) for path in directory.glob("ledger*") for note in path.read_text().splitlines()]
    say(f"{kind}: {len(facts)} facts acknowledged while {(end - begin) >> 20} MiB were written")
    counts = Counts()
    cuts = Cuts(disk.start, disk.log, rng)
    boot = Boot(directory / "boot_id")
    try:
        for moment in moments(disk.log, begin, end, plan.cuts, rng):
            image = directory / "cut.img"
            lost = cuts.image_at(moment, image)
            subprocess.run(["mount", "-o", "loop", image, disk.mountpoint], check=True)
            boot.again()
            try:
                _check(disk.mountpoint, plan.driver, [fact for fact in facts if fact["moment"] <= moment], counts)
            except BaseException:
                say(f"{kind}, seed {plan.seed}, power cut at {moment} ({lost})")
                raise
            unmount(disk.mountpoint)
            counts.cuts += 1
            if counts.cuts % 10 == 0:
                say(f"{kind}: {counts}")
    finally:
        cuts.close()
        boot.close()
    return counts


def _drive(disk: Path, driver: str) -> Mount:
    """The drive: store and state on the disk."""
    return Mount(disk, driver=driver)


def _work(disk: Disk, directory: Path, plan: Plan) -> tuple[int, int]:
    """Let the programs work; the disk's times between which they did."""
    drive = _drive(disk.mountpoint, plan.driver)
    stop = directory / "stop"
    programs = []
    try:
        drive.mount("--commit-after", "0.4", "--min-free", "0")
        begin = disk.now()
        for number, name in enumerate(PROGRAMS):
            place = drive.store if PROGRAMS[name] is put else drive.path
            if place is drive.path:
                drive.make(f"{COLLECTION}/a{number}")
            programs.append(_start(name, [place, directory / f"ledger{number}", disk.log, stop, plan.seed, number]))
        deadline = time.monotonic() + plan.seconds
        while time.monotonic() < deadline and all(program.poll() is None for program in programs):
            time.sleep(0.1)
    finally:
        stop.touch()
        errors = [program.communicate(timeout=120)[1] for program in programs]
        end = disk.now()
        wrong = drive.tear_down()
    wrong += filter(None, errors)
    assert not wrong, "\n".join(wrong)
    return begin, end


def _start(name: str, arguments: list[object]) -> subprocess.Popen[str]:
    code = "import sys; from tests.soak import power; power.PROGRAMS[sys.argv[1]](power.Program(sys.argv[2:]))"
    command = [sys.executable, "-c", code, name, *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


# -- after a cut -------------------------------------------------------------------------------------------------------


def _check(disk: Path, driver: str, facts: list[dict[str, object]], counts: Counts) -> None:
    """Look for the facts on what is left of the disk, and for anything that nobody wrote."""
    store = disk / "store"
    _check_versions(store)
    drive = _drive(disk, driver)
    try:
        drive.mount("--commit-after", "0.1", "--min-free", "0")
        drive.expect_warning("is held: the machine went down")
        eventually(lambda: not _under_way(drive.status()), 60, "what was staged and sealed to be committed")
        _check_lines(drive, _longest(facts), counts)
        drive.umount("--now")
    finally:
        wrong = drive.tear_down()
    assert not wrong, "\n".join(wrong)
    where = _check_versions(store)
    counts.versions += len({(artifact, version) for (artifact, _), found in where.items() for version in found})
    for fact in facts:
        for name in fact.get("files", ()):
            found = where[fact["artifact"], name]
            assert found, f"{name} of {fact['artifact']}, committed at {fact['moment']}, is lost"
            counts.files += 1
    for (artifact, name), versions in where.items():
        if name.startswith("r"):
            assert len(versions) == 1, f"{name} of {artifact} is in {versions}"
    manager = artifactfs.connect(str(store))
    report = manager.verify()
    assert not report.damage, report.damage


def _under_way(status: control.Status) -> bool:
    return any(artifact.pending or _is_waiting(artifact.staged) for artifact in status.artifacts)


def _is_waiting(staged: control.Staged | None) -> bool:
    """Whether it will be committed by itself."""
    return staged is not None and not staged.untouched and staged.held is None


def _check_versions(store: Path) -> dict[tuple[str, str], list[str]]:
    """Read every file of every version; where the files with each name are."""
    where: dict[tuple[str, str], list[str]] = {}
    manager = artifactfs.connect(str(store))
    for artifact in manager.list_artifacts(COLLECTION) if COLLECTION in manager.list_collection_names() else ():
        for info in manager.list_versions(artifact, COLLECTION):
            for entry in manager.manifest(artifact, COLLECTION, info.version):
                if entry.digest is not None:
                    name = entry.path.rpartition("/")[2]
                    check_bytes(f"{artifact} {info.version} {name}", name, manager.read_entry(info, entry))
                    where.setdefault((artifact, name), []).append(info.version)
    return where


def _longest(facts: list[dict[str, object]]) -> dict[tuple[str, str], int]:
    """How many lines of each log were synced."""
    longest: dict[tuple[str, str], int] = {}
    for fact in facts:
        if "log" in fact:
            key = str(fact["artifact"]), str(fact["log"])
            longest[key] = max(longest.get(key, 0), int(str(fact["lines"])))
    return longest


def _check_lines(drive: Mount, longest: dict[tuple[str, str], int], counts: Counts) -> None:
    for (artifact, name), lines in longest.items():
        begin = len(content(name, _BASE_BYTES)) if name.startswith("base") else 0
        found = {}
        for place in os.listdir(drive / COLLECTION / artifact):
            with contextlib.suppress(FileNotFoundError):
                data = (drive / COLLECTION / artifact / place / name).read_bytes()
                if place != "staging":
                    check_bytes(f"{artifact}/{place}/{name}", name, data)
                found[place] = (len(data) - begin) // LINE_BYTES
        assert found, f"{name} of {artifact}, {lines} lines synced, is lost"
        place = max(found, key=lambda place: found[place])
        assert found[place] >= lines, f"{name} of {artifact} has lost lines: {lines} were synced, {found}"
        counts.lines += 1
        counts.places[place.rstrip("0123456789.").replace("v", "a version").replace("latest", "a version")] += 1
