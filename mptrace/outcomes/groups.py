# SPDX-License-Identifier: GPL-2.0-or-later
"""When each queued folio's group was flushed, what that returned, and what it split.  Pure."""

from dataclasses import dataclass

import numpy as np

from mptrace.arrays import Bools, Ints, Table, Tables
from mptrace.outcomes.joined import CallColumns, EntryColumns
from mptrace.outcomes.lookups import Lookups
from mptrace.recording.joins import pair_ids
from mptrace.recording.layouts import NO_LOOKUP, STRUCT_PAGE_BYTES

#: `flush` where it is not known: beyond every lookup_seq.
FAR = np.int64(1) << 32


@dataclass(frozen=True)
class Groups:
    """Per lookup: the group in which its folio was queued; ``fail_rc``, ``complete`` per call."""

    flush: Ints  # lookups of the call before the group's migration, FAR where unknown
    rc: Ints  # what that migration returned
    known: Bools  # whether that is known
    fail_rc: Ints  # return value of the migration that failed, 0: none
    complete: Bools  # all migrations of the call are there

    @classmethod
    def of(
        cls, tables: Tables, calls: CallColumns, entries: EntryColumns, lookups: Lookups
    ) -> "Groups":
        """The groups by the records of their migrations, else by what the loop did."""
        made, call, complete = in_order(tables["migrations"], calls)
        rc = made["rc"].astype(np.int64)
        fail_rc = np.zeros(calls.count, np.int64)
        failed = np.flatnonzero(rc != 0)
        fail_rc[call[failed]] = rc[failed]

        migration = tables["folios"]["migration_id"][lookups.row]
        which = _migration_of(made, call, migration, lookups, complete)
        found = np.flatnonzero(which >= 0)
        flush = np.full(lookups.row.size, FAR)
        flush[found] = made["lookups_before"].astype(np.int64)[which[found]]
        group_rc = np.zeros(lookups.row.size, np.int64)
        group_rc[found] = rc[which[found]]
        flush = _with_derived(flush, entries, lookups)
        # Whoever looks up more after the flush of a group has moved it.
        moved = lookups.queued & (flush < calls.n_lookups[lookups.call])
        return cls(flush, group_rc, (which >= 0) | moved, fail_rc, complete)


def in_order(migrations: Table, calls: CallColumns) -> tuple[Table, Ints, Bools]:
    """The migrations of calls, by call and time; the call of each; whose are all there."""
    call = calls.index_of(migrations["call_id"])
    own = np.flatnonzero((call >= 0) & (migrations["call_id"] != 0))
    own = own[np.lexsort((migrations["lookups_before"][own], call[own]))]
    call = call[own]
    complete = np.bincount(call, minlength=calls.count) == calls.n_migrations
    return migrations[own], call, complete


def by_order(made: Table, call: Ints, of_lookup: Ints, seq: Ints) -> Ints:
    """The first of ``made`` after each lookup in its call, -1 for none.

    :param call: of each of ``made``, as `in_order` has them.
    :param of_lookup: call of each lookup, ``seq`` its ordinal there.
    """
    if not made.size:
        return np.full(seq.size, -1, np.int64)
    after = np.searchsorted(
        (call << 32) + made["lookups_before"].astype(np.int64),
        (of_lookup << 32) + seq,
        side="right",
    )
    inside = np.minimum(after, made.size - 1)
    found: Ints = np.where((after < made.size) & (call[inside] == of_lookup), inside, -1)
    return found


