# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's loop (do_pages_move() in mm/migrate.c), replayed over the arrays.  Pure.

* an entry without a lookup has no suitable mapping: -EFAULT, stored at once;
* an entry whose folio was not isolated gets its status at once, and that
  flushes the group collected so far;
* an isolated one is queued; consecutive queued entries of one target node are
  a group, moved by one migrate_pages(), and get their status only when that
  returns 0.  Anything else ends the loop: what comes later is never attempted.

Sources: mm/migrate.c of 6.1.y and 6.12.y, do_pages_move(),
move_pages_and_store_status(), add_page_for_migration(), add_folio_for_migration().

Everything is vectorized over the whole recording: no loop runs per page, and
none per call but for the few calls whose lookups don't fit in order.
"""

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mptrace.align import align, any_near, pair_ids, rows_of_calls
from mptrace.diagnose import cause_code
from mptrace.records import (
    END_DONE,
    END_OPEN,
    END_REUSED,
    ENTRY,
    FOLIO_HUGETLB,
    FOLIO_PMD,
    FOLIO_UNTRACKED,
    ISOLATE_NOT_TRIED,
    LOOKUP_NONE,
    MAX_ENTRIES,
    NO_LOOKUP,
    OUTCOMES,
    READ_NODES,
    READ_PAGES,
    READ_STATUS,
)

Table = npt.NDArray[np.void]
Tables = Mapping[str, Table]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

UNKNOWN, MOVED, ALREADY_THERE, FAILED, NOT_ATTEMPTED = range(len(OUTCOMES))

#: Why an entry was told something else than what became of its page.
ENTRY_REASONS = ("", "duplicate", "same_folio", "moved_again", "split")
_DUPLICATE, _SAME_FOLIO, _MOVED_AGAIN, _SPLIT = range(1, len(ENTRY_REASONS))

#: `written`: the kernel stored a status, left it untouched, or the records don't tell.
WRITTEN, UNTOUCHED, CANT_TELL = 1, 0, -1

# Phases without which no verdict is possible.
_ESSENTIAL_PHASES = frozenset({"call", "lookup", "isolate", "move"})
_REFUSALS = (-errno.EINVAL, -errno.EPERM, -errno.ESRCH, -errno.EINTR)
_PMD_BYTES = 2 << 20
_STRUCT_PAGE_BYTES = 64
_FAR = np.int64(1) << 32  # beyond every lookup_seq


def _is_seen(phase: Mapping[str, Any]) -> bool:
    """Whether a phase of the coverage is attached, and no calibration refuted it."""
    refuted = phase.get("state") == "unproved" and phase.get("expected") != phase.get("seen")
    return phase.get("state") != "missing" and not refuted


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
    lost_code: int
    memory_nodes: Ints
    page_size: int
    max_entries: int
    beyond_bound: int

    @classmethod
    def of(cls, tables: Tables, meta: Mapping[str, Any]) -> "Calls":
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
        bound = int(meta.get("max_entries") or MAX_ENTRIES)
        over = nr_pages[nr_pages > bound]
        beyond = sum(int(count) - bound for count in over)

        lost_anything = any(int(count or 0) > 0 for count in (meta.get("lost") or {}).values())
        lost_anything = lost_anything or bool((records["lost"] > 0).any())
        reason = np.zeros(ids.size, np.uint16)
        closed = has & (column("exit_ns") != 0)
        reason[~closed] = cause_code("lost" if lost_anything else "call_open")
        unseen = {phase.get("phase") for phase in meta.get("coverage") or () if not _is_seen(phase)}
        if unseen & _ESSENTIAL_PHASES:
            reason[:] = cause_code("no_coverage")
        # Lookups were counted, and not one folio record of the session is here.
        no_events = not (tables["folios"]["call_id"] != 0).any()
        if no_events:
            reason[(column("n_lookups") > 0) & (reason == 0)] = cause_code("no_events")
        return cls(
            ids=ids,
            row=row,
            ret=column("ret"),
            flags=column("flags"),
            nr_pages=nr_pages,
            n_lookups=column("n_lookups"),
            n_migrations=column("n_migrations"),
            reason=reason,
            lost_code=cause_code("no_events" if no_events else "lost"),
            memory_nodes=np.array(
                [
                    node["nid"]
                    for node in meta.get("nodes") or ()
                    if node.get("memory_bytes", 1) > 0
                ],
                np.int64,
            ),
            page_size=int((meta.get("kernel") or {}).get("page_size") or 4096),
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
    absent: Bools  # no row was recorded for it

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
            filler["unread"] = READ_PAGES | READ_NODES | READ_STATUS
            filler["unread_before"] = READ_STATUS
            rows = np.concatenate([rows, filler])
            absent = np.concatenate([absent, np.ones(holes.size, np.bool_)])
            key = np.concatenate([key, holes])
            by_key = np.argsort(key, kind="stable")
            rows, absent, key = rows[by_key], absent[by_key], key[by_key]
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
        fate, fate_cause = _fates(move_rc, end, flags)
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
            flush=np.full(row.size, _FAR),
            group_rc=np.zeros(row.size, np.int64),
            group_known=np.zeros(row.size, np.bool_),
            final=np.full(row.size, -1, np.int64),
            fail_rc=np.zeros(calls.count, np.int64),
            migrations_complete=np.zeros(calls.count, np.bool_),
        )
        self._join_migrations(tables["migrations"], folios["migration_id"][row], calls)
        self._derive_flushes(entries)
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
        # A call that returned 0 had no group that failed (since 6.1).
        fine = self.queued & (calls.ret[self.call] == 0) & (calls.row[self.call] >= 0)
        fine &= ~self.group_known
        self.group_known |= fine

    def _derive_flushes(self, entries: Entries) -> None:
        # Where the record of a migration was lost, the loop itself says when the
        # group was flushed: at a change of target or at the next direct status.
        lacking = self.queued & (self.flush == _FAR) & (self.entry >= 0)
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
        own &= (behind > 0) & (behind < self.nr_pages[head].astype(np.uint64) * _STRUCT_PAGE_BYTES)
        if not own.any():
            return
        head, tails = head[own], tails[own]
        self.split[head] = True
        self.split_rows = self.row[np.flatnonzero(self.split)]
        tail_key = (head << 32) + (behind[own] // _STRUCT_PAGE_BYTES).astype(np.int64)
        by_key = np.argsort(tail_key, kind="stable")
        self.tail_key, self.tail_row = tail_key[by_key], tails[by_key]


def _fates(move_rc: Ints, end: Bytes, flags: Bytes) -> tuple[Bytes, npt.NDArray[np.uint16]]:
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


# ---- the replay ------------------------------------------------------------------


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


def replay_loop(tables: Tables, calls: Calls, entries: Entries, lookups: Lookups) -> Replay:
    call, ordinal = entries.call, entries.ordinal
    has = lookups.of_entry >= 0
    look = np.maximum(lookups.of_entry, 0)
    if not lookups.row.size:
        has = np.zeros(entries.count, np.bool_)

    def of(values: npt.NDArray[Any], absent: int) -> npt.NDArray[Any]:
        """A column of lookups by entry."""
        if not lookups.row.size:
            return np.full(entries.count, absent, values.dtype)
        return np.where(has, values[look], np.array(absent, values.dtype))

    queued = of(lookups.queued, 0).astype(np.bool_)
    whole = (lookups.complete & ~lookups.misfit)[call]
    # What the loop stores for the entry by itself.
    target = entries.target
    rc, isolate_rc = of(lookups.rc, 0), of(lookups.isolate_rc, ISOLATE_NOT_TRIED)
    nid = of(lookups.nid, -1)
    there = has & ~queued & (rc == 0) & (isolate_rc == ISOLATE_NOT_TRIED) & (nid == target)
    expected = np.select(
        [
            ~has,
            queued | there,
            rc == LOOKUP_NONE,
            rc == -errno.EEXIST,
            rc < 0,
            isolate_rc != ISOLATE_NOT_TRIED,
        ],
        [-errno.EFAULT, target, -errno.ENOENT, -errno.EFAULT, rc, -errno.EBUSY],
        -errno.EACCES,
    )
    # A page was found and the status says none: the zero page, or a device's
    # (folio_walk_start() with FW_ZEROPAGE, since 6.12).
    bare = has & ~queued & (rc == 0) & (isolate_rc == ISOLATE_NOT_TRIED)
    told = (entries.unread & READ_STATUS) == 0
    told_now = told & (entries.changed | (calls.ret != -errno.EFAULT)[call])
    special = bare & told_now & np.isin(entries.after, (-errno.EFAULT, -errno.ENOENT))
    expected = np.where(special, entries.after, expected)
    there &= ~special

    end, refused = _loop_ends(calls, entries, lookups, expected)
    sure_end = end >= 0
    # Without a lookup: passed over before the loop's end, and before the last lookup.
    last = _last_lookup(lookups, calls.count) - entries.start[:-1]
    passed = (ordinal < end[call]) | (ordinal < last[call])
    processed = has | passed
    left = sure_end[call] & (ordinal >= end[call]) & ~has
    known = has | (passed & whole) | left

    group_known = of(lookups.group_known, 0).astype(np.bool_)
    group_rc = of(lookups.group_rc, 0)
    written = np.select(
        [
            ~known,
            left,
            ~queued,
            group_known & (group_rc == 0),
            group_known,
        ],
        [CANT_TELL, UNTOUCHED, WRITTEN, WRITTEN, UNTOUCHED],
        CANT_TELL,
    ).astype(np.int8)
    # In a call that ended with -EFAULT, and in the last group of any that ended
    # with an error (the first error wins), the store itself may have failed.
    broken = (calls.ret == -errno.EFAULT)[call]
    broken |= (calls.ret < 0)[call] & queued & (of(lookups.flush, 0) >= calls.n_lookups[call])
    written[broken & (written == WRITTEN) & ~entries.changed] = CANT_TELL

    outcome = np.select(
        [~known, left, queued, there],
        [UNKNOWN, NOT_ATTEMPTED, of(lookups.fate, UNKNOWN).astype(np.int64), ALREADY_THERE],
        FAILED,
    ).astype(np.uint8)
    cause = np.where(known & queued, of(lookups.fate_cause, 0), 0).astype(np.uint16)
    fits = lookups.complete & np.where(lookups.misfit, True, lookups.migrations_complete)
    code = np.where(fits, cause_code("ambiguous"), calls.lost_code).astype(np.uint16)
    cause = np.where(known, cause, code[call])

    replay = Replay(
        processed=processed,
        sure=known,
        written=written,
        expected=expected,
        outcome=outcome,
        cause=cause,
        reason=np.zeros(entries.count, np.uint8),
        final=np.full(entries.count, -1, np.int64),
        folio=of(lookups.fate_row, -1),
        first_left=end,
        refused=refused,
        own=has,
    )
    _follow_folios(calls, entries, lookups, replay)
    _resolve_splits(tables["folios"], calls, entries, lookups, replay)
    _doubt_incomplete(calls, entries, lookups, replay)
    _follow_pages(calls, entries, lookups, replay)

    unread = ~entries.readable
    _set_unknown(replay, unread, np.where(entries.absent, calls.lost_code, cause_code("unread")))
    whole_call = calls.reason[call]
    _set_unknown(replay, whole_call != 0, whole_call)
    replay.written[whole_call != 0] = CANT_TELL
    replay.written[unread & ~left] = CANT_TELL
    return replay


def _set_unknown(replay: Replay, where: Bools, cause: npt.NDArray[Any] | int) -> None:
    replay.outcome[where] = UNKNOWN
    replay.reason[where] = 0
    replay.final[where] = -1
    replay.cause[where] = np.broadcast_to(cause, where.shape)[where]


def _last_lookup(lookups: Lookups, calls: int) -> Ints:
    """Row of the last entry of each call that was looked up; the call's start - 1 for none."""
    last = np.full(calls, -1, np.int64)
    matched = lookups.entry >= 0
    # Lookups are in order, so the last assignment of a call is its last lookup.
    last[lookups.call[matched]] = lookups.entry[matched]
    return last


