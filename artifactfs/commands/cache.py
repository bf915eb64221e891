"""``artifactfs cache``: what the content cache holds; empty it."""

from __future__ import annotations

from pathlib import Path

import click

from artifactfs.commands import show
from artifactfs.commands.options import cache_dir_option, json_option


@click.command(short_help="Show what is kept on this machine of remote stores.")
@click.option("--clear", is_flag=True, help="Delete everything in it. Programs that read go on, from the store.")
@cache_dir_option
@json_option
def cache(clear: bool, cache_dir: str | None, as_json: bool) -> None:
    """Show what is kept on this machine of stores that are not local.

    \b
    --json prints one object: directory, size_bytes, files (of the cache), free_bytes (on its disk), cleared_bytes
    (null unless --clear).
    """
    from artifactfs.content.cache import ContentCache

    kept = ContentCache(Path(cache_dir) if cache_dir else None)
    cleared = kept.clear() if clear else None
    usage = kept.usage()
    if as_json:
        about = {"directory": usage.directory, "size_bytes": usage.size_bytes, "files": usage.files}
        show.json_object({**about, "free_bytes": usage.free_bytes, "cleared_bytes": cleared})
        return
    held = f"{show.size(usage.size_bytes)} in {show.count(usage.files, 'file')}, {show.size(usage.free_bytes)} free"
    show.lines([f"{show.name(usage.directory)}: " + (f"{show.size(cleared)} deleted" if cleared is not None else held)])
