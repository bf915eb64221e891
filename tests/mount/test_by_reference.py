"""Staging from a version: no bytes move until something is written, and nothing is lost in between."""

from __future__ import annotations

import itertools
import mmap
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from mount.references import ATTRIBUTE
from tests.mount.harness import Mount, artifactfs, run
from tests.mount.shared import mounted
from tests.trees import assert_same

pytestmark = pytest.mark.fuse

_numbers = itertools.count()
BIG_BYTES = 5_000_000


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory, driver: str) -> Iterator[Mount]:
    """Commits on request only."""
    directory = tmp_path_factory.mktemp("references")
    with mounted(directory, driver, "--commit-after", "never", "--refresh", "0.2") as mount:
        yield mount


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree with a large file, small ones, an executable, a symlink and an empty directory."""
    tree = tmp_path / "source"
    (tree / "d" / "empty").mkdir(parents=True)
    (tree / "big").write_bytes(random.Random(1).randbytes(BIG_BYTES))
    (tree / "empty-file").touch()
    (tree / "d" / "small").write_bytes(b"small\n")
    (tree / "run").write_bytes(b"#!/bin/sh\n")
    (tree / "run").chmod(0o750)
    (tree / "read-only").write_bytes(b"r" * 3000)
    (tree / "read-only").chmod(0o444)
    (tree / "link").symlink_to("d/small")
    return tree


@pytest.fixture
def label(mount: Mount, source: Path) -> str:
    """An artifact whose v0 is the source."""
    label = f"references/a{next(_numbers)}"
    staging = mount.make(label)
    run("cp", "-a", f"{source}/.", staging)
    mount.commit(label)
    return label


def stored_bytes(mount: Mount) -> int:
    """What all objects of the store take."""
    return sum(path.stat().st_size for path in Path(mount.store, "objects").rglob("*") if path.is_file())


def on_disk(mount: Mount, label: str, name: str) -> Path:
    """Where a staged file lies on the staging disk."""
    staging_dir = mount.status().staging_dir
    assert staging_dir is not None
    return Path(staging_dir, "artifacts", label, "staging", name)


def test_stage_is_the_version_and_takes_no_room(mount: Mount, label: str, source: Path) -> None:
    """S9: staged by reference, the tree is that of the version, and on disk there are holes."""
    artifactfs("stage", mount / label)
    assert_same(source, mount / label / "staging")
    on_disk_blocks = on_disk(mount, label, "big").stat().st_blocks
    assert on_disk_blocks <= 8
    assert (mount / label / "staging" / "big").stat().st_blocks * 512 >= BIG_BYTES


def test_untouched_is_not_committed_by_itself(tmp_path: Path, driver: str) -> None:
    """S9: filled and not changed, it stays where quiet staging is committed; after a remount too."""
    with mounted(tmp_path / "m", driver, "--commit-after", "0.5", "--refresh", "0.2") as mount:
        for label in ("c/kept", "c/other"):
            (mount.make(label) / "f").write_text("x")
            mount.committed(label, "v0")
        artifactfs("stage", f"{mount / 'c/kept'}@v0")
        for version in ("v1", "v2"):
            (mount / "c/other/staging/f").write_text(version)
            mount.committed("c/other", version)
            mount.remount()
        staged = mount.state("c/kept").staged
        assert staged is not None
        assert staged.untouched
        assert sorted(os.listdir(mount / "c/kept")) == ["latest", "staging", "v0"]


def test_one_changed_file_costs_one_file(mount: Mount, label: str, source: Path) -> None:
    """S9: rename, remove, chmod, truncate and append among references; only what has new bytes is sent."""
    artifactfs("stage", mount / label / "latest")
    staging = mount / label / "staging"
    before = stored_bytes(mount)
    for tree in (staging, source):
        (tree / "big").rename(tree / "d" / "moved")
        (tree / "run").unlink()
        (tree / "d" / "small").chmod(0o600)
        with open(tree / "read-only", "ab") as file:
            file.write(b"more")
        os.link(tree / "empty-file", tree / "hard")
    mount.commit(label)
    assert_same(source, mount / label / "v1", ignore=("mtime_ns",))
    # The changed file, the manifest, and nothing of the 5 MB.
    assert stored_bytes(mount) - before < 10_000


@pytest.mark.parametrize("how", ["append", "overwrite", "truncate", "truncate-open", "grow", "map"])
def test_first_write_keeps_the_rest(mount: Mount, label: str, source: Path, how: str) -> None:
    """S9: a reference gets its bytes before the first change to it, whatever kind that is."""
    artifactfs("stage", mount / label)
    for tree in (mount / label / "staging", source):
        change(tree / "big", how)
    assert (mount / label / "staging" / "big").read_bytes() == (source / "big").read_bytes()
    mount.commit(label)
    assert (mount / label / "v1" / "big").read_bytes() == (source / "big").read_bytes()


def change(path: Path, how: str) -> None:
    """One way to change a file."""
    if how == "append":
        with open(path, "ab") as file:
            file.write(b"end")
    elif how == "overwrite":
        with open(path, "r+b") as file:
            file.seek(1_000_000)
            file.write(b"middle")
    elif how == "truncate":
        os.truncate(path, 4_000_001)
    elif how == "truncate-open":
        path.write_bytes(b"new")
        # As long as it was: it must not become what it was.
        os.truncate(path, BIG_BYTES)
    elif how == "grow":
        os.truncate(path, BIG_BYTES + 10)
    else:
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            mapped[4_999_990:4_999_995] = b"mmap!"


def test_open_reader_sees_the_first_write(mount: Mount, label: str) -> None:
    """S9: a file that is open for reading while another program makes the first write."""
    artifactfs("stage", mount / label)
    path = mount / label / "staging" / "big"
    with open(path, "rb", buffering=0) as reader, open(path, "r+b", buffering=0) as writer:
        whole = reader.read()
        writer.seek(100)
        writer.write(b"changed")
        assert os.pread(reader.fileno(), 20, 95) == whole[95:100] + b"changed" + whole[107:115]


def test_cp_makes_a_reference(mount: Mount, label: str, source: Path) -> None:
    """S9: what cp copies from a version is a reference, and a commit sends nothing for it."""
    staging = mount / label / "staging"
    run("cp", mount / label / "v0" / "big", staging / "copy")
    assert ATTRIBUTE in os.listxattr(on_disk(mount, label, "copy"))
    assert (staging / "copy").read_bytes() == (source / "big").read_bytes()
    before = stored_bytes(mount)
    assert mount.commit(label)["sent_bytes"] == 0
    assert stored_bytes(mount) - before < 10_000
    assert (mount / label / "v1" / "copy").read_bytes() == (source / "big").read_bytes()


def test_references_survive_kill(mount: Mount, label: str, source: Path) -> None:
    """S9, C8: killed while staged by reference, the next mount has them; one file has been changed."""
    artifactfs("stage", mount / label)
    (mount / label / "staging" / "run").write_bytes(b"changed")
    mount.kill9()
    mount.mount()
    mount.commit(label)
    (source / "run").write_bytes(b"changed")
    assert_same(source, mount / label / "v1", ignore=("mtime_ns",))


def test_stage_refuses_to_mix(mount: Mount, label: str) -> None:
    """S9: something staged is not overwritten; what does not exist cannot be staged."""
    done = artifactfs("stage", f"{mount / label}@nosuch", check=False)
    assert done.returncode == 1
    assert "no version or alias 'nosuch'" in done.stderr
    (mount / label / "staging" / "f").write_text("x")
    done = artifactfs("stage", mount / label, check=False)
    assert done.returncode == 1
    assert "commit or discard it first" in done.stderr
    mount.commit(label)


def test_deleted_version_blocks_the_commit(mount: Mount, label: str) -> None:
    """S9, C6: bytes that are gone from the store cannot be committed; the reason is told, and discard ends it."""
    artifactfs("stage", mount / label)
    (mount / label / "staging" / "new").write_text("x")
    for path in Path(mount.store, "objects").rglob("*"):
        if path.is_file() and path.stat().st_size == BIG_BYTES:
            kept = path.rename(Path(mount.store).parent / "kept")
            break
    mount.expect_warning("stands for bytes of a version that has been deleted")
    done = artifactfs("commit", mount / label, check=False)
    kept.rename(path)
    assert done.returncode == 1
    assert "has been deleted from the store" in done.stderr
    assert artifactfs("retry", mount / label).returncode == 0
    assert mount.committed(label, "v1").is_dir()
