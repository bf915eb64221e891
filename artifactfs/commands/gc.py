"""``artifactfs gc``: free what no version needs any more."""

from __future__ import annotations

import dataclasses

import click

from artifactfs.commands import show
from artifactfs.commands.options import StoreChoice, json_option, store_options


@click.command(short_help="Free the bytes that only deleted versions used.")
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=24.0,
    show_default=True,
    metavar="HOURS",
    help="Free only what an earlier gc, so long ago, found unused; longer than any commit takes.",
)
@click.option("--dry-run", is_flag=True, help="Delete nothing, say what would be deleted.")
@json_option
@store_options
def gc(store: StoreChoice, grace: float, dry_run: bool, as_json: bool) -> None:
    """Free the bytes that only deleted versions used.

    It takes two runs, --grace apart: the first notes what is unused, a later one frees what still is. So it may run
    while others commit, every day for example.

    \b
    --json prints one object: dry_run, versions, objects, size_bytes (of all objects), deleted_objects,
    deleted_bytes, deleted_leftovers (temporary files of writers that died), waiting_objects, waiting_bytes
    (unused, not due yet), unknown_files (not ours, left alone).
    """
    manager = store.connect()
    with show.progress("freeing", lambda: None) as progress:
        report = manager.gc(grace_s=grace * 3600, dry_run=dry_run, progress=progress)
    if as_json:
        show.json_object(dataclasses.asdict(report))
        return
    verb = "would be deleted" if dry_run else "deleted"
    gone = f"{show.count(report.deleted_objects, 'object')}, {show.size(report.deleted_bytes)} {verb}"
    lines = [f"{gone}, of {show.count(report.objects, 'object')}, {show.size(report.size_bytes)}"]
    if report.waiting_objects:
        waiting = f"{show.count(report.waiting_objects, 'object')}, {show.size(report.waiting_bytes)}"
        lines.append(f"{waiting} unused but not due: a run {grace:g} hours after the one that noted them frees them")
    if report.unknown_files:
        lines.append(f"{show.count(report.unknown_files, 'file')} not written by artifactfs, left alone")
    show.lines(lines)