def _migration_of(
    made: Table, call: Ints, migration_id: Ints, lookups: Lookups, complete: Bools
) -> Ints:
    """Of each queued lookup the place among ``made``, its calls' migrations in order; -1: none."""
    which = np.full(lookups.row.size, -1, np.int64)
    queued = np.flatnonzero(lookups.queued)
    if not made.size or not queued.size:
        return which
    by_id = np.argsort(made["migration_id"], kind="stable")
    ids = made["migration_id"][by_id]
    wanted = migration_id[queued]
    place = np.minimum(np.searchsorted(ids, wanted), made.size - 1)
    named = np.where(ids[place] == wanted, by_id[place], -1)
    # A folio that no event of a migration named: the group by the order.
    nameless = (wanted == 0) & complete[lookups.call[queued]]
    ordered = by_order(made, call, lookups.call[queued], lookups.seq[queued])
    which[queued] = np.where(nameless, ordered, named)
    return which


def _with_derived(flush: Ints, entries: EntryColumns, lookups: Lookups) -> Ints:
    """The flushes, with those whose migration has no record.

    The loop itself says when such a group was flushed: at a change of target or at the
    next direct status.
    """
    lacking = lookups.queued & (flush == FAR) & (lookups.entry >= 0)
    sound = lookups.sound
    sound[entries.call[~entries.readable]] = False
    lacking = np.flatnonzero(lacking & sound[lookups.call])
    if not lacking.size:
        return flush
    has = lookups.of_entry >= 0
    direct = ~has
    direct[has] = ~lookups.queued[lookups.of_entry[has]]
    change = np.concatenate([[True], np.diff(entries.target) != 0])
    change[entries.start[:-1][np.diff(entries.start) > 0]] = True
    place = np.arange(entries.count + 1)
    place[:-1][~(direct | change)] = entries.count
    next_break = np.minimum.accumulate(place[::-1])[::-1]
    looked = np.concatenate([[0], np.cumsum(has)])
    at = lookups.entry[lacking]
    stop = entries.start[entries.call[at] + 1]
    break_at = np.minimum(next_break[at + 1], stop)
    inside = np.minimum(break_at, entries.count - 1)
    own = (break_at < stop) & has[inside] & direct[inside] & ~change[inside]
    derived = flush.copy()
    derived[lacking] = looked[break_at] - looked[entries.start[entries.call[at]]] + own
    return derived


@dataclass(frozen=True)
class Splits:
    """Large folios of lookups that were split inside their migration, and their tails.

    A tail has a record of its own, known by its place behind the head page.
    """

    is_split: Bools  # per lookup
    rows: Ints  # of folios: the heads
    tail_key: Ints  # (lookup of the head << 32) + index of the tail, sorted
    tail_row: Ints  # row of folios of each

    @classmethod
    def of(cls, folios: Table, lookups: Lookups) -> "Splits":
        """Those of the recording."""
        is_split = np.zeros(lookups.row.size, np.bool_)
        none = np.zeros(0, np.int64)
        large = np.flatnonzero(lookups.queued & (lookups.nr_pages > 1))
        tails = np.flatnonzero((folios["lookup_seq"] == NO_LOOKUP) & (folios["call_id"] != 0))
        if not large.size or not tails.size:
            return cls(is_split, none, none, none)
        migration, src = folios["migration_id"], folios["src"]
        either = np.concatenate([lookups.row[large], tails])
        key = pair_ids(
            pair_ids(np.zeros(either.size, np.int64), migration[either]),
            src[either],
        )
        order = np.argsort(key[: large.size], kind="stable")
        place = np.searchsorted(key[: large.size][order], key[large.size :], side="right") - 1
        head = large[order[np.maximum(place, 0)]]
        behind = src[tails] - lookups.src[head]
        own = (place >= 0) & (migration[tails] == migration[lookups.row[head]])
        own &= behind > 0
        own &= behind < lookups.nr_pages[head].astype(np.uint64) * STRUCT_PAGE_BYTES
        if not own.any():
            return cls(is_split, none, none, none)
        head, tails = head[own], tails[own]
        is_split[head] = True
        tail_key = (head << 32) + (behind[own] // STRUCT_PAGE_BYTES).astype(np.int64)
        by_key = np.argsort(tail_key, kind="stable")
        return cls(is_split, lookups.row[is_split], tail_key[by_key], tails[by_key])
