"""The state machine of the whole drive through real mounts, with kill -9 for a restart."""

from __future__ import annotations

import contextlib
import logging

import hypothesis
import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.mount.shared import mounted
from tests.quick import quick_directory
from tests.state_machine import DriveMachine
from tests.state_worlds import MountedWorld, World

pytestmark = [pytest.mark.fuse, pytest.mark.long(20)]

EXAMPLES, STEPS = 5, 25


def machine_on(driver: str) -> type[DriveMachine]:
    """The machine, with a new mount for every example."""

    class MountedMachine(DriveMachine):
        def make_world(self, stack: contextlib.ExitStack) -> World:
            directory = stack.enter_context(quick_directory())
            arguments = ("--commit-after", "never", "--refresh", "0", "--min-free", "0")
            mount = stack.enter_context(mounted(directory, driver, *arguments))
            mount.expect_warning("leads to")
            return MountedWorld(mount)

    return MountedMachine


def run(driver: str, examples: int, steps: int) -> None:
    """As many examples of as many steps."""
    settings = hypothesis.settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
        print_blob=True,
    )
    run_state_machine_as_test(machine_on(driver), settings=settings)


def test_any_history(driver: str, caplog: pytest.LogCaptureFixture) -> None:
    """C3, C5, C7, C8, S1, S4, S6: what programs see is what the model says; nothing closed is lost or doubled."""
    caplog.set_level(logging.CRITICAL)
    run(driver, EXAMPLES, STEPS)
