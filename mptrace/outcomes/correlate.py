# SPDX-License-Identifier: GPL-2.0-or-later
"""Records, arrays and locations -> one row per entry of every call.  Pure.

The outcome of an entry is its *page's*, from the kernel's events and the arrays
alone: ``replay`` runs the kernel's loop over them.  The status array and the
location (a query after the call) only judge it: they never make an outcome.
"""

import errno
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Bools, Ints, Table, Tables
from mptrace.outcomes.causes import obstacles, rules
from mptrace.outcomes.causes.columns import state_of
from mptrace.outcomes.joined import (
    ALREADY_THERE,
    CANT_TELL,
    ENTRY_REASONS,
    FAILED,
    MOVED,
    MOVED_LATER,
    NOT_ATTEMPTED,
    UNKNOWN,
    UNTOUCHED,
    WRITTEN,
    Calls,
    Entries,
    Lookups,
    Replay,
)
from mptrace.outcomes.later import NO_END, explaining_moves
from mptrace.outcomes.replay import replay_loop
from mptrace.recording.joins import ranks
from mptrace.recording.layouts import NO_LOOKUP, READ_STATUS, SEEN_VMA, STAGE_VMA, WITNESSES
from mptrace.recording.meta import Meta

__all__ = [
    "AGREE",
    "ALREADY_THERE",
    "CANT_TELL",
    "DISAGREE",
    "ENTRY_REASONS",
    "FAILED",
    "MOVED",
    "NOT_ASKED",
    "NOT_ATTEMPTED",
    "NO_WITNESS",
    "ROW",
    "SILENT",
    "UNKNOWN",
    "UNTOUCHED",
    "WRITTEN",
    "Correlation",
    "correlate",
]

NO_WITNESS, AGREE, SILENT, DISAGREE, NOT_ASKED = range(len(WITNESSES))

#: One row per entry of every call that asked for a move.
ROW = np.dtype(
    [
        ("call", "<u4"),  # ordinal of the call, in the order of call_id
        ("entry", "<u4"),
        ("address", "<u8"),
        ("target_nid", "<i4"),
        ("status_before", "<i4"),
        ("status_after", "<i4"),
        ("status_expected", "<i4"),  # what the kernel stored, by the replay
        ("written", "i1"),  # WRITTEN, UNTOUCHED, CANT_TELL
        ("has_status", "u1"),  # 1: the column `status` is status_after, 0: null
        ("unread", "u1"),  # READ_* bits
        ("unread_before", "u1"),  # READ_STATUS: status_before could not be read
        ("outcome", "u1"),  # index into OUTCOMES
        ("entry_reason", "u1"),  # index into ENTRY_REASONS
        ("witnesses", "u1"),  # index into WITNESSES
        ("has_location", "u1"),
        ("cause", "<u2"),  # rules.cause_name()
        ("before_nid", "<i4"),  # node or -errno, where has_location
        ("final_nid", "<i4"),
        ("expected_nid", "<i4"),  # where the page's last move in the call took it, -1: none
        ("folio", "<i8"),  # row of `folios` that decided the outcome, -1: none
        ("later", "<i8"),  # row of `folios` that took the page on to final_nid, -1: none
    ]
)


@dataclass(frozen=True)
class Correlation:
    """The correlator's result.

    ``rows`` has dtype :data:`ROW`, sorted by (call, entry).  ``call_ids`` gives
    the call_id of each ordinal; ``call_row`` its row in ``calls``, -1 where the
    call's record is missing.  ``beyond_bound`` counts entries of calls longer
    than what is read of one; they have no row and are unknown.  ``split`` holds
    rows of ``folios`` whose large folio was split.  ``queued`` tells of each row whether
    its own lookup isolated a folio for a migration.
    """

    rows: Table
    call_ids: npt.NDArray[np.uint64]
    call_row: Ints
    beyond_bound: int
    split: Ints
    queued: Bools


def correlate(tables: Tables, meta: Meta) -> Correlation:
    """Compute one row per entry of every call that asked for a move.

    :param tables: tables of a recording by name, layouts of ``layouts.TABLES``.
    :param meta: its meta.json; ``coverage``, ``nodes``, ``lost``, ``max_entries``
        and ``kernel`` are used.
    """
    calls = Calls.of(tables, meta)
    entries = Entries.of(tables["entries"], calls)
    lookups = Lookups.of(tables, calls, entries)
    replay = replay_loop(tables, calls, entries, lookups)
    rows = _judge(tables, meta, calls, entries, lookups, replay)
    queued = lookups.of_entry >= 0
    queued[queued] = lookups.queued[lookups.of_entry[queued]]
    return Correlation(rows, calls.ids, calls.row, calls.beyond_bound, lookups.split_rows, queued)


