# SPDX-License-Identifier: GPL-2.0-or-later
"""Entries of one call that name the same folio share its fate; a page may move twice.  Pure.

Within a call a folio is known by its pointer, which changes when it moves: dst of the
earlier move is src of the next.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Bools, Ints
from mptrace.outcomes.groups import FAR
from mptrace.outcomes.joined import DUPLICATE, MOVED_AGAIN, SAME_FOLIO
from mptrace.outcomes.steps import CallRecords, EntryOutcomes
from mptrace.recording.joins import pair_ids
from mptrace.recording.layouts import ISOLATE_NOT_TRIED


@dataclass(frozen=True)
class SharedFolios:
    """The outcomes, and what later steps ask about lookups."""

    outcomes: EntryOutcomes
    others: Ints  # entries that another lookup than their own decided
    end_nid: Ints  # per lookup: node after the last move of its page in the call, -1


def share_folios(records: CallRecords, before: EntryOutcomes) -> SharedFolios:
    """What became of each folio, told to every entry that met it.

    Page A lies in folio a on node 0, and one call names it four times::

        seq  page  for   src  dst  isolated  flush
        0    A     nid1  a    b    yes       2      the status of seq 1 flushed it
        1    A     nid1  a    -    -EBUSY    -      seq 0 has it queued
        2    A     nid0  b    c    yes       3      taken again from its new place
        3    B     nid1  x    y    yes       4      another page
        4    A     nid0  c    -    no        -      on its node already

    What the steps make of that; a number is the seq of the lookup that is meant::

        _related  _meetings    _last_moves  _deciders  _ends  _told to its entry
        0         -            2            0          nid0   moved, moved_again
        1         0 in flight  -            0          nid0   moved, moved_again
        2         0 arrived    2            2          nid0   moved
        4         2 arrived    -            2          nid0   moved, duplicate

    Entries 1 and 4 take over outcome and record of their decider.  Entries 0 and 1 asked
    for nid1, where the page was for a while: lookup 2 took it on.
    """
    lookups, entries = records.lookups, records.entries
    moved = lookups.moved
    target = lookups.target(entries)
    end_nid = np.where(moved, target, -1)
    own = np.flatnonzero(moved & (lookups.entry >= 0))
    outcomes = before.changed(lookups.entry[own], end_nid=target[own])

    related = _related(records)
    if not related.size:
        return SharedFolios(outcomes, related, end_nid)
    some = _Some.of(records, related)
    met = _meetings(some)
    last = _last_moves(some)
    decider = _deciders(some, met, last)
    end = _ends(some, met, last, decider)
    return _told(records, outcomes, end_nid, some, decider, end)


def _related(records: CallRecords) -> Ints:
    """Lookups whose folio another lookup of the same call met too, before or after a move."""
    lookups = records.lookups
    # at the level of detail `outcomes` nobody sees where a folio goes
    found, moved = lookups.rc == 0, lookups.moved & (lookups.dst != 0)
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


@dataclass(frozen=True)
class _Some:
    """The related lookups, in order, each with numbers for its call's pointers."""

    lookup: Ints  # row of each in Lookups
    call: Ints
    seq: Ints
    is_queued: Bools
    is_moved: Bools
    is_there: Bools  # not queued: its page was on the target node already
    goal: Ints  # node that it was made for
    page: npt.NDArray[np.uint64]
    flush: Ints
    src_key: Ints  # number of (call, src)
    dst_key: Ints  # of (call, dst)
    done: Ints  # seq from which on a moved folio is seen at its destination

    @classmethod
    def of(cls, records: CallRecords, related: Ints) -> "_Some":
        lookups = records.lookups
        call, seq = lookups.call[related], lookups.seq[related]
        key = pair_ids(
            np.concatenate([call, call]),
            np.concatenate([lookups.src[related], lookups.dst[related]]),
        )
        goal = lookups.target(records.entries)[related]
        is_queued = lookups.queued[related]
        is_there = (
            ~is_queued
            & (lookups.rc[related] == 0)
            & (lookups.isolate_rc[related] == ISOLATE_NOT_TRIED)
            & (lookups.nid[related] == goal)
        )
        # A destination is seen by nobody before the move is done.
        flush = records.groups.flush[related]
        return cls(
            lookup=related,
            call=call,
            seq=seq,
            is_queued=is_queued,
            is_moved=lookups.moved[related],
            is_there=is_there,
            goal=goal,
            page=lookups.address[related] // np.uint64(records.calls.page_size),
            flush=flush,
            src_key=key[: related.size],
            dst_key=key[related.size :],
            done=np.where(flush < FAR, flush, seq + 1),
        )

    @property
    def numbers(self) -> Ints:
        """The place of each among them."""
        return np.arange(self.lookup.size)


