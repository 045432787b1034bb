# SPDX-License-Identifier: GPL-2.0-or-later
"""What lies at an address of a process: by the mappings that were read while recording.  Pure.

A process was read at some moments.  Of an address at another time the reading before it
and that after it are asked: what only one of them has is taken, and where they contradict
each other it is unknown.  A reading of another process that later had the same number
counts from its start on.
"""

from dataclasses import dataclass

import numpy as np

from mptrace.arrays import Addresses, Ints, Table, Tables, Words
from mptrace.outcomes.later import owners
from mptrace.outcomes.places import Place, place_of
from mptrace.recording.joins import pair_ids, ranks, rows_of_ids
from mptrace.recording.mapping import CUT, DENIED, ENDED, LEFT_OUT, MAPPED, MAPPING, NO_MEMORY
from mptrace.recording.meta import Meta

# Starts of one process differ by less: two clocks are read one after the other for them.
_SAME_BORN_NS = 5_000_000

# Why it is not known what lies somewhere, as `Lying.rows` has it.
NO_ADDRESS = -1
NOT_READ = -2
HAD_ENDED = -3
WAS_DENIED = -4
WAS_LEFT_OUT = -5
NOT_MAPPED = -6
MAPPED_ANEW = -7
NOT_RECORDED = -8
MAPPED_LATER = -9
_WORDS = {
    NO_ADDRESS: "its address or its process is unknown",
    NOT_READ: "the mappings of its process were not read",
    HAD_ENDED: "its process had ended before its mappings were read",
    WAS_DENIED: "the mappings of its process could not be read: permission denied",
    WAS_LEFT_OUT: "its process has mappings beyond the bound of what is read",
    MAPPED_LATER: "mapped after the mappings of its process were read",
    NOT_MAPPED: "no longer mapped when the mappings of its process were read",
    MAPPED_ANEW: "mapped anew between two readings of its process's mappings",
}
_OF_STATE = {DENIED: WAS_DENIED, LEFT_OUT: WAS_LEFT_OUT, NO_MEMORY: NOT_MAPPED, ENDED: HAD_ENDED}


@dataclass(frozen=True)
class _Readings:
    """One element for each reading, in order of process and time."""

    tgid: Ints
    seen: Words
    born: Words
    state: Ints  # MAPPED, or why there is nothing
    cut: Addresses  # from here on mappings were left out


