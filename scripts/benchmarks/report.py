"""Results: the table for people, the JSON for programs, and the facts of the machine without which they mean little.

A row is printed when it has been measured, so that a run that is cut short has shown what it knows.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.programs import PEER_PROGRAMS
from benchmarks.rows import Measured, Row, Target

HEADINGS = f"{'':26}{'seconds':>9}  {'speed':<24}{'spread':<14}{'MiB':>6}{'CPU s':>8}  target"


@dataclass
class Result:
    """All runs of one row: peer name → measurements in the order of the runs, or why there are none."""

    row: Row
    runs: dict[str, list[Measured]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def peers(self) -> Iterator[str]:
        """The names of those that took part, in their order."""
        return (peer.name for peer in self.row.peers if peer.name in self.runs or peer.name in self.failed)

    def seconds(self, peer: str) -> float:
        """The median."""
        return statistics.median(measured.seconds for measured in self.runs[peer])

    def speeds(self, peer: str, against: str) -> list[float] | None:
        """How many times as fast as `against`, run by run; None where that was not measured."""
        if not self.runs.get(against):
            return None
        return [other.seconds / own.seconds for own, other in zip(self.runs[peer], self.runs[against], strict=False)]

    def rss_mib(self, peer: str) -> float | None:
        """The median, where there is a daemon."""
        return _median([measured.rss_mib for measured in self.runs[peer]])

    def cpu_s(self, peer: str) -> float | None:
        """The median, where there is a daemon."""
        return _median([measured.cpu_s for measured in self.runs[peer]])

    def verdict(self, peer: str) -> list[tuple[Target, bool]]:
        """The targets of this peer and whether the medians reach them."""
        found = []
        ours = {candidate.name for candidate in self.row.peers if candidate.ours}
        for target in self.row.targets:
            speeds = self.speeds(peer, target.against) if target.against else None
            if peer not in ours or not target.concerns(peer) or (target.against and speeds is None):
                continue
            reached = not speeds or statistics.median(speeds) >= target.speed
            if target.seconds:
                reached = reached and self.seconds(peer) <= target.seconds
            if target.rss_mib:
                reached = reached and (self.rss_mib(peer) or 0.0) <= target.rss_mib
            found.append((target, reached))
        return found


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def ours_failed(results: list[Result]) -> list[str]:
    """What the drive itself could not do."""
    ours = {peer.name for result in results for peer in result.row.peers if peer.ours}
    return [
        f"{result.row.name}: {peer} {reason}"
        for result in results
        for peer, reason in result.failed.items()
        if peer in ours
    ]


def lines(result: Result, runs: int) -> Iterator[str]:
    """A part of the table: a line for the row, one for each peer."""
    yield ""
    yield result.row.name
    for peer in result.peers:
        if peer in result.failed:
            yield f"  {peer:<24}{result.failed[peer].splitlines()[0]}"
            continue
        seconds, rss_mib, cpu_s = result.seconds(peer), result.rss_mib(peer), result.cpu_s(peer)
        speeds = result.speeds(peer, result.row.against) if peer != result.row.against else None
        speed = f"{statistics.median(speeds):.2f} × {result.row.against}" if speeds else ""
        spread = f"{min(speeds):.2f}–{max(speeds):.2f}" if speeds else ""
        remarks = [f"{describe(target)} {'met' if met else 'SHORT'}" for target, met in result.verdict(peer)]
        if len(result.runs[peer]) < runs:
            remarks.append(f"{len(result.runs[peer])} of {runs} runs")
        memory = f"{rss_mib:.0f}" if rss_mib is not None else ""
        cpu = f"{cpu_s:.2f}" if cpu_s is not None else ""
        line = f"  {peer:<24}{seconds:>9.3f}  {speed:<24}{spread:<14}{memory:>6}{cpu:>8}  {'; '.join(remarks)}"
        yield line.rstrip()


def describe(target: Target) -> str:
    """A target in the words of the table."""
    if target.against:
        return f"≥ {target.speed:g} × {target.against}"
    limits = ((target.seconds, "s"), (target.rss_mib, "MiB"))
    return ", ".join(f"≤ {limit:g} {unit}" for limit, unit in limits if limit)


def as_json(results: list[Result], facts: dict[str, Any], runs: int) -> dict[str, Any]:
    """Every single measurement, with the medians."""
    return {
        "machine": facts,
        "runs": runs,
        "rows": [
            {
                "name": result.row.name,
                "against": result.row.against,
                "peers": {peer: _peer_as_json(result, peer) for peer in result.peers},
            }
            for result in results
        ],
    }


def _peer_as_json(result: Result, peer: str) -> dict[str, Any]:
    if peer in result.failed:
        return {"failed": result.failed[peer]}
    return {
        "seconds": [measured.seconds for measured in result.runs[peer]],
        "median_seconds": result.seconds(peer),
        "rss_mib": result.rss_mib(peer),
        "cpu_s": result.cpu_s(peer),
        "speed": result.speeds(peer, result.row.against),
        "targets": [{"target": describe(target), "met": met} for target, met in result.verdict(peer)],
    }


def machine_facts(directory: Path) -> dict[str, Any]:
    """What somebody needs to know to compare these numbers with others."""
    processors = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    packages = ("artifactfs", "mfusepy", "fsspec", "msgspec", "blake3", "zstandard")
    return {
        "cpu": processors[0].split(":", 1)[1].strip() if processors else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "file_system": _says("findmnt", "-n", "-o", "FSTYPE", "--target", str(directory)),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        **{name: version for name, command in _VERSIONS.items() if (version := _version(command))},
    }


_VERSIONS = {
    "libfuse": ("fusermount3", "--version"),
    "bindfs": ("bindfs", "--version"),
    "rclone": (str(PEER_PROGRAMS / "rclone"), "version"),
    "fusepy": (str(PEER_PROGRAMS / "pip"), "show", "fusepy"),
    "ratarmount": (str(PEER_PROGRAMS / "pip"), "show", "ratarmount"),
    "s3fs-fuse": ("s3fs", "--version"),
    "aws": (str(PEER_PROGRAMS / "aws"), "--version"),
    "git": ("git", "--version"),
    "rsync": ("rsync", "--version"),
}


def _version(command: tuple[str, ...]) -> str | None:
    """The first word of what a program says that looks like a version; None where it is not installed."""
    try:
        words = _says(*command).replace("/", " ").replace("V", "").split()
    except (OSError, subprocess.SubprocessError):
        return None
    return next((word.lstrip("v") for word in words if word.lstrip("v")[:1].isdigit()), None)


def _says(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
