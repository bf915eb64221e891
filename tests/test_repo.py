"""The repository itself: its scripts run, its top level is what the design says, its README names what there is."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mount.cli import cli

ROOT = Path(__file__).parent.parent
SHARED_SHELL = ROOT / "scripts" / "lib.sh"
SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file() and path != SHARED_SHELL)
TOP_LEVEL = {"CHANGELOG.md", "LICENSE", "README.md", "artifactfs", "mount", "pyproject.toml", "scripts", "tests"}


def readme() -> str:
    return (ROOT / "README.md").read_text()


def subcommands() -> dict[str, click.Command]:
    return dict(cli.commands)


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / ".ci" / "run"], ids=lambda script: script.name)
def test_script_is_executable_and_parses(script: Path):
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)


def test_shared_shell_parses():
    subprocess.run(["bash", "-n", SHARED_SHELL], check=True)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_readme_names_every_script(script: Path):
    assert f"./scripts/{script.name}" in readme()


def test_top_level_holds_what_the_design_says():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = {line.partition("/")[0] for line in tracked.splitlines()}
    assert {name for name in found if not name.startswith(".")} == TOP_LEVEL


@pytest.mark.parametrize("name", sorted(subcommands()))
def test_readme_names_every_command(name: str):
    assert f"`artifactfs {name}" in readme()


@pytest.mark.parametrize("width", [80, 200])
def test_the_summary_of_every_command_is_shown_whole(width: int):
    shown = CliRunner().invoke(cli, ["--help"], terminal_width=width).output
    assert "..." not in shown.partition("Commands:")[2]
    for name, command in subcommands().items():
        summary = command.short_help or ""
        assert 0 < len(summary) <= 60, name
        assert re.search(rf"^  {name} +{re.escape(summary)}$", shown, re.MULTILINE), name


def test_readme_names_no_command_that_there_is_not():
    assert set(re.findall(r"`artifactfs ([a-z]+)", readme())) <= set(subcommands())


def test_readme_names_every_option_of_mount():
    options = {name for parameter in subcommands()["mount"].params for name in parameter.opts if name.startswith("--")}
    assert {option for option in options if f"`{option}" not in readme()} == set()


def test_readme_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#:]+)\)", readme())
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_tests_of_a_file_run_in_one_process(request: pytest.FixtureRequest):
    """Scattered over all processes, every one of them would make the mounts and servers that a file's tests share.

    Only `--dist loadgroup`, which scripts/test asks for, keeps them together.
    """
    if getattr(request.config.option, "loadgroup", False):
        assert request.node.nodeid.endswith("@test_repo.py")
