# SPDX-License-Identifier: GPL-2.0-or-later
"""The rows that `mptrace dump` prints, and what all of its tables have.  Pure."""

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Ints, Table, Tables, Words
from mptrace.outcomes.chosen import Chosen, choose
from mptrace.outcomes.correlate import Correlation, correlate
from mptrace.outcomes.dump_known import Known
from mptrace.outcomes.failed import Failed
from mptrace.outcomes.fates import Fates, fates
from mptrace.outcomes.own import Own, own_of
from mptrace.outcomes.plain_table import Column, Columns, named, places_in
from mptrace.outcomes.said import Said, said_of
from mptrace.outcomes.selection import Selection
from mptrace.recording.layouts import (
    PADDING,
)
from mptrace.recording.meta import Meta
from mptrace.recording.slices import rows_in
from mptrace.recording.when import TIMES, UTC


class DumpRows:
    """Rows of a recording, or of a slice of it, that are selected: see `chosen.choose`.

    :param tables: all tables of a recording, or a slice of it.
    :param known: of the whole recording, where it is there already.
    :param calls: calls in the slices before.
    :param call_ids: of all calls, in order, where ``tables`` lack their entries.
    """

    def __init__(
        self,
        tables: Tables,
        meta: Meta,
        selection: Selection,
        known: Known | None = None,
        *,
        calls: int = 0,
        call_ids: Words | None = None,
    ) -> None:
        self._tables, self._meta, self._selection = tables, meta, selection
        known = known or Known.of(tables, meta)
        self._people, self._lying, self._clock = known.people, known.lying, known.clock
        self._calls_before, self._given_ids = calls, call_ids

    @cached_property
    def _found(self) -> Correlation:
        return correlate(self._tables, self._meta)

    @cached_property
    def _fates(self) -> Fates:
        return fates(self._tables, self._meta)

    @cached_property
    def _own(self) -> Own:
        return own_of(self._tables, self._meta)

    @cached_property
    def _failed(self) -> Failed:
        return Failed(self._tables, self._meta, self._found, self._fates, self._own)

    @cached_property
    def _chosen(self) -> Chosen:
        each = self._found, self._fates, self._own
        return choose(self._tables, self._meta, self._selection, *each)

    @cached_property
    def _call_ids(self) -> Words:
        return self._found.call_ids if self._given_ids is None else self._given_ids

    @property
    def calls_until(self) -> int:
        """Calls in this slice and those before."""
        return self._calls_before + int(self._call_ids.size)

    def numbers(self, table: str) -> Ints:
        """The number in the recording of each row that the columns of a table have."""
        found: Ints = rows_in(self._tables, table)[self._where(table)]
        return found

    def selected(self, table: str) -> int:
        """Rows of a table that are selected, also beyond the ``top`` of them."""
        if self._selection.is_filter:
            return int(self._chosen.masks[table].sum())
        return self._rows(table)

    def total(self, table: str) -> int:
        """Rows of a table, those that ``failed`` leaves out among them."""
        return self._rows(table) + (self._found.beyond_bound if table == "entries" else 0)

    def unsure(self, table: str) -> int:
        """Rows that are left out as nobody can say whether they are selected."""
        if not self._selection.is_filter:
            return 0
        beyond = self._chosen.unsure_beyond if table == "entries" else 0
        return int(self._chosen.unsure[table].sum()) + beyond

    def said(self) -> Said | None:
        """What of the recording is chosen, mptrace's own rows among it; None: everything."""
        if not self._selection.is_filter:
            return None
        return said_of(self._selection, self._chosen, self._tables, self._meta, self._found)

    def _rows(self, table: str) -> int:
        whole = self._found.rows if table == "entries" else self._tables.get(table)
        return 0 if whole is None else int(whole.size)

    def _where(self, table: str) -> npt.NDArray[np.intp]:
        if self._selection.is_filter:
            return np.flatnonzero(self._chosen.masks[table])[: self._selection.top]
        return np.arange(self._rows(table))[: self._selection.top]

    def _places(self, lies: Ints, address: npt.NDArray[np.uint64]) -> Columns:
        """What lies at addresses, at which offset of a file, and why that is unknown."""
        words, why, shift = self._lying.names(lies)
        is_known = lies >= 0
        offset = address.astype(np.int64) + shift
        return {
            "lies_in": (words, is_known),
            "lies_at": (offset, self._lying.has_file(lies)),
            "lies_gap": (why, ~is_known),
        }

    def _cgroups(self, rows: Table) -> Column:
        return named(rows["cgroup_id"], self._people.cgroup)

    def _of_own_calls(self, call_id: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        return self._own.of_calls(self._tables["calls"], call_id)

    def _call_numbers(self, call_id: npt.NDArray[np.uint64]) -> Column:
        place, is_known = places_in(self._call_ids, call_id)
        return place + self._calls_before, is_known

    def _migration_numbers(self, migration_id: npt.NDArray[np.uint64]) -> Column:
        place, is_known = places_in(self._tables["migrations"]["migration_id"], migration_id)
        return np.append(rows_in(self._tables, "migrations"), 0)[place], is_known

    def _raw(self, rows: Table, where: Any, first: Columns) -> Columns:
        columns: Columns = {
            name: (values[where], known[where]) for name, (values, known) in first.items()
        }
        known = np.ones(where.size, np.bool_)
        for name in rows.dtype.names or ():
            if name in (*PADDING, "call_id", "migration_id"):
                continue
            values = rows[name][where]
            if values.dtype.kind == "S":
                values = np.char.decode(values, "utf-8", "replace").astype(object)
            columns[name] = (values, known)
            if name in TIMES:
                columns[name.removesuffix("_ns") + UTC] = self._clock.wall(values)
        if "comm" in columns:
            self._fill_in_names(rows[where], columns["comm"][0])
        return columns

    def _fill_in_names(self, rows: Table, names: npt.NDArray[np.object_]) -> None:
        """Names that a row lacks, of its thread or process, from any other table."""
        lacking = np.flatnonzero(rows["comm"] == b"")
        fields = rows.dtype.names or ()
        of = next(name for name in ("tid", "pid", "tgid") if name in fields)
        name = self._people.thread if of == "tid" else self._people.comm
        names[lacking] = named(rows[of][lacking], name)[0]
