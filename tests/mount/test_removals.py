"""Artifacts that are removed while programs use them, and made again."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.mount.harness import Mount

pytestmark = pytest.mark.fuse

_REMOVE = "os.rmdir(artifact); os.mkdir(artifact)"
_WRITE = "os.close(os.open(artifact + '/staging/f', os.O_CREAT | os.O_WRONLY)); os.unlink(artifact + '/staging/f')"
_LOOK = "os.lstat(artifact + '/staging'); os.listdir(artifact + '/staging'); os.lstat(artifact + '/staging/f')"
_LOOP = """
import contextlib, os, sys
artifact = sys.argv[1]
for _ in range(400):
    with contextlib.suppress(OSError):
        {}
with contextlib.suppress(FileExistsError):
    os.mkdir(artifact)
"""


def test_removing_and_writing_at_once(mount: Mount) -> None:
    """S1: programs that remove an artifact, write to its staging and look there never wait for each other."""
    staging = mount.make("c/a")
    programs = [
        subprocess.Popen([sys.executable, "-c", _LOOP.format(calls), staging.parent])
        for calls in (_REMOVE, _WRITE, _WRITE, _LOOK)
    ]
    assert [program.wait(60) for program in programs] == [0, 0, 0, 0]
