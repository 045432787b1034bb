# SPDX-License-Identifier: GPL-2.0-or-later
"""Which entry of a call each of the kernel's lookups belongs to.  Pure, vectorized.

do_pages_move() walks the array in order and looks up one address after the
other, except those whose mapping is missing or unsuitable (mm/migrate.c,
add_page_for_migration() up to 6.10, add_folio_for_migration() since): the
addresses of a call's lookups are a subsequence of its entries' addresses.
Whether an address has a suitable mapping is the same for each of its
occurrences, so the k-th lookup of an address belongs to its k-th occurrence.
Where that breaks the order (a mapping changed in the middle of the call) a
sequential greedy scan of that call decides.  When a call made as many lookups
as it has entries, the ordinals are the same, whatever was lost.
"""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from mptrace.arrays import Addresses, Bools, Ints
from mptrace.recording.joins import pair_ids, rows_of_calls

# Pointers may carry a tag that the kernel's lookup does not see: LAM on x86
# (bits 57 to 62), TBI and MTE on arm64 (bits 56 to 63).  User addresses have
# zeros there.
_UNTAGGED = np.uint64((1 << 56) - 1)


@dataclass(frozen=True)
class Alignment:
    """``entry_of`` each lookup and ``lookup_of`` each entry, -1 for none.

    ``misfit`` is true for each call one of whose lookups fits no entry, or
    fits several: its entries without a lookup can't be judged.
    """

    entry_of: Ints
    lookup_of: Ints
    misfit: Bools


def align(
    *,
    call_start: Ints,
    entry_address: Addresses,
    entry_readable: Bools,
    lookup_call: Ints,
    lookup_seq: Ints,
    lookup_address: Addresses,
    complete: Bools,
    every: Bools,
) -> Alignment:
    """Align the lookups of every call with its entries.

    :param call_start: shape (calls + 1,): the entries of call c are the rows
        ``call_start[c]`` to ``call_start[c + 1]``, in order.
    :param entry_address: address of each entry, as in the user's array.
    :param entry_readable: false where that address could not be read.
    :param lookup_call: call index of each lookup; lookups are sorted by
        (call, ``lookup_seq``) and no pair comes twice.
    :param lookup_seq: ordinal of the lookup in its call.
    :param lookup_address: address that the kernel looked up, untagged.
    :param complete: for each call, whether all of its lookups are there.
    :param every: for each call, whether it looked up each of its entries.
    """
    calls = call_start.size - 1
    entries = entry_address.size
    # The plain case first, without sorting: every entry was looked up.
    position = call_start[lookup_call] + lookup_seq
    fits = (complete | every)[lookup_call] & (position < call_start[lookup_call + 1])
    inside = np.where(fits, position, 0)
    if entries:
        own = entry_address[inside]
        equal = (own == lookup_address) | (
            every[lookup_call] & ((own & _UNTAGGED) == lookup_address)
        )
        fits &= np.where(entry_readable[inside], equal, every[lookup_call])
    else:
        fits[:] = False
    plain = np.ones(calls, np.bool_)
    plain[lookup_call[~fits]] = False
    entry_of = np.where(plain[lookup_call], position, np.int64(-1))
    misfit = np.zeros(calls, np.bool_)

    rest = np.flatnonzero(~plain)
    if rest.size:
        addresses = entry_address
        for attempt in ("as given", "untagged"):
            if attempt == "untagged":
                tagged = np.zeros(calls, np.bool_)
                entry_call = np.repeat(np.arange(calls), np.diff(call_start))
                tagged[entry_call[(entry_address & ~_UNTAGGED) != 0]] = True
                rest = rest[(misfit & tagged)[rest]]
                if not rest.size:
                    break
                addresses = entry_address & _UNTAGGED
            _align_by_occurrence(
                rest,
                call_start,
                addresses,
                entry_readable,
                lookup_call,
                lookup_seq,
                lookup_address,
                complete,
                entry_of,
                misfit,
            )
    lookup_of = np.full(entries, -1, np.int64)
    matched = np.flatnonzero(entry_of >= 0)
    lookup_of[entry_of[matched]] = matched
    return Alignment(entry_of, lookup_of, misfit)


