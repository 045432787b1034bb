# SPDX-License-Identifier: GPL-2.0-or-later
"""Callers whose entries alternate between nodes, and what their small groups cost.  Pure.

do_pages_move() hands consecutive queued entries of one target node to one migration:
another target, or an entry that is not queued, ends the group.  How many groups a
call had its migrations tell; how many it would have with its entries sorted by node
is computed from its arrays, by the same rule.
"""

import numpy as np

from mptrace.arrays import Bools, Ints, Table
from mptrace.outcomes.correlate import NOT_ATTEMPTED
from mptrace.outcomes.processes import RecordedProcesses, text
from mptrace.recording.joins import members
from mptrace.recording.layouts import READ_NODES
from mptrace.reporting.numbers.callers import caller_groups
from mptrace.reporting.numbers.parts import Gathered, Part
from mptrace.reporting.numbers.sums import Numbers

#: Of so many groups, so many times as many as of sorted entries, it is said.
MIN_GROUPS = 8
MIN_FACTOR = 4
#: A larger group, to compare a page's cost with, has so many times the mean's pages.
LARGER = 8


class GroupSums:
    """Groups of each call by its arrays, slice by slice; one element for each call."""

    def __init__(self) -> None:
        self._now: list[Ints] = []
        self._would_be: list[Ints] = []
        self._is_told: list[Bools] = []

    def add(self, part: Part) -> None:
        """Add those of a slice."""
        found, calls = part.calls, part.tables["calls"]
        had = np.append(calls["n_migrations"], np.uint32(0))[found.call_row]
        # of others nothing is said
        which = np.flatnonzero((had >= MIN_GROUPS)[found.rows["call"]])
        some = np.take(found.rows, which)
        now, would_be, is_told = _counted(some, found.queued[which], found.call_ids.size)
        self._now.append(now)
        self._would_be.append(would_be)
        self._is_told.append(is_told)

    def numbers(self, gathered: Gathered, processes: RecordedProcesses) -> list[Numbers]:
        """One dict for each caller whose entries alternate, or may; most groups first.

        ``calls``, ``groups``, ``pages`` (base pages) and ``sorted_groups`` are of calls that
        have :data:`MIN_GROUPS` and more, :data:`MIN_FACTOR` times as many as sorted;
        ``unknown_calls`` and ``unknown_groups`` of those with so many whose arrays were
        not read whole.  ``ns_per_page``: time of the groups that migrated everything by
        their pages; ``larger`` the same of groups of ``least_pages`` and more, whoever
        called, or None.  mptrace's own calls are in none, nor what was not selected.
        """
        known = np.flatnonzero(gathered.call_row >= 0)
        calls = gathered.tables["calls"][gathered.call_row[known]]
        if not calls.size:
            return []
        group, first = caller_groups(calls)
        migrations, pages = gathered.tables["migrations"], gathered.grouped_pages
        others = ~gathered.out.migrations
        had = calls["n_migrations"].astype(np.int64)
        now, would_be = np.concatenate(self._now)[known], np.concatenate(self._would_be)[known]
        # where the events disagree with the arrays, these don't tell
        is_told = np.concatenate(self._is_told)[known] & (now == had)
        many = had >= MIN_GROUPS
        alternates = many & is_told & (had >= MIN_FACTOR * np.maximum(would_be, 1))
        unsure = many & ~is_told
        callers = []
        for number, each in enumerate(members(group, first.size)):
            mine, doubt = each[alternates[each]], each[unsure[each]]
            if not mine.size and not doubt.size:
                continue
            row = calls[first[number]]
            tgid = int(row["tgid"])
            groups = int(had[mine].sum())
            small = np.isin(migrations["call_id"], calls["call_id"][mine])
            mean = int(pages[small].sum()) / max(groups, 1)
            callers.append(
                {
                    "tgid": tgid,
                    "comm": text(row["comm"]),
                    "process": processes.comm(tgid) or text(row["comm"]),
                    "calls": int(mine.size),
                    "groups": groups,
                    "pages": int(pages[small].sum()),
                    "sorted_groups": int(would_be[mine].sum()),
                    "ns_per_page": _cost(migrations, pages, small),
                    "larger": _larger(migrations[others], pages[others], mean)
                    if mine.size
                    else None,
                    "unknown_calls": int(doubt.size),
                    "unknown_groups": int(had[doubt].sum()),
                }
            )
        return sorted(callers, key=lambda caller: -(caller["groups"] + caller["unknown_groups"]))


def _counted(rows: Table, queued: Bools, count: int) -> tuple[Ints, Ints, Bools]:
    """Groups of each call by its arrays, the same if sorted, and whether the arrays tell."""
    done = np.flatnonzero(rows["outcome"] != NOT_ATTEMPTED)
    call, queued = rows["call"][done].astype(np.int64), queued[done]
    target = rows["target_nid"][done].astype(np.int64)
    order = np.lexsort((rows["entry"][done], target, call))
    unread = (rows["unread"] & READ_NODES) != 0
    is_told = np.bincount(rows["call"], weights=unread, minlength=count) == 0
    return (
        _runs(call, target, queued, count),
        _runs(call[order], target[order], queued[order], count),
        is_told,
    )


def _runs(call: Ints, target: Ints, queued: Bools, count: int) -> Ints:
    """Runs of queued entries of one call and target, for each call."""
    begins = queued.copy()
    begins[1:] &= ~queued[:-1] | (call[1:] != call[:-1]) | (target[1:] != target[:-1])
    return np.bincount(call[begins], minlength=count)


def _cost(migrations: Table, pages: Ints, which: Bools) -> float | None:
    timed = (migrations["enter_ns"] != 0) & (migrations["exit_ns"] != 0)
    whole = which & timed & (migrations["rc"] == 0) & (pages > 0)
    total = int(pages[whole].sum())
    ns = (migrations["exit_ns"][whole] - migrations["enter_ns"][whole]).astype(np.int64).sum()
    return float(ns) / total if total else None


def _larger(migrations: Table, pages: Ints, mean: float) -> Numbers | None:
    which = (migrations["call_id"] != 0) & (pages >= LARGER * mean)
    cost = _cost(migrations, pages, which)
    if cost is None:
        return None
    return {
        "groups": int(which.sum()),
        "least_pages": int(pages[which].min()),
        "pages": int(pages[which].sum()),
        "ns_per_page": cost,
    }
