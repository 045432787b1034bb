# SPDX-License-Identifier: GPL-2.0-or-later
"""Many numbers as a few: quantiles, histograms, sums.  Pure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Ints, Table

Numbers = dict[str, Any]


def distribution(values: Ints) -> Numbers:
    """p50, p90, p99 and max (nearest rank), and a power-of-two histogram.

    ``histogram`` holds pairs [low, count]: values from ``low`` to below twice
    that (0 holds the zeros).  Empty values give nulls.
    """
    if not values.size:
        return {"p50": None, "p90": None, "p99": None, "max": None, "histogram": []}
    ordered = np.sort(values)

    def rank(percent: int) -> int:
        return int(ordered[-(-percent * ordered.size // 100) - 1])

    positive = ordered[ordered > 0]
    bins: list[list[int]] = []
    if positive.size < ordered.size:
        bins.append([0, int(ordered.size - positive.size)])
    if positive.size:
        exponents = np.frexp(positive.astype(np.float64))[1] - 1
        counts = np.bincount(exponents)
        bins += [[1 << int(bit), int(counts[bit])] for bit in np.flatnonzero(counts)]
    return {
        "p50": rank(50),
        "p90": rank(90),
        "p99": rank(99),
        "max": int(ordered[-1]),
        "histogram": bins,
    }


def summed_over_folios(blackouts: Ints) -> Numbers:
    """The sum of folios' blackouts, which overlap: no time that anybody waited.

    ``total_ns`` is its older name.
    """
    total = int(blackouts.sum())
    return {"summed_over_folios_ns": total, "total_ns": total}


def span(rows: Table, start: str, end: str) -> int:
    # 0: not seen; of such a row nobody knows how long it took
    rows = rows[(rows[start] != 0) & (rows[end] != 0)]
    return int((rows[end].astype(np.int64) - rows[start].astype(np.int64)).sum())


def count_codes(codes: npt.NDArray[Any], names: Sequence[str]) -> dict[str, int]:
    counts = np.bincount(codes, minlength=len(names))
    return {name: int(count) for name, count in zip(names, counts, strict=True)}


def nonzero(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def without(counts: dict[str, int], key: str) -> dict[str, int]:
    return {name: count for name, count in counts.items() if name != key}
