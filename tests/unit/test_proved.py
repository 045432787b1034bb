# SPDX-License-Identifier: GPL-2.0-or-later
"""A tracer is proved as far as it can be, and none that could trace is denied."""

from collections.abc import Callable, Collection
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from recorded_facts import facts_of

from mptrace.errors import HostError
from mptrace.recording.layouts import (
    CALL,
    CHUNK_SMALL,
    END_DONE,
    END_PUTBACK,
    FOLIO,
    MIGRATION,
    OBSTACLE,
    WAIT,
)
from mptrace.recording.meta import Coverage
from mptrace.sessions.calibrated import calibrated
from mptrace.tracer import Drained
from mptrace.tracing.plan.calibration import PAGES, PINNED
from mptrace.tracing.plan.plan import Plan, make_plan
from mptrace.tracing.plan.request import Request
from mptrace.tracing.program.chunks import chunk_sides

Key = tuple[str, str, str]
FACTS = facts_of("6.12")
#: What a phase's misses take away from.
COUNTS = {"copy": "n_copy", "move": "n_move", "allocate": "n_alloc", "remap": "n_remap"}


class PlayedTracer:
    """Sees the calibration, but what the phases that are ``wrong`` show is one too few."""

    def __init__(self, plan: Plan, refused: Collection[Key], wrong: Collection[str]) -> None:
        self.plan = plan
        self.closed = False
        self._refused = refused
        self._wrong = wrong
        self._rounds = 0
        self._gate = False
        self.lost = 0

    def losses(self) -> dict[str, int]:
        """What the rings had no room for, a round at a time."""
        return {"folio_ring_full": self.lost * self._rounds, "handler_skipped": self._rounds}

    def open(self) -> dict[Key, str]:
        """What the kernel refuses of the plan."""
        keys = {(p.phase, p.attach, p.method) for p in self.plan.phases}
        return dict.fromkeys(keys & set(self._refused), "EPERM")

    def open_gate(self, _tgid: int) -> None:
        self._gate = True

    def close_gate(self) -> None:
        self._rounds += 1

    def close(self) -> None:
        self.closed = True

    def drain(self) -> Drained:
        """One round: first the plain one, then that with pages that a pipe holds."""
        kept, self._gate = self._gate, False
        ways = 2 * kept if self._rounds == 1 else int(kept)
        folios = np.zeros(ways * PAGES, FOLIO)
        folios["lookup_seq"] = np.tile(np.arange(PAGES), ways)
        for name in ("n_alloc", "n_unmap", "n_dark", "n_move", "n_copy", "n_remap", "n_flush"):
            folios[name] = 1
        folios["n_maps"] = 1
        folios["end"] = END_DONE
        if self._rounds == 2:
            folios["end"][:PINNED] = END_PUTBACK
        if folios.size:
            for phase in self._wrong:
                folios[COUNTS[phase]][7] = 0
        calls, migrations = np.zeros(ways, CALL), np.zeros(ways, MIGRATION)
        calls["n_drain"], calls["n_vmas"], migrations["n_flush"] = 1, PAGES, 1
        sides = chunk_sides(np.empty(0, CHUNK_SMALL))
        return Drained(folios, np.empty(0, OBSTACLE), migrations, calls, sides, np.empty(0, WAIT))


class PlayedWorker:
    """Moves nothing."""

    def setup(self, _workload: object) -> SimpleNamespace:
        return SimpleNamespace(tgid=23)

    def round(self, *, record: bool) -> None:
        assert not record

    def teardown(self) -> None:
        return None


class Played:
    """Tracers that are played, one for each plan; ``wrong`` says what the next one misses."""

    def __init__(
        self, wrong: Callable[[Plan, int], Collection[str]], refused: Collection[Key] = ()
    ) -> None:
        self.made: list[PlayedTracer] = []
        self.said: list[str] = []
        self._wrong = wrong
        self._refused = refused
        self.lost = 0

    def _make(self, plan: Plan, _release: str) -> PlayedTracer:
        self.made.append(PlayedTracer(plan, self._refused, self._wrong(plan, len(self.made))))
        self.made[-1].lost = self.lost
        return self.made[-1]

    def calibrated(self) -> tuple[PlayedTracer, dict[str, Coverage]]:
        """The tracer that the session goes on with, and the proof of each phase."""
        make: Any = self._make
        worker: Any = PlayedWorker()
        tracer, coverage = calibrated(FACTS, Request(), worker, (0, 1), self.said.append, make)
        assert tracer is self.made[-1]
        assert [each.closed for each in self.made] == [True] * (len(self.made) - 1) + [False]
        return self.made[-1], {c.phase: c for c in coverage}


