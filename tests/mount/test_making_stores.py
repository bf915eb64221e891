"""Mounting where there is no store: one is made and told, or it is refused because it is most likely a typo."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.mount.conftest import MakeMount
from tests.mount.harness import Mount

pytestmark = pytest.mark.fuse


def refused(mount: Mount, *arguments: str) -> str:
    """The one line that says why a mount is not made."""
    done = mount.mount(*arguments, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert not mount.is_mounted()
    return done.stderr


@pytest.mark.parametrize("before", ["", "file://", "plain+file://", "memory://"])
def test_a_new_store_is_told(prepare_mount: MakeMount, tmp_path: Path, before: str) -> None:
    """O13: once, by the mount that makes it, and in the daemon's log."""
    url = f"{before}{tmp_path}/new"
    mount = prepare_mount(store=url)
    done = mount.mount("--commit-after", "never")
    assert done.stdout == f"made a new store at {url}\nmounted {url} on {mount.path}\n"
    assert f"made a new store at {url}" in mount.log()
    assert mount.status().made_store
    (mount.make("c/a") / "f").write_text("x")
    mount.commit("c/a")
    if before != "memory://":
        mount.umount()
        assert mount.mount().stdout == f"mounted {url} on {mount.path}\n"
        assert not mount.status().made_store


@pytest.mark.parametrize("before", ["", "file://", "plain+file://"])
def test_a_path_whose_parent_is_not_there(prepare_mount: MakeMount, tmp_path: Path, before: str) -> None:
    """O13: it is refused, what is alike is named, and nothing is made; that goes for read-only mounts as well."""
    (tmp_path / "experiments").mkdir()
    mount = prepare_mount(store=f"{before}{tmp_path}/experimnets/store")
    said = refused(mount)
    assert f"did you mean {tmp_path}/experiments, or make it first" in said
    mount.expect_warning("cannot go on: no store at")
    assert "no store at" in refused(mount, "--read-only")
    assert not (tmp_path / "experimnets").exists()


@pytest.mark.parametrize(
    ("url", "meant"),
    [("s3:/bucket", "s3://bucket"), ("s3:bucket/x", "s3://bucket/x"), ("gs:/b/c", "gs://b/c"), ("hdfs:x", "hdfs://x")],
)
def test_a_mistyped_url(prepare_mount: MakeMount, url: str, meant: str) -> None:
    """O13: the message names what is most likely meant."""
    assert f"url looks mistyped: write {meant}, " in refused(prepare_mount(store=url))


@pytest.mark.parametrize("url", ["memory://none", ""])
def test_a_read_only_mount_makes_none(prepare_mount: MakeMount, tmp_path: Path, url: str) -> None:
    """O13: where nothing is, nothing is mounted, and nothing is made."""
    (tmp_path / "empty").mkdir()
    mount = prepare_mount(store=url or tmp_path / "empty")
    mount.expect_warning("cannot go on: no store at")
    assert "nothing is there, and --read-only makes none" in refused(mount, "--read-only")
    assert os.listdir(tmp_path / "empty") == []
