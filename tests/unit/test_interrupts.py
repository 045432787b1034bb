# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals that end a session."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from mptrace.host.signals import Interrupts, interrupted_by

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Leave the signals of this process as they were."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("before", [signal.SIG_IGN, signal.SIG_DFL])
def test_the_first_signal_is_noted(number: signal.Signals, before: Any) -> None:
    """Also one that was ignored, as in a script's background; afterwards it is as it was."""
    signal.signal(number, before)
    with Interrupts() as interrupts:
        assert not interrupts.noted
        os.kill(os.getpid(), number)
        assert (interrupts.noted, interrupts.number) == (True, number)
    assert signal.getsignal(number) is before


def test_a_second_signal_ends_it_at_once() -> None:
    """The user is in a hurry."""
    with Interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_may_end_a_command_as_ctrl_c_does(number: signal.Signals) -> None:
    """Also where they were ignored before."""
    signal.signal(number, signal.SIG_IGN)
    interrupted_by(number)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
