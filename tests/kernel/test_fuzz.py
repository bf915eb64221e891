"""Messages that no kernel sends: each is answered with an errno or dropped, and the session goes on.

A socket that keeps messages apart stands in for the device; all behind it is real.
"""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifactfs.managers.filesystem import FileSystemArtifactManager
from mount.area import StagingArea
from mount.committer import Committer
from mount.drivers.kernel import protocol
from mount.drivers.kernel.channel import Channel
from mount.drivers.kernel.session import Session
from mount.settings import MountSettings
from mount.vfs import Vfs

ANSWER_S = 30.0
MESSAGES = 3000
NO_REPLY = {protocol.FUSE_FORGET, protocol.FUSE_BATCH_FORGET, protocol.FUSE_INTERRUPT}

# Not what a file system must answer to anybody: they ask for the whole disk or for ever.
BODIES = [layout for name, layout in protocol.LAYOUTS.items() if name.endswith("_in") and name != "fuse_init_in"]


class Kernel:
    """The other end: sends requests and reads answers."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._end.settimeout(ANSWER_S)
        self._unique = 0

    def send(self, opcode: int, nodeid: int, body: bytes, *, length: int | None = None) -> int:
        """Send a request; its unique number."""
        self._unique += 2
        size = protocol.fuse_in_header.size + len(body) if length is None else length
        header = protocol.fuse_in_header.pack(size, opcode, self._unique, nodeid, 0, 0, os.getpid(), 0, 0)
        self._end.send(header + body)
        return self._unique

    def send_raw(self, message: bytes) -> None:
        """Send anything."""
        self._end.send(message)

    def answer(self, unique: int) -> tuple[int, bytes]:
        """(errno or 0, body) of a request; notifications on the way are passed over."""
        while True:
            message = self._end.recv(1 << 21)
            size, error, to = protocol.fuse_out_header.unpack_from(message)
            assert size == len(message)
            if to == unique:
                assert error == 0 or error == -abs(error)
                return -error, message[protocol.fuse_out_header.size :]

    def ask(self, opcode: int, nodeid: int, body: bytes) -> tuple[int, bytes]:
        """Send a request and wait for its answer."""
        return self.answer(self.send(opcode, nodeid, body))

    def lookup(self, nodeid: int, name: bytes) -> int:
        """The node id of a name."""
        error, body = self.ask(protocol.FUSE_LOOKUP, nodeid, name + b"\0")
        assert error == 0, os.strerror(error)
        return int(protocol.fuse_entry_out.unpack_from(body)[0])


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    """A session of a read-write drive that has said hello; it ends in order, whatever it was sent."""
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "file").write_bytes(b"content" * 100)
    (source / "sub/other").write_bytes(b"other")
    manager = FileSystemArtifactManager(str(tmp_path / "store"))
    manager.log_files("a", source, "c")
    settings = MountSettings(
        str(tmp_path / "store"),
        tmp_path / "mnt",
        commit_after_s=None,
        state_dir=tmp_path / "state",
        cache_dir=tmp_path / "cache",
    )
    area = StagingArea.open(manager, settings)
    committer = Committer(area, manager, settings, lambda *names: None)
    vfs = Vfs(manager, settings, area, committer, driver="kernel", log_file=None)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
    session = Session(Channel(theirs.fileno()), vfs, settings)
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            session.serve(lambda: None)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    kernel = Kernel(ours)
    body = protocol.fuse_init_in.pack(7, 45, 1 << 20, 0xFFFFFFFF & ~(1 << 31), 0x7FF, *([0] * 11))
    error, _ = kernel.ask(protocol.FUSE_INIT, 0, body)
    assert error == 0
    yield kernel
    ours.close()
    thread.join(ANSWER_S)
    assert not thread.is_alive()
    assert not failures, failures
    theirs.close()
    vfs.close()
    area.close()


def place(kernel: Kernel, chance: random.Random) -> list[int]:
    """Node ids of every kind, and some of nothing."""
    collection = kernel.lookup(1, b"c")
    artifact = kernel.lookup(collection, b"a")
    staging = kernel.lookup(artifact, b"staging")
    version = kernel.lookup(artifact, b"v0")
    known = [1, collection, artifact, staging, version, kernel.lookup(artifact, b"latest")]
    known += [kernel.lookup(version, b"file"), kernel.lookup(version, b"sub")]
    error, body = kernel.ask(
        protocol.FUSE_CREATE, staging, protocol.fuse_create_in.pack(os.O_RDWR, 0o644, 0o22, 0) + b"new\0"
    )
    assert error == 0
    known.append(protocol.fuse_entry_out.unpack_from(body)[0])
    return [*known, 0, (1 << 64) - 1, 1 << 34, 1 << 33, *(chance.getrandbits(64) for _ in range(3))]


def random_body(chance: random.Random, nodeids: list[int]) -> bytes:
    """A body that looks like some request's, or like none, whole or cut."""
    parts = []
    if chance.random() < 0.8:
        layout = chance.choice(BODIES)
        fields = []
        for _, code in layout.fields:
            bits = struct.calcsize(f"={code[-1]}") * 8
            small = chance.choice((0, 1, 2, 3, chance.randrange(10), chance.choice(nodeids)))
            fields += [chance.choice((small, small, chance.getrandbits(16))) & ((1 << bits) - 1)] * _count(code)
        parts.append(layout.pack(*fields))
    for _ in range(chance.randrange(3)):
        name = chance.choice((b"file", b"new", b"sub", b"..", b".", b"", b"a/b", b"\xff\xfe", b"x" * 300, b"staging"))
        parts.append(name + chance.choice((b"\0", b"\0", b"")))
    body = b"".join(parts)
    return body[: chance.randrange(len(body) + 1)] if chance.random() < 0.3 else body


def _count(code: str) -> int:
    return int(code[:-1]) if len(code) > 1 else 1


@pytest.mark.parametrize("seed", range(2))
def test_random_messages(kernel: Kernel, seed: int) -> None:
    """Of every opcode, to every kind of node."""
    chance = random.Random(seed)
    nodeids = place(kernel, chance)
    # Not said twice in a connection: hello and the end.
    opcodes = [code for code in protocol.OPCODES if code not in (protocol.FUSE_INIT, protocol.FUSE_DESTROY)]
    for _ in range(MESSAGES):
        opcode = chance.choice([*opcodes, chance.getrandbits(32)])
        unique = kernel.send(opcode, chance.choice(nodeids), random_body(chance, nodeids))
        if opcode not in NO_REPLY:
            error, _ = kernel.answer(unique)
            assert error < 134, f"{opcode}: errno {error}"
    # It still works, for who asks in order.
    collection = kernel.ask(protocol.FUSE_LOOKUP, 1, b"c\0")
    assert collection[0] in (0, errno.ENOENT)
    assert kernel.ask(protocol.FUSE_STATFS, 1, b"")[0] == 0


def test_truncated_messages(kernel: Kernel) -> None:
    """Every request cut short at every length, with its header saying so or not."""
    for opcode in (protocol.FUSE_LOOKUP, protocol.FUSE_SETATTR, protocol.FUSE_WRITE, protocol.FUSE_SETXATTR):
        body = bytes(100)
        for size in range(0, protocol.fuse_setattr_in.size, 3):
            assert kernel.ask(opcode, 1, body[:size])[0] != 0
            assert kernel.answer(kernel.send(opcode, 1, body[:size], length=4096))[0] == errno.EINVAL
    for size in range(1, protocol.fuse_in_header.size):
        kernel.send_raw(bytes(size))
    assert kernel.ask(protocol.FUSE_STATFS, 1, b"")[0] == 0
