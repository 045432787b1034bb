# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of folios that the level of detail `outcomes` does not record, from what it does.  Pure.

Of a page it has the lookup, the status and the migration of its group.  What that says of each
folio becomes a row of `folios`, without times, so that everything behind works as at the level
`all`; what it does not say becomes END_UNTRACED, and unknown::

    lookup  status     its group        row of `folios`
    a, 0    1          left nothing     isolated, moved
    b, 0    -          left c           isolated, moved: the kernel put back c alone
    c, 0    -          left c           isolated, put back, with the state it had then
    d, 1    1          -                on its node already
    e, 0    -EBUSY     -                not isolated
    f, none -ENOENT    -                nothing there
"""

import errno
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Bools, Ints, Table, Tables
from mptrace.outcomes.groups import by_order, in_order
from mptrace.outcomes.holders import with_holders
from mptrace.outcomes.joined import CallColumns, EntryColumns
from mptrace.outcomes.lookups import Lookups
from mptrace.recording.detail import LEVEL_OUTCOMES
from mptrace.recording.joins import pair_ids, ranks, rows_of_ids
from mptrace.recording.layouts import (
    END_DONE,
    END_LOOKUP,
    END_PUTBACK,
    END_UNTRACED,
    FOLIO,
    FOLIO_HUGETLB,
    FOLIO_OBSTACLE,
    ISOLATE_NOT_TRIED,
    MOVE_NOT_TRIED,
    NO_LOOKUP,
    NOT_COUNTED,
    READ_STATUS,
    STAGE_ISOLATE,
    STAGE_PUTBACK,
    STAGE_SHARED,
    STRUCT_PAGE_BYTES,
)
from mptrace.recording.lookup_layouts import FOUND_KSM
from mptrace.recording.meta import Meta

#: Fields of a row of `folios` that this level can't tell.
NOT_IMPLIED = (
    "dst",
    "isolate_ns",
    "alloc_ns",
    "unmap_ns",
    "flush_ns",
    "move_ns",
    "copy_ns",
    "remap_ns",
    "lock_ns",
    "lru_ns",
    "release_ns",
    "dark_first_ns",
    "light_last_ns",
    "blackout_ns",
    "n_remap",
    "n_unmap",
    "n_alloc",
    "n_move",
    "n_copy",
    "n_flush",
    "n_dark",
    "n_maps",
)

#: Statuses that the kernel stores for an entry by itself, of a page that it found.
_DIRECT = (-errno.EACCES, -errno.EBUSY, -errno.EFAULT, -errno.ENOENT)


def with_implied(tables: Tables, meta: Meta) -> Tables:
    """The tables with a row of `folios` for each lookup; as they are at other levels.

    :param tables: tables of a recording, layouts of ``layouts.TABLES``; whole calls.
    """
    if meta.detail != LEVEL_OUTCOMES:
        return tables
    tables = {**tables, "waits": with_holders(tables)}
    if not tables["lookups"].size:
        return tables
    lookups = _in_order(tables["lookups"])
    folios = _rows_of(lookups, tables["calls"])
    provisional = {**tables, "folios": folios}
    calls = CallColumns.of(provisional, meta)
    found = Lookups.of(provisional, calls, entries := EntryColumns.of(tables["entries"], calls))
    # those of calls that nothing else is known of stay as they are
    rows = found.row
    group = _Groups.of(tables, calls, found)
    taken = _Taken.of(calls, entries, found, group)
    put_back, told = _put_back(tables["folios"], group, found)
    fate = _fates(tables["folios"], group, found, put_back)
    doubt = _met_again(found, taken.queued, calls.page_size)
    doubt |= _merged(found, taken.queued, lookups["flags"][rows])
    fate[taken.open | doubt] = END_UNTRACED
    is_queued, is_busy = taken.queued | taken.open, taken.busy
    folios["end"][rows[doubt]] = END_UNTRACED

    folios["isolate_rc"][rows[is_busy]] = -errno.EBUSY
    queued = rows[is_queued]
    folios["isolate_rc"][queued] = 0
    folios["end"][queued] = fate[is_queued]
    folios["move_rc"][queued] = np.where(fate[is_queued] == END_DONE, 0, MOVE_NOT_TRIED)
    has = is_queued & (group.place >= 0)
    mine = group.made[group.place[has]]
    for column, name in (
        ("migration_id", "migration_id"),
        ("dst_nid", "dst_nid"),
        ("start_ns", "enter_ns"),
        ("end_ns", "exit_ns"),
    ):
        folios[column][rows[has]] = mine[name]
    refused = is_queued & (put_back >= 0) & (fate == END_PUTBACK)
    folios["flags"][rows[refused]] |= FOLIO_OBSTACLE
    left = np.ones(tables["folios"].size, np.bool_)
    left[told] = False
    return {
        **tables,
        "folios": np.concatenate([folios, tables["folios"][left]]),
        "obstacles": _with_lookups(
            tables, folios, rows[refused], put_back[refused], rows[is_queued], rows[is_busy]
        ),
    }


def _in_order(lookups: Table) -> Table:
    """Lookups by call and ordinal, each once."""
    _, call = ranks(lookups["call_id"])
    key = (call.astype(np.int64) << 32) + lookups["lookup_seq"]
    if key.size and (np.diff(key) <= 0).any():
        _, first = np.unique(key, return_index=True)
        return lookups[first]
    return lookups


def _rows_of(lookups: Table, calls: Table) -> Table:
    """A row for each lookup after which nothing else was seen."""
    folios = np.zeros(lookups.size, FOLIO)
    for name in ("call_id", "lookup_seq", "address", "src"):
        folios[name] = lookups[name]
    folios["lookup_rc"] = lookups["rc"]
    folios["src_nid"] = lookups["nid"]
    there = lookups["rc"] == 0
    folios["nr_pages"] = np.where(there, np.uint32(1) << lookups["order"].astype(np.uint32), 0)
    folios["flags"] = lookups["flags"] & FOLIO_HUGETLB
    folios["dst_nid"] = -1
    folios["isolate_rc"] = ISOLATE_NOT_TRIED
    folios["move_rc"] = MOVE_NOT_TRIED
    folios["end"] = END_LOOKUP
    call = rows_of_ids(calls["call_id"], lookups["call_id"])
    known = np.flatnonzero(call >= 0)
    for name, column in (
        ("start_ns", "enter_ns"),
        ("end_ns", "enter_ns"),
        ("tid", "tid"),
        ("owner_tgid", "target_tgid"),
    ):
        folios[name][known] = calls[column][call[known]]
    return folios


@dataclass(frozen=True)
class _Taken:
    """Of each lookup whether its folio was isolated, by its status and the sizes of the groups."""

    queued: Bools
    open: Bools  # that can't be told
    busy: Bools  # it was tried, and refused

    @classmethod
    def of(
        cls, calls: CallColumns, entries: EntryColumns, found: Lookups, group: "_Groups"
    ) -> "_Taken":
        none = np.zeros(found.row.size, np.bool_)
        if not entries.count:
            return cls(none, found.rc == 0, none)
        at = np.maximum(found.entry, 0)
        has = (found.entry >= 0) & entries.readable[at]
        after = entries.after[at]
        is_told = has & ((entries.unread[at] & READ_STATUS) == 0)
        changed = has & entries.changed[at]
        # where a status can't be stored the call ends: that may be its last lookup's
        fault = calls.ret[found.call] == -errno.EFAULT
        fault &= found.seq == calls.n_lookups[found.call] - 1
        is_direct = np.isin(after, _DIRECT)
        # a status that is what it was before may have been stored again
        is_open = ~is_told | (~changed & (is_direct | fault))
        is_open |= is_told & changed & ~is_direct & (after != entries.target[at])
        away = (found.rc == 0) & ~(has & (found.nid == entries.target[at]))
        queued, is_open = away & ~is_open & ~is_direct, away & is_open
        settled, taken = group.settle(found, queued, is_open)
        return cls(
            queued=queued | (settled & taken),
            open=is_open & ~settled,
            busy=away & ~is_open & (after == -errno.EBUSY),
        )


@dataclass(frozen=True)
class _Groups:
    """The migrations of calls in their order, and the one that each lookup's group had."""

    made: Table  # rows of `migrations`
    place: Ints  # per lookup: of its group among ``made``, -1: no record
    left: Bools  # of each of ``made``: it left something behind
    is_whole: Bools  # of each of ``made``: all that it put back is recorded

    @classmethod
    def of(cls, tables: Tables, calls: CallColumns, found: Lookups) -> "_Groups":
        made, call, complete = in_order(tables["migrations"], calls)
        place = np.where(complete[found.call], by_order(made, call, found.call, found.seq), -1)
        counted = made["failed"] != NOT_COUNTED
        failed = made["failed"].astype(np.int64)
        rc = made["rc"].astype(np.int64)
        refused = _pages_put_back(tables["folios"], made)
        of_call = rows_of_ids(tables["calls"]["call_id"], made["call_id"])
        lost = (made["lost"] > 0) | (of_call < 0)
        lost |= np.append(tables["calls"]["lost"] > 0, True)[of_call]
        return cls(
            made=made,
            place=place,
            left=(rc != 0) | (counted & (failed != 0)),
            # after an error the kernel's count leaves out what it did not come to
            is_whole=~lost & counted & ((rc < 0) | (refused == failed)),
        )

    def settle(self, found: Lookups, queued: Bools, is_open: Bools) -> tuple[Bools, Bools]:
        """Of the lookups that may have been isolated: for which the size of the group that the
        kernel counted tells, and whether they were."""
        settled, taken = np.zeros((2, found.row.size), np.bool_)
        if not self.made.size or not is_open.any():
            return settled, taken
        counted = (self.made["failed"] != NOT_COUNTED) & (self.made["succeeded"] != NOT_COUNTED)
        # after an error the kernel's count leaves out what it did not come to
        counted &= self.made["rc"] >= 0
        size = self.made["failed"].astype(np.int64) + self.made["succeeded"].astype(np.int64)

        def pages(which: Bools) -> Ints:
            mine = which & (self.place >= 0)
            sums = np.bincount(self.place[mine], found.nr_pages[mine], self.made.size)
            return sums.astype(np.int64)

        sure, maybe = pages(queued), pages(is_open)
        of_open = is_open & (self.place >= 0)
        place = self.place[of_open]
        alone, together = (size == sure)[place], (size == sure + maybe)[place]
        settled[of_open] = counted[place] & (alone | together)
        taken[of_open] = together & ~alone
        return settled, taken


