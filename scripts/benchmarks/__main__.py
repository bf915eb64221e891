"""The command line of ``scripts/bench``."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import click

from benchmarks import report, rows, store_rows
from benchmarks.peers import PEERS, Ground


def all_rows() -> dict[str, rows.Row]:
    """Those of the drive, and those of the store."""
    return {**rows.rows(), **store_rows.rows()}


def chosen(names: str | None) -> dict[str, rows.Row]:
    """The rows that ``--rows`` names; without it all but those that are opt-in or impossible here."""
    every = all_rows()
    if names is None:
        return {name: row for name, row in every.items() if not row.opt_in and possible(row)}
    unknown = set(names.split(",")) - set(every)
    if unknown:
        raise click.BadParameter(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    return {name: row for name, row in every.items() if name in names.split(",")}


def possible(row: rows.Row) -> bool:
    """Only root can drop the page cache."""
    return rows.can_drop_page_cache() or not (isinstance(row, rows.Read) and row.dropped)


def measure(row: rows.Row, runs: int, ground: Ground, sizes: rows.Sizes) -> report.Result:
    """All peers in turn, `runs` times."""
    peers = [peer for peer in PEERS if row.takes(peer)]
    result = report.Result(row, {peer.name: [] for peer in peers})
    row.prepare(ground, sizes)
    for _ in range(runs):
        for peer in peers:
            result.runs[peer.name].append(row.measure(peer, ground, sizes))
    return result


@click.command(help=f"Measure the drive beside other file systems. Rows: {', '.join(all_rows())}.")
@click.option("--rows", "names", metavar="NAME,…", help="Only these rows; 'many' and 'listing' run only when named.")
@click.option("--runs", default=5, show_default=True, type=click.IntRange(min=1), help="Runs of each row and peer.")
@click.option("--quick", is_flag=True, help="Small sizes: to try the bench itself, the numbers mean little.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write every number here.")
@click.option(
    "--directory", type=click.Path(file_okay=False, exists=True, path_type=Path), help="Where to work; needs 6 GiB."
)
def main(names: str | None, runs: int, quick: bool, json_file: Path | None, directory: Path | None) -> None:
    """Measure, print, write."""
    # Told to end, it still unmounts and removes what it made.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sizes = rows.QUICK if quick else rows.Sizes()
    work = chosen(names)
    ground = Ground(Path(tempfile.mkdtemp(prefix="artifactfs-bench-", dir=directory)))
    results = []
    try:
        click.echo("writing the data …", err=True)
        rows.prepare_ground(ground, sizes)
        for row in work.values():
            click.echo(f"measuring: {row.name} …", err=True)
            results.append(measure(row, runs, ground, sizes))
        facts = report.machine_facts(ground.directory)
    except rows.WrongContent as error:
        sys.exit(f"bench: {error}")
    finally:
        shutil.rmtree(ground.directory)
    report.show(results, facts, runs)
    if json_file:
        json_file.write_text(json.dumps(report.as_json(results, facts), indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
