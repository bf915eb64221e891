"""Lines of ``.artifactignore`` mean what they mean to git, which is asked here, and none takes long."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artifactfs.errors import UnsupportedTree
from mount import gitignore, ignore
from mount.gitignore import Rules, parse_lines
from mount.ignore import IGNORE_FILE, JUNK, prune

NAMES = [
    *(b"a", b"b", b"ab", b"aab", b"abab", b"a.b", b"foo", b"bar", b"A", b"z", b"5", b"x-y", b"#a", b"!a", b"-", b"^"),
    *(b"a ", b"a  ", b" a", b"a\r", b"a\t", b"a[", b"a]", b"[a]", b"]", b"*", b"?", b"a*b", b"\\", b"a\\", b"\\a"),
    *(b"\xff", b"\xc3\xa4", b"\xef\xbb\xbfa", b"a-", b".hidden", b"foo.log", b"foo.logs", b"_", b"a:b", b"~", b"\x01"),
]
BELOW = [b"a", b"b", b"ab", b"foo", b"bar", b"a.b", b"foo.log", b"[a]", b"\xff"]
GIT = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "LC_ALL": "C"}

ODD = {
    "byte order mark": b"\xef\xbb\xbfa\n",
    "byte order mark in the middle": b"b\n\xef\xbb\xbfa\n",
    "no newline at the end": b"b\na",
    "carriage returns": b"a\r\nb\r\n",
    "two carriage returns": b"a\r\r\n",
    "carriage return at the very end": b"a\r",
    "empty lines": b"\n\n\r\na\n\n",
    "nothing": b"",
    "exclamation mark alone": b"*\n!\n",
    "two exclamation marks": b"!!a\n",
    "taken back": b"*\n!foo\n",
    "taken back and away again": b"*\n!a*\na.b\n",
    "taken back below what is ignored": b"foo/\n!foo/a\n",
    "taken back directory": b"/*\n!/foo/\n!/a\n",
    "trailing spaces": b"a   \n",
    "escaped trailing space": b"a\\ \n",
    "escaped trailing space and more": b"a\\  \n",
    "spaces only": b"   \n",
    "leading space": b" a\n",
    "tab at the end": b"a\t\n",
    "comment": b"#a\n",
    "comment after a space": b" #a\n",
    "escaped comment": b"\\#a\n",
    "escaped exclamation mark": b"\\!a\n",
    "backslash at the end": b"a\\\n",
    "backslash alone": b"\\\n",
    "escaped backslash": b"a\\\\\n",
    "backslash and spaces at the end": b"a \\\n",
    "escaped letter": b"\\a\\b\n",
    "escaped star": b"a\\*b\n",
    "class": b"[ab]\n",
    "range": b"[a-f]oo\n",
    "negated class": b"[!a-z]\n",
    "class negated by a caret": b"[^a-z]\n",
    "bracket first in a class": b"[]a]\n",
    "bracket first in a negated class": b"[!]a]\n",
    "caret later in a class": b"[a^]\n",
    "dash first": b"[-a]\n",
    "dash last": b"[a-]\n",
    "range backwards": b"[z-a]\n",
    "escape in a class": b"[\\]]\n",
    "escape as the end of a range": b"[a-\\z]\n",
    "letters": b"[[:alpha:]]\n",
    "no letters": b"[![:alnum:]]\n",
    "punctuation": b"[[:punct:]]\n",
    "space": b"a[[:space:]]\n",
    "control characters": b"[[:cntrl:]]\n",
    "two classes": b"[[:digit:][:upper:]]\n",
    "unknown class": b"[[:foo:]]*\n*.log\n",
    "half a class": b"[[:alpha]\n",
    "class without brackets": b"[:alpha:]\n",
    "unmatched bracket": b"a[\n",
    "unmatched bracket after a star": b"*[\n",
    "unmatched bracket, negated": b"[!a\n",
    "empty class": b"[]\n",
    "question mark": b"?\n",
    "question marks and two bytes": b"??\n",
    "star": b"*\n",
    "stars": b"a*b\n*.log\nf*\n",
    "three stars": b"***a\n",
    "directories only": b"foo/\n",
    "directories only by a star": b"*/\n",
    "top only": b"/a\n",
    "slash": b"/\n",
    "two slashes": b"//\n/a//b\n",
    "slash in the middle": b"foo/a\n",
    "slash escaped": b"foo\\/a\n",
    "any depth": b"**/a\n",
    "all below": b"foo/**\n",
    "all below, directories only": b"foo/**/\n",
    "between": b"foo/**/b\n",
    "between, twice": b"foo/**/a/**/b\n",
    "stars twice": b"**/**/b\n",
    "stars alone": b"**\n",
    "stars inside a name": b"foo/a**b\n",
    "stars at the end of a name": b"foo/a**\n",
    "stars after a name": b"a**/b\n",
    "stars and an escaped slash": b"**\\/a\n",
    "star as a directory": b"*/a\n",
    "stars and a class": b"**/[a-b]\n",
    "class that has a slash": b"foo[/]a\n",
    "star across a slash": b"f*a\n/f*a\n",
    "no UTF-8": b"\xff\n",
    "two bytes, one letter": "ä\n".encode(),
    "letter in a class": "[ä]\n".encode(),
    "NUL": b"a\0b\n",
    "very long line": b"a" * 70_000 + b"\nfoo\n",
    "very long line of stars": b"*a" * 20_000 + b"\nfoo\n",
    "very long path": b"a/" * 20_000 + b"*\nfoo\n",
    "many lines": b"".join(b"none%d\n" % number for number in range(50_000)) + b"foo\n",
    "many equal lines": b"f*o\n" * 50_000,
}


class World:
    """A tree that git and the drive look at."""

    def __init__(self, root: Path) -> None:
        self.root = os.fsencode(root)
        subprocess.run(["git", "init", "-q", root], check=True, env=GIT)
        for option, value in (("core.excludesFile", os.devnull), ("core.ignoreCase", "false")):
            subprocess.run(["git", "config", option, value], cwd=root, check=True, env=GIT)
        (root / ".git/info/exclude").write_bytes(b"")
        self.paths: list[bytes] = []
        for name in NAMES:
            if name in (b"foo", b"a", b"a.b", b"[a]", b"ab", b"bar"):
                self._directory(name, depth=2 if name in (b"foo", b"a") else 1)
            else:
                self._file(name)

    def _directory(self, path: bytes, depth: int) -> None:
        os.mkdir(self.root + b"/" + path)
        self.paths.append(path)
        for name in BELOW:
            if depth > 1 and name in (b"a", b"b", b"foo"):
                self._directory(path + b"/" + name, depth - 1)
            else:
                self._file(path + b"/" + name)

    def _file(self, path: bytes) -> None:
        Path(os.fsdecode(self.root + b"/" + path)).touch()
        self.paths.append(path)

    def by_git(self, lines: bytes) -> set[bytes]:
        """What git ignores."""
        Path(os.fsdecode(self.root), ".gitignore").write_bytes(lines)
        done = subprocess.run(
            ["git", "check-ignore", "--no-index", "-z", "--stdin"],
            input=b"".join(b"./%s\0" % path for path in self.paths),
            cwd=self.root,
            env=GIT,
            capture_output=True,
            check=False,
        )
        assert done.returncode in (0, 1), done.stderr
        return {path[2:] for path in done.stdout.split(b"\0") if path}

    def by_rules(self, lines: bytes) -> set[bytes]:
        """What the drive ignores."""
        rules = Rules(parse_lines(lines), most=10**9, most_bytes=10**9)
        ignored: set[bytes] = set()
        for path in self.paths:
            is_directory = os.path.isdir(self.root + b"/" + path)
            if path.rpartition(b"/")[0] in ignored or rules.ignore(path, is_directory=is_directory):
                ignored.add(path)
        return ignored


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One tree for all."""
    if shutil.which("git") is None:
        pytest.skip("git is needed to compare with")
    return World(tmp_path_factory.mktemp("git"))


