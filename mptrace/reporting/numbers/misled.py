# SPDX-License-Identifier: GPL-2.0-or-later
"""Callers that may take an untouched status for a node: who, how often, an example.  Pure.

move_pages(2) leaves the statuses of a failed group, and of everything after it,
as they were, and returns a positive count (5.10 may return 0).  A caller that
filled the array with zeros then reads "node 0" for pages that may be anywhere.
"""

import numpy as np

from mptrace.arrays import Bools, Ints, Table, Tables
from mptrace.outcomes.correlate import Correlation
from mptrace.outcomes.joined import CANT_TELL, FAILED, NOT_ATTEMPTED, UNTOUCHED
from mptrace.outcomes.processes import RecordedProcesses, text
from mptrace.recording.joins import members
from mptrace.recording.layouts import OUTCOMES, READ_PAGES, READ_STATUS
from mptrace.recording.meta import Meta
from mptrace.reporting.numbers.callers import caller_groups
from mptrace.reporting.numbers.sums import Numbers


def misled_of(
    tables: Tables, meta: Meta, found: Correlation, processes: RecordedProcesses
) -> list[Numbers]:
    """One dict for each caller that may be misled, or of which that is unknown.

    ``pages``: untouched statuses of calls that did not fail whose value is a node
    number of this host; ``stayed_pages`` of them did not move; ``unknown_pages``:
    their value, or whether the kernel wrote it, could not be told.
    """
    rows = found.rows
    known = np.flatnonzero(found.call_row >= 0)
    calls = tables["calls"][found.call_row[known]]
    if not rows.size or not calls.size:
        return []
    group, first = caller_groups(calls)
    of_call, ret = np.full(found.call_ids.size, -1, np.int64), np.zeros(found.call_ids.size, "<i8")
    of_call[known] = group
    ret[known] = np.where(calls["exit_ns"] != 0, calls["ret"], -1)
    ret[found.call_row < 0] = -1
    value, is_known = _left_there(rows)
    open_to_doubt = ret[rows["call"]] >= 0
    untouched = open_to_doubt & (rows["written"] == UNTOUCHED)
    nids = [node.nid for node in meta.nodes]
    looks = untouched & is_known & np.isin(value, np.array(nids, np.int64))
    # whatever was returned: up to 6.0 also 0 may leave some untouched
    unsure = open_to_doubt & (rows["written"] == CANT_TELL) & ~_changed(rows)
    # without the host's nodes no value can be told from one
    unsure |= untouched & (~is_known | (not nids))
    callers = []
    for number, mine in enumerate(members(of_call[rows["call"]], first.size)):
        own = mine[looks[mine]]
        doubt = int(unsure[mine].sum())
        if not own.size and not doubt:
            continue
        row = calls[first[number]]
        tgid = int(row["tgid"])
        of_own = np.unique(rows["call"][own])
        stayed = np.isin(rows["outcome"][own], (FAILED, NOT_ATTEMPTED))
        callers.append(
            {
                "tgid": tgid,
                "comm": text(row["comm"]),
                "process": processes.comm(tgid) or text(row["comm"]),
                "calls": int(of_own.size),
                "calls_returned_zero": int((ret[of_own] == 0).sum()),
                "pages": int(own.size),
                "stayed_pages": int(stayed.sum()),
                "unknown_pages": doubt,
                "example": _example(rows, own, stayed, value, ret) if own.size else None,
            }
        )
    return sorted(callers, key=lambda caller: -(caller["pages"] + caller["unknown_pages"]))


def _left_there(rows: Table) -> tuple[Ints, Bools]:
    """What an untouched status holds, and whether that is known: read before, else after."""
    before, after = rows["unread_before"] == 0, (rows["unread"] & READ_STATUS) == 0
    value = np.where(before, rows["status_before"], rows["status_after"]).astype(np.int64)
    return value, before | after


def _changed(rows: Table) -> Bools:
    """Whether somebody was seen to write the status: it differs from what was there before."""
    both = (rows["unread_before"] == 0) & ((rows["unread"] & READ_STATUS) == 0)
    changed: Bools = both & (rows["status_before"] != rows["status_after"])
    return changed


def _example(rows: Table, own: Ints, stayed: Bools, value: Ints, ret: Ints) -> Numbers:
    """The first page that stayed, else the first."""
    at = int(own[int(np.argmax(stayed))])
    row = rows[at]
    return {
        "call": int(row["call"]),
        "entry": int(row["entry"]),
        "address": None if row["unread"] & READ_PAGES else hex(int(row["address"])),
        "ret": int(ret[row["call"]]),
        "reads_as_node": int(value[at]),
        "outcome": OUTCOMES[row["outcome"]],
    }
