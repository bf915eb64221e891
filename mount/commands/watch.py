"""``artifactfs status --watch``: the status again and again, drawn on a terminal or as lines of JSON.

The mounts are asked every `POLL_S`, and what they say is shown when it differs from what is shown already. Threading:
used by the one thread of the command.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from artifactfs.commands.show import name
from mount.commands.overview import Row, View, view

if TYPE_CHECKING:
    from rich.console import RenderableType

POLL_S = 0.5
_BAR_CHARACTERS = 20
_MOST_CHARACTERS = 60
# Fields of the JSON that time changes by itself.
_PASSING = frozenset(["quiet_s", "commits_in_s", "bytes_s", "seconds_left"])

Find = Callable[[], "list[dict[str, Any]]"]


def watch(find: Find, *, as_json: bool) -> None:
    """Show what `find` finds until nothing is mounted any more, or the user has seen enough.

    Raises NotMounted when nothing is there at the beginning, UsageError without a terminal to draw on; Exit with 1
    when a daemon was killed.
    """
    if not as_json and not _can_draw():
        raise click.UsageError("--watch needs a terminal to draw on; --watch --json prints lines for a program instead")
    signal.signal(signal.SIGTERM, _end)
    # Nothing is wrong with an interruption: there is no other way to end.
    with contextlib.suppress(KeyboardInterrupt):
        found = _print_changes(find) if as_json else _draw_changes(find)
        if not found:
            click.echo("nothing is mounted any more", err=True)
            return
        click.echo(f"{found[0]['mountpoint']}: {found[0]['problem']}", err=True)
        raise click.exceptions.Exit(1)


def _end(number: int, _frame: object) -> None:
    # The terminal is put back as it was on the way out.
    sys.exit(128 + number)


def _can_draw() -> bool:
    from rich.console import Console

    console = Console()
    return console.is_terminal and not console.is_dumb_terminal


def _asked_again(find: Find) -> Iterator[list[dict[str, Any]]]:
    """Yield what is found, every `POLL_S`, until no mount lives; at last the dead ones."""
    from mount.mounts import NotMounted

    first = True
    while True:
        began_s = time.monotonic()
        try:
            found = find()
        except NotMounted:
            if first:
                raise
            found = []
        yield found
        if all(each["state"].value == "dead" for each in found):
            return
        first = False
        time.sleep(max(0.0, began_s + POLL_S - time.monotonic()))


# -- for programs ------------------------------------------------------------------------------------------------------


def _print_changes(find: Find) -> list[dict[str, Any]]:
    import msgspec

    last: Any = None
    found: list[dict[str, Any]] = []
    for found in _asked_again(find):
        mounts = msgspec.to_builtins(found)
        lasting = _lasting(mounts)
        if lasting != last:
            last = lasting
            click.echo(json.dumps({"at": round(time.time(), 3), "mounts": mounts}))
    return found


def _lasting(value: Any) -> Any:
    """Leave out the fields that time changes by itself."""
    if isinstance(value, dict):
        return {key: _lasting(each) for key, each in value.items() if key not in _PASSING}
    return [_lasting(each) for each in value] if isinstance(value, list) else value


# -- for people --------------------------------------------------------------------------------------------------------


def _draw_changes(find: Find) -> list[dict[str, Any]]:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    last: Any = None
    found: list[dict[str, Any]] = []
    with Live(console=console, auto_refresh=False) as live:
        for found in _asked_again(find):
            shown = [view(each) for each in found], console.size
            # What was seen last stays on the terminal.
            if found and shown != last:
                last = shown
                live.update(_frame(shown[0]), refresh=True)
    return found


def _frame(views: list[View]) -> RenderableType:
    from rich.console import Group

    parts: list[RenderableType] = []
    for each in views:
        parts += [_line("")] if parts else []
        parts += [_line(line) for line in each.above]
        if each.rows:
            parts.append(_rows(each.rows))
        parts += [_line(line) for line in each.below]
    return Group(*parts)


def _line(text: str) -> RenderableType:
    from rich.text import Text

    return Text(name(text), no_wrap=True, overflow="ellipsis")


def _rows(rows: list[Row]) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(5):
        grid.add_column(no_wrap=True)
    grid.add_column()
    for row in rows:
        bar: RenderableType = ""
        if row.fraction is not None:
            bar = ProgressBar(total=1.0, completed=row.fraction, width=_BAR_CHARACTERS)
        texts = [Text(name(cell)) for cell in row.cells]
        grid.add_row(f"  {texts[0]}", *texts[1:4], bar, texts[4])
    return grid
