# SPDX-License-Identifier: GPL-2.0-or-later
"""Chunks of the user arrays become one row per entry."""

import numpy as np
import pytest
from numpy.typing import NDArray

from mptrace.recording.layouts import (
    CHUNK_LARGE,
    CHUNK_MEDIUM,
    CHUNK_SMALL,
    READ_COMPAT,
    READ_NODES,
    READ_PAGES,
    READ_STATUS,
    SMALL_CHUNK,
)
from mptrace.recording.lookup_layouts import LOOKUP, LOOKUPS_FEW
from mptrace.tracing.program import chunks
from mptrace.tracing.program.chunks import EntryMerger, Sides, chunk_sides, lookup_rows


def chunk(call: int, first: int, count: int, *, at_exit: int, failed: int = 0) -> NDArray[np.void]:
    """A chunk whose address is 4096 * entry, target 1, status 7 before and 1 after."""
    made = np.zeros(1, CHUNK_SMALL)
    made["call_id"], made["first"], made["count"] = call, first, count
    made["at_exit"], made["failed"] = at_exit, failed
    made["pages"] = 4096 * (first + np.arange(SMALL_CHUNK))
    made["nodes"] = 1
    made["status"] = 1 if at_exit else 7
    return made


def rows(*chunks: NDArray[np.void]) -> Sides:
    """What is in several chunks."""
    return chunk_sides(np.concatenate(chunks))


def ended(*calls: int) -> NDArray[np.uint64]:
    """Call ids as the tracer hands them over."""
    return np.array(calls, np.uint64)


def test_only_used_entries_of_a_chunk_count() -> None:
    """A partly used chunk gives as many rows as it says."""
    made = rows(chunk(1, 0, SMALL_CHUNK, at_exit=0), chunk(1, SMALL_CHUNK, 3, at_exit=0))
    assert made.pieces["first"].tolist() == [0, SMALL_CHUNK]
    assert made.pieces["length"].tolist() == [SMALL_CHUNK, 3]
    assert made.addresses.tolist() == [4096 * entry for entry in range(SMALL_CHUNK + 3)]


def test_only_used_lookups_of_a_batch_count() -> None:
    """Each with its call and its ordinal there."""
    batches = np.zeros(2, LOOKUPS_FEW)
    batches["call_id"], batches["first"], batches["count"] = [7, 9], [32, 0], [3, 1]
    batches["lookups"]["address"] = np.arange(8).reshape(2, 4)
    batches["lookups"]["nid"] = 1
    rows = lookup_rows(batches)
    assert rows.dtype == LOOKUP
    assert rows["call_id"].tolist() == [7, 7, 7, 9]
    assert rows["lookup_seq"].tolist() == [32, 33, 34, 0]
    assert rows["address"].tolist() == [0, 1, 2, 4]
    assert rows["nid"].tolist() == [1] * 4
    assert lookup_rows(batches[:0]).size == 0


def test_entry_and_exit_are_merged_when_the_call_ended() -> None:
    """Both sides of an entry become one row, calls apart, in order of call and entry."""
    merger = EntryMerger()
    assert not len(merger.add(rows(chunk(2, 0, 2, at_exit=0), chunk(1, 0, 2, at_exit=0)), ended()))
    made = merger.add(rows(chunk(1, 0, 2, at_exit=1)), ended(1))
    assert made["call_id"].tolist() == [1, 1]
    assert made["status_before"].tolist() == [7, 7]
    assert made["status_after"].tolist() == [1, 1]
    assert not made["unread"].any()
    assert not made["unread_before"].any()
    assert merger.rest()["call_id"].tolist() == [2, 2]


def test_exit_chunks_wait_for_the_calls_record() -> None:
    """Half of a call's exit chunks may come a moment before the others: nothing leaves early."""
    merger = EntryMerger()
    both = rows(chunk(1, 0, 64, at_exit=0), chunk(1, 64, 5, at_exit=0), chunk(1, 0, 64, at_exit=1))
    assert not len(merger.add(both, ended()))
    made = merger.add(rows(chunk(1, 64, 5, at_exit=1)), ended(1))
    assert len(made) == 69
    assert not made["unread"].any()


def test_what_could_not_be_read_is_said() -> None:
    """An array unread at entry is taken from the exit; unread at both sides it stays unread."""
    merger = EntryMerger()
    made = merger.add(
        rows(
            chunk(1, 0, 1, at_exit=0, failed=READ_PAGES | READ_NODES | READ_STATUS),
            chunk(1, 0, 1, at_exit=1, failed=READ_NODES),
        ),
        ended(1),
    )
    assert made["unread"].tolist() == [READ_NODES]
    assert made["unread_before"].tolist() == [READ_STATUS]
    assert made["address"].tolist() == [0]
    assert made["status_after"].tolist() == [1]


