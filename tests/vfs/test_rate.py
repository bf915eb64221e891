"""The speed of a transfer and the time that is left of it."""

from __future__ import annotations

import pytest

from mount.commands.show import Transfer, duration
from mount.rate import FEWEST_STEPS, SOONEST_S, WINDOW_S, Rate

MIB = 1 << 20


def moving(bytes_s: float, seconds: float, step_s: float = 0.5) -> Rate:
    """A transfer that went on evenly for so long, noted every `step_s`."""
    rate = Rate()
    rate.begin(0.0)
    for step in range(1, round(seconds / step_s) + 1):
        rate.note(round(step * step_s * bytes_s), step * step_s)
    return rate


@pytest.mark.parametrize("step_s", [0.001, 0.5, 3.0, 20.0])
def test_an_even_transfer(step_s: float):
    """C24: however often it is noted, after a while the speed is the true one."""
    rate = moving(5 * MIB, 120.0, step_s)
    assert rate.bytes_s(120.0) == pytest.approx(5 * MIB, rel=0.05)
    assert rate.seconds_left(round(5 * MIB * 180.0), 120.0) == pytest.approx(60.0, rel=0.05)


def test_nothing_is_told_too_soon():
    """C24: a speed needs some time, and the time left a speed."""
    rate = Rate()
    assert rate.bytes_s(1.0) is None
    rate.begin(10.0)
    rate.note(MIB, 10.1)
    assert rate.bytes_s(10.0 + SOONEST_S / 2) is None
    assert rate.seconds_left(2 * MIB, 10.0 + SOONEST_S / 2) is None
    assert rate.bytes_s(11.0) == MIB


def test_nothing_done_has_no_end():
    """C24: a commit that has not sent anything takes nobody knows how long."""
    rate = Rate()
    rate.begin(0.0)
    assert rate.bytes_s(30.0) == 0.0
    assert rate.seconds_left(MIB, 30.0) is None


def test_a_stall_shows():
    """C24: while nothing comes the speed falls and the time left grows."""
    rate = moving(MIB, 20.0)
    speeds = [rate.bytes_s(20.0 + waited) for waited in (0.0, 5.0, 60.0, 600.0)]
    assert None not in speeds
    assert speeds == sorted(speeds, reverse=True)
    assert speeds[-1] < MIB / 50


def test_a_change_of_speed_shows_within_the_window():
    """C24: the speed is that of the last seconds, not of the whole commit."""
    rate = moving(100 * MIB, 60.0)
    for step in range(1, 41):
        rate.note(6000 * MIB + step * MIB // 2, 60.0 + step * 0.5)
    assert WINDOW_S < 20.0
    assert rate.bytes_s(80.0) == pytest.approx(MIB, rel=0.1)


def test_rare_steps_are_not_forgotten():
    """C24: with one part a minute the speed is that of some minutes."""
    rate = moving(16 * MIB / 60, 60.0 * (FEWEST_STEPS + 3), 60.0)
    assert rate.bytes_s(60.0 * (FEWEST_STEPS + 3)) == pytest.approx(16 * MIB / 60, rel=0.01)


def test_it_begins_again():
    """C24: what has to be sent once more is no negative speed, and a new attempt has a speed of its own."""
    rate = moving(MIB, 10.0)
    rate.note(5 * MIB, 11.0)
    assert rate.bytes_s(12.0) == 0.0
    rate.begin(20.0)
    rate.note(2 * MIB, 22.0)
    assert rate.bytes_s(22.0) == MIB


def test_done_is_no_time_left():
    """C24: also when more came than was expected."""
    rate = moving(MIB, 10.0)
    assert rate.seconds_left(9 * MIB, 10.0) == 0.0


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-1, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1:00"),
        (83, "1:23"),
        (3599.9, "1:00:00"),
        (7283, "2:01:23"),
        (47 * 3600, "47:00:00"),
        (72.5 * 3600, "3 days"),
    ],
)
def test_a_duration(seconds: float, shown: str):
    assert duration(seconds) == shown


def test_the_pace():
    assert Transfer().pace == ""
    assert Transfer(1, 2, 0.0).pace == "0 B/s"
    assert Transfer(1, 2, 12.3 * MIB, 83.0).pace == "12.3 MiB/s, 1:23 left"
