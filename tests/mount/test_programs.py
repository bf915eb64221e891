"""Real programs write into staging: one version each, equal to what the same program makes on a plain disk."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import trees
from tests.mount.harness import Mount, eventually, run, same_tree
from tests.mount.shared import mounted

pytestmark = pytest.mark.fuse

COMMIT_AFTER_S = 1.0
TIMES_DIFFER = ("mtime_ns",)


class Program(NamedTuple):
    """`write(source, target)` fills the directory `target`; `ignore` is what two runs of it do not share."""

    write: Callable[[Path, Path], None]
    ignore: tuple[str, ...] = ()


def cp_r(source: Path, target: Path) -> None:
    run("cp", "-r", source, target)


def cp_a(source: Path, target: Path) -> None:
    run("cp", "-a", f"{source}/.", target)


def cp_p(source: Path, target: Path) -> None:
    run("cp", "-p", source / "run.sh", source / "secret", source / "big.bin", source / "src/a/one.bin", target)


def rsync_a(source: Path, target: Path) -> None:
    run("rsync", "-a", f"{source}/", target)


def rsync_twice(source: Path, target: Path) -> None:
    """The second run finds everything there."""
    run("rsync", "-a", f"{source}/", target)
    assert run("rsync", "-a", "--itemize-changes", f"{source}/", target) == ""


def tar_x(source: Path, target: Path) -> None:
    archive = source.parent / f"{source.name}.tar"
    if not archive.exists():
        run("tar", "--format=posix", "-cf", archive, "-C", source, ".")
    run("tar", "-xpf", archive, "-C", target)


def git_clone(source: Path, target: Path) -> None:
    repository = source.parent / "repository"
    if not repository.exists():
        run("cp", "-r", source, repository)
        git = ("git", "-C", repository, "-c", "user.name=Test", "-c", "user.email=test@example.org")
        run("git", "init", "-q", "-b", "main", repository)
        run(*git, "add", "-A")
        run(*git, "commit", "-q", "-m", "first")
    # Links to the repository would have its modes; across file systems git copies.
    run("git", "clone", "-q", "--no-hardlinks", repository, target / "clone")


def sqlite_creates(source: Path, target: Path) -> None:
    script = "CREATE TABLE t(a INTEGER, b TEXT);" + "".join(f"INSERT INTO t VALUES({n}, 'row');" for n in range(50))
    run("sqlite3", target / "db.sqlite", script)
    run("sqlite3", target / "wal.sqlite", f"PRAGMA journal_mode=TRUNCATE; {script} VACUUM;")


def numpy_saves(source: Path, target: Path) -> None:
    code = "import numpy, sys; numpy.save(sys.argv[1] + '/a.npy', numpy.arange(500_000).reshape(1000, 500))"
    run(sys.executable, "-c", code, target)


def editor_saves(source: Path, target: Path) -> None:
    """As vim, GLib and rsync do: a new file beside the old one, synced, renamed over it; twice."""
    for text in ("first\n", "second\n"):
        temporary = target / ".notes.txt.swp"
        with open(temporary, "x") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target / "notes.txt")
    run(
        "sh",
        "-c",
        'cd "$1" && cp notes.txt notes.txt~ && sed -i s/second/third/ notes.txt && rm notes.txt~',
        "-",
        target,
    )


def shell_redirects(source: Path, target: Path) -> None:
    script = 'cd "$1"; echo one > f; : > f; echo two > f; echo three >> f; mkdir d; echo x > d/g; mv d e; ln e/g h'
    run("sh", "-euc", script, "-", target)


def install_and_touch(source: Path, target: Path) -> None:
    run("install", "-D", "-m", "750", source / "run.sh", target / "bin/run")
    run("touch", "-d", "2001-02-03 04:05:06.789", target / "bin/run")
    run("dd", f"if={source}/big.bin", f"of={target}/copy", "bs=64K", "conv=fsync,notrunc", "status=none")
    run("truncate", "-s", "3M", target / "sparse")
    run("chmod", "-R", "g-r", target)


def python_zips(source: Path, target: Path) -> None:
    """Archives seek back to write sizes, and unpacking sets modes and times afterwards."""
    run(sys.executable, "-m", "zipfile", "-c", target / "a.zip", source / "src", source / "empty")
    run(sys.executable, "-m", "zipfile", "-e", target / "a.zip", target / "unpacked")
    (target / "a.zip").unlink()


PROGRAMS = [
    Program(cp_r, TIMES_DIFFER),
    Program(cp_a),
    Program(cp_p),
    Program(rsync_a),
    Program(rsync_twice),
    Program(tar_x),
    Program(git_clone, (*TIMES_DIFFER, "content")),
    Program(sqlite_creates, (*TIMES_DIFFER,)),
    Program(numpy_saves, TIMES_DIFFER),
    Program(editor_saves, TIMES_DIFFER),
    Program(shell_redirects, TIMES_DIFFER),
    Program(install_and_touch, TIMES_DIFFER),
    Program(python_zips, TIMES_DIFFER),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is copied."""
    return trees.make_tree(tmp_path_factory.mktemp("source") / "tree")


