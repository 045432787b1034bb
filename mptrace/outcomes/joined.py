# SPDX-License-Identifier: GPL-2.0-or-later
"""The calls of a recording and their entries, as columns, and the codes in them.  Pure.

Everything is vectorized: no loop runs per page.  `lookups` joins the kernel's lookups
to the entries, `groups` the migrations to the lookups.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Bools, Bytes, Ints, Table, Tables
from mptrace.outcomes.causes.rules import cause_code
from mptrace.recording.detail import LEVEL_ALL, LEVEL_OUTCOMES
from mptrace.recording.joins import runs
from mptrace.recording.layouts import (
    END_UNTRACED,
    ENTRY,
    LARGE_CHUNK,
    OUTCOMES,
    READ_NODES,
    READ_NOTHING,
    READ_PAGES,
    READ_STATUS,
)
from mptrace.recording.meta import Meta
from mptrace.recording.slices import has_lookups, lost_in_calls

UNKNOWN, MOVED, ALREADY_THERE, FAILED, NOT_ATTEMPTED = range(len(OUTCOMES))

#: Why an entry was told something else than what became of its page.
#: The last: nothing but that somebody else moved the page again before it was asked for.
ENTRY_REASONS = ("", "duplicate", "same_folio", "moved_again", "split", "moved_later")
DUPLICATE, SAME_FOLIO, MOVED_AGAIN, SPLIT, MOVED_LATER = range(1, len(ENTRY_REASONS))

#: `written`: the kernel stored a status, left it untouched, or the records don't tell.
WRITTEN, UNTOUCHED, CANT_TELL = 1, 0, -1

# Phases without which no verdict is possible, by the level of detail.
_ESSENTIAL_PHASES = {
    LEVEL_ALL: frozenset({"call", "lookup", "isolate", "move"}),
    LEVEL_OUTCOMES: frozenset({"call", "lookup", "migration", "putback"}),
}
PMD_BYTES = 2 << 20


# ---- the records, by call ------------------------------------------------------


@dataclass(frozen=True)
class CallColumns:
    """Columns of the calls, by ordinal; everything is indexed by it."""

    ids: npt.NDArray[np.uint64]
    row: Ints  # in the table of calls, -1: no record
    ret: Ints
    flags: Ints
    nr_pages: npt.NDArray[np.uint64]
    n_lookups: Ints
    n_migrations: Ints
    reason: npt.NDArray[np.uint16]  # cause that makes every entry unknown, 0: none
    began: Bools  # the loop was entered, by the drain before it or a lookup in it
    never_began: Bools  # the drain is seen, and there was none
    returns_missed: Bools  # in the shadow of one lookups may have gone uncounted
    lost_code: int
    memory_nodes: Ints
    page_size: int
    max_entries: int
    beyond_bound: int

    @classmethod
    def of(cls, tables: Tables, meta: Meta) -> "CallColumns":
        records = tables["calls"]
        asks = np.flatnonzero(records["nodes_ptr"] != 0)
        queries = records["call_id"][records["nodes_ptr"] == 0]
        known = records["call_id"][asks]
        others = np.unique(tables["entries"]["call_id"])
        if queries.size:
            others = others[~np.isin(others, queries)]
        ids = np.unique(np.concatenate([known, others]))
        row = np.full(ids.size, -1, np.int64)
        row[np.searchsorted(ids, known)] = asks
        has = row >= 0

        def column(name: str) -> Ints:
            values = np.zeros(ids.size, np.int64)
            values[has] = records[name][row[has]].astype(np.int64)
            return values

        nr_pages = np.zeros(ids.size, np.uint64)
        nr_pages[has] = records["nr_pages"][row[has]]
        bound = meta.max_entries
        over = nr_pages[nr_pages > bound]
        beyond = sum(int(count) - bound for count in over)

        lost = {cause for cause, count in meta.lost.items() if count}
        lost_anything = bool(lost)
        lost_anything = lost_anything or lost_in_calls(tables)
        reason = np.zeros(ids.size, np.uint16)
        closed = has & (column("exit_ns") != 0)
        reason[~closed] = cause_code("lost" if lost_anything else "call_open")
        unseen = {phase.phase for phase in meta.coverage if not phase.is_seen}
        if unseen & _ESSENTIAL_PHASES.get(meta.detail, _ESSENTIAL_PHASES[LEVEL_ALL]):
            reason[:] = cause_code("no_coverage")
        # Lookups were counted, and not one folio record of the session is here.
        no_events = not has_lookups(tables)
        if no_events:
            reason[(column("n_lookups") > 0) & (reason == 0)] = cause_code("no_events")
        # how a call ended that failed depends on what became of its last lookup
        folios = tables["folios"]
        vague = folios[(folios["end"] == END_UNTRACED) & (folios["isolate_rc"] == 0)]
        ordinal = np.searchsorted(ids, vague["call_id"])
        last = column("n_lookups")[ordinal] - 1 == vague["lookup_seq"]
        unsure = np.unique(ordinal[last])
        unsure = unsure[(column("ret")[unsure] != 0) & (reason[unsure] == 0)]
        reason[unsure] = cause_code("not_traced")
        returns_missed = (column("lost") > 0) & ("return_missed" in lost)
        # lru_cache_disable() or lru_add_drain_all(): the first thing that do_pages_move()
        # does, and that find_mm_struct() before it does not.
        sees_drains = any((row.phase, row.state) == ("drain", "proved") for row in meta.coverage)
        began = (column("n_drain") > 0) | (column("n_lookups") > 0) | (column("n_migrations") > 0)
        return cls(
            ids=ids,
            row=row,
            ret=column("ret"),
            flags=column("flags"),
            nr_pages=nr_pages,
            n_lookups=column("n_lookups"),
            n_migrations=column("n_migrations"),
            reason=reason,
            began=began,
            never_began=~began & has & sees_drains & ~returns_missed,
            returns_missed=returns_missed,
            lost_code=cause_code("no_events" if no_events else "lost"),
            memory_nodes=np.array([node.nid for node in meta.nodes if node.has_memory], np.int64),
            page_size=meta.kernel.page_size,
            max_entries=bound,
            beyond_bound=beyond,
        )

    @property
    def count(self) -> int:
        return int(self.ids.size)

    def index_of(self, call_id: npt.NDArray[np.uint64]) -> Ints:
        """Ordinal of each call_id, -1 for those that are none of these calls."""
        if not self.count:
            return np.full(call_id.size, -1, np.int64)
        heads, lengths = runs(call_id)
        place = np.minimum(np.searchsorted(self.ids, heads), self.count - 1)
        found: Ints = np.where(self.ids[place] == heads, place, -1)
        return found if lengths is None else np.repeat(found, lengths)


@dataclass(frozen=True)
class EntryColumns:
    """Columns of the entries, sorted by (call, entry), none missing up to the bound."""

    start: Ints  # shape (calls + 1,)
    call: Ints
    entry: Ints
    address: npt.NDArray[np.uint64]
    target: Ints
    before: Ints
    after: Ints
    unread: Bytes
    unread_before: Bytes
    absent: Bools  # no row was recorded for it, though mptrace went on reading

    @classmethod
    def of(cls, table: Table, calls: CallColumns) -> "EntryColumns":
        call = calls.index_of(table["call_id"])
        order = np.flatnonzero(call >= 0)
        call, entry = call[order], table["entry"][order].astype(np.int64)
        key = call * (np.int64(1) << 32) + entry
        if key.size and (np.diff(key) <= 0).any():
            by_key = np.argsort(key, kind="stable")
            order, key = order[by_key], key[by_key]
        rows = table if order.size == table.size and _is_range(order) else table[order]
        if key.size and (np.diff(key) == 0).any():
            rows, key = _merge_twins(rows, key)
        # Rows that were lost: the call's length says how many there should be.
        sizes = np.where(calls.nr_pages <= calls.max_entries, calls.nr_pages, 0).astype(np.int64)
        have = np.bincount(key >> 32, minlength=calls.count)
        lacking = np.flatnonzero(have < sizes)
        absent = np.zeros(key.size, np.bool_)
        if lacking.size:
            whole = np.repeat(lacking << 32, sizes[lacking]) + _count_up(sizes[lacking])
            holes = np.setdiff1d(whole, key, assume_unique=True)
            filler = np.zeros(holes.size, ENTRY)
            filler["entry"] = holes & 0xFFFFFFFF
            filler["target_nid"] = -1
            filler["unread"] = READ_NOTHING
            filler["unread_before"] = READ_STATUS
            rows = np.concatenate([rows, filler])
            absent = np.concatenate([absent, np.ones(holes.size, np.bool_)])
            key = np.concatenate([key, holes])
            by_key = np.argsort(key, kind="stable")
            rows, absent, key = rows[by_key], absent[by_key], key[by_key]
            absent[_after_the_unreadable(rows["unread"], absent, key)] = False
        call = key >> 32
        return cls(
            start=np.searchsorted(call, np.arange(calls.count + 1)),
            call=call,
            entry=key & 0xFFFFFFFF,
            address=np.ascontiguousarray(rows["address"]),
            target=rows["target_nid"].astype(np.int64),
            before=rows["status_before"].astype(np.int64),
            after=rows["status_after"].astype(np.int64),
            unread=np.ascontiguousarray(rows["unread"]),
            unread_before=np.ascontiguousarray(rows["unread_before"]),
            absent=absent,
        )

    @property
    def count(self) -> int:
        return int(self.call.size)

    @property
    def readable(self) -> Bools:
        """Address and target of the entry are known."""
        known: Bools = (self.unread & (READ_PAGES | READ_NODES)) == 0
        return known

    @property
    def changed(self) -> Bools:
        """The status is known before and after the call, and differs."""
        differ: Bools = self.compared & (self.before != self.after)
        return differ

    @property
    def compared(self) -> Bools:
        """The status is known before and after the call."""
        known: Bools = ((self.unread & READ_STATUS) == 0) & (self.unread_before == 0)
        return known

    @property
    def ordinal(self) -> Ints:
        """Place of each entry in its call, counting from 0."""
        places: Ints = np.arange(self.count) - self.start[self.call]
        return places


def _merge_twins(rows: Table, key: Ints) -> tuple[Table, Ints]:
    # Two rows of one entry: each side of the call may have come in its own row.
    first = np.flatnonzero(np.concatenate([[True], np.diff(key) != 0]))
    merged = rows[first].copy()
    group = np.cumsum(np.concatenate([[0], (np.diff(key) != 0).astype(np.int64)]))
    for source in np.setdiff1d(np.arange(rows.size), first):
        target = group[source]
        row, kept = rows[source], merged[target]
        for bit, name in ((READ_PAGES, "address"), (READ_NODES, "target_nid")):
            if kept["unread"] & bit and not row["unread"] & bit:
                merged[name][target] = row[name]
                merged["unread"][target] &= 0xFF ^ bit
        if not row["unread"] & READ_STATUS:
            merged["status_after"][target] = row["status_after"]
            merged["unread"][target] &= 0xFF ^ READ_STATUS
        if kept["unread_before"] and not row["unread_before"]:
            merged["status_before"][target] = row["status_before"]
            merged["unread_before"][target] = 0
    return merged, key[first]


def _is_range(order: Ints) -> bool:
    return bool((order == np.arange(order.size)).all())


def _count_up(sizes: Ints) -> Ints:
    """0, 1, .. size - 1 for each size, one after the other."""
    numbers: Ints = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return numbers


def _after_the_unreadable(unread: Bytes, absent: Bools, key: Ints) -> Ints:
    """Absent rows that follow a large chunk in which nothing could be read: BPF stops there."""
    present, gone = np.flatnonzero(~absent), np.flatnonzero(absent)
    if not present.size:
        return gone[:0]
    place = np.searchsorted(present, gone) - 1
    last = present[np.maximum(place, 0)]
    nothing = unread[last] == READ_NOTHING
    nothing &= ((key[last] & 0xFFFFFFFF) + 1) % LARGE_CHUNK == 0
    found: Ints = gone[(place >= 0) & (key[last] >> 32 == key[gone] >> 32) & nothing]
    return found