def _loop_ends(
    calls: Calls, entries: Entries, lookups: Lookups, expected: Ints
) -> tuple[Ints, Bools]:
    """Number of entries that each call's loop processed, -1 where unknown; and
    whether the call was refused before its loop began."""
    count = calls.count
    size = np.diff(entries.start)
    start = entries.start[:-1]
    ret, fail_rc = calls.ret, lookups.fail_rc
    end = np.full(count, -1, np.int64)
    last_row = _last_lookup(lookups, count)
    last = np.where(last_row >= 0, last_row - start, -1)

    refused = np.isin(ret, _REFUSALS) & (calls.n_lookups == 0) & (calls.n_migrations == 0)
    end[refused] = 0
    # The loop ran to the end of the arrays.
    through = (ret == 0) & (fail_rc == 0)
    end[through] = size[through]
    # A positive return value adds the entries that were never processed to what
    # the migration returned, less one where an entry's own status came first
    # ("We have accounted for page i"): it names the place exactly.
    counted = (ret > 0) & (fail_rc > 0)
    place = calls.nr_pages.astype(np.int64) + fail_rc - ret
    counted &= (place > last) & (place <= calls.nr_pages.astype(np.int64))
    end[counted] = place[counted]

    # Errors: nothing but the records tells where, so all of them must be there.
    whole = lookups.complete & ~lookups.misfit & lookups.migrations_complete
    whole[entries.call[~entries.readable]] = False
    error = (ret < 0) & ~refused & whole
    next_row = start + last + 1
    inside = last + 1 < size
    safe = np.minimum(next_row, max(entries.count - 1, 0))
    # 1. A group failed: its flush was caused by the end, by another node, or by
    #    the status of the entry behind it.
    queued_last = np.zeros(count, np.bool_)
    target_last = np.full(count, -1, np.int64)
    some = last_row >= 0
    if lookups.row.size and entries.count:
        look = np.maximum(lookups.of_entry[np.maximum(last_row, 0)], 0)
        queued_last[some] = lookups.queued[look[some]]
        target_last[some] = entries.target[last_row[some]]
        same = inside & (entries.target[safe] == target_last) & entries.readable[safe]
    else:
        same = np.zeros(count, np.bool_)
    failed = error & (fail_rc != 0)
    end[failed] = (last + 1 + (queued_last & same))[failed]

    # 2. An entry's node or the arrays are bad.
    rest = error & (fail_rc == 0)
    tail = np.flatnonzero(rest)
    if tail.size and entries.count:
        _ends_by_error(calls, entries, lookups, tail, last, queued_last & same, expected, end)
    return end, refused


