# SPDX-License-Identifier: GPL-2.0-or-later
"""Callers whose entries alternate between nodes, and what their small groups cost.  Pure.

do_pages_move() hands consecutive queued entries of one target node to one migration:
another target, or an entry that is not queued, ends the group.  How many groups a
call had its migrations tell; how many it would have with its entries sorted by node
is computed from its arrays, by the same rule.
"""

from collections.abc import Mapping

import numpy as np

from mptrace.arrays import Bools, Ints, Table, Words
from mptrace.outcomes.correlate import NOT_ATTEMPTED, Correlation
from mptrace.outcomes.own import Own
from mptrace.outcomes.processes import RecordedProcesses, text
from mptrace.recording.joins import members
from mptrace.recording.layouts import READ_NODES
from mptrace.reporting.numbers.callers import caller_groups
from mptrace.reporting.numbers.sums import Numbers

#: Of so many groups, so many times as many as of sorted entries, it is said.
MIN_GROUPS = 8
MIN_FACTOR = 4
#: A larger group, to compare a page's cost with, has so many times the mean's pages.
LARGER = 8


def groups_of(
    tables: Mapping[str, Table], found: Correlation, processes: RecordedProcesses, own: Own
) -> list[Numbers]:
    """One dict for each caller whose entries alternate, or may; most groups first.

    ``calls``, ``groups``, ``pages`` (base pages) and ``sorted_groups`` are of calls that
    have :data:`MIN_GROUPS` and more, :data:`MIN_FACTOR` times as many as sorted;
    ``unknown_calls`` and ``unknown_groups`` of those with so many whose arrays were
    not read whole.  ``ns_per_page``: time of the groups that migrated everything by
    their pages; ``larger`` the same of groups of ``least_pages`` and more, whoever
    called, or None.  ``found`` is without mptrace's own calls, and so are these.
    """
    known = np.flatnonzero(found.call_row >= 0)
    calls = tables["calls"][found.call_row[known]]
    if not calls.size:
        return []
    group, first = caller_groups(calls)
    migrations, pages = tables["migrations"], _pages_of(tables, found)
    others = ~own.migrations
    had = calls["n_migrations"].astype(np.int64)
    now, would_be, is_told = _counted(found)
    # where the events disagree with the arrays, these don't tell
    is_told = is_told[known] & (now[known] == had)
    many = had >= MIN_GROUPS
    alternates = many & is_told & (had >= MIN_FACTOR * np.maximum(would_be[known], 1))
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
                "sorted_groups": int(would_be[known][mine].sum()),
                "ns_per_page": _cost(migrations, pages, small),
                "larger": _larger(migrations[others], pages[others], mean) if mine.size else None,
                "unknown_calls": int(doubt.size),
                "unknown_groups": int(had[doubt].sum()),
            }
        )
    return sorted(callers, key=lambda caller: -(caller["groups"] + caller["unknown_groups"]))


def _counted(found: Correlation) -> tuple[Ints, Ints, Bools]:
    """Groups of each call by its arrays, the same if sorted, and whether the arrays tell."""
    rows, count = found.rows, found.call_ids.size
    done = np.flatnonzero(rows["outcome"] != NOT_ATTEMPTED)
    call, queued = rows["call"][done].astype(np.int64), found.queued[done]
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


def _pages_of(tables: Mapping[str, Table], found: Correlation) -> Ints:
    """Base pages of the folios of each migration."""
    migrations, folios = tables["migrations"], tables["folios"]
    if not migrations.size:
        return np.zeros(0, np.int64)
    nr_pages = folios["nr_pages"].astype(np.int64)
    # a folio that was split moved as its head; the tails have their own records
    nr_pages[found.split] = 1
    order = np.argsort(migrations["migration_id"], kind="stable")
    ids = migrations["migration_id"][order]
    wanted: Words = folios["migration_id"]
    place = np.minimum(np.searchsorted(ids, wanted), ids.size - 1)
    of = np.flatnonzero((ids[place] == wanted) & (wanted != 0))
    sums = np.bincount(order[place[of]], weights=nr_pages[of], minlength=migrations.size)
    return sums.astype(np.int64)


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
