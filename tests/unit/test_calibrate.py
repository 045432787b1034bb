# SPDX-License-Identifier: GPL-2.0-or-later
"""Coverage is proved by exact counts, never by presence."""

import numpy as np
import pytest
from recorded_facts import facts_of

from mptrace.recording.layouts import CALL, END_DONE, END_PUTBACK, FOLIO, MIGRATION
from mptrace.recording.meta import Coverage
from mptrace.tracing.plan.calibration import (
    PAGES,
    PINNED,
    Seen,
    judge,
    refuted,
    uncalibrated,
)
from mptrace.tracing.plan.plan import Plan, make_plan


def seen(*, per_pte: int = 1, batches: int = 1) -> Seen:
    """What a faithful tracer sees of PAGES pages there and back."""
    folios = np.zeros(2 * PAGES, FOLIO)
    folios["lookup_seq"] = np.tile(np.arange(PAGES), 2)
    for count in ("n_alloc", "n_unmap", "n_dark", "n_move", "n_copy", "n_remap"):
        folios[count] = 1
    folios["n_flush"] = per_pte
    folios["end"] = END_DONE
    calls = np.zeros(2, CALL)
    calls["n_drain"] = 1
    calls["n_vmas"] = PAGES
    migrations = np.zeros(2, MIGRATION)
    migrations["n_flush"] = batches
    return Seen(calls, migrations, folios)


def seen_pinned(putbacks: int = PINNED) -> Seen:
    """What it sees of the part where some pages stay behind."""
    folios = np.zeros(PAGES, FOLIO)
    folios["end"] = np.where(np.arange(PAGES) < putbacks, END_PUTBACK, END_DONE)
    return Seen(np.zeros(1, CALL), np.zeros(1, MIGRATION), folios)


@pytest.fixture
def plan() -> Plan:
    return make_plan(facts_of("6.12"))


def states(coverage: tuple[Coverage, ...]) -> dict[str, str]:
    return {c.phase: c.state for c in coverage}


def test_exact_counts_prove_a_phase(plan: Plan) -> None:
    """Every phase that the calibration exercises is proved, no other is."""
    coverage = judge(plan, seen(), seen_pinned())
    assert {phase for phase, state in states(coverage).items() if state != "proved"} == {
        "isolate_hugetlb",
        "dark_pmd",
        "putback_hugetlb",
        # only what refuses or delays a folio makes these fire
        "lock_wait",
        "writeback_wait",
        "split",
        "release",
    }
    assert refuted(coverage) == {}


@pytest.mark.parametrize("missed", ["n_copy", "n_move", "n_remap", "n_alloc"])
def test_one_hit_too_few_refutes_a_phase(plan: Plan, missed: str) -> None:
    """A probe that fires for all pages but one is not proved, and its function is named."""
    plain = seen()
    plain.folios[missed][7] = 0
    coverage = judge(plan, plain, seen_pinned())
    phase = {"n_copy": "copy", "n_move": "move", "n_remap": "remap", "n_alloc": "allocate"}[missed]
    assert states(coverage)[phase] == "unproved"
    assert [key[0] for key in refuted(coverage)] == [phase]


def test_one_hit_too_many_refutes_a_phase(plan: Plan) -> None:
    """Firing more often than it must is no proof either."""
    plain = seen()
    plain.folios["n_unmap"][0] = 2
    assert states(judge(plan, plain, seen_pinned()))["unmap"] == "unproved"


def test_a_kernel_that_flushes_per_pte_has_no_batch_flush(plan: Plan) -> None:
    """No batch flush at all is 'not separable', not a failed probe."""
    coverage = judge(plan, seen(batches=0), seen_pinned())
    assert states(coverage)["tlb_flush_batch"] == "not_separable"
    assert refuted(coverage) == {}


def test_flushes_deferred_to_the_batch_are_no_misses(plan: Plan) -> None:
    """Where another CPU may hold the entries the flush per PTE does not happen."""
    coverage = judge(plan, seen(per_pte=0), seen_pinned())
    flush = next(c for c in coverage if c.phase == "tlb_flush_pte")
    assert flush.state == "proved"
    assert "deferred" in flush.reason


def test_putback_is_proved_by_pages_that_stay(plan: Plan) -> None:
    """The pages that a pipe holds must all be seen going back, and no other."""
    assert states(judge(plan, seen(), seen_pinned(PINNED - 1)))["putback"] == "unproved"


def test_without_a_calibration_nothing_is_proved(plan: Plan) -> None:
    """The reason is given for each phase that could have been."""
    coverage = uncalibrated(plan, "one node")
    assert {c.state for c in coverage} == {"unproved"}
    assert {c.reason for c in coverage} == {"one node"}
