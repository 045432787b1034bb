# SPDX-License-Identifier: GPL-2.0-or-later
"""What a batch costs by its size, as measured, and the largest that a budget allows.  Pure.

Three costs: the time of a whole move_pages(2) call (by pages per call), the time
of one migration and the blackout of each folio in it (by base pages of the
migration, for each path by itself).  A p99 of less than :data:`MIN_SAMPLES`
values, or of folios of less than :data:`MIN_BATCHES` migrations (those of one have
one fate), is no p99: such a group is counted and decides nothing.
"""

from collections.abc import Sequence

import numpy as np

from mptrace.arrays import Ints, Tables
from mptrace.outcomes.fates import Fates
from mptrace.outcomes.own import Own
from mptrace.outcomes.paths import PATHS, of_migrations
from mptrace.recording.joins import members, ranks
from mptrace.recording.meta import Meta
from mptrace.reporting.numbers.sums import Numbers, distribution

#: Values below which the 99th percentile is the maximum, and no estimate.
MIN_SAMPLES = 100
MIN_BATCHES = 10
#: Distinct sizes above which they are put together by powers of two.
MAX_SIZES = 32
#: An extrapolation goes this far beyond the sizes that were measured, at most.
MAX_FACTOR = 8

MEASURES = {
    "call": ("call_duration", "pages per call"),
    "migration": ("migration_duration", "pages per migration"),
    "blackout": ("blackout_per_page", "pages per migration"),
}


def cost_curve(tables: Tables, meta: Meta, found: Fates, own: Own) -> list[Numbers]:
    """For each measure and path the groups by batch size, smallest first; times in ns.

    Migrations and calls in which records were lost, or that did not end, or that are
    mptrace's own, are left out; the size of a batch counts all of its pages.
    """
    calls, migrations, folios = tables["calls"], tables["migrations"], tables["folios"]
    asked = calls[(calls["nodes_ptr"] != 0) & (calls["exit_ns"] != 0) & ~own.calls]
    asked = asked[(asked["nr_pages"] > 0) & (asked["lost"] == 0) & (asked["ret"] >= 0)]
    curves = []
    if asked.size:
        took = (asked["exit_ns"] - asked["enter_ns"]).astype(np.int64)
        size = np.minimum(asked["nr_pages"], 1 << 62).astype(np.int64)
        curves.append(_curve("call", "move_pages", size, took))
    known = np.flatnonzero(found.migration >= 0)
    pages = np.bincount(
        found.migration[known], weights=found.pages[known], minlength=migrations.size
    ).astype(np.int64)
    whole = (migrations["enter_ns"] != 0) & (migrations["exit_ns"] != 0)
    whole &= (migrations["lost"] == 0) & (pages > 0) & ~own.migrations
    took = (migrations["exit_ns"] - migrations["enter_ns"]).astype(np.int64)
    codes = of_migrations(migrations, meta)
    dark = folios["blackout_ns"][found.row].astype(np.int64)
    closed = known[(folios["n_dark"][found.row[known]] > 0) & (dark[known] >= 0)]
    closed = closed[whole[found.migration[closed]] & ~own.folios[found.row[closed]]]
    of_folio = found.migration[closed]
    for code in np.unique(codes[whole]).tolist():
        mine = whole & (codes == code)
        key = PATHS[code].key
        curves.append(_curve("migration", key, pages[mine], took[mine]))
        inside = codes[of_folio] == code
        if inside.any():
            batch = of_folio[inside]
            curves.append(_curve("blackout", key, pages[batch], dark[closed[inside]], batch))
    return curves


def within(curves: Sequence[Numbers], budget_ns: int) -> list[Numbers]:
    """The largest batch of each curve whose measured p99 is below a budget.

    ``state``: ``measured`` (a larger one exceeds it), ``at_least`` (the largest
    that was measured is still below it), ``none`` (the smallest exceeds it) or
    ``unknown`` (too few samples of every size).  ``extrapolated_pages`` is a
    straight line through the measured p99s, where it was asked for more or less than
    was measured; None where that says nothing.
    """
    return [{**_within(curve, budget_ns), "budget_ns": budget_ns} for curve in curves]


def _curve(
    measure: str, path: str, sizes: Ints, values: Ints, batch: Ints | None = None
) -> Numbers:
    name, unit = MEASURES[measure]
    distinct, place = ranks(sizes)
    if distinct.size > MAX_SIZES:
        # the binary digits of a size: exact for every size below 2^53
        digits = np.frexp(sizes.astype(np.float64))[1].astype(np.int64)
        distinct, place = ranks(digits)
    groups = []
    for rows in members(place, distinct.size):
        some = distribution(values[rows])
        batches = int(rows.size if batch is None else ranks(batch[rows])[0].size)
        groups.append(
            {
                "pages": int(sizes[rows].min()),
                "most_pages": int(sizes[rows].max()),
                "samples": int(rows.size),
                "batches": batches,
                "p50_ns": some["p50"],
                "p99_ns": some["p99"],
                "max_ns": some["max"],
                "is_enough": int(rows.size) >= MIN_SAMPLES and batches >= MIN_BATCHES,
            }
        )
    label = next(each.label for each in PATHS if each.key == path)
    return {"measure": name, "unit": unit, "path": path, "label": label, "groups": groups}


def _within(curve: Numbers, budget_ns: int) -> Numbers:
    groups = [group for group in curve["groups"] if group["is_enough"]]
    answer: Numbers = {
        **{name: curve[name] for name in ("measure", "unit", "path", "label")},
        "pages": None,
        "p99_ns": None,
        "samples": max((group["samples"] for group in curve["groups"]), default=0),
        "next": None,
        "extrapolated_pages": None,
    }
    if not groups:
        return {**answer, "state": "unknown"}
    over = next((at for at, group in enumerate(groups) if group["p99_ns"] >= budget_ns), None)
    if over == 0:
        small = _line(groups, budget_ns)
        fits = small is not None and 1 <= small < groups[0]["pages"]
        return {
            **answer,
            "state": "none",
            "samples": groups[0]["samples"],
            "next": _brief(groups[0]),
            "extrapolated_pages": small if fits else None,
        }
    best = groups[-1 if over is None else over - 1]
    answer |= {"pages": best["pages"], "p99_ns": best["p99_ns"], "samples": best["samples"]}
    if over is not None:
        return {**answer, "state": "measured", "next": _brief(groups[over])}
    more = _line(groups, budget_ns)
    fits = more is not None and best["pages"] < more <= best["most_pages"] * MAX_FACTOR
    return {**answer, "state": "at_least", "extrapolated_pages": more if fits else None}


def _brief(group: Numbers) -> Numbers:
    return {name: group[name] for name in ("pages", "p99_ns", "samples")}


def _line(groups: Sequence[Numbers], budget_ns: int) -> int | None:
    """Size at which a straight line through the groups' p99 meets the budget."""
    if len(groups) < 2:
        return None
    pages = np.array([group["pages"] for group in groups], np.float64)
    cost = np.array([group["p99_ns"] for group in groups], np.float64)
    slope, start = np.polyfit(pages, cost, 1)
    if slope <= 0:
        return None
    return int((budget_ns - start) / slope)
