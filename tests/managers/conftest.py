"""The fixtures of the conformance suite: a manager of every kind, in a place of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.register_assert_rewrite("conformance", "conformance_annotations", "conformance_files")

from subjects import SERVERS, SUBJECTS, Subject, on_server, write  # noqa: E402 - asserts in the suite are rewritten first

from artifactfs import ArtifactManager  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*keeps): what the backend must keep for the test to apply")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The whole suite for every kind of store and on every server."""
    if "subject" in metafunc.fixturenames:
        metafunc.parametrize("subject", [*sorted(SUBJECTS), *SERVERS], indirect=True)


@pytest.fixture
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Subject:
    if request.param in SERVERS:
        server = request.getfixturevalue("start_server")(request.param)
        # A catalog carries no secrets: who reads one has them in the environment.
        monkeypatch = request.getfixturevalue("monkeypatch")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        made = on_server(server)
    else:
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
