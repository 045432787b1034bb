# SPDX-License-Identifier: GPL-2.0-or-later
"""Several entries for one page: duplicates, pages of one folio, pages of a split folio.  Pure.

The outcome is the page's.  An entry whose folio an earlier or later entry of the
same call moved gets that fate, with the reason why its own status says otherwise.
"""

import numpy as np

from mptrace.arrays import Ints, Table
from mptrace.outcomes.causes.rules import cause_code
from mptrace.outcomes.fates import fates_of
from mptrace.outcomes.joined import (
    DUPLICATE,
    MOVED,
    NOT_ATTEMPTED,
    PMD_BYTES,
    SAME_FOLIO,
    SPLIT,
    UNKNOWN,
)
from mptrace.outcomes.shared_folios import share_folios
from mptrace.outcomes.steps import CallRecords, EntryOutcomes, Shared
from mptrace.recording.joins import any_near, pair_ids


def share(records: CallRecords, folios: Table, before: EntryOutcomes) -> Shared:
    """The outcome of each page, told to every entry of the call that names it.

    :param folios: the table of folios, for the tails of those that were split.
    :param before: outcomes by the entries' own lookups.
    """
    by_folio = share_folios(records, before)
    by_tail = _tell_splits(records, folios, by_folio.outcomes)
    by_page = _tell_never_attempted(records, by_tail, by_folio.end_nid)
    by_own = records.lookups.of_entry >= 0
    by_own[by_folio.others] = False
    return Shared(by_page, by_own)


def _tell_splits(records: CallRecords, folios: Table, before: EntryOutcomes) -> EntryOutcomes:
    """A page of a folio that was split has its own fate: its tail's record has it."""
    calls, entries, lookups = records.calls, records.entries, records.lookups
    splits = records.splits
    if not splits.rows.size:
        return before
    lookup_of_row = np.full(folios.size, -1, np.int64)
    split = np.flatnonzero(splits.is_split)
    lookup_of_row[lookups.row[split]] = split
    at = np.flatnonzero(before.folio >= 0)
    head = lookup_of_row[before.folio[at]]
    at, head = at[head >= 0], head[head >= 0]
    pages = lookups.nr_pages[head]
    index = (entries.address[at] // np.uint64(calls.page_size)).astype(np.int64) % pages
    # Where a folio that no PMD maps begins in the address space is not known.
    aligned = pages * calls.page_size >= PMD_BYTES
    key = (head << 32) + index
    place = np.minimum(np.searchsorted(splits.tail_key, key), splits.tail_key.size - 1)
    tail = aligned & (splits.tail_key[place] == key)
    is_head = aligned & (index == 0)
    row = np.where(tail, splits.tail_row[place], lookups.row[head])
    fate, cause = fates_of(
        folios["move_rc"][row].astype(np.int64), folios["end"][row], folios["flags"][row]
    )
    unseen = ~tail & ~is_head
    fate[unseen] = UNKNOWN
    cause[unseen] = cause_code("split")
    return before.changed(
        at,
        outcome=fate,
        cause=cause,
        folio=row,
        reason=SPLIT,
        end_nid=np.where(fate == MOVED, entries.target[at], -1),
    )


def _tell_never_attempted(
    records: CallRecords, before: EntryOutcomes, end_nid: Ints
) -> EntryOutcomes:
    """An entry that was never attempted may name a page that an earlier one moved.

    :param end_nid: where each lookup's page ended in the call, -1 where it did not move.
    """
    calls, entries, lookups = records.calls, records.entries, records.lookups
    before = _may_have_moved(records, before)
    sources = np.flatnonzero(end_nid >= 0)
    concerned = np.zeros(calls.count, np.bool_)
    concerned[lookups.call[sources]] = True
    left = (before.outcome == NOT_ATTEMPTED) & concerned[entries.call] & entries.readable
    left = np.flatnonzero(left)
    if not left.size:
        return before
    affected = np.zeros(calls.count, np.bool_)
    affected[entries.call[left]] = True
    sources = sources[affected[lookups.call[sources]]]
    page = (entries.address // np.uint64(calls.page_size)).astype(np.int64)
    own_page = (lookups.address // np.uint64(calls.page_size)).astype(np.int64)
    found = _taken_over(records, before, end_nid, left, sources, page, own_page, DUPLICATE)
    for size in np.unique(lookups.nr_pages[sources]):
        if size <= 1:
            continue
        members = sources[lookups.nr_pages[sources] == size]
        # What a PMD maps (hugetlb, too) begins at a multiple of its size and has no holes.
        sure = members[lookups.whole[members]]
        found = _taken_over(
            records, found, end_nid, left, sure, page // size, own_page // size, SAME_FOLIO
        )
        # Others may have been unmapped in part and another page may be in their place:
        # which addresses share a large folio is known only where they were looked up.
        rest = members[~lookups.whole[members]]
        # Another lookup of a folio that is known to be whole adds no doubt.
        block = pair_ids(lookups.call[members], own_page[members] // size)
        rest = rest[~np.isin(block[~lookups.whole[members]], block[lookups.whole[members]])]
        open_ = left[found.reason[left] == 0]
        near = any_near(
            lookups.call[rest],
            own_page[rest],
            entries.call[open_],
            page[open_],
            np.full(open_.size, size - 1),
        )
        doubt = np.zeros(entries.count, np.bool_)
        doubt[open_[near]] = True
        found = found.unknown(doubt, cause_code("maybe_same_folio"))
    return found


def _may_have_moved(records: CallRecords, before: EntryOutcomes) -> EntryOutcomes:
    """What was never attempted is unknown near a page of which it isn't traced if it moved."""
    calls, entries, lookups = records.calls, records.entries, records.lookups
    code = cause_code("not_traced")
    vague = np.flatnonzero(lookups.fate_cause == code)
    left = np.flatnonzero((before.outcome == NOT_ATTEMPTED) & entries.readable)
    if not vague.size or not left.size:
        return before
    page = (entries.address[left] // np.uint64(calls.page_size)).astype(np.int64)
    own_page = (lookups.address[vague] // np.uint64(calls.page_size)).astype(np.int64)
    doubt = np.zeros(entries.count, np.bool_)
    for size in np.unique(lookups.nr_pages[vague]):
        mine = lookups.nr_pages[vague] == size
        doubt[left] |= any_near(
            lookups.call[vague][mine],
            own_page[mine],
            entries.call[left],
            page,
            np.full(left.size, max(int(size) - 1, 0)),
        )
    return before.unknown(doubt, code)


def _taken_over(
    records: CallRecords,
    before: EntryOutcomes,
    end_nid: Ints,
    candidates: Ints,
    members: Ints,
    unit: Ints,
    own_unit: Ints,
    reason: int,
) -> EntryOutcomes:
    """Candidates (entries) whose unit is a member's (a lookup's) take over where its page went.

    :param unit: of each entry: its page, or its folio's range; ``own_unit``: of each lookup.
    """
    entries, lookups = records.entries, records.lookups
    open_ = candidates[(before.reason[candidates] == 0)]
    if not open_.size or not members.size:
        return before
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
    found = before.changed(at, end_nid=end_nid[source], reason=reason)
    arrived = end_nid[source] == entries.target[at]
    return found.changed(at[arrived], outcome=MOVED, cause=0, folio=lookups.row[source[arrived]])
