"""Bodies to and from S3: taken up where they broke, in parts that are repeated one by one, and bounded in time."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fsspec.config import conf

from artifactfs.errors import ArtifactError, NotFound, StoreTimeout, StoreUnreachable, UnsupportedTree
from artifactfs.objects import patience, s3
from artifactfs.objects.hashing import hash_file
from artifactfs.objects.s3 import S3Store
from artifactfs.objects.s3_client import PIECE_BYTES, Deadline, Upload, open_place
from tests.servers import Server
from tests.servers.fixtures import StartServer
from tests.servers.proxy import Fault, FaultProxy, Request

MIB = 1 << 20
# Two parts.
LARGE_BYTES = 17 * MIB


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(patience, "_THROTTLED_PAUSE_S", 0.02)


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Server:
    return start_server("moto")


@pytest.fixture
def store(server: Server, proxy: FaultProxy) -> S3Store:
    return S3Store(server.fresh(), **server.options_at(proxy.port), config_kwargs={"read_timeout": 2})


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "file"
    path.write_bytes(os.urandom(LARGE_BYTES))
    return path


def is_part(request: Request) -> bool:
    return request.method == "PUT" and "partNumber" in request.target


def completes(request: Request) -> bool:
    return request.method == "POST" and "uploadId" in request.target


def test_a_body_that_breaks_is_taken_up_where_it_broke(store: S3Store, proxy: FaultProxy):
    data = os.urandom(5 * MIB + 7)
    store.put("key", data)
    sent = []
    for after in (1, 2):
        proxy.plan(Fault.CUT, after_pieces=after)
    for piece in store.get_pieces("key", 3, len(data)):
        sent.append(piece)
        if len(sent) == 3:
            store.put("key", bytes(4 * MIB) + data[4 * MIB :])  # what came before the break is not read again
    assert b"".join(sent) == data[3:]
    assert proxy.methods["GET"] == 3


def test_breaks_without_end_are_given_up(store: S3Store, proxy: FaultProxy):
    store.put("key", bytes(3 * MIB))
    proxy.count_from_now()
    proxy.plan(Fault.CUT, after_pieces=1)
    proxy.plan(Fault.LOST_REQUEST, times=99)
    with pytest.raises(StoreUnreachable, match="cannot read key"):
        store.get_range("key", 0, MIB + 1000)
    # The first piece came; then nothing more.
    assert proxy.methods["GET"] == patience.ATTEMPTS


def test_what_lies_past_the_end(store: S3Store):
    store.put("key", b"12345")
    store.put("empty", b"")
    assert store.get_range("key", 3, 10) == b"45"
    assert store.get_range("key", 5, 10) == store.get_range("empty", 0, 10) == store.get_range("key", 0, 0) == b""
    assert store.get("empty") == b""
    with pytest.raises(NotFound):
        store.get_range("none", 5, 10)


def test_a_part_that_fails_is_sent_again_and_no_other(store: S3Store, proxy: FaultProxy, large: Path):
    for fault in (Fault.SLOW_DOWN, Fault.LOST_ANSWER, Fault.LOST_REQUEST):
        proxy.plan(fault, matches=is_part)
    store.put_file("key", hash_file(str(large)))
    assert store.get("key") == large.read_bytes()
    assert len([request for request in proxy.requests if is_part(request)]) == 2 + 3


@pytest.mark.parametrize(
    "fault", [Fault.LOST_ANSWER, Fault.LOST_REQUEST, Fault.SLOW_DOWN], ids=lambda fault: fault.name
)
def test_the_end_of_an_upload_meets_a_fault(fault: Fault, store: S3Store, proxy: FaultProxy, large: Path):
    proxy.plan(fault, matches=completes)
    store.put_file("key", hash_file(str(large)))
    assert store.size("key") == LARGE_BYTES


def test_an_upload_that_fails_leaves_nothing(
    store: S3Store, server: Server, proxy: FaultProxy, large: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(s3, "_PARTS_AT_ONCE", 1)
    proxy.plan(Fault.DENIED, matches=is_part)
    with pytest.raises(ArtifactError, match="AccessDenied"):
        store.put_file("key", hash_file(str(large)))
    assert not store.exists("key")
    place = store._place()
    assert not [
        one for one in place.call("list_multipart_uploads").get("Uploads", []) if one["Key"].startswith(place.top)
    ]


def test_a_file_that_becomes_shorter_while_it_is_sent(store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "file"
    path.write_bytes(bytes(3 * MIB))
    hashed = hash_file(str(path))
    read = os.pread

    def shorten(fd: int, size_bytes: int, offset: int) -> bytes:
        if offset:
            os.truncate(path, MIB)
        return read(fd, size_bytes, offset)

    monkeypatch.setattr(os, "pread", shorten)
    with pytest.raises(UnsupportedTree, match="changed or went while it was being logged"):
        store.put_file("key", hashed)
    assert not store.exists("key")


def test_a_transfer_is_bounded_in_time(store: S3Store, large: Path, monkeypatch: pytest.MonkeyPatch):
    store.put("key", b"x")
    monkeypatch.setattr(s3, "transfer_timeout_s", lambda size_bytes: -1.0)
    file = hash_file(str(large))
    for call in (
        lambda: store.put("new", b"x"),
        lambda: store.put_file("new", file),
        lambda: store.get_range("key", 0, 1),
    ):
        with pytest.raises(StoreTimeout, match="within -1 s"):
            call()
    assert not store.exists("new")


def test_an_upload_gives_its_bytes_from_wherever_it_is_asked():
    data = os.urandom(2 * PIECE_BYTES + 5)
    body = Upload(lambda offset, size_bytes: data[offset : offset + size_bytes], len(data), Deadline(60, "store x"))
    for _ in range(2):
        pieces = []
        while piece := body.read(16):
            pieces.append(piece)
        assert b"".join(pieces) == data
        assert body.tell() == len(body) == len(data)
        body.seek(0)
    assert body.seek(-5, os.SEEK_END) == 2 * PIECE_BYTES
    assert body.read() == data[-5:]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"anon": True, "endpoint_url": "http://h:1"}, lambda c: str(c.meta.config.signature_version).startswith("<")),
        ({"client_kwargs": {"endpoint_url": "https://h:1"}}, lambda c: c.meta.endpoint_url == "https://h:1"),
        ({"config_kwargs": {"read_timeout": 3}}, lambda c: c.meta.config.read_timeout == 3),
        ({"client_kwargs": {"region_name": "eu-west-1"}}, lambda c: c.meta.region_name == "eu-west-1"),
        ({"profile": "other"}, lambda c: c._request_signer._credentials.access_key == "from-profile"),
        ({"key": "k", "secret": "s"}, lambda c: c._request_signer._credentials.access_key == "k"),
        ({"username": "u", "password": "p"}, lambda c: c._request_signer._credentials.access_key == "u"),
    ],
)
def test_the_options_of_s3fs_are_understood(
    options: dict[str, Any], found: Callable[[Any], bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    credentials = tmp_path / "credentials"
    credentials.write_text("[other]\naws_access_key_id = from-profile\naws_secret_access_key = s\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    place = open_place("s3://bucket/some/place/", options)
    assert (place.bucket, place.top) == ("bucket", "some/place/")
    assert found(place.client)


def test_arguments_go_to_the_operations_that_know_them(server: Server):
    options = {**server.options, "requester_pays": True, "s3_additional_kwargs": {"ServerSideEncryption": "AES256"}}
    store = S3Store(server.fresh(), **options)
    store.put("key", b"x")
    assert store.get("key") == b"x"
    assert store._place().call("head_object", Key=store._place().top + "key")["ServerSideEncryption"] == "AES256"
    assert [file.key for file in store.walk("")] == ["key"]


def test_an_option_that_nothing_knows_is_named():
    with pytest.raises(ArtifactError, match="unknown storage option reigon"):
        S3Store("s3://bucket/x", reigon="eu-west-1").size("key")


def test_options_that_fsspec_was_configured_with(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(conf, "s3", {"key": "configured", "secret": "s", "endpoint_url": "http://h:1"})
    place = open_place("s3://bucket", {"endpoint_url": "http://h:2"})
    assert place.client._request_signer._credentials.access_key == "configured"
    assert place.client.meta.endpoint_url == "http://h:2"
    assert (place.bucket, place.top) == ("bucket", "")


def test_an_access_point_is_a_bucket():
    point = "arn:aws:s3:eu-west-1:123456789012:accesspoint/point"
    place = open_place(f"s3://{point}/some/place", {"client_kwargs": {"region_name": "eu-west-1"}})
    assert (place.bucket, place.top) == (point, "some/place/")
