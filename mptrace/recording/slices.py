# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording by slices of whole calls, so that it need not fit into memory.  Pure.

A row has a key: the id of its call, of a migration without a call that of the migration.
A slice has all rows whose keys lie in a range, of all tables that have such: so whatever
is computed of a call or of a migration needs one slice.  Ids grow with time and rows are
written as time goes by, so that each part is read once and little is kept between slices;
where a damaged recording has them in any order, more is kept, and the slices are the same.

What crosses slices is small and whole in each of them (`Slice.whole`): calls, migrations
and the driver's calls, waits, and what was read of processes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from mptrace.arrays import Ints, Table, Tables, Words
from mptrace.recording.joins import ranks
from mptrace.recording.layouts import TABLES

#: Rows of a slice, more or less: what is computed of them takes half a gigabyte.
SLICE_ROWS = 1 << 19
#: Rows of the first one: so that something comes out soon.
FIRST_ROWS = 1 << 15
_LAST = int(np.iinfo(np.uint64).max)


class Source(Protocol):
    """A part of a table, which is read when it is needed."""

    @property
    def count(self) -> int:
        """Its rows."""

    def read(self) -> Table:
        """All of them."""

    def columns(self, *names: str) -> list[Words]:
        """Some columns, uint64."""

    def ends(self, name: str) -> tuple[int, int] | None:
        """Least and greatest value of a column, None where the part does not say."""


class InMemory:
    """A table that is there, as one source."""

    def __init__(self, rows: Table) -> None:
        self._rows = rows

    @property
    def count(self) -> int:
        """Its rows."""
        return int(self._rows.size)

    def read(self) -> Table:
        """All of them."""
        return self._rows

    def columns(self, *names: str) -> list[Words]:
        """Some columns, uint64."""
        return [self._rows[name].astype(np.uint64) for name in names]

    def ends(self, name: str) -> tuple[int, int] | None:
        """Least and greatest value of a column, None where there is none."""
        values = self._rows[name]
        return (int(values.min()), int(values.max())) if values.size else None


#: A column, and where it is 0 another one: what a key is made of.
Key = tuple[str, ...]
#: Table -> its key.
KEYS: dict[str, Key] = {
    "calls": ("call_id",),
    "entries": ("call_id",),
    "mappers": ("call_id",),
    "migrations": ("call_id", "migration_id"),
    "folios": ("call_id", "migration_id"),
    "obstacles": ("call_id", "migration_id"),
    "locations": ("driver_call",),
}
#: Those that are read part by part.
LARGE = ("entries", "folios", "obstacles", "locations")


#: Which call each call of mptrace's driver was, and a time before which the driver asked
#: where its pages were.
ASKED = np.dtype([("call_id", "<u8"), ("driver_call", "<i8"), ("before_ns", "<u8")])


class Slice(dict[str, Table]):
    """Tables of whole calls and migrations; those that have no keys are empty in it.

    ``rows``: of each table of :data:`KEYS` the numbers of these rows in the recording.
    ``of``: the slices, which know what crosses them.
    """

    def __init__(self, tables: Tables, rows: Mapping[str, Ints], of: "Slices") -> None:
        super().__init__(tables)
        self.rows = dict(rows)
        self.of = of


