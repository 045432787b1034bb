# SPDX-License-Identifier: GPL-2.0-or-later
"""How a page moved after its call: by other calls and on other paths.  Pure.

Who asks where a page is, asks some time after the call.  A recorded move in between
explains what is seen only where one leads to the next without a gap: by the folio (the
target of one move is the source of the next), from node to node, and ending exactly on
the node that was seen.
"""

import numpy as np

from mptrace.arrays import Bools, Ints, Table, Tables
from mptrace.outcomes.joined import CallColumns, EntryColumns
from mptrace.recording.joins import ranks
from mptrace.recording.layouts import STRUCT_PAGE_BYTES
from mptrace.recording.slices import moves_between, whole_of

__all__ = ["NO_END", "explaining_moves"]

#: Later than every time.
NO_END = np.uint64(np.iinfo(np.uint64).max)
# Moves of one page between a call and the question about it that are followed.
_MOST_MOVES = 64


def explaining_moves(
    tables: Tables,
    calls: CallColumns,
    entries: EntryColumns,
    deciders: Ints,
    which: Ints,
    *,
    left_on: Ints,
    seen_on: Ints,
    asked_before: np.ndarray[tuple[int], np.dtype[np.uint64]],
) -> Ints:
    """Row of `folios` of the last move that explains where a page was seen, -1: none does.

    The rows are numbers in the recording: a move may be in another slice of it.

    :param deciders: row of `folios` that decided about each of ``entries``, -1: none.
    :param which: rows of the entries.
    :param left_on: the node where the call left the page of each; ``seen_on``: where it
        was seen, between the end of the call and ``asked_before``.
    """
    folios = tables["folios"]
    found = np.full(which.size, -1, np.int64)
    if not which.size:
        return found
    call = entries.call[which]
    record = tables["calls"][calls.row[call]]
    # By the folio where its record is known, else by the address.
    decider = deciders[which]
    known = decider >= 0
    own = np.zeros(decider.size, folios.dtype)
    own[known] = folios[decider[known]]
    pointer = np.where(known, np.where(own["move_rc"] == 0, own["dst"], own["src"]), 0)
    after = np.where(known, own["end_ns"], record["enter_ns"])
    target = record["target_tgid"].astype(np.int64)
    address = entries.address[which]
    # one that began earlier is in no chain, nor is one that began after the question
    move, moves = moves_between(tables, int(after.min()), int(asked_before.max()))
    if not moves.size:
        return found
    owner = owners({"folios": move, "calls": whole_of(tables)["calls"]})

    _, rank = ranks(np.concatenate([move["src"], move["dst"], pointer]))
    by_src, of_dst = rank[: moves.size], rank[moves.size : 2 * moves.size]
    at = rank[2 * moves.size :]
    # moves by source and time, times by their rank: both together fit one key
    _, clock = ranks(np.concatenate([move["start_ns"], move["end_ns"], after]))
    begin, end = clock[: moves.size], clock[moves.size : 2 * moves.size]
    since = clock[2 * moves.size :]
    width = np.int64(clock.max() + 1)
    key = by_src * width + begin
    order = np.argsort(key, kind="stable")
    ordered = key[order]

    def fits(number: Ints, entry: Ints) -> Bools:
        """What the record says of owner and address does not speak against the entry."""
        theirs = owner[number]
        same_owner = (theirs == target[entry]) & (theirs != 0)
        size = np.maximum(move["nr_pages"][number], 1).astype(np.uint64) * np.uint64(
            calls.page_size
        )
        place = move["address"][number]
        same_place = place // size == address[entry] // size
        # Freed and reused: another process's page by now, and of nobody else.  One mapping in
        # each attempt at the most; no mapping is none that was counted.
        lone = (move["n_maps"][number] > 0) & (
            move["n_maps"][number] <= np.maximum(move["n_unmap"][number], 1)
        )
        strange = (theirs != 0) & (target[entry] != 0) & ~same_owner & lone
        fine: Bools = ~strange & (~same_owner | (place == 0) | same_place)
        return fine

    next_move = np.full(which.size, -1, np.int64)
    unnamed = np.flatnonzero(~known & (target != 0))
    next_move[unnamed] = _by_address(
        move, owner, begin, address[unnamed], target[unnamed], since[unnamed], calls
    )
    nid = left_on.astype(np.int64).copy()
    alive = known | (next_move >= 0)
    first = True
    for _ in range(_MOST_MOVES):
        rows = np.flatnonzero(alive)
        if not rows.size:
            break
        step = np.searchsorted(ordered, at[rows] * width + since[rows])
        safe = np.minimum(step, ordered.size - 1)
        hit = (step < ordered.size) & (ordered[safe] // width == at[rows])
        number = np.where(hit, order[safe], -1)
        if first:
            number = np.where(known[rows], number, next_move[rows])
        first = False
        good = number >= 0
        safe = np.maximum(number, 0)
        good &= (move["src_nid"][safe] == nid[rows]) & fits(safe, rows)
        good &= move["start_ns"][safe] < asked_before[rows]
        alive[rows[~good]] = False
        rows, number = rows[good], number[good]
        # A move that was over before the call was has to be part of what explains.
        over = move["end_ns"][number] <= record["exit_ns"][rows]
        found[rows[over]] = -1
        explains = (move["dst_nid"][number] == seen_on[rows]) & (
            move["call_id"][number] != record["call_id"][rows]
        )
        found[rows[explains]] = moves[number[explains]]
        at[rows], since[rows], nid[rows] = of_dst[number], end[number], move["dst_nid"][number]
    return found


def _by_address(
    move: Table,
    owner: Ints,
    begin: Ints,
    address: np.ndarray[tuple[int], np.dtype[np.uint64]],
    target: Ints,
    since: Ints,
    calls: CallColumns,
) -> Ints:
    """Number of the first move at each address of a process after a time, -1 for none."""
    best = np.full(address.size, -1, np.int64)
    for pages in np.unique(move["nr_pages"]):
        members = np.flatnonzero((move["nr_pages"] == pages) & (move["address"] != 0))
        size = np.uint64(max(int(pages), 1) * calls.page_size)
        _, place = ranks(np.concatenate([move["address"][members], address]) // size)
        _, process = ranks(np.concatenate([owner[members], target]))
        both = process * np.int64(place.max() + 1 if place.size else 1) + place
        _, both = ranks(both)
        width = np.int64(max(int(begin.max()), int(since.max()) if since.size else 0) + 1)
        key = both[: members.size] * width + begin[members]
        order = np.argsort(key, kind="stable")
        ordered = key[order]
        wanted = both[members.size :]
        step = np.searchsorted(ordered, wanted * width + since)
        safe = np.minimum(step, max(ordered.size - 1, 0))
        hit = (step < ordered.size) if ordered.size else np.zeros(address.size, np.bool_)
        if ordered.size:
            hit &= ordered[safe] // width == wanted
            number = np.where(hit, members[order[safe]], -1)
            sooner = (number >= 0) & ((best < 0) | (begin[number] < begin[np.maximum(best, 0)]))
            best = np.where(sooner, number, best)
    return best


def owners(tables: Tables) -> Ints:
    """The process in which each of `folios` has its address, 0: unknown.

    Of a lookup it is the process that its call was about, whoever else maps the folio.
    """
    folios, calls = tables["folios"], tables["calls"]
    owner = folios["owner_tgid"].astype(np.int64)
    of_call = np.flatnonzero(folios["call_id"] != 0)
    if not of_call.size or not calls.size:
        return owner
    order = np.argsort(calls["call_id"], kind="stable")
    ids = calls["call_id"][order]
    wanted = folios["call_id"][of_call]
    place = np.minimum(np.searchsorted(ids, wanted), ids.size - 1)
    target = calls["target_tgid"][order[place]].astype(np.int64)
    told = (ids[place] == wanted) & (target != 0)
    owner[of_call[told]] = target[told]
    return owner


def tail_row(folios: Table, head: int, index: int) -> int:
    """Row of page ``index`` of a folio that was split in its migration, -1: it has none."""
    if not index:
        return head
    src = folios["src"][head] + np.uint64(index * STRUCT_PAGE_BYTES)
    same = (folios["migration_id"] == folios["migration_id"][head]) & (folios["src"] == src)
    rows = np.flatnonzero(same)
    return int(rows[0]) if rows.size else -1
