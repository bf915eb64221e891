"""The daemon dies while the kernel is being told of a name: nobody hangs."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mount import mounts
from mount.drivers.kernel import mounting, protocol
from mount.drivers.kernel.channel import Channel
from mount.drivers.kernel.negotiation import agree
from mount.drivers.kernel.notifier import Herald
from mount.drivers.kernel.replies import FOREVER, attr_out
from mount.drivers.kernel.session import BUFFER_BYTES
from mount.settings import MountSettings
from mount.tree import Attrs
from tests.kernel.serving import END_S
from tests.mount.harness import eventually

pytestmark = pytest.mark.fuse

ROOT = Attrs(1, 0o040755, 0, 0, 0, 0, os.getuid(), os.getgid())
DIES_WITHIN_S = 10.0


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    """Where nothing is left mounted."""
    path = tmp_path / "mnt"
    path.mkdir()
    yield path
    while mounts.entry_at(path) is not None:
        mounts.unmount(path, lazy=True)


def mount(mountpoint: Path) -> Channel:
    """A connection that has said hello."""
    directory = mountpoint.parent
    settings = MountSettings("store", mountpoint, read_only=True, state_dir=directory, cache_dir=directory)
    channel = Channel(mounting.mount(settings))
    opcode, unique, body = receive(channel)
    assert opcode == protocol.FUSE_INIT
    agreed = agree(memoryview(body))
    assert agreed is not None
    channel.reply(unique, agreed.reply)
    return channel


def receive(channel: Channel) -> tuple[int, int, bytes]:
    """(opcode, unique, body) of the next request."""
    buffer = bytearray(BUFFER_BYTES)
    size = channel.receive([buffer])
    _, opcode, unique, *_ = protocol.fuse_in_header.unpack_from(buffer)
    return opcode, unique, bytes(buffer[protocol.fuse_in_header.size : size])


def await_lookup(channel: Channel) -> None:
    """Take a LOOKUP and leave it unanswered; what comes before it is answered."""
    while (request := receive(channel))[0] != protocol.FUSE_LOOKUP:
        assert request[0] == protocol.FUSE_GETATTR
        channel.reply(request[1], attr_out(ROOT, FOREVER))


def die(herald: Herald) -> None:
    """As the kernel does for a daemon that is killed."""
    herald._orders.shutdown(socket.SHUT_RDWR)


def waits_for_good(process: int) -> bool:
    """Whether a thread of a process waits in a way that nothing interrupts."""
    states = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{process}/task").glob("*/stat")]
    return "D" in states


def test_programs_get_an_error_when_the_daemon_dies(mountpoint: Path) -> None:
    """D9: one whose request was read holds a directory's lock, and so does one whose request nobody has read."""
    channel = mount(mountpoint)
    herald = Herald(channel, mounts.entry_at(mountpoint))
    programs = [subprocess.Popen(["stat", mountpoint / "read"], stderr=subprocess.DEVNULL)]
    await_lookup(channel)
    programs.append(subprocess.Popen(["stat", mountpoint / "unread"], stderr=subprocess.DEVNULL))
    unread = select.poll()
    unread.register(channel.fd, select.POLLIN)
    assert unread.poll(END_S * 1000)
    expired = protocol.fuse_notify_inval_entry_out.pack(protocol.FUSE_ROOT_ID, 4, protocol.FUSE_EXPIRE_ONLY)
    message = channel.notification(protocol.FUSE_NOTIFY_INVAL_ENTRY, expired, b"name\0")

    def tell() -> None:
        with contextlib.suppress(OSError):
            herald.send(message)

    telling = threading.Thread(target=tell)
    telling.start()
    eventually(lambda: waits_for_good(herald._process.pid), what="the notification to wait for the lock")
    # As the kernel does for a process that is killed.
    channel.close()
    die(herald)
    telling.join(DIES_WITHIN_S)
    assert not telling.is_alive()
    assert all(program.wait(DIES_WITHIN_S) > 0 for program in programs)
    herald._process.wait(DIES_WITHIN_S)
    herald.close()
    done = subprocess.run(
        ["stat", "-f", mountpoint], capture_output=True, text=True, timeout=DIES_WITHIN_S, check=False
    )
    assert "not connected" in done.stderr or "abort" in done.stderr


