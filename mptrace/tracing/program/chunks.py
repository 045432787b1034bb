# SPDX-License-Identifier: GPL-2.0-or-later
"""Turns chunks of user arrays, as BPF read them, into one row per entry of a call."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mptrace.recording.joins import consecutive, rows_of_ids, run_starts
from mptrace.recording.layouts import (
    CHUNK_SMALL,
    ENTRY,
    READ_COMPAT,
    READ_NODES,
    READ_PAGES,
    READ_STATUS,
    field_names,
)
from mptrace.recording.lookup_layouts import FOUND, LOOKUP

#: Entries of a call that follow each other, as they were read at its entry or at its exit.
PIECE = np.dtype(
    [
        ("call_id", "<u8"),
        ("start", "<i8"),  # of its rows
        ("length", "<i8"),
        ("first", "<u4"),  # its first entry
        ("at_exit", "u1"),
        ("failed", "u1"),  # READ_* bits
    ],
    align=True,
)

_ROW = np.dtype(
    [
        ("call_id", "<u8"),
        ("address", "<u8"),
        ("entry", "<u4"),
        ("target_nid", "<i4"),
        ("status", "<i4"),
        ("at_exit", "u1"),
        ("failed", "u1"),
    ],
    align=True,
)

#: Rows that wait for the records of their calls, at most; some 70 MB.  Beyond it there are more
#: than two calls of a million entries at once, or records of calls were lost.
MAX_WAITING = 1 << 22


@dataclass(frozen=True)
class Sides:
    """What arrays said at the entry or the exit of calls.

    ``pieces`` are of dtype PIECE; the other arrays have an element for each entry of them.
    """

    pieces: NDArray[np.void]
    addresses: NDArray[np.uint64]
    target_nids: NDArray[np.int32]
    statuses: NDArray[np.int32]

    def __len__(self) -> int:
        return self.addresses.size

    def split(self, call_ids: NDArray[np.uint64]) -> "tuple[Sides, Sides]":
        """Those of these calls, and the others."""
        found = rows_of_ids(call_ids, self.pieces["call_id"]) >= 0
        return self._chosen(found), self._chosen(~found)

    def without(self, call_ids: NDArray[np.uint64]) -> "Sides":
        """All but those of these calls."""
        return self.split(call_ids)[1] if call_ids.size else self

    def _chosen(self, which: NDArray[np.bool_]) -> "Sides":
        if which.all():
            return self
        pieces = self.pieces[which]
        rows = consecutive(pieces["start"], pieces["length"])
        pieces["start"] = np.cumsum(pieces["length"]) - pieces["length"]
        return Sides(pieces, self.addresses[rows], self.target_nids[rows], self.statuses[rows])


def chunk_sides(chunks: NDArray[np.void]) -> Sides:
    """Sides of chunks (CHUNK_SMALL, _MEDIUM or _LARGE, shape (n,)), used entries only."""
    width = chunks.dtype["pages"].shape[0]
    pieces = np.zeros(len(chunks), PIECE)
    pieces["length"] = np.minimum(chunks["count"], width)
    pieces["start"] = np.cumsum(pieces["length"]) - pieces["length"]
    for name in ("call_id", "first", "at_exit"):
        pieces[name] = chunks[name]
    pieces["failed"] = chunks["failed"] & ~np.uint32(READ_COMPAT)
    pages, nodes, statuses = _pages(chunks), chunks["nodes"], chunks["status"]
    if (pieces["length"] == width).all():
        return Sides(pieces, pages.reshape(-1), nodes.reshape(-1), statuses.reshape(-1))
    used = np.arange(width) < pieces["length"][:, None]
    return Sides(pieces, pages[used], nodes[used], statuses[used])


def joined(parts: Iterable[Sides]) -> Sides:
    """Sides of all parts, one after the other; one alone as it is."""
    some = [part for part in parts if len(part)]
    if len(some) < 2:
        return some[0] if some else chunk_sides(np.empty(0, CHUNK_SMALL))
    pieces = np.concatenate([part.pieces for part in some])
    pieces["start"] = np.cumsum(pieces["length"]) - pieces["length"]
    return Sides(
        pieces,
        np.concatenate([part.addresses for part in some]),
        np.concatenate([part.target_nids for part in some]),
        np.concatenate([part.statuses for part in some]),
    )


def lookup_rows(batches: NDArray[np.void]) -> NDArray[np.void]:
    """Rows of batches (LOOKUPS_FEW or LOOKUPS_MANY, shape (n,)), dtype LOOKUP, used ones only."""
    width = batches.dtype["lookups"].shape[0]
    number = np.arange(width, dtype=np.uint32)[None, :]
    used = number < batches["count"][:, None]
    rows = np.empty(int(used.sum()), LOOKUP)
    rows["call_id"] = np.broadcast_to(batches["call_id"][:, None], used.shape)[used]
    rows["lookup_seq"] = (batches["first"][:, None] + number)[used]
    found = batches["lookups"][used]
    for name in field_names(FOUND):
        rows[name] = found[name]
    return rows


def _pages(chunks: NDArray[np.void]) -> NDArray[np.uint64]:
    """The arrays of pages, shape (n, entries); a 32-bit caller's has pointers of 4 bytes."""
    pages: NDArray[np.uint64] = chunks["pages"]
    compat = (chunks["failed"] & READ_COMPAT) != 0
    if compat.any():
        pages = pages.copy()
        halves = np.ascontiguousarray(pages[compat]).view("<u4")
        pages[compat] = halves[:, : pages.shape[1]]
    return pages