@dataclass(frozen=True)
class Part:
    """A source of a table with its place there; ``numbers`` are keys of the driver's calls."""

    source: Source
    first: int  # number of its first row
    key: Key
    numbers: Mapping[int, int] | None = None

    @cached_property
    def ends(self) -> tuple[int, int]:
        """Least and greatest key."""
        found = [self.source.ends(name) for name in self.key]
        if self.numbers is None and found[0] and (found[0][0] or len(found) == 1):
            return found[0]
        keys = self.keys(self.source.columns(*self.key))
        return int(keys.min()), int(keys.max())

    def keys(self, columns: Sequence[Words]) -> Words:
        """The key of each row, uint64."""
        keys = columns[0]
        if self.numbers is not None:
            distinct, place = ranks(keys)
            own = [self.numbers.get(int(number), 0) for number in distinct]
            return np.array(own, np.uint64)[place]
        for column in columns[1:]:
            keys = np.where(keys == 0, column, keys)
        return keys

    def cuts(self, rows: int) -> list[tuple[int, int]]:
        """Keys at which so many rows are below, and how many these are."""
        if self.source.count <= rows:
            return [(self.ends[1], self.source.count)]
        keys = np.sort(self.keys(self.source.columns(*self.key)))
        found = [(int(key), rows) for key in keys[rows - 1 :: rows]]
        return [*found, (int(keys[-1]), int(keys.size % rows))]


class Slices:
    """The slices of a recording, in the order of keys; may be gone through again.

    :param small: tables that are whole, by name.
    :param large: table -> its sources, in the order of rows.
    :param asked: dtype :data:`ASKED`, a row for each call of the driver that is known.
    :param rows: of a slice, more or less; ``first``: of the first one.
    """

    def __init__(
        self,
        small: Tables,
        large: Mapping[str, Sequence[Source]],
        asked: Table,
        *,
        rows: int = SLICE_ROWS,
        first: int = FIRST_ROWS,
    ) -> None:
        #: All rows of the tables that are not in :data:`LARGE`.
        self.whole = small
        self.asked = asked
        numbers = dict(zip(asked["driver_call"].tolist(), asked["call_id"].tolist(), strict=True))
        self._rows, self._first = rows, min(first, rows)
        sources = {name: [InMemory(small[name])] for name in KEYS if name not in LARGE}
        self._parts = {
            name: _parts(each, KEYS[name], numbers if name == "locations" else None)
            for name, each in {**sources, **large}.items()
        }
        #: Whether any call lost records.
        self.lost_in_calls = bool((small["calls"]["lost"] > 0).any())

    def count(self, table: str) -> int:
        """Rows of a table."""
        if table in self._parts:
            return sum(part.source.count for part in self._parts[table])
        return int(self.whole[table].size)

    @cached_property
    def has_lookups(self) -> bool:
        """Whether there is any folio of a call."""
        for part in self._parts["folios"]:
            ends = part.source.ends("call_id")
            if ends[1] if ends else part.source.columns("call_id")[0].any():
                return True
        return False

    def ids(self, table: str) -> Words:
        """Each call_id of a table once, in their order."""
        found = [np.unique(p.source.columns("call_id")[0]) for p in self._parts[table]]
        return np.unique(np.concatenate([np.zeros(0, np.uint64), *found]))

    def moves(self, since_ns: int, until_ns: int) -> tuple[Table, Ints]:
        """Folios that moved between two times, and their numbers, whoever's they are."""
        tables, rows = [np.zeros(0, TABLES["folios"])], [np.zeros(0, np.int64)]
        for part in self._parts["folios"]:
            begin, end = part.source.ends("start_ns"), part.source.ends("end_ns")
            if (begin and begin[0] >= until_ns) or (end and end[1] < since_ns):
                continue
            some = part.source.read()
            inside = (some["move_rc"] == 0) & (some["migration_id"] != 0)
            inside &= (some["start_ns"] < np.uint64(until_ns)) & (
                some["end_ns"] >= np.uint64(since_ns)
            )
            which = np.flatnonzero(inside)
            tables.append(np.take(some, which))
            rows.append(part.first + which)
        return np.concatenate(tables), np.concatenate(rows)

    def _cuts(self) -> Iterator[int]:
        """The greatest key of each slice."""
        found: list[tuple[int, int]] = []
        for name in ("entries", "folios"):
            parts = sorted(self._parts[name], key=lambda part: part.ends)
            for number, part in enumerate(parts):
                found += part.cuts(self._rows if number else self._first)
        wanted, have = self._first, 0
        for key, rows in sorted(found):
            have += rows
            if have >= wanted:
                yield key
                wanted, have = self._rows, 0
        yield _LAST

    def __iter__(self) -> Iterator[Slice]:
        pools = {name: _Pool(name, parts) for name, parts in self._parts.items()}
        empty = {name: np.zeros(0, TABLES[name]) for name in TABLES if name not in KEYS}
        before = -1
        for cut in self._cuts():
            if cut == before:
                continue
            before = cut
            found = {name: pool.up_to(cut) for name, pool in pools.items()}
            yield Slice(
                {**empty, **{name: rows for name, (rows, _) in found.items()}},
                {name: numbers for name, (_, numbers) in found.items()},
                self,
            )