def _judge(
    tables: Tables,
    meta: Meta,
    calls: Calls,
    entries: Entries,
    lookups: Lookups,
    replay: Replay,
) -> Table:
    rows = np.zeros(entries.count, ROW)
    rows["call"] = entries.call
    rows["entry"] = entries.entry
    rows["address"] = entries.address
    rows["target_nid"] = entries.target
    rows["status_before"] = entries.before
    rows["status_after"] = entries.after
    rows["status_expected"] = replay.expected
    rows["written"] = replay.written
    rows["unread"] = entries.unread
    rows["unread_before"] = entries.unread_before
    rows["outcome"] = replay.outcome
    rows["entry_reason"] = replay.reason
    rows["expected_nid"] = replay.final
    rows["folio"] = replay.folio
    told = (entries.unread & READ_STATUS) == 0
    written = replay.written
    shown = told & ((written == WRITTEN) | ((written == CANT_TELL) & entries.changed))
    rows["has_status"] = shown
    rows["cause"] = _causes(tables, meta, calls, entries, lookups, replay)
    is_asked = _of_driver(tables, calls)[entries.call]
    has_location, before, final, asked_before = _locations(tables, calls, entries)
    rows["has_location"] = has_location
    rows["before_nid"] = before
    rows["final_nid"] = final

    # The status array: as the replay says?
    mismatch = told & (written == WRITTEN) & (entries.after != replay.expected)
    mismatch |= entries.compared & (written == UNTOUCHED) & (entries.after != entries.before)
    mismatch |= shown & (written == CANT_TELL) & (entries.after != replay.expected)
    # The location: where the outcome says?
    outcome = replay.outcome
    target, ends = entries.target, replay.final
    in_place = np.select(
        [
            ends >= 0,
            (outcome == MOVED) | (outcome == ALREADY_THERE),
            outcome == FAILED,
        ],
        [final == ends, final == target, (final != target) | (final == before)],
        final == before,
    )
    # Elsewhere: others may have moved it again before it was asked for.
    left_on = np.select(
        [ends >= 0, (outcome == MOVED) | (outcome == ALREADY_THERE)], [ends, target], before
    )
    rows["later"] = -1
    away = np.flatnonzero(has_location & (outcome != UNKNOWN) & (final >= 0) & (final != left_on))
    rows["later"][away] = explaining_moves(
        tables,
        calls,
        entries,
        replay,
        away,
        left_on=left_on[away],
        seen_on=final[away],
        asked_before=asked_before[entries.call[away]],
    )
    explained = rows["later"] >= 0
    rows["entry_reason"][explained & (replay.reason == 0)] = MOVED_LATER
    in_place |= explained
    # Where a lost lookup may have moved the page again the location judges nothing.
    judged = has_location & (in_place | (lookups.complete & ~lookups.misfit)[entries.call])
    rows["witnesses"] = np.select(
        [
            (outcome != UNKNOWN) & (mismatch | (judged & ~in_place)),
            ~is_asked,
            (outcome == UNKNOWN) | ~judged,
            shown,
            (written == WRITTEN) & ~told,
        ],
        [DISAGREE, NOT_ASKED, NO_WITNESS, AGREE, NO_WITNESS],
        SILENT,
    )
    return rows


def _causes(
    tables: Tables,
    meta: Meta,
    calls: Calls,
    entries: Entries,
    lookups: Lookups,
    replay: Replay,
) -> npt.NDArray[np.uint16]:
    folios = tables["folios"]
    cause = replay.cause.copy()
    failed = np.flatnonzero(replay.outcome == FAILED)
    if failed.size:
        folio = replay.folio[failed]
        has = folio >= 0
        safe = np.maximum(folio, 0)

        def column(name: str) -> Ints:
            if not folios.size:
                return np.zeros(failed.size, np.int64)
            return np.where(has, folios[name][safe].astype(np.int64), 0)

        queued = has & ((column("isolate_rc") == 0) | (column("lookup_seq") == NO_LOOKUP))
        look = lookups.of_entry[failed]
        rc = np.zeros(failed.size, np.int64)
        if lookups.row.size:
            rc = np.where(look >= 0, lookups.group_rc[np.maximum(look, 0)], 0)
        fields: dict[str, Any] = {
            name: column(name)
            for name in (
                "lookup_rc",
                "isolate_rc",
                "move_rc",
                "flags",
                "nr_pages",
                "n_alloc",
                "n_unmap",
            )
        }
        obstacle = np.where(has, obstacles.of_folios(tables)[safe] if folios.size else -1, -1)
        cause[failed] = rules.causes_of_failure(
            rules.Evidence(
                looked_up=has,
                queued=queued,
                told_zero=entries.after[failed] == -errno.EFAULT,
                call_flags=calls.flags[entries.call[failed]],
                migration_rc=rc,
                vma=_vma_answers(tables, meta, calls, entries, failed),
                **fields,
                **state_of(tables, meta, obstacle),
            )
        )
    left = np.flatnonzero(replay.outcome == NOT_ATTEMPTED)
    if left.size:
        call = entries.call[left]
        cause[left] = rules.causes_of_no_attempt(
            calls.ret[call],
            lookups.fail_rc[call],
            entries.ordinal[left] == replay.first_left[call],
            replay.refused[call],
            calls.began[call],
        )
    return cause


