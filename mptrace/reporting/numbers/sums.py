# SPDX-License-Identifier: GPL-2.0-or-later
"""Many numbers as a few: quantiles, histograms, sums.  Pure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Ints, Table
from mptrace.recording.joins import ranks

Numbers = dict[str, Any]

#: Values below this have a counter each.
_SMALL = 1 << 16
_NONE = np.zeros(0, np.int64)


class Spread:
    """Exact counts of values, added up: what a distribution needs of them.

    Its size goes with the number of different values, not with that of values.
    """

    def __init__(self, values: Ints | None = None) -> None:
        self.count, self.total = 0, 0
        self._small = np.zeros(0, np.int64)  # how often each value below _SMALL came
        self._values, self._counts = _NONE, _NONE  # of the others, in order
        self._waiting: list[tuple[Ints, Ints]] = []
        self._waits = 0
        if values is not None:
            self.add(values)

    def add(self, values: Ints) -> None:
        """Add int64 values."""
        if not values.size:
            return
        self.count += int(values.size)
        self.total += int(values.sum())
        is_small = (values >= 0) & (values < _SMALL)
        if not is_small.all():
            self._wait(*np.unique(values[~is_small], return_counts=True))
            values = values[is_small]
        counts = np.bincount(values)
        if counts.size > self._small.size:
            counts[: self._small.size] += self._small
            self._small = counts
        else:
            self._small[: counts.size] += counts

    def merge(self, other: "Spread") -> None:
        """Add the values of another one."""
        values, counts = other.counts()
        self.count += other.count
        self.total += other.total
        self._wait(values, counts)

    def _wait(self, values: Ints, counts: Ints) -> None:
        self._waiting.append((values, counts))
        self._waits += int(values.size)
        # so that a value is sorted again only as often as what there is doubles
        if self._waits > max(self._values.size, _SMALL):
            self._settle()

    def _settle(self) -> None:
        if self._waiting:
            some = [(self._values, self._counts), *self._waiting]
            self._values, self._counts = _merged(some)
            self._waiting, self._waits = [], 0

    def counts(self) -> tuple[Ints, Ints]:
        """The different values in order, and how often each came."""
        self._settle()
        there = np.flatnonzero(self._small)
        return _merged([(self._values, self._counts), (there, self._small[there])])

    def numbers(self) -> "Numbers":
        """See :func:`distribution`."""
        if not self.count:
            return {"p50": None, "p90": None, "p99": None, "max": None, "histogram": []}
        values, counts = self.counts()
        until = np.cumsum(counts)

        def rank(percent: int) -> int:
            return int(values[np.searchsorted(until, -(-percent * self.count // 100))])

        is_positive = values > 0
        positive, times = values[is_positive], counts[is_positive]
        bins: list[list[int]] = []
        if int(times.sum()) < self.count:
            bins.append([0, self.count - int(times.sum())])
        if positive.size:
            exponents = np.frexp(positive.astype(np.float64))[1] - 1
            first = np.flatnonzero(np.diff(exponents, prepend=-1))
            sums = np.add.reduceat(times, first)
            bins += [[1 << int(exponents[at]), int(n)] for at, n in zip(first, sums, strict=True)]
        return {
            "p50": rank(50),
            "p90": rank(90),
            "p99": rank(99),
            "max": int(values[-1]),
            "histogram": bins,
        }


def _merged(some: Sequence[tuple[Ints, Ints]]) -> tuple[Ints, Ints]:
    values = np.concatenate([each for each, _ in some])
    counts = np.concatenate([each for _, each in some])
    order = np.argsort(values, kind="stable")
    values, counts = values[order], counts[order]
    first = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))[: values.size]
    if not values.size:
        return values, counts
    return values[first], np.add.reduceat(counts, first)


def distribution(values: Ints) -> Numbers:
    """p50, p90, p99 and max (nearest rank), and a power-of-two histogram.

    ``histogram`` holds pairs [low, count]: values from ``low`` to below twice
    that (0 holds the zeros).  Empty values give nulls.
    """
    return Spread(values).numbers()


def summed_over_folios(total: int) -> Numbers:
    """The sum of folios' blackouts (ns), which overlap: no time that anybody waited.

    ``total_ns`` is its older name.
    """
    return {"summed_over_folios_ns": total, "total_ns": total}


def span(rows: Table, start: str, end: str) -> int:
    # 0: not seen; of such a row nobody knows how long it took
    rows = rows[(rows[start] != 0) & (rows[end] != 0)]
    return int((rows[end].astype(np.int64) - rows[start].astype(np.int64)).sum())


def count_codes(codes: npt.NDArray[Any], names: Sequence[str]) -> dict[str, int]:
    return named_counts(np.bincount(codes, minlength=len(names)), names)


def named_counts(counts: Ints, names: Sequence[str]) -> dict[str, int]:
    """Counts by the names of their codes."""
    return {name: int(count) for name, count in zip(names, counts, strict=True)}


def nonzero(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def without(counts: dict[str, int], key: str) -> dict[str, int]:
    return {name: count for name, count in counts.items() if name != key}


def add_to(sums: dict[int, int], keys: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
    """Add a value to the sum of each key."""
    for key, value in zip(keys.tolist(), values.tolist(), strict=True):
        sums[key] = sums.get(key, 0) + int(value)


def sums_of_pairs(
    source: npt.NDArray[Any], target: npt.NDArray[Any], pages: Ints, which: npt.NDArray[np.bool_]
) -> tuple[Ints, Ints]:
    """Numbers of the pairs of nodes, and base pages of each; see :func:`matrix_of`."""
    both = (source[which].astype(np.int64) << 16) + (target[which].astype(np.int64) & 0xFFFF)
    pairs, place = ranks(both)
    return pairs, np.bincount(place, pages[which], pairs.size).astype(np.int64)


def matrix_of(pairs: dict[int, int]) -> list[Numbers]:
    """Base pages from node to node, in the order of nodes."""
    return [
        {"from": pair >> 16, "to": int(np.uint16(pair & 0xFFFF).astype(np.int16)), "pages": pages}
        for pair, pages in sorted(pairs.items())
    ]
