"""Results: the table for people, the JSON for programs, and the facts of the machine without which they mean little."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.rows import Measured, Row, Target


@dataclass
class Result:
    """All runs of one row: peer name → measurements, in the order of the runs."""

    row: Row
    runs: dict[str, list[Measured]] = field(default_factory=dict)

    def seconds(self, peer: str) -> float:
        """The median."""
        return statistics.median(measured.seconds for measured in self.runs[peer])

    def speeds(self, peer: str, against: str) -> list[float] | None:
        """How many times as fast as `against`, run by run; None where that was not measured."""
        if against not in self.runs:
            return None
        return [other.seconds / own.seconds for own, other in zip(self.runs[peer], self.runs[against], strict=True)]

    def rss_mib(self, peer: str) -> float | None:
        """The median, where the row measures it."""
        known = [measured.rss_mib for measured in self.runs[peer] if measured.rss_mib is not None]
        return statistics.median(known) if known else None

    def verdict(self, peer: str) -> list[tuple[Target, bool]]:
        """The targets of this peer and whether the medians reach them."""
        found = []
        for target in self.row.targets:
            speeds = self.speeds(peer, target.against) if target.against else None
            if target.peer not in peer or peer in ("native", "bindfs") or (target.against and speeds is None):
                continue
            reached = not speeds or statistics.median(speeds) >= target.speed
            if target.seconds:
                reached = reached and self.seconds(peer) <= target.seconds
            if target.rss_mib:
                reached = reached and (self.rss_mib(peer) or 0.0) <= target.rss_mib
            found.append((target, reached))
        return found


def machine_facts(directory: Path) -> dict[str, Any]:
    """What somebody needs to know to compare these numbers with others."""
    processors = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    packages = ("artifactfs", "mfusepy", "fsspec", "msgspec", "blake3", "zstandard")
    return {
        "cpu": processors[0].split(":", 1)[1].strip() if processors else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "file_system": output("findmnt", "-n", "-o", "FSTYPE", "--target", str(directory)),
        "python": platform.python_version(),
        "fusermount3": output("fusermount3", "--version").split()[-1],
        "bindfs": output("bindfs", "--version").split()[-1],
        **{name: importlib.metadata.version(name) for name in packages},
    }


def output(*command: str) -> str:
    """What a program prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def as_table(results: list[Result], facts: dict[str, Any], runs: int) -> Table:
    """One line for each row and peer."""
    table = Table(
        title=f"median of {runs} interleaved runs",
        caption=", ".join(f"{name} {value}" for name, value in facts.items()),
        caption_justify="left",
        box=box.SIMPLE,
    )
    for heading in ("work", "peer", "seconds", "speed against", "spread", "target"):
        table.add_column(heading, justify="right" if heading in ("seconds", "spread") else "left", no_wrap=True)
    for result in results:
        for index, peer in enumerate(result.runs):
            last = index == len(result.runs) - 1
            table.add_row(result.row.name if index == 0 else "", *cells(result, peer), end_section=last)
    return table


def cells(result: Result, peer: str) -> tuple[str, str, str, str, str]:
    """Peer, seconds, speed, spread, targets."""
    seconds = f"{result.seconds(peer):.3f}"
    rss_mib = result.rss_mib(peer)
    if rss_mib is not None:
        seconds += f", {rss_mib:.0f} MiB"
    targets = "; ".join(f"{describe(target)} {'met' if met else 'SHORT'}" for target, met in result.verdict(peer))
    speeds = result.speeds(peer, result.row.against) if peer != result.row.against else None
    if speeds is None:
        return peer, seconds, "", "", targets
    spread = f"{min(speeds):.2f}–{max(speeds):.2f}"
    return peer, seconds, f"{statistics.median(speeds):.2f} × {result.row.against}", spread, targets


def describe(target: Target) -> str:
    """A target in the words of the table."""
    if target.against:
        return f"≥ {target.speed:g} × {target.against}"
    return f"≤ {target.seconds:g} s, ≤ {target.rss_mib:g} MiB"


def as_json(results: list[Result], facts: dict[str, Any]) -> dict[str, Any]:
    """Every single measurement, with the medians."""
    return {
        "machine": facts,
        "rows": [
            {
                "name": result.row.name,
                "against": result.row.against,
                "peers": {
                    peer: {
                        "seconds": [measured.seconds for measured in measurements],
                        "median_seconds": result.seconds(peer),
                        "rss_mib": result.rss_mib(peer),
                        "speed": result.speeds(peer, result.row.against),
                        "targets": [{"target": describe(target), "met": met} for target, met in result.verdict(peer)],
                    }
                    for peer, measurements in result.runs.items()
                },
            }
            for result in results
        ],
    }


def show(results: list[Result], facts: dict[str, Any], runs: int) -> None:
    """Print the table; as wide as it needs to be where the output is no terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    console.print(as_table(results, facts, runs))
