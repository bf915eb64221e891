"""The daemon's log: nothing secret in it, nothing lost from it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from artifactfs.redaction import redact, secrets_in
from mount import logs


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://key:secret@bucket/x", "s3://***@bucket/x"),
        ("https://token@host/x", "https://***@host/x"),
        ("cannot reach s3://key:se@cret@host: no", "cannot reach s3://***@host: no"),
        ("sftp://bob@host/x", "sftp://bob@host/x"),
        ("sftp://bob:pw@host/x", "sftp://***@host/x"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),
        ("https://host/x?sig=abc&part=1", "https://host/x?sig=***&part=1"),
        ("https://host/x?X-Amz-Signature=abc", "https://host/x?X-Amz-Signature=***"),
        ("'s3://a:b@c' and 's3://d:e@f'", "'s3://***@c' and 's3://***@f'"),
        ("/data/a@b", "/data/a@b"),
        ("file:///data/a@b", "file:///data/a@b"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
    ],
)
def test_redact(text: str, shown: str):
    assert redact(text) == shown


def test_secrets_are_found_by_the_names_of_options():
    options = {"key": "AKIA", "client_kwargs": {"aws_secret_access_key": "s3cr3t", "region": "eu"}, "anon": False}
    assert secrets_in(options) == {"AKIA", "s3cr3t"}


@pytest.mark.parametrize("mountpoint", ["/mnt", "/mnt/a b/ü", "/" + "x" * 250, "/" + "ü" * 120])
def test_file_names_fit_and_are_plain(mountpoint: str):
    stem = logs.file_stem(Path(mountpoint))
    assert re.fullmatch(r"[A-Za-z0-9_.:%-]{1,230}", stem)


def test_mountpoints_do_not_share_a_log():
    paths = ["/a/b", "/a%2Fb", "/a-b", "/a_b", "/" + "x" * 240, "/" + "x" * 241]
    assert len({logs.file_stem(Path(path)) for path in paths}) == len(paths)


PROGRAM = """
import logging, sys, threading, warnings
from pathlib import Path
from mount import logs
from mount.settings import MountSettings
settings = MountSettings("memory://x", Path("/mnt"), state_dir=Path(sys.argv[1]), options={"token": "hunter2"})
Path(sys.argv[1], "logs").mkdir()
logs.set_up(settings, to_stderr=False)
def fail():
    raise RuntimeError("in a thread with hunter2")
thread = threading.Thread(target=fail, name="unlucky")
thread.start()
thread.join()
warnings.warn("a warning", stacklevel=1)
class Bad:
    def __del__(self):
        raise RuntimeError("in a finaliser")
Bad()
logging.getLogger("botocore").debug("Authorization: hunter2")
raise RuntimeError("in main at s3://a:b@c")
"""


def test_what_nobody_catches_is_logged(tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", PROGRAM, tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    log = logs.log_file(tmp_path, Path("/mnt")).read_text()
    assert re.search(r"Z CRITICAL unlucky mount.logs: uncaught exception in thread unlucky\nTraceback", log)
    assert "RuntimeError: in a thread with ***" in log
    assert "a warning" in log
    assert "RuntimeError: in a finaliser" in log
    assert "RuntimeError: in main at s3://***@c" in log
    assert "hunter2" not in log
    assert "Authorization" not in log


def test_log_is_bounded(tmp_path: Path):
    program = PROGRAM.partition("def fail")[0] + (
        "for handler in logging.getLogger().handlers:\n"
        "    handler.maxBytes = 1000\n"
        "for number in range(1000):\n"
        "    logging.getLogger('mount').info('line %d', number)\n"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path], check=True)
    sizes = [path.stat().st_size for path in (tmp_path / "logs").iterdir()]
    assert len(sizes) == logs.KEPT_FILES + 1
    assert max(sizes) <= 1000