def attached(plan: Plan, phase: str) -> Key:
    """What stands for a phase."""
    (found,) = [p for p in plan.phases if p.phase == phase]
    return phase, found.attach, found.method


def candidates(phase: str) -> list[Key]:
    """All that can stand for a phase on this kernel, the best first."""
    found: dict[Key, str] = {}
    while (key := attached(make_plan(FACTS, Request(), found), phase))[2]:
        found[key] = "tried"
    return list(found)


def test_what_is_right_is_proved_at_once() -> None:
    """One plan, and every phase that the calibration exercises is proved."""
    played = Played(lambda *_: ())
    _, coverage = played.calibrated()
    assert len(played.made) == 1
    assert {coverage[phase].state for phase in ("call", *COUNTS)} == {"proved"}
    assert not [line for line in played.said if "not proved" in line]


def test_a_refuted_candidate_gives_way_to_the_next() -> None:
    """Which is proved then."""
    first, second = candidates("copy")[:2]
    played = Played(lambda plan, _: ("copy",) if attached(plan, "copy") == first else ())
    tracer, coverage = played.calibrated()
    assert attached(tracer.plan, "copy") == second
    assert coverage["copy"].state == "proved"


def test_tracing_goes_on_when_candidates_are_refuted_one_after_the_other() -> None:
    """After so many calibrations, with what is proved; the rest is unproved, with the reason."""
    order = [*COUNTS]
    played = Played(lambda _, number: (order[number],))
    tracer, coverage = played.calibrated()
    assert len(played.made) == 4
    assert (coverage["remap"].state, coverage["remap"].seen) == ("unproved", 2 * PAGES - 1)
    assert coverage["remap"].reason == f"fired {2 * PAGES - 1} times, not {2 * PAGES}"
    assert {coverage[phase].state for phase in order[:3]} == {"proved"}
    _, function, _ = attached(tracer.plan, "remap")
    assert f"not proved: remap by {function}: {coverage['remap'].reason}" in played.said


def test_losses_refute_nothing() -> None:
    """Buffers too small for the calibration: one plan, everything unproved, and why."""
    played = Played(lambda *_: COUNTS)
    played.lost = 3
    _, coverage = played.calibrated()
    assert len(played.made) == 1
    attached_ = [phase for phase in coverage.values() if phase.method]
    assert {phase.state for phase in attached_} == {"unproved"}
    assert all("too small to calibrate (folio_ring_full)" in phase.reason for phase in attached_)


def test_a_phase_that_is_always_wrong_stays_attached_and_unproved() -> None:
    """By its last candidate; an essential phase, too."""
    played = Played(lambda *_: ("move",))
    tracer, coverage = played.calibrated()
    assert attached(tracer.plan, "move") in candidates("move")
    assert coverage["move"].state == "unproved"
    assert coverage["copy"].state == "proved"


@pytest.mark.parametrize("phase", ["copy", "move"])
def test_what_was_refuted_is_taken_back_where_the_kernel_refuses_the_rest(phase: str) -> None:
    """Unproved is more than missing, and no error where the phase is essential."""
    first, *others = candidates(phase)
    played = Played(lambda plan, _: (phase,) if attached(plan, phase) == first else (), others)
    tracer, coverage = played.calibrated()
    assert attached(tracer.plan, phase) == first
    assert coverage[phase].state == "unproved"


def test_many_refusals_of_the_kernel_end_nothing() -> None:
    """Each leaves another candidate, or a phase that is missing, with the reason."""
    refused = [key for phase in ("drain", "vma", "copy", "allocate") for key in candidates(phase)]
    played = Played(lambda *_: (), refused)
    _, coverage = played.calibrated()
    assert coverage["copy"].state == "missing"
    assert "EPERM" in coverage["copy"].reason
    assert coverage["remap"].state == "proved"


def test_only_a_missing_essential_is_an_error() -> None:
    """In one short sentence: 'mptrace doctor' has the rest."""
    played = Played(lambda *_: (), candidates("move") + candidates("lookup"))
    with pytest.raises(HostError) as caught:
        played.calibrated()
    assert caught.value.message == "no usable attach point for lookup, move"
    assert "mptrace doctor" in caught.value.hint
    assert all(each.closed for each in played.made)
