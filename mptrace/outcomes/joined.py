# SPDX-License-Identifier: GPL-2.0-or-later
"""The records of a recording by call: its calls, entries and lookups, joined.  Pure.

What the replay of the kernel's loop (`replay`) works on, and the columns that it
fills in per entry.  Everything is vectorized: no loop runs per page.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Bools, Bytes, Ints, Table, Tables
from mptrace.outcomes.align import align
from mptrace.outcomes.causes.rules import cause_code
from mptrace.recording.joins import pair_ids
from mptrace.recording.layouts import (
    END_DONE,
    END_OPEN,
    END_REUSED,
    ENTRY,
    FOLIO_HUGETLB,
    FOLIO_PMD,
    FOLIO_UNTRACKED,
    LARGE_CHUNK,
    NO_LOOKUP,
    OUTCOMES,
    READ_NODES,
    READ_NOTHING,
    READ_PAGES,
    READ_STATUS,
    STRUCT_PAGE_BYTES,
)
from mptrace.recording.meta import Meta

UNKNOWN, MOVED, ALREADY_THERE, FAILED, NOT_ATTEMPTED = range(len(OUTCOMES))

#: Why an entry was told something else than what became of its page.
#: The last: nothing but that somebody else moved the page again before it was asked for.
ENTRY_REASONS = ("", "duplicate", "same_folio", "moved_again", "split", "moved_later")
DUPLICATE, SAME_FOLIO, MOVED_AGAIN, SPLIT, MOVED_LATER = range(1, len(ENTRY_REASONS))

#: `written`: the kernel stored a status, left it untouched, or the records don't tell.
WRITTEN, UNTOUCHED, CANT_TELL = 1, 0, -1

# Phases without which no verdict is possible.
_ESSENTIAL_PHASES = frozenset({"call", "lookup", "isolate", "move"})
PMD_BYTES = 2 << 20
FAR = np.int64(1) << 32  # beyond every lookup_seq


# ---- the records, by call ------------------------------------------------------


@dataclass
class Calls:
    """Calls by ordinal; everything is indexed by it."""

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
    def of(cls, tables: Tables, meta: Meta) -> "Calls":
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
        lost_anything = lost_anything or bool((records["lost"] > 0).any())
        reason = np.zeros(ids.size, np.uint16)
        closed = has & (column("exit_ns") != 0)
        reason[~closed] = cause_code("lost" if lost_anything else "call_open")
        unseen = {phase.phase for phase in meta.coverage if not phase.is_seen}
        if unseen & _ESSENTIAL_PHASES:
            reason[:] = cause_code("no_coverage")
        # Lookups were counted, and not one folio record of the session is here.
        no_events = not (tables["folios"]["call_id"] != 0).any()
        if no_events:
            reason[(column("n_lookups") > 0) & (reason == 0)] = cause_code("no_events")
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
        place = np.minimum(np.searchsorted(self.ids, call_id), self.count - 1)
        found: Ints = np.where(self.ids[place] == call_id, place, -1)
        return found


@dataclass
class Entries:
    """Entries sorted by (call, entry), none missing up to the bound."""

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
    def of(cls, table: Table, calls: Calls) -> "Entries":
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


@dataclass
class Lookups:
    """Lookups of all calls, sorted by (call, seq), with the fate of their folios."""

    row: Ints  # in the table of folios
    call: Ints
    seq: Ints
    rc: Ints
    isolate_rc: Ints
    address: npt.NDArray[np.uint64]
    src: npt.NDArray[np.uint64]
    dst: npt.NDArray[np.uint64]
    nid: Ints
    dst_nid: Ints
    nr_pages: Ints
    entry: Ints  # row of entries, -1
    of_entry: Ints  # lookup of each entry, -1
    misfit: Bools  # per call
    complete: Bools  # per call
    queued: Bools
    whole: Bools  # one mapping has it all, from a multiple of its size on
    fate: Bytes  # of a queued folio: an outcome
    fate_cause: npt.NDArray[np.uint16]  # where its fate is unknown
    fate_row: Ints  # row of folios that decided
    split: Bools
    split_rows: Ints
    tail_key: Ints  # (lookup of the head << 32) + index of a split's tail, sorted
    tail_row: Ints  # row of folios of each
    flush: Ints  # lookups of the call before the migration of a queued folio
    group_rc: Ints  # what that migration returned
    group_known: Bools
    final: Ints  # node after the last move of its page in the call, -1
    fail_rc: Ints  # per call: return value of the migration that failed, 0: none
    migrations_complete: Bools  # per call

    @classmethod
    def of(cls, tables: Tables, calls: Calls, entries: Entries) -> "Lookups":
        folios = tables["folios"]
        call = calls.index_of(folios["call_id"])
        row = np.flatnonzero((call >= 0) & (folios["lookup_seq"] != NO_LOOKUP))
        key = (call[row] << 32) + folios["lookup_seq"][row].astype(np.int64)
        order = np.argsort(key, kind="stable")
        row, key = row[order], key[order]
        if key.size:
            single = np.concatenate([np.diff(key) != 0, [True]])
            row, key = row[single], key[single]
        call, seq = key >> 32, key & 0xFFFFFFFF

        def column(name: str) -> Ints:
            return folios[name][row].astype(np.int64)

        complete = np.bincount(call, minlength=calls.count) == calls.n_lookups
        complete &= ~calls.returns_missed
        alignment = align(
            call_start=entries.start,
            entry_address=entries.address,
            entry_readable=entries.readable,
            lookup_call=call,
            lookup_seq=seq,
            lookup_address=folios["address"][row],
            complete=complete,
            every=calls.n_lookups == np.diff(entries.start),
        )
        isolate_rc, move_rc = column("isolate_rc"), column("move_rc")
        queued = isolate_rc == 0
        end, flags = folios["end"][row], folios["flags"][row]
        fate, fate_cause = fates_of(move_rc, end, flags)
        self = cls(
            row=row,
            call=call,
            seq=seq,
            rc=column("lookup_rc"),
            isolate_rc=isolate_rc,
            address=folios["address"][row],
            src=folios["src"][row],
            dst=folios["dst"][row],
            nid=column("src_nid"),
            dst_nid=column("dst_nid"),
            nr_pages=column("nr_pages"),
            entry=alignment.entry_of,
            of_entry=alignment.lookup_of,
            misfit=alignment.misfit,
            complete=complete,
            queued=queued,
            whole=((flags & FOLIO_HUGETLB) != 0)
            | (((flags & FOLIO_PMD) != 0) & (column("n_remap") == 1)),
            fate=fate,
            fate_cause=fate_cause,
            fate_row=row.copy(),
            split=np.zeros(row.size, np.bool_),
            split_rows=np.zeros(0, np.int64),
            tail_key=np.zeros(0, np.int64),
            tail_row=np.zeros(0, np.int64),
            flush=np.full(row.size, FAR),
            group_rc=np.zeros(row.size, np.int64),
            group_known=np.zeros(row.size, np.bool_),
            final=np.full(row.size, -1, np.int64),
            fail_rc=np.zeros(calls.count, np.int64),
            migrations_complete=np.zeros(calls.count, np.bool_),
        )
        self._join_migrations(tables["migrations"], folios["migration_id"][row], calls)
        self._derive_flushes(entries)
        # Whoever looks up more after the flush of a group has moved it.
        moved = self.queued & (self.flush < calls.n_lookups[self.call])
        self.group_known |= moved
        self._join_splits(folios)
        return self

    def target(self, entries: Entries) -> Ints:
        """Node that each lookup was made for; of lost entries where the folio went, or -1."""
        if not entries.count:
            return self.dst_nid
        at = np.maximum(self.entry, 0)
        known = (self.entry >= 0) & entries.readable[at]
        return np.where(known, entries.target[at], self.dst_nid)

    def _join_migrations(
        self, migrations: Table, migration_id: npt.NDArray[np.uint64], calls: Calls
    ) -> None:
        call = calls.index_of(migrations["call_id"])
        own = np.flatnonzero((call >= 0) & (migrations["call_id"] != 0))
        own = own[np.lexsort((migrations["lookups_before"][own], call[own]))]
        call = call[own]
        before = migrations["lookups_before"][own].astype(np.int64)
        rc = migrations["rc"][own].astype(np.int64)
        ids = migrations["migration_id"][own]
        self.migrations_complete = np.bincount(call, minlength=calls.count) == calls.n_migrations
        failed = np.flatnonzero(rc != 0)
        self.fail_rc[call[failed]] = rc[failed]

        queued = np.flatnonzero(self.queued)
        if own.size and queued.size:
            by_id = np.argsort(ids, kind="stable")
            wanted = migration_id[queued]
            place = np.minimum(np.searchsorted(ids[by_id], wanted), own.size - 1)
            which = np.where(ids[by_id][place] == wanted, by_id[place], -1)
            # A folio that no event of a migration named: the group by the order.
            nameless = (wanted == 0) & self.migrations_complete[self.call[queued]]
            after = np.searchsorted(
                (call << 32) + before,
                (self.call[queued] << 32) + self.seq[queued],
                side="right",
            )
            inside = np.minimum(after, own.size - 1)
            ordered = np.where((after < own.size) & (call[inside] == self.call[queued]), inside, -1)
            which = np.where(nameless, ordered, which)
            found = which >= 0
            self.flush[queued[found]] = before[which[found]]
            self.group_rc[queued[found]] = rc[which[found]]
            self.group_known[queued[found]] = True

    def _derive_flushes(self, entries: Entries) -> None:
        # Where the record of a migration was lost, the loop itself says when the
        # group was flushed: at a change of target or at the next direct status.
        lacking = self.queued & (self.flush == FAR) & (self.entry >= 0)
        sound = self.complete & ~self.misfit
        sound[entries.call[~entries.readable]] = False
        lacking = np.flatnonzero(lacking & sound[self.call])
        if not lacking.size:
            return
        has = self.of_entry >= 0
        direct = ~has
        direct[has] = ~self.queued[self.of_entry[has]]
        change = np.concatenate([[True], np.diff(entries.target) != 0])
        change[entries.start[:-1][np.diff(entries.start) > 0]] = True
        place = np.arange(entries.count + 1)
        place[:-1][~(direct | change)] = entries.count
        next_break = np.minimum.accumulate(place[::-1])[::-1]
        looked = np.concatenate([[0], np.cumsum(has)])
        at = self.entry[lacking]
        stop = entries.start[entries.call[at] + 1]
        break_at = np.minimum(next_break[at + 1], stop)
        inside = np.minimum(break_at, entries.count - 1)
        own = (break_at < stop) & has[inside] & direct[inside] & ~change[inside]
        self.flush[lacking] = looked[break_at] - looked[entries.start[entries.call[at]]] + own

    def _join_splits(self, folios: Table) -> None:
        # A large folio may be split inside its migration; its tails then have
        # records of their own, known by their place behind the head page.
        large = np.flatnonzero(self.queued & (self.nr_pages > 1))
        tails = np.flatnonzero((folios["lookup_seq"] == NO_LOOKUP) & (folios["call_id"] != 0))
        if not large.size or not tails.size:
            return
        migration, src = folios["migration_id"], folios["src"]
        key = pair_ids(
            pair_ids(
                np.zeros(large.size + tails.size, np.int64),
                migration[np.concatenate([self.row[large], tails])],
            ),
            src[np.concatenate([self.row[large], tails])],
        )
        order = np.argsort(key[: large.size], kind="stable")
        place = np.searchsorted(key[: large.size][order], key[large.size :], side="right") - 1
        head = large[order[np.maximum(place, 0)]]
        behind = src[tails] - self.src[head]
        own = (place >= 0) & (migration[tails] == migration[self.row[head]])
        own &= (behind > 0) & (behind < self.nr_pages[head].astype(np.uint64) * STRUCT_PAGE_BYTES)
        if not own.any():
            return
        head, tails = head[own], tails[own]
        self.split[head] = True
        self.split_rows = self.row[np.flatnonzero(self.split)]
        tail_key = (head << 32) + (behind[own] // STRUCT_PAGE_BYTES).astype(np.int64)
        by_key = np.argsort(tail_key, kind="stable")
        self.tail_key, self.tail_row = tail_key[by_key], tails[by_key]


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


def fates_of(move_rc: Ints, end: Bytes, flags: Bytes) -> tuple[Bytes, npt.NDArray[np.uint16]]:
    # What became of isolated folios.  A hugetlb folio ends with a putback even
    # when it moved: the last move decides.
    moved = move_rc == 0
    untracked = (flags & FOLIO_UNTRACKED) != 0
    tests = [
        (untracked, UNKNOWN, "lost"),
        (moved, MOVED, ""),
        (end == END_OPEN, UNKNOWN, "call_open"),
        (end == END_REUSED, UNKNOWN, "lost"),
        (end == END_DONE, UNKNOWN, "freed"),
    ]
    fate = np.select([test for test, _, _ in tests], [fate for _, fate, _ in tests], FAILED)
    cause = np.select([test for test, _, _ in tests], [cause_code(name) for _, _, name in tests], 0)
    return fate.astype(np.uint8), cause.astype(np.uint16)


# ---- what the replay fills in ------------------------------------------------


@dataclass
class Replay:
    """What the loop did with each entry, and where each page's last move took it."""

    processed: Bools  # the loop came to it
    sure: Bools  # whether it did is known
    written: npt.NDArray[np.int8]
    expected: Ints  # status that it stored, or would have
    outcome: Bytes
    cause: npt.NDArray[np.uint16]  # where unknown
    reason: Bytes  # ENTRY_REASONS
    final: Ints  # node after the page's last move in the call, -1
    folio: Ints
    first_left: Ints  # per call: ordinal of the first entry not processed
    refused: Bools  # per call
    own: Bools  # the lookup of the entry itself decided


def set_unknown(replay: Replay, where: Bools, cause: npt.NDArray[Any] | int) -> None:
    replay.outcome[where] = UNKNOWN
    replay.reason[where] = 0
    replay.final[where] = -1
    replay.cause[where] = np.broadcast_to(cause, where.shape)[where]
