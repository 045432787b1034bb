# SPDX-License-Identifier: GPL-2.0-or-later
"""The slowest calls of move_pages(2), each with what became of its entries.  Pure."""

import numpy as np

from mptrace.arrays import Bytes, Ints, Table
from mptrace.outcomes.correlate import Correlation
from mptrace.outcomes.joined import MOVED
from mptrace.recording.joins import ranks
from mptrace.recording.layouts import OUTCOMES
from mptrace.reporting.numbers.sums import Numbers, count_codes

#: Calls that are named one by one.
MAX_CALLS = 20


def slowest_calls(
    calls: Table,
    found: Correlation,
    folios: Table,
    outcome: Bytes,
    pages: Ints,
    *,
    most: int = 0,
) -> list[Numbers]:
    """The calls that took most time, the longest first; times in ns.

    :param most: so many, if that is more than :data:`MAX_CALLS`.
    :param calls: table of calls; queries, and calls without an end, are in no row.
    :param folios: table of folios; ``outcome`` and ``pages`` of each of its rows.
    """
    known = np.flatnonzero(found.call_row >= 0)
    records = calls[found.call_row[known]]
    ended = records["exit_ns"] != 0
    known, records = known[ended], records[ended]
    time = (records["exit_ns"] - records["enter_ns"]).astype(np.int64)
    rows = []
    for at in np.argsort(-time, kind="stable")[: max(MAX_CALLS, most)].tolist():
        record, ordinal = records[at], int(known[at])
        start, end = np.searchsorted(found.rows["call"], [ordinal, ordinal + 1])
        of_call = np.flatnonzero(folios["call_id"] == record["call_id"])
        moved = of_call[outcome[of_call] == MOVED]
        dark = folios["blackout_ns"][of_call].astype(np.int64)[folios["n_dark"][of_call] > 0]
        entries = found.rows[start:end]
        rows.append(
            {
                "call": ordinal,
                "start_ns": int(record["enter_ns"]),
                "time_ns": int(time[at]),
                "ret": int(record["ret"]),
                "entries": int(record["nr_pages"]),
                "moved_pages": int(pages[moved].sum()),
                "outcomes": count_codes(entries["outcome"], OUTCOMES),
                "matrix": _matrix(folios[moved], pages[moved]),
                "targets": sorted({int(nid) for nid in np.unique(entries["target_nid"])}),
                "longest_dark_ns": int(dark.max()) if dark.size and dark.max() >= 0 else None,
            }
        )
    return rows


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
