"""A mount under everything at once: readers, walkers, writers, commits, another host, signals, mounts coming and going.

One mount lasts for the whole soak; its daemon is looked at again and again (`Figures`). A second one, of the same store
with a state directory of its own, is mounted, used and unmounted `Plan.mounts` times. The programs are those of
`drive_clients`. It fails when a client finds something wrong, when one does not get on for `HANG_S`, when a mount
leaves something behind, when the lasting daemon's descriptors, threads or memory grow without end, when it keeps inodes
that the kernel has let go of, or when its log holds a warning.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mount.processes import Process
from mount.settings import READS
from tests.mount.harness import Mount, eventually

HANG_S = 60.0
SAMPLE_EVERY_S = 5.0
KINDS = ("read", "read", "read", "walk", "follow", "write", "write", "elsewhere")
# What may differ between the second quarter and the last one: caches that fill, and what is going on at the moment.
MORE_DESCRIPTORS, MORE_THREADS, MORE_MIB = 16, 16, 48.0
MORE_AT_REST = 4
_DROP_CACHES = Path("/proc/sys/vm/drop_caches")


@dataclass(frozen=True)
class Plan:
    """How long, how often, with what."""

    seconds: float
    mounts: int = 200
    seed: int = 0


@dataclass
class Figures:
    """What the lasting daemon holds, sample by sample. `objects`: descriptors of objects, kept for later."""

    descriptors: list[int] = field(default_factory=list)
    objects: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    rss_mib: list[float] = field(default_factory=list)
    inodes: list[int] = field(default_factory=list)

    def sample(self, daemon: Process, inodes: int | None) -> None:
        """Look now. `inodes`: how many the daemon says it holds for the kernel; None where its driver cannot tell."""
        self.inodes.append(inodes or 0)
        status = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
        values = {name: value.split() for name, _, value in (line.partition(":") for line in status)}
        targets = list(_open_files(daemon.pid))
        objects = sum("/objects/" in target for target in targets)
        self.objects.append(objects)
        self.descriptors.append(len(targets) - objects)
        self.threads.append(int(values["Threads"][0]))
        self.rss_mib.append(int(values["VmRSS"][0]) / 1024)

    def __str__(self) -> str:
        kinds = (
            *(("descriptors", self.descriptors), ("of objects", self.objects)),
            *(("threads", self.threads), ("MiB", self.rss_mib), ("inodes", self.inodes)),
        )
        told = []
        for name, values in kinds:
            quarters = " ".join(f"{_quarter(values, number):.0f}" for number in range(4))
            told.append(f"{name} {values[0]:.0f} at first, {quarters} in the quarters, {values[-1]:.0f} at the end")
        return "; ".join(told)

    def growth(self) -> list[str]:
        """What looks like a leak."""
        allowed = ((self.descriptors, MORE_DESCRIPTORS), (self.threads, MORE_THREADS), (self.rss_mib, MORE_MIB))
        names = ("descriptors", "threads", "MiB of memory")
        return [
            f"{name} grew: {_quarter(values, 1):.0f} in the second quarter, {_quarter(values, 3):.0f} in the last"
            for name, (values, more) in zip(names, allowed, strict=True)
            if _quarter(values, 3) > _quarter(values, 1) * 1.25 + more
        ]


def _open_files(pid: int) -> Iterator[str]:
    """What each descriptor of a process is open on."""
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            yield os.readlink(f"/proc/{pid}/fd/{name}")


def most_objects(pid: int) -> int:
    """How many idle descriptors of objects a daemon keeps: see `mount.handles`."""
    limits = Path(f"/proc/{pid}/limits").read_text()
    soft_limit = next(int(line.split()[3]) for line in limits.splitlines() if line.startswith("Max open files"))
    return max(16, min(1024, soft_limit // 4))


def _quarter(values: list[int] | list[float], number: int) -> float:
    """The median of a quarter of the samples."""
    begin, end = len(values) * number // 4, max(len(values) * (number + 1) // 4, len(values) * number // 4 + 1)
    return statistics.median(values[begin:end])


class Hang(AssertionError):
    """Something does not get on; the message says where it is in the kernel."""


class Client:
    """One process of `drive_clients`. `stopped` while it has a SIGSTOP."""

    def __init__(self, kind: str, number: int, mount: Mount, directory: Path, seed: int) -> None:
        self.kind = kind
        self.number = number
        self.name = f"{kind}{number}"
        self.stopped = False
        self.counts: Counter[str] = Counter()
        self._begun = time.time()
        self._heart = directory / f"{self.name}.heart"
        self._heart.unlink(missing_ok=True)
        self._errors = directory / f"{self.name}.errors"
        environment = {
            "SOAK_NUMBER": str(number),
            "SOAK_STORE": mount.store,
            "SOAK_SCRATCH": str(directory / f"{self.name}.tree"),
        }
        command = [sys.executable, "-m", "tests.soak.drive_clients", kind, str(mount.path), str(self._heart), str(seed)]
        with open(self._errors, "wb") as errors:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **environment}
            )

    @property
    def takes_signals(self) -> bool:
        """Whether it has come so far; it makes its heart afterwards."""
        return self._heart.exists()

    def stop(self) -> None:
        """Let it stand where it is."""
        self.process.send_signal(signal.SIGSTOP)
        self.stopped = True

    def go_on(self) -> None:
        """After `stop`; the time it stood does not count."""
        os.utime(self._heart)
        self.process.send_signal(signal.SIGCONT)
        self.stopped = False

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def check(self) -> None:
        """Fails when it has not got on for too long, or has ended otherwise than well."""
        status = self.process.poll()
        assert not status, f"{self.name} ended with {status}: {self._errors.read_text()[-3000:]}"
        beat = self._heart.stat().st_mtime if self.takes_signals else self._begun
        silent_s = time.time() - beat
        if silent_s > HANG_S and status is None and not self.stopped:
            raise Hang(f"{self.name} hangs: nothing for {silent_s:.0f} s\n{where(self.process.pid)}")

    def end(self) -> None:
        """Tell it to end, then `wait`."""
        if self.stopped:
            self.go_on()
        self.send(signal.SIGTERM)
        self.wait()

    def wait(self) -> None:
        """Wait for its end and take its counts; fails when it does not end in time, or with an error."""
        try:
            said, _ = self.process.communicate(timeout=HANG_S)
        except subprocess.TimeoutExpired:
            raise Hang(f"{self.name} does not end\n{where(self.process.pid)}") from None
        assert self.process.returncode == 0, f"{self.name} failed: {self._errors.read_text()[-3000:]}"
        self.counts.update(json.loads(said))

    def kill(self) -> None:
        """Kill it, in the middle of whatever it does."""
        self.process.kill()
        try:
            self.process.communicate(timeout=HANG_S)
        except subprocess.TimeoutExpired:
            raise Hang(f"{self.name} cannot be killed\n{where(self.process.pid)}") from None


def where(pid: int) -> str:
    """Where each thread of a process is in the kernel, for a report of a hang."""
    lines = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            lines.append(f"thread {task.name}: {(task / 'wchan').read_text()}\n{(task / 'stack').read_text()}")
    return "\n".join(lines)


class DriveSoak:
    """See the module docstring. `mount` is the lasting one; `report` gets a line a minute."""

    def __init__(self, mount: Mount, plan: Plan, report: Callable[[str], None]) -> None:
        self._mount = mount
        self._plan = plan
        self._report = report
        self._rng = random.Random(plan.seed)
        self._directory = mount.path.parent
        self._clients: list[Client] = []
        self.counts: Counter[str] = Counter()
        self.figures = Figures()
        self._next_sample = 0.0

    def run(self) -> None:
        """Run it all. Fails, with what was found, after everything has been ended."""
        daemon = self._mount.daemon
        self._sample(daemon)
        try:
            self._clients = [self._start(kind, number) for number, kind in enumerate(KINDS)]
            self._keep_on(daemon)
            for client in self._clients:
                client.end()
                self.counts.update(client.counts)
            self._settle(daemon)
        except BaseException as error:
            if isinstance(error, Hang):
                self._report(f"the daemon:\n{where(daemon.pid)}")
            self._report(f"so far: {self.summary()}")
            raise
        finally:
            for client in self._clients:
                client.process.kill()
        leaks = self.figures.growth()
        assert not leaks, "; ".join(leaks)

    def summary(self) -> str:
        """The counts and the figures."""
        counts = ", ".join(f"{number} {what}" for what, number in sorted(self.counts.items()))
        return f"{counts}\nthe daemon: {self.figures}"

    def _start(self, kind: str, number: int, mount: Mount | None = None) -> Client:
        return Client(kind, number, mount or self._mount, self._directory, self._rng.randrange(1 << 40))

    # -- while it runs -------------------------------------------------------------------------------------------------

    def _keep_on(self, daemon: Process) -> None:
        begun = time.monotonic()
        next_report = begun + 60
        while (elapsed := time.monotonic() - begun) < self._plan.seconds or self._mounts() < self._plan.mounts:
            self._tick(daemon)
            if self._mounts() < self._plan.mounts * min(1.0, elapsed / self._plan.seconds):
                self._come_and_go(daemon)
            if time.monotonic() >= next_report:
                self._report(f"{elapsed / 60:.0f} min: {self._mounts()} mounts; {self._now()}")
                next_report += 60

    def _mounts(self) -> int:
        return self.counts["mounts and unmounts"]

    def _tick(self, daemon: Process) -> None:
        """What is done all the time."""
        for client in self._clients:
            client.check()
        self._disturb()
        if time.monotonic() >= self._next_sample:
            self._sample(daemon)
            self._next_sample = time.monotonic() + SAMPLE_EVERY_S
        time.sleep(0.05)

    def _sample(self, daemon: Process) -> None:
        self.figures.sample(daemon, self._mount.status().inodes)

    def _now(self) -> str:
        figures = self.figures
        return f"{figures.descriptors[-1]} descriptors, {figures.threads[-1]} threads, {figures.rss_mib[-1]:.0f} MiB"

    def _disturb(self) -> None:
        """Stop a client, let it go on, interrupt it, or kill it and start another."""
        client = self._rng.choice(self._clients)
        dice = self._rng.random()
        if not client.takes_signals:
            return
        if client.stopped:
            client.go_on()
        elif dice < 0.1:
            client.stop()
            self.counts["SIGSTOP and SIGCONT"] += 1
        elif dice < 0.4:
            client.send(signal.SIGUSR1)
            self.counts["interrupts sent"] += 1
        elif dice < 0.41:
            client.kill()
            self.counts["clients killed"] += 1
            self._clients[client.number] = self._start(client.kind, client.number)

    def _come_and_go(self, daemon: Process) -> None:
        """Mount the store a second time, read and write through it, unmount; nothing of it may be left."""
        mount = Mount(self._directory / "second", self._mount.store, driver=self._mount.driver)
        options = ["--refresh", "0.5", "--commit-after", "never", "--reads", self._rng.choice(READS)]
        options += ["--read-only"] if self._rng.random() < 0.5 else []
        mount.mount(*options)
        try:
            visitor = self._start("visit", len(KINDS), mount)
            while visitor.process.poll() is None:
                visitor.check()
                self._tick(daemon)
            visitor.wait()
            self.counts.update({f"{what} (second mount)": number for what, number in visitor.counts.items()})
            mount.umount(*(["--now"] if self._rng.random() < 0.3 else []))
        finally:
            wrong = mount.tear_down()
        assert not wrong, "\n".join(wrong)
        self.counts["mounts and unmounts"] += 1

    # -- the end -------------------------------------------------------------------------------------------------------

    def _settle(self, daemon: Process) -> None:
        """With nobody there any more, nothing stays open but what the daemon keeps."""
        figures, most = self.figures, most_objects(daemon.pid)
        may_drop = os.access(_DROP_CACHES, os.W_OK)

        def quiet() -> bool:
            if may_drop:
                # The kernel keeps names for as long as it has room, and the daemon their inodes.
                _DROP_CACHES.write_text("2\n")
            self._sample(daemon)
            return (
                figures.descriptors[-1] <= figures.descriptors[0] + MORE_AT_REST
                and figures.objects[-1] <= most
                and (not may_drop or figures.inodes[-1] <= figures.inodes[0] + MORE_AT_REST)
            )

        wanted = f"{figures.descriptors[0]} descriptors open, {most} of objects, {figures.inodes[0]} inodes"
        eventually(quiet, HANG_S, f"{wanted}; {figures}")


def soak(mount: Mount, plan: Plan, report: Callable[[str], None]) -> str:
    """Run it; returns the counts. Fails with what was found."""
    drive = DriveSoak(mount, plan, report)
    drive.run()
    return drive.summary()
