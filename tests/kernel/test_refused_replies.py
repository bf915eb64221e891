"""Replies that the kernel does not take: the program is told EIO, and the mount goes on."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.managers.filesystem import FileSystemArtifactManager
from mount.drivers.kernel import protocol
from mount.drivers.kernel.session import Session
from tests.kernel.serving import END_S, served

pytestmark = pytest.mark.fuse

TOO_LONG = bytes(3 << 20)
V0 = "mnt/c/a/v0"
# What makes the kernel send each request, as Python run elsewhere with the mount's version as its directory.
CALLS = {
    "LOOKUP": "os.lstat('file')",
    "READLINK": "os.readlink('link')",
    "READ": "open('file', 'rb').read()",
    "STATFS": "os.statvfs('.')",
    "GETXATTR": "os.getxattr('file', 'user.artifactfs.digest')",
    "LISTXATTR": "os.listxattr('file')",
    "OPENDIR": "os.listdir('.')",
    "READDIRPLUS": "os.listdir('.')",
}


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """A mount with a file, an honest one and a symlink."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"x" * 200_000)
    (source / "honest").write_bytes(b"honest")
    (source / "link").symlink_to("file")
    manager = FileSystemArtifactManager(str(tmp_path / "store"))
    manager.log_files("a", source, "c")
    with served(manager, tmp_path) as session:
        yield session


def errno_told(directory: Path, call: str) -> str:
    """The name of the errno that a program gets from `call`; '' for success."""
    code = f"import errno, os, sys\ntry: os.chdir(sys.argv[1]); {call}\n"
    code += "except OSError as e: print(errno.errorcode[e.errno])"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, directory], capture_output=True, text=True, timeout=END_S, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("name", CALLS)
def test_one_refused_reply_costs_one_request(
    session: Session, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """D8: whatever is wrong with one answer, the others come."""
    directory = tmp_path / V0
    assert (subprocess.check_output(["cat", directory / "honest"], timeout=END_S)) == b"honest"
    opcode = getattr(protocol, f"FUSE_{name}")
    sound = session._handlers[opcode]
    session._handlers[opcode] = sound._replace(handle=lambda request: TOO_LONG, try_at_once=None)
    with caplog.at_level(logging.ERROR):
        told = errno_told(directory, CALLS[name])
    session._handlers[opcode] = sound
    assert told == "EIO"
    assert "the kernel refuses a reply" in caplog.text
    assert (subprocess.check_output(["cat", directory / "honest"], timeout=END_S)) == b"honest"


@pytest.mark.parametrize("name", ["LOOKUP", "READ", "GETXATTR"])
def test_an_errno_of_the_kernels_own_is_told_as_eio(session: Session, tmp_path: Path, name: str) -> None:
    """D8: network file systems let such numbers through, and the kernel takes none from us."""

    def fail(request: object) -> bytes:
        raise OSError(524, "ENOTSUPP")

    opcode = getattr(protocol, f"FUSE_{name}")
    session._handlers[opcode] = session._handlers[opcode]._replace(handle=fail, try_at_once=None)
    assert errno_told(tmp_path / V0, CALLS[name]) == "EIO"