def _pages_put_back(folios: Table, made: Table) -> Ints:
    """Base pages that each migration's thread put back after it."""
    at = rows_of_ids(made["migration_id"], folios["migration_id"])
    known = at >= 0
    pages = folios["nr_pages"][known].astype(np.int64)
    return np.bincount(at[known], pages, made.size).astype(np.int64)


def _put_back(folios: Table, group: _Groups, found: Lookups) -> tuple[Ints, Ints]:
    """Of each lookup the row of `folios` that put its folio back, -1: none; and those rows."""
    row = np.full(found.row.size, -1, np.int64)
    has = np.flatnonzero((group.place >= 0) & (found.rc == 0))
    refused = np.flatnonzero(folios["lookup_seq"] == NO_LOOKUP)
    if not has.size or not refused.size:
        return row, refused[:0]
    both = pair_ids(
        np.concatenate(
            [group.made["migration_id"][group.place[has]], folios["migration_id"][refused]]
        ),
        np.concatenate([found.src[has], folios["src"][refused]]),
    )
    at = rows_of_ids(both[has.size :].astype(np.uint64), both[: has.size].astype(np.uint64))
    hit = at >= 0
    of = refused[at[hit]]
    same = folios["nr_pages"][of] == found.nr_pages[has[hit]]
    row[has[hit][same]] = of[same]
    return row, np.unique(of[same])


