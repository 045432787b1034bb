# SPDX-License-Identifier: GPL-2.0-or-later
"""The lists of a report's numbers, cut to so many rows.  Pure."""

from collections.abc import Callable
from typing import Any

from mptrace.reporting.numbers.sums import Numbers

#: Lists that have a row for each of something, the most important first: their keys.
LISTS = (
    ("paths",),
    ("callers",),
    ("groups",),
    ("misled",),
    ("failures",),
    ("failure_causes",),
    ("disagreements",),
    ("stalls", "by_victim"),
    ("stalls", "by_initiator"),
    ("stalls", "by_thread"),
    ("stalls", "longest"),
    ("balancing", "processes"),
    ("stacks", "initiators"),
    ("stacks", "waits"),
    ("summary", "who"),
    ("summary", "calls"),
    ("summary", "waited"),
    ("summary", "stayed"),
    ("summary", "advice"),
)


def _threads(numbers: Numbers) -> int:
    return int(numbers["stalls"]["threads"])


#: Of lists that are bounded before, how many there are: those that wait, calls that ended.
_SIZES: dict[tuple[str, ...], Callable[[Numbers], int]] = {
    ("stalls", "by_thread"): _threads,
    ("stalls", "longest"): lambda all_of: all_of["stalls"]["count"] - all_of["stalls"]["open"],
    ("summary", "waited"): _threads,
    ("summary", "calls"): lambda all_of: all_of["calls"]["count"] - all_of["calls"]["without_end"],
}


def shortened(numbers: Numbers, top: int | None) -> Numbers:
    """The same with ``top`` rows of each of :data:`LISTS`; None: as it is.

    ``selection.cut`` then says how many rows each list lacks: ``"summary.who": 3``.
    """
    if top is None:
        return numbers
    found: dict[str, Any] = dict(numbers)
    cut: dict[str, int] = {}
    for keys in LISTS:
        holder = found
        if any(holder[key] is None for key in keys[:-1]):
            continue
        for key in keys[:-1]:
            holder[key] = dict(holder[key])
            holder = holder[key]
        rows = holder[keys[-1]]
        if rows is None:
            continue
        holder[keys[-1]] = rows[:top]
        size = _SIZES[keys](numbers) if keys in _SIZES else len(rows)
        if size > top:
            cut[".".join(keys)] = size - len(rows[:top])
    found["selection"] = {**found["selection"], "cut": cut}
    return found
