"""What every command on a store prints and does."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
import pytest

from artifactfs import ArtifactManager, Catalog, connect
from artifactfs.commands.options import CommandError, NoAnswer
from artifactfs.errors import (
    ArtifactNotFound,
    CollectionNotFound,
    InvalidName,
    NotFound,
    PathNotFound,
    SerializationError,
    VersionNotFound,
)
from tests.cli.support import Commands
from tests.trees import assert_same, make_tree

VERSION_FIELDS = {
    "collection",
    "artifact",
    "version",
    "created_at",
    "files",
    "size_bytes",
    "digest",
    "message",
    "metadata",
    "creator",
    "parent",
    "aliases",
}
ENTRY_FIELDS = {"path", "kind", "size_bytes", "digest", "mode", "modified_at", "target"}


@pytest.fixture
def history(run: Commands, tree: Path) -> Path:
    """models/bert with v0 (alias best) and v1, models/other with v0; the tree as it is in v1."""
    run("put", tree, "models/bert", "-m", "first\ntry", "--alias", "best", "--metadata", "lr=0.1")
    run("put", tree / "src/a/b", "models/other")
    (tree / "more").write_bytes(b"more")
    (tree / "empty").write_bytes(b"no more")
    (tree / "run.sh").unlink()
    run("put", tree, "models/bert", "-m", "second")
    return tree


# -- put and get -------------------------------------------------------------------------------------------------------


def test_what_was_put_comes_back(run: Commands, tree: Path, tmp_path: Path):
    done = run("put", tree, "models/bert")
    assert done.stdout.startswith("models/bert v0: 12 files, ")
    done = run("get", "models/bert", tmp_path / "out")
    assert done.stdout.startswith(f"models/bert v0: {tmp_path}/out/bert, 12 files, ")
    assert_same(tree, tmp_path / "out/bert")


def test_put_says_what_it_did(run: Commands, tree: Path):
    first = run.json("put", tree, "models/bert")
    assert first.keys() == {
        *("collection", "artifact", "version", "created", "files", "size_bytes", "digest"),
        *("sent_bytes", "deduplicated_bytes", "seconds"),
    }
    assert (first["version"], first["created"], first["files"]) == ("v0", True, 12)
    assert first["sent_bytes"] + first["deduplicated_bytes"] == first["size_bytes"]
    again = run.json("put", tree, "models/bert", "--alias", "same")
    assert (again["version"], again["created"], again["sent_bytes"]) == ("v0", False, 0)
    assert "unchanged: same content as v0" in run("put", tree, "models/bert").stdout
    assert run.json("alias", "models/bert")["aliases"] == {"same": "v0"}


def test_put_remembers_message_and_metadata(run: Commands, tree: Path):
    run(
        *("put", tree, "m/a", "-m", "hello", "--metadata", "lr=0.1", "--metadata", "name=a=b"),
        *("--metadata", '{"tags": ["x"], "lr": 2}', "--alias", "one", "--alias", "two"),
    )
    (only,) = run.json("log", "m/a")
    assert only["message"] == "hello"
    assert only["metadata"] == {"lr": 2, "name": "a=b", "tags": ["x"]}
    assert only["aliases"] == ["one", "two"]


def test_put_a_file_into_a_directory_of_the_version(run: Commands, tree: Path):
    run("put", tree / "run.sh", "m/a:deep/bin/")
    assert run.lines("ls", "-R", "m/a@v0") == ["deep/", "deep/bin/", "deep/bin/run.sh"]


@pytest.mark.parametrize(
    ("address", "error"),
    [("m", InvalidName), ("m/a@v0", InvalidName), ("m/a:../x", InvalidName), ("m n/a", InvalidName)],
)
def test_put_refuses_what_is_no_place(run: Commands, tree: Path, address: str, error: type[Exception]):
    with pytest.raises(error):
        run("put", tree, address)


def test_put_refuses_what_it_cannot_remember(run: Commands, tree: Path):
    with pytest.raises(InvalidName):
        run("put", tree, "m/a", "--alias", "v7")
    with pytest.raises(SerializationError):
        run("put", tree, "m/a", "-m", "x" * 70_000)
    for wrong in ("novalue", "=x", "{broken"):
        run("put", tree, "m/a", "--metadata", wrong, status=2)
    with pytest.raises(NotFound):
        run("put", tree / "nothing", "m/a")


@pytest.mark.parametrize(
    ("path", "source"),
    [("src", "src"), ("src/a/b/c/deep.txt", "src/a/b/c/deep.txt"), ("link", "src/a/one.bin"), ("src/dirlink", "src/a")],
)
def test_get_a_part(run: Commands, history: Path, tmp_path: Path, path: str, source: str):
    done = run.json("get", f"models/bert@v1:{path}", tmp_path / "out")
    target = tmp_path / "out" / Path(path).name
    assert (done["path"], done["target"]) == (source, str(target))
    if target.is_dir():
        assert_same(history / source, target)
    else:
        assert target.read_bytes() == (history / source).read_bytes()
        assert os.stat(target).st_mtime_ns == os.stat(history / source).st_mtime_ns
    assert os.listdir(tmp_path / "out") == [target.name]


def test_get_replaces_files_and_leaves_others_when_told(run: Commands, history: Path, tmp_path: Path):
    (tmp_path / "out/bert").mkdir(parents=True)
    (tmp_path / "out/bert/mine").write_bytes(b"mine")
    (tmp_path / "out/bert/empty").write_bytes(b"old")
    run("get", "models/bert@best", tmp_path / "out", "--keep")
    run("get", "models/bert@best:read me.txt", tmp_path / "out/bert")
    assert (tmp_path / "out/bert/mine").read_bytes() == b"mine"
    assert (tmp_path / "out/bert/empty").read_bytes() == b""


def test_get_mixes_no_versions_without_a_word(run: Commands, history: Path, tmp_path: Path):
    """V0 has run.sh, v1 does not: which file is of which version could not be told afterwards."""
    out = tmp_path / "out"
    run("get", "models/bert@v0", out)
    with pytest.raises(CommandError, match=r"holds what is not of this version: run\.sh; "):
        run("get", "models/bert@v1", out)
    assert not (out / "bert/more").exists()
    assert run.json("get", "models/bert@v1", out, "--delete")["deleted"] == 1
    assert_same(history, out / "bert")
    # Over the same version nothing is in the way.
    assert run.json("get", "models/bert@v1", out)["deleted"] == 0
    run("get", "models/bert@v1", out, "--keep", "--delete", status=2)


def test_get_deletes_what_is_not_of_the_version_and_nothing_else(run: Commands, history: Path, tmp_path: Path):
    out, outside = tmp_path / "out", tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    run("get", "models/bert@v1", out)
    run("get", "models/bert@v1:src/a/b", out)
    (out / "beside").touch()
    for top in (out / "bert", out / "b"):
        (top / "d/e").mkdir(parents=True)
        (top / "d/e/f").touch()
        (top / "away").symlink_to(outside)
        (top / "x/y").mkdir(parents=True)
    for address in ("models/bert@v1", "models/bert@v1:src/a/b"):
        with pytest.raises(CommandError):
            run("get", address, out)
        assert run.json("get", address, out, "--delete")["deleted"] == 3
    assert_same(history, out / "bert")
    assert_same(history / "src/a/b", out / "b")
    assert sorted(os.listdir(out)) == ["b", "bert", "beside"]
    assert os.listdir(outside) == ["kept"]


def test_get_says_what_is_not_there(run: Commands, history: Path, tmp_path: Path):
    for address, error in [
        ("models/bert:nothing", PathNotFound),
        ("models/bert@v9", VersionNotFound),
        ("models/nothing", ArtifactNotFound),
        ("models", InvalidName),
    ]:
        with pytest.raises(error):
            run("get", address, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- ls and log --------------------------------------------------------------------------------------------------------


def test_ls_of_each_level(run: Commands, history: Path):
    assert run.lines("ls") == ["models"]
    assert run.lines("ls", "models") == ["bert", "other"]
    assert run.lines("ls", "models/bert") == ["v0  best", "v1  latest"]
    assert run.lines("ls", "models/bert@best:src") == ["a/", "dirlink"]
    assert run.lines("ls", "models/bert@best:src/dirlink") == ["b/", "one.bin", "up"]
    assert run.lines("ls", "models/bert@best:link") == ["one.bin"]
    assert run.lines("ls", "-R", "models/bert@v0:src/a") == ["b/", "b/c/", "b/c/deep.txt", "one.bin", "up"]


def test_ls_recursive_goes_on_below_every_level(run: Commands, history: Path):
    versions = {f"models/{of}": run.lines("ls", "-R", f"models/{of}") for of in ("bert", "other")}
    assert versions["models/bert"][0] == "models/bert@v0"
    assert "models/bert@v0:src/a/b/c/deep.txt" in versions["models/bert"]
    assert "models/bert@v1" in versions["models/bert"]
    below = [line for artifact, lines in versions.items() for line in (artifact, *lines)]
    assert run.lines("ls", "-R", "models") == below
    assert run.lines("ls", "-R") == ["models", *below]
    assert len(run.lines("ls", "-lR")) == len(below) + 1
    found = run.json("ls", "-R")
    assert [fields.keys() for fields in found[:3]] == [
        {"collection"},
        {"collection", "artifact"},
        {"collection", "artifact", "version", "aliases"},
    ]
    (deep,) = [f for f in found if (f.get("path"), f.get("version")) == ("src/a/b/c/deep.txt", "v1")]
    assert deep.keys() == ENTRY_FIELDS | {"collection", "artifact", "version"}
    assert run.json("ls", "-lR", "models/other")[0].keys() == VERSION_FIELDS
    for missing, error in (("nothing", CollectionNotFound), ("models/nothing", ArtifactNotFound)):
        with pytest.raises(error):
            run("ls", "-R", missing)


def test_ls_prints_names_byte_for_byte(run: Commands, history: Path):
    shown = run("ls", "models/bert@latest").stdout_bytes
    for name in os.listdir(os.fsencode(history)):
        assert name in shown


def test_ls_of_each_level_as_json(run: Commands, history: Path):
    assert run.json("ls") == [{"collection": "models"}]
    assert run.json("ls", "models") == [{"collection": "models", "artifact": name} for name in ("bert", "other")]
    assert run.json("ls", "models/bert") == [
        {"collection": "models", "artifact": "bert", "version": "v0", "aliases": ["best"]},
        {"collection": "models", "artifact": "bert", "version": "v1", "aliases": []},
    ]
    files = {fields["path"]: fields for fields in run.json("ls", "-R", "models/bert@v1")}
    assert set(files) == {
        os.path.relpath(os.path.join(top, name), history) for top, d, f in os.walk(history) for name in d + f
    }
    assert all(fields.keys() == ENTRY_FIELDS for fields in files.values())
    assert files["src/dirlink"]["target"] == "a"
    assert (files["secret"]["kind"], files["secret"]["mode"]) == ("file", "0600")
    assert files["big.bin"]["size_bytes"] == (history / "big.bin").stat().st_size


def test_ls_long(run: Commands, history: Path):
    assert run.lines("ls", "-l") == ["models  2 artifacts"]
    bert, other = run.lines("ls", "-l", "models")
    assert bert.startswith("bert   2 versions  v1  2")
    assert "second" in bert
    assert other.startswith("other   1 version  v0  2")
    assert [line.split()[0] for line in run.lines("ls", "-l", "models/bert")] == ["v0", "v1"]
    rows = run.lines("ls", "-l", "models/bert@v1:src")
    assert rows[0].startswith("drwxr-xr-x")
    assert rows[0].endswith("  a/")
    assert rows[1].startswith("lrwxrwxrwx")
    assert rows[1].endswith("  dirlink -> a")
    assert [fields["artifacts"] for fields in run.json("ls", "-l")] == [2]
    assert [fields.keys() - VERSION_FIELDS for fields in run.json("ls", "-l", "models")] == [{"versions"}] * 2
    assert [fields.keys() for fields in run.json("ls", "-l", "models/bert")] == [VERSION_FIELDS] * 2


def test_ls_of_an_empty_store_is_nothing(run: Commands, manager: ArtifactManager):
    manager.ensure_created()
    assert run("ls").stdout == ""
    assert run.json("ls") == []


def test_log_shows_the_newest_first(run: Commands, history: Path):
    lines = run.lines("log", "models/bert")
    assert [line.split()[0] for line in lines] == ["v1", "second", "v0", "first", "try", '{"lr":']
    assert lines[0].endswith("  latest")
    assert lines[2].endswith("  best")
    newest, oldest = run.json("log", "models/bert")
    assert newest.keys() == VERSION_FIELDS
    assert (newest["version"], newest["parent"], newest["message"]) == ("v1", "v0", "second")
    assert (oldest["metadata"], oldest["aliases"], oldest["message"]) == ({"lr": 0.1}, ["best"], "first\ntry")
    assert newest["created_at"].endswith("+00:00")
    assert [fields["version"] for fields in run.json("log", "models/bert", "-n", "1")] == ["v1"]
    assert [fields["version"] for fields in run.json("log", "models/bert@best")] == ["v0"]


# -- cat ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["src/a/one.bin", "link", "empty", "new\nline", "-rf"])
def test_cat(run: Commands, history: Path, path: str):
    assert run("cat", f"models/bert@v1:{path}").stdout_bytes == (history / path).read_bytes()


def test_cat_says_what_is_no_file(run: Commands, history: Path):
    for address, error in [
        ("models/bert", InvalidName),
        ("models/bert:src", PathNotFound),
        ("models/bert:dangling", PathNotFound),
        ("nothing/bert:a", NotFound),
    ]:
        with pytest.raises(error):
            run("cat", address)


# -- diff --------------------------------------------------------------------------------------------------------------


def test_diff_of_two_versions(run: Commands, history: Path):
    expected = ["~ empty  0 B to 7 B", "+ more  4 B", "- run.sh  18 B", "1 added, 1 removed, 1 changed, -7 B"]
    for arguments in (["models/bert@v0", "models/bert@v1"], ["models/bert@best", "v1"], ["models/bert"]):
        assert run.lines("diff", *arguments, status=1) == expected
    assert run.lines("diff", "models/bert@v1", "best", status=1)[-1] == "1 added, 1 removed, 1 changed, +7 B"
    assert run.lines("diff", "models/bert@v1", "latest") == []
    assert run.lines("diff", "models/bert@v0", status=1)[-1].startswith("17 added")


def test_diff_as_json(run: Commands, history: Path):
    found = run.json("diff", "models/bert@v1", status=1)
    assert found.keys() == {"old", "new", "added", "removed", "changed", "uncertain"}
    assert found["old"] == {"collection": "models", "artifact": "bert", "version": "v0"}
    assert [entry["path"] for entry in found["added"]] == ["more"]
    assert [entry["path"] for entry in found["removed"]] == ["run.sh"]
    (changed,) = found["changed"]
    assert (changed["path"], changed["aspects"], changed["new"]["size_bytes"]) == ("empty", ["content"], 7)
    assert run.json("diff", "models/bert@v0", status=1)["old"] is None
    assert run.json("diff", "models/bert@v0", "v0")["changed"] == []


def test_diff_skips_a_deleted_parent(run: Commands, history: Path):
    (history / "third").write_bytes(b"3")
    run("put", history, "models/bert")
    run("delete", "models/bert@v1", "--yes")
    assert run.json("diff", "models/bert@v2", status=1)["old"]["version"] == "v0"


def test_diff_that_cannot_answer_is_trouble(run: Commands, history: Path):
    for arguments in (["models/bert@v9"], ["models/bert@v0:src"], ["models"], ["models/bert@v0", "models/nothing"]):
        with pytest.raises(NoAnswer):
            run("diff", *arguments)


# -- alias and delete --------------------------------------------------------------------------------------------------


def test_aliases_are_set_moved_listed_and_deleted(run: Commands, history: Path):
    run("alias", "models/bert@v0", "prod")
    run("alias", "models/bert", "prod")
    assert run.lines("alias", "models/bert") == ["best  v0", "prod  v1"]
    assert run.lines("alias", "models/bert@v1") == ["prod  v1"]
    assert run("alias", "models/bert", "prod", "--delete").stdout == "models/bert: prod deleted\n"
    assert run.json("alias", "models/bert") == {
        "collection": "models",
        "artifact": "bert",
        "aliases": {"best": "v0"},
    }
    with pytest.raises(VersionNotFound):
        run("alias", "models/bert", "prod", "--delete")
    with pytest.raises(InvalidName):
        run("alias", "models/bert", "latest")
    run("alias", "models/bert", "--delete", status=2)


def test_delete_asks(run: Commands, history: Path):
    done = run("delete", "models/bert@best", input="y\n")
    assert "Delete models/bert v0 (12 files, " in done.stderr
    assert "best" in done.stderr
    assert done.stdout == "deleted models/bert v0\n"
    assert run.lines("ls", "models/bert") == ["v1  latest"]


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_delete_without_a_yes_deletes_nothing(run: Commands, history: Path, answer: str):
    with pytest.raises(CommandError, match="nothing was deleted"):
        run("delete", "models/bert@v0", input=answer)
    assert len(run.lines("ls", "models/bert")) == 2


def test_delete_wants_a_version(run: Commands, history: Path):
    with pytest.raises(CommandError, match="names no version"):
        run("delete", "models/bert", "--yes")
    deleted = run.json("delete", "models/bert@v0", "--yes")
    assert (deleted.keys(), deleted["version"]) == (VERSION_FIELDS, "v0")
    with pytest.raises(VersionNotFound):
        run("delete", "models/bert@v0", "--yes")


# -- catalog, verify, gc -----------------------------------------------------------------------------------------------


def test_catalog_is_read_back(run: Commands, history: Path, tmp_path: Path):
    run("catalog", "models", "-o", tmp_path / "catalog.yaml")
    written = Catalog.from_files([tmp_path / "catalog.yaml"])
    assert written == connect(run.url).collection_to_catalog("models")
    assert Catalog.from_str(run("catalog").stdout) == written
    found = run.json("catalog", "models")
    assert [(source["identifier"], source["version"]) for source in found] == [
        ("models/bert", 1),
        ("models/bert", 2),
        ("models/other", 1),
    ]
    with pytest.raises(CollectionNotFound):
        run("catalog", "nothing")
    with pytest.raises(InvalidName):
        run("catalog", "models/bert")
    run("catalog", "--json", "-o", "x", status=2)


@pytest.mark.parametrize("address", [[], ["models"], ["models/bert"], ["models/bert@best"]], ids=str)
def test_verify_of_a_sound_store(run: Commands, history: Path, address: list[str]):
    assert "nothing damaged" in run("verify", *address).stdout
    found = run.json("verify", *address)
    assert found["ok"] is True
    assert found.keys() == {"ok", "versions", "objects", "files", "size_bytes", "findings"}


def test_verify_that_cannot_answer_is_trouble(run: Commands, history: Path):
    for address in ("models/bert@v9", "models/nothing", "models/bert:src"):
        with pytest.raises(NoAnswer):
            run("verify", address)


def test_gc_frees_what_was_deleted(run: Commands, history: Path):
    run("delete", "models/bert@v0", "--yes")
    run("delete", "models/bert@v1", "--yes")
    # The first run takes note; without a grace period the second one frees.
    assert run.json("gc", "--grace", "0")["deleted_objects"] == 0
    would = run.json("gc", "--grace", "0", "--dry-run")
    assert "would be deleted" in run("gc", "--grace", "0", "--dry-run").stdout
    done = run.json("gc", "--grace", "0")
    assert done["deleted_objects"] == would["deleted_objects"] > 0
    assert done["deleted_bytes"] > 0
    assert done.keys() >= {"dry_run", "versions", "objects", "size_bytes", "waiting_objects", "waiting_bytes"}
    assert run.json("verify")["ok"] is True
    run("gc", "--grace", "-1", status=2)


# -- all of them -------------------------------------------------------------------------------------------------------


def test_every_command_that_prints_data_has_json():
    from artifactfs.cli import COMMANDS

    without = {
        command.name for command in COMMANDS if not any("--json" in parameter.opts for parameter in command.params)
    }
    assert without == {"cat", "completion"}


def test_options_reach_the_store(tmp_path: Path):
    make_tree(tmp_path / "tree")
    run = Commands("")
    arguments = ("--store", str(tmp_path / "store"), "--storage-option", "single_writer=true")
    run("put", tmp_path / "tree", "m/a", *arguments)
    (source,) = json.loads(run("catalog", "--json", *arguments).stdout)
    assert source["driver_kwargs"]["storage_options"] == {"single_writer": True}
    with pytest.raises(CommandError, match="no store: give --store URL or set ARTIFACTFS_STORE"):
        run("ls")


def test_help_of_every_command_says_what_it_does():
    from artifactfs.cli import COMMANDS

    for command in COMMANDS:
        assert isinstance(command, click.Command)
        assert (command.help or "")[0].isupper()
        assert all(parameter.help for parameter in command.params if isinstance(parameter, click.Option))


def test_commands_with_a_record_that_cannot_be_read(local: str, tree: Path) -> None:
    """It is shown as what it is, beside its neighbours, and can be deleted."""
    run = Commands(local)
    for text in ("one", "two"):
        (tree / "f").write_text(text)
        run("put", tree, "c/bad")
        run("put", tree, "c/good")
    record = Path(local, "collections/c/bad/v1.version")
    raw = record.read_text().replace('"message":""', '"message":null')
    record.unlink()
    record.write_text(raw)
    assert len(run.lines("ls", "c", "-l")) == 2
    assert [line.split()[0] for line in run.lines("ls", "c/bad", "-l")] == ["v0", "v1"]
    assert "cannot be read" in run.lines("ls", "c/bad", "-l")[1]
    assert "cannot be read" in run("log", "c/bad").stdout
    assert "c/good" in run("catalog").stdout
    assert run.json("gc", "--dry-run")["versions"] == 4
    run("verify", "c/bad@v0")
    run("verify", "c/bad@v1", status=1)
    run("put", tree, "c/bad")
    assert [line.split()[0] for line in run.lines("ls", "c/bad")] == ["v0", "v1", "v2"]
    run("delete", "c/bad@v1", "--yes")
    run("verify")
