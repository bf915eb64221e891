"""A Ceph object gateway with one monitor and one storage daemon in memory, from Debian's packages unpacked: a real S3.

It is the S3 server for races: it honours If-None-Match on a single PUT, and ignores it for multipart uploads.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from tests.servers import DEBIAN, Server, ServerMissing
from tests.servers.process import START_TIMEOUT_S, free_port, listens, running
from tests.servers.s3 import s3_server

KEY, SECRET = "test", "testtest"
_PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph")

_CONFIGURATION = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{monitor_port},v1:127.0.0.1:{old_monitor_port}]
mon initial members = a
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail crit = 1
plugin dir = {lib}/ceph
erasure code dir = {lib}/ceph/erasure-code
osd class dir = {lib}/rados-classes
run dir = {directory}
admin socket = {directory}/$name.$pid.asok
log file = {directory}/$name.log
mon cluster log file = {directory}/cluster.log
mon data = {directory}/mon
osd data = {directory}/osd
osd objectstore = memstore
memstore device bytes = {memory_bytes}
keyring = /dev/null
rgw data = {directory}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
[osd]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
"""


@contextlib.contextmanager
def ceph(directory: Path, *, memory_bytes: int = 4 << 30, settings: tuple[str, ...] = ()) -> Iterator[Server]:
    """Start it with all its state below `directory`, and further lines of ceph.conf. Raises ServerMissing."""
    (library,) = list(DEBIAN.glob("usr/lib/*-linux-gnu/ceph")) or [None]
    if library is None or not all((DEBIAN / "usr/bin" / name).exists() for name in _PROGRAMS):
        raise ServerMissing(f"Ceph is not unpacked below {DEBIAN}; scripts/test does that on Debian 12")
    lib = library.parent
    for name in ("mon", "osd", "rgw"):
        (directory / name).mkdir(parents=True)
    port = free_port()
    configuration = directory / "ceph.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            fsid=uuid.uuid4(),
            port=port,
            monitor_port=free_port(),
            old_monitor_port=free_port(),
            lib=lib,
            directory=directory,
            memory_bytes=memory_bytes,
        )
        + "\n".join(("[global]", *settings, ""))
    )
    environment = {
        "CEPH_CONF": str(configuration),
        "LD_LIBRARY_PATH": ":".join(map(str, [lib, lib / "ceph", DEBIAN / "lib" / lib.name, DEBIAN / "usr/lib/ceph"])),
        "PATH": f"{DEBIAN}/usr/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(DEBIAN / "usr/lib/python3/dist-packages"),
    }

    def run(*command: str) -> bool:
        done = subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, timeout=START_TIMEOUT_S, check=False
        )
        with (directory / "setup.log").open("ab") as log:
            log.write(done.stdout + done.stderr)
        return done.returncode == 0

    disk = str(uuid.uuid4())
    # The system's Python: the bindings of Debian's packages are made for it.
    tell = ("/usr/bin/python3", str(DEBIAN / "usr/bin/ceph"), "--connect-timeout", "5")
    with contextlib.ExitStack() as stack:
        assert run("ceph-mon", "-i", "a", "--mkfs"), (directory / "setup.log").read_text()
        log = directory / "output.log"
        stack.enter_context(
            running(["ceph-mon", "-i", "a", "-f"], log, lambda: run(*tell, "osd", "new", disk), environment)
        )
        assert run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk), (directory / "setup.log").read_text()
        stack.enter_context(running(["ceph-osd", "-i", "0", "-f"], log, lambda: True, environment))
        user = ("--uid", "test", "--display-name", "test", "--access-key", KEY, "--secret", SECRET)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not run("radosgw-admin", "user", "create", *user):
            assert time.monotonic() < deadline, (directory / "setup.log").read_text()
        stack.enter_context(running(["radosgw", "-n", "client.admin", "-f"], log, lambda: listens(port), environment))
        yield s3_server("ceph", port, KEY, SECRET)