@pytest.mark.parametrize("lines", ODD.values(), ids=ODD)
def test_as_git(world: World, lines: bytes) -> None:
    """C9: the same paths are ignored."""
    assert world.by_rules(lines) == world.by_git(lines)


PIECES = st.sampled_from(
    [
        *(b"a", b"b", b"ab", b"foo", b"log", b"*", b"*", b"**", b"/", b"/", b"?", b"[", b"]", b"!", b"^", b"-", b"\\"),
        *(b"[a-b]", b"[!a]", b"[[:alpha:]]", b"[:", b":]", b"**/", b"/**", b"/**/", b" ", b"#", b".", b"\r", b"\t"),
        *(b"\xff", b"\xc3\xa4", b"[]a]", b"[^]b]", b"[[:foo:]]", b"[\\]]", b"[a-\\z]", b"\\/", b"\0"),
    ]
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(PIECES, min_size=1, max_size=7).map(b"".join), max_size=4), st.sampled_from([b"\n", b"\r\n"]))
def test_any_lines_as_git(world: World, lines: list[bytes], ending: bytes) -> None:
    """C9: the same paths are ignored, whatever the lines say."""
    text = ending.join(lines)
    assert world.by_rules(text) == world.by_git(text)


def test_every_byte_in_every_class(world: World) -> None:
    """C9: classes hold the same bytes."""
    every = World.__new__(World)
    every.root, every.paths = world.root, [b"byte%c" % byte for byte in range(1, 256) if byte != ord("/")]
    for name in gitignore._CLASSES:
        for lines in (b"byte[[:%s:]]" % name, b"byte[![:%s:]]" % name):
            assert every.by_rules(lines) == every.by_git(lines), name