def _vma_answers(tables: Tables, meta: Meta, calls: Calls, entries: Entries, which: Ints) -> Ints:
    """What vma_migratable() said of each entry's mapping: 1 refused, 0 not asked, -1 unknown."""
    answers = np.full(which.size, -1, np.int64)
    is_proved = "vma" in meta.phases and meta.phases["vma"].state == "proved"
    if not is_proved or meta.lost.get("obstacle_ring_full"):
        return answers
    table = obstacles.of(tables)
    # one that was refused, and it could not be read which: it may be any entry's
    blind = (table["stage"] == STAGE_VMA) & ((table["seen"] & SEEN_VMA) == 0)
    call_ids = calls.ids[entries.call[which]]
    answers[~np.isin(call_ids, table["call_id"][blind])] = 0
    answers[obstacles.of_addresses(tables, call_ids, entries.address[which]) >= 0] = 1
    return answers


def _of_driver(tables: Tables, calls: Calls) -> Bools:
    """Which calls a thread of mptrace's own driver made, which asks for the locations.

    One that has no record may be the driver's in a session that had one.
    """
    has = calls.row >= 0
    found = ~has & (tables["driver_calls"].size > 0)
    tids = tables["calls"]["tid"][calls.row[has]]
    found[has] = np.isin(tids, np.unique(tables["driver_calls"]["tid"]))
    return found


def _locations(
    tables: Tables, calls: Calls, entries: Entries
) -> tuple[Bools, Ints, Ints, npt.NDArray[np.uint64]]:
    """Where each entry's page was before and after, as the driver's queries said.

    And of each call a time before which the query after it was made: its thread's next call.
    """
    none = np.zeros(entries.count, np.bool_)
    nowhere = np.full(entries.count, -1, np.int64)
    asked_before = np.full(calls.count, NO_END)
    driver, locations = tables["driver_calls"], tables["locations"]
    records = np.flatnonzero(calls.row >= 0)
    if not driver.size or not locations.size or not records.size:
        return none, nowhere, nowhere.copy(), asked_before
    # The traced call of the driver's thread inside the driver's interval.
    table = tables["calls"]
    own = table[calls.row[records]]
    threads = np.unique(driver["tid"])
    thread = np.minimum(np.searchsorted(threads, own["tid"]), threads.size - 1)
    of_driver = threads[thread] == own["tid"]
    _, rank = ranks(np.concatenate([driver["before_ns"], own["enter_ns"]]))
    order = np.lexsort((driver["before_ns"], driver["tid"]))
    driver_thread = np.searchsorted(threads, driver["tid"])
    keys = (driver_thread.astype(np.int64) << 40) + rank[: driver.size]
    wanted = (thread.astype(np.int64) << 40) + rank[driver.size :]
    place = np.searchsorted(keys[order], wanted, side="right") - 1
    which = order[np.maximum(place, 0)]
    fits = of_driver & (place >= 0) & (driver["tid"][which] == own["tid"])
    fits &= (own["exit_ns"] <= driver["after_ns"][which]) & (
        own["enter_ns"] >= driver["before_ns"][which]
    )
    fits &= own["nr_pages"] == driver["entries"][which]
    # Two calls in one interval can't be told apart.
    uses = np.bincount(which[fits], minlength=driver.size)
    fits &= uses[which] == 1
    driver_call = np.full(calls.count, -1, np.int64)
    driver_call[records[fits]] = driver["driver_call"][which[fits]]
    following = np.minimum(place + 1, order.size - 1)
    same = (following > place) & (driver_thread[order[following]] == thread)
    same &= fits
    asked_before[records[same]] = driver["before_ns"][order[following[same]]]

    place_key = (locations["driver_call"].astype(np.int64) << 32) + locations["entry"]
    order = np.arange(locations.size)
    if (np.diff(place_key) <= 0).any():
        order = np.argsort(place_key, kind="stable")
        place_key = place_key[order]
    ask = driver_call[entries.call]
    row = np.minimum(np.searchsorted(place_key, (ask << 32) + entries.entry), place_key.size - 1)
    hit = (ask >= 0) & (place_key[row] == (ask << 32) + entries.entry)
    row = order[row]
    hit &= entries.readable & (locations["address"][row] == entries.address)
    before = np.where(hit, locations["before_nid"][row], -1).astype(np.int64)
    final = np.where(hit, locations["final_nid"][row], -1).astype(np.int64)
    return hit, before, final, asked_before