def _fates(folios: Table, group: _Groups, found: Lookups, put_back: Ints) -> npt.NDArray[np.uint8]:
    """How each lookup's folio ended, if it was isolated: `end` of its row."""
    fate = np.full(found.row.size, END_UNTRACED, np.uint8)
    if not group.made.size:
        return fate
    place = np.maximum(group.place, 0)
    known = (group.place >= 0) & (group.made["exit_ns"] != 0)[place]
    left, is_whole = group.left[place], group.is_whole[place]
    # 0 alone is no success of large folios: those that were split may have stayed in part
    counted = (group.made["failed"] != NOT_COUNTED)[place]
    fate[known & ~left & (counted | (found.nr_pages == 1))] = END_DONE
    fate[known & left & is_whole & ~_has_part_put_back(folios, group, found)] = END_DONE
    fate[known & (put_back >= 0)] = END_PUTBACK
    return fate


def _has_part_put_back(folios: Table, group: _Groups, found: Lookups) -> Bools:
    """Whether a page of each large folio was put back: it was split, or is another folio now."""
    part = np.zeros(found.row.size, np.bool_)
    large = np.flatnonzero((found.nr_pages > 1) & (group.place >= 0))
    if not large.size or not folios.size:
        return part
    src = np.sort(folios["src"])
    first = found.src[large]
    end = first + found.nr_pages[large].astype(np.uint64) * np.uint64(STRUCT_PAGE_BYTES)
    part[large] = np.searchsorted(src, end) > np.searchsorted(src, first)
    return part


