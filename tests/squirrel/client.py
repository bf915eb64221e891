"""squirrel-core in an interpreter of its own, which `worker` runs in: calls go out, answers come back."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path


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

    def fresh(self, name: str, *arguments):
        """The same in a process of its own, in which nothing was imported yet."""
        program = [self.python, str(Path(__file__).with_name("fresh.py")), name, json.dumps(arguments)]
        done = subprocess.run(program, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def close(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0