@pytest.fixture(scope="module")
def mounts(tmp_path_factory: pytest.TempPathFactory, driver: str) -> Iterator[dict[str, Mount]]:
    """A mount that commits by itself and one that commits on request."""
    directory = tmp_path_factory.mktemp("programs")
    with (
        mounted(directory / "automatic", driver, "--commit-after", str(COMMIT_AFTER_S)) as automatic,
        mounted(directory / "request", driver, "--commit-after", "never") as request,
    ):
        yield {"automatic": automatic, "request": request}
        # Nothing that came after a close started a second version of anything.
        for mount in (automatic, request):
            assert mount.status().artifacts == []
            for label in _labels.pop(mount.path, []):
                assert versions(mount, label) == ["v0"], label


_labels: dict[Path, list[str]] = {}
_numbers = itertools.count()


def versions(mount: Mount, label: str) -> list[str]:
    return sorted(name for name in os.listdir(mount / label) if name.startswith("v"))


def log_by(program: Program, how: str, mounts: dict[str, Mount], source: Path) -> Path:
    """Let the program write, commit in that way; returns the version's directory."""
    mount = mounts[how]
    label = f"programs/{program.write.__name__}-{next(_numbers)}"
    _labels.setdefault(mount.path, []).append(label)
    staging = mount.make(label)
    program.write(source, staging)
    if how == "request":
        assert mount.commit(label)["version"] == "v0"
    else:
        mount.committed(label, "v0")
    eventually(lambda: mount.state(label).staged is None and not mount.state(label).pending)
    assert os.listdir(staging) == []
    assert versions(mount, label) == ["v0"]
    return mount / label / "v0"


@pytest.mark.parametrize("how", ["automatic", "request"])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.write.__name__)
def test_one_version_equal_to_the_plain_disk(
    program: Program, how: str, mounts: dict[str, Mount], source: Path, tmp_path: Path
) -> None:
    """V1, C1, C2, S1, S4: what the program left on the drive is one version, the same as on a disk."""
    native = tmp_path / "native"
    native.mkdir()
    program.write(source, native)
    version = log_by(program, how, mounts, source)
    trees.assert_same(native, version, ignore=program.ignore)
    if "content" not in program.ignore:
        same_tree(native, version)


def test_a_copy_equals_its_source(mounts: dict[str, Mount], source: Path) -> None:
    """V1: names, bytes, modes, times in ns, symlinks and empty directories of the source itself."""
    for program in (Program(cp_a), Program(rsync_a), Program(tar_x)):
        version = log_by(program, "request", mounts, source)
        trees.assert_same(source, version)
        same_tree(source, version)


def test_git_works_on_a_version(mounts: dict[str, Mount], source: Path, tmp_path: Path) -> None:
    """V1: a cloned repository is whole: fsck, log, status and a clone of the clone."""
    version = log_by(Program(git_clone), "request", mounts, source) / "clone"
    git = ("git", "-c", "safe.directory=*", "-C", version)
    run(*git, "fsck", "--strict")
    assert run(*git, "log", "--format=%s") == "first\n"
    assert run(*git, "--no-optional-locks", "status", "--porcelain") == ""
    clone = tmp_path / "clone of clone"
    run("git", "-c", "safe.directory=*", "clone", "-q", version, clone)
    assert run("git", "-C", clone, "log", "--format=%s") == "first\n"


def test_a_second_copy_over_the_first(mounts: dict[str, Mount], source: Path, tmp_path: Path) -> None:
    """C3, C4: the same tree copied again right after the commit is the next version, with its one change."""
    mount = mounts["request"]
    staging = mount.make("twice/a")
    changed = tmp_path / source.name
    run("cp", "-a", source, changed)
    for number in range(4):
        (changed / "src/a/b/c/deep.txt").write_text(f"round {number}")
        run("cp", "-r", changed, staging)
        assert mount.commit("twice/a")["version"] == f"v{number}"
        trees.assert_same(changed, mount / "twice/a/latest" / source.name, ignore=TIMES_DIFFER)
    assert versions(mount, "twice/a") == ["v0", "v1", "v2", "v3"]
    script = 'diff -rq --no-dereference "$1" "$2"; [ $? -eq 1 ]'
    assert run("sh", "-c", script, "-", mount / "twice/a/v0", mount / "twice/a/v3").count("\n") == 1
