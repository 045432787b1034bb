# SPDX-License-Identifier: GPL-2.0-or-later
"""The slices of a recording, each with what became of its rows, to be summed up.  Pure.

Of entries and folios nothing is kept from slice to slice but sums, counts by value and
examples; `Gathered` has a few columns of each call and migration.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mptrace.arrays import Bools, Bytes, Ints, Table, Tables, Words
from mptrace.outcomes.chosen import Chosen, choose
from mptrace.outcomes.correlate import Correlation, correlate
from mptrace.outcomes.fates import Fates, failed_migrations, fates
from mptrace.outcomes.fates import outcomes as outcomes_of
from mptrace.outcomes.joined import MOVED
from mptrace.outcomes.left_out import chosen_calls, left_out
from mptrace.outcomes.own import Own, own_of
from mptrace.outcomes.selection import Selection
from mptrace.recording.joins import ranks, rows_of_ids
from mptrace.recording.layouts import TABLES
from mptrace.recording.meta import Meta
from mptrace.recording.slices import LARGE, Slice, Slices, rows_in, whole_of


class FolioColumns:
    """Columns of the folios of a slice, int64, each made once."""

    def __init__(self, folios: Table) -> None:
        self._folios = folios
        self._found: dict[str, Ints] = {}

    def __getitem__(self, name: str) -> Ints:
        if name not in self._found:
            self._found[name] = self._folios[name].astype(np.int64)
        return self._found[name]


@dataclass(frozen=True)
class Part:
    """A slice, or all of a recording, with what became of its rows.

    ``found``: the chosen entries of everybody else's calls, ``calls``: all entries of these
    calls.  ``out``: what is in no sum: mptrace's own, and what was not chosen.
    """

    tables: Tables
    every: Correlation
    found: Correlation
    calls: Correlation
    fate: Fates
    own: Own
    chosen: Chosen
    out: Own
    calls_before: int
    outcome: Bytes  # of each folio
    split: Ints  # folios that were split
    columns: FolioColumns

    @property
    def beside(self) -> Tables:
        """The large tables of the slice, and all others whole."""
        large = {name: self.tables[name] for name in LARGE if name in self.tables}
        return {**whole_of(self.tables), **large}

    def rows(self, table: str) -> Ints:
        """The number of each row of a table in the recording."""
        return rows_in(self.tables, table)

    @cached_property
    def closed(self) -> Words:
        """call_id of the calls that asked, ended and are in the sums."""
        calls = self.tables["calls"]
        which = (calls["nodes_ptr"] != 0) & (calls["exit_ns"] != 0) & ~self.out.calls
        return np.unique(calls["call_id"][which])


def parts_of(
    recording: Tables | Slices,
    meta: Meta,
    selection: Selection,
    correlation: Correlation | None = None,
) -> Iterator[Part]:
    """The slices of a recording, or all of its tables as one part.

    :param correlation: of all tables, when it is there already.
    """
    before = 0
    for tables in recording if isinstance(recording, Slices) else (recording,):
        every, fate = correlation or correlate(tables, meta), fates(tables, meta)
        own = own_of(tables, meta)
        chosen = choose(tables, meta, selection, every, fate, own)
        yield Part(
            tables=tables,
            every=every,
            found=chosen_calls(every, tables, meta, own, chosen, whole=False),
            calls=chosen_calls(every, tables, meta, own, chosen, whole=True),
            fate=fate,
            own=own,
            chosen=chosen,
            out=left_out(own, chosen),
            calls_before=before,
            outcome=outcomes_of(tables, meta, fate)[0],
            split=np.union1d(every.split, fate.row[fate.is_split]),
            columns=FolioColumns(tables["folios"]),
        )
        before += int(every.call_ids.size)


class Gathered:
    """Columns of all calls and migrations of a recording, by row of their tables.

    What `Own` has of them is in ``own`` and ``out``, without folios.
    """

    def __init__(self, recording: Tables | Slices, meta: Meta) -> None:
        whole = recording.whole if isinstance(recording, Slices) else recording
        #: Tables that are whole in memory.
        self.tables = whole
        calls, migrations = whole["calls"].size, whole["migrations"].size
        self._own_calls, self._out_calls = np.zeros((2, calls), np.bool_)
        self._own_migrations, self._out_migrations = np.zeros((2, migrations), np.bool_)
        #: Whether a migration left something behind.
        self.failed = np.zeros(migrations, np.bool_)
        #: Base pages of a migration: of its folios, as `groups` counts them, and that moved.
        self.pages, self.grouped_pages, self.moved_pages = np.zeros((3, migrations), np.int64)
        #: Its folios that are in the sums.
        self.folios = np.zeros(migrations, np.int64)
        #: Base pages that moved in a call.
        self.moved_by_call = np.zeros(calls, np.int64)
        self._ids: list[Words] = []
        self._rows: list[Ints] = []
        self._left_out: list[Bools] = []
        # waits and what balancing did are told by their processes alone
        self._own = own_of({**whole, "folios": np.zeros(0, TABLES["folios"])}, meta)
        self._out_waits, self._out_balancing = self._own.waits, self._own.balancing
        #: Of what is mptrace's own and chosen: calls, migrations, folios, their base pages, waits.
        self.mine = dict.fromkeys(("calls", "migrations", "folios", "pages"), 0)
        # no slice has waits
        self.mine["waits"] = int(self._own.waits.sum())
        #: Folios whose migration has no record, and their base pages.
        self.strays = {"folios": 0, "pages": 0}
        #: Entries of calls longer than what is read of one; of all, and of those in the sums.
        self.all_beyond, self.beyond = 0, 0
        #: Calls up to the last one with entries in the sums.
        self.calls_seen = 0

    def add(self, part: Part) -> None:
        """Add a slice."""
        calls, migrations = part.rows("calls"), part.rows("migrations")
        self._own_calls[calls], self._out_calls[calls] = part.own.calls, part.out.calls
        self._own_migrations[migrations] = part.own.migrations
        self._out_migrations[migrations] = part.out.migrations
        if not isinstance(part.tables, Slice):
            self._out_waits, self._out_balancing = part.out.waits, part.out.balancing
            self.mine["waits"] = int((part.own.waits & part.chosen.masks["waits"]).sum())
        self._add_migrations(part, migrations)
        self._add_calls(part, calls)
        fate, masks = part.fate, part.chosen.masks
        mine = (part.own.folios & masks["folios"])[fate.row]
        lone = (fate.migration < 0) & ~part.out.folios[fate.row]
        self.mine["calls"] += int((part.own.calls & masks["calls"]).sum())
        self.mine["migrations"] += int((part.own.migrations & masks["migrations"]).sum())
        self.mine["folios"] += int(mine.sum())
        self.mine["pages"] += int(fate.pages[mine].sum())
        self.strays["folios"] += int(lone.sum())
        self.strays["pages"] += int(fate.pages[lone].sum())

    def _add_migrations(self, part: Part, rows: Ints) -> None:
        table, fate = part.tables["migrations"], part.fate
        self.failed[rows] = failed_migrations(table, fate, part.own.beside(fate))
        inside = fate.migration >= 0

        def sums(which: Bools, pages: Ints) -> Ints:
            found = np.bincount(fate.migration[which], pages[which], table.size)
            return found.astype(np.int64)

        self.pages[rows] = sums(inside, fate.pages)
        nr_pages = part.columns["nr_pages"].copy()
        nr_pages[part.every.split] = 1
        self.grouped_pages[rows] = sums(inside, nr_pages[fate.row])
        theirs = inside & ~part.out.folios[fate.row]
        self.folios[rows] = np.bincount(fate.migration[theirs], minlength=table.size)
        self.moved_pages[rows] = sums(theirs & (fate.outcome == MOVED), fate.pages)

    def _add_calls(self, part: Part, rows: Ints) -> None:
        fate, calls = part.fate, part.tables["calls"]
        done = (fate.outcome == MOVED) & ~part.out.folios[fate.row]
        ids, of_call = ranks(calls["call_id"])
        if ids.size:
            place = rows_of_ids(ids, part.tables["folios"]["call_id"])[fate.row]
            done &= place >= 0
            sums = np.bincount(place[done], fate.pages[done], ids.size).astype(np.int64)
            self.moved_by_call[rows] = sums[of_call]
        known = part.calls.call_row
        self._ids.append(part.every.call_ids)
        self._rows.append(np.append(rows, -1)[known])
        own = part.own.of_calls(calls, part.every.call_ids)
        self._left_out.append(own | ~part.chosen.ordinals)
        self.all_beyond += part.every.beyond_bound
        self.beyond += part.found.beyond_bound
        if part.calls.rows.size:
            self.calls_seen = part.calls_before + int(part.calls.rows["call"].max()) + 1

    @property
    def own(self) -> Own:
        """What is mptrace's own."""
        return replace(self._own, calls=self._own_calls, migrations=self._own_migrations)

    @property
    def out(self) -> Own:
        """What is in no sum."""
        return Own(
            self._own.tgids,
            self._out_calls,
            self._out_migrations,
            self._own.folios,
            self._out_waits,
            self._out_balancing,
        )

    @cached_property
    def call_ids(self) -> Words:
        """call_id of each call by its ordinal."""
        return np.concatenate(self._ids)

    @cached_property
    def call_row(self) -> Ints:
        """Row of each call in `calls`, -1 where its record is missing or it is in no sum."""
        return np.concatenate(self._rows)

    @cached_property
    def left_out(self) -> Bools:
        """Which calls are in no sum, by ordinal."""
        return np.concatenate(self._left_out)