def test_it_tells_what_the_kernel_says(mountpoint: Path) -> None:
    """D9: a message that makes no sense is told apart from one about nothing cached, and the next one is sent."""
    channel = mount(mountpoint)
    herald = Herald(channel, mounts.entry_at(mountpoint))
    absent = protocol.fuse_notify_inval_entry_out.pack(protocol.FUSE_ROOT_ID, 4, 0)
    known = channel.notification(protocol.FUSE_NOTIFY_INVAL_ENTRY, absent, b"name\0")
    for _ in range(2):
        channel.check_notified(herald.send(known))
        with pytest.raises(OSError, match="Invalid argument"):
            channel.check_notified(herald.send(channel.notification(99, absent)))
    herald.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        herald.send(known)
    channel.close()


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The control file system of FUSE, which few containers have where it belongs."""
    path = tmp_path / "connections"
    path.mkdir()
    subprocess.run(["mount", "-t", "fusectl", "fusectl", path], check=True)
    monkeypatch.setattr(mounts, "FUSE_CONNECTIONS", str(path))
    yield
    subprocess.run(["umount", path], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts the control file system of FUSE")
def test_it_ends_the_connection_where_there_is_a_file_for_that(mountpoint: Path, control: None) -> None:
    """D9: nobody has to be failed one by one."""
    channel = mount(mountpoint)
    herald = Herald(channel, mounts.entry_at(mountpoint))
    die(herald)
    assert herald._process.wait(DIES_WITHIN_S) == 0
    assert channel.receive([bytearray(BUFFER_BYTES)]) == 0
    channel.close()
    herald.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts the control file system of FUSE")
def test_it_ends_no_connection_but_its_own(mountpoint: Path, tmp_path: Path, control: None) -> None:
    """D9: once unmounted, the number of a mount is given to the next one, and the process may end after that."""
    channel = mount(mountpoint)
    herald = Herald(channel, mounts.entry_at(mountpoint))
    ended = mounts.entry_at(mountpoint)
    assert ended is not None
    mounts.unmount(mountpoint)
    channel.close()
    others = []
    try:
        for number in range(8):
            (tmp_path / f"other{number}" / "mnt").mkdir(parents=True)
            others.append(tmp_path / f"other{number}" / "mnt")
            last = mount(others[-1])
            entry = mounts.entry_at(others[-1])
            assert entry is not None
            if entry.device == ended.device:
                break
            last.close()
        else:
            pytest.skip("the number went to a mount of somebody else")
        die(herald)
        assert herald._process.wait(DIES_WITHIN_S) == 0
        herald.close()
        asking = subprocess.Popen(["stat", others[-1] / "name"], stderr=subprocess.DEVNULL)
        await_lookup(last)
        last.close()
        assert asking.wait(DIES_WITHIN_S) != 0
    finally:
        for other in others:
            while mounts.entry_at(other) is not None:
                mounts.unmount(other, lazy=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts the control file system of FUSE")
def test_it_leaves_the_connection_when_it_is_told_to_end(mountpoint: Path, control: None) -> None:
    """D9: one that failed gives way to another while the mount lives."""
    channel = mount(mountpoint)
    herald = Herald(channel, mounts.entry_at(mountpoint))
    herald.close()
    assert herald._process.returncode == 0
    asking = subprocess.Popen(["stat", mountpoint / "name"], stderr=subprocess.DEVNULL)
    await_lookup(channel)
    channel.close()
    assert asking.wait(DIES_WITHIN_S) != 0
