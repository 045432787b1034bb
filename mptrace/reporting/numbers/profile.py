# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows and records -> the numbers of a report, as a JSON-able dict.  Pure.

All times are nanoseconds of CLOCK_MONOTONIC, all sums int64: a difference that
comes out negative is shown as negative.  A share is of the calls' time.
"""

from collections.abc import Sequence
from statistics import median

import numpy as np

from mptrace.arrays import Table, Tables
from mptrace.outcomes.correlate import Correlation
from mptrace.outcomes.lying import Lying
from mptrace.outcomes.mappings import Mappings
from mptrace.outcomes.processes import RecordedProcesses
from mptrace.outcomes.said import said_of
from mptrace.outcomes.selection import EVERYTHING, Selection
from mptrace.recording.detail import LEVEL_OUTCOMES
from mptrace.recording.layouts import NOT_COUNTED
from mptrace.recording.meta import CPU_CLOCK, Meta
from mptrace.recording.slices import Slices
from mptrace.recording.when import Clock, with_utc
from mptrace.reporting.numbers.balancing import balancing_numbers
from mptrace.reporting.numbers.budget import CostCurve, within
from mptrace.reporting.numbers.callers import CallerSums
from mptrace.reporting.numbers.calls import EntrySums, calls_of
from mptrace.reporting.numbers.failure_causes import FailureCauses
from mptrace.reporting.numbers.folio_times import FolioSums, FolioTimes
from mptrace.reporting.numbers.groups import GroupSums
from mptrace.reporting.numbers.lying import There
from mptrace.reporting.numbers.misled import Misled
from mptrace.reporting.numbers.own import numbers_of
from mptrace.reporting.numbers.parts import Gathered, parts_of
from mptrace.reporting.numbers.paths import PathSums
from mptrace.reporting.numbers.phases import PhaseSums
from mptrace.reporting.numbers.recorder import recorder_numbers
from mptrace.reporting.numbers.slowest import SlowestCalls
from mptrace.reporting.numbers.stacks import stacks_of
from mptrace.reporting.numbers.stalls import Stalls
from mptrace.reporting.numbers.summary import summary_of
from mptrace.reporting.numbers.sums import Numbers, distribution, span
from mptrace.units import many

__all__ = ["SCHEMA_VERSION", "distribution", "is_clean", "profile"]

#: Version of the layout of what :func:`profile` returns.
SCHEMA_VERSION = 1
#: Rounds with and without tracing, of each, that a ratio of their medians needs; it is
#: what `mptrace run` does by default.
MIN_COST_ROUNDS = 3


def profile(
    recording: Tables | Slices,
    meta: Meta,
    *,
    missing_parts: Sequence[str] = (),
    correlation: Correlation | None = None,
    budget_ns: int | None = None,
    selection: Selection = EVERYTHING,
) -> Numbers:
    """Compute the numbers of a report.

    :param recording: tables of a recording by name, layouts of ``layouts.TABLES``; or its
        slices, of which everything is selected.
    :param meta: its meta.json; keys that are only shown are passed on as they stand there.
    :param missing_parts: parts of the recording that are gone.
    :param correlation: of these tables, when it is there already.
    :param selection: what the numbers are of; calls are whole in their time, phases and
        movement.  Losses, coverage and cost are those of the session.
    :param budget_ns: adds the largest batches whose measured p99 stays below it.
    """
    gathered = Gathered(recording, meta)
    tables = gathered.tables
    processes, mappings = RecordedProcesses(tables, meta), Mappings(meta.mappings)
    lying = Lying(tables, meta)
    there, most = There(lying), selection.top or 0
    entries = EntrySums(mappings)
    causes = FailureCauses(meta, mappings, lying, there)
    times = folios = FolioSums()
    if selection.is_filter:
        folios = FolioSums()
    phases = PhaseSums(tables["calls"].size)
    paths = PathSums(tables, meta, lying, there)
    callers = CallerSums(tables["calls"])
    groups, misled = GroupSums(), Misled(tables["calls"], callers.group, meta)
    stalls = Stalls(recording, meta, processes, lying, most=most)
    curve, slowest = CostCurve(tables, meta), SlowestCalls(most=most)
    whats: Numbers | None = None
    for part in parts_of(recording, meta, selection, correlation):
        gathered.add(part)
        of_calls = FolioTimes(part, part.own.folios)
        phases.add(of_calls, part.tables["calls"], part.rows("calls"))
        times.add(of_calls)
        if folios is not times:
            folios.add(FolioTimes(part, part.out.folios))
        for each in (entries, causes, paths, callers, groups, misled, curve):
            each.add(part)
        if meta.raw.get("workload"):
            slowest.add(part)
        stalls.add(part, gathered)
        if selection.is_filter or selection.top:
            some = part.tables, meta, part.every, part.own
            whats = said_of(selection, part.chosen, *some)
    own, out = gathered.own, gathered.out
    calls = tables["calls"][~out.calls]
    asked = (tables["calls"]["nodes_ptr"] != 0) & (tables["calls"]["exit_ns"] != 0)
    closed = np.flatnonzero(asked & ~out.calls)
    ended = tables["calls"][closed]
    migrations = tables["migrations"][~own.migrations]
    call_ns = span(ended, "enter_ns", "exit_ns")
    curves = curve.numbers(gathered)
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
        "selection": whats,
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
        "recorder": recorder_numbers(meta.recorder),
        "memory_bound_bytes": said.get("memory_bound_bytes"),
        "own": numbers_of(gathered),
        "mappings": {**lying.seen, "gap": meta.mappings_gap},
        "calls": calls_of(
            calls,
            ended,
            gathered.calls_seen,
            call_ns,
            gathered.left_out,
        ),
        "migrations": _migrations(gathered, meta),
        "paths": paths.numbers(gathered, processes),
        "folios_without_migration": dict(gathered.strays),
        "callers": callers.numbers(gathered, processes),
        "groups": groups.numbers(gathered, processes),
        "misled": misled.numbers(gathered, processes),
        "stalls": stalls.numbers(gathered),
        "balancing": balancing_numbers(tables, meta, processes, out, missing_parts=missing_parts),
        "stacks": stacks_of(tables, meta, processes, gathered),
        "cost_curve": curves,
        "budget": None if budget_ns is None else within(curves, budget_ns),
        "entries": entries.entries(ended, gathered.beyond),
        "outcomes": entries.outcomes(gathered.beyond),
        "entry_reasons": entries.entry_reasons(),
        "unknown_reasons": entries.unknown_reasons(gathered.beyond),
        "agreement": entries.agreement(gathered.beyond, has_driver=tables["driver_calls"].size > 0),
        "disagreements": entries.disagreements(),
        "folios": folios.summary(meta.detail),
        "phases": phases.numbers(tables["calls"], closed, migrations, call_ns, meta),
        "blackout": folios.blackout(),
        "rates": _rates(times, call_ns, meta),
        "matrix": times.matrix(),
        "failures": entries.failures(),
        "failure_causes": causes.numbers(),
    }
    summary = summary_of(numbers, slowest.numbers(), there)
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


def _migrations(gathered: Gathered, meta: Meta) -> Numbers:
    migrations, others = gathered.tables["migrations"], ~gathered.out.migrations
    of_calls = others & (migrations["call_id"] != 0)
    strange = others & (migrations["call_id"] == 0)
    failed = gathered.failed
    groups = []
    for reason in np.unique(migrations["reason"][strange]):
        is_member = strange & (migrations["reason"] == reason)
        group = migrations[is_member]
        groups.append(
            {
                "reason": int(reason),
                "name": meta.reasons.get(int(reason), f"reason {int(reason)}"),
                "count": int(group.size),
                "failed": int(failed[is_member].sum()),
                "time_ns": span(group[group["enter_ns"] != 0], "enter_ns", "exit_ns"),
                "folios": int(gathered.folios[is_member].sum()),
                "moved_pages": _counted(group)
                if meta.detail == LEVEL_OUTCOMES
                else int(gathered.moved_pages[is_member].sum()),
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


def _rates(folios: FolioSums, call_ns: int, meta: Meta) -> Numbers:
    pages = folios.moved_pages
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
        "is_cpu_time": cost.clock == CPU_CLOCK,
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
