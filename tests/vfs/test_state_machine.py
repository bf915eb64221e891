"""The drive against a model of all of it: everything programs, other hosts, a failing store and crashes do to it."""

from __future__ import annotations

import contextlib

import hypothesis
import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.quick import quick_directory
from tests.state_machine import DriveMachine
from tests.state_worlds import World, direct_world


class DirectMachine(DriveMachine):
    """On the vfs."""

    def make_world(self, stack: contextlib.ExitStack) -> World:
        return stack.enter_context(direct_world(stack.enter_context(quick_directory())))


def run(examples: int, steps: int) -> None:
    """As many examples of as many steps."""
    settings = hypothesis.settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        print_blob=True,
    )
    run_state_machine_as_test(DirectMachine, settings=settings)


@pytest.mark.long(12)
def test_any_history() -> None:
    """C3, C5, C6, C7, C8, S1, S4, S6: what is seen is what the model says; nothing closed is lost or doubled."""
    run(examples=40, steps=50)