class _ByPointer:
    """Some of the related lookups by a pointer and a time (counted in lookups)."""

    def __init__(self, members: Bools, pointer: Ints, time: Ints) -> None:
        key = (pointer << 32) + time
        which = np.flatnonzero(members)
        self._members = which[np.argsort(key[which], kind="stable")]
        self._keys = key[self._members]

    def last_before(self, pointer: Ints, time: Ints) -> Ints:
        """The last member at each pointer before a time, -1 for none."""
        wanted = (pointer << 32) + time
        return self._at(np.searchsorted(self._keys, wanted, side="left") - 1, pointer)

    def last_until(self, pointer: Ints, time: Ints) -> Ints:
        """The last member at each pointer up to a time, -1 for none."""
        wanted = (pointer << 32) + time
        return self._at(np.searchsorted(self._keys, wanted, side="right") - 1, pointer)

    def first_since(self, pointer: Ints, time: Ints) -> Ints:
        """The first member at each pointer from a time on, -1 for none."""
        wanted = (pointer << 32) + time
        return self._at(np.searchsorted(self._keys, wanted, side="left"), pointer)

    def first_after(self, pointer: Ints, time: Ints) -> Ints:
        """The first member at each pointer after a time, -1 for none."""
        wanted = (pointer << 32) + time
        return self._at(np.searchsorted(self._keys, wanted, side="right"), pointer)

    def _at(self, place: Ints, pointer: Ints) -> Ints:
        if not self._keys.size:
            return np.full(pointer.size, -1, np.int64)
        inside = (place >= 0) & (place < self._keys.size)
        safe = np.clip(place, 0, self._keys.size - 1)
        same = inside & ((self._keys[safe] >> 32) == pointer)
        return np.where(same, self._members[safe], -1)


@dataclass(frozen=True)
class _Meetings:
    """Whom each lookup met at its folio's pointer, by number; -1: nobody."""

    in_flight: Ints  # who had queued the folio, not flushed yet
    arrived: Ints  # whose move brought the folio here
    later: Ints  # who queued it afterwards, and moved it


def _meetings(some: _Some) -> _Meetings:
    """Queued lookups meet at their source, moved ones at their destination when they are done."""
    queued = _ByPointer(some.is_queued, some.src_key, some.seq)
    earlier = queued.last_before(some.src_key, some.seq)
    in_flight = (earlier >= 0) & (some.flush[np.maximum(earlier, 0)] > some.seq) & ~some.is_queued
    later = queued.first_after(some.src_key, some.seq)
    later_moved = (later >= 0) & some.is_moved[np.maximum(later, 0)]
    arrivals = _ByPointer(some.is_moved, some.dst_key, some.done)
    return _Meetings(
        in_flight=np.where(in_flight, earlier, -1),
        arrived=arrivals.last_until(some.src_key, some.seq),
        later=np.where(later_moved, later, -1),
    )