def _align_by_occurrence(
    which: Ints,
    call_start: Ints,
    addresses: Addresses,
    readable: Bools,
    lookup_call: Ints,
    lookup_seq: Ints,
    lookup_address: Addresses,
    complete: Bools,
    entry_of: Ints,
    misfit: Bools,
) -> None:
    # Fills entry_of and misfit for the calls `which`.
    entry = rows_of_calls(call_start, which)
    # Empty calls share their start with the next one: "right" skips them.
    entry_call = np.searchsorted(call_start, entry, side="right") - 1
    unread = np.bincount(entry_call[~readable[entry]], minlength=misfit.size)
    first_unread = call_start[1:].copy()
    np.minimum.at(first_unread, entry_call[~readable[entry]], entry[~readable[entry]])
    entry_call = entry_call[readable[entry]]
    entry = entry[readable[entry]]
    chosen = np.zeros(misfit.size, np.bool_)
    chosen[which] = True
    lookup = np.flatnonzero(chosen[lookup_call])
    entry_of[lookup] = -1
    misfit[which] = False

    key = pair_ids(
        np.concatenate([entry_call, lookup_call[lookup]]),
        np.concatenate([addresses[entry], lookup_address[lookup]]),
    )
    entry_key, lookup_key = key[: entry.size], key[entry.size :]
    # Stable sorts keep the order of entries and of lookups within a key.
    by_key = np.argsort(entry_key, kind="stable")
    sorted_entry_key = entry_key[by_key]
    of_lookup = np.argsort(lookup_key, kind="stable")
    sorted_lookup_key = lookup_key[of_lookup]
    nth = np.arange(of_lookup.size) - np.searchsorted(sorted_lookup_key, sorted_lookup_key)
    first = np.searchsorted(sorted_entry_key, sorted_lookup_key)
    occurrences = np.searchsorted(sorted_entry_key, sorted_lookup_key, side="right") - first
    lookups = np.searchsorted(sorted_lookup_key, sorted_lookup_key, side="right") - np.searchsorted(
        sorted_lookup_key, sorted_lookup_key
    )
    call = lookup_call[lookup[of_lookup]]
    found = nth < occurrences
    place = entry[by_key[np.minimum(first + nth, max(by_key.size - 1, 0))]] if entry.size else nth
    # With lookups missing, which of several equal addresses one belongs to is open;
    # so it is behind an entry that could not be read and may have the same address.
    sure = np.where(
        unread[call] > 0,
        complete[call] & (place < first_unread[call]),
        complete[call] | (occurrences == 1) | (occurrences == lookups),
    )
    # A lookup that fits nothing may belong to an entry that could not be read.
    misfit |= np.bincount(call[~found], minlength=misfit.size) > unread
    misfit[call[~sure & found]] = True
    accept = found & sure
    target = lookup[of_lookup[accept]]
    entry_of[target] = place[accept]

    # The order must hold, and no lookup can come before its entry's turn.
    matched = lookup[entry_of[lookup] >= 0]
    back = np.flatnonzero(
        (np.diff(entry_of[matched]) <= 0) & (lookup_call[matched[1:]] == lookup_call[matched[:-1]])
    )
    early = lookup_seq[matched] > entry_of[matched] - call_start[lookup_call[matched]]
    wrong = np.unique(np.concatenate([lookup_call[matched[1:][back]], lookup_call[matched[early]]]))
    for call_index in wrong:
        own = np.arange(*np.searchsorted(lookup_call, [call_index, call_index + 1]))
        rows = np.arange(call_start[call_index], call_start[call_index + 1])
        rows = rows[readable[rows]]
        entry_of[own] = -1
        misfit[call_index] = True
        if complete[call_index]:
            places = _scan(addresses[rows], lookup_address[own])
            if places is not None:
                entry_of[own] = rows[places]
                misfit[call_index] = False


def _scan(entries: Addresses, lookups: Addresses) -> Ints | None:
    # The leftmost subsequence of one call's entries that equals its lookups.
    places: dict[int, list[int]] = {}
    for place, address in enumerate(entries.tolist()):
        places.setdefault(address, []).append(place)
    result = np.empty(lookups.size, np.int64)
    last = -1
    for index, address in enumerate(lookups.tolist()):
        own = places.get(address, [])
        next_place = bisect_right(own, last)
        if next_place == len(own):
            return None
        last = own[next_place]
        result[index] = last
    return result
