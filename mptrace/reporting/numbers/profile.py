# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows and records -> the numbers of a report, as a JSON-able dict.  Pure.

All times are nanoseconds of CLOCK_MONOTONIC, all sums int64: a difference that
comes out negative is shown as negative.  A share is of the calls' time.
"""

from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np

from mptrace.arrays import Table
from mptrace.outcomes.chosen import choose
from mptrace.outcomes.correlate import ENTRY_REASONS, MOVED, Correlation, correlate
from mptrace.outcomes.fates import Fates, failed_migrations, fates
from mptrace.outcomes.fates import outcomes as outcomes_of
from mptrace.outcomes.left_out import chosen_calls, left_out
from mptrace.outcomes.lying import Lying
from mptrace.outcomes.mappings import Mappings
from mptrace.outcomes.own import Own, own_of
from mptrace.outcomes.processes import RecordedProcesses
from mptrace.outcomes.said import said_of
from mptrace.outcomes.selection import EVERYTHING, Selection
from mptrace.recording.layouts import NOT_COUNTED, OUTCOMES
from mptrace.recording.lookup_layouts import LEVEL_OUTCOMES
from mptrace.recording.meta import Meta
from mptrace.recording.when import Clock, with_utc
from mptrace.reporting.numbers.balancing import balancing_numbers
from mptrace.reporting.numbers.budget import cost_curve, within
from mptrace.reporting.numbers.callers import callers_of
from mptrace.reporting.numbers.calls import (
    agreement_of,
    calls_of,
    disagreements_of,
    entries_of,
    failure_causes_of,
    failures_of,
    unknown_reasons_of,
)
from mptrace.reporting.numbers.folio_times import FolioTimes
from mptrace.reporting.numbers.groups import groups_of
from mptrace.reporting.numbers.misled import misled_of
from mptrace.reporting.numbers.own import numbers_of
from mptrace.reporting.numbers.paths import paths_of
from mptrace.reporting.numbers.phases import phases_of
from mptrace.reporting.numbers.slowest import slowest_calls
from mptrace.reporting.numbers.stacks import stacks_of
from mptrace.reporting.numbers.stalls import stalls_of
from mptrace.reporting.numbers.summary import summary_of
from mptrace.reporting.numbers.sums import Numbers, count_codes, distribution, span, without
from mptrace.units import many

__all__ = ["SCHEMA_VERSION", "distribution", "is_clean", "profile"]

#: Version of the layout of what :func:`profile` returns.
SCHEMA_VERSION = 1
#: Rounds with and without tracing, of each, that a ratio of their medians needs; it is
#: what `mptrace run` does by default.
MIN_COST_ROUNDS = 3


def profile(
    tables: Mapping[str, Table],
    meta: Meta,
    *,
    missing_parts: Sequence[str] = (),
    correlation: Correlation | None = None,
    budget_ns: int | None = None,
    selection: Selection = EVERYTHING,
) -> Numbers:
    """Compute the numbers of a report.

    :param tables: tables of a recording by name, layouts of ``layouts.TABLES``.
    :param meta: its meta.json; keys that are only shown are passed on as they stand there.
    :param missing_parts: parts of the recording that are gone.
    :param correlation: of these tables, when it is there already.
    :param selection: what the numbers are of; calls are whole in their time, phases and
        movement.  Losses, coverage and cost are those of the session.
    :param budget_ns: adds the largest batches whose measured p99 stays below it.
    """
    own = own_of(tables, meta)
    every, fate = correlation or correlate(tables, meta), fates(tables, meta)
    chosen = choose(tables, meta, selection, every, fate, own)
    out = left_out(own, chosen)
    found = chosen_calls(every, tables, meta, own, chosen, whole=False)
    whole = chosen_calls(every, tables, meta, own, chosen, whole=True)
    rows = found.rows
    calls = tables["calls"][~out.calls]
    migrations = tables["migrations"][~own.migrations]
    closed = calls[(calls["nodes_ptr"] != 0) & (calls["exit_ns"] != 0)]
    mappings, lying = Mappings(meta.mappings), Lying(tables, meta)
    outcomes = count_codes(rows["outcome"], OUTCOMES)
    outcomes["unknown"] += found.beyond_bound
    call_ns = span(closed, "enter_ns", "exit_ns")
    split = np.union1d(found.split, fate.row[fate.is_split])
    outcome, _ = outcomes_of(tables, meta, fate)
    of_calls = np.unique(closed["call_id"])
    times = FolioTimes(tables["folios"], of_calls, outcome, split, own.folios)
    folios = FolioTimes(tables["folios"], of_calls, outcome, split, out.folios)
    processes = RecordedProcesses(tables, meta)
    curves = cost_curve(tables, meta, fate, out)
    said = meta.raw
    numbers = {
        "schema_version": SCHEMA_VERSION,
        "tool_version": meta.tool_version,
        "command": list(said.get("command") or ()),
        "complete": meta.complete,
        "interrupted": meta.interrupted,
        "missing_parts": list(missing_parts),
        "kernel": dict(said.get("kernel") or {}),
        "nodes": list(said.get("nodes") or ()),
        "hypervisor": said.get("hypervisor", ""),
        "emulated": said.get("emulated"),
        "counted": said.get("counted"),
        "started": said.get("started"),
        "ended": said.get("ended"),
        "settings": dict(said.get("settings") or {}),
        "workload": said.get("workload"),
        "scope": said.get("scope"),
        "selection": said_of(selection, chosen, tables, meta, every, own)
        if selection.is_filter or selection.top
        else None,
        "filters": dict(said.get("filters") or {}),
        "tier": meta.tier,
        "detail": meta.detail,
        "tier_reason": said.get("tier_reason") or "",
        "end_reason": said.get("end_reason") or "",
        "unseen": list(said.get("unseen") or ()),
        "rotation": said.get("rotation"),
        "coverage": list(said.get("coverage") or ()),
        "unproved_kinds": list(said.get("unproved_kinds") or ()),
        "lost": dict(meta.lost),
        "cost": _cost(meta),
        "memory_bound_bytes": said.get("memory_bound_bytes"),
        "own": numbers_of(own, fate, chosen),
        "mappings": {**lying.seen, "gap": meta.mappings_gap},
        "calls": calls_of(
            calls,
            closed,
            whole.rows,
            call_ns,
            own.of_calls(tables["calls"], found.call_ids) | ~chosen.ordinals,
        ),
        "migrations": _migrations(tables["migrations"], fate, own, out, meta),
        "paths": paths_of(tables, meta, fate, processes, own, out, lying),
        "folios_without_migration": _strays(fate, out),
        "callers": callers_of(tables, found, processes),
        "groups": groups_of(tables, whole, processes, out),
        "misled": misled_of(tables, meta, found, processes),
        "stalls": stalls_of(tables, meta, fate, processes, out, lying, most=selection.top or 0),
        "balancing": balancing_numbers(tables, meta, processes, out, missing_parts=missing_parts),
        "stacks": stacks_of(tables, meta, fate, processes, out),
        "cost_curve": curves,
        "budget": None if budget_ns is None else within(curves, budget_ns),
        "entries": entries_of(closed, rows, found.beyond_bound),
        "outcomes": outcomes,
        "entry_reasons": without(count_codes(rows["entry_reason"], ENTRY_REASONS), ""),
        "unknown_reasons": unknown_reasons_of(rows, found.beyond_bound),
        "agreement": agreement_of(
            rows, found.beyond_bound, has_driver=tables["driver_calls"].size > 0
        ),
        "disagreements": disagreements_of(rows, mappings),
        "folios": folios.summary(),
        "phases": phases_of(closed, migrations, times, call_ns, meta),
        "blackout": folios.blackout(),
        "rates": _rates(times, call_ns, meta),
        "matrix": times.matrix(),
        "failures": failures_of(rows, mappings),
        "failure_causes": failure_causes_of(tables, meta, found, mappings, lying),
    }
    slowest: list[Numbers] = []
    if numbers["workload"]:
        pages = tables["folios"]["nr_pages"].astype(np.int64)
        pages[split] = 1
        slowest = slowest_calls(
            tables["calls"], whole, tables["folios"], outcome, pages, most=selection.top or 0
        )
    summary = summary_of(numbers, slowest, tables, lying)
    timed: Numbers = with_utc(numbers, Clock(said.get("started"), said.get("ended")))
    return {**timed, "summary": summary}


def is_clean(numbers: Numbers) -> bool:
    """Whether nothing was lost and no entry stayed unknown (what ``--strict`` asks).

    Under a selection also whether it is known of each row if it is selected.
    """
    return (
        not any(numbers["lost"].values())
        and not numbers["calls"]["lost"]
        and not numbers["missing_parts"]
        and not numbers["outcomes"]["unknown"]
        and not any(path["lost"] or path["pages"]["unknown"] for path in numbers["paths"])
        and not numbers["folios_without_migration"]["folios"]
        and numbers["complete"]
        and not (numbers["selection"] and any(numbers["selection"]["unsure"].values()))
    )


def _strays(found: Fates, own: Own) -> Numbers:
    """Folios whose migration has no record: nobody can say who moved them, and why."""
    lone = (found.migration < 0) & ~own.folios[found.row]
    return {"folios": int(lone.sum()), "pages": int(found.pages[lone].sum())}


def _migrations(migrations: Table, found: Fates, own: Own, out: Own, meta: Meta) -> Numbers:
    others = ~out.migrations
    of_calls = others & (migrations["call_id"] != 0)
    strange = others & (migrations["call_id"] == 0)
    failed = failed_migrations(migrations, found, own.beside(found))
    groups = []
    for reason in np.unique(migrations["reason"][strange]):
        is_member = strange & (migrations["reason"] == reason)
        group = migrations[is_member]
        theirs = np.zeros(found.row.size, np.bool_)
        known = found.migration >= 0
        theirs[known] = is_member[found.migration[known]]
        theirs &= ~out.folios[found.row]
        done = theirs & (found.outcome == MOVED)
        groups.append(
            {
                "reason": int(reason),
                "name": meta.reasons.get(int(reason), f"reason {int(reason)}"),
                "count": int(group.size),
                "failed": int(failed[is_member].sum()),
                "time_ns": span(group[group["enter_ns"] != 0], "enter_ns", "exit_ns"),
                "folios": int(theirs.sum()),
                "moved_pages": _counted(group)
                if meta.detail == LEVEL_OUTCOMES
                else int(found.pages[done].sum()),
            }
        )
    return {
        "count": int(of_calls.sum()),
        "failed": int(failed[of_calls].sum()),
        "time_ns": span(migrations[of_calls], "enter_ns", "exit_ns"),
        "without_call": groups,
    }


def _counted(migrations: Table) -> int:
    """Base pages that the kernel says were moved, where moved folios are not traced."""
    succeeded = migrations["succeeded"]
    return int(succeeded[succeeded != NOT_COUNTED].astype(np.int64).sum())


def _rates(folios: FolioTimes, call_ns: int, meta: Meta) -> Numbers:
    pages = int(folios.pages[folios.moved].sum())
    seconds = call_ns / 1e9
    return {
        "pages": pages,
        "bytes": pages * meta.kernel.page_size,
        "call_ns": call_ns,
        "pages_per_s": pages / seconds if seconds else None,
        "bytes_per_s": pages * meta.kernel.page_size / seconds if seconds else None,
    }


def _cost(meta: Meta) -> Numbers:
    cost = meta.cost
    if cost is None:
        return {"measured": False, "reason": meta.cost_reason}
    opened, closed, bpf = list(cost.open_ns), list(cost.closed_ns), list(cost.bpf)
    with_ns = float(median(opened)) if opened else None
    without_ns = float(median(closed)) if closed else None
    rounds = min(len(opened), len(closed))
    unmeasured = ""
    if rounds < MIN_COST_ROUNDS:
        unmeasured = f"{many(rounds, 'round')} each, a ratio needs {MIN_COST_ROUNDS}"
    elif not (with_ns and without_ns):
        unmeasured = "the clock told no time"
    return {
        "measured": True,
        "reason": "",
        "open_ns": opened,
        "closed_ns": closed,
        "entries": cost.pages,
        "median_open_ns": with_ns,
        "median_closed_ns": without_ns,
        "ratio": with_ns / without_ns if with_ns and without_ns and not unmeasured else None,
        "ratio_reason": unmeasured,
        "bpf": bpf,
        "bpf_run_ns": sum(int(handler.get("run_ns") or 0) for handler in bpf),
        "bpf_run_count": sum(int(handler.get("run_count") or 0) for handler in bpf),
    }
