# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds the folios of migrations by page table entries taken away and put back.  Pure.

``set_migration_pte`` has the address where the folio begins in its mapping (the same for
each of a large folio's entries) and the entry that names the page; ``remove_migration_pte``
the address of the entry itself, and the page that it maps from then on.  There is no
word of the process: a page is told from another one at the same address by its frame.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mptrace.arrays import Bools, Ints, Table, Words
from mptrace.host.facts import NodeRanges
from mptrace.recording.layouts import (
    END_DONE,
    END_OPEN,
    END_PUTBACK,
    FOLIO,
    FOLIO_PMD,
    FOLIO_UNEXPECTED,
    ISOLATE_NOT_TRIED,
    MOVE_NOT_TRIED,
    NO_LOOKUP,
    STRUCT_PAGE_BYTES,
)
from mptrace.tracing.tracepoints.formats import (
    PAGE_SHIFT,
    PFN_BITS,
    SET,
    migration_pfn,
    present_pfn,
)
from mptrace.tracing.tracepoints.nesting import last_before

#: A folio's identity (`src`, `dst`) is its first page frame times this, the size of struct
#: page: as with addresses of struct page, those of a folio's pages lie side by side.
PAGE_IDENTITY = np.uint64(STRUCT_PAGE_BYTES)


@dataclass(frozen=True)
class _Sets:
    """SET events: entries that were taken away."""

    migration: Ints
    time: Words
    base: Words  # address where the folio begins in this mapping
    page: Words  # frame
    order: Words
    folio: Ints  # number of its folio

    def spans(self, index: Ints, address: Words) -> Bools:
        """Whether the folio of each SET, mapped from its base, has the address."""
        # below the base the difference wraps, and is too large
        pages = (address - self.base[index]) >> np.uint64(PAGE_SHIFT)
        inside: Bools = pages < (np.uint64(1) << self.order[index])
        return inside


@dataclass(frozen=True)
class _Removes:
    """REMOVE events: entries that map a page again."""

    migration: Ints
    time: Words
    address: Words
    page: Words

    def some(self, index: Ints) -> "_Removes":
        return _Removes(
            self.migration[index], self.time[index], self.address[index], self.page[index]
        )


def folios(
    events: Table, migration: Ints, nodes: NodeRanges, pfn_bits: int = PFN_BITS
) -> tuple[Table, Ints]:
    """FOLIO rows of SET and REMOVE events, and the migration of each row.

    :param events: EVENT rows of those kinds, in each thread in order of time.
    :param migration: shape (n,), which migration each event is of.

    A folio is moved where its last entry maps another frame than the first, and was put
    back where it maps the same.  Where no entry came back (its process was gone) what
    became of it is unknown: ``end`` is END_OPEN.  ``migration_id``, ``call_id`` and ``tid``
    are left to the caller.
    """
    is_set = events["kind"] == SET
    taken, given = events[is_set], events[~is_set]
    page = migration_pfn(taken["second"], pfn_bits)
    order = taken["order"].astype(np.uint64)
    first_page = page >> order << order
    folio, some = _numbered(migration[is_set], first_page)
    sets = _Sets(migration[is_set], taken["time_ns"], taken["first"], page, order, folio)
    removes = _Removes(
        migration[~is_set], given["time_ns"], given["first"], present_pfn(given["second"])
    )
    undone = _put_back(sets, removes)
    restored = undone >= 0
    of_remove = np.full(undone.size, -1, np.int64)
    of_remove[restored] = folio[undone[restored]]
    doubtful = _moved(sets, removes, of_remove, some.size)

    rows = np.zeros(some.size, FOLIO)
    rows["lookup_seq"] = NO_LOOKUP
    rows["isolate_rc"] = ISOLATE_NOT_TRIED
    rows["flags"] = FOLIO_UNEXPECTED
    rows["src"] = first_page[some] * PAGE_IDENTITY
    rows["address"] = sets.base[some]
    # a folio that was split is taken away again as a page: the last time counts
    final = _last_of_each(folio, sets.time, some.size)
    rows["nr_pages"] = np.uint64(1) << order[final]
    rows["src_nid"] = nodes.nids(first_page[some])
    with_pmd = np.bincount(folio, taken["mark"], some.size) > 0
    rows["flags"][with_pmd] |= FOLIO_PMD
    rows["n_maps"] = np.minimum(np.bincount(folio, minlength=some.size), 0xFFFF)

    matched = np.flatnonzero(of_remove >= 0)
    rows["n_remap"] = np.bincount(of_remove[matched], minlength=some.size)
    _windows(
        rows,
        np.concatenate([folio, of_remove[matched]]),
        np.concatenate([sets.time, removes.time[matched]]),
        np.repeat([True, False], [folio.size, matched.size]),
    )
    last = _last_of_each(of_remove[matched], removes.time[matched], some.size)
    # an entry that was taken away again and did not come back leaves it open
    last[rows["end_ns"] != rows["light_last_ns"]] = -1
    target = _ends(rows, matched, last, restored, removes.page, first_page[some])
    moved = rows["move_rc"] == 0
    rows["dst"] = target * PAGE_IDENTITY
    rows["dst_nid"] = -1
    rows["dst_nid"][moved] = nodes.nids(target[moved])
    unsure = doubtful & moved
    if unsure.any():
        several = _differing(sets.migration[some][moved], rows["dst_nid"][moved])
        rows["dst_nid"][unsure & np.isin(sets.migration[some], several)] = -1
        rows["dst"][unsure] = 0
    return rows, sets.migration[some]


def _differing(keys: Ints, values: NDArray[np.int16]) -> Ints:
    """The keys that have more than one value."""
    _, some = _numbered(keys, values)
    found, times = np.unique(keys[some], return_counts=True)
    several: Ints = found[times > 1]
    return several


def _ends(
    rows: Table, matched: Ints, last: Ints, restored: Bools, now_page: Words, first_page: Words
) -> Words:
    """Fill in how each folio ended, by its last entry that was put back (-1: none was).

    Returns the first frame of where it is now, 0 where it did not move.
    """
    has = np.flatnonzero(last >= 0)
    remove = matched[last[has]]
    size = rows["nr_pages"][has].astype(np.uint64)
    target = now_page[remove] // size * size
    moved = ~restored[remove] & (target != first_page[has])
    rows["move_rc"] = MOVE_NOT_TRIED
    rows["move_rc"][has[moved]] = 0
    rows["end"] = END_OPEN
    rows["end"][has] = np.where(moved, END_DONE, END_PUTBACK)
    targets = np.zeros(rows.size, np.uint64)
    targets[has[moved]] = target[moved]
    return targets


def _put_back(sets: _Sets, removes: _Removes) -> Ints:
    """The SET that each REMOVE undoes, as it maps the same frame there again; else -1."""
    found = last_before(
        (sets.migration, sets.page, sets.base),
        sets.time,
        (removes.migration, removes.page, removes.address),
        removes.time,
    )
    rest = np.flatnonzero(found < 0)
    others = removes.some(rest)
    within = last_before(
        (sets.migration, sets.page), sets.time, (others.migration, others.page), others.time
    )
    inside = np.flatnonzero(within >= 0)
    inside = inside[sets.spans(within[inside], others.address[inside])]
    found[rest[inside]] = within[inside]
    return found


def _moved(sets: _Sets, removes: _Removes, of_remove: Ints, count: int) -> Bools:
    """Fill in the folio of each REMOVE that maps another frame; the folios that are doubtful.

    By the address.  Two processes may have different pages at one address, and one
    migration both.  They are taken in the order of the kernel's list: how many moved is
    certain, which of the new frames is whose is not.  Where even the numbers differ
    nothing is matched.
    """
    doubtful = np.zeros(count, np.bool_)
    if not count:
        return doubtful
    # places: distinct (migration, address), and the folios that begin there
    place, some = _numbered(sets.migration, sets.base)
    _, first = _numbered(place, sets.folio)
    candidates = np.bincount(place[first], minlength=some.size)

    rest = np.flatnonzero(of_remove < 0)
    moved = removes.some(rest)
    at = last_before(
        (sets.migration, sets.base),
        np.zeros(sets.base.size),
        (moved.migration, moved.address),
        np.zeros(rest.size),
    )
    here = np.where(at >= 0, place[at], -1)
    alone = (here >= 0) & (candidates[here] == 1)
    of_remove[rest[alone]] = sets.folio[at[alone]]

    # inside a large folio: the last one that begins at or before the address
    large = np.flatnonzero(sets.order > 0)
    tails = np.flatnonzero(here < 0)
    below = last_before(
        (sets.migration[large],), sets.base[large], (moved.migration[tails],), moved.address[tails]
    )
    tails, begins = tails[below >= 0], large[below[below >= 0]]
    known = sets.spans(begins, moved.address[tails]) & (candidates[place[begins]] == 1)
    of_remove[rest[tails[known]]] = sets.folio[begins[known]]

    shared = np.flatnonzero((here >= 0) & ~alone)
    if shared.size:
        unsure = _by_order(sets, place, removes, of_remove, rest[shared], here[shared])
        doubtful[unsure] = True
    return doubtful


def _by_order(
    sets: _Sets, place: Ints, removes: _Removes, of_remove: Ints, which: Ints, here: Ints
) -> Ints:
    """Match frames with folios of one place, both in order of time, where their numbers agree.

    ``which`` are the REMOVEs to match, ``here`` the place of each.  Returns the folios
    that could have been another's.
    """
    # of a folio that was put back, and not taken away again, no frame is missing
    count = int(sets.folio.max()) + 1
    last_set, last_back = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
    np.maximum.at(last_set, sets.folio, sets.time)
    known = of_remove >= 0
    np.maximum.at(last_back, of_remove[known], removes.time[known])
    open_sets = np.flatnonzero((last_back <= last_set)[sets.folio] & np.isin(place, here))
    _, first = _numbered(place[open_sets], sets.folio[open_sets])
    old = open_sets[first]
    old = old[np.lexsort((sets.time[old], place[old]))]
    frame, new = _numbered(here, removes.page[which])
    new = new[np.lexsort((removes.time[which[new]], here[new]))]
    places, missing = np.unique(place[old], return_counts=True)
    found, frames = np.unique(here[new], return_counts=True)
    _, i, j = np.intersect1d(places, found, assume_unique=True, return_indices=True)
    agree = places[i[missing[i] == frames[j]]]
    old, new = old[np.isin(place[old], agree)], new[np.isin(here[new], agree)]
    of_frame = np.full(int(frame.max()) + 1, -1, np.int64)
    of_frame[frame[new]] = sets.folio[old]
    of_remove[which] = of_frame[frame]
    several = places[i[(missing[i] == frames[j]) & (frames[j] > 1)]]
    return sets.folio[old[np.isin(place[old], several)]]


def _windows(rows: Table, folio: Ints, time: Words, is_set: Bools) -> None:
    """Fill in when each folio was dark: from a SET to the last REMOVE before the next SET."""
    by_time = np.lexsort((~is_set, time, folio))
    folio, time, is_set = folio[by_time], time[by_time], is_set[by_time]
    if not folio.size:
        return
    new = np.concatenate([[True], folio[1:] != folio[:-1]])
    last = np.concatenate([new[1:], [True]])
    begins = is_set & (new | np.concatenate([[False], ~is_set[:-1]]))
    ends = ~is_set & (last | np.concatenate([is_set[1:], [False]]))
    rows["n_dark"] = np.minimum(np.bincount(folio[begins], minlength=rows.size), 0xFFFF)
    rows["n_unmap"] = rows["n_dark"]
    rows["dark_first_ns"][folio[new]] = time[new]
    rows["start_ns"] = rows["dark_first_ns"]
    rows["end_ns"][folio[last]] = time[last]
    # each end closes the window that began last
    window = np.cumsum(begins) - 1
    since = time[begins][window[ends]]
    rows["light_last_ns"][folio[ends]] = time[ends]  # in order of time: the last one stays
    np.add.at(rows["blackout_ns"], folio[ends], time[ends] - since)


def _last_of_each(number: Ints, time: Words, count: int) -> Ints:
    """Index of the latest row of each number 0 .. count - 1, -1 where it has none."""
    found = np.full(count, -1, np.int64)
    order = np.argsort(time, kind="stable")
    found[number[order]] = order
    return found


def _numbered(*keys: NDArray[np.generic]) -> tuple[Ints, Ints]:
    """Number of each row's combination of keys, and the first row of each number."""
    order = np.lexsort(keys[::-1])
    if not order.size:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    changed = np.zeros(order.size, np.bool_)
    changed[0] = True
    for key in keys:
        changed[1:] |= key[order][1:] != key[order][:-1]
    numbers = np.empty(order.size, np.int64)
    numbers[order] = np.cumsum(changed) - 1
    return numbers, order[changed]
