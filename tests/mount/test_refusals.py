"""What the drive refuses: told to the program, explained in the log, and nothing has changed."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import trees
from tests.mount.harness import Mount, eventually, held, run
from tests.mount.shared import mounted
from tests.scenarios import refused

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory, driver: str) -> Iterator[Mount]:
    """Commits almost at once: what should not become a version has every chance to."""
    with mounted(tmp_path_factory.mktemp("refusals"), driver, "--commit-after", "0.2", "--refresh", "0.2") as mount:
        yield mount


@pytest.fixture(scope="module")
def version(mount: Mount, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version that everybody tries to change."""
    source = trees.make_tree(tmp_path_factory.mktemp("source") / "tree")
    staging = mount.make("kept/safe")
    with held(staging):
        run("cp", "-a", f"{source}/.", staging)
    mount.commit("kept/safe", "--alias", "best")
    return mount / "kept/safe/v0"


def fails(*command: str | os.PathLike[str], stderr: str) -> None:
    """The program ends with an error and says why."""
    done = subprocess.run(list(map(os.fspath, command)), capture_output=True, text=True, check=False)
    assert done.returncode != 0, command
    assert stderr in done.stderr, done.stderr


READ_ONLY = "Read-only file system"


def test_rm_r(mount: Mount, version: Path) -> None:
    """V2, V3: rm -r of a version, an artifact, a collection fails and nothing changes."""
    before = trees.snapshot(version)
    for path in (version, version.parent, version.parent.parent):
        fails("rm", "-rf", path, stderr=READ_ONLY)
        assert trees.snapshot(version) == before
    assert (mount / "kept/safe/best/empty").exists()


def test_programs_that_write_into_a_version(version: Path, tmp_path: Path) -> None:
    """V2: shells, cp, mv, touch, chmod, sed -i and rsync fail and nothing changes."""
    before = trees.snapshot(version)
    (tmp_path / "new").write_text("new")
    for command in (
        ("sh", "-c", 'echo x > "$1/empty"', "-", version),
        ("sh", "-c", 'echo x >> "$1/new"', "-", version),
        ("cp", tmp_path / "new", version),
        ("cp", "-f", tmp_path / "new", version / "empty"),
        ("mv", version / "empty", version / "renamed"),
        ("mv", version / "src", tmp_path),
        ("touch", version / "empty"),
        ("chmod", "777", version / "run.sh"),
        ("mkdir", version / "d"),
        ("ln", "-s", "x", version / "l"),
        ("truncate", "-s", "0", version / "big.bin"),
        ("rmdir", version / "hollow/inner"),
        ("rsync", "-a", tmp_path / "new", f"{version}/"),
        ("sed", "-i", "s/h/x/", version / "read me.txt"),
    ):
        fails(*command, stderr="")
        assert trees.snapshot(version) == before, command


def test_writing_outside_staging(mount: Mount, version: Path) -> None:
    """V2: files at the top, in a collection and in an artifact are EROFS, and the log says where they belong."""
    for place in (mount.path, mount / "kept", mount / "kept/safe"):
        with refused(errno.EROFS):
            (place / "file.txt").write_text("x")
        fails("cp", "/dev/null", place / "file.txt", stderr=READ_ONLY)
        assert "file.txt" not in os.listdir(place)
    assert "files belong into <collection>/<artifact>/staging/" in mount.log()


@pytest.mark.parametrize("name", ["a b", "x" * 200, "v7", "latest", "staging", "pending.1", "über", "a%b"])
def test_bad_names(mount: Mount, version: Path, name: str) -> None:
    """N1, N2: mkdir of such a collection or artifact is EINVAL, and the log says which rule it breaks."""
    for path in (mount / name, mount / "kept" / name):
        with refused(errno.EINVAL, errno.EPERM):
            path.mkdir()
        assert name not in os.listdir(path.parent)
    explained = [line for line in mount.log().splitlines() if f"refused mkdir {name}" in line]
    assert len(explained) == 2
    assert all("invalid" in line for line in explained)