class _Pool:
    """Rows of a table that were read and are in no slice yet."""

    def __init__(self, table: str, parts: Sequence[Part]) -> None:
        self._layout = TABLES[table]
        self._waiting = sorted(parts, key=lambda part: -part.ends[0])
        self._read: list[tuple[Table, Words, Ints]] = []

    def up_to(self, cut: int) -> tuple[Table, Ints]:
        """Rows whose keys are no greater and that were in no slice before, and their numbers."""
        while self._waiting and self._waiting[-1].ends[0] <= cut:
            part = self._waiting.pop()
            rows = part.source.read()
            keys = part.keys([rows[name] for name in part.key])
            self._read.append((rows, keys, part.first + np.arange(rows.size)))
        kept, which = [], []
        for rows, keys, numbers in self._read:
            inside = np.flatnonzero(keys <= np.uint64(cut))
            which.append(inside)
            if inside.size < rows.size:
                rest = np.flatnonzero(keys > np.uint64(cut))
                kept.append((np.take(rows, rest), keys[rest], numbers[rest]))
        size = sum(inside.size for inside in which)
        found, place = np.empty(size, self._layout), np.empty(size, np.int64)
        at = 0
        for (rows, _, numbers), inside in zip(self._read, which, strict=True):
            here = slice(at, at + inside.size)
            np.take(rows, inside, out=found[here], mode="clip")
            np.take(numbers, inside, out=place[here], mode="clip")
            at += inside.size
        self._read = kept
        if (np.diff(place) < 0).any():
            order = np.argsort(place, kind="stable")
            found, place = np.take(found, order), place[order]
        return found, place


def _parts(
    sources: Sequence[Source], key: Key, numbers: Mapping[int, int] | None
) -> tuple[Part, ...]:
    found, first = [], 0
    for source in sources:
        if source.count:
            found.append(Part(source, first, key, numbers))
        first += source.count
    return tuple(found)


# ---- what is asked about the whole recording, of a slice or of all tables ------------------


def whole_of(tables: Tables) -> Tables:
    """The tables of which a slice has only some rows, and which are not large; whole."""
    return tables.of.whole if isinstance(tables, Slice) else tables


def rows_in(tables: Tables, name: str) -> Ints:
    """The number of each row of a table in the recording."""
    return tables.rows[name] if isinstance(tables, Slice) else np.arange(tables[name].size)


def lost_in_calls(tables: Tables) -> bool:
    """Whether any call of the recording lost records."""
    if isinstance(tables, Slice):
        return tables.of.lost_in_calls
    return bool((tables["calls"]["lost"] > 0).any())


def has_lookups(tables: Tables) -> bool:
    """Whether the recording has any folio of a call."""
    if isinstance(tables, Slice):
        return tables.of.has_lookups
    return bool((tables["folios"]["call_id"] != 0).any())


def moves_between(tables: Tables, since_ns: int, until_ns: int) -> tuple[Table, Ints]:
    """Folios of the recording that moved then, or more of them, and their numbers."""
    if isinstance(tables, Slice):
        return tables.of.moves(since_ns, until_ns)
    folios = tables["folios"]
    rows = np.flatnonzero((folios["move_rc"] == 0) & (folios["migration_id"] != 0))
    return np.take(folios, rows), rows
