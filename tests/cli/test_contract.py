"""The installed program, as scripts and terminals meet it: errors in one line, exit status, pipes, colours, speed."""

from __future__ import annotations

import json
import os
import pty
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from artifactfs import connect
from artifactfs.cli import COMMANDS
from tests.cli.support import PROGRAM, TIMEOUT_S, program
from tests.trees import make_tree

pytestmark = pytest.mark.long(0.5)

BASH = shutil.which("bash") or "bash"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("trees") / "tree")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tree: Path) -> str:
    """A store with models/bert: v0 (alias best) and v1. No test changes it."""
    url = str(tmp_path_factory.mktemp("stores") / "store")
    manager = connect(url, collection="models")
    manager.log_files("bert", tree, aliases=["best"])
    manager.log_files("bert", tree / "src/a/b")
    return url


def failing(*arguments: str | Path, store: str | None, status: int = 1) -> str:
    """What a command that must fail says, in one line and nothing else."""
    done = program(*arguments, store=store)
    assert done.returncode == status, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("artifactfs: ")
    return line


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["ls", "nothing"], 1, "no collection 'nothing'"),
        (["ls", "a b"], 1, "not an address: 'a b'"),
        (["log", "models/nothing"], 1, "no artifact 'nothing'"),
        (["cat", "models/bert@v9:x"], 1, "no version v9 of models/bert"),
        (["cat", "models/bert:nothing"], 1, "models/bert:nothing does not exist"),
        (["get", "models/bert@best:src", "/dev/null/x"], 1, "/dev/null/x"),
        (["put", "/nothing", "models/bert"], 1, "/nothing does not exist"),
        (["put", "/dev/null", "models/bert"], 1, "neither a directory nor a regular file"),
        (["alias", "models/bert", "v1"], 1, "invalid alias 'v1'"),
        (["alias", "models/bert", "none", "--delete"], 1, "no alias 'none'"),
        (["delete", "models/bert"], 1, "names no version"),
        (["copy", "models/bert", "models"], 1, "copied to itself"),
        (["catalog", "models", "-o", "/nothing/here/catalog.yaml"], 1, "/nothing/here/catalog.yaml"),
        (["diff", "models/bert@v9"], 2, "no version v9"),
        (["verify", "models/bert@v9"], 2, "no version v9"),
        (["ls", "--store", "nothing://here"], 1, "unknown scheme 'nothing'"),
        (["ls", "--store", "s3:/bucket"], 1, "url looks mistyped: write s3://bucket,"),
        (["ls", "--store", "file://"], 1, "url names no store"),
        (["ls", "--storage-option", "colection=models"], 1, "unknown option 'colection': did you mean 'collection'?"),
        (["mount", "s3:/bucket", "/nothing/here"], 1, "url looks mistyped: write s3://bucket,"),
        (["mount", "file://", "/nothing/here"], 1, "url names no store"),
        (["ls", "--store", "/nothing/here"], 1, "no store at /nothing/here"),
        (["ls", "--store", "/usr"], 1, "is not an artifactfs store"),
        (["gc", "--store", "/nothing/here"], 1, "no store at /nothing/here"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_error_is_one_line(store: str, arguments: list[str], status: int, said: str):
    assert said in failing(*arguments, store=store, status=status)


def test_no_store_is_an_error_that_says_what_to_do():
    assert failing("ls", store=None) == "artifactfs: no store: give --store URL or set ARTIFACTFS_STORE"
    assert failing("diff", "m/a", store="", status=2).endswith("set ARTIFACTFS_STORE")


@pytest.mark.parametrize(
    "arguments",
    [["ls", "a", "b"], ["log"], ["gc", "--grace", "soon"], ["put", "x"], ["completion", "tcsh"]],
    ids=" ".join,
)
def test_wrong_usage_is_2(store: str, arguments: list[str]):
    done = program(*arguments, store=store)
    assert done.returncode == 2
    assert done.stderr.startswith(f"Usage: artifactfs {arguments[0]} ")


@pytest.mark.parametrize(
    "arguments", [["ls", "--store", "store"], ["put", ".", "m/a"], ["get", "models/bert"], ["commit", "."]], ids=repr
)
def test_a_current_directory_that_is_gone_is_named(store: str, arguments: list[str], tmp_path: Path):
    script = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
    (tmp_path / "gone").mkdir()
    command = ["sh", "-c", script, "sh", str(tmp_path / "gone"), PROGRAM, *arguments]
    done = subprocess.run(command, env={**os.environ, "ARTIFACTFS_STORE": store}, capture_output=True, errors="replace")
    assert done.returncode == 1
    assert done.stderr == "artifactfs: the current directory is not there any more\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mount", "", "mnt"], "the URL is empty"),
        (["mount", "  ", "mnt"], "the URL is empty"),
        (["mount", "store", ""], "the path is empty"),
        (["mount", "store", "mnt", "--state-dir", ""], "the path is empty"),
        (["copy", "m/a", "--to-store", ""], "the URL is empty"),
        (["put", "", "m/a"], "the path is empty"),
        (["get", "m/a", ""], "the path is empty"),
        (["cache", "--cache-dir", ""], "the path is empty"),
        *(([command, ""], "the path is empty") for command in ("umount", "commit", "stage", "discard", "retry")),
        (["status", ""], "the path is empty"),
        *((["umount", "x", "--drain-timeout", wrong], "is not a number") for wrong in ("nan", "inf", "-1", "x")),
    ],
    ids=repr,
)
def test_what_is_empty_or_no_number_is_refused(arguments: list[str], said: str):
    done = program(*arguments)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("streams", "status", "said"),
    [
        (">&-", 1, "standard output is closed"),
        (">/dev/full", 1, "No space left on device"),
        ("2>&-", 0, ""),
        ("<&-", 0, ""),
        ("<&- 2>&-", 0, ""),
    ],
)
def test_streams_that_are_closed_or_full(store: str, streams: str, status: int, said: str):
    script = f'exec "$@" {streams}'
    for arguments in (["ls", "-R"], ["cat", "models/bert@v0:empty"], ["log", "--json", "models/bert"]):
        command = [BASH, "-c", script, "sh", PROGRAM, *arguments]
        done = subprocess.run(
            command, env={**os.environ, "ARTIFACTFS_STORE": store}, capture_output=True, errors="replace"
        )
        if (streams, arguments[0]) == (">/dev/full", "cat"):
            continue  # an empty file fits
        assert done.returncode == status, done
        assert done.stderr.count("\n") == (1 if said else 0)
        assert said in done.stderr


