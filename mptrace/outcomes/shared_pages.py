# SPDX-License-Identifier: GPL-2.0-or-later
"""One page, several entries of a call: duplicates, addresses of one folio, moves again.  Pure.

The outcome is the page's.  An entry whose folio an earlier or later entry of the
same call moved gets that fate, with the reason why its own status says otherwise.
"""

import numpy as np

from mptrace.arrays import Bools, Ints, Table
from mptrace.outcomes.causes.rules import cause_code
from mptrace.outcomes.joined import (
    DUPLICATE,
    FAR,
    MOVED,
    MOVED_AGAIN,
    NOT_ATTEMPTED,
    PMD_BYTES,
    SAME_FOLIO,
    SPLIT,
    UNKNOWN,
    Calls,
    Entries,
    Lookups,
    Replay,
    fates_of,
    set_unknown,
)
from mptrace.recording.joins import any_near, pair_ids
from mptrace.recording.layouts import ISOLATE_NOT_TRIED


def follow_folios(calls: Calls, entries: Entries, lookups: Lookups, replay: Replay) -> None:
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
    done = np.where(flush < FAR, flush, seq + 1)
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
    kinship = np.where(page[np.maximum(teller, 0)] == page, DUPLICATE, SAME_FOLIO)

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
    vague[call[is_queued & (flush == FAR)]] = True
    unsure = np.zeros(entries.count, np.bool_)
    unsure[entry[(entry >= 0) & vague[call]]] = True
    # Moved to another node afterwards, or moved there before and not from there.
    elsewhere = told[final[told] != goal[told]]
    after = seq[story[elsewhere]] > seq[elsewhere]
    replay.reason[entry[elsewhere]] = np.where(after, MOVED_AGAIN, kinship[elsewhere])
    set_unknown(replay, unsure, calls.lost_code)
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


def resolve_splits(
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
    aligned = pages * calls.page_size >= PMD_BYTES
    key = (head << 32) + index
    place = np.minimum(np.searchsorted(lookups.tail_key, key), lookups.tail_key.size - 1)
    tail = aligned & (lookups.tail_key[place] == key)
    is_head = aligned & (index == 0)
    row = np.where(tail, lookups.tail_row[place], lookups.row[head])
    fate, cause = fates_of(
        folios["move_rc"][row].astype(np.int64), folios["end"][row], folios["flags"][row]
    )
    unseen = ~tail & ~is_head
    fate[unseen] = UNKNOWN
    cause[unseen] = cause_code("split")
    replay.outcome[at] = fate
    replay.cause[at] = cause
    replay.folio[at] = row
    replay.reason[at] = SPLIT
    replay.final[at] = np.where(fate == MOVED, entries.target[at], -1)


def doubt_incomplete(calls: Calls, entries: Entries, lookups: Lookups, replay: Replay) -> None:
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
    busy, reach = np.zeros(rows.size, np.bool_), np.full(rows.size, PMD_BYTES // calls.page_size)
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
    set_unknown(replay, open_, code[entries.call])


def follow_pages(calls: Calls, entries: Entries, lookups: Lookups, replay: Replay) -> None:
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
    _share_final(entries, lookups, replay, left, sources, page, own_page, DUPLICATE)
    for size in np.unique(lookups.nr_pages[sources]):
        if size <= 1:
            continue
        members = sources[lookups.nr_pages[sources] == size]
        # What a PMD maps (hugetlb, too) begins at a multiple of its size and has no holes.
        sure = members[lookups.whole[members]]
        _share_final(
            entries, lookups, replay, left, sure, page // size, own_page // size, SAME_FOLIO
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
        set_unknown(replay, doubt, cause_code("maybe_same_folio"))


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
