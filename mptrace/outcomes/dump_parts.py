# SPDX-License-Identifier: GPL-2.0-or-later
"""A table of a recording as `mptrace dump` prints it, slice by slice.  Pure.

What of a row crosses slices: its number and that of its call, migration and folio are
those in the whole recording (`Slice.rows`, and the calls that were counted before); what
is known of processes and their mappings is whole in each; a move that explains where a
page was seen is looked up in all (`Slices.moves`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mptrace.arrays import Ints, Tables
from mptrace.outcomes.dump import plain_table, short_of
from mptrace.outcomes.dump_columns import DumpColumns
from mptrace.outcomes.dump_known import Known
from mptrace.outcomes.plain_table import Columns, PlainTable
from mptrace.outcomes.selection import Selection
from mptrace.recording.layouts import TABLES
from mptrace.recording.meta import Meta
from mptrace.recording.slices import KEYS, LARGE, Slices, rows_in


@dataclass(frozen=True)
class Dumped:
    """Rows of one table of a recording, to be printed part by part.

    ``total``, ``selected``, ``unknown`` and ``said``: see `PlainTable`; without a selection
    and ``top`` nobody asks for them, and they are 0.
    """

    parts: Iterator[PlainTable]
    total: int
    selected: int
    unknown: int
    said: dict[str, Any] | None


def can_be_parted(table: str, selection: Selection) -> bool:
    """Whether a table can be had by slices.

    What is selected by time, process, path or node takes all tables at once, and so do
    the uses of stacks, which name rows of several others.
    """
    if selection.is_about or table == "stack_uses":
        return False
    return table in KEYS or not selection.failed


def dumped_parts(table: str, slices: Slices, meta: Meta, *, selection: Selection) -> Dumped:
    """What `dump.dumped_table` gives, in the same order, by slices of the recording."""
    if table not in KEYS:
        tables = {**slices.whole, **{name: np.zeros(0, TABLES[name]) for name in LARGE}}
        queries = tables["calls"]["nodes_ptr"] == 0
        asks = tables["calls"]["call_id"][~queries]
        others = np.setdiff1d(slices.ids("entries"), tables["calls"]["call_id"][queries])
        ids = np.unique(np.concatenate([asks, others]))
        rows = plain_table(table, DumpColumns(tables, meta, selection, call_ids=ids))
        return Dumped(iter([rows]), rows.total, rows.selected, rows.unknown, None)
    total = selected = unknown = 0
    every = replace(selection, top=None)
    if selection.top is not None or selection.failed:
        for found, _ in _columns(slices, meta, every):
            total += found.total(table)
            selected += found.selected(table)
            unknown += found.unsure(table)
    parts = _in_order(table, slices, meta, every)
    return Dumped(_first(parts, selection.top), total, selected, unknown, None)


def _columns(
    slices: Slices, meta: Meta, selection: Selection
) -> Iterator[tuple[DumpColumns, Tables]]:
    known, calls = Known.of(slices.whole, meta), 0
    for tables in slices:
        found = DumpColumns(tables, meta, selection, known, calls=calls)
        calls = found.calls_until
        yield found, tables


def _in_order(table: str, slices: Slices, meta: Meta, selection: Selection) -> Iterator[PlainTable]:
    """The rows of each slice; one that comes before another one of its table waits for it."""
    order = _Order(table)
    for found, tables in _columns(slices, meta, selection):
        part = plain_table(table, found)
        if table == "entries":
            yield part
            continue
        columns = order.passed(part.columns, found.numbers(table), rows_in(tables, table))
        yield replace(part, columns=columns, short=short_of(table, columns))


class _Order:
    """Rows that wait until all rows before them were there."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._next = 0
        self._seen = np.zeros(0, np.int64)
        self._numbers = np.zeros(0, np.int64)
        self._waiting: Columns | None = None

    def passed(self, columns: Columns, numbers: Ints, seen: Ints) -> Columns:
        """The rows whose turn it is.

        :param numbers: of the rows in the columns; ``seen``: of all that the slice has.
        """
        self._seen = np.sort(np.concatenate([self._seen, seen]))
        whole = self._seen == self._next + np.arange(self._seen.size)
        count = int(whole.size if whole.all() else np.argmin(whole))
        self._next, self._seen = self._next + count, self._seen[count:]
        numbers = np.concatenate([self._numbers, numbers])
        order = np.argsort(numbers, kind="stable")
        if self._waiting is not None:
            columns = {
                name: (
                    np.concatenate([self._waiting[name][0], values]),
                    np.concatenate([self._waiting[name][1], known]),
                )
                for name, (values, known) in columns.items()
            }
        ready = int(np.searchsorted(numbers[order], self._next))
        go, stay = order[:ready], order[ready:]
        self._numbers = numbers[stay]
        self._waiting = {
            name: (values[stay], known[stay]) for name, (values, known) in columns.items()
        }
        return {name: (values[go], known[go]) for name, (values, known) in columns.items()}


def _first(parts: Iterator[PlainTable], top: int | None) -> Iterator[PlainTable]:
    """The first rows, where not all are wanted."""
    left = top
    for part in parts:
        if left is None:
            yield part
            continue
        columns = {
            name: (values[:left], known[:left]) for name, (values, known) in part.columns.items()
        }
        left -= min(left, part.count)
        yield replace(part, columns=columns)
        if not left:
            return