def _met_again(found: Lookups, is_queued: Bools, page_size: int) -> Bools:
    """Lookups whose page may be one that another lookup of the call had moved.

    Where a folio goes is not traced: that a later lookup met it again can't be told from another
    page in its place.
    """
    there = np.flatnonzero(found.rc == 0)
    doubt = np.zeros(found.row.size, np.bool_)
    if not there.size:
        return doubt
    size = np.maximum(found.nr_pages[there], 1)
    page = (found.address[there] // np.uint64(page_size)).astype(np.int64)
    kind = pair_ids(found.call[there], size)
    order = np.lexsort((page, kind))
    there, size, page, kind = there[order], size[order], page[order], kind[order]
    # lookups of one call whose folios of one size may be one folio: in a row, by address
    near = (kind[1:] == kind[:-1]) & (page[1:] - page[:-1] < size[1:])
    cluster = np.concatenate([[0], np.cumsum(~near)])
    differ = near & (found.src[there][1:] != found.src[there][:-1])
    is_moved, is_mixed = np.zeros((2, int(cluster[-1]) + 1), np.bool_)
    is_moved[cluster[is_queued[there]]] = True
    is_mixed[cluster[1:][differ]] = True
    doubt[there] = (is_moved & is_mixed)[cluster]
    return doubt


def _merged(found: Lookups, is_queued: Bools, flags: npt.NDArray[np.uint8]) -> Bools:
    """Lookups of pages merged by KSM in a call that moved one: it may be at their addresses."""
    merged = (found.rc == 0) & ((flags & FOUND_KSM) != 0)
    doubt: Bools = merged & np.isin(found.call, found.call[merged & is_queued])
    return doubt


def _with_lookups(
    tables: Tables, folios: Table, refused: Ints, put_back: Ints, queued: Ints, busy: Ints
) -> Table:
    """The obstacles, each of a lookup's folio under the lookup's ordinal.

    What was taken at a lookup is evidence only if the folio was then not isolated.

    :param refused: rows of ``folios`` that were put back by the rows ``put_back`` of the table.
    """
    obstacles = tables["obstacles"].copy()
    if not obstacles.size:
        return obstacles
    key = pair_ids(
        np.concatenate([obstacles["call_id"], folios["call_id"]]),
        np.concatenate([obstacles["lookup_seq"], folios["lookup_seq"]]),
    )
    own, theirs = key[: obstacles.size], key[obstacles.size :]
    early = np.isin(obstacles["stage"], (STAGE_SHARED, STAGE_ISOLATE))
    needless = early & np.isin(own, theirs[queued])
    obstacles["stage"][early] = STAGE_SHARED
    obstacles["rc"][early] = 0
    tried = early & np.isin(own, theirs[busy])
    obstacles["stage"][tried] = STAGE_ISOLATE
    obstacles["rc"][tried] = -errno.EBUSY
    late = np.flatnonzero(obstacles["stage"] == STAGE_PUTBACK)
    if late.size and refused.size:
        left = tables["folios"][put_back]
        both = pair_ids(
            np.concatenate([left["migration_id"], obstacles["migration_id"][late]]),
            np.concatenate([left["src"], obstacles["src"][late]]),
        )
        at = rows_of_ids(
            both[: refused.size].astype(np.uint64), both[refused.size :].astype(np.uint64)
        )
        hit = at >= 0
        for name in ("lookup_seq", "address"):
            obstacles[name][late[hit]] = folios[name][refused[at[hit]]]
    return obstacles[~needless]