def _ends_by_error(
    calls: Calls,
    entries: Entries,
    lookups: Lookups,
    which: Ints,
    last: Ints,
    triggered: Bools,
    expected: Ints,
    end: Ints,
) -> None:
    # The first entry behind the last lookup where the loop could have ended.
    rows = rows_of_calls(entries.start, which)
    rows = rows[entries.ordinal[rows] > last[entries.call[rows]]]
    call, target = entries.call[rows], entries.target[rows]
    ret = calls.ret[call]
    # This status was stored: the loop had come to the entry.
    stored = entries.changed[rows] & (entries.after[rows] == -errno.EFAULT)

    bad = target < 0
    if calls.memory_nodes.size:
        bad |= ~np.isin(target, calls.memory_nodes)
    # A node that a lookup of the call was made for is in the target's cpuset.
    seen = lookups.entry[lookups.entry >= 0]
    allowed = np.isin((call << 32) + target, (entries.call[seen] << 32) + entries.target[seen])
    ends = np.select(
        [ret == -errno.ENODEV, ret == -errno.EACCES, ret == -errno.EFAULT],
        [bad, ~allowed & ~stored, ~stored],
        False,
    )
    first_call, first = np.unique(call[ends], return_index=True)
    place = entries.ordinal[rows[ends][first]]
    end[first_call] = place

    # -EACCES with several nodes that may be the one: only a status tells them apart.
    doubtful = np.flatnonzero(calls.ret[first_call] == -errno.EACCES)
    if doubtful.size:
        others = (ret == -errno.EACCES) & ~allowed & ~stored
        own_target = np.full(calls.count, -1, np.int64)
        own_target[first_call] = target[ends][first]
        compared = np.zeros(calls.count, np.bool_)
        own_row = rows[ends][first]
        compared[first_call] = entries.compared[own_row] & (
            entries.before[own_row] != -errno.EFAULT
        )
        open_ = others & (target != own_target[call]) & ~compared[call]
        end[call[open_]] = -1

    # -EFAULT: the entry where it happened was processed if its own status could
    # not be stored, not if an earlier store failed; the page stays either way.
    is_fault = calls.ret[first_call] == -errno.EFAULT
    fault, here = first_call[is_fault], rows[ends][first][is_fault]
    if fault.size:
        behind = end[fault] > last[fault] + 1
        before = np.maximum(here - 1, 0)
        follows = (last[fault] >= 0) & ~behind
        # The entry before has its status: then it was this one's that could not be stored.
        stored_last = follows & entries.changed[before]
        end[fault] += triggered[fault] | behind | (last[fault] < 0) | stored_last
        # A status that was there before tells nothing.
        vague = follows & ~triggered[fault] & entries.compared[before]
        vague &= entries.before[before] == expected[before]
        vague |= entries.compared[here] & (entries.before[here] == -errno.EFAULT)
        end[fault[vague]] = -1