def _last_moves(some: _Some) -> Ints:
    """For each move the last one of its page: the same folio at its new place, taken again."""
    queued = _ByPointer(some.is_queued, some.src_key, some.seq)
    onward = queued.first_since(some.dst_key, some.done)
    onward = np.where(some.is_moved & (onward >= 0) & some.is_moved[onward], onward, -1)
    jump = np.where(onward >= 0, onward, some.numbers)
    for _ in range(32):
        further = jump[jump]
        if (further == jump).all():
            break
        jump = further
    return jump


def _deciders(some: _Some, met: _Meetings, last: Ints) -> Ints:
    """Which lookup's record decides about each, -1: none of them.

    Its own, the one in flight, the one that brought the folio here, or one that took
    it later: what that did counts where the page ended on this one's node.
    """
    at_last = last[np.maximum(met.later, 0)]
    later_helps = (met.later >= 0) & (some.goal[at_last] == some.goal)
    return np.select(
        [
            some.is_queued,
            met.in_flight >= 0,
            some.is_there & (met.arrived >= 0),
            ~some.is_there & later_helps,
        ],
        [some.numbers, met.in_flight, met.arrived, at_last],
        -1,
    )


@dataclass(frozen=True)
class _Ends:
    """Where the page of each lookup ended in the call, whoever decided."""

    source: Ints  # the move that tells of it, -1: none does
    move: Ints  # the page's last move, -1
    nid: Ints  # where that took it, -1


def _ends(some: _Some, met: _Meetings, last: Ints, decider: Ints) -> _Ends:
    by_decider = (decider >= 0) & some.is_moved[np.maximum(decider, 0)]
    source = np.select(
        [by_decider, met.later >= 0, met.arrived >= 0], [decider, met.later, met.arrived], -1
    )
    move = np.where(source >= 0, last[np.maximum(source, 0)], -1)
    return _Ends(source, move, np.where(move >= 0, some.goal[np.maximum(move, 0)], -1))


def _told(
    records: CallRecords,
    before: EntryOutcomes,
    end_nid: Ints,
    some: _Some,
    decider: Ints,
    end: _Ends,
) -> SharedFolios:
    """The outcomes with what deciders and ends say of the related lookups' entries."""
    lookups, calls = records.lookups, records.calls
    entry = lookups.entry[some.lookup]
    # Moved by the entry of the same page, or of another page of its folio?
    teller = np.where(decider >= 0, decider, end.source)
    kinship = np.where(some.page[np.maximum(teller, 0)] == some.page, DUPLICATE, SAME_FOLIO)
    others = np.flatnonzero((entry >= 0) & (decider >= 0) & (decider != some.numbers))
    record = some.lookup[decider[others]]
    outcomes = before.changed(
        entry[others],
        outcome=lookups.fate[record],
        cause=lookups.fate_cause[record],
        folio=lookups.row[record],
        reason=kinship[others],
    )
    ended = np.flatnonzero((entry >= 0) & (end.move >= 0))
    outcomes = outcomes.changed(entry[ended], end_nid=end.nid[ended])
    # Moved to another node afterwards, or moved there before and not from there.
    elsewhere = ended[end.nid[ended] != some.goal[ended]]
    after = some.seq[end.move[elsewhere]] > some.seq[elsewhere]
    reason = np.where(after, MOVED_AGAIN, kinship[elsewhere])
    outcomes = outcomes.changed(entry[elsewhere], reason=reason)

    # When a lost migration ran is not known: nor is who met the folio before it.
    vague = np.zeros(calls.count, np.bool_)
    vague[some.call[some.is_queued & (some.flush == FAR)]] = True
    unsure = np.zeros(records.entries.count, np.bool_)
    unsure[entry[(entry >= 0) & vague[some.call]]] = True
    outcomes = outcomes.unknown(unsure, calls.lost_code)
    ends = end_nid.copy()
    ends[some.lookup] = np.where(vague[some.call], -1, end.nid)
    return SharedFolios(outcomes, entry[others], ends)
