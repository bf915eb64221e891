"""Names that are not UTF-8, and terminals that are not: no command ends in a traceback, and names keep their bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mount.cli import cli
from tests.cli.support import program

pytestmark = pytest.mark.long(0.5)

NAME, LINK = b"f\xfe", b"l\xfd"
# The locale that names no encoding, as Python before UTF-8 mode saw it, stands for every one that is not UTF-8.
LOCALES: dict[str, dict[str, str]] = {
    "C": {"LC_ALL": "C"},
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "latin-1 in C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1"},
    "ascii output": {"PYTHONIOENCODING": "ascii:strict"},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """c/a with a file, a link and a directory whose names are not UTF-8, and one that is but not Latin-1."""
    directory = tmp_path_factory.mktemp("odd")
    tree = os.fsencode(directory) + b"/tree\xff"
    os.makedirs(tree + b"/d\xfc")
    Path(os.fsdecode(tree + b"/" + NAME)).write_text("hi")
    os.symlink(NAME, tree + b"/" + LINK)
    Path(os.fsdecode(tree), "€").write_text("euro")
    done = program(b"put", tree, b"c/a", b"-m", "größer: €".encode(), store=str(directory / "store"), text=False)
    assert done.returncode == 0, done
    return str(directory / "store")


def out(*arguments: Any, store: str, locale: str = "C", status: int = 0) -> bytes:
    """What a command prints on stdout."""
    done = program(*arguments, store=store, env=LOCALES[locale], text=False)
    assert b"Traceback" not in done.stderr
    assert done.returncode == status, done
    return bytes(done.stdout)


@pytest.mark.parametrize("locale", LOCALES)
def test_names_keep_their_bytes(store: str, locale: str, tmp_path: Path):
    names = [b"d\xfc/", NAME, LINK, "€".encode()]
    assert sorted(out("ls", "c/a@v0", store=store, locale=locale).splitlines()) == sorted(names)
    assert NAME in out("ls", "-lR", "c/a@v0", store=store, locale=locale)
    assert b"+ " + NAME in out("diff", "c/a@v0", store=store, locale=locale, status=1)
    assert out("cat", b"c/a@v0:" + LINK, store=store, locale=locale) == b"hi"
    target = os.fsencode(tmp_path) + b"/to\xff"
    assert NAME in out("get", b"c/a@v0:" + NAME, target, store=store, locale=locale)
    assert os.listdir(target) == [NAME]
    out("get", "c/a", target, store=store, locale=locale)
    assert sorted(os.listdir(target + b"/a")) == sorted(name.rstrip(b"/") for name in names)


@pytest.mark.parametrize("locale", LOCALES)
def test_names_that_are_put_keep_their_bytes(locale: str, tmp_path: Path):
    tree = os.fsencode(tmp_path) + b"/tree"
    os.mkdir(tree)
    names = {NAME, "ä€".encode()}
    for name in names:
        Path(os.fsdecode(tree + b"/" + name)).touch()
    store = str(tmp_path / "store")
    out("put", tree, "c/a", store=store, locale=locale)
    assert set(out("ls", "c/a@v0", store=store).splitlines()) == names


@pytest.mark.parametrize("locale", LOCALES)
def test_tables_messages_and_json(store: str, locale: str):
    assert b"gr" in out("log", "c/a", store=store, locale=locale)
    assert b"gr" in out("ls", "-l", "c/a", store=store, locale=locale)
    listed = json.loads(out("ls", "--json", "c/a@v0", store=store, locale=locale))
    assert {os.fsencode(entry["path"]) for entry in listed} == {b"d\xfc", NAME, LINK, "€".encode()}
    assert json.loads(out("log", "--json", "c/a", store=store, locale=locale))[0]["message"] == "größer: €"


@pytest.mark.parametrize(
    ("command", "locale"), [*((command, "ascii output") for command in cli.commands), *(("", each) for each in LOCALES)]
)
def test_help(command: str, locale: str):
    done = program(*([command] if command else []), "--help", env=LOCALES[locale], text=False)
    assert done.returncode == 0, done
    assert done.stdout.startswith(b"Usage: artifactfs ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("put", b"nothing\xff", "c/x"),
        ("put", "/dev", b"c\xff/x"),
        ("put", "/dev", "c/x", "-m", b"\xff"),
        ("put", "/dev", "c/x", "--metadata", b"a=\xff"),
        ("put", "/dev", "c/x", "--metadata", b"\xff=1"),
        ("put", "/dev", "c/x", "--alias", b"\xff"),
        ("ls", b"c/a@v0:nothing\xff"),
        ("ls", b"c/a@\xff"),
        ("ls", "--store", b"/nothing\xff"),
        ("ls", "--storage-option", b"\xff"),
        ("get", b"c/a:nothing\xff"),
        ("get", "c/a", b"/dev/null/\xff"),
        ("cat", b"c/a:nothing\xff"),
        ("diff", b"c/a@\xff"),
        ("log", b"c/\xff"),
        ("copy", "c/a", b"c/\xff"),
        ("alias", "c/a", b"\xff"),
        ("delete", "--yes", b"c/a@\xff"),
        ("catalog", "-o", b"/dev/null/\xff"),
        ("status", b"/nothing\xff"),
        ("umount", b"/nothing\xff"),
        ("commit", b"/nothing\xff"),
        ("stage", b"/nothing\xff"),
        ("discard", b"/nothing\xff"),
        ("retry", b"/nothing\xff"),
        ("mount", b"/nothing\xff", b"/nothing\xfe"),
        (b"\xff",),
        ("ls", b"--\xff"),
    ],
    ids=repr,
)
def test_what_is_wrong_is_said(store: str, arguments: tuple[Any, ...]):
    done = program(*arguments, store=store, text=False)
    assert done.returncode in (1, 2), done
    assert b"Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith((b"artifactfs: ", b"Error: "))
