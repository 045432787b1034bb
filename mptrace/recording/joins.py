# SPDX-License-Identifier: GPL-2.0-or-later
"""Joins rows of tables by what they have in common.  Pure, vectorized."""

from typing import Any

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Addresses, Bools, Ints, Table, Words

# Values of which it is worth a look whether they come in runs, and how long these must be.
_MANY, _WORTH = 1 << 12, 4


def rows_of_calls(call_start: Ints, which: Ints) -> Ints:
    """Row numbers of the entries of the calls ``which``, in the order of ``which``."""
    starts = call_start[which]
    return consecutive(starts, call_start[which + 1] - starts)


def ranks(values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Ints]:
    """Distinct values in order, and the place of each value among them.

    What ``np.unique(return_inverse=True)`` gives, by a stable sort: numpy's
    other argsort uses AVX2, which QEMU 7.2 emulates wrongly under ``-cpu max``
    (indices that do not sort; np.sort and the stable kind are right).
    """
    heads, lengths = runs(values)
    if lengths is not None:
        distinct, places = ranks(heads)
        return distinct, np.repeat(places, lengths)
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.ones(values.size, np.bool_)
    first[1:] = ordered[1:] != ordered[:-1]
    places = np.empty(values.size, np.int64)
    places[order] = np.cumsum(first) - 1
    return ordered[first], places


def runs(values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Ints | None]:
    """One value of each run of equal ones, and how long these are.

    The values themselves and None where that is not worth it: rows of one call, migration or
    process often lie together, and then there are few.
    """
    if values.size < _MANY:
        return values, None
    values = np.ascontiguousarray(values)
    starts = np.flatnonzero(values[1:] != values[:-1]) + 1
    if starts.size * _WORTH > values.size:
        return values, None
    starts = np.concatenate([[0], starts])
    lengths: Ints = np.diff(starts, append=values.size)
    return values[starts], lengths


def pair_ids(first: Addresses | Ints, second: Addresses | Ints) -> Ints:
    """Number the distinct pairs (``first``, ``second``) densely, in their order.

    Of both only the ranks are combined: uint64 with int64 would become float64,
    in which neighbouring ids of a real session are one.
    """
    distinct, inner = ranks(second)
    return ranks(ranks(first)[1] * max(distinct.size, 1) + inner)[1]


def any_near(
    calls: Ints, pages: Ints, wanted_calls: Ints, wanted_pages: Ints, reach: Ints
) -> Bools:
    """For each wanted (call, page): is one of (calls, pages) within ``reach`` pages of it?"""
    _, rank = ranks(np.concatenate([pages, wanted_pages]))
    key = (calls << 32) + rank[: pages.size]
    wanted = (wanted_calls << 32) + rank[pages.size :]
    order = np.argsort(key, kind="stable")
    near = np.zeros(wanted.size, np.bool_)
    if not key.size:
        return near
    place = np.searchsorted(key[order], wanted)
    for neighbour in (place - 1, place):
        safe = np.clip(neighbour, 0, key.size - 1)
        at = order[safe]
        inside = (neighbour == safe) & (calls[at] == wanted_calls)
        near |= inside & (np.abs(pages[at] - wanted_pages) <= reach)
    return near


def rows_of_ids(ids: Words, wanted: Words) -> Ints:
    """Row of each wanted id, -1 where it is not there."""
    if not ids.size:
        return np.full(wanted.size, -1, np.int64)
    heads, lengths = runs(wanted)
    if lengths is not None:
        return np.repeat(rows_of_ids(ids, heads), lengths)
    order = np.argsort(ids, kind="stable")
    place = np.minimum(np.searchsorted(ids[order], wanted), ids.size - 1)
    found: Ints = np.where(ids[order][place] == wanted, order[place], -1)
    return found


def members(group: Ints, count: int) -> list[Ints]:
    """Rows of each of ``count`` groups, in order; ``group``: that of each row, -1: none."""
    order = np.argsort(group, kind="stable")
    bounds = np.searchsorted(group[order], np.arange(count + 1))
    return [order[bounds[each] : bounds[each + 1]] for each in range(count)]


def run_starts(values: npt.NDArray[Any]) -> Ints:
    """Rows at which a value differs from the one before; of any values the first row is one."""
    changed = np.flatnonzero(values[1:] != values[:-1]) + 1
    return np.concatenate([np.zeros(min(values.size, 1), np.int64), changed])


def distinct(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Distinct values in order, of an array in which equal ones mostly follow each other."""
    return np.unique(values[run_starts(values)])


def as_bytes(rows: Table) -> Table:
    """The same rows without their fields: numpy copies those one by one, at ten times the cost."""
    return rows.view(f"V{rows.dtype.itemsize}")


def consecutive(starts: Ints, lengths: Ints) -> Ints:
    """Row numbers of pieces, one after the other, by where each begins and how long it is."""
    rows: Ints
    if starts.size and (lengths == lengths[0]).all():
        rows = (starts[:, None] + np.arange(lengths[0])).reshape(-1)
        return rows
    before = np.cumsum(lengths) - lengths
    rows = np.repeat(starts - before, lengths)
    rows += np.arange(rows.size)
    return rows