def explosive() -> Iterable[tuple[bytes, bytes]]:
    """(line, path) that a matcher which goes back takes for ever over."""
    yield b"*a" * 120 + b"b", b"a" * 255
    yield b"?*" * 120 + b"b", b"a" * 255
    yield b"*[ab]" * 100 + b"c", b"ab" * 127
    yield b"**/" + b"*a*a*a/" * 10 + b"b", b"/".join([b"a" * 100] * 40)
    yield b"/**/a" * 30 + b"/b", b"/".join([b"a"] * 1500)
    yield b"**/**/" * 50 + b"b", b"/".join([b"a"] * 1500)
    yield b"**/" + b"a/" * 700 + b"b", b"/".join([b"a"] * 1500)


@pytest.mark.parametrize(("line", "path"), list(explosive()), ids=lambda value: value[:12])
def test_no_line_takes_long(line: bytes, path: bytes) -> None:
    """C9: what a data set brings along cannot hold up the drive."""
    rules = Rules(parse_lines(line), most=10, most_bytes=10**9)
    started = time.thread_time()
    assert not rules.ignore(path, is_directory=False)
    assert time.thread_time() - started < 2.0


LONG = {
    "brackets in one line": b"/".join([b"[!a]" * 200 + b"x"] * 1300),
    "names in one line": b"/".join(b"a%x*b" % number for number in range(130_000)),
    "brackets in many lines": b"\n".join(b"[!a%d]%d*/" % (n % 10, n % 7) * 40 + b"%d" % n for n in range(1900)),
    "long names in many lines": b"\n".join(b"[!a-z]" * 85 + b"%d*x" % number for number in range(1900)),
    "names of many pieces": b"\n".join(b"*?".join(b"%x" % (n + k) for k in range(60)) for n in range(1900)),
    "classes": b"\n".join(b"[![:alpha:][:digit:]-]" * 20 + b"%d" % number for number in range(1900)),
    "long names in one line": b"*/".join([b"[!a]" * 200] * 1300),
}


@pytest.mark.parametrize("length", [ignore.MAX_BYTES, ignore.MAX_PATTERN_BYTES - 200], ids=["longest", "allowed"])
@pytest.mark.parametrize("lines", LONG.values(), ids=LONG)
def test_no_file_takes_long(tmp_path: Path, lines: bytes, length: int) -> None:
    """C9: a file within the bounds is read, and applied for the first time, in little time; others are refused so."""
    (tmp_path / IGNORE_FILE).write_bytes(lines[:length])
    started = time.thread_time()
    with pytest.raises(UnsupportedTree) if length > ignore.MAX_PATTERN_BYTES else contextlib.nullcontext():
        ignores = ignore.rules_of(tmp_path)
        for path in ("~" * 255, "/".join(["~" * 200] * 20), "a1b/a2b/a3b"):
            assert not ignores(path, False)
    assert time.thread_time() - started < 2.0


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (b"x" * (ignore.MAX_BYTES + 1), "is larger than 1 MiB"),
        (b"".join(b"a%d*b\n" % number for number in range(ignore.MAX_PATTERNS + 1)), "more than 2,000 lines"),
        (b"a\n!a\n" * ignore.MAX_PATTERNS, "more than 2,000 lines"),
        (b"*a*" * (ignore.MAX_PATTERN_BYTES // 3 + 1), "more than 100,000 bytes in lines"),
    ],
    ids=["bytes", "wildcards", "changes of mind", "bytes in wildcards"],
)
def test_too_much_is_refused(tmp_path: Path, lines: bytes, reason: str) -> None:
    """C9: with the file's name."""
    (tmp_path / IGNORE_FILE).write_bytes(lines)
    (tmp_path / "f").touch()
    with pytest.raises(UnsupportedTree, match=rf"{IGNORE_FILE} .*{reason}"):
        prune(tmp_path, tmp_path.with_name("aside"))


def test_a_tree_of_them_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C9: lines that are each quick enough may not take long together."""
    monkeypatch.setattr(ignore, "_MOST_S", 0.01)
    monkeypatch.setattr(ignore, "_MOST_S_A_FILE", 0.0)
    (tmp_path / IGNORE_FILE).write_bytes(b"".join(b"*a*a%d*b\n" % number for number in range(ignore.MAX_PATTERNS - 9)))
    for number in range(1000):
        (tmp_path / f"{'a' * 200}{number}").touch()
    with pytest.raises(UnsupportedTree, match="takes too long to apply"):
        prune(tmp_path, tmp_path.with_name("aside"))


@pytest.mark.parametrize("kind", ["symlink", "dangling", "directory", "FIFO"])
def test_a_file_that_is_none_says_nothing(tmp_path: Path, kind: str) -> None:
    """C9: as for git, only a regular file counts; nothing waits for another."""
    place = tmp_path / IGNORE_FILE
    (tmp_path / "rules").write_bytes(b"*\n")
    if kind == "directory":
        place.mkdir()
    elif kind == "FIFO":
        os.mkfifo(place)
    else:
        place.symlink_to("rules" if kind == "symlink" else "nowhere")
    assert prune(tmp_path, tmp_path.with_name("aside")) == 0
    assert (tmp_path / "rules").exists()


def test_the_junk_is_in_the_same_language() -> None:
    """C9: its patterns are lines that say something."""
    assert len(parse_lines(b"\n".join(JUNK))) == len(JUNK)
