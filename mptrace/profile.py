# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows and records -> the numbers of a report, as a JSON-able dict.  Pure.

All times are nanoseconds of CLOCK_MONOTONIC, all sums int64: a difference that
comes out negative is shown as negative.  A share is of the calls' time.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from mptrace.align import ranks
from mptrace.correlate import (
    AGREE,
    DISAGREE,
    ENTRY_REASONS,
    FAILED,
    NO_WITNESS,
    NOT_ATTEMPTED,
    SILENT,
    UNKNOWN,
    Correlation,
    correlate,
)
from mptrace.diagnose import cause_meaning, cause_name
from mptrace.explain import Explainer, cause_of
from mptrace.places import Mappings
from mptrace.records import NO_LOOKUP, OUTCOMES, WITNESSES
from mptrace.statuses import errno_name

#: Version of the layout of what :func:`profile` returns.
SCHEMA_VERSION = 1
#: Disagreements that are named one by one.
MAX_DISAGREEMENTS = 10

Table = npt.NDArray[np.void]
Ints = npt.NDArray[np.int64]
Numbers = dict[str, Any]

# Phases of the calls' time: unit, and the phases of the coverage that they rest on.
_PHASES = {
    "drain": ("call", ("drain",)),
    "walk": ("group", ("migration", "lookup")),
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
#: Where the time of a phase goes that can't be told apart.
_INSIDE = {"tlb_flush": "unmap", "copy": "move"}


def profile(
    tables: Mapping[str, Table],
    meta: Mapping[str, Any],
    *,
    missing_parts: Sequence[str] = (),
    correlation: Correlation | None = None,
) -> Numbers:
    """Compute the numbers of a report.

    :param tables: tables of a recording by name, layouts of ``records.TABLES``.
    :param meta: its meta.json.
    :param missing_parts: parts of the recording that are gone.
    :param correlation: of these tables, when it is there already.
    """
    found = correlation or correlate(tables, meta)
    rows = found.rows
    calls = tables["calls"]
    closed = calls[(calls["nodes_ptr"] != 0) & (calls["exit_ns"] != 0)]
    folios = _FolioTimes(tables["folios"], np.unique(closed["call_id"]), found.split)
    lost = {str(cause): int(count or 0) for cause, count in (meta.get("lost") or {}).items()}
    mappings = Mappings(meta.get("mappings") or ())
    outcomes = _counts(rows["outcome"], OUTCOMES)
    outcomes["unknown"] += found.beyond_bound
    call_ns = _span(closed, "enter_ns", "exit_ns")
    return {
        "schema_version": SCHEMA_VERSION,
        "tool_version": meta.get("tool_version", ""),
        "command": list(meta.get("command") or ()),
        "complete": bool(meta.get("complete")),
        "interrupted": bool(meta.get("interrupted")),
        "missing_parts": list(missing_parts),
        "kernel": dict(meta.get("kernel") or {}),
        "nodes": list(meta.get("nodes") or ()),
        "hypervisor": meta.get("hypervisor", ""),
        "emulated": meta.get("emulated"),
        "started": meta.get("started"),
        "ended": meta.get("ended"),
        "settings": dict(meta.get("settings") or {}),
        "workload": meta.get("workload"),
        "coverage": list(meta.get("coverage") or ()),
        "unproved_kinds": list(meta.get("unproved_kinds") or ()),
        "lost": lost,
        "cost": _cost(meta),
        "memory_bound_bytes": meta.get("memory_bound_bytes"),
        "calls": _calls(calls, closed, rows, call_ns),
        "migrations": _migrations(tables["migrations"], tables["folios"], meta),
        "entries": _entries(closed, rows, found.beyond_bound),
        "outcomes": outcomes,
        "entry_reasons": _without(_counts(rows["entry_reason"], ENTRY_REASONS), ""),
        "unknown_reasons": _unknown_reasons(rows, found.beyond_bound),
        "agreement": _agreement(rows, found.beyond_bound),
        "disagreements": _disagreements(rows, mappings),
        "folios": folios.summary(),
        "phases": _phases(closed, tables["migrations"], folios, call_ns, meta),
        "blackout": folios.blackout(),
        "rates": _rates(folios, call_ns, meta),
        "matrix": folios.matrix(),
        "failures": _failures(rows, mappings),
        "failure_causes": _failure_causes(tables, meta, found, mappings),
    }


def is_clean(numbers: Numbers) -> bool:
    """Whether nothing was lost and no entry stayed unknown (what ``--strict`` asks)."""
    return (
        not any(numbers["lost"].values())
        and not numbers["calls"]["lost"]
        and not numbers["missing_parts"]
        and not numbers["outcomes"]["unknown"]
        and numbers["complete"]
    )


# ---- distributions -------------------------------------------------------------


def distribution(values: Ints) -> Numbers:
    """p50, p90, p99 and max (nearest rank), and a power-of-two histogram.

    ``histogram`` holds pairs [low, count]: values from ``low`` to below twice
    that (0 holds the zeros).  Empty values give nulls.
    """
    if not values.size:
        return {"p50": None, "p90": None, "p99": None, "max": None, "histogram": []}
    ordered = np.sort(values)

    def rank(percent: int) -> int:
        return int(ordered[-(-percent * ordered.size // 100) - 1])

    positive = ordered[ordered > 0]
    bins: list[list[int]] = []
    if positive.size < ordered.size:
        bins.append([0, int(ordered.size - positive.size)])
    if positive.size:
        exponents = np.frexp(positive.astype(np.float64))[1] - 1
        counts = np.bincount(exponents)
        bins += [[1 << int(bit), int(counts[bit])] for bit in np.flatnonzero(counts)]
    return {
        "p50": rank(50),
        "p90": rank(90),
        "p99": rank(99),
        "max": int(ordered[-1]),
        "histogram": bins,
    }


# ---- folios ----------------------------------------------------------------------


class _FolioTimes:
    """The folio records of calls that ended, column by column."""

    def __init__(self, folios: Table, closed: npt.NDArray[np.uint64], split: Ints) -> None:
        inside = folios["call_id"] != 0
        if not inside.all() or closed.size < np.unique(folios["call_id"]).size:
            inside &= np.isin(folios["call_id"], closed)
        self._all = folios
        self._rows = np.flatnonzero(inside)
        self.isolated = self.column("isolate_rc") == 0
        self.moved = self.column("move_rc") == 0
        self.pages = self.column("nr_pages")
        # A folio that was split moved as its head page; the tails have their own records.
        self.pages[np.isin(self._rows, split)] = 1

    def column(self, name: str) -> Ints:
        """A field of the records, int64."""
        return self._all[name][self._rows].astype(np.int64)

    def summary(self) -> Numbers:
        """Folios seen, isolated, moved; base pages moved; by size."""
        sizes, counts = np.unique(self.pages[self.moved], return_counts=True)
        looked_up = self.column("lookup_seq") != NO_LOOKUP
        return {
            "lookups": int(looked_up.sum()),
            "isolated": int((self.isolated & looked_up).sum()),
            "moved": int(self.moved.sum()),
            "moved_pages": int(self.pages[self.moved].sum()),
            "moved_by_size": {
                str(int(size)): int(count) for size, count in zip(sizes, counts, strict=True)
            },
            "allocations": int(self.column("n_alloc").sum()),
            "moves_tried": int(self.column("n_move").sum()),
        }

    def matrix(self) -> list[Numbers]:
        """Base pages that really moved, from node to node."""
        source, target = self.column("src_nid")[self.moved], self.column("dst_nid")[self.moved]
        key, place = ranks((source << 16) + (target & 0xFFFF))
        pages = np.bincount(place, weights=self.pages[self.moved], minlength=key.size)
        return [
            {
                "from": int(pair >> 16),
                "to": int(np.int16(pair & 0xFFFF)),
                "pages": int(count),
            }
            for pair, count in zip(key, pages, strict=True)
        ]

    def blackout(self) -> Numbers:
        """How long pages of folios were inaccessible: the sum of each one's windows."""
        dark = self.column("n_dark")
        total = self.column("blackout_ns")
        # A window that was open when its record ended has no sensible sum.
        whole = (dark > 0) & (total >= 0)
        span = (self.column("light_last_ns") - self.column("dark_first_ns"))[whole]
        return {
            "unit": "folio",
            "folios": int(whole.sum()),
            "open": int(((dark > 0) & ~whole).sum()),
            "windows": int(dark[whole].sum()),
            "total_ns": int(total[whole].sum()),
            **distribution(total[whole]),
            "span": distribution(span[span >= 0]),
            "stayed": distribution(total[whole & ~self.moved]),
        }


# ---- calls, migrations, entries -------------------------------------------------------


def _calls(calls: Table, closed: Table, rows: Table, call_ns: int) -> Numbers:
    asking = calls[calls["nodes_ptr"] != 0]
    ret = closed["ret"]
    values, counts = np.unique(ret[ret < 0], return_counts=True)
    seen = int(rows["call"].max()) + 1 if rows.size else 0
    return {
        "count": int(asking.size),
        "without_end": max(seen - int(closed.size), 0),
        "returned_zero": int((ret == 0).sum()),
        "returned_positive": int((ret > 0).sum()),
        "errors": {
            errno_name(-int(value)): int(count) for value, count in zip(values, counts, strict=True)
        },
        "threads": int(np.unique(asking["tid"]).size),
        "time_ns": call_ns,
        "lost": int(asking["lost"].astype(np.int64).sum()),
        **distribution((closed["exit_ns"] - closed["enter_ns"]).astype(np.int64)),
    }


def _migrations(migrations: Table, folios: Table, meta: Mapping[str, Any]) -> Numbers:
    own = migrations["call_id"] != 0
    rc = migrations["rc"][own]
    names = meta.get("reasons") or {}
    others = []
    strange = migrations[~own]
    for reason in np.unique(strange["reason"]):
        group = strange[strange["reason"] == reason]
        theirs = np.isin(folios["migration_id"], group["migration_id"]) & (
            folios["migration_id"] != 0
        )
        done = theirs & (folios["move_rc"] == 0)
        others.append(
            {
                "reason": int(reason),
                "name": str(names.get(str(int(reason)), f"reason {int(reason)}")),
                "count": int(group.size),
                "failed": int((group["rc"] != 0).sum()),
                "time_ns": _span(group, "enter_ns", "exit_ns"),
                "folios": int(theirs.sum()),
                "moved_pages": int(folios["nr_pages"][done].astype(np.int64).sum()),
            }
        )
    return {
        "count": int(own.sum()),
        "failed": int((rc != 0).sum()),
        "time_ns": _span(migrations[own], "enter_ns", "exit_ns"),
        "without_call": others,
    }


def _entries(closed: Table, rows: Table, beyond: int) -> Numbers:
    told = rows["has_status"] != 0
    status = rows["status_after"][told]
    values, counts = np.unique(status[status < 0], return_counts=True)
    return {
        "asked": int(rows.size) + beyond,
        "rows": int(rows.size),
        "beyond_bound": beyond,
        "untouched": int((rows["written"] == 0).sum()),
        "told_a_node": int((status >= 0).sum()),
        "told_an_error": {
            errno_name(-int(value)): int(count) for value, count in zip(values, counts, strict=True)
        },
        "unread": int((rows["unread"] != 0).sum()),
        "per_call_max": int(closed["nr_pages"].max()) if closed.size else 0,
    }


def _agreement(rows: Table, beyond: int) -> Numbers:
    counts = np.bincount(rows["witnesses"], minlength=len(WITNESSES))
    unknown = int(counts[NO_WITNESS]) + beyond
    return {
        "checked": int(counts[AGREE] + counts[SILENT] + counts[DISAGREE]),
        "agree": int(counts[AGREE]),
        "silent": int(counts[SILENT]),
        "disagree": int(counts[DISAGREE]),
        "unknown": unknown,
    }


def _unknown_reasons(rows: Table, beyond: int) -> dict[str, int]:
    codes, counts = np.unique(rows["cause"][rows["outcome"] == UNKNOWN], return_counts=True)
    reasons = {cause_name(int(code)): int(count) for code, count in zip(codes, counts, strict=True)}
    if beyond:
        reasons["beyond_bound"] = beyond
    return reasons


def _disagreements(rows: Table, mappings: Mappings) -> list[Numbers]:
    first = np.flatnonzero(rows["witnesses"] == DISAGREE)[:MAX_DISAGREEMENTS]
    return [
        {
            **_name_entry(row, mappings),
            "target_nid": int(row["target_nid"]),
            "status": int(row["status_after"]) if row["has_status"] else None,
            "status_expected": int(row["status_expected"]) if row["written"] == 1 else None,
            "outcome": OUTCOMES[row["outcome"]],
            "final_nid": int(row["final_nid"]) if row["has_location"] else None,
        }
        for row in rows[first]
    ]


def _failures(rows: Table, mappings: Mappings) -> list[Numbers]:
    where = np.flatnonzero((rows["outcome"] == FAILED) | (rows["outcome"] == NOT_ATTEMPTED))
    if not where.size:
        return []
    some = rows[where]
    told = some["has_status"].astype(np.int64)
    status = np.where(told != 0, some["status_after"].astype(np.int64) & 0xFFFFFFFF, 0)
    key = (((some["outcome"].astype(np.int64) << 1) + told) << 32) + status
    key = (key << 16) + some["cause"]
    _, first, counts = np.unique(key, return_index=True, return_counts=True)
    groups = []
    for index, count in zip(first, counts, strict=True):
        row = some[index]
        cause = cause_name(int(row["cause"]))
        groups.append(
            {
                "outcome": OUTCOMES[row["outcome"]],
                "status": int(row["status_after"]) if row["has_status"] else None,
                "cause": cause,
                "meaning": cause_meaning(cause),
                "count": int(count),
                "example": _name_entry(row, mappings),
            }
        )
    return sorted(groups, key=lambda group: -int(group["count"]))


def _failure_causes(
    tables: Mapping[str, Table],
    meta: Mapping[str, Any],
    found: Correlation,
    mappings: Mappings,
) -> list[Numbers]:
    """The same by cause, most frequent first, with its remedy and one line of evidence."""
    rows = found.rows
    where = np.flatnonzero((rows["outcome"] == FAILED) | (rows["outcome"] == NOT_ATTEMPTED))
    if not where.size:
        return []
    explainer = Explainer(tables, meta, found)
    codes, place = ranks(rows["cause"][where])
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(codes.size + 1))
    groups = []
    for number, code in enumerate(codes):
        members = where[order[starts[number] : starts[number + 1]]]
        some = rows[members]
        name = cause_name(int(code))
        cause = cause_of(name)
        groups.append(
            {
                "cause": name,
                "meaning": cause.meaning,
                "remedy": cause.remedy,
                "source": cause.source,
                "count": int(members.size),
                "outcomes": _nonzero(_counts(some["outcome"], OUTCOMES)),
                "statuses": _status_counts(some),
                "evidence": explainer.evidence_line(members),
                "example": _name_entry(some[0], mappings),
            }
        )
    return sorted(groups, key=lambda group: -int(group["count"]))


def _status_counts(rows: Table) -> list[Numbers]:
    """Statuses told, None for untouched ones, with their counts."""
    told = rows["has_status"] != 0
    values, counts = np.unique(rows["status_after"][told], return_counts=True)
    found: list[Numbers] = [
        {"status": int(value), "count": int(count)}
        for value, count in zip(values, counts, strict=True)
    ]
    silent = int((~told).sum())
    if silent:
        found.append({"status": None, "count": silent})
    return sorted(found, key=lambda each: -int(each["count"]))


def _name_entry(row: Any, mappings: Mappings) -> Numbers:
    address = int(row["address"])
    return {
        "call": int(row["call"]),
        "entry": int(row["entry"]),
        "address": hex(address),
        "mapping": mappings.name(address),
    }


# ---- the calls' time --------------------------------------------------------------------


def _phases(
    closed: Table,
    migrations: Table,
    folios: _FolioTimes,
    call_ns: int,
    meta: Mapping[str, Any],
) -> Numbers:
    own = migrations[np.isin(migrations["call_id"], closed["call_id"])]
    own = own[own["call_id"] != 0]
    flush, unmap = folios.column("flush_ns"), folios.column("unmap_ns")
    copy, move = folios.column("copy_ns"), folios.column("move_ns")
    n_flush = folios.column("n_flush")
    gaps = _walk_gaps(closed, own, folios)
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


def _walk_gaps(closed: Table, own: Table, folios: _FolioTimes) -> Ints:
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


def _states(meta: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """State and reason of each phase, from the coverage of what it rests on."""
    known = {str(phase.get("phase")): phase for phase in meta.get("coverage") or ()}
    result = {}
    for name, (_, needs) in _PHASES.items():
        own = [known[need] for need in needs if need in known]
        states = {str(phase.get("state")) for phase in own}
        reasons = [
            f"{phase['phase']}: {phase['reason']}"
            for phase in own
            if phase.get("reason") and phase.get("state") != "proved"
        ]
        if not own:
            state = "unproved"
        elif len(states) == 1:
            state = next(iter(states))
        elif states <= {"missing", "not_separable"}:
            state = "not_separable"
        else:
            state = "unproved" if "unproved" in states else "proved"
        result[name] = (state, "; ".join(reasons))
    return result


def _rates(folios: _FolioTimes, call_ns: int, meta: Mapping[str, Any]) -> Numbers:
    pages = int(folios.pages[folios.moved].sum())
    page_size = int((meta.get("kernel") or {}).get("page_size") or 4096)
    seconds = call_ns / 1e9
    return {
        "pages": pages,
        "bytes": pages * page_size,
        "call_ns": call_ns,
        "pages_per_s": pages / seconds if seconds else None,
        "bytes_per_s": pages * page_size / seconds if seconds else None,
    }


def _cost(meta: Mapping[str, Any]) -> Numbers:
    cost = meta.get("cost")
    if not cost:
        return {"measured": False, "reason": meta.get("cost_reason") or "not measured"}
    opened, closed = list(cost.get("open_ns") or ()), list(cost.get("closed_ns") or ())
    bpf = list(cost.get("bpf") or ())
    with_ns = float(median(opened)) if opened else None
    without_ns = float(median(closed)) if closed else None
    return {
        "measured": True,
        "reason": "",
        "open_ns": opened,
        "closed_ns": closed,
        "entries": cost.get("pages"),
        "median_open_ns": with_ns,
        "median_closed_ns": without_ns,
        "ratio": with_ns / without_ns if with_ns and without_ns else None,
        "bpf": bpf,
        "bpf_run_ns": sum(int(handler.get("run_ns") or 0) for handler in bpf),
        "bpf_run_count": sum(int(handler.get("run_count") or 0) for handler in bpf),
    }


# ---- small things -----------------------------------------------------------------------


def _span(rows: Table, start: str, end: str) -> int:
    return int((rows[end].astype(np.int64) - rows[start].astype(np.int64)).sum())


def _counts(codes: npt.NDArray[Any], names: Sequence[str]) -> dict[str, int]:
    counts = np.bincount(codes, minlength=len(names))
    return {name: int(count) for name, count in zip(names, counts, strict=True)}


def _nonzero(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def _without(counts: dict[str, int], key: str) -> dict[str, int]:
    return {name: count for name, count in counts.items() if name != key}
