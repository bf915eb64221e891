"""Stores that are not there: made where that is meant, told when it happens, refused where it is most likely a typo."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import artifactfs
from artifactfs.errors import NotFound
from artifactfs.managers.urls import check_new_place
from tests.cli.support import program


def failing(*arguments: str | Path, store: str, status: int = 1) -> str:
    """The one line that a command says when it fails."""
    done = program(*arguments, store=store)
    assert done.returncode == status, done
    assert done.stderr.count("\n") == 1
    return str(done.stderr)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Something to log."""
    made = tmp_path / "file"
    made.write_text("x")
    return made


@pytest.mark.parametrize("before", ["", "file://", "plain+file://"])
def test_put_tells_that_it_makes_a_store(tmp_path: Path, file: Path, before: str) -> None:
    store = tmp_path / "store"
    url = f"{before}{store}"
    done = program("put", file, "c/a", store=url)
    assert done.stderr == f"made a new store at {url}\n"
    assert done.stdout.startswith("c/a v0: 1 file")
    (file).write_text("y")
    assert program("put", file, "c/a", store=url).stderr == ""


def test_put_by_a_relative_path_tells_the_whole(tmp_path: Path, file: Path) -> None:
    done = program("put", file, "c/a", "--json", store="store", cwd=tmp_path)
    assert done.stderr == f"made a new store at {tmp_path}/store\n"
    assert json.loads(done.stdout)["version"] == "v0"


def test_a_put_that_fails_tells_it_too(tmp_path: Path) -> None:
    """The store is there from then on."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "tree").mkdir()
    os.rename(tmp_path / "fifo", tmp_path / "tree/fifo")
    done = program("put", tmp_path / "tree", "c/a", store=f"{tmp_path}/store")
    assert done.returncode == 1
    assert "is a FIFO" in done.stderr
    assert (f"made a new store at {tmp_path}/store" in done.stderr) == (tmp_path / "store/artifactfs.json").exists()


def test_copy_tells_that_it_makes_a_store(tmp_path: Path, file: Path) -> None:
    program("put", file, "c/a", store=f"{tmp_path}/store")
    done = program("copy", "c/a", "--to-store", tmp_path / "other", store=f"{tmp_path}/store")
    assert done.stderr == f"made a new store at {tmp_path}/other\n"
    assert program("copy", "c/a", "--to-store", tmp_path / "other", store=f"{tmp_path}/store").stderr == ""


@pytest.mark.parametrize("before", ["", "file://", "plain+file://", "local://"])
def test_a_path_whose_parent_is_not_there(tmp_path: Path, file: Path, before: str) -> None:
    """It is refused by whatever would make a store there, nothing is made, and what is alike is named."""
    (tmp_path / "storage").mkdir()
    url = f"{before}{tmp_path}/stroage/team/store"
    for arguments in (("put", file, "c/a"), ("copy", "c/a", "--to-store", url)):
        if arguments[0] == "copy":
            program("put", file, "c/a", store=f"{tmp_path}/real")
        said = failing(*arguments, store=url if arguments[0] == "put" else f"{tmp_path}/real")
        assert f"no directory {tmp_path}/stroage/team to make one in" in said
        assert f"did you mean {tmp_path}/storage, or make it first (mkdir -p)" in said
    assert not (tmp_path / "stroage").exists()


def test_nothing_alike(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"to make one in: make it first \(mkdir -p\)"):
        check_new_place(f"{tmp_path}/a/b")


@pytest.mark.parametrize("url", ["s3://bucket/none", "memory://none", "wandb://a/b"])
def test_other_stores_have_no_parent(url: str) -> None:
    check_new_place(url)


def test_a_place_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store, a directory to make one in, and a symlink to a disk that is away are no typos."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "away").symlink_to("/nothing/here")
    for url in (str(tmp_path), "store", "./store", "~/store", "away", f"file://{tmp_path}/new", "plain+new"):
        check_new_place(url)


@pytest.mark.parametrize(
    "command", [["ls"], ["verify"], ["gc"], ["catalog"], ["log", "c/a"], ["get", "c/a"], ["cat", "c/a:f"]]
)
@pytest.mark.parametrize("place", ["missing", "empty"])
def test_reading_needs_a_store(tmp_path: Path, command: list[str], place: str) -> None:
    """What only reads says that there is no store, and makes none: an empty answer would hide a typo."""
    store = tmp_path / "store"
    if place == "empty":
        store.mkdir()
    status = 2 if command == ["verify"] else 1
    assert f"no store at {store}" in failing(*command, store=str(store), status=status)
    assert not store.exists() or not os.listdir(store)


def test_the_python_manager_makes_parents(tmp_path: Path, file: Path) -> None:
    """As squirrel's does: a program says what it means."""
    manager = artifactfs.connect(tmp_path / "a/b/store")
    assert (manager.made_store, manager.is_made()) == (False, False)
    manager.log_files("a", file, "c")
    assert (manager.made_store, manager.is_made()) == (True, True)
    again = artifactfs.connect(tmp_path / "a/b/store")
    again.ensure_created()
    assert not again.made_store


def test_a_store_in_memory() -> None:
    """Where there are no directories, a store is there once it was made."""
    manager = artifactfs.connect("memory://new-stores")
    assert manager.is_made() is False
    manager.ensure_created()
    assert (manager.made_store, manager.is_made()) == (True, True)
