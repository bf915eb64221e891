"""connect(): which URL opens what, and what is said of one that cannot be opened."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from artifactfs import connect
from artifactfs.errors import InvalidName, MissingDependency, UnknownScheme
from artifactfs.managers.filesystem import FileSystemArtifactManager


def test_local_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for url, place in (
        (str(tmp_path / "a"), tmp_path / "a"),
        ("a", tmp_path / "a"),
        (f"file://{tmp_path}/a", tmp_path / "a"),
        ("~/a", tmp_path / "home" / "a"),
    ):
        manager = connect(url, collection="c")
        assert isinstance(manager, FileSystemArtifactManager)
        assert manager.local_root == place
        assert manager.active_collection == "c"
    assert not (tmp_path / "a").exists()


def test_memory():
    assert connect("memory://x").local_root is None


@pytest.mark.parametrize(
    ("scheme", "package", "extra"),
    [("s3", "botocore", "s3"), ("gs", "gcsfs", "gcs"), ("abfs", "adlfs", "azure"), ("sftp", "paramiko", "sftp")],
)
def test_a_missing_package_is_named_with_its_extra(
    scheme: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.sftp", raising=False)
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, scheme, raising=False)
    with pytest.raises(MissingDependency, match=rf"pip install 'artifactfs\[{extra}\]'"):
        connect(f"{scheme}://bucket/store")


@pytest.mark.parametrize("url", ["nope://x", "github://a:b@c/", "simplecache::s3://b", "http://x"])
def test_unknown_schemes(url: str):
    with pytest.raises(UnknownScheme):
        connect(url)


def test_the_message_lists_what_works():
    with pytest.raises(UnknownScheme, match=r"s3://.*sftp://"):
        connect("nope://x")


def test_a_bad_collection():
    with pytest.raises(InvalidName):
        connect("memory://x", collection="a/b")


def test_importing_and_opening_a_local_store_loads_no_fsspec(tmp_path: Path):
    code = (
        "import sys, artifactfs\n"
        f"artifactfs.connect({str(tmp_path / 's')!r}).ensure_created()\n"
        "assert not any(m.partition('.')[0] in ('fsspec', 'asyncio') for m in sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_making_the_client_of_s3_loads_no_fsspec(tmp_path: Path):
    """Unless fsspec was configured: then its options for S3 count."""
    code = (
        "import sys\n"
        "from artifactfs import connect\n"
        "client = connect('s3://bucket/place', endpoint_url='http://h:1').store._place().client\n"
        "print('fsspec' in sys.modules, client._request_signer._credentials.access_key)\n"
    )
    environment = {"HOME": str(tmp_path), "AWS_ACCESS_KEY_ID": "own", "AWS_SECRET_ACCESS_KEY": "s"}

    def run(**more: str) -> str:
        environ = {**environment, **more}
        return subprocess.check_output([sys.executable, "-c", code], text=True, env=environ)

    assert run().split() == ["False", "own"]
    assert run(FSSPEC_S3='{"key": "configured", "secret": "s"}').split() == ["True", "configured"]