class Lying:
    """Answers by the table `mappings` of a recording.

    :param tables: tables of a recording by name; one of an older version has none.
    :param meta: its meta.json.
    """

    def __init__(self, tables: Tables, meta: Meta) -> None:
        found = tables.get("mappings")
        table = np.zeros(0, MAPPING) if found is None else found
        self._gap = meta.mappings_gap
        # Of a damaged recording they may be in any order.
        order = np.lexsort((table["start"], table["seen_ns"], table["tgid"]))
        self._table = table = table[order]
        self.seen = _counts(table)
        reading = pair_ids(table["tgid"].astype(np.int64), table["seen_ns"])
        _, first = np.unique(reading, return_index=True)
        self._readings = _readings(table, reading, first)
        self._tgids = np.unique(self._readings.tgid)
        self._times = np.unique(self._readings.seen)
        self._place = self._key(self._readings.tgid, self._readings.seen)
        is_mapping = np.flatnonzero(table["state"] == MAPPED)
        self._mapping = is_mapping
        self._starts = np.unique(table["start"][is_mapping])
        self._of_mapping = reading[is_mapping]
        self._ends = table["end"][is_mapping]
        self._ordered = self._in_reading(self._of_mapping, table["start"][is_mapping])

    # ---- many at once ----------------------------------------------------------------

    def rows(self, tgid: Ints, address: Addresses, at_ns: Words) -> Ints:
        """What lies at addresses of processes at times: a number for `place`, else why not.

        :param tgid: 0: unknown; ``address``: 0: unknown; all of shape (n,).
        :returns: int64[n]; below 0: one of :data:`NO_ADDRESS` and the following.
        """
        tgid = tgid.astype(np.int64)
        address = address.astype(np.uint64)
        if self._gap or not self._table.size:
            return np.full(tgid.size, NOT_RECORDED if self._gap else NOT_READ, np.int64)
        before = np.searchsorted(self._place, self._key(tgid, at_ns), side="right") - 1
        found, why = [], []
        for reading in (before, before + 1):
            is_own, safe = self._of(reading, tgid)
            born = self._readings.born[safe]
            good = is_own & (self._readings.state[safe] == MAPPED) & (born <= at_ns)
            row = np.where(good, self._find(safe, address), -1)
            found.append((row, good, born))
            why.append((is_own, safe))
        (first, is_first, born_first), (second, is_second, born_second) = found
        # the number was given to another process in between
        used_again = is_first & is_second & (born_second > born_first + _SAME_BORN_NS)
        first = np.where(used_again, -1, first)
        clash = (first >= 0) & (second >= 0)
        clash[clash] = ~self._same(first[clash], second[clash])
        row = np.where(first >= 0, first, second)
        row[clash] = MAPPED_ANEW
        lacking = row == -1
        row[lacking] = self._why_not(
            [(own[lacking], at[lacking]) for own, at in why],
            [(good[lacking]) for _, good, _ in found],
            address[lacking],
        )
        row[(tgid == 0) | (address == 0)] = NO_ADDRESS
        return row

    def of_folios(self, tables: Tables) -> Ints:
        """The same of each row of `folios`, where a process is known that maps it."""
        folios = tables["folios"]
        return self.rows(owners(tables), folios["address"], folios["start_ns"])

    def of_waits(self, waits: Table) -> Ints:
        """The same of the addresses that threads waited for."""
        return self.rows(waits["tgid"], waits["address"], waits["start_ns"])

    def of_entries(self, tables: Tables, call_id: Words, address: Addresses) -> Ints:
        """The same of addresses that calls were given."""
        calls = tables["calls"]
        row = rows_of_ids(calls["call_id"], call_id)
        known, safe = row >= 0, np.maximum(row, 0)
        if not calls.size:
            return self.rows(np.zeros(row.size, np.int64), address, address)
        target = np.where(known, calls["target_tgid"][safe].astype(np.int64), 0)
        return self.rows(target, address, calls["enter_ns"][safe])

    def names(self, rows: Ints) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What lies there, without an offset; offset of the mapping in its file less its start.

        :returns: words, object[n], None where unknown; why it is unknown, object[n], None
            where it is known; int64[n] to be added to an address, for its place in the
            file, and only meant where there is one.
        """
        codes, place = ranks(rows)
        words, whys = np.empty(codes.size, object), np.empty(codes.size, object)
        shift = np.zeros(codes.size, np.int64)
        for number, code in enumerate(codes.tolist()):
            words[number], whys[number] = None, self.why(code) or None
            if code >= 0:
                row = self._table[code]
                words[number] = place_of(row, int(row["start"])).general
                shift[number] = int(row["offset"].astype(np.int64) - row["start"].astype(np.int64))
        return words[place], whys[place], shift[place]

    def has_file(self, rows: Ints) -> np.ndarray:
        """Whether each of these is a mapping of a file, bool[n]."""
        if not self._table.size:
            return np.zeros(rows.size, np.bool_)
        found: np.ndarray = (rows >= 0) & (self._table["inode"][np.maximum(rows, 0)] != 0)
        return found

    # ---- one ---------------------------------------------------------------------------

    def at(self, tgid: int, address: int, at_ns: int) -> Place:
        """What lies at one address; ``why_unknown`` says why that is not known."""
        rows = self.rows(
            np.array([tgid], np.int64), np.array([address], np.uint64), np.array([at_ns], np.uint64)
        )
        return self.place(int(rows[0]), address)

    def place(self, row: int, address: int) -> Place:
        """A number of `rows` in words."""
        if row < 0:
            return Place.unknown(self.why(row), is_recorded=row != NOT_RECORDED)
        return place_of(self._table[row], address)

    def path(self, dev: int, inode: int) -> str | None:
        """The path of a file, by any mapping of it; None where no process met maps it."""
        table = self._table
        rows = np.flatnonzero((table["inode"] == inode) & (table["dev"] == dev) & (inode != 0))
        if not rows.size:
            return None
        last = table[rows[np.argmax(table["seen_ns"][rows])]]
        return place_of(last, int(last["start"])).name

    def why(self, row: int) -> str:
        """Why it is not known what lies there, "" where it is."""
        if row >= 0:
            return ""
        return self._gap if row == NOT_RECORDED else _WORDS[row]

    # ---- the parts ---------------------------------------------------------------------

    def _key(self, tgid: Ints, time: Words) -> Ints:
        """One number for process and time, in their order; of a process not read another's."""
        whose = np.searchsorted(self._tgids, tgid)
        when = np.searchsorted(self._times, time, side="right")
        key: Ints = whose * (self._times.size + 1) + when
        return key

    def _of(self, reading: Ints, tgid: Ints) -> tuple[np.ndarray, Ints]:
        """Whether a reading is one of this process, and its number where it is one at all."""
        safe = np.clip(reading, 0, self._readings.tgid.size - 1)
        return (safe == reading) & (self._readings.tgid[safe] == tgid), safe

    def _in_reading(self, reading: Ints, address: Addresses) -> Ints:
        place = np.searchsorted(self._starts, address, side="right")
        key: Ints = reading * (self._starts.size + 1) + place
        return key

    def _find(self, reading: Ints, address: Addresses) -> Ints:
        """Row of the mapping of a reading that holds each address, -1: none."""
        if not self._mapping.size:
            return np.full(reading.size, -1, np.int64)
        wanted = self._in_reading(reading, address)
        place = np.searchsorted(self._ordered, wanted, side="right") - 1
        safe = np.maximum(place, 0)
        hit = (place >= 0) & (self._of_mapping[safe] == reading) & (address < self._ends[safe])
        found: Ints = np.where(hit, self._mapping[safe], -1)
        return found

    def _same(self, first: Ints, second: Ints) -> np.ndarray:
        """Whether two mappings have the same at the same addresses."""
        one, other = self._table[first], self._table[second]
        same: np.ndarray = one["name"] == other["name"]
        for name in ("inode", "dev"):
            same &= one[name] == other[name]
        is_file = one["inode"] != 0
        same &= ~is_file | (one["offset"] - one["start"] == other["offset"] - other["start"])
        return same

    def _why_not(
        self,
        readings: list[tuple[np.ndarray, Ints]],
        good: list[np.ndarray],
        address: Addresses,
    ) -> Ints:
        """Why no mapping was found, by the readings before and after."""
        found = np.full(address.size, WAS_LEFT_OUT if self.seen["more"] else NOT_READ, np.int64)
        nothing = found.copy()
        for is_own, at in readings:
            states = self._readings.state[at]
            for state, code in _OF_STATE.items():
                found[is_own & (states == state)] = code
            # another process's, which was not there yet
            found[is_own & (states == MAPPED) & (found == nothing)] = HAD_ENDED
        (_, _), (is_next, next_one) = readings
        # what came behind the last reading of it: what is known of the next one, or nothing
        later = np.full(address.size, MAPPED_LATER, np.int64)
        states = self._readings.state[next_one]
        for state, code in _OF_STATE.items():
            later[is_next & (states == state)] = code
        later[is_next & (states == MAPPED)] = HAD_ENDED
        read = good[0] | good[1]
        over = np.zeros(address.size, np.bool_)
        for (_, at), is_good in zip(readings, good, strict=True):
            over |= is_good & (address >= self._readings.cut[at])
        for is_own, at in readings:
            over |= is_own & (self._readings.state[at] == LEFT_OUT)
        gone = np.where(good[1], NOT_MAPPED, later)
        found[read] = np.where(over[read], WAS_LEFT_OUT, gone[read])
        return found


def _readings(table: Table, reading: Ints, first: Ints) -> _Readings:
    rows = table[first]
    cut = np.full(first.size, np.iinfo(np.uint64).max, np.uint64)
    of_cut = np.flatnonzero(table["state"] == CUT)
    cut[reading[of_cut]] = table["start"][of_cut]
    state = rows["state"].astype(np.int64)
    state[state == CUT] = MAPPED
    return _Readings(
        rows["tgid"].astype(np.int64), rows["seen_ns"].copy(), rows["born_ns"].copy(), state, cut
    )


def _counts(table: Table) -> dict[str, int | bool]:
    """Processes whose mappings were read, and those of which something is missing.

    ``more``: others were met that have no row, beyond the bound of what is remembered.
    """

    def count(*states: int) -> int:
        some = np.isin(table["state"], states) & (table["tgid"] != 0)
        return int(np.unique(table["tgid"][some]).size)

    return {
        "processes": count(MAPPED),
        "ended": count(ENDED),
        "denied": count(DENIED),
        "left_out": count(LEFT_OUT, CUT),
        "more": bool((table["tgid"] == 0).any()),
    }
