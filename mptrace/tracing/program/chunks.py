# SPDX-License-Identifier: GPL-2.0-or-later
"""Turns chunks of user arrays, as BPF read them, into one row per entry of a call."""

import numpy as np
from numpy.typing import NDArray

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
_SIDE = np.dtype(
    [
        ("call_id", "<u8"),
        ("entry", "<u4"),
        ("at_exit", "u1"),
        ("failed", "u1"),
        ("address", "<u8"),
        ("target_nid", "<i4"),
        ("status", "<i4"),
    ]
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
    used = np.arange(width, dtype=np.uint32)[None, :] < chunks["count"][:, None]
    which = np.nonzero(used)
    rows = np.empty(len(which[0]), _SIDE)
    chunk_of, position = which
    rows["call_id"] = chunks["call_id"][chunk_of]
    rows["entry"] = chunks["first"][chunk_of] + position
    rows["at_exit"] = chunks["at_exit"][chunk_of]
    rows["failed"] = chunks["failed"][chunk_of] & ~np.uint32(READ_COMPAT)
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
            waiting = np.concatenate([np.empty(0, _SIDE), *self._waiting])
            finished = np.isin(waiting["call_id"], ended)
            self._waiting = [waiting[~finished]]
            merged = merge_sides(waiting[finished])
        if sum(map(len, self._waiting)) > self._limit:
            self._drop_older()
        return merged

    def incomplete(self, call_ids: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Of which calls rows went because too many waited, bool[n]."""
        found: NDArray[np.bool_] = np.isin(call_ids, self._incomplete)
        return found

    def _drop_older(self) -> None:
        waiting = np.concatenate(self._waiting)
        older = np.unique(waiting["call_id"][: len(waiting) // 2])
        self._incomplete = np.concatenate([self._incomplete, older])[-self._limit :]
        self._waiting = [waiting[~np.isin(waiting["call_id"], older)]]

    def forget(self, call_ids: NDArray[np.uint64]) -> None:
        """Drop what was read of these calls."""
        if len(call_ids):
            self._waiting = [rows[~np.isin(rows["call_id"], call_ids)] for rows in self._waiting]

    def rest(self) -> NDArray[np.void]:
        """Rows of calls whose exit was not seen, dtype ENTRY; empties the merger."""
        rows, self._waiting = self._waiting, []
        return merge_sides(np.concatenate([np.empty(0, _SIDE), *rows]))


def merge_sides(rows: NDArray[np.void]) -> NDArray[np.void]:
    """One ENTRY row per (call, entry) of rows from both sides, sorted by them."""
    if not len(rows):
        return np.empty(0, ENTRY)
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
