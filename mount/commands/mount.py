"""``artifactfs mount``: check, start the daemon, come back when the mount answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from artifactfs.commands.options import PATH, STORAGE_OPTION_HELP, URL, key_value, nested, size_in_bytes

NEVER = -1.0
"""``--commit-after never`` while it is an option; None stands for one that is not given."""


def octal(text: str) -> int:
    """``022`` → 0o22."""
    try:
        return int(text, 8)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not an octal number") from None


def seconds_or_never(text: str) -> float:
    """``7.5`` → 7.5, ``never`` → NEVER."""
    if text == "never":
        return NEVER
    try:
        seconds = float(text)
    except ValueError:
        seconds = NEVER
    if not seconds >= 0:
        raise click.BadParameter(f"{text!r} is neither a number of seconds nor 'never'")
    return seconds


@click.command(short_help="Mount a store on an empty directory.")
@click.argument("url", type=URL)
@click.argument("mountpoint", type=PATH)
@click.option("--read-only", is_flag=True, help="No staging: the versions, and nothing that changes the store.")
@click.option(
    "--commit-after",
    type=seconds_or_never,
    metavar="SECONDS|never",
    help="Commit what is staged after so many quiet seconds, or at once when all who wrote have ended well; 'never' "
    "leaves it to 'artifactfs commit'.  [default: 30]",
)
@click.option(
    "--on-failure",
    metavar="hold|commit",
    help="What to do with the files of a program that failed: hold them until you decide, or commit them.  "
    "[default: hold]",
)
@click.option("--refresh", type=float, metavar="SECONDS", help="How old a listing may get.  [default: 2]")
@click.option(
    "--min-free",
    type=size_in_bytes,
    metavar="SIZE",
    help="Room that staging and the cache leave free on their disks, such as 500M.  [default: 1G]",
)
@click.option("--cache-dir", type=PATH, help="Where bytes of stores that are not local are kept.")
@click.option("--cache-size", type=size_in_bytes, metavar="SIZE", help="How much of them is kept.  [default: 10G]")
@click.option(
    "--read-timeout", type=float, metavar="SECONDS", help="How long a read waits for the store.  [default: 60]"
)
@click.option(
    "--drain-timeout", type=float, metavar="SECONDS", help="How long an unmount waits for commits.  [default: 60]"
)
@click.option("--allow-other", is_flag=True, help="Let other users in.")
@click.option("--uid", type=int, help="Owner that is shown.  [default: you]")
@click.option("--gid", type=int, help="Group that is shown.  [default: yours]")
@click.option("--umask", type=octal, metavar="OCTAL", help="Permission bits to hide.  [default: 000]")
@click.option("--state-dir", type=PATH, help="Place of logs, records and what is staged for remote stores.")
@click.option(
    "--take-staging",
    metavar="NAME",
    help="Go on with what another host or state directory left staged under NAME; 'artifactfs status' tells of it.",
)
@click.option("--driver", metavar="auto|kernel|libfuse", help="What speaks to the kernel.  [default: auto]")
@click.option(
    "--reads",
    metavar="auto|cache|passthrough",
    help="How the kernel driver gets the bytes of versions to programs.  [default: auto]",
)
@click.option(
    "--storage-option",
    "options",
    type=key_value,
    metavar="KEY=VALUE",
    multiple=True,
    help=STORAGE_OPTION_HELP,
)
@click.option("--foreground", is_flag=True, help="Stay, and log to the terminal as well.")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def mount(url: str, mountpoint: str, foreground: bool, **given: Any) -> None:
    """Mount the store URL on the empty directory MOUNTPOINT.

    URL is a directory or any fsspec URL (s3://bucket/path, memory://, …). A store that does not exist is made, in a
    directory that does.
    Versions are below <collection>/<artifact>; what is copied into the directory staging there becomes the next one.
    """
    from artifactfs.redaction import redact
    from mount import launch, preflight

    settings = make_settings(url, mountpoint, given)
    cleared = preflight.check(settings)
    if cleared:
        click.echo(f"artifactfs: {cleared}", err=True)
    if foreground:
        launch.in_foreground(settings)
    status = launch.in_background(settings)
    for fault in status.faults:
        click.echo(f"artifactfs: {fault}", err=True)
    store = redact(settings.url)
    if status.made_store:
        click.echo(f"made a new store at {store}")
    away = "" if status.reachable else ": it cannot be reached, and is shown as it is known from before"
    click.echo(f"mounted {store} on {settings.mountpoint}{away}")
    for waiting in status.waiting:
        click.echo(f"artifactfs: {waiting}", err=True)


def make_settings(url: str, mountpoint: str, given: dict[str, Any]) -> Any:
    """The MountSettings that the options ask for; what is not given keeps its default. Raises SettingsError."""
    import os

    from mount import mounts
    from mount.preflight import absolute_url
    from mount.settings import MountSettings

    chosen = {name: value for name, value in given.items() if value is not None}
    if "commit_after" in chosen:
        seconds = chosen.pop("commit_after")
        chosen["commit_after_s"] = None if seconds == NEVER else seconds
    if "refresh" in chosen:
        chosen["refresh_s"] = chosen.pop("refresh")
    if "min_free" in chosen:
        chosen["min_free_bytes"] = chosen.pop("min_free")
    if "cache_size" in chosen:
        chosen["cache_size_bytes"] = chosen.pop("cache_size")
    if "read_timeout" in chosen:
        chosen["read_timeout_s"] = chosen.pop("read_timeout")
    if "drain_timeout" in chosen:
        chosen["drain_timeout_s"] = chosen.pop("drain_timeout")
    for name in ("state_dir", "cache_dir"):
        if name in chosen:
            chosen[name] = Path(os.path.abspath(chosen[name]))
    chosen["options"] = nested(chosen["options"])
    return MountSettings(url=absolute_url(url), mountpoint=mounts.resolve(mountpoint), **chosen)