# ---- one page, several entries -----------------------------------------------------


def _follow_folios(calls: Calls, entries: Entries, lookups: Lookups, replay: Replay) -> None:
    """Entries of one folio in one call share its fate; a page may move twice.

    Within a call a folio is known by its pointer, which changes when it moves:
    dst of the earlier move is src of the next.
    """
    found = lookups.rc == 0
    moved = lookups.queued & (lookups.fate == MOVED)
    target = lookups.target(entries)
    lookups.final[moved] = target[moved]
    own = np.flatnonzero(moved & (lookups.entry >= 0))
    replay.final[lookups.entry[own]] = target[own]

    related = _related(lookups, found, moved)
    if not related.size:
        return
    # Everything below is about lookups `related`, in order.
    call, seq = lookups.call[related], lookups.seq[related]
    is_moved, is_queued = moved[related], lookups.queued[related]
    width = related.size
    key = pair_ids(
        np.concatenate([call, call]),
        np.concatenate([lookups.src[related], lookups.dst[related]]),
    )
    src_key, dst_key = key[:width], key[width:]
    seq_key = (src_key << 32) + seq
    goal = target[related]

    # Queued lookups by source, moved ones by destination and the time they were done.
    queue = np.flatnonzero(is_queued)
    queue = queue[np.argsort(seq_key[queue], kind="stable")]
    queue_key = seq_key[queue]
    arrivals = np.flatnonzero(is_moved)
    # A destination is seen by nobody before the move is done.
    flush = lookups.flush[related]
    done = np.where(flush < _FAR, flush, seq + 1)
    arrival_key_all = (dst_key << 32) + done
    arrivals = arrivals[np.argsort(arrival_key_all[arrivals], kind="stable")]
    arrival_key = arrival_key_all[arrivals]

    def neighbour(keys: Ints, members: Ints, wanted: Ints, before: bool, side: str) -> Ints:
        """The member next to each wanted key that has the same pointer, -1 for none."""
        place = np.searchsorted(keys, wanted, side="left" if side == "left" else "right")
        place = place - 1 if before else place
        if not keys.size:
            return np.full(wanted.size, -1, np.int64)
        inside = (place >= 0) & (place < keys.size)
        safe = np.clip(place, 0, keys.size - 1)
        same = inside & ((keys[safe] >> 32) == (wanted >> 32))
        return np.where(same, members[safe], -1)

    earlier = neighbour(queue_key, queue, seq_key, True, "left")
    later = neighbour(queue_key, queue, seq_key, False, "right")
    arrived = neighbour(arrival_key, arrivals, seq_key, True, "right")
    in_flight = (earlier >= 0) & (flush[np.maximum(earlier, 0)] > seq) & ~is_queued
    later_moved = (later >= 0) & is_moved[np.maximum(later, 0)]

    # The move after each move: the same folio at its new place, taken again.
    onward = neighbour(queue_key, queue, (dst_key << 32) + done, False, "left")
    onward = np.where(is_moved & (onward >= 0) & is_moved[np.maximum(onward, 0)], onward, -1)
    last = np.arange(width)
    jump = np.where(onward >= 0, onward, last)
    for _ in range(32):
        further = jump[jump]
        if (further == jump).all():
            break
        jump = further
    last = jump

    there = (
        ~is_queued
        & (lookups.rc[related] == 0)
        & (lookups.isolate_rc[related] == ISOLATE_NOT_TRIED)
        & (lookups.nid[related] == goal)
    )
    # What a later entry did for the page counts where it ended on this one's node.
    at_last = last[np.maximum(later, 0)]
    later_helps = later_moved & (goal[at_last] == goal)
    # Which record decides: its own, the one in flight, the one that brought the
    # folio here, or one that took it later.
    decider = np.select(
        [
            is_queued,
            in_flight,
            there & (arrived >= 0),
            ~there & later_helps,
        ],
        [np.arange(width), earlier, arrived, at_last],
        -1,
    )
    # Where the page's story in this call goes on, whoever decided.
    by_decider = (decider >= 0) & is_moved[np.maximum(decider, 0)]
    source = np.select([by_decider, later_moved, arrived >= 0], [decider, later, arrived], -1)
    story = np.where(source >= 0, last[np.maximum(source, 0)], -1)
    final = np.where(story >= 0, goal[np.maximum(story, 0)], -1)
    lookups.final[related] = final
    # Moved by the entry of the same page, or of another page of its folio?
    page = lookups.address[related] // np.uint64(calls.page_size)
    teller = np.where(decider >= 0, decider, source)
    kinship = np.where(page[np.maximum(teller, 0)] == page, _DUPLICATE, _SAME_FOLIO)

    entry = lookups.entry[related]
    other = np.flatnonzero((entry >= 0) & (decider >= 0) & (decider != np.arange(width)))
    at, record = entry[other], related[decider[other]]
    replay.outcome[at] = lookups.fate[record]
    replay.cause[at] = lookups.fate_cause[record]
    replay.folio[at] = lookups.fate_row[record]
    replay.reason[at] = kinship[other]
    replay.own[at] = False
    told = np.flatnonzero((entry >= 0) & (story >= 0))
    replay.final[entry[told]] = final[told]
    # When a lost migration ran is not known: nor is who met the folio before it.
    vague = np.zeros(calls.count, np.bool_)
    vague[call[is_queued & (flush == _FAR)]] = True
    unsure = np.zeros(entries.count, np.bool_)
    unsure[entry[(entry >= 0) & vague[call]]] = True
    # Moved to another node afterwards, or moved there before and not from there.
    elsewhere = told[final[told] != goal[told]]
    after = seq[story[elsewhere]] > seq[elsewhere]
    replay.reason[entry[elsewhere]] = np.where(after, _MOVED_AGAIN, kinship[elsewhere])
    _set_unknown(replay, unsure, calls.lost_code)
    lookups.final[related[vague[call]]] = -1


