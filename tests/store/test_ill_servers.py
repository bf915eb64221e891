"""Servers that answer without end, byte by byte, with more than was asked, or by leading elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from artifactfs.errors import AccessDenied, ArtifactError, FormatError, IntegrityError, StoreUnreachable
from artifactfs.managers.wandb.transfers import Place, Transfers
from artifactfs.objects import patience, replies
from artifactfs.objects.bounds import MOST_REPLY_BYTES
from artifactfs.objects.open import open_store
from artifactfs.objects.store import ObjectStore
from tests.servers.ill import IllServer

SECRET_KEY = "c2VjcmV0"


def s3(url: str) -> ObjectStore:
    return open_store("s3://bucket/x", endpoint_url=url, key="a", secret="b", client_kwargs={"region_name": "x"})


def azure(url: str) -> ObjectStore:
    connection = f"BlobEndpoint={url}/account;AccountName=account;AccountKey={SECRET_KEY}"
    return open_store("az://container/x", connection_string=connection)


STORES: dict[str, Callable[[str], ObjectStore]] = {
    "s3": s3,
    "azure": azure,
    "google": lambda url: open_store("gs://bucket/x", endpoint_url=url, token="anon"),
    "http": lambda url: open_store(f"{url}/x"),
    "webdav": lambda url: open_store("webdav://x", base_url=url, auth=("a", "b")),
}


class Signed:
    """The same of the signed URLs of W&B."""

    def __init__(self, url: str) -> None:
        self._transfers = Transfers(lambda _version, paths: {path: f"{url}/{path}" for path in paths})

    def get_range(self, key: str, offset: int, size_bytes: int) -> bytes:
        return self._transfers.read(Place("a:v0", key), offset, size_bytes, lambda _: [key])


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", 0.0)
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("artifactfs.managers.wandb.transfers._ATTEMPTS", 1)


def opened(kind: str, server: IllServer) -> Any:
    return Signed(server.url) if kind == "wandb" else STORES[kind](server.url)


@pytest.mark.parametrize("behaviour", ["endless", "endless_error", "more_than_asked"])
@pytest.mark.parametrize("kind", [*STORES, "wandb"])
def test_no_more_is_taken_than_was_asked_for(kind: str, behaviour: str):
    """O11: on every kind of store that speaks HTTP."""
    with IllServer(behaviour) as server:
        data = b"x" * 100
        with suppress(ArtifactError):
            data = opened(kind, server).get_range("key", 0, 100)
        assert data == b"x" * 100, "what was asked for, and the rest left where it is"
        assert server.sent_bytes < 2 * MOST_REPLY_BYTES


def test_a_whole_that_is_told_to_be_a_part_is_refused():
    """O11: what a server says of its answer has to fit together; one that sends a part with status 200 is believed."""
    with IllServer("part_as_200") as server:
        assert s3(server.url).get_range("key", 100, 100) == b"x" * 100
    # Fewer bytes than the whole has would be too many anyway.
    with IllServer("whole_told_as_part") as server, pytest.raises(IntegrityError):
        b"".join(s3(server.url).get_pieces("key", 100, 4900))


# gcsfs' connection to a server that is gone is closed when it is collected, which may be in this test.
@pytest.mark.filterwarnings("ignore:Exception ignored in.*Connection.__del__:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", [*STORES, "wandb"])
def test_an_answer_that_comes_byte_by_byte_is_given_up(kind: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(replies, "CALL_TIMEOUT_S", 1.0)
    with IllServer("byte_by_byte") as server:
        began_s = time.monotonic()
        with pytest.raises(StoreUnreachable):
            opened(kind, server).get_range("key", 0, 100)
        assert time.monotonic() - began_s < 60


@pytest.mark.parametrize("kind", ["s3", "wandb"])
def test_so_are_headers(kind: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(replies, "CALL_TIMEOUT_S", 1.0)
    with IllServer("header_by_byte") as server:
        began_s = time.monotonic()
        with pytest.raises(StoreUnreachable):
            opened(kind, server).get_range("key", 0, 100)
        assert time.monotonic() - began_s < 60


@pytest.mark.parametrize("kind", ["s3", "azure", "google"])
def test_an_endless_page_of_a_listing_is_given_up(kind: str):
    with IllServer("endless") as server:
        with pytest.raises(ArtifactError):
            opened(kind, server).listing("c")
        assert server.sent_bytes < 3 * MOST_REPLY_BYTES


def test_a_whole_object_of_no_length_is_bounded():
    with IllServer("endless") as server:
        with pytest.raises(IntegrityError, match="larger than what was asked for"):
            s3(server.url).get("key")
        assert server.sent_bytes < 3 * MOST_REPLY_BYTES


def test_a_whole_object_whose_length_is_told_comes_whole():
    """O11: the manifest of a version of millions of files, say."""
    with IllServer("large") as server:
        assert len(s3(server.url).get("key")) == 40 << 20


def test_a_server_that_leads_elsewhere_is_not_followed():
    with IllServer("more_than_asked") as elsewhere, IllServer("redirect", target=elsewhere.url) as server:
        store = s3(server.url)
        calls: list[Callable[[], object]] = [
            lambda: store.get("key"),
            lambda: store.get_range("key", 5, 100),
            lambda: store.size("key"),
            lambda: store.listing("c"),
        ]
        for call in calls:
            with pytest.raises(ArtifactError, match="307"):
                call()
        with pytest.raises(StoreUnreachable, match="307"):
            Signed(server.url).get_range("key", 0, 100)
        assert elsewhere.asked == []


def test_a_listing_that_goes_round_in_a_circle_ends():
    with IllServer("same_page") as server:
        for call in (lambda: s3(server.url).listing("collections"), lambda: list(s3(server.url).walk("collections"))):
            with pytest.raises(FormatError, match="does not end"):
                call()
        assert len(server.asked) < 10


def test_what_was_not_asked_for_is_not_listed():
    with IllServer("keys_from_elsewhere") as server:
        store = s3(server.url)
        found = store.listing("c")
        assert found.files == ["good"]
        assert found.directories == ["dir"]
        assert [file.key for file in store.walk("c")] == ["c/a/b", "c/good"]


def test_a_servers_reason_is_told_whole():
    with IllServer("reason_in_lines") as server, pytest.raises(AccessDenied, match="The policy denies this"):
        s3(server.url).get("key")


def test_so_is_the_reason_of_a_client_that_refuses_by_itself():
    store = open_store("s3://me:hunter2hunter2@bucket/x", endpoint_url="http://127.0.0.1:9", key="a", secret="b")
    with pytest.raises(ArtifactError, match="Invalid bucket name") as caught:
        store.get("key")
    assert "hunter2hunter2" not in str(caught.value)