def test_bad_collection_only(mount: Mount) -> None:
    """N1: a dot is fine in an artifact and not in a collection."""
    with refused(errno.EINVAL):
        (mount / "a.b").mkdir()
    (mount / "dots/a.b").mkdir(parents=True)


def test_mkdir_in_an_artifact(mount: Mount, version: Path) -> None:
    """N3: versions are not made by mkdir, and the log says how."""
    with refused(errno.EPERM):
        (mount / "kept/safe/v7").mkdir()
    assert "versions are made by writing to staging/" in mount.log()


def commit_another(mount: Mount, artifact: str) -> None:
    """Have an artifact that changed last be committed by itself: whatever else was due is done by then."""
    staging = mount.make(f"another/{artifact}")
    (staging / "f").write_text(artifact)
    mount.committed(f"another/{artifact}", "v0")


def test_empty_stagings_never_make_a_version(mount: Mount) -> None:
    """C5: nothing, touch and delete, mkdir and rmdir, temporary files only: no version."""
    labels = [f"empty/{name}" for name in ("nothing", "touched", "directories", "renamed", "opened", "unlinked")]
    stagings = {label.split("/")[1]: mount.make(label) for label in labels}
    run("sh", "-c", 'touch "$1/f" && rm "$1/f"', "-", stagings["touched"])
    run("sh", "-c", 'mkdir -p "$1/a/b" && rm -r "$1/a"', "-", stagings["directories"])
    run("sh", "-c", 'echo x > "$1/a" && mv "$1/a" "$1/b" && rm "$1/b"', "-", stagings["renamed"])
    with open(stagings["unlinked"] / "f", "w") as file:
        os.unlink(file.name)
        file.write("never seen")
        file.flush()
        list(stagings["opened"].iterdir())
        commit_another(mount, "beside")
    eventually(lambda: [s.artifact for s in mount.status().artifacts if s.collection == "empty"] == [])
    commit_another(mount, "after")
    for label in labels:
        assert os.listdir(mount / label) == ["staging"], label
    assert run("find", mount.store + "/collections", "-name", "*.version").count("empty/") == 0


def test_escaping_symlinks_are_blocked(mount: Mount) -> None:
    """C6: status shows the symlink that blocks a commit; discarding it lets the artifact go on."""
    mount.expect_warning(r"cannot commit pending\.1 of links/out")
    staging = mount.make("links/out")
    (staging / "away").symlink_to("/etc/hostname")
    state = eventually(
        lambda: next((p for s in mount.status().artifacts for p in s.pending if p.state.value == "blocked"), None)
    )
    assert state.error is not None
    assert "away" in state.error
    assert "/etc/hostname" in state.error
    os.setxattr(mount / "links/out/pending.1", "user.artifactfs.discard", b"1")
    (staging / "inside").symlink_to("target")
    (staging / "target").write_text("x")
    mount.committed("links/out", "v0")
    assert (mount / "links/out/v0/inside").read_text() == "x"


def test_a_read_only_mount(mount: Mount, version: Path, tmp_path: Path, driver: str) -> None:
    """V2: a read-only mount has no staging, takes no mkdir, and shows the same versions."""
    with mounted(tmp_path / "ro", driver, "--read-only", store=mount.store) as other:
        assert sorted(os.listdir(other / "kept/safe")) == ["best", "latest", "v0"]
        trees.assert_same(version, other / "kept/safe/v0")
        for call in (
            lambda: (other / "new").mkdir(),
            lambda: (other / "kept/new").mkdir(),
            lambda: (other / "kept/safe/staging").mkdir(),
            lambda: (other / "kept/safe/v0/f").write_text("x"),
            lambda: os.setxattr(other.path, "user.artifactfs.drain", b""),
        ):
            with refused(errno.EROFS, errno.EPERM):
                call()