def _related(lookups: Lookups, found: Bools, moved: Bools) -> Ints:
    """Lookups whose folio another lookup of the same call met too, before or after a move."""
    # A mixed number of (call, pointer) finds candidates with one sort; a chance
    # collision only costs a moment.
    salt = lookups.call.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    src = np.where(found, lookups.src ^ salt, 0)
    dst = np.where(moved, lookups.dst ^ salt, 0)
    everything = np.concatenate([src[found], dst[moved]])
    everything.sort()
    twice = np.unique(everything[1:][everything[1:] == everything[:-1]])
    if not twice.size:
        return np.zeros(0, np.int64)
    hit = found & np.isin(src, twice)
    hit |= moved & np.isin(dst, twice)
    return np.flatnonzero(hit)


def _resolve_splits(
    folios: Table, calls: Calls, entries: Entries, lookups: Lookups, replay: Replay
) -> None:
    """A page of a folio that was split has its own fate: its tail's record has it."""
    if not lookups.split_rows.size:
        return
    lookup_of_row = np.full(folios.size, -1, np.int64)
    split = np.flatnonzero(lookups.split)
    lookup_of_row[lookups.row[split]] = split
    at = np.flatnonzero(replay.folio >= 0)
    head = lookup_of_row[replay.folio[at]]
    at, head = at[head >= 0], head[head >= 0]
    pages = lookups.nr_pages[head]
    index = (entries.address[at] // np.uint64(calls.page_size)).astype(np.int64) % pages
    # Where a folio that no PMD maps begins in the address space is not known.
    aligned = pages * calls.page_size >= _PMD_BYTES
    key = (head << 32) + index
    place = np.minimum(np.searchsorted(lookups.tail_key, key), lookups.tail_key.size - 1)
    tail = aligned & (lookups.tail_key[place] == key)
    is_head = aligned & (index == 0)
    row = np.where(tail, lookups.tail_row[place], lookups.row[head])
    fate, cause = _fates(
        folios["move_rc"][row].astype(np.int64), folios["end"][row], folios["flags"][row]
    )
    unseen = ~tail & ~is_head
    fate[unseen] = UNKNOWN
    cause[unseen] = cause_code("split")
    replay.outcome[at] = fate
    replay.cause[at] = cause
    replay.folio[at] = row
    replay.reason[at] = _SPLIT
    replay.final[at] = np.where(fate == MOVED, entries.target[at], -1)


def _doubt_incomplete(calls: Calls, entries: Entries, lookups: Lookups, replay: Replay) -> None:
    """In a call that lost lookups a page may have been touched by a lost one.

    A verdict about an entry stands only where no unknown entry of the call can
    be of the same folio; "busy" never stands, for who isolated it may be lost.
    """
    doubtful = ~(lookups.complete & ~lookups.misfit)
    rows = np.flatnonzero(doubtful[entries.call])
    if not rows.size:
        return
    # Entries whose address is lost may be of any page.
    blind = np.zeros(calls.count, np.bool_)
    blind[entries.call[~entries.readable]] = True
    look = lookups.of_entry[rows]
    has = look >= 0
    busy, reach = np.zeros(rows.size, np.bool_), np.full(rows.size, _PMD_BYTES // calls.page_size)
    if lookups.row.size:
        look = np.maximum(look, 0)
        busy = has & (lookups.isolate_rc[look] < 0) & replay.own[rows]
        reach = np.where(has, np.maximum(lookups.nr_pages[look], 1), reach)
    page = (entries.address // np.uint64(calls.page_size)).astype(np.int64)
    unknown = rows[~replay.sure[rows]]
    near = any_near(entries.call[unknown], page[unknown], entries.call[rows], page[rows], reach - 1)
    open_ = np.zeros(entries.count, np.bool_)
    open_[rows[busy | near | blind[entries.call[rows]]]] = True
    # Where no record is missing, what lies beyond the bound or the arrays are to blame.
    code = np.where(lookups.complete, cause_code("ambiguous"), calls.lost_code)
    code[calls.nr_pages > calls.max_entries] = cause_code("beyond_bound")
    _set_unknown(replay, open_, code[entries.call])


def _follow_pages(calls: Calls, entries: Entries, lookups: Lookups, replay: Replay) -> None:
    """An entry that was never attempted may name a page that an earlier one moved."""
    sources = np.flatnonzero(lookups.final >= 0)
    concerned = np.zeros(calls.count, np.bool_)
    concerned[lookups.call[sources]] = True
    left = (replay.outcome == NOT_ATTEMPTED) & concerned[entries.call] & entries.readable
    left = np.flatnonzero(left)
    if not left.size:
        return
    affected = np.zeros(calls.count, np.bool_)
    affected[entries.call[left]] = True
    sources = sources[affected[lookups.call[sources]]]
    page = (entries.address // np.uint64(calls.page_size)).astype(np.int64)
    own_page = (lookups.address // np.uint64(calls.page_size)).astype(np.int64)
    _share_final(entries, lookups, replay, left, sources, page, own_page, _DUPLICATE)
    for size in np.unique(lookups.nr_pages[sources]):
        if size <= 1:
            continue
        members = sources[lookups.nr_pages[sources] == size]
        # What a PMD maps (hugetlb, too) begins at a multiple of its size and has no holes.
        sure = members[lookups.whole[members]]
        _share_final(
            entries, lookups, replay, left, sure, page // size, own_page // size, _SAME_FOLIO
        )
        # Others may have been unmapped in part and another page may be in their place:
        # which addresses share a large folio is known only where they were looked up.
        rest = members[~lookups.whole[members]]
        # Another lookup of a folio that is known to be whole adds no doubt.
        block = pair_ids(lookups.call[members], own_page[members] // size)
        rest = rest[~np.isin(block[~lookups.whole[members]], block[lookups.whole[members]])]
        open_ = left[replay.reason[left] == 0]
        near = any_near(
            lookups.call[rest],
            own_page[rest],
            entries.call[open_],
            page[open_],
            np.full(open_.size, size - 1),
        )
        doubt = np.zeros(entries.count, np.bool_)
        doubt[open_[near]] = True
        _set_unknown(replay, doubt, cause_code("maybe_same_folio"))


def _share_final(
    entries: Entries,
    lookups: Lookups,
    replay: Replay,
    candidates: Ints,
    members: Ints,
    unit: Ints,
    own_unit: Ints,
    reason: int,
) -> None:
    # The candidates (entries) whose unit (a page, a folio's range) is that of a
    # member (a lookup) take over where its page went.
    open_ = candidates[(replay.reason[candidates] == 0)]
    if not open_.size or not members.size:
        return
    both = pair_ids(
        np.concatenate([lookups.call[members], entries.call[open_]]),
        np.concatenate([own_unit[members], unit[open_]]),
    )
    own, wanted = both[: members.size], both[members.size :]
    order = np.argsort(own, kind="stable")
    place = np.searchsorted(own[order], wanted, side="right") - 1
    safe = np.maximum(place, 0)
    hit = (place >= 0) & (own[order][safe] == wanted)
    at, source = open_[hit], members[order[safe[hit]]]
    replay.final[at] = lookups.final[source]
    replay.reason[at] = reason
    arrived = lookups.final[source] == entries.target[at]
    replay.outcome[at[arrived]] = MOVED
    replay.folio[at[arrived]] = lookups.fate_row[source[arrived]]
