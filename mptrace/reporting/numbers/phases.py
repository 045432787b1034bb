# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the calls' time went: the phases, and what no phase accounts for.  Pure."""

import numpy as np

from mptrace.arrays import Ints, Table
from mptrace.recording.layouts import NO_LOOKUP
from mptrace.recording.lookup_layouts import LEVEL_OUTCOMES
from mptrace.recording.meta import Meta
from mptrace.reporting.numbers.folio_times import FolioTimes
from mptrace.reporting.numbers.sums import Numbers, distribution

#: State of a phase that the level of detail leaves out.
NOT_TRACED = "not_traced"
# Phases of the calls' time: unit, and the phases of the coverage that they rest on.
_PHASES = {
    "drain": ("call", ("drain",)),
    "walk": ("group", ("migration", "lookup")),
    # at the level of detail `outcomes`: all that a group's folios go through
    "migrate": ("migration", ("migration",)),
    "isolate": ("folio", ("isolate",)),
    "allocate": ("folio", ("allocate",)),
    # between two probes of one folio: lock it, wait for write-back, hold its anon_vma
    "lock": ("folio", ("allocate", "unmap")),
    "unmap": ("folio", ("unmap",)),
    "tlb_flush": ("flush", ("tlb_flush", "tlb_flush_pte", "tlb_flush_batch")),
    "move": ("folio", ("move",)),
    "copy": ("folio", ("copy",)),
    # likewise: put the target on the LRU (and, on 6.1, drain the LRU caches)
    "lru_add": ("folio", ("move", "remap")),
    "remap": ("PTE", ("remap",)),
    # likewise: unlock both, give the source back
    "release": ("folio", ("remap", "done")),
}
#: What is timed at the level of detail `outcomes`; `migrate` is timed there only.
_OF_OUTCOMES = ("drain", "walk", "migrate")
#: Where the time of a phase goes that can't be told apart.
_INSIDE = {"tlb_flush": "unmap", "copy": "move"}


def phases_of(
    closed: Table,
    migrations: Table,
    folios: FolioTimes,
    call_ns: int,
    meta: Meta,
) -> Numbers:
    own = migrations[np.isin(migrations["call_id"], closed["call_id"])]
    own = own[own["call_id"] != 0]
    flush, unmap = folios.column("flush_ns"), folios.column("unmap_ns")
    copy, move = folios.column("copy_ns"), folios.column("move_ns")
    n_flush = folios.column("n_flush")
    gaps = _walk_gaps(closed, own, folios)
    ended = own[own["exit_ns"] != 0]
    spent = (ended["exit_ns"] - ended["enter_ns"]).astype(np.int64)
    isolate = folios.column("isolate_ns")
    drains = closed["drain_ns"][closed["n_drain"] > 0].astype(np.int64)
    batch_ns, batches = own["flush_ns"].astype(np.int64), own["n_flush"].astype(np.int64)

    def of(values: Ints, counts: Ints) -> tuple[int, int, Ints]:
        happened = counts > 0
        return int(counts.sum()), int(values.sum()), values[happened]

    def between(column: str) -> tuple[int, int, Ints]:
        values = folios.column(column)
        return of(values, (values > 0).astype(np.int64))

    measured = {
        "drain": (int(closed["n_drain"].astype(np.int64).sum()), int(drains.sum()), drains),
        "walk": (int(gaps.size), int(gaps.sum()) - int(isolate.sum()), gaps[:0]),
        "migrate": (int(own.size), int(spent.sum()), spent),
        "isolate": of(isolate, folios.isolated.astype(np.int64)),
        "allocate": of(folios.column("alloc_ns"), folios.column("n_alloc")),
        "lock": between("lock_ns"),
        "unmap": of(unmap - flush, folios.column("n_unmap")),
        "tlb_flush": (
            int(n_flush.sum() + batches.sum()),
            int(flush.sum() + batch_ns.sum()),
            np.concatenate([flush[n_flush > 0], batch_ns[batches > 0]]),
        ),
        "move": of(move - copy, folios.column("n_move")),
        "copy": of(copy, folios.column("n_copy")),
        "lru_add": between("lru_ns"),
        "remap": of(folios.column("remap_ns"), folios.column("n_remap")),
        "release": between("release_ns"),
    }
    states = _states(meta)
    phases: Numbers = {}
    attributed = 0
    for name, (unit, _) in _PHASES.items():
        count, total, values = measured[name]
        state, reason = states[name]
        if name == "migrate" and meta.detail != LEVEL_OUTCOMES:
            continue
        if state == NOT_TRACED:
            phases[name] = _phase(unit, state, reason, 0, None, call_ns, values[:0])
            continue
        if state in ("missing", "not_separable") and not count:
            inside = _INSIDE.get(name)
            if inside:
                reason = f"its time is in {inside}" + (f" ({reason})" if reason else "")
            phases[name] = _phase(unit, state, reason, 0, None, call_ns, values[:0])
            continue
        attributed += total
        phases[name] = _phase(unit, state, reason, count, total, call_ns, values)
    phases["unattributed"] = _phase(
        "call", "computed", "", int(closed.size), call_ns - attributed, call_ns, copy[:0]
    )
    return phases


