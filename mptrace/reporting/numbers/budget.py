# SPDX-License-Identifier: GPL-2.0-or-later
"""What a batch costs by its size, as measured, and the largest that a budget allows.  Pure.

Three costs: the time of a whole move_pages(2) call (by pages per call), the time
of one migration and the blackout of each folio in it (by base pages of the
migration, for each path by itself).  A p99 of less than :data:`MIN_SAMPLES`
values, or of folios of less than :data:`MIN_BATCHES` migrations (those of one have
one fate), is no p99: such a group is counted and decides nothing.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from mptrace.arrays import Bools, Ints, Table, Tables
from mptrace.outcomes.paths import PATHS, of_migrations
from mptrace.recording.joins import members, ranks
from mptrace.recording.meta import Meta
from mptrace.reporting.numbers.parts import Gathered, Part
from mptrace.reporting.numbers.sums import Numbers, Spread

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


class CostCurve:
    """Costs by batch size; blackouts of folios are added slice by slice."""

    def __init__(self, tables: Tables, meta: Meta) -> None:
        self._tables = tables
        self._codes = of_migrations(tables["migrations"], meta)
        self._dark: dict[int, dict[int, Spread]] = {}
        #: Migrations with a folio whose blackout is known.
        self._has_dark = np.zeros(self._codes.size, np.bool_)

    def add(self, part: Part) -> None:
        """Add those of a slice."""
        migrations, columns, fate = part.tables["migrations"], part.columns, part.fate
        known = np.flatnonzero(fate.migration >= 0)
        pages = _pages_of(fate.migration[known], fate.pages[known], migrations.size)
        whole = _whole(migrations, pages) & ~part.out.migrations
        dark = columns["blackout_ns"][fate.row]
        closed = known[(columns["n_dark"][fate.row[known]] > 0) & (dark[known] >= 0)]
        closed = closed[whole[fate.migration[closed]] & ~part.out.folios[fate.row[closed]]]
        batch = fate.migration[closed]
        rows = part.rows("migrations")
        self._has_dark[rows[batch]] = True
        codes, size = self._codes[rows], pages[batch]
        for code in np.unique(codes[batch]).tolist():
            sums = self._dark.setdefault(code, {})
            mine = np.flatnonzero(codes[batch] == code)
            sizes, place = ranks(size[mine])
            for number, of_size in enumerate(members(place, sizes.size)):
                spread = sums.setdefault(int(sizes[number]), Spread())
                spread.add(dark[closed[mine[of_size]]])

    def numbers(self, gathered: Gathered) -> list[Numbers]:
        """For each measure and path the groups by batch size, smallest first; times in ns.

        Migrations and calls in which records were lost, or that did not end, or that are
        mptrace's own, are left out; the size of a batch counts all of its pages.
        """
        calls, migrations = self._tables["calls"], self._tables["migrations"]
        out, pages = gathered.out, gathered.pages
        asked = calls[(calls["nodes_ptr"] != 0) & (calls["exit_ns"] != 0) & ~out.calls]
        asked = asked[(asked["nr_pages"] > 0) & (asked["lost"] == 0) & (asked["ret"] >= 0)]
        curves = []
        if asked.size:
            took = (asked["exit_ns"] - asked["enter_ns"]).astype(np.int64)
            size = np.minimum(asked["nr_pages"], 1 << 62).astype(np.int64)
            curves.append(_curve("call", "move_pages", _by_size(size, took)))
        whole = _whole(migrations, pages) & ~out.migrations
        took = (migrations["exit_ns"] - migrations["enter_ns"]).astype(np.int64)
        for code in np.unique(self._codes[whole]).tolist():
            mine = whole & (self._codes == code)
            key = PATHS[code].key
            curves.append(_curve("migration", key, _by_size(pages[mine], took[mine])))
            if code in self._dark:
                sizes, counts = np.unique(pages[mine & self._has_dark], return_counts=True)
                batches = dict(zip(sizes.tolist(), counts.tolist(), strict=True))
                sums = {size: (spread, batches[size]) for size, spread in self._dark[code].items()}
                curves.append(_curve("blackout", key, sums))
        return curves


def _pages_of(migration: Ints, pages: Ints, count: int) -> Ints:
    """Base pages of each migration."""
    found: Ints = np.bincount(migration, weights=pages, minlength=count).astype(np.int64)
    return found


def _whole(migrations: Table, pages: Ints) -> Bools:
    """Migrations that ended, lost nothing and had pages."""
    found: Bools = (migrations["enter_ns"] != 0) & (migrations["exit_ns"] != 0)
    found &= (migrations["lost"] == 0) & (pages > 0)
    return found


def _by_size(sizes: Ints, values: Ints) -> dict[int, tuple[Spread, int]]:
    """The values of each size, each of a batch of its own."""
    distinct, place = ranks(sizes)
    return {
        size: (Spread(values[rows]), int(rows.size))
        for size, rows in zip(distinct.tolist(), members(place, distinct.size), strict=True)
    }


def within(curves: Sequence[Numbers], budget_ns: int) -> list[Numbers]:
    """The largest batch of each curve whose measured p99 is below a budget.

    ``state``: ``measured`` (a larger one exceeds it), ``at_least`` (the largest
    that was measured is still below it), ``none`` (the smallest exceeds it) or
    ``unknown`` (too few samples of every size).  ``extrapolated_pages`` is a
    straight line through the measured p99s, where it was asked for more or less than
    was measured; None where that says nothing.
    """
    return [{**_within(curve, budget_ns), "budget_ns": budget_ns} for curve in curves]


def _curve(measure: str, path: str, sums: Mapping[int, tuple[Spread, int]]) -> Numbers:
    """A curve; ``sums``: size of a batch -> its values, and of how many batches they are."""
    name, unit = MEASURES[measure]
    sizes = sorted(sums)
    together = sizes
    if len(sizes) > MAX_SIZES:
        # the binary digits of a size: exact for every size below 2^53
        together = np.frexp(np.array(sizes, np.float64))[1].tolist()
    groups = []
    for _, each in itertools.groupby(zip(together, sizes, strict=True), key=lambda pair: pair[0]):
        own = [size for _, size in each]
        spread, batches = Spread(), 0
        for size in own:
            spread.merge(sums[size][0])
            batches += sums[size][1]
        some = spread.numbers()
        groups.append(
            {
                "pages": own[0],
                "most_pages": own[-1],
                "samples": spread.count,
                "batches": batches,
                "p50_ns": some["p50"],
                "p99_ns": some["p99"],
                "max_ns": some["max"],
                "is_enough": spread.count >= MIN_SAMPLES and batches >= MIN_BATCHES,
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
