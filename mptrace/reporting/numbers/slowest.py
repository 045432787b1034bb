# SPDX-License-Identifier: GPL-2.0-or-later
"""The slowest calls of move_pages(2), each with what became of its entries.  Pure."""

import numpy as np

from mptrace.arrays import Ints, Table
from mptrace.outcomes.joined import MOVED
from mptrace.recording.joins import ranks
from mptrace.recording.layouts import OUTCOMES
from mptrace.reporting.numbers.parts import Part
from mptrace.reporting.numbers.sums import Numbers, count_codes

#: Calls that are named one by one.
MAX_CALLS = 20


class SlowestCalls:
    """The calls that took most time; what became of their entries is added slice by slice.

    Queries, and calls without an end, are in no row.  Which calls these are is known only when
    all slices were seen: those that are among the slowest of the slices so far are kept.

    :param most: so many, if that is more than :data:`MAX_CALLS`.
    """

    def __init__(self, *, most: int = 0) -> None:
        self._most = max(MAX_CALLS, most)
        self._rows: list[Numbers] = []

    def add(self, part: Part) -> None:
        """Add those of a slice."""
        found, calls = part.calls, part.tables["calls"]
        known = np.flatnonzero(found.call_row >= 0)
        records = calls[found.call_row[known]]
        ended = records["exit_ns"] != 0
        known, records = known[ended], records[ended]
        time = (records["exit_ns"] - records["enter_ns"]).astype(np.int64)
        least = self._rows[-1]["time_ns"] if len(self._rows) >= self._most else None
        for at in np.argsort(-time, kind="stable")[: self._most].tolist():
            if least is not None and int(time[at]) <= least:
                break
            self._rows.append(_row(part, records[at], int(known[at]), int(time[at])))
        self._rows.sort(key=lambda row: -int(row["time_ns"]))
        del self._rows[self._most :]

    def numbers(self) -> list[Numbers]:
        """The longest first; times in ns."""
        return self._rows


def _row(part: Part, record: np.void, ordinal: int, time_ns: int) -> Numbers:
    found, folios = part.calls, part.tables["folios"]
    start, end = np.searchsorted(found.rows["call"], [ordinal, ordinal + 1])
    of_call = np.flatnonzero(folios["call_id"] == record["call_id"])
    pages = folios["nr_pages"][of_call].astype(np.int64)
    pages[np.isin(of_call, part.split)] = 1
    moved = part.outcome[of_call] == MOVED
    dark = folios["blackout_ns"][of_call].astype(np.int64)[folios["n_dark"][of_call] > 0]
    entries = found.rows[start:end]
    return {
        "call": ordinal + part.calls_before,
        "start_ns": int(record["enter_ns"]),
        "time_ns": time_ns,
        "ret": int(record["ret"]),
        "entries": int(record["nr_pages"]),
        "moved_pages": int(pages[moved].sum()),
        "outcomes": count_codes(entries["outcome"], OUTCOMES),
        "matrix": _matrix(folios[of_call[moved]], pages[moved]),
        "targets": sorted({int(nid) for nid in np.unique(entries["target_nid"])}),
        "longest_dark_ns": int(dark.max()) if dark.size and dark.max() >= 0 else None,
    }


def _matrix(moved: Table, pages: Ints) -> list[Numbers]:
    """Base pages from node to node, most first."""
    source = moved["src_nid"].astype(np.int64)
    pairs, place = ranks((source << 16) + (moved["dst_nid"].astype(np.int64) & 0xFFFF))
    sums = np.bincount(place, pages, pairs.size).astype(np.int64)
    return [
        {
            "from": int(pairs[at] >> 16),
            "to": int(np.int16(int(pairs[at]) & 0xFFFF)),
            "pages": int(sums[at]),
        }
        for at in np.argsort(-sums, kind="stable")
    ]
