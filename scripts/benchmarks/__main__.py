"""The command line of ``scripts/bench``."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from benchmarks import picture, report, rows, s3_rows, store_rows, wandb_rows, write_rows
from benchmarks.ground import QUICK, Ground, Sizes, prepare_ground
from benchmarks.peers import Peer
from benchmarks.programs import PEER_PROGRAMS, Failed

SLOW_S = 10.0
"""A peer of another project that needs longer than this in its first run is measured once."""


FIRST = ("sequential", "mapped", "hot", "cold", "walk", "tensors", "git", "copy", "commit", "many")


def all_rows() -> dict[str, rows.Row]:
    """In the order in which they are measured."""
    return {**drive_rows(), **store_rows.rows(), **s3_rows.rows(), **wandb_rows.rows()}


def drive_rows() -> dict[str, rows.Row]:
    """Those of mounts of a local store, the most telling first."""
    found = {**rows.rows(), **write_rows.rows()}
    return {**{name: found.pop(name) for name in FIRST}, **found, **rows.dropped_rows()}


def all_peers() -> list[str]:
    """The names of all peers of all rows."""
    return list(dict.fromkeys(peer.name for row in all_rows().values() for peer in row.peers))


def names_of(kind: str, given: str | None, every: list[str]) -> list[str] | None:
    """The names of a comma-separated option; None without it."""
    if given is None:
        return None
    unknown = set(given.split(",")) - set(every)
    if unknown:
        raise click.BadParameter(f"no such {kind}: {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    return given.split(",")


def measure(result: report.Result, peers: list[Peer], runs: int, ground: Ground, sizes: Sizes) -> None:
    """All peers in turn, `runs` times. One that fails is not tried again in this row."""
    row = result.row
    try:
        row.prepare(ground, sizes)
    except Failed as failure:
        result.failed = {peer.name: str(failure) for peer in peers}
        return
    for number in range(runs):
        for peer in peers:
            done = result.runs.get(peer.name, [])
            slow = not peer.ours and bool(done) and done[0].seconds > SLOW_S
            if peer.name in result.failed or slow:
                continue
            try:
                measured = row.measure(peer, ground, sizes, first=number == 0)
            except Failed as failure:
                result.failed[peer.name] = str(failure)
                result.runs.pop(peer.name, None)
            else:
                result.runs.setdefault(peer.name, []).append(measured)


def take_part(row: rows.Row, chosen: list[str] | None) -> list[Peer]:
    """The peers of a row; what speeds are measured against always takes part."""
    peers = [peer for peer in row.peers if row.takes(peer)]
    return [peer for peer in peers if chosen is None or peer.name in chosen or peer.name == row.against]


@click.command(
    help=f"""Measure the drive beside other file systems, as medians of interleaved runs.

    With the default sizes a whole run takes about an hour on two cores and needs 12 GiB of disk and 16 GiB of
    memory. Rows are printed as they are finished; a run that is ended early (Ctrl-C, SIGTERM) unmounts and removes
    everything and still writes the JSON and the picture of what it has.

    Rows: {", ".join(drive_rows())}.

    Rows of the store without a mount, which run only when named: {", ".join(store_rows.rows())}.

    Rows of S3, which run with --remote or when named: {", ".join(s3_rows.rows())}.

    Rows of W&B, against the server of the tests, which run only when named: {", ".join(wandb_rows.rows())}.

    Peers: {", ".join(all_peers())}."""
)
@click.option("--rows", "row_names", metavar="NAME,…", help="Only these rows.")
@click.option("--remote", is_flag=True, help="The rows of S3 instead, against one server on loopback.")
@click.option("--peers", "peer_names", metavar="NAME,…", help="Only these peers.")
@click.option("--runs", default=5, show_default=True, type=click.IntRange(min=1), help="Runs of each row and peer.")
@click.option("--quick", is_flag=True, help="Small sizes: to try the bench itself, the numbers mean little.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write every number here.")
@click.option(
    "--picture",
    "picture_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw an SVG of the first nine rows.",
)
@click.option("--directory", type=click.Path(file_okay=False, exists=True, path_type=Path), help="Where to work.")
def main(
    row_names: str | None,
    remote: bool,
    peer_names: str | None,
    runs: int,
    quick: bool,
    json_file: Path | None,
    picture_file: Path | None,
    directory: Path | None,
) -> None:
    """Measure, print, write."""
    # Told to end, it still unmounts and removes what it made.
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    every = all_rows()
    chosen = names_of("row", row_names, list(every))
    peers = names_of("peer", peer_names, all_peers())
    if chosen is None:
        chosen = [
            name
            for name, row in every.items()
            if (isinstance(row, s3_rows.S3Row) if remote else row.chosen_by_default and rows.possible(row))
        ]
    work = [every[name] for name in chosen]
    results: list[report.Result] = []
    ground = Ground(Path(tempfile.mkdtemp(prefix="artifactfs-bench-", dir=directory)))
    facts = report.machine_facts(ground.directory)
    try:
        _measure_all(work, peers, runs, ground, QUICK if quick else Sizes(), results)
    except KeyboardInterrupt:
        click.echo("\nended early", err=True)
    finally:
        s3_rows.stop()
        wandb_rows.stop()
        _write(results, facts, runs, json_file, picture_file)
        shutil.rmtree(ground.directory)
    if failures := report.ours_failed(results):
        sys.exit("bench: " + "\n".join(failures))


def _measure_all(
    work: list[rows.Row], peers: list[str] | None, runs: int, ground: Ground, sizes: Sizes, results: list[report.Result]
) -> None:
    _progress("writing the data …")
    takers = [take_part(row, peers) for row in work]
    prepare_ground(ground, sizes, with_tar=any(peer.name == "ratarmount" for taker in takers for peer in taker))
    click.echo(report.HEADINGS)
    for row, taker in zip(work, takers, strict=True):
        started = time.monotonic()
        results.append(report.Result(row))
        try:
            measure(results[-1], taker, runs, ground, sizes)
        finally:
            for line in report.lines(results[-1], runs):
                click.echo(line)
        _progress(f"{row.name}: {time.monotonic() - started:.0f} s")


def _progress(text: str) -> None:
    click.echo(text, err=True)


def _write(
    results: list[report.Result], facts: dict[str, object], runs: int, json_file: Path | None, picture_file: Path | None
) -> None:
    click.echo("\n" + ", ".join(f"{name} {value}" for name, value in facts.items()))
    document = json.dumps(report.as_json(results, facts, runs), indent=2, ensure_ascii=False) + "\n"
    if json_file:
        json_file.write_text(document)
    if picture_file and any(result.runs for result in results):
        command = [str(PEER_PROGRAMS / "python"), picture.__file__, str(picture_file)]
        subprocess.run(command, input=document, text=True, check=True)


if __name__ == "__main__":
    main()
