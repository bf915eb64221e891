"""The fixtures of the conformance suite: a manager of every kind, in a place of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.register_assert_rewrite("conformance", "conformance_files")

from subjects import SUBJECTS, Subject, write  # noqa: E402 - asserts in the suite are rewritten first

from artifactfs import ArtifactManager  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*keeps): what the backend must keep for the test to apply")


@pytest.fixture(params=sorted(SUBJECTS))
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Subject:
    (tmp_path / "place").mkdir()
    made = SUBJECTS[request.param](tmp_path / "place")
    needed = request.node.get_closest_marker("needs")
    lacking = [keeps.value for keeps in needed.args if keeps not in made.keeps] if needed else []
    if lacking:
        pytest.skip(f"{made.name} does not keep {', '.join(lacking)}")
    return made


@pytest.fixture
def manager(subject: Subject) -> ArtifactManager:
    return subject.open()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write(tmp_path / "tree", **{"a.txt": "alpha", "run": "#!/bin/sh\n", "none": ""})
    write(tmp_path / "tree" / "sub" / "deep", **{"b.bin": bytes(range(256)) * 5000})
    return tmp_path / "tree"
