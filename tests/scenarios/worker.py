"""Runs scenarios as the user of this process: ``python -m tests.scenarios.worker DIRECTORY kernel|libfuse|direct``.

Each line of stdin names a scenario. Each line of stdout is JSON: null, or what went wrong. The last line is about the
end of the drives.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests import scenarios
from tests.scenarios.harnesses import direct_drive, mounted_drives

Run = Callable[[scenarios.Scenario], None]


@contextlib.contextmanager
def harness(directory: Path, name: str) -> Iterator[Run]:
    """What runs one scenario on the drives of that name."""
    if name == "direct":
        yield lambda row: _run_directly(row, directory)
        return
    with mounted_drives(directory, name) as drives:
        yield lambda row: row.run(drives[row.automatic])


def _run_directly(row: scenarios.Scenario, directory: Path) -> None:
    own = Path(tempfile.mkdtemp(dir=directory))
    with direct_drive(str(own / "store"), own, automatic=row.automatic) as drive:
        row.run(drive)


def failure_of(call: Callable[[], None]) -> str | None:
    """The traceback of what `call` raises, also of pytest's own exceptions."""
    try:
        call()
    except BaseException:
        return traceback.format_exc()
    return None


def main() -> None:
    """Answer until stdin ends."""
    rows = {row.name: row for row in scenarios.ALL}

    def answer() -> None:
        with harness(Path(sys.argv[1]), sys.argv[2]) as run:
            for line in sys.stdin:
                _say(failure_of(partial(run, rows[line.strip()])))

    _say(failure_of(answer))


def _say(failure: str | None) -> None:
    print(json.dumps(failure), flush=True)


if __name__ == "__main__":
    main()