def test_secrets_are_not_repeated():
    done = program("ls", "--store", "nothing://user:hunter2@host/x")
    assert done.returncode == 1
    done = program("ls", "--store", "x", "--storage-option", "hunter2")
    assert done.returncode == 2
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize("command", ["", *(str(command.name) for command in COMMANDS)])
def test_help_answers_at_once_and_loads_nothing_heavy(command: str):
    arguments = [*([command] if command else []), "--help"]

    def cpu_seconds() -> float:
        # Not by the clock: other work on the machine would be measured too.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = program(*arguments)
        assert done.returncode == 0
        assert done.stdout.startswith("Usage: artifactfs ")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert any(cpu_seconds() < 0.3 for _ in range(5))


def test_exit_status_of_diff_is_that_of_diff(store: str):
    for new, status in [("best", 0), ("v1", 1), ("v2", 2)]:
        assert program("diff", "models/bert@v0", new, store=store, text=False).returncode == status


def test_damage_is_told_by_verify_cat_and_get(store: str, tmp_path: Path):
    damaged = tmp_path / "store"
    shutil.copytree(store, damaged)
    (big,) = (path for path in damaged.glob("objects/*/*") if path.stat().st_size > 2_000_000)
    big.chmod(0o644)
    with open(big, "r+b") as file:
        file.seek(12345)
        file.write(b"!")
    done = program("verify", store=str(damaged))
    assert done.returncode == 1
    assert done.stderr == ""
    assert "1 damaged" in done.stdout.splitlines()[-1]
    assert "models/bert@v0" in done.stdout
    report = json.loads(program("verify", "--json", store=str(damaged)).stdout)
    assert (report["ok"], [finding["damage"] for finding in report["findings"]]) == (False, [True])
    assert "big.bin" in failing("cat", "models/bert@v0:big.bin", store=str(damaged))
    assert "big.bin" in failing("get", "models/bert@v0", tmp_path / "out", store=str(damaged))
    program("put", damaged / "artifactfs.json", "c/a", store=str(tmp_path / "other"))
    assert "does not match its digest" in failing(
        "copy", "models/bert@v0", "--to-store", tmp_path / "other", store=str(damaged)
    )
    assert not (tmp_path / "out").exists() or os.listdir(tmp_path / "out") == []


# -- pipes -------------------------------------------------------------------------------------------------------------


def test_cat_is_binary_safe(store: str, tree: Path):
    done = program("cat", "models/bert@best:src/a/one.bin", store=store, text=False)
    assert done.stdout == (tree / "src/a/one.bin").read_bytes()


