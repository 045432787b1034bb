# SPDX-License-Identifier: GPL-2.0-or-later
"""The lists of a report's numbers, cut to so many rows.  Pure."""

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
    ("stacks", "initiators"),
    ("stacks", "waits"),
    ("summary", "who"),
    ("summary", "calls"),
    ("summary", "waited"),
    ("summary", "stayed"),
    ("summary", "advice"),
)


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
        if rows is not None and len(rows) > top:
            cut[".".join(keys)] = len(rows) - top
            holder[keys[-1]] = rows[:top]
    found["selection"] = {**found["selection"], "cut": cut}
    return found
