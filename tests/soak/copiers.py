"""Copiers that write into artifacts while what they wrote is being committed; afterwards every file is counted.

A copier is a process. It notes each file in its ledger when the file is closed, and not before. At the end every file
of a ledger is in exactly one version of its artifact, byte for byte, and no version holds anything else. Where the
daemon was killed in the middle of a file, the copier notes that too and writes it again: what the first attempt left
may then be in a version of its own.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from mount import control
from tests.mount.harness import Mount, eventually
from tests.mount.shared import mounted

LARGEST_BYTES = 3 << 20
# What some files hold when they are closed for the first time. It may be committed before they are written again.
_REPLACED = b"to be replaced" * 100
# The daemon was killed, or has just been: the copier waits for the next one.
_GONE = (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ENXIO, errno.ENODEV)
# A name that was there a moment ago has been sealed.
_SEALED = (errno.ENOENT, errno.ESTALE)


@dataclass(frozen=True)
class Plan:
    """How much, how hard and for how long."""

    seconds: float
    copiers: int = 4
    seed: int = 0
    kill_every_s: float | None = None


def content(seed: str, size_bytes: int) -> bytes:
    """Bytes that belong to one file and to no other."""
    return random.Random(seed).randbytes(size_bytes)


# -- a copier, in a process of its own ---------------------------------------------------------------------------------


def copy(artifact: Path, ledger_path: Path, seconds: float, seed: int, patient: bool) -> None:
    """Write files until the time is over; `patient` outlives the daemon."""
    rng = random.Random(seed)
    deadline = time.monotonic() + seconds
    with open(ledger_path, "a") as ledger:
        batch = 0
        while time.monotonic() < deadline:
            for number in range(rng.randrange(1, 25)):
                name = f"batch{batch}/{rng.choice(('', 'deep/er/'))}file{number}"
                size_bytes = rng.choice((0, 10, 5000, 100_000, rng.randrange(LARGEST_BYTES)))
                data = content(f"{artifact.name}/{name}", size_bytes)
                way = _WAYS[rng.randrange(len(_WAYS))]
                while not _write(artifact / "staging", name, data, way, patient):
                    _note(ledger, name, None)
                _note(ledger, name, hashlib.sha256(data).hexdigest())
            batch += 1
            # Long enough to be committed every other time.
            time.sleep(rng.random() * 1.2)


def _note(ledger: TextIO, name: str, digest: str | None) -> None:
    """A file that was closed, or (without digest) one whose writing was interrupted."""
    ledger.write(json.dumps([name, digest]) + "\n")
    ledger.flush()


def _write(staging: Path, name: str, data: bytes, way: Callable[[Path, bytes], None], patient: bool) -> bool:
    """Write a file; False when the daemon went away in the middle."""
    path = staging / name
    while True:
        try:
            # Not makedirs: between two mounts that would make a staging on the disk below the mountpoint.
            for parent in reversed(path.relative_to(staging).parents[:-1]):
                with contextlib.suppress(FileExistsError):
                    (staging / parent).mkdir()
            way(path, data)
            return True
        except OSError as error:
            if patient and error.errno in _GONE:
                return False
            if error.errno not in _SEALED:
                raise
        time.sleep(0.01)


def _plainly(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _in_pieces(path: Path, data: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        for start in range(0, len(data), 70_000):
            file.write(data[start : start + 70_000])


def _by_rename(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _with_attributes(path: Path, data: bytes) -> None:
    path.write_bytes(_REPLACED)
    path.write_bytes(data)
    # It may have been sealed by now.
    with contextlib.suppress(FileNotFoundError):
        path.chmod(0o640)
        os.utime(path, ns=(1, 1_000_000_001))


_WAYS = (_plainly, _in_pieces, _by_rename, _with_attributes)


# -- the soak ----------------------------------------------------------------------------------------------------------


def soak(mount: Mount, plan: Plan) -> str:
    """Run the copiers, publish everything, count; returns what happened in a line. Fails when a file is missing."""
    ledgers = [mount.path.parent / f"ledger{number}" for number in range(plan.copiers)]
    artifacts = [mount / f"soak/artifact{number}" for number in range(plan.copiers)]
    for artifact in artifacts:
        artifact.mkdir(parents=True)
    copiers = [_start(*pair, plan, number) for number, pair in enumerate(zip(artifacts, ledgers, strict=True))]
    stop = threading.Event()
    asker = threading.Thread(target=_ask_for_commits, args=(artifacts, stop, plan.seed))
    asker.start()
    try:
        kills = _kill_now_and_then(mount, copiers, plan)
        for copier in copiers:
            _, errors = copier.communicate(timeout=plan.seconds + 120)
            assert copier.returncode == 0, errors
    finally:
        stop.set()
        asker.join()
        for copier in copiers:
            copier.kill()
            copier.communicate()
    eventually(lambda: mount.status().artifacts == [], 60)
    mount.umount()
    files = versions = 0
    with mounted(mount.path.parent / "check", mount.driver, "--read-only", store=mount.store) as check:
        for artifact, ledger in zip(artifacts, ledgers, strict=True):
            counted = count(check / "soak" / artifact.name, ledger)
            files, versions = files + counted[0], versions + counted[1]
    mount.mount()
    assert files > 0
    assert versions > plan.copiers, "nothing was committed while files were written"
    return f"{files} files in {versions} versions of {plan.copiers} artifacts, daemon killed {kills} times"


def _start(artifact: Path, ledger: Path, plan: Plan, number: int) -> subprocess.Popen[str]:
    code = "import sys, json; from pathlib import Path; from tests.soak.copiers import copy; "
    code += "a = json.loads(sys.argv[1]); copy(Path(a[0]), Path(a[1]), *a[2:])"
    arguments = [str(artifact), str(ledger), plan.seconds, plan.seed * 1000 + number, plan.kill_every_s is not None]
    return subprocess.Popen([sys.executable, "-c", code, json.dumps(arguments)], stderr=subprocess.PIPE, text=True)


def _ask_for_commits(artifacts: list[Path], stop: threading.Event, seed: int) -> None:
    """Commits on request, which meet writers and empty stagings as often as not."""
    rng = random.Random(seed)
    while not stop.wait(rng.random() * 2):
        with contextlib.suppress(OSError):
            os.setxattr(rng.choice(artifacts) / "staging", control.COMMIT, b"{}")


def _kill_now_and_then(mount: Mount, copiers: list[subprocess.Popen[str]], plan: Plan) -> int:
    kills = 0
    if plan.kill_every_s is None:
        return kills
    rng = random.Random(plan.seed)
    deadline = time.monotonic() + plan.seconds
    while time.monotonic() < deadline:
        time.sleep((0.5 + rng.random()) * plan.kill_every_s)
        mount.kill9()
        mount.mount()
        kills += 1
    return kills


def count(artifact: Path, ledger: Path) -> tuple[int, int]:
    """Compare an artifact's versions with what a copier closed; returns the numbers of files and versions."""
    notes = [json.loads(line) for line in ledger.read_text().splitlines()]
    closed = {name: digest for name, digest in notes if digest is not None}
    interrupted = {name for name, digest in notes if digest is None}
    versions = [version for version in artifact.iterdir() if not version.is_symlink()]
    places: Counter[str] = Counter()
    for version in versions:
        assert any(version.iterdir()), f"{version} is empty"
        for path in (path for path in version.rglob("*") if not path.is_dir()):
            name = str(path.relative_to(version))
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == closed.get(name):
                places[name] += 1
            elif data != _REPLACED or name not in closed:
                # What is left of a file that was being written when the daemon was killed.
                whole = str(path.relative_to(version).with_name(path.name.removeprefix(".").removesuffix(".tmp")))
                assert whole in interrupted, f"{path} is not what was written"
    missing = sorted(closed.keys() - places.keys())
    assert not missing, f"{len(missing)} closed files are in no version, such as {missing[:5]}"
    twice = sorted(name for name, number in places.items() if number > 1 and name not in interrupted)
    assert not twice, f"{len(twice)} files are in more than one version, such as {twice[:5]}"
    return len(closed), len(versions)
