# SPDX-License-Identifier: GPL-2.0-or-later
"""When the rings are taken: seldom while nothing presses, in time where they fill."""

import pytest

from mptrace.sessions.pace import (
    LEAST_SECONDS,
    PRESSING,
    REST_SECONDS,
    TAKE_SECONDS,
    Pace,
)

SECONDS = 30.0


class Run:
    """A ring that fills at some rate, from 0 to 1 in a second, and who takes it at once."""

    def __init__(self, rate: float, *, stuck: float = 0.0) -> None:
        self.looks, self.takings, self.fullest = 0, 0, 0.0
        now, fill = 0.0, stuck
        pace = Pace(now)
        while now < SECONDS:
            seconds = pace.seconds()
            now += seconds
            fill += rate * seconds
            self.looks += 1
            self.fullest = max(self.fullest, fill)
            if pace.is_due(now, fill):
                self.takings += 1
                pace.took(now, stuck, is_any=fill > stuck)
                fill = stuck


@pytest.mark.parametrize("rate", [1e-3, 0.1, 1.0, PRESSING / TAKE_SECONDS / 2])
def test_while_nothing_presses_it_takes_ten_times_a_second(rate: float) -> None:
    """No less either, and looks when it has rested."""
    run = Run(rate)
    assert SECONDS / TAKE_SECONDS * 0.8 <= run.takings <= SECONDS / TAKE_SECONDS
    assert run.looks <= SECONDS / REST_SECONDS + 2
    assert run.fullest < PRESSING


def test_where_nothing_comes_nothing_is_taken() -> None:
    """It looks, and that is all."""
    run = Run(0.0)
    assert run.takings == 0
    assert run.looks <= SECONDS / REST_SECONDS + 2


@pytest.mark.parametrize("rate", [5.0, 12.0, 20.0])
def test_a_ring_that_fills_is_taken_before_it_is_full(rate: float) -> None:
    """From the first records on, when nothing is known of how fast they come."""
    run = Run(rate)
    assert rate * REST_SECONDS <= run.fullest < 0.5
    assert run.takings > SECONDS * rate / 0.5


def test_it_never_spins() -> None:
    """Not for a record either that nobody finishes, with the ring full behind it."""
    run = Run(0.0, stuck=1.0)
    assert run.looks <= SECONDS / LEAST_SECONDS + 2
    assert Run(1e6).looks <= SECONDS / LEAST_SECONDS + 2


def test_what_is_awaited_is_taken_at_once() -> None:
    """If there is anything."""
    pace = Pace(0.0)
    assert not pace.is_due(0.01, 0.0, is_awaited=True)
    assert pace.is_due(0.02, 1e-6, is_awaited=True)
    pace.took(0.02, 0.0, is_any=True)
    assert not pace.is_due(0.03, 1e-6)


def test_who_is_late_goes_on_at_once() -> None:
    """As much came while the rings were taken."""
    pace = Pace(0.0)
    assert pace.is_due(1.0, 0.9)
    pace.took(1.1, 0.9, is_any=True)
    assert pace.seconds() == 0
    assert pace.is_due(1.1, 0.9)
