"""Artifacts that are removed while programs use them, and made again."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.harness import EVENTUALLY_S, Mount
from tests.scenarios import refused

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


@contextlib.contextmanager
def held_open(directory: Path) -> Iterator[int]:
    """A descriptor of a directory: to the kernel the same as a working directory."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def check_works(mount: Mount, label: str) -> None:
    """Write to a new artifact, commit it and read the version."""
    artifact = mount / label
    assert os.listdir(artifact) == ["staging"]
    (artifact / "staging/d").mkdir()
    (artifact / "staging/d/f").write_text("written")
    assert os.listdir(artifact / "staging") == ["d"]
    assert mount.commit(label)["version"] == "v0"
    assert (artifact / "v0/d/f").read_text() == "written"
    assert (artifact / "latest/d/f").read_text() == "written"


def test_removing_and_writing_at_once(mount: Mount) -> None:
    """S1: programs that remove an artifact, write to its staging and look there never wait for each other."""
    artifact = mount.make("c/a").parent
    programs = [
        subprocess.Popen([sys.executable, "-c", _LOOP.format(calls), artifact])
        for calls in (_REMOVE, _WRITE, _WRITE, _LOOK)
    ]
    assert [program.wait(EVENTUALLY_S) for program in programs] == [0, 0, 0, 0]
    check_works(mount, "c/a")


@pytest.mark.parametrize("place", ["c", "c/a", "c/a/staging"])
def test_made_again_while_a_program_is_there(mount: Mount, place: str) -> None:
    """S17: what is made under the name of a removed artifact or collection works, whoever still holds the old one."""
    mount.make("c/a")
    with held_open(mount / place):
        for _ in range(2):
            (mount / "c/a").rmdir()
            (mount / "c").rmdir()
            (mount / "c/a").mkdir(parents=True)
            with held_open(mount / place):
                (mount / "c/a").rmdir()
                (mount / "c/a").mkdir()
        check_works(mount, "c/a")
    # The kernel lets go of the old ones now.
    (mount / "c/a/staging/g").write_text("more")
    assert mount.commit("c/a")["version"] == "v1"
    assert os.listdir(mount / "c/a/v1") == ["g"]


def test_a_removed_staging_takes_no_files(mount: Mount) -> None:
    """S17: nothing is made through a descriptor of it, before and after the artifact is made again."""
    artifact = mount.make("c/a").parent
    with held_open(artifact / "staging") as fd:
        artifact.rmdir()
        for _ in range(2):
            with refused(errno.ENOENT, errno.ESTALE):
                os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
            artifact.mkdir(exist_ok=True)
        check_works(mount, "c/a")
