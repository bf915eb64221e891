"""Every scenario as an ordinary user, for whom fusermount3 mounts: by both drivers, and directly on the vfs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests import scenarios
from tests.mount.ordinary_user import REPOSITORY, ordinary_user, why_not

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="the other tests of scenarios run as an ordinary user already"),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]

Ask = Callable[[str], "str | None"]


@pytest.fixture(scope="module", params=["kernel", "libfuse", "direct"])
def driver(request: pytest.FixtureRequest) -> str:
    """Every harness in turn; each may run in a process of its own."""
    return str(request.param)


@pytest.fixture(scope="module")
def ask(driver: str) -> Iterator[Ask]:
    """A worker of that user that runs scenarios; nothing is wrong with its mounts at the end."""
    with ordinary_user() as user:
        command = ["env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-m", "tests.scenarios.worker", user.home, driver]
        with user.start(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
            assert worker.stdin is not None
            assert worker.stdout is not None
            stdin, stdout = worker.stdin, worker.stdout

            def ask(name: str) -> str | None:
                print(name, file=stdin, flush=True)
                return answer()

            def answer() -> str | None:
                line = stdout.readline()
                assert line, "the worker has died"
                failure: str | None = json.loads(line)
                return failure

            try:
                yield ask
                stdin.close()
                failure = answer()
            finally:
                worker.terminate()
    assert failure is None, failure


@pytest.mark.parametrize("row", scenarios.ALL, ids=lambda row: row.name)
def test_scenario(row: scenarios.Scenario, driver: str, ask: Ask) -> None:
    """See the scenario."""
    if row.mounted and driver == "direct":
        pytest.skip("it needs the kernel")
    failure = ask(row.name)
    if failure is not None:
        pytest.fail(failure, pytrace=False)
