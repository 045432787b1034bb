# SPDX-License-Identifier: GPL-2.0-or-later
"""Turns chunks of user arrays, as BPF read them, into one row per entry of a call."""

import numpy as np
from numpy.typing import NDArray

from mptrace.recording.joins import as_bytes, consecutive, run_starts, stacked
from mptrace.recording.layouts import (
    ENTRY,
    READ_COMPAT,
    READ_NODES,
    READ_PAGES,
    READ_STATUS,
    field_names,
)
from mptrace.recording.lookup_layouts import FOUND, LOOKUP

#: A row of a chunk before entry and exit are merged.
SIDE = np.dtype(
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

#: Rows that wait for the records of their calls, at most; some 140 MB.  Beyond it there are more
#: than two calls of a million entries at once, or records of calls were lost.
MAX_WAITING = 1 << 22


def chunk_rows(chunks: NDArray[np.void]) -> NDArray[np.void]:
    """Rows of chunks (CHUNK_SMALL, _MEDIUM or _LARGE, shape (n,)), used entries only.

    Returns shape (sum of counts,) with the fields of one side of a call:
    ``call_id, entry, at_exit, failed, address, target_nid, status``.
    """
    width = chunks.dtype["pages"].shape[0]
    counts = np.minimum(chunks["count"], width).astype(np.int64)
    rows = np.empty(int(counts.sum()), SIDE)
    if not rows.size:
        return rows
    rows["call_id"] = np.repeat(chunks["call_id"], counts)
    rows["entry"] = consecutive(chunks["first"].astype(np.int64), counts)
    rows["at_exit"] = np.repeat(chunks["at_exit"].astype(np.uint8), counts)
    failed = chunks["failed"] & ~np.uint32(READ_COMPAT)
    rows["failed"] = np.repeat(failed.astype(np.uint8), counts)
    used = np.arange(width) < counts[:, None]
    rows["address"] = _pages(chunks)[used]
    rows["target_nid"] = chunks["nodes"][used]
    rows["status"] = chunks["status"][used]
    return rows


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
        self._waiting: list[NDArray[np.void]] = []
        #: Calls of which rows went because too many waited, the latest of them.
        self._incomplete: NDArray[np.uint64] = np.empty(0, np.uint64)

    def add(self, rows: NDArray[np.void], ended: NDArray[np.uint64]) -> NDArray[np.void]:
        """Take rows of `chunk_rows`; return, dtype ENTRY, those of calls in ``ended``."""
        if len(rows):
            self._waiting.append(rows)
        merged = np.empty(0, ENTRY)
        if len(ended):  # otherwise there is nothing to look for: what waits isn't touched
            waiting = stacked(SIDE, self._waiting)
            finished = _are_of(waiting, ended)
            self._waiting = [_chosen(waiting, ~finished)]
            merged = merge_sides(_chosen(waiting, finished))
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
        waiting = stacked(SIDE, self._waiting)
        older = np.unique(waiting["call_id"][: len(waiting) // 2])
        self._incomplete = np.concatenate([self._incomplete, older])[-self._limit :]
        self._waiting = [_chosen(waiting, ~_are_of(waiting, older))]

    def forget(self, call_ids: NDArray[np.uint64]) -> None:
        """Drop what was read of these calls."""
        if len(call_ids):
            self._waiting = [_chosen(rows, ~_are_of(rows, call_ids)) for rows in self._waiting]

    def rest(self) -> NDArray[np.void]:
        """Rows of calls whose exit was not seen, dtype ENTRY; empties the merger."""
        rows, self._waiting = self._waiting, []
        return merge_sides(stacked(SIDE, rows))


def without(rows: NDArray[np.void], call_ids: NDArray[np.uint64]) -> NDArray[np.void]:
    """Rows of `chunk_rows` but for those of these calls."""
    return _chosen(rows, ~_are_of(rows, call_ids)) if len(call_ids) else rows


def merge_sides(rows: NDArray[np.void]) -> NDArray[np.void]:
    """One ENTRY row per (call, entry) of rows from both sides, sorted by them."""
    if not len(rows):
        return np.empty(0, ENTRY)
    # pieces of consecutive entries: few, where rows are many
    calls, entries, sides = rows["call_id"], rows["entry"], rows["at_exit"]
    follows = (entries[1:] == entries[:-1] + 1) & (sides[1:] == sides[:-1])
    follows &= calls[1:] == calls[:-1]
    starts = np.append(0, np.flatnonzero(~follows) + 1)
    lengths = np.diff(starts, append=len(rows))
    order = np.lexsort((entries[starts], sides[starts], calls[starts]))
    starts, lengths = starts[order], lengths[order]
    calls, sides = calls[starts], sides[starts]
    whole = _are_whole(calls, sides, entries[starts], lengths)
    if whole.all():
        before = sides == 0
        return _merge_pairs(
            rows,
            consecutive(starts[before], lengths[before]),
            consecutive(starts[~before], lengths[~before]),
        )
    if not whole.any():
        return _merge_any(rows)
    is_of_whole = _are_of(rows, calls[whole])
    merged = np.concatenate(
        [merge_sides(_chosen(rows, is_of_whole)), _merge_any(_chosen(rows, ~is_of_whole))]
    )
    return merged[np.argsort(merged["call_id"], kind="stable")]


def _are_whole(
    calls: NDArray[np.uint64],
    sides: NDArray[np.uint8],
    firsts: NDArray[np.uint32],
    lengths: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Of which sorted pieces the call has each entry up to some number once on either side."""
    call_starts = run_starts(calls)
    changes = (calls[1:] != calls[:-1]) | (sides[1:] != sides[:-1])
    side_starts = np.append(0, np.flatnonzero(changes) + 1)
    before = np.cumsum(lengths) - lengths
    # each piece begins where those before it of its side end, the first one with entry 0
    fits = firsts == before - np.repeat(
        before[side_starts], np.diff(side_starts, append=calls.size)
    )
    entered, left = (
        np.add.reduceat(np.where(sides == side, lengths, 0), call_starts) for side in (0, 1)
    )
    whole = np.logical_and.reduceat(fits, call_starts) & (entered == left)
    return np.repeat(whole, np.diff(call_starts, append=calls.size))


def _merge_pairs(
    rows: NDArray[np.void], before: NDArray[np.int64], after: NDArray[np.int64]
) -> NDArray[np.void]:
    """Entries of whole calls: rows of one side, and of the other, in the same order."""
    merged = np.empty(len(before), ENTRY)
    for name in ("call_id", "entry", "address", "target_nid"):
        merged[name] = rows[name][before]
    merged["status_before"] = rows["status"][before]
    merged["status_after"] = rows["status"][after]
    merged["unread"] = merged["unread_before"] = 0
    if rows["failed"].any():
        failed = rows["failed"][before], rows["failed"][after]
        for bit, field in ((READ_PAGES, "address"), (READ_NODES, "target_nid")):
            late = (failed[0] & bit) != 0
            merged[field][late] = rows[field][after[late]]
            merged["unread"][late & ((failed[1] & bit) != 0)] |= bit
        for name, each, unread in (
            ("status_before", failed[0], "unread_before"),
            ("status_after", failed[1], "unread"),
        ):
            late = (each & READ_STATUS) != 0
            merged[name][late] = 0
            merged[unread][late] |= READ_STATUS
    return merged


def _merge_any(rows: NDArray[np.void]) -> NDArray[np.void]:
    """Entries of calls of which a part is missing."""
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


def _are_of(rows: NDArray[np.void], call_ids: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which rows are of these calls; a call's rows mostly follow each other."""
    starts = run_starts(rows["call_id"])
    found: NDArray[np.bool_] = np.isin(rows["call_id"][starts], call_ids)
    return np.repeat(found, np.diff(starts, append=len(rows)))


def _chosen(rows: NDArray[np.void], which: NDArray[np.bool_]) -> NDArray[np.void]:
    if which.all():
        return rows
    return as_bytes(rows)[which].view(rows.dtype)
