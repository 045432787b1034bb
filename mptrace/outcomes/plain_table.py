# SPDX-License-Identifier: GPL-2.0-or-later
"""Columns of numpy values, some of them unknown, as rows of plain values.  Pure."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mptrace.recording.joins import ranks
from mptrace.recording.when import UTC, iso, isos

#: The values of a column, and which of them are known.
Column = tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]
Columns = dict[str, Column]

#: Rows that are turned into Python values at a time.
_BATCH = 8192
_ADDRESSES = frozenset(
    {
        "address",
        "src",
        "dst",
        "pages_ptr",
        "nodes_ptr",
        "status_ptr",
        "page_flags",
        "mapping",
        "private",
        "a_ops",
        "migrate_op",
        "pte",
        "vm_start",
        "vm_end",
        "vm_flags",
        "lies_at",
    }
)


@dataclass(frozen=True)
class PlainTable:
    """Columns and rows of one table of a recording.

    ``short`` names the columns that fit a terminal; ``total`` counts the rows that were
    left out, too, ``selected`` those that the selection has, also beyond its ``top``;
    ``unknown``: rows that are left out as nobody can say whether they are selected.
    ``said`` says what was selected, None: everything.
    """

    columns: Columns
    short: tuple[str, ...]
    total: int
    selected: int
    unknown: int
    said: dict[str, Any] | None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all columns."""
        return tuple(self.columns)

    @property
    def count(self) -> int:
        """Rows that there are; every table has the column `own`."""
        return int(self.columns["own"][0].size)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return self.values(self.names)

    def values(self, columns: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
        """Rows of plain values (int, str, None), a batch at a time."""
        for first in range(0, self.count, _BATCH):
            part = slice(first, first + _BATCH)
            yield from zip(
                *(_plain(name, self.columns[name], part) for name in columns), strict=True
            )

    def width(self, column: str) -> int:
        """Letters of the longest value of a column, 1 at the least."""
        values, known = self.columns[column]
        if not values.size:
            return 1
        if is_wall_clock(column):
            return len(iso(1) or "") if known.any() else 1
        if values.dtype.kind == "b":
            return len("yes")
        if values.dtype.kind in "iu":
            ends = (int(values.min()), int(values.max()))
            return max(len(hex(end) if column in _ADDRESSES else str(end)) for end in ends)
        return max(len(str(value)) for value in set(values.tolist()))


def is_wall_clock(column: str) -> bool:
    """Whether a column has wall-clock times: int64 ns, ISO 8601 in UTC as plain values."""
    return column.endswith(UTC)


def places_in(ids: npt.NDArray[np.uint64], wanted: npt.NDArray[np.uint64]) -> Column:
    """Place of each wanted id among ``ids``, and whether it is there (0 is never)."""
    if not ids.size:
        return np.zeros(wanted.size, np.int64), np.zeros(wanted.size, np.bool_)
    order = np.argsort(ids, kind="stable")
    place = np.minimum(np.searchsorted(ids[order], wanted), ids.size - 1)
    return order[place], (ids[order][place] == wanted) & (wanted != 0)


def flags_at(flags: npt.NDArray[np.bool_], place: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """The flag at each place, False for -1."""
    return np.append(flags, False)[place]


def named(codes: npt.NDArray[Any], name: Callable[[int], str | None]) -> Column:
    """The name of each number, and whether it has one; each distinct number is asked once."""
    values, place = ranks(codes)
    names = np.empty(values.size, object)
    names[:] = [name(int(value)) for value in values]
    found = names[place]
    return found, np.array([each is not None for each in names], np.bool_)[place]


def hexadecimal(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.object_]:
    found = np.empty(values.size, object)
    found[:] = [hex(value) for value in values.tolist()]
    return found


def _plain(name: str, column: Column, part: slice) -> list[Any]:
    values, known = column[0][part], column[1][part]
    if not known.all():
        plain: list[Any] = [None] * values.size
        where = np.flatnonzero(known)
        # only of these: most of the time goes into texts
        for at, value in zip(where.tolist(), _texts(name, values[where]), strict=True):
            plain[at] = value
        return plain
    return _texts(name, values)


def _texts(name: str, values: npt.NDArray[Any]) -> list[Any]:
    if is_wall_clock(name):
        return isos(values)
    plain: list[Any] = values.tolist()
    return list(map(hex, plain)) if name in _ADDRESSES else plain
