"""Kill -9 the daemon at random moments while files are written and committed; after each, look for every closed file.

Writers are processes. A copier notes each file in its ledger when the file is closed, an appender each line of its log
when fsync has returned. After every kill the store is mounted again, and what was noted until then must be in staging,
pending or a version, byte for byte; at the end in exactly one version.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mount import control
from tests.mount.harness import Mount, eventually
from tests.mount.shared import mounted
from tests.soak import copiers

# From a kill in the middle of mounting's first requests to one among several commits.
LONGEST_LIFE_S = 0.8
COPIERS = 3
# A writer that is ahead of the checking waits; else a slow machine would never be done.
BATCHES_PER_KILL = 8
LINE_BYTES = 64
LOG_LINES = 60


@dataclass
class Counts:
    """What the loop has seen."""

    kills: int = 0
    closed_files: int = 0
    synced_lines: int = 0
    versions: int = 0
    found: dict[str, int] = field(default_factory=lambda: {"staging": 0, "pending": 0, "version": 0})
    """Where newly noted files were first looked for after a kill, and found."""

    def __str__(self) -> str:
        places = ", ".join(f"{number} in {place}" for place, number in self.found.items())
        return (
            f"{self.kills} kills: {self.closed_files} closed files and {self.synced_lines} synced lines in "
            f"{self.versions} versions, none lost, torn or doubled; right after a kill {places}"
        )


# -- writers, in processes of their own --------------------------------------------------------------------------------


def copy(artifact: Path, ledger_path: Path, stop: Path, kills: Path, seed: int) -> None:
    """Write files until `stop` exists; as `copiers.copy`, with names that no attempt shares with another."""
    rng = random.Random(seed)
    with open(ledger_path, "a") as ledger:
        for batch in itertools.count():
            for number in range(rng.randrange(1, 12)):
                size_bytes = rng.choice((0, 10, 5000, 100_000, rng.randrange(copiers.LARGEST_BYTES)))
                # Saved in one step: a commit on request may come between two.
                way = rng.choice((copiers._plainly, copiers._in_pieces))
                for attempt in itertools.count():
                    name = f"batch{batch}/{rng.choice(('', 'deep/er/'))}file{number}.{attempt}"
                    data = copiers.content(f"{artifact.name}/{name}", size_bytes)
                    if copiers._write(artifact / "staging", name, data, way, True):
                        copiers._note(ledger, name, hashlib.sha256(data).hexdigest())
                        break
                    copiers._note(ledger, name, None)
            if _is_over(batch, stop, kills):
                return
            time.sleep(rng.random() * 0.5)


def _is_over(batch: int, stop: Path, kills: Path) -> bool:
    """Whether `stop` exists, once this batch is not too far ahead: `kills` has a byte for each that is checked."""
    while not stop.exists():
        if batch < BATCHES_PER_KILL * (1 + kills.stat().st_size):
            return False
        time.sleep(0.02)
    return True


def line(number: int) -> bytes:
    """A line of a log."""
    return f"{number} ".ljust(LINE_BYTES - 1, ".").encode() + b"\n"


def append(artifact: Path, ledger_path: Path, stop: Path, kills: Path, seed: int) -> None:
    """Write logs line by line, each synced and then noted, until `stop` exists."""
    with open(ledger_path, "a") as ledger:
        for number in itertools.count():
            name = f"log{number}"
            with contextlib.suppress(OSError), open(artifact / "staging" / name, "xb", buffering=0) as log:
                for count in range(LOG_LINES):
                    log.write(line(count))
                    os.fsync(log.fileno())
                    ledger.write(json.dumps([name, count + 1]) + "\n")
                    ledger.flush()
                    time.sleep(0.005)
            if _is_over(number, stop, kills):
                return
            time.sleep(0.05)


# -- the loop ----------------------------------------------------------------------------------------------------------


class CrashLoop:
    """See the module docstring. `mount` is mounted before and after."""

    def __init__(self, mount: Mount, seed: int) -> None:
        self._mount = mount
        self._rng = random.Random(seed)
        self._directory = mount.path.parent
        self._stop = self._directory / "stop"
        self._kills = self._directory / "kills"
        self._copied = [f"crash/copied{number}" for number in range(COPIERS)]
        self._logged = "crash/logged"
        self._checked: dict[str, int] = {}
        self._versions: dict[Path, dict[str, Path]] = {}
        self.counts = Counts()

    def _ledger(self, label: str) -> Path:
        return self._directory / f"{label.rpartition('/')[2]}.ledger"

    def run(self, kills: int, report: Callable[[str], None] = lambda _: None) -> Counts:
        """Kill so often, then publish everything and count. Fails when something is lost, torn or doubled."""
        labels = [*self._copied, self._logged]
        for label in labels:
            self._mount.make(label)
            self._ledger(label).touch()
        self._kills.touch()
        writers = [self._start("copy", label, number) for number, label in enumerate(self._copied)]
        writers.append(self._start("append", self._logged, COPIERS))
        ended = threading.Event()
        asker = threading.Thread(target=self._ask_for_commits, args=(labels, ended))
        asker.start()
        try:
            for _ in range(kills):
                time.sleep(self._rng.random() * LONGEST_LIFE_S)
                self._mount.kill9()
                self._mount.mount()
                self.counts.kills += 1
                self._check_all()
                self._kills.write_bytes(bytes(self.counts.kills))
                if self.counts.kills % 20 == 0:
                    report(f"{self.counts.kills} kills, {len(self._versions)} versions seen")
            self._stop.touch()
            for writer in writers:
                _, errors = writer.communicate(timeout=120)
                assert writer.returncode == 0, errors
        finally:
            ended.set()
            asker.join()
            for writer in writers:
                writer.kill()
                writer.communicate()
        self._publish_and_count()
        return self.counts

    def _start(self, what: str, label: str, number: int) -> subprocess.Popen[str]:
        code = "import sys; from pathlib import Path; from tests.soak import crash; "
        code += f"crash.{what}(*map(Path, sys.argv[1:5]), int(sys.argv[5]))"
        arguments = [str(self._mount / label), str(self._ledger(label)), str(self._stop), str(self._kills)]
        arguments.append(str(self._rng.randrange(1 << 30) + number))
        return subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True)

    def _ask_for_commits(self, labels: list[str], ended: threading.Event) -> None:
        rng = random.Random(self._rng.random())
        while not ended.wait(rng.random() * 0.4):
            label = rng.choice(labels)
            # By force only where a part of a file may be a version's.
            request = control.CommitRequest(force=label == self._logged)
            with contextlib.suppress(OSError):
                os.setxattr(self._mount / label / "staging", control.COMMIT, control.encode(request))

    # -- after each kill

    def _check_all(self) -> None:
        for label in self._copied:
            noted = {name: digest for name, digest in self._new_notes(label) if digest is not None}
            for name, wanted in noted.items():
                find = functools.partial(self._has, self._mount / label, name, wanted)
                eventually(find, 5, f"{label}: {name}, closed before kill {self.counts.kills}")
            self.counts.closed_files += len(noted)
        lines = dict(self._new_notes(self._logged))
        for name in lines:
            eventually(lambda name=name: self._has_lines(name, lines[name]), 5, f"{lines[name]} lines in {name}")
        self.counts.synced_lines += len(lines)

    def _new_notes(self, label: str) -> list[tuple[str, object]]:
        """What was noted since the last time; a line that is only half there is for the next time."""
        raw = self._ledger(label).read_bytes()
        end = raw.rfind(b"\n") + 1
        begin = self._checked.get(label, 0)
        self._checked[label] = end
        return [tuple(json.loads(note)) for note in raw[begin:end].splitlines()]

    def _has(self, artifact: Path, name: str, wanted: object) -> bool:
        """Whether the file is somewhere, whole. It may be sealed or published while it is looked at: then not yet."""
        for path in self._places(artifact, name):
            with contextlib.suppress(FileNotFoundError):
                assert hashlib.sha256(path.read_bytes()).hexdigest() == wanted, f"{path} is not what was closed"
                return True
        return False

    def _places(self, artifact: Path, name: str) -> Iterator[Path]:
        """Where it is. Files move from staging to pending to a version: looked at in that order."""
        if (artifact / "staging" / name).exists():
            self.counts.found["staging"] += 1
            yield artifact / "staging" / name
        for place in os.listdir(artifact):
            if place.startswith("pending.") and (artifact / place / name).exists():
                self.counts.found["pending"] += 1
                yield artifact / place / name
        for place in os.listdir(artifact):
            if place[0] == "v" and place[1:].isdigit() and name in self._files_of(artifact / place):
                self.counts.found["version"] += 1
                yield artifact / place / name

    def _files_of(self, version: Path) -> dict[str, Path]:
        if version not in self._versions:
            files = {str(path.relative_to(version)): path for path in version.rglob("*") if not path.is_dir()}
            self._versions[version] = files
        return self._versions[version]

    def _has_lines(self, name: str, count: object) -> bool:
        """Whether some place has the log with at least so many lines, and no place has anything else in it."""
        assert isinstance(count, int)
        wanted = b"".join(map(line, range(LOG_LINES)))
        longest = 0
        for path in self._places(self._mount / self._logged, name):
            try:
                found = path.read_bytes()
            except FileNotFoundError:
                continue
            assert found == wanted[: len(found)], f"{path} is not what was written"
            longest = max(longest, len(found))
        return longest >= count * LINE_BYTES

    # -- the end

    def _publish_and_count(self) -> None:
        mount = self._mount
        for label in [*self._copied, self._logged]:
            eventually(lambda label=label: not (s := mount.state(label).staged) or not s.open_for_writing)
            with contextlib.suppress(OSError):
                os.setxattr(mount / label / "staging", control.COMMIT, b"{}")
        eventually(lambda: mount.status().artifacts == [], 60)
        mount.umount()
        with mounted(self._directory / "check", mount.driver, "--read-only", store=mount.store) as check:
            for label in self._copied:
                _, versions = copiers.count(check / label, self._ledger(label))
                self.counts.versions += versions
        mount.mount()
        noted = dict(json.loads(note) for note in self._ledger(self._logged).read_text().splitlines())
        for name, count in noted.items():
            assert self._has_lines(name, count), f"{name} has fewer than {count} lines"
        versions = [path for path in (mount / self._logged).iterdir() if path.name[1:].isdigit()]
        self.counts.versions += len(versions)
