"""The real squirrel-core, in a process of its own: what it depends on holds back what we depend on."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

VARIABLE = "ARTIFACTFS_SQUIRREL_PYTHON"


class SquirrelError(Exception):
    """squirrel-core raised; the message is what."""


class Squirrel:
    def __init__(self, python: str) -> None:
        self.python = python
        self._process = subprocess.Popen(
            [python, str(Path(__file__).with_name("worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(self, name: str, *arguments):
        """Run a function of `worker` there; its arguments and result are JSON."""
        self._process.stdin.write(json.dumps([name, arguments]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "squirrel's process died; its stderr says why"
        answer = json.loads(line)
        if "error" in answer:
            raise SquirrelError(answer["error"])
        return answer["result"]

    def close(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0


@pytest.fixture(scope="session")
def squirrel():
    python = os.environ.get(VARIABLE)
    if not python:
        reason = f"{VARIABLE} does not name a Python that has squirrel-core; scripts/test makes one"
        if os.environ.get("REQUIRE_FUSE") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    squirrel = Squirrel(python)
    yield squirrel
    squirrel.close()