def _phase(
    unit: str, state: str, reason: str, count: int, total: int | None, call_ns: int, values: Ints
) -> Numbers:
    return {
        "unit": unit,
        "state": state,
        "reason": reason,
        "count": count,
        "total_ns": total,
        "share": total / call_ns if total is not None and call_ns else None,
        **distribution(values),
    }


def _walk_gaps(closed: Table, own: Table, folios: FolioTimes) -> Ints:
    """Time in which a call walked its arrays: up to each migration, and to the last lookup.

    From the call's start, less the drain, or from the exit of the migration before.
    """
    if not closed.size:
        return np.zeros(0, np.int64)
    ids = closed["call_id"]
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    begin = (closed["enter_ns"] + closed["drain_ns"])[order].astype(np.int64)
    if own.size:
        own = own[np.lexsort((own["enter_ns"], own["call_id"]))]
        call = np.searchsorted(ids, own["call_id"])
        enter, leave = own["enter_ns"].astype(np.int64), own["exit_ns"].astype(np.int64)
        first = np.concatenate([[True], np.diff(call) != 0])
        before = np.where(first, begin[call], np.concatenate([[0], leave[:-1]]))
        gaps = enter - before
        # What is left after the last migration begins at its exit.
        begin = begin.copy()
        begin[call] = leave
    else:
        gaps = np.zeros(0, np.int64)
    last = begin.copy()
    lookup = folios.column("lookup_seq") != NO_LOOKUP
    if lookup.any():
        call_id = folios.column("call_id")[lookup].astype(np.uint64)
        np.maximum.at(last, np.searchsorted(ids, call_id), folios.column("start_ns")[lookup])
    tail = last - begin
    return np.concatenate([gaps, tail[tail > 0]])


def _states(meta: Meta) -> dict[str, tuple[str, str]]:
    """State and reason of each phase, from the coverage of what it rests on."""
    result = {}
    for name, (_, needs) in _PHASES.items():
        own = [meta.phases[need] for need in needs if need in meta.phases]
        states = {phase.state for phase in own}
        reasons = [
            f"{phase.phase}: {phase.reason}"
            for phase in own
            if phase.reason and phase.state != "proved"
        ]
        if meta.detail == LEVEL_OUTCOMES and name not in _OF_OUTCOMES:
            state = NOT_TRACED
        elif not own:
            state = "unproved"
        elif len(states) == 1:
            state = next(iter(states))
        elif states <= {"missing", "not_separable"}:
            state = "not_separable"
        else:
            state = "unproved" if "unproved" in states else "proved"
        result[name] = (state, "; ".join(reasons))
    return result
