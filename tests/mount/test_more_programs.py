"""More real programs: editors, archivers, make, databases, model files; one version each, equal to a plain disk's."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests import trees
from tests.mount import test_programs
from tests.mount.harness import Mount, run, same_tree
from tests.mount.test_programs import TIMES_DIFFER, Program, log_by

pytestmark = pytest.mark.fuse

mounts = test_programs.mounts
source = test_programs.source


def vim(target: Path, *settings: str) -> None:
    editor = shutil.which("vim") or shutil.which("vim.tiny")
    assert editor, "vim is not installed (package vim-tiny)"
    set_all = [argument for setting in settings for argument in ("-c", f"set {setting}")]
    run(editor, "-es", "-N", "-u", "NONE", "-i", "NONE", *set_all, "-c", "%s/first/second/", "-c", "wq", target)


def vim_es(source: Path, target: Path) -> None:
    """The ways vim saves: over the file, by a new file and rename, with a swap file and a backup left behind."""
    for name, settings in (
        ("plain", ()),
        ("rename", ("backupcopy=no", "writebackup")),
        ("copy", ("backupcopy=yes", "writebackup")),
        ("backup", ("backup", "fsync", "swapfile", "directory=.")),
    ):
        (target / name).write_text("the first line\n" * 1000)
        vim(target / name, *settings)
        assert (target / name).read_text() == "the second line\n" * 1000


def dd_fsync(source: Path, target: Path) -> None:
    for options in ("conv=fsync", "conv=fdatasync", "oflag=append conv=notrunc,fsync", "conv=sparse,fsync"):
        run("dd", f"if={source}/big.bin", f"of={target}/copy", "bs=100000", "status=none", *options.split())
    run("dd", "if=/dev/zero", f"of={target}/sparse", "bs=1M", "count=3", "seek=5", "conv=sparse,fsync", "status=none")


def unzip(source: Path, target: Path) -> None:
    archive = source.parent / "tree.zip"
    if not archive.exists():
        # Names that are not UTF-8 are beyond unzip.
        run("zip", "-qryX", archive, "src", "empty", "run.sh", "secret", "hollow", "link", "dangling", cwd=source)
    run("unzip", "-q", archive, "-d", target)
    run("unzip", "-qo", archive, "run.sh", "src/a/*", "-d", target)


def zip_and_update(source: Path, target: Path) -> None:
    """zip writes a temporary file beside the archive and renames it, and reads the old one for an update."""
    run("zip", "-qrX", target / "a.zip", "src/a", cwd=source)
    run("zip", "-qX", target / "a.zip", "big.bin", cwd=source)
    run("zip", "-qd", target / "a.zip", "src/a/one.bin")
    run("unzip", "-tq", target / "a.zip")


MAKEFILE = """
all: out/sum out/lib.a
out/sum: part1 part2
\t@mkdir -p out
\t@cat part1 part2 > $@.tmp && mv $@.tmp $@
out/lib.a: part1
\t@mkdir -p out
\t@cp part1 $@ && chmod 755 $@ && touch $@
part%:
\t@echo $@ > $@
"""


def make(source: Path, target: Path) -> None:
    """What is built is newer than what it is made of: the second run has nothing to do."""
    (target / "Makefile").write_text(MAKEFILE)
    run("make", "-s", "-j2", "-C", target)
    assert "Nothing to be done" in run("make", "--no-print-directory", "-C", target)
    (target / "part2").write_text("changed\n")
    run("touch", "-d", "+1 second", target / "part2")
    run("make", "-s", "-C", target)
    assert (target / "out/sum").read_text() == "part1\nchanged\n"


DUCKDB = """
import duckdb, sys
with duckdb.connect(sys.argv[1]) as db:
    db.execute("CREATE TABLE t AS SELECT range AS a, 'row ' || range AS b FROM range(50000)")
    db.execute("CHECKPOINT")
with duckdb.connect(sys.argv[1]) as db:
    db.execute("DELETE FROM t WHERE a % 3 = 0")
    db.execute("COPY t TO '" + sys.argv[2] + "' (FORMAT parquet)")
"""


def duckdb_writes(source: Path, target: Path) -> None:
    run(sys.executable, "-c", DUCKDB, target / "db.duckdb", target / "t.parquet")


SAFETENSORS = """
import numpy, safetensors.numpy, sys
tensors = {f"layer{n}": numpy.arange(n, n + 100_000, dtype="float32").reshape(100, 1000) for n in range(10)}
safetensors.numpy.save_file(tensors, sys.argv[1], metadata={"format": "np"})
loaded = safetensors.numpy.load_file(sys.argv[1])
assert all((loaded[name] == tensors[name]).all() for name in tensors)
"""


def safetensors_saves(source: Path, target: Path) -> None:
    """Saved, loaded through a mapping, and saved over."""
    for _ in range(2):
        run(sys.executable, "-c", SAFETENSORS, target / "model.safetensors")


def torch_saves(source: Path, target: Path) -> None:
    code = (
        "import torch, sys; torch.save({'w': torch.arange(300_000.0)}, sys.argv[1]); torch.load(sys.argv[1], mmap=True)"
    )
    run(sys.executable, "-c", code, target / "model.pt")


PROGRAMS = [
    Program(vim_es, TIMES_DIFFER),
    Program(dd_fsync, TIMES_DIFFER),
    # Directories and symlinks get the time of the unpacking.
    Program(unzip, TIMES_DIFFER),
    Program(zip_and_update, TIMES_DIFFER),
    Program(make, TIMES_DIFFER),
    # No two databases have the same bytes: `test_databases_are_whole` looks into them.
    Program(duckdb_writes, (*TIMES_DIFFER, "content")),
    Program(safetensors_saves, TIMES_DIFFER),
    Program(torch_saves, TIMES_DIFFER),
]


@pytest.mark.parametrize("how", ["automatic", "request"])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.write.__name__)
def test_one_version_equal_to_the_plain_disk(
    program: Program, how: str, mounts: dict[str, Mount], source: Path, tmp_path: Path
) -> None:
    """V1, C1, C2, S1, S4: what the program left on the drive is one version, the same as on a disk."""
    if program.write is torch_saves:
        pytest.importorskip("torch")
    native = tmp_path / "native"
    native.mkdir()
    program.write(source, native)
    version = log_by(program, how, mounts, source)
    trees.assert_same(native, version, ignore=program.ignore)
    if "content" not in program.ignore:
        same_tree(native, version)


def test_databases_are_whole(mounts: dict[str, Mount], source: Path) -> None:
    """V1, V2: a database and a Parquet file in a version can be queried in place."""
    version = log_by(Program(duckdb_writes), "request", mounts, source)
    code = "import duckdb, sys; db = duckdb.connect(sys.argv[1], read_only=True); "
    code += "print(db.execute('SELECT count(*), sum(a) FROM t').fetchone(), "
    code += "db.execute(f\"SELECT count(*), sum(a) FROM '{sys.argv[2]}'\").fetchone())"
    counted = sum(1 for a in range(50_000) if a % 3), sum(a for a in range(50_000) if a % 3)
    assert run(sys.executable, "-c", code, version / "db.duckdb", version / "t.parquet") == f"{counted} {counted}\n"
