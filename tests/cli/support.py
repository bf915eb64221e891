"""Running the store's commands: the installed program as scripts do, or click's runner where many cases are tried."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from mount.cli import cli

PROGRAM = str(Path(sys.executable).with_name("artifactfs"))
TIMEOUT_S = 240


class Commands:
    """Runs commands on one store in this process."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, *arguments: str | Path, status: int = 0, input: str | None = None) -> Result:
        done = CliRunner().invoke(
            cli, list(map(str, arguments)), env={"ARTIFACTFS_STORE": self.url}, input=input, prog_name="artifactfs"
        )
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == status, done.output
        return done

    def lines(self, *arguments: str | Path, status: int = 0) -> list[str]:
        return self(*arguments, status=status).stdout.splitlines()

    def json(self, *arguments: str | Path, status: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", status=status).stdout)


def program(
    *arguments: str | bytes | Path, store: str | None = None, env: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[Any]:
    """Run the installed program; nothing it inherits says which store."""
    clean = {key: value for key, value in os.environ.items() if key not in ("ARTIFACTFS_STORE", "NO_COLOR")}
    if store is not None:
        clean["ARTIFACTFS_STORE"] = store
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, **options}
    command = [PROGRAM, *arguments]
    return subprocess.run(command, timeout=TIMEOUT_S, check=False, env={**clean, **(env or {})}, **options)
