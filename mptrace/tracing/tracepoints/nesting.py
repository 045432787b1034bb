# SPDX-License-Identifier: GPL-2.0-or-later
"""Pairs the begins and ends in threads' events, and says what lies inside what.  Pure.

A migration may run inside another one (compaction, to allocate a target), so that the
events START and END of a thread are brackets.  What was lost leaves brackets open:
`repaired` closes them, and marks what it made up.
"""

import numpy as np
from numpy.typing import NDArray

from mptrace.arrays import Ints, Table
from mptrace.tracing.tracepoints.formats import END, EVENT, MADE_UP, START


def last_before(
    keys: tuple[NDArray[np.generic], ...],
    when: NDArray[np.generic],
    query_keys: tuple[NDArray[np.generic], ...],
    query_when: NDArray[np.generic],
) -> Ints:
    """For each query the last row of the same keys with ``when`` <= its own: index, -1 for none.

    All arrays of rows have shape (n,), of queries (m,); returns shape (m,).
    """
    rows, queries = when.size, query_when.size
    columns = [np.concatenate(pair) for pair in zip(keys, query_keys, strict=True)]
    times = np.concatenate([when, query_when])
    asks = np.repeat([False, True], [rows, queries])
    order = np.lexsort((asks, times, *columns[::-1]))
    if not order.size:
        return np.empty(0, np.int64)
    changed = np.zeros(order.size, np.bool_)
    for column in columns:
        changed[1:] |= column[order][1:] != column[order][:-1]
    group = np.cumsum(changed)
    place = np.maximum.accumulate(np.where(asks[order], -1, np.arange(order.size)))
    known = (place >= 0) & (group[place] == group)
    found = np.full(order.size, -1, np.int64)
    found[order] = np.where(known, order[place], -1)
    return found[rows:]


def sort_events(events: Table) -> Table:
    """By thread, time and kind."""
    order = np.lexsort((events["kind"], events["time_ns"], events["tid"]))
    sorted_events: Table = events[order]
    return sorted_events


def depths(events: Table) -> Ints:
    """Brackets around each event of `sort_events`, a bracket's own included, shape (n,)."""
    opens, closes = events["kind"] == START, events["kind"] == END
    delta = opens.astype(np.int64) - closes
    total = np.cumsum(delta)
    first = _first_of_thread(events["tid"])
    before = total[first] - delta[first]
    result: Ints = total - before + closes
    return result


def partners(events: Table, depth: Ints) -> Ints:
    """Index of the END of each START and of the START of each END, -1 where it has none."""
    found = np.full(events.size, -1, np.int64)
    brackets = np.flatnonzero((events["kind"] == START) | (events["kind"] == END))
    order = brackets[np.lexsort((brackets, depth[brackets], events["tid"][brackets]))]
    left, right = order[:-1], order[1:]
    pair = (
        (events["kind"][left] == START)
        & (events["kind"][right] == END)
        & (events["tid"][left] == events["tid"][right])
        & (depth[left] == depth[right])
    )
    found[left[pair]] = right[pair]
    found[right[pair]] = left[pair]
    return found


def enclosing(events: Table, depth: Ints) -> Ints:
    """Index of the innermost START around each event that is no bracket itself, else -1."""
    starts = np.flatnonzero(events["kind"] == START)
    others = np.flatnonzero((events["kind"] != START) & (events["kind"] != END) & (depth > 0))
    found = np.full(events.size, -1, np.int64)
    place = last_before(
        (events["tid"][starts], depth[starts]),
        starts,
        (events["tid"][others], depth[others]),
        others,
    )
    found[others] = np.where(place >= 0, starts[place] if starts.size else -1, -1)
    return found


def repaired(events: Table, losses: Table) -> Table:
    """The events of `sort_events`, with brackets made up where one was not seen.

    An END without its START (the recording began inside, or the START was lost) gets one
    just before it.  Where something was lost (``losses``, dtype LOSS) between a START and
    one inside it, the inner one closes the outer, as its END may be what was lost.  A START
    at the end stays open.
    """
    brackets = (events["kind"] == START) | (events["kind"] == END)
    depth = depths(events)
    partner = partners(events, depth)
    ends = np.flatnonzero(events["kind"] == END)
    of_end = partner[ends]
    wrong = (depth[ends] < 1) | (of_end < 0)
    for name in ("mode", "reason"):
        wrong |= events[name][ends] != events[name][of_end]
    odd = {*events["tid"][ends[wrong]].tolist()}
    if losses.size:
        odd |= set(events["tid"][brackets & (depth > 1)].tolist())
    if not odd:
        return events
    made_up = [np.empty(0, EVENT)]
    for tid in odd:
        rows = events[brackets & (events["tid"] == tid)]
        made_up += _missing_brackets(rows, losses)
    return sort_events(np.concatenate([events, *made_up]))


def _missing_brackets(rows: Table, losses: Table) -> list[Table]:
    # The brackets of one thread in order; a loop per migration, and only where it is odd.
    missing: list[Table] = []
    stack: list[Table] = []

    # Sorted in, an END made up stands just before what showed it to be missing.
    def make(like: Table, kind: int, time_ns: int) -> None:
        row = np.zeros(1, EVENT)
        for name in ("tid", "tgid", "mode", "reason"):
            row[name] = like[name]
        row["kind"], row["time_ns"], row["mark"] = kind, time_ns, MADE_UP
        missing.append(row)

    for row in rows:
        now = int(row["time_ns"])
        if row["kind"] == START:
            while stack and _any_within(losses, int(stack[-1]["time_ns"]), now):
                make(stack.pop(), END, now - 1)
            stack.append(row)
            continue
        fits = [_same(each, row) for each in stack]
        if not any(fits):
            make(row, START, now)
            continue
        while not _same(stack[-1], row):
            make(stack.pop(), END, now - 1)
        stack.pop()
    return missing


def _any_within(losses: Table, since_ns: int, until_ns: int) -> bool:
    return bool(((losses["from_ns"] <= until_ns) & (losses["to_ns"] >= since_ns)).any())


def _same(one: Table, other: Table) -> bool:
    return bool(one["mode"] == other["mode"] and one["reason"] == other["reason"])


def _first_of_thread(tids: NDArray[np.uint32]) -> Ints:
    # index of the first event of each event's thread
    place = np.arange(tids.size)
    changed = np.concatenate([[True], tids[1:] != tids[:-1]]) if tids.size else np.zeros(0, bool)
    first: Ints = np.maximum.accumulate(np.where(changed, place, 0)) if tids.size else place
    return first
