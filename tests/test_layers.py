"""The arrows between the packages point one way only, and nothing heavy is loaded before it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("artifactfs", "mount")
SOURCES = sorted(path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# Module → the only places that may import it, as prefixes of paths. What an error is called in an answer to the kernel
# is decided in errno_map alone; the others with errno ask what a system call of their own, or the drive, answered them.
RESERVED = {
    "mount": ("mount/",),
    "mfusepy": ("mount/drivers/",),
    "fuse": ("mount/drivers/",),
    "wandb": ("artifactfs/managers/wandb/worker.py",),
    "errno": (
        "mount/errno_map.py",
        "mount/client.py",
        "mount/commands/",
        "mount/mounts.py",
        "mount/preflight.py",
        "mount/drivers/kernel/channel.py",
        "mount/drivers/kernel/herald.py",
        "mount/drivers/kernel/mounting.py",
        "artifactfs/beneath.py",
        "artifactfs/durable.py",
        "artifactfs/objects/",
        "artifactfs/passing.py",
    ),
}

# Only ever imported inside a function or for type checking.
LAZY = ("wandb", "numpy", "torch", "botocore", "s3fs", "gcsfs", "adlfs", "paramiko")

# What neither `import artifactfs` nor the command's help may load: each costs as much as the rest together.
HEAVY = ("numpy", "mfusepy", "rich", "wandb", "asyncio", "aiohttp", "requests", "yaml", "fsspec.implementations")


def imports(source: str) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports, and whether it does so at import time."""
    tree = ast.parse((ROOT / source).read_text(), source)
    deferred = {
        child
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or is_type_checking(node)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node not in deferred
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}:{node.lineno}: imports are absolute here"
            assert node.module is not None
            yield node.module, node not in deferred


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def top(module: str) -> str:
    return module.partition(".")[0]


def loaded_by(*arguments: str) -> set[str]:
    """The modules in memory after a fresh Python has run that."""
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('\\nLOADED', *sys.modules))\n"
        "sys.argv = ['artifactfs', *sys.argv[1:]]\n"
        "import artifactfs\n"
        "if len(sys.argv) > 1:\n"
        "    from mount.cli import main\n"
        "    main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("LOADED")[2].split())


@pytest.mark.parametrize("source", SOURCES)
def test_reserved_modules_are_imported_only_where_they_belong(source: str):
    strayed = [
        module
        for module, _ in imports(source)
        if top(module) in RESERVED and not source.startswith(RESERVED[top(module)])
    ]
    assert not strayed


@pytest.mark.parametrize("source", SOURCES)
def test_optional_packages_are_imported_lazily(source: str):
    assert not [module for module, at_once in imports(source) if at_once and top(module) in LAZY]


@pytest.mark.parametrize("driver", [source for source in SOURCES if source.startswith("mount/drivers/")])
def test_the_drive_does_not_depend_on_a_driver(driver: str):
    """Drivers are picked by name at run time; no other module needs one to be imported."""
    module = driver.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    others = [source for source in SOURCES if not source.startswith("mount/drivers/")]
    assert not [source for source in others if (module, True) in set(imports(source))]


def test_the_walk_sees_imports():
    assert ("ast", True) in set(imports("tests/test_layers.py"))
    assert "mount/settings.py" in SOURCES


@pytest.mark.parametrize("arguments", [(), ("--help",), ("mount", "--help"), ("--version",)], ids=" ".join)
def test_nothing_heavy_is_loaded(arguments: tuple[str, ...]):
    loaded = loaded_by(*arguments)
    assert not [module for module in HEAVY if module in loaded]
