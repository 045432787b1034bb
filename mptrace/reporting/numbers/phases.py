# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the calls' time went: the phases, and what no phase accounts for.  Pure."""

import numpy as np

from mptrace.arrays import Ints, Table
from mptrace.recording.detail import LEVEL_OUTCOMES
from mptrace.recording.layouts import NO_LOOKUP
from mptrace.recording.meta import Meta
from mptrace.reporting.numbers.folio_times import FolioTimes
from mptrace.reporting.numbers.sums import Numbers, Spread

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


#: Phases of folios: the column of their times, and that of how often there were such;
#: None: wherever there is a time.
_OF_FOLIOS: dict[str, tuple[str, str | None]] = {
    "allocate": ("alloc_ns", "n_alloc"),
    "lock": ("lock_ns", None),
    "copy": ("copy_ns", "n_copy"),
    "lru_add": ("lru_ns", None),
    "remap": ("remap_ns", "n_remap"),
    "release": ("release_ns", None),
}


class PhaseSums:
    """What the folio records of calls say of the phases, slice by slice.

    :param calls: rows of the table of calls.
    """

    def __init__(self, calls: int) -> None:
        self._counts = dict.fromkeys(_PHASES, 0)
        self._totals = dict.fromkeys(_PHASES, 0)
        self._spreads = {name: Spread() for name in _PHASES}
        #: When the last lookup of each call began, 0: it had none.
        self._last = np.zeros(calls, np.int64)

    def add(self, folios: FolioTimes, calls: Table, rows: Ints) -> None:
        """Add those of a slice; ``rows``: number of each of its calls."""
        flush, unmap = folios.column("flush_ns"), folios.column("unmap_ns")
        copy, move = folios.column("copy_ns"), folios.column("move_ns")
        isolate = folios.column("isolate_ns")
        self._add("isolate", isolate, folios.isolated.astype(np.int64))
        self._add("unmap", unmap - flush, folios.column("n_unmap"))
        self._add("move", move - copy, folios.column("n_move"))
        self._add("tlb_flush", flush, folios.column("n_flush"))
        for name, (values, counts) in _OF_FOLIOS.items():
            ns = folios.column(values)
            happened = (ns > 0).astype(np.int64) if counts is None else folios.column(counts)
            self._add(name, ns, happened)
        lookup = folios.column("lookup_seq") != NO_LOOKUP
        order = np.argsort(calls["call_id"], kind="stable")
        ids = calls["call_id"][order]
        if lookup.any():
            call_id = folios.column("call_id")[lookup].astype(np.uint64)
            place = np.searchsorted(ids, call_id)
            last = np.zeros(ids.size, np.int64)
            np.maximum.at(last, place, folios.column("start_ns")[lookup])
            self._last[rows[order]] = last

    def _add(self, name: str, values: Ints, counts: Ints) -> None:
        self._counts[name] += int(counts.sum())
        self._totals[name] += int(values.sum())
        self._spreads[name].add(values[counts > 0])

    def numbers(
        self, calls: Table, closed: Ints, migrations: Table, call_ns: int, meta: Meta
    ) -> Numbers:
        """The phases of the report.

        :param calls: table of calls; ``closed``: rows of those that ended and are in the sums.
        :param migrations: those that are in the sums.
        """
        some = calls[closed]
        own = migrations[np.isin(migrations["call_id"], some["call_id"])]
        own = own[own["call_id"] != 0]
        gaps = _walk_gaps(some, own, self._last[closed])
        drains = some["drain_ns"][some["n_drain"] > 0].astype(np.int64)
        batch_ns, batches = own["flush_ns"].astype(np.int64), own["n_flush"].astype(np.int64)
        self._add("tlb_flush", batch_ns, batches)
        self._counts["drain"] = int(some["n_drain"].astype(np.int64).sum())
        self._totals["drain"] = int(drains.sum())
        self._spreads["drain"] = Spread(drains)
        self._counts["walk"] = int(gaps.size)
        self._totals["walk"] = int(gaps.sum()) - self._totals["isolate"]
        ended = own[own["exit_ns"] != 0]
        spent = (ended["exit_ns"] - ended["enter_ns"]).astype(np.int64)
        self._counts["migrate"], self._totals["migrate"] = int(own.size), int(spent.sum())
        self._spreads["migrate"] = Spread(spent)
        states = _states(meta)
        phases: Numbers = {}
        attributed = 0
        for name, (unit, _) in _PHASES.items():
            count, total = self._counts[name], self._totals[name]
            state, reason = states[name]
            if name == "migrate" and meta.detail != LEVEL_OUTCOMES:
                continue
            if state == NOT_TRACED:
                phases[name] = _phase(unit, state, reason, 0, None, call_ns, Spread())
                continue
            if state in ("missing", "not_separable") and not count:
                inside = _INSIDE.get(name)
                if inside:
                    reason = f"its time is in {inside}" + (f" ({reason})" if reason else "")
                phases[name] = _phase(unit, state, reason, 0, None, call_ns, Spread())
                continue
            attributed += total
            phases[name] = _phase(unit, state, reason, count, total, call_ns, self._spreads[name])
        phases["unattributed"] = _phase(
            "call", "computed", "", int(some.size), call_ns - attributed, call_ns, Spread()
        )
        return phases


def _phase(
    unit: str, state: str, reason: str, count: int, total: int | None, call_ns: int, values: Spread
) -> Numbers:
    return {
        "unit": unit,
        "state": state,
        "reason": reason,
        "count": count,
        "total_ns": total,
        "share": total / call_ns if total is not None and call_ns else None,
        **values.numbers(),
    }


def _walk_gaps(closed: Table, own: Table, looked_up: Ints) -> Ints:
    """Time in which a call walked its arrays: up to each migration, and to the last lookup.

    From the call's start, less the drain, or from the exit of the migration before.

    :param looked_up: when the last lookup of each call began, 0: it had none.
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
    tail = np.maximum(looked_up[order], begin) - begin
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
