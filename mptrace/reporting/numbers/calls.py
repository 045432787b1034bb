# SPDX-License-Identifier: GPL-2.0-or-later
"""The numbers of calls and of their entries: outcomes, agreement, failures.  Pure."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mptrace.arrays import Bools, Table
from mptrace.explain.entries import Explainer, cause_of
from mptrace.outcomes.causes.rules import cause_meaning, cause_name
from mptrace.outcomes.causes.statuses import errno_name
from mptrace.outcomes.correlate import (
    AGREE,
    DISAGREE,
    FAILED,
    NO_WITNESS,
    NOT_ASKED,
    NOT_ATTEMPTED,
    SILENT,
    UNKNOWN,
    Correlation,
)
from mptrace.outcomes.lying import Lying
from mptrace.outcomes.mappings import Mappings
from mptrace.recording.joins import ranks
from mptrace.recording.layouts import OUTCOMES, READ_PAGES, WITNESSES
from mptrace.recording.meta import Meta
from mptrace.reporting.numbers.sums import Numbers, count_codes, distribution, nonzero

#: Disagreements that are named one by one.
MAX_DISAGREEMENTS = 10


def calls_of(calls: Table, closed: Table, rows: Table, call_ns: int, left_out: Bools) -> Numbers:
    """Counts and times of calls; ``left_out``: the calls, by ordinal, that are in no table here."""
    asking = calls[calls["nodes_ptr"] != 0]
    ret = closed["ret"]
    values, counts = np.unique(ret[ret < 0], return_counts=True)
    seen = int(rows["call"].max()) + 1 if rows.size else 0
    seen -= int(left_out[:seen].sum())
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


def entries_of(closed: Table, rows: Table, beyond: int) -> Numbers:
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


def agreement_of(rows: Table, beyond: int, *, has_driver: bool) -> Numbers:
    """How often the witnesses agree; the ``beyond`` entries were asked about by a driver only."""
    # Python's ints: a damaged count of entries may be beyond 64 bits
    counts = [int(n) for n in np.bincount(rows["witnesses"], minlength=len(WITNESSES))]
    counts[NO_WITNESS if has_driver else NOT_ASKED] += beyond
    return {
        "checked": counts[AGREE] + counts[SILENT] + counts[DISAGREE],
        "agree": counts[AGREE],
        "silent": counts[SILENT],
        "disagree": counts[DISAGREE],
        "not_asked": counts[NOT_ASKED],
        "unknown": counts[NO_WITNESS],
    }


def unknown_reasons_of(rows: Table, beyond: int) -> dict[str, int]:
    codes, counts = np.unique(rows["cause"][rows["outcome"] == UNKNOWN], return_counts=True)
    reasons = {cause_name(int(code)): int(count) for code, count in zip(codes, counts, strict=True)}
    if beyond:
        reasons["beyond_bound"] = beyond
    return reasons


def disagreements_of(rows: Table, mappings: Mappings) -> list[Numbers]:
    first = np.flatnonzero(rows["witnesses"] == DISAGREE)[:MAX_DISAGREEMENTS]
    return [
        {
            **name_entry(row, mappings),
            "target_nid": int(row["target_nid"]),
            "status": int(row["status_after"]) if row["has_status"] else None,
            "status_expected": int(row["status_expected"]) if row["written"] == 1 else None,
            "outcome": OUTCOMES[row["outcome"]],
            "final_nid": int(row["final_nid"]) if row["has_location"] else None,
        }
        for row in rows[first]
    ]


def failures_of(rows: Table, mappings: Mappings) -> list[Numbers]:
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
                "example": name_entry(row, mappings),
            }
        )
    return sorted(groups, key=lambda group: -int(group["count"]))


def failure_causes_of(
    tables: Mapping[str, Table],
    meta: Meta,
    found: Correlation,
    mappings: Mappings,
    lying: Lying,
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
                "outcomes": nonzero(count_codes(some["outcome"], OUTCOMES)),
                "statuses": status_counts(some),
                "evidence": explainer.evidence_line(members),
                "example": name_entry(some[0], mappings) | _whose(tables, found, some[0], lying),
            }
        )
    return sorted(groups, key=lambda group: -int(group["count"]))


def _whose(tables: Mapping[str, Table], found: Correlation, row: Any, lying: Lying) -> Numbers:
    """Whose page an entry names, where it was and what lies there: null where that is not known."""
    record, folio = int(found.call_row[row["call"]]), int(row["folio"])
    nid = int(tables["folios"]["src_nid"][folio]) if folio >= 0 else -1
    target, began = 0, 0
    if record >= 0:
        call = tables["calls"][record]
        target, began = int(call["target_tgid"]), int(call["enter_ns"])
    address = 0 if row["unread"] & READ_PAGES else int(row["address"])
    return {
        "target_tgid": target,
        "lies_in": lying.at(target, address, began).as_dict(),
        "nid": nid if nid >= 0 else None,
        "folio": folio if folio >= 0 else None,
        "start_ns": _start(tables, record, folio),
    }


def _start(tables: Mapping[str, Table], record: int, folio: int) -> int | None:
    """When the page was taken up, else when its call began; None: not known."""
    if folio >= 0 and tables["folios"]["start_ns"][folio]:
        return int(tables["folios"]["start_ns"][folio])
    return (int(tables["calls"]["enter_ns"][record]) or None) if record >= 0 else None


def status_counts(rows: Table) -> list[Numbers]:
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


def name_entry(row: Any, mappings: Mappings) -> Numbers:
    address = int(row["address"])
    return {
        "call": int(row["call"]),
        "entry": int(row["entry"]),
        "address": hex(address),
        "mapping": mappings.name(address),
    }
