# SPDX-License-Identifier: GPL-2.0-or-later
"""Coverage by exact counts: was each phase seen as often as a known workload made it happen?

A symbol can exist, attach and never fire (the compiler inlined it into its only
caller), or fire for some paths only; "at least one hit" proves nothing.  The
session moves a prime number of its own 4 KiB pages there and back, then again
with some of them held by a pipe, and asks here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from mptrace.arrays import Table
from mptrace.recording.layouts import END_DONE, END_PUTBACK, FOLIO_HUGETLB, NO_LOOKUP, NOT_COUNTED
from mptrace.recording.lookup_layouts import LOOKUP
from mptrace.recording.meta import Coverage
from mptrace.tracing.plan.candidates import UNPROVED_KINDS
from mptrace.tracing.plan.plan import PhasePlan, Plan
from mptrace.units import times

#: Base pages of the calibration, and how many of them a pipe holds in its second part.
PAGES = 23
PINNED = 3


@dataclass(frozen=True)
class Seen:
    """What the tracer saw of one part of the calibration, arrays of `recording.layouts`."""

    calls: Table
    migrations: Table
    folios: Table
    lookups: Table = field(default_factory=lambda: np.empty(0, LOOKUP))


def counts(seen: Seen) -> dict[str, int]:
    """Events per phase in the phase's unit, from the records alone."""
    folios, calls, migrations = seen.folios, seen.calls, seen.migrations
    hugetlb = (folios["flags"] & FOLIO_HUGETLB) != 0
    tried = (folios["isolate_rc"] <= 0) & (folios["lookup_seq"] != NO_LOOKUP)
    return {
        "call": len(calls),
        "drain": int(calls["n_drain"].sum()),
        "vma": int(calls["n_vmas"].sum()),
        "lookup": int((folios["lookup_seq"] != NO_LOOKUP).sum()) + len(seen.lookups),
        "isolate": int((tried & ~hugetlb).sum()),
        "isolate_hugetlb": int((tried & hugetlb).sum()),
        "migration": len(migrations),
        "allocate": int(folios["n_alloc"].sum()),
        "unmap": int(folios["n_unmap"].sum()),
        "tlb_flush_pte": int(folios["n_flush"].sum()),
        "tlb_flush_batch": int(migrations["n_flush"].sum()),
        "dark": int(folios["n_dark"].sum()),
        "move": int(folios["n_move"].sum()),
        "copy": int(folios["n_copy"].sum()),
        "remap": int(folios["n_remap"].sum()),
        "outcome": int((migrations["succeeded"] != NOT_COUNTED).sum()),
        "owner": int(folios["n_maps"].sum()),
        "done": int((folios["end"] == END_DONE).sum()),
        "putback": int((folios["end"] == END_PUTBACK).sum()),
    }


#: What moving PAGES pages there and back makes happen, by phase.
_PLAIN: Mapping[str, int] = {
    "call": 2,
    "drain": 2,
    "vma": 2 * PAGES,
    "lookup": 2 * PAGES,
    "isolate": 2 * PAGES,
    "migration": 2,
    "allocate": 2 * PAGES,
    "unmap": 2 * PAGES,
    "tlb_flush_pte": 2 * PAGES,
    "tlb_flush_batch": 2,
    "dark": 2 * PAGES,
    "move": 2 * PAGES,
    "copy": 2 * PAGES,
    "remap": 2 * PAGES,
    "outcome": 2,
    "owner": 2 * PAGES,
    "done": 2 * PAGES,
}


def judge(plan: Plan, plain: Seen, pinned: Seen) -> tuple[Coverage, ...]:
    """Coverage of each phase of ``plan``, in its order.

    ``plain`` is PAGES pages there and back, ``pinned`` the same with PINNED of
    them held, one way.
    """
    seen, seen_pinned = counts(plain), counts(pinned)
    return tuple(_judge_phase(phase, seen, seen_pinned) for phase in plan.phases)


def uncalibrated(plan: Plan, reason: str) -> tuple[Coverage, ...]:
    """Coverage where no calibration could be made: nothing is proved."""
    return tuple(
        Coverage(
            p.phase,
            p.unit,
            p.attach,
            p.method,
            "unproved" if p.method else "missing",
            None,
            None,
            reason if p.method else p.reason,
        )
        for p in plan.phases
    )


def refuted(coverage: tuple[Coverage, ...]) -> dict[tuple[str, str, str], str]:
    """(phase, function, method) that fired another number of times than they must -> the reason."""
    return {
        (c.phase, c.attach, c.method): c.reason
        for c in coverage
        if c.state == "unproved" and c.expected is not None
    }


def _judge_phase(phase: PhasePlan, seen: dict[str, int], pinned: dict[str, int]) -> Coverage:
    def verdict(
        state: str, expected: int | None = None, got: int | None = None, reason: str = ""
    ) -> Coverage:
        return Coverage(
            phase.phase, phase.unit, phase.attach, phase.method, state, expected, got, reason
        )

    if not phase.method:
        return verdict("missing", reason=phase.reason)
    if phase.phase == "putback":
        expected, got = PINNED, pinned["putback"]
    elif phase.phase in _PLAIN:
        expected, got = _PLAIN[phase.phase], seen[phase.phase]
    else:
        return verdict("unproved", reason=f"calibration moves no {UNPROVED_KINDS[phase.phase]}")
    if got == expected:
        return verdict("proved", expected, got)
    if phase.phase == "tlb_flush_batch" and got == 0:
        return verdict("not_separable", expected, got, "this kernel flushes per PTE, inside unmap")
    if phase.phase == "tlb_flush_pte" and got < expected and seen["tlb_flush_batch"]:
        reason = f"flushes deferred to the batch: {expected - got}"
        return verdict("proved", expected, got, reason)
    return verdict("unproved", expected, got, f"fired {times(got)}, not {expected}")
