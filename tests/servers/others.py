"""Servers that are no S3: Azurite (Azure blobs), OpenSSH (SFTP), WsgiDAV (WebDAV)."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.servers import DEBIAN, HOME, Server, ServerMissing
from tests.servers.process import free_port, listens, running

# Azurite's own, printed in its documentation.
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

_SSHD = """
ListenAddress 127.0.0.1
Port {port}
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
MaxStartups 100
MaxSessions 100
Subsystem sftp internal-sftp
"""


@contextlib.contextmanager
def azurite(directory: Path) -> Iterator[Server]:
    """Microsoft's emulator of Azure's blob storage. Raises ServerMissing."""
    from adlfs import AzureBlobFileSystem

    program = HOME / "npm/node_modules/azurite/dist/src/blob/main.js"
    node = shutil.which("node")
    if node is None or not program.exists():
        raise ServerMissing(f"Azurite is not installed below {HOME} or there is no node; scripts/test installs it")
    port = free_port()
    command = [
        *(node, program, "--blobHost", "127.0.0.1", "--blobPort", str(port)),
        *("--silent", "--skipApiVersionCheck", "--disableTelemetry", "--inMemoryPersistence"),
    ]

    def connection(at: int) -> str:
        return (
            f"DefaultEndpointsProtocol=http;AccountName={AZURE_ACCOUNT};AccountKey={AZURE_KEY};"
            f"BlobEndpoint=http://127.0.0.1:{at}/{AZURE_ACCOUNT};"
        )

    with running(command, directory / "azurite.log", lambda: listens(port)):
        fs = AzureBlobFileSystem(connection_string=connection(port), skip_instance_cache=True)
        fs.mkdir("container")
        yield Server(
            "azurite",
            port,
            "az://container",
            lambda at: {"connection_string": connection(at)},
            environment={"AZURE_STORAGE_CONNECTION_STRING": connection(port)},
        )


@contextlib.contextmanager
def sftp(directory: Path) -> Iterator[Server]:
    """OpenSSH's server with keys and settings of its own. Raises ServerMissing."""
    sshd = next((path for path in (DEBIAN / "usr/sbin/sshd", Path("/usr/sbin/sshd")) if path.exists()), None)
    keygen = shutil.which("ssh-keygen")
    if sshd is None or keygen is None:
        raise ServerMissing("OpenSSH's server (sshd) or ssh-keygen is not there; scripts/test unpacks it on Debian")
    for name in ("host_key", "user_key"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
    shutil.copyfile(directory / "user_key.pub", directory / "authorized_keys")
    port = free_port()
    (directory / "sshd.conf").write_text(_SSHD.format(port=port, directory=directory))
    place = directory / "stores"
    place.mkdir()
    user = pwd.getpwuid(os.getuid()).pw_name
    command = [sshd, "-D", "-e", "-f", directory / "sshd.conf"]
    if os.getuid() == 0:
        # As root sshd wants a user of its own and an empty directory in /run: it sees them, the system does not.
        users = directory / "passwd"
        users.write_text(Path("/etc/passwd").read_text() + "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n")
        view = f'mount --bind "{users}" /etc/passwd && mount -t tmpfs none /run && mkdir /run/sshd && exec "$@"'
        # The copies of tests' mounts would keep their connections alive for as long as the server runs.
        view = f"umount --all --lazy --no-canonicalize --types fuse.artifactfs; {view}"
        command = ["unshare", "--mount", "sh", "-c", view, "sh", *command]
    # Its own libraries may be newer or older than the system's.
    library = ":".join(map(str, [*DEBIAN.glob("usr/lib/*-linux-gnu"), *DEBIAN.glob("lib/*-linux-gnu")]))
    environment = {"LD_LIBRARY_PATH": library} if sshd.is_relative_to(DEBIAN) else {}
    with running(command, directory / "sshd.log", lambda: listens(port), environment):
        yield Server(
            "sftp",
            port,
            f"sftp://{user}@127.0.0.1{place}",
            lambda at: {"port": at, "key_filename": str(directory / "user_key"), "allow_agent": False},
        )


@contextlib.contextmanager
def webdav(directory: Path) -> Iterator[Server]:
    """WsgiDAV without authentication: WebDAV has no exclusive create."""
    port = free_port()
    place = directory / "stores"
    place.mkdir()
    command = [
        *(Path(sys.executable).with_name("wsgidav"), "--host=127.0.0.1", f"--port={port}", f"--root={place}"),
        *("--auth=anonymous", "--server=cheroot", "--no-config"),
    ]
    with running(command, directory / "webdav.log", lambda: listens(port)):
        yield Server("webdav", port, "webdav://", lambda at: {"base_url": f"http://127.0.0.1:{at}"}, exclusive=False)


@contextlib.contextmanager
def gcs(directory: Path) -> Iterator[Server]:
    """An emulator of Google Cloud Storage's JSON API, which does not know preconditions: no exclusive create."""
    port = free_port()
    command = [
        *(Path(sys.executable).with_name("gcp-storage-emulator"), "start", "--host=127.0.0.1", f"--port={port}"),
        *("--default-bucket=bucket", "--in-memory", "--quiet"),
    ]
    with running(command, directory / "gcs.log", lambda: listens(port)):
        yield Server(
            "gcs",
            port,
            "gs://bucket",
            lambda at: {"endpoint_url": f"http://127.0.0.1:{at}", "token": "anon"},
            exclusive=False,
        )
