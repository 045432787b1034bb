# SPDX-License-Identifier: GPL-2.0-or-later
"""Detaching, which takes the kernel long, goes on beside; nothing stays attached at the end."""

import os
import threading

import pytest

from mptrace.errors import HostError
from mptrace.host import bpf
from mptrace.tracing.plan.plan import PhasePlan
from mptrace.tracing.program import program as module
from mptrace.tracing.program.compiled import Compiled
from mptrace.tracing.program.program import Program

#: More than any real descriptor; what attaches has even numbers, programs have odd ones.
FIRST = 100_001
PHASES = tuple(
    PhasePlan(phase, "event", f"mm:{phase}", "raw_tracepoint", enter=f"enter_{phase}")
    for phase in ("one", "two", "three")
)
LINKS, PROGRAMS = [100_006, 100_004, 100_002], [100_005, 100_003, 100_001]


class Kernel:
    """Stands for the kernel: gives out descriptors, and takes its time to detach."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.next, self.closed, self.may_close = FIRST, list[int](), threading.Event()
        self.refuses = ""
        self.may_close.set()
        close = os.close

        def slow(fd: int) -> None:
            if fd < FIRST:
                close(fd)
                return
            if fd in LINKS:
                assert self.may_close.wait(60)
            self.closed.append(fd)

        monkeypatch.setattr(os, "close", slow)
        monkeypatch.setattr(bpf, "load_program", lambda *_, **__: self._new())
        monkeypatch.setattr(bpf, "attach_raw_tracepoint", self._attach)
        functions = {phase.enter: b"" for phase in PHASES}
        monkeypatch.setattr(module, "built", lambda *_: (Compiled((), functions), []))

    def _new(self) -> int:
        self.next += 1
        return self.next - 1

    def _attach(self, _: int, name: str) -> int:
        if name == self.refuses:
            raise OSError(22, "refused")
        return self._new()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """One that refuses nothing."""
    return Kernel(monkeypatch)


def opened(kernel: Kernel) -> Program:
    """Three programs, attached."""
    program = Program("source", PHASES, {}, "6.12")
    assert program.open() == (
        {("two", "mm:two", "raw_tracepoint"): "refused"} if kernel.refuses else {}
    )
    return program


def test_it_goes_on_beside_and_close_waits_for_it(kernel: Kernel) -> None:
    """The programs are there until then, with what the kernel counted of them."""
    program = opened(kernel)
    kernel.may_close.clear()
    program.begin_detaching()
    program.begin_detaching()
    assert not kernel.closed, "nobody waits"
    closing = threading.Thread(target=program.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    assert not kernel.closed, "close waits"
    kernel.may_close.set()
    closing.join()
    assert kernel.closed == LINKS + PROGRAMS
    program.close()
    assert kernel.closed == LINKS + PROGRAMS


def test_close_alone_detaches_too(kernel: Kernel) -> None:
    """What attaches a program goes before the program."""
    opened(kernel).close()
    assert kernel.closed == LINKS + PROGRAMS


def test_a_phase_that_is_refused_leaves_nothing(kernel: Kernel) -> None:
    """Its program goes at once, the others' stay until the end."""
    kernel.refuses = "two"
    program = opened(kernel)
    assert kernel.closed == [100_003]
    program.close()
    assert kernel.closed == [100_003, 100_005, 100_002, 100_004, 100_001]


def test_what_can_not_be_opened_is_closed(kernel: Kernel) -> None:
    """A handler that is missing: nothing stays of those before."""
    strange = PhasePlan("four", "event", "mm:four", "raw_tracepoint", enter="enter_four")
    with pytest.raises(HostError, match="enter_four"):
        Program("source", (*PHASES, strange), {}, "6.12").open()
    assert kernel.closed == LINKS + PROGRAMS
