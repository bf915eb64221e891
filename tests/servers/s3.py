"""S3 servers: what they have in common, moto, and rclone's, which ignores If-None-Match."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.servers import Server
from tests.servers.process import free_port, listens, running

BUCKET = "bucket"


def s3_server(name: str, port: int, key: str, secret: str, *, exclusive: bool = True) -> Server:
    """A Server for what listens at `port`, with a bucket made."""
    import botocore.session

    client = botocore.session.get_session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
    )
    client.create_bucket(Bucket=BUCKET)
    client.close()
    return Server(
        name,
        port,
        f"s3://{BUCKET}",
        lambda at: {"key": key, "secret": secret, "endpoint_url": f"http://127.0.0.1:{at}"},
        exclusive,
        {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"},
    )


@contextlib.contextmanager
def moto(directory: Path) -> Iterator[Server]:
    """moto's server: S3 in one Python process."""
    port = free_port()
    command = [Path(sys.executable).with_name("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with running(command, directory / "moto.log", lambda: listens(port)):
        yield s3_server("moto", port, "key", "secret")


@contextlib.contextmanager
def rclone(directory: Path) -> Iterator[Server]:
    """``rclone serve s3`` on a directory: an S3 where an exclusive create overwrites."""
    port = free_port()
    (directory / "data").mkdir()
    command = [
        *(Path(sys.executable).with_name("rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}"),
        *("--auth-key", "key,secret", "--config", directory / "none.conf", directory / "data"),
    ]
    with running(command, directory / "rclone.log", lambda: listens(port)):
        yield s3_server("rclone", port, "key", "secret", exclusive=False)