@pytest.mark.parametrize("command", ["cat models/bert@v0:big.bin", "ls -R models/bert@v0 --json", "catalog", "--help"])
def test_a_reader_who_goes_away_is_no_traceback(store: str, command: str):
    done = subprocess.run(
        [BASH, "-c", f'"{PROGRAM}" {command} | true; exit "${{PIPESTATUS[0]}}"'],
        env={**os.environ, "ARTIFACTFS_STORE": store},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode in (0, 1)


def test_cat_into_head(store: str):
    done = subprocess.run(
        [BASH, "-c", f'"{PROGRAM}" cat models/bert@v0:big.bin | head -c 7'],
        env={**os.environ, "ARTIFACTFS_STORE": store},
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.stdout, done.stderr) == (b"x------", b"")


# -- terminals ---------------------------------------------------------------------------------------------------------


def on_a_terminal(*arguments: str, store: str, **env: str) -> str:
    """Everything that a command shows on a terminal."""
    parent, child = pty.openpty()
    inherited = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    process = subprocess.Popen(
        [PROGRAM, *arguments],
        stdin=child,
        stdout=child,
        stderr=child,
        env={**inherited, "TERM": "xterm", "ARTIFACTFS_STORE": store, **env},
    )
    os.close(child)
    shown = b""
    try:
        while block := os.read(parent, 65536):
            shown += block
    except OSError:
        pass  # how a terminal says that nobody writes to it any more
    finally:
        os.close(parent)
    assert process.wait(TIMEOUT_S) == 0, shown
    return shown.decode(errors="replace")


def test_colours_are_for_terminals_only(store: str):
    assert "\x1b[34mmodels\x1b[0m" in on_a_terminal("ls", store=store)
    assert "\x1b[" not in on_a_terminal("ls", store=store, NO_COLOR="1")
    assert "\x1b[" not in program("ls", store=store).stdout


def test_names_cannot_drive_a_terminal(store: str):
    assert "new?line" in on_a_terminal("ls", "models/bert@v0", store=store, NO_COLOR="1")
    assert "new\nline" in program("ls", "models/bert@v0", store=store, text=False).stdout.decode(errors="replace")


def test_a_long_transfer_shows_a_bar_on_a_terminal_only(store: str, tmp_path: Path):
    assert "getting models/bert@v0" in on_a_terminal("get", "models/bert@v0", str(tmp_path), store=store)
    assert program("get", "models/bert@v0", tmp_path, store=store).stderr == ""


# -- completion --------------------------------------------------------------------------------------------------------


def complete_in_bash(line: str, store: str) -> list[str]:
    """What bash would offer at the end of that line, the whole words put together again as readline does."""
    script = f"""
        eval "$('{PROGRAM}' completion bash)"
        compopt() {{ :; }}
        COMP_LINE=$LINE COMP_POINT=${{#LINE}}
        _artifactfs_completion artifactfs
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        [BASH, "--norc", "-c", script],
        env={
            **os.environ,
            "ARTIFACTFS_STORE": store,
            "LINE": line,
            "PATH": f"{Path(PROGRAM).parent}:{os.environ['PATH']}",
            "COMP_WORDBREAKS": " \t\n\"'><=;|&(:@",
        },
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("artifactfs l", ["log", "ls"]),
        ("artifactfs ls mo", ["models/"]),
        ("artifactfs ls models/", ["models/bert"]),
        ("artifactfs log models/bert@", ["best", "latest", "v0", "v1"]),
        ("artifactfs log models/bert@b", ["best"]),
        ("artifactfs cat models/bert@v0:s", ["secret", "src/"]),
        ("artifactfs cat models/bert@v0:src/a/", ["src/a/b/", "src/a/one.bin", "src/a/up"]),
        ("artifactfs ls nothing/", []),
        ("artifactfs gc --dr", ["--dry-run"]),
    ],
)
def test_bash_completes(store: str, line: str, offered: list[str]):
    assert sorted(complete_in_bash(line, store)) == offered


def test_completion_uses_the_store_that_was_given(store: str):
    assert complete_in_bash(f"artifactfs ls --store {store} mo", "/nothing/here") == ["models/"]
    assert complete_in_bash("artifactfs ls mo", "/nothing/here") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_code_is_printed(shell: str):
    done = program("completion", shell)
    assert done.returncode == 0
    assert f"_ARTIFACTFS_COMPLETE={shell}_complete" in done.stdout
    if shell == "bash":
        subprocess.run([BASH, "-n"], input=done.stdout, text=True, check=True)


def test_nothing_heavy_is_loaded_for_help():
    code = "import sys; from mount.cli import cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"fsspec", "rich", "ruamel.yaml", "msgspec", "artifactfs.managers.filesystem", "artifactfs.manifest"}
    assert heavy & set(done.stdout.split()) == set()