class EntryMerger:
    """Joins what the arrays said at a call's entry with what they said at its exit.

    Rows wait until the record of their call was seen: it is written after the
    last chunk, so nothing of the call is missing then.  `rest` gives those whose
    call never ended, or whose record was lost; of ``limit`` rows that wait the
    older half goes, as a session may last for months.  Where the pages or nodes
    could not be read at entry, what was read at exit stands in: the kernel has
    touched them by then.
    """

    def __init__(self, limit: int = MAX_WAITING) -> None:
        self._limit = limit
        self._waiting: list[Sides] = []
        #: Calls of which rows went because too many waited, the latest of them.
        self._incomplete: NDArray[np.uint64] = np.empty(0, np.uint64)

    def add(self, sides: Sides, ended: NDArray[np.uint64]) -> NDArray[np.void]:
        """Take sides of calls; return, dtype ENTRY, the entries of calls in ``ended``."""
        if len(sides):
            self._waiting.append(sides)
        merged = np.empty(0, ENTRY)
        if len(ended):  # otherwise there is nothing to look for: what waits isn't touched
            finished, waiting = joined(self._waiting).split(ended)
            self._waiting = [waiting]
            merged = merge_sides(finished)
        if sum(map(len, self._waiting)) > self._limit:
            self._drop_older()
        return merged

    def incomplete(self, call_ids: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Of which calls rows went because too many waited, bool[n]."""
        if not len(self._incomplete):
            return np.zeros(len(call_ids), np.bool_)
        found: NDArray[np.bool_] = np.isin(call_ids, self._incomplete)
        return found

    def _drop_older(self) -> None:
        waiting = joined(self._waiting)
        is_older = waiting.pieces["start"] < len(waiting) // 2
        older = np.unique(waiting.pieces["call_id"][is_older])
        self._incomplete = np.concatenate([self._incomplete, older])[-self._limit :]
        self._waiting = [waiting.without(older)]

    def forget(self, call_ids: NDArray[np.uint64]) -> None:
        """Drop what was read of these calls."""
        if call_ids.size:
            self._waiting = [sides.without(call_ids) for sides in self._waiting]

    def rest(self) -> NDArray[np.void]:
        """Rows of calls whose exit was not seen, dtype ENTRY; empties the merger."""
        waiting, self._waiting = self._waiting, []
        return merge_sides(joined(waiting))


def merge_sides(sides: Sides) -> NDArray[np.void]:
    """One ENTRY row per (call, entry) of both sides, sorted by them."""
    if not len(sides):
        return np.empty(0, ENTRY)
    pieces = sides.pieces
    pieces = pieces[np.lexsort((pieces["first"], pieces["at_exit"], pieces["call_id"]))]
    whole = _are_whole(pieces)
    if whole.all():
        return _merge_pairs(sides, pieces)
    if not whole.any():
        return _merge_any(sides)
    some, rest = sides.split(pieces["call_id"][whole])
    merged = np.concatenate([merge_sides(some), _merge_any(rest)])
    return merged[np.argsort(merged["call_id"], kind="stable")]


def _are_whole(pieces: NDArray[np.void]) -> NDArray[np.bool_]:
    """Of which sorted pieces the call has each entry up to some number once on either side."""
    calls, sides, lengths = pieces["call_id"], pieces["at_exit"], pieces["length"]
    call_starts = run_starts(calls)
    changes = (calls[1:] != calls[:-1]) | (sides[1:] != sides[:-1])
    side_starts = np.append(0, np.flatnonzero(changes) + 1)
    before = np.cumsum(lengths) - lengths
    # each piece begins where those before it of its side end, the first one with entry 0
    fits = pieces["first"] == before - np.repeat(
        before[side_starts], np.diff(side_starts, append=calls.size)
    )
    entered, left = (
        np.add.reduceat(np.where(sides == side, lengths, 0), call_starts) for side in (0, 1)
    )
    whole = np.logical_and.reduceat(fits, call_starts) & (entered == left)
    return np.repeat(whole, np.diff(call_starts, append=calls.size))


def _merge_pairs(sides: Sides, pieces: NDArray[np.void]) -> NDArray[np.void]:
    """Entries of whole calls, of sorted pieces: either side has the same rows."""
    entered = pieces[pieces["at_exit"] == 0]
    left = pieces[pieces["at_exit"] == 1]
    before, after = (consecutive(each["start"], each["length"]) for each in (entered, left))
    merged = np.empty(len(before), ENTRY)
    merged["call_id"] = np.repeat(entered["call_id"], entered["length"])
    merged["entry"] = consecutive(entered["first"].astype(np.int64), entered["length"])
    merged["address"] = sides.addresses[before]
    merged["target_nid"] = sides.target_nids[before]
    merged["status_before"] = sides.statuses[before]
    merged["status_after"] = sides.statuses[after]
    merged["unread"] = merged["unread_before"] = 0
    if pieces["failed"].any():
        failed = [np.repeat(each["failed"], each["length"]) for each in (entered, left)]
        for bit, field, values in (
            (READ_PAGES, "address", sides.addresses),
            (READ_NODES, "target_nid", sides.target_nids),
        ):
            late = (failed[0] & bit) != 0
            merged[field][late] = values[after[late]]
            merged["unread"][late & ((failed[1] & bit) != 0)] |= bit
        for name, unread, each in (
            ("status_before", "unread_before", failed[0]),
            ("status_after", "unread", failed[1]),
        ):
            late = (each & READ_STATUS) != 0
            merged[name][late] = 0
            merged[unread][late] |= READ_STATUS
    return merged


def _merge_any(sides: Sides) -> NDArray[np.void]:
    """Entries of calls of which a part is missing."""
    rows = _rows(sides)
    order = np.lexsort((rows["at_exit"], rows["entry"], rows["call_id"]))
    rows = rows[order]
    first = np.ones(len(rows), bool)
    first[1:] = (rows["call_id"][1:] != rows["call_id"][:-1]) | (
        rows["entry"][1:] != rows["entry"][:-1]
    )
    starts = np.nonzero(first)[0]
    ends = np.append(starts[1:], len(rows)) - 1
    before, after = rows[starts], rows[ends]
    has_before = before["at_exit"] == 0
    has_after = after["at_exit"] == 1

    merged = np.zeros(len(starts), ENTRY)
    merged["call_id"] = before["call_id"]
    merged["entry"] = before["entry"]
    unread = np.zeros(len(starts), np.uint8)
    for bit, field in ((READ_PAGES, "address"), (READ_NODES, "target_nid")):
        good_before = has_before & ((before["failed"] & bit) == 0)
        good_after = has_after & ((after["failed"] & bit) == 0)
        merged[field] = np.where(good_before, before[field], after[field])
        unread[~good_before & ~good_after] |= bit
    status_after = has_after & ((after["failed"] & READ_STATUS) == 0)
    merged["status_after"] = np.where(status_after, after["status"], 0)
    unread[~status_after] |= READ_STATUS
    status_before = has_before & ((before["failed"] & READ_STATUS) == 0)
    merged["status_before"] = np.where(status_before, before["status"], 0)
    merged["unread_before"] = np.where(status_before, 0, READ_STATUS)
    merged["unread"] = unread
    return merged


def _rows(sides: Sides) -> NDArray[np.void]:
    """A row for each entry of either side."""
    pieces = sides.pieces
    rows = np.empty(len(sides), _ROW)
    for name in ("call_id", "at_exit", "failed"):
        rows[name] = np.repeat(pieces[name], pieces["length"])
    rows["entry"] = consecutive(pieces["first"].astype(np.int64), pieces["length"])
    rows["address"] = sides.addresses
    rows["target_nid"] = sides.target_nids
    rows["status"] = sides.statuses
    return rows
