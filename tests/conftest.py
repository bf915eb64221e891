"""What all tests share: which of them this machine can run, which run one after another, Hypothesis without a clock."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator

import hypothesis
import pytest

from tests.mount.harness import forget_torn_down, logs_shown
from tests.watchdog import Watchdog

pytest_plugins = ["tests.servers.fixtures"]

# How long an example takes depends on what else the machine does: a deadline would fail tests at random.
hypothesis.settings.register_profile("artifactfs", deadline=None)
hypothesis.settings.load_profile("artifactfs")

# A shell has what it runs in the background ignore Ctrl-C, and programs inherit that: those of the tests must not.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Daemons and commands start by the hundred: from bytecode, as users' do.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Several files that use the same expensive thing, such as a server, run in one process: pytestmark = xdist_group(name).
_GROUP = "xdist_group"


@pytest.hookimpl(tryfirst=True, wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """With several processes, a file's tests stay together, once for each driver: they share mounts.

    So do all tests with real servers.

    What takes longest comes first, so that at the end no process works for minutes while the others have nothing left.
    """
    seconds: Counter[str] = Counter()
    for item in items:
        if "start_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("servers"))
        elif item.get_closest_marker(_GROUP) is None:
            callspec = getattr(item, "callspec", None)
            driver = callspec.params.get("driver", "") if callspec is not None else ""
            item.add_marker(pytest.mark.xdist_group(f"{item.path.name}{driver}"))
        seconds[_group_of(item)] += _seconds(item)
    yield
    # Now, because pytest itself has brought together what shares fixtures.
    items.sort(key=lambda item: (seconds[_group_of(item)], _group_of(item)), reverse=True)


def _group_of(item: pytest.Item) -> str:
    marker = item.get_closest_marker(_GROUP)
    assert marker is not None
    return str(marker.args[0] if marker.args else marker.kwargs["name"])


def _seconds(item: pytest.Item) -> float:
    """How long a test takes, roughly, on a quiet machine."""
    if (marker := item.get_closest_marker("long")) is not None:
        return float(marker.args[0])
    if any("server" in name for name in getattr(item, "fixturenames", ())):
        return 1.0
    return 0.05 if item.get_closest_marker("fuse") is None else 1.0


def pytest_configure(config: pytest.Config) -> None:
    """Have pytest-xdist begin the groups in the order above, not with those of the most tests."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


_WATCHDOG: pytest.StashKey[Watchdog] = pytest.StashKey()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[object]:
    """No test hangs for ever on a drive."""
    stash = item.config.stash
    if _WATCHDOG not in stash:
        stash[_WATCHDOG] = Watchdog()
        item.config.add_cleanup(stash[_WATCHDOG].close)
    with stash[_WATCHDOG].watching(item.nodeid):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Show the logs of the drives beside a failure. A test whose drives had to be killed has failed."""
    report = yield
    if report.failed:  # type: ignore[attr-defined]
        report.sections += logs_shown()  # type: ignore[attr-defined]
    if call.when == "teardown":
        forget_torn_down()
    if said := item.config.stash[_WATCHDOG].said():
        report.sections.append(("the watchdog", said))  # type: ignore[attr-defined]
        if report.passed:  # type: ignore[attr-defined]
            report.outcome, report.longrepr = "failed", said  # type: ignore[attr-defined]
    return report


@pytest.fixture(scope="session", autouse=True)
def _own_cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or fills the cache of the user who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache-home")))
        yield


def why_no_mounts() -> str | None:
    """What this machine lacks for a real mount; None when it lacks nothing."""
    if shutil.which("fusermount3") is None:
        return "fusermount3 is not installed (package fuse3)"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/fuse cannot be opened: {error.strerror}"
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that mounts is skipped where mounting is impossible, unless REQUIRE_FUSE=1 makes that a failure."""
    if item.get_closest_marker("fuse") is None:
        return
    reason = why_no_mounts()
    if reason is None:
        return
    if os.environ.get("REQUIRE_FUSE") == "1":
        pytest.fail(f"REQUIRE_FUSE=1, but {reason}")
    pytest.skip(reason)
