"""The process that ends what a test hangs on."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mount.harness import COMMAND_TIMEOUT_S

HANGS = """
import os, signal, sys
from pathlib import Path
from tests.mount.harness import Mount, eventually
from tests.watchdog import Watchdog

mount = Mount(Path(sys.argv[1]), driver=sys.argv[2])
dog = Watchdog(drives_s=1.0)
mount.mount("--commit-after", "never")
daemon = mount.daemon
daemon.send(signal.SIGSTOP)
stat = Path(f"/proc/{daemon.pid}/stat")
eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
with dog.watching("test_that_hangs"):
    try:
        os.statvfs(mount.path)
    except OSError as error:
        print("let go:", error)
    print("it said:", eventually(dog.said))
dog.close()
mount.expect_warning("")
print("left:", mount.tear_down())
"""

WAITS = """
import time
from tests.watchdog import Watchdog

dog = Watchdog(drives_s=0.1, tests_s=0.2)
with dog.watching("test_that_ends"):
    pass
with dog.watching("test_that_waits"):
    time.sleep(1000)
"""


@pytest.mark.fuse
def test_a_test_that_hangs_on_a_stopped_daemon_is_let_go(tmp_path: Path, driver: str) -> None:
    command = [sys.executable, "-c", HANGS, tmp_path, driver]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
    assert done.returncode == 0, done
    assert "let go: " in done.stdout
    assert "it said: the test took more than 1 s: killed " in done.stdout
    assert "left: []" in done.stdout


def test_a_process_of_tests_that_does_not_go_on_is_killed() -> None:
    command = [sys.executable, "-c", WAITS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
    assert done.returncode == -signal.SIGKILL, done
    assert "test_that_waits hangs" in done.stderr
