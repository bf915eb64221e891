"""The command line: the program ``artifactfs``.

`cli` is the group that every command hangs on: those of the drive are in `mount.commands`, those of a store in
`artifactfs.cli`. This module and the commands import click and nothing else at their top: ``--help`` and ``--version``
answer at once, and what a command needs is imported when it runs. Errors that are foreseen are one line on stderr and
exit status 1, unless the error names another; wrong usage is 2.
"""

from __future__ import annotations

import os
import sys

import click

from artifactfs.cli import COMMANDS
from artifactfs.commands import show
from artifactfs.commands.options import STORE_VARIABLE
from artifactfs.redaction import redact, remember_arguments
from mount.commands.commit import commit
from mount.commands.diff import diff
from mount.commands.discard import discard
from mount.commands.mount import mount
from mount.commands.reopen import reopen
from mount.commands.retry import retry
from mount.commands.run import run
from mount.commands.stage import stage
from mount.commands.status import status as status_command
from mount.commands.umount import umount

PROGRAM = "artifactfs"
INTERRUPTED = 130


def _print_version(context: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if not asked:
        return
    from artifactfs import __version__

    click.echo(f"{PROGRAM} {__version__}")
    context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
def cli() -> None:
    """Versioned machine-learning artifacts on any storage, as a drive."""


for _command in (mount, umount, status_command, commit, run, stage, retry, reopen, discard, *COMMANDS, diff):
    cli.add_command(_command)


def main() -> None:
    """Entry point of the program."""
    _use_utf8()
    _have_standard_streams()
    show.take_any_text()
    remember_arguments([*sys.argv[1:], os.environ.get(STORE_VARIABLE, "")])
    try:
        # The status of click.exceptions.Exit, None when a command comes to its end.
        status = cli.main(prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except click.Abort:
        click.echo(f"{PROGRAM}: stopped", err=True)
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        setattr(error, "message", redact(error.message))  # noqa: B010 - click marks it as final
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output has seen enough.
        _drop_output()
        sys.exit(1)
    except Exception as error:
        if not _is_foreseen(error):
            raise
        click.echo(f"{PROGRAM}: {_output_failed() or redact(_one_line(error))}", err=True)
        sys.exit(getattr(error, "exit_status", 1))
    sys.exit(status)


def _use_utf8() -> None:
    """Start again with UTF-8 for the names of files, where the locale has another encoding for them.

    Names in a version are UTF-8: read by another encoding they would be others there.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", "-m", "mount.cli", *sys.argv[1:]])


def _have_standard_streams() -> None:
    """Let no file that a command opens take the number of a stream that is closed; without stdout, end."""
    closed = [fd for fd, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)) if stream is None]
    for _ in closed:
        os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    if 0 in closed:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - it stays open
    if 2 in closed:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - it stays open
    if 1 in closed:
        click.echo(f"{PROGRAM}: standard output is closed", err=True)
        sys.exit(1)


def _output_failed() -> str | None:
    """The reason why output cannot be written, None when it can. The rest of the output is then dropped."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _drop_output()
        return f"cannot write the output: {error.strerror}"
    return None


def _drop_output() -> None:
    """Let what the interpreter still wants to flush go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), sys.stdout.fileno())


def _is_foreseen(error: Exception) -> bool:
    from artifactfs.errors import ArtifactError
    from mount.settings import SettingsError

    return isinstance(error, (ArtifactError, SettingsError, OSError))


def _has_current_directory() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _one_line(error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and not error.filename and not _has_current_directory():
        return "the current directory is not there any more"
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


if __name__ == "__main__":
    main()