def test_a_call_whose_exit_was_not_seen_has_no_status() -> None:
    """What was read at entry only is kept, with the status marked as unread."""
    merger = EntryMerger()
    merger.add(rows(chunk(3, 0, 2, at_exit=0)), ended())
    rest = merger.rest()
    assert rest["unread"].tolist() == [READ_STATUS, READ_STATUS]
    assert not len(merger.rest())


@pytest.mark.parametrize("layout", [CHUNK_SMALL, CHUNK_MEDIUM, CHUNK_LARGE])
def test_pointers_of_a_32_bit_caller(layout: np.dtype[np.void]) -> None:
    """They fill half the room; what follows them there is nothing."""
    entries = layout["pages"].shape[0]
    made = np.zeros(3, layout)
    made["count"] = entries
    made["failed"] = [0, READ_COMPAT, READ_COMPAT | READ_STATUS]
    made["pages"][0] = (1 << 40) + np.arange(entries)
    halves = np.full(2 * entries, 0xDEADBEEF, "<u4")
    halves[:entries] = 0xFF000000 + np.arange(entries)
    made["pages"][1] = made["pages"][2] = halves.view("<u8")
    sides = chunk_sides(made)
    addresses = sides.addresses.reshape(3, entries)
    assert (addresses[0] == (1 << 40) + np.arange(entries)).all()
    assert (addresses[1:] == 0xFF000000 + np.arange(entries)).all()
    assert sides.pieces["failed"].tolist() == [0, 0, READ_STATUS]


def test_calls_of_no_interest_are_forgotten() -> None:
    """Nothing of them comes later, others keep what was read."""
    merger = EntryMerger()
    merger.add(rows(chunk(1, 0, 2, at_exit=0), chunk(2, 0, 3, at_exit=0)), ended())
    merger.forget(ended())
    merger.forget(ended(1))
    made = merger.add(rows(chunk(2, 0, 3, at_exit=1)), ended(1, 2))
    assert made["call_id"].tolist() == [2, 2, 2]
    assert not len(merger.rest())


def test_what_waits_is_bounded() -> None:
    """Records of calls may be lost: the older half of what waits goes, and its calls are known."""
    merger = EntryMerger(limit=10)
    for call in range(1, 6):
        merger.add(rows(chunk(call, 0, 2, at_exit=0)), ended())
    assert not merger.incomplete(ended(1, 2, 3, 4, 5)).any()
    merger.add(rows(chunk(6, 0, 2, at_exit=0)), ended())
    assert merger.incomplete(ended(1, 2, 3, 4, 5, 6)).tolist() == [True] * 3 + [False] * 3
    # what comes of them afterwards is part of the call's rows, as far as it goes
    made = merger.add(rows(chunk(3, 0, 2, at_exit=1)), ended(3, 4))
    assert made["call_id"].tolist() == [3, 3, 4, 4]
    assert made["unread_before"].tolist() == [READ_STATUS, READ_STATUS, 0, 0]
    assert merger.rest()["call_id"].tolist() == [5, 5, 6, 6]


def many_calls(random: np.random.Generator, *, is_whole: bool) -> NDArray[np.void]:
    """Chunks of calls that run at once; where they are not whole, some chunks are missing."""
    made = []
    for call, entries in enumerate(random.integers(1, 4 * SMALL_CHUNK, 23).tolist()):
        for at_exit in (0, 1):
            for first in range(0, entries, SMALL_CHUNK):
                one = chunk(call, first, min(entries - first, SMALL_CHUNK), at_exit=at_exit)
                one["failed"] = random.integers(0, 8) * (random.random() < 0.3)
                one["pages"] += at_exit
                made.append(one)
    kept = [one for one in made if is_whole or random.random() < 0.9]
    # those of a call in their order, of different calls in any
    order = np.argsort([one["call_id"][0] for one in kept], kind="stable")
    turns = random.permutation([one["call_id"][0] for one in kept])
    places = np.empty(len(kept), int)
    places[np.argsort(turns, kind="stable")] = order
    return np.concatenate([kept[place] for place in places])


@pytest.mark.parametrize("is_whole", [True, False])
def test_whole_calls_are_merged_as_any_are(monkeypatch: pytest.MonkeyPatch, is_whole: bool) -> None:
    """By pieces where nothing is missing, and row by row else, to the same rows."""
    random = np.random.default_rng(23)
    mixed = rows(many_calls(random, is_whole=is_whole))
    merged = chunks.merge_sides(mixed)
    by_pieces = len(merged)
    monkeypatch.setattr(chunks, "_merge_pairs", lambda *_: merged[:0])
    by_pieces -= len(chunks.merge_sides(mixed))
    assert by_pieces == len(merged) if is_whole else 0 < by_pieces < len(merged)
    assert merged.tobytes() == chunks._merge_any(mixed).tobytes()
