"""Fixtures for tests on real mounts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.harness import Mount

MakeMount = Callable[..., Mount]


@pytest.fixture(scope="session", params=["kernel", "libfuse"])
def driver(request: pytest.FixtureRequest) -> str:
    """Every driver in turn."""
    return str(request.param)


@pytest.fixture
def prepare_mount(tmp_path: Path, driver: str) -> Iterator[MakeMount]:
    """Makes Mounts that are not mounted yet: ``prepare_mount(store=…)``."""
    prepared: list[Mount] = []
    numbers = itertools.count()

    def prepare(store: str | Path | None = None) -> Mount:
        mount = Mount(tmp_path / f"mount{next(numbers)}", store, driver=driver)
        prepared.append(mount)
        return mount

    yield prepare
    wrong = [problem for mount in reversed(prepared) for problem in mount.tear_down()]
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


@pytest.fixture
def make_mount(prepare_mount: MakeMount) -> MakeMount:
    """Mounts a store: ``make_mount("--read-only", store=…)``."""

    def make(*arguments: str, store: str | Path | None = None) -> Mount:
        mount = prepare_mount(store)
        mount.mount(*arguments)
        return mount

    return make


@pytest.fixture
def mount(make_mount: MakeMount) -> Mount:
    """A new local store, mounted; what is staged is committed on request only."""
    return make_mount("--commit-after", "never", "--refresh", "0.2")
