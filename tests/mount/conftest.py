"""Fixtures for tests on real mounts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.harness import Mount

MakeMount = Callable[..., Mount]

_LOG_LINES_SHOWN = 200


@pytest.fixture(scope="session", params=["kernel", "libfuse"])
def driver(request: pytest.FixtureRequest) -> str:
    """Every driver in turn."""
    return str(request.param)


@pytest.fixture
def prepare_mount(tmp_path: Path, driver: str, request: pytest.FixtureRequest) -> Iterator[MakeMount]:
    """Makes Mounts that are not mounted yet: ``prepare_mount(store=…)``."""
    prepared: list[Mount] = []
    numbers = itertools.count()

    def prepare(store: str | Path | None = None) -> Mount:
        mount = Mount(tmp_path / f"mount{next(numbers)}", store, driver=driver)
        prepared.append(mount)
        return mount

    request.node.stash[_MOUNTS] = prepared
    yield prepare
    wrong = [problem for mount in reversed(prepared) for problem in mount.tear_down()]
    if wrong:
        shown = "\n".join(_end_of_log(mount) for mount in prepared)
        pytest.fail("\n".join(wrong) + f"\n{shown}", pytrace=False)


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


_MOUNTS: pytest.StashKey[list[Mount]] = pytest.StashKey()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Show the daemon's log beside a failed test."""
    report = yield
    if report.failed and call.when == "call":  # type: ignore[attr-defined]
        for mount in item.stash.get(_MOUNTS, []):
            report.sections.append((f"log of {mount.path}", _end_of_log(mount)))  # type: ignore[attr-defined]
    return report


def _end_of_log(mount: Mount) -> str:
    return "\n".join(mount.log().splitlines()[-_LOG_LINES_SHOWN:])
