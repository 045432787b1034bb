# SPDX-License-Identifier: GPL-2.0-or-later
"""Callers that may take an untouched status for a node: who, how often, an example.  Pure.

move_pages(2) leaves the statuses of a failed group, and of everything after it,
as they were, and returns a positive count (5.10 may return 0).  A caller that
filled the array with zeros then reads "node 0" for pages that may be anywhere.
"""

import numpy as np

from mptrace.arrays import Bools, Ints, Table
from mptrace.outcomes.joined import CANT_TELL, FAILED, NOT_ATTEMPTED, UNTOUCHED
from mptrace.outcomes.processes import RecordedProcesses, text
from mptrace.recording.joins import members, ranks
from mptrace.recording.layouts import OUTCOMES, READ_PAGES, READ_STATUS
from mptrace.recording.meta import Meta
from mptrace.reporting.numbers.parts import Gathered, Part
from mptrace.reporting.numbers.sums import Numbers


class Misled:
    """Entries whose callers may be misled, slice by slice.

    :param calls: table of all calls; ``callers``: the number of the caller of each.
    """

    def __init__(self, calls: Table, callers: Ints, meta: Meta) -> None:
        self._calls, self._callers = calls, callers
        self._nids = [node.nid for node in meta.nodes]
        self._found: dict[int, Numbers] = {}

    def add(self, part: Part) -> None:
        """Add those of a slice."""
        rows, call_row = part.found.rows, part.found.call_row
        number = np.append(part.rows("calls"), -1)[call_row]
        calls = part.tables["calls"]
        ret = np.full(call_row.size, -1, "<i8")
        known = np.flatnonzero(call_row >= 0)
        ended = calls["exit_ns"][call_row[known]] != 0
        ret[known] = np.where(ended, calls["ret"][call_row[known]], -1)
        open_to_doubt = (ret >= 0)[rows["call"]]
        untouched = open_to_doubt & (rows["written"] == UNTOUCHED)
        # whatever was returned: up to 6.0 also 0 may leave some untouched
        unclear = open_to_doubt & (rows["written"] == CANT_TELL)
        which = np.flatnonzero(untouched | unclear)
        if not which.size:
            return
        some, untouched, unclear = np.take(rows, which), untouched[which], unclear[which]
        value, is_known = _left_there(some)
        looks = untouched & is_known & np.isin(value, np.array(self._nids, np.int64))
        # without the host's nodes no value can be told from one
        unsure = unclear & ~_changed(some)
        unsure |= untouched & (~is_known | (not self._nids))
        who = self._callers[number[some["call"]]]
        callers, place = ranks(who)
        for caller, mine in zip(callers.tolist(), members(place, callers.size), strict=True):
            own, doubt = mine[looks[mine]], int(unsure[mine].sum())
            if own.size or doubt:
                self._add(caller, some, own, doubt, value, ret, part.calls_before)

    def _add(
        self,
        caller: int,
        rows: Table,
        own: Ints,
        doubt: int,
        value: Ints,
        ret: Ints,
        before: int,
    ) -> None:
        of_own = np.unique(rows["call"][own])
        stayed = np.isin(rows["outcome"][own], (FAILED, NOT_ATTEMPTED))
        sums = {
            "calls": int(of_own.size),
            "calls_returned_zero": int((ret[of_own] == 0).sum()),
            "pages": int(own.size),
            "stayed_pages": int(stayed.sum()),
            "unknown_pages": doubt,
        }
        one = self._found.setdefault(caller, {**dict.fromkeys(sums, 0), "example": None})
        # the first page that stayed, else the first
        if own.size and (one["example"] is None or (stayed.any() and not one["stayed_pages"])):
            at = int(own[int(np.argmax(stayed))])
            one["example"] = _example(rows[at], int(value[at]), ret, before)
        for name, count in sums.items():
            one[name] += count

    def numbers(self, gathered: Gathered, processes: RecordedProcesses) -> list[Numbers]:
        """One dict for each caller that may be misled, or of which that is unknown.

        ``pages``: untouched statuses of calls that did not fail whose value is a node
        number of this host; ``stayed_pages`` of them did not move; ``unknown_pages``:
        their value, or whether the kernel wrote it, could not be told.
        """
        known = gathered.call_row[gathered.call_row >= 0]
        callers, place = ranks(self._callers[known])
        found = []
        for number, of_caller in zip(callers.tolist(), members(place, callers.size), strict=True):
            one = self._found.get(number)
            if one is None:
                continue
            row = self._calls[known[of_caller[0]]]
            tgid = int(row["tgid"])
            found.append(
                {
                    "tgid": tgid,
                    "comm": text(row["comm"]),
                    "process": processes.comm(tgid) or text(row["comm"]),
                    **one,
                }
            )
        return sorted(found, key=lambda caller: -(caller["pages"] + caller["unknown_pages"]))


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


def _example(row: np.void, value: int, ret: Ints, before: int) -> Numbers:
    return {
        "call": int(row["call"]) + before,
        "entry": int(row["entry"]),
        "address": None if row["unread"] & READ_PAGES else hex(int(row["address"])),
        "ret": int(ret[row["call"]]),
        "reads_as_node": value,
        "outcome": OUTCOMES[row["outcome"]],
    }
