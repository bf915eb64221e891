"""How the commands print: numbers, tables, JSON, colours and progress.

Colours and bars appear on a terminal only, and colours not where NO_COLOR is set. Names and messages come from others:
on a terminal, characters that could drive it are shown as ``?``. Used by the one thread of a command; a progress
callback may come from any thread. rich is imported only when there is a terminal to draw on.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from artifactfs.managers.base import Progress, VersionInfo
    from artifactfs.manifest import Entry

_SHOWN = "artifactfs.shown"
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")
_LINES_AT_ONCE = 5000
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def _as_it_can_be_shown(error: UnicodeError) -> tuple[bytes, int]:
    """Bytes of a name that are no UTF-8 as they are, and ``?`` for a character that the terminal's encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    cannot = error.object[error.start : error.end]
    return b"".join(bytes([ord(c) - 0xDC00]) if "\udc80" <= c <= "\udcff" else b"?" for c in cannot), error.end


def take_any_text() -> None:
    """Let stdout take every text in every locale. Called once, before anything is printed."""
    codecs.register_error(_SHOWN, _as_it_can_be_shown)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=_SHOWN)


def size(size_bytes: float) -> str:
    """``1.5 MiB``."""
    if size_bytes < 1024:
        return f"{size_bytes:.0f} B"
    for unit in _UNITS:
        size_bytes /= 1024
        if size_bytes < 1024 or unit == _UNITS[-1]:
            break
    return f"{size_bytes:.1f} {unit}"


def count(number: int, thing: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def date(time_ns: int) -> str:
    """``2025-11-23 22:07:31`` in local time; empty for a time that is not known."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_ns // 1_000_000_000)) if time_ns else ""


def moment(time_ns: int) -> str | None:
    """ISO 8601 in UTC, for JSON; None for a time that is not known."""
    return (_EPOCH + timedelta(microseconds=time_ns // 1000)).isoformat() if time_ns else None


def one_line(text: str) -> str:
    """`text` in one line, without characters that could drive a terminal."""
    return _harmless(" ".join(text.split()))


def name(text: str) -> str:
    """A file name as it is, so that programs can use it; on a terminal without characters that could drive it."""
    return _harmless(text) if sys.stdout.isatty() else text


def is_plain() -> bool:
    """Tell whether names are printed as they are: no terminal, no colours."""
    return not sys.stdout.isatty()


def _harmless(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def styled(text: str, **style: Any) -> str:
    """`text` in colour, where colours are wanted."""
    return click.style(text, **style) if text and colours_wanted() else text


def colours_wanted() -> bool:
    """Tell whether stdout is a terminal and nobody asked for plain text (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def lines(texts: Iterable[str], end: str = "\n") -> None:
    """Print lines, many at once, since each print is flushed; file names come out byte for byte."""
    texts = iter(texts)
    while some := list(islice(texts, _LINES_AT_ONCE)):
        click.echo(os.fsencode(end.join(some) + end), nl=False)


def table(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """Rows with aligned columns, those numbered in `right` to the right. Styles do not count as width."""
    if not rows:
        return []
    widths = [max(len(click.unstyle(cell)) for cell in column) for column in zip(*rows, strict=True)]
    right = set(right)
    aligned = []
    for row in rows:
        cells = []
        for number, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - len(click.unstyle(cell)))
            cells.append(space + cell if number in right else cell + space)
        aligned.append("  ".join(cells).rstrip())
    return aligned


def json_object(value: Mapping[str, Any]) -> None:
    """Print one JSON object."""
    click.echo(json.dumps(value, indent=2))


def json_array(values: Iterable[Mapping[str, Any]]) -> None:
    """Print a JSON array with one object on each line, as they come."""

    def texts() -> Iterator[str]:
        separator = "[\n"
        for value in values:
            yield separator + json.dumps(value)
            separator = ",\n"
        yield "[]\n" if separator == "[\n" else "\n]\n"

    lines(texts(), end="")


def version_fields(info: VersionInfo, aliases: Mapping[str, str]) -> dict[str, Any]:
    """A version as JSON shows it; `aliases` are those of its artifact."""
    return {
        "collection": info.collection,
        "artifact": info.artifact,
        "version": info.version,
        "created_at": moment(info.created_ns),
        "files": info.file_count,
        "size_bytes": info.size_bytes,
        "digest": info.digest,
        "message": info.message,
        "metadata": dict(info.metadata),
        "creator": info.creator,
        "parent": info.parent,
        "aliases": aliases_of(info.version, aliases),
    }


def aliases_of(version: str, aliases: Mapping[str, str]) -> list[str]:
    """The aliases of one version, sorted."""
    return sorted(alias for alias, of in aliases.items() if of == version)


def entry_fields(entry: Entry) -> dict[str, Any]:
    """A file, directory or symlink of a version as JSON shows it."""
    return {
        "path": entry.path,
        "kind": entry.kind.name.lower(),
        "size_bytes": entry.size_bytes,
        "digest": entry.digest,
        "mode": f"{entry.mode:04o}",
        "modified_at": moment(entry.mtime_ns),
        "target": entry.target,
    }


@contextmanager
def progress(text: str, total_bytes: Callable[[], int | None]) -> Iterator[Progress | None]:
    """A progress bar for one transfer while stderr is a terminal, else nothing; `total_bytes` is asked only then."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=total_bytes())

        def report(done_bytes: int, done_files: int) -> None:
            files = f": {count(done_files, 'file')}" if done_files else ""
            bar.update(task, completed=done_bytes, description=text + files)

        yield report
