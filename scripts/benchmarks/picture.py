"""The picture of a run: a panel for each of the first rows, bars of how fast each peer was; reads the bench's JSON.

Run as ``picture.py FILE.svg`` with the JSON on standard input, by the Python of the bench's own environment: nothing
else needs matplotlib.
"""

from __future__ import annotations

import json
import statistics
import sys
from typing import Any

COLUMNS = 3
MOST_ROWS = 9
OURS, OTHERS, NATIVE = "#c2410c", "#94a3b8", "#475569"
OF_OTHERS = ("bindfs", "rclone", "fsspec", "ratarmount", "s3fs", "aws", "plain", "wandb")


def colour(peer: str) -> str:
    """Native dark, other projects grey, the drive bright."""
    if peer == "native":
        return NATIVE
    return OTHERS if peer.startswith(OF_OTHERS) else OURS


def speeds(row: dict[str, Any], peer: str) -> list[float]:
    """How many times as fast as what the row is measured against; without that, 1 / seconds."""
    measured = row["peers"][peer]
    return measured["speed"] or [1 / seconds for seconds in measured["seconds"]]


def draw(document: dict[str, Any], path: str) -> None:
    """Write the SVG."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 8})
    from matplotlib import pyplot

    rows = [row for row in document["rows"] if any("seconds" in peer for peer in row["peers"].values())][:MOST_ROWS]
    columns = min(COLUMNS, len(rows))
    lines = -(-len(rows) // columns)
    tallest = max(len(row["peers"]) for row in rows)
    size = (4.4 * columns, lines * (0.8 + 0.2 * tallest))
    figure, axes = pyplot.subplots(lines, columns, figsize=size, squeeze=False)
    panels = list(axes.flat)
    for panel in panels[len(rows) :]:
        panel.set_visible(False)
    for panel, row in zip(panels, rows, strict=False):
        _draw_row(panel, row)
        panel.set_ylim(tallest - 0.5, -0.5)
    machine = document["machine"]
    figure.text(
        0.01,
        0.004,
        f"median and spread of {document['runs']} interleaved runs · {machine['cpu']}, {machine['cores']} cores, "
        f"Linux {machine['kernel']}, {machine['file_system']} · longer is faster, log scale",
        color="#475569",
    )
    figure.tight_layout(rect=(0, 0.02, 1, 1), h_pad=1.5)
    figure.savefig(path, format="svg", metadata={"Date": None}, facecolor="white")


def _draw_row(panel: Any, row: dict[str, Any]) -> None:
    peers = list(row["peers"])
    for place, peer in enumerate(peers):
        if "failed" in row["peers"][peer]:
            continue
        found = speeds(row, peer)
        middle = statistics.median(found)
        error = [[middle - min(found)], [max(found) - middle]]
        panel.barh(place, middle, xerr=error, color=colour(peer), ecolor="#1e293b", error_kw={"elinewidth": 0.6})
    known = [value for peer in peers if "failed" not in row["peers"][peer] for value in speeds(row, peer)]
    panel.set_xscale("log")
    panel.set_xlim(min(known) / 1.6, max(known) * 4)
    panel.set_yticks(range(len(peers)), peers)
    for place, peer in enumerate(peers):
        measured = row["peers"][peer]
        if "failed" in measured:
            panel.text(min(known) / 1.5, place, _short(measured["failed"]), va="center", color="#991b1b", fontsize=7)
            continue
        seconds = f"{measured['median_seconds']:.3g} s"
        times = f"{statistics.median(speeds(row, peer)):.2g}× · " if row["against"] else ""
        panel.text(max(speeds(row, peer)) * 1.1, place, times + seconds, va="center", fontsize=7)
    title = row["name"] + (f"\nspeed against {row['against']}" if row["against"] else "")
    panel.set_title(title, loc="left", fontsize=8, fontweight="bold")
    if row["against"]:
        panel.axvline(1, color="#1e293b", linewidth=0.6, linestyle=":")
    else:
        panel.xaxis.set_visible(False)
    panel.tick_params(left=False)
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter("")
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)


def _short(reason: str) -> str:
    return reason if len(reason) <= 40 else reason[:39] + "…"


if __name__ == "__main__":
    draw(json.load(sys.stdin), sys.argv[1])
