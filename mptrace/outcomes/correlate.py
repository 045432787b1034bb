# SPDX-License-Identifier: GPL-2.0-or-later
"""From records, arrays and locations to one row per entry of every call.  Pure.

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
from mptrace.outcomes.causes.rule_columns import RuleColumns
from mptrace.outcomes.doubts import doubt
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
    CallColumns,
    EntryColumns,
)
from mptrace.outcomes.later import explaining_moves
from mptrace.outcomes.locations import Locations, of_driver
from mptrace.outcomes.replay import replay_loop
from mptrace.outcomes.shared_pages import share
from mptrace.outcomes.steps import CallRecords, EntryOutcomes, Loop, Settled
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

    Each step gets what those before it found, frozen, and returns new columns:

    ================  ================================================================
    step              what it adds
    ================  ================================================================
    `CallRecords.of`  joined: the entries and lookups of each call, which lookup is
                      which entry's, the group that flushed it, what was split
    `replay_loop`     by each entry's own lookup: whether the loop came to it, which
                      status it stored, what became of its folio
    `share`           the fates of pages that another entry's lookup decided, and the
                      entry reasons: duplicate, same folio, moved again, split
    `doubt`           ``unknown`` where records, coverage or arrays forbid a verdict
    `_judge`          the causes of what stayed, the locations, and the witnesses
    ================  ================================================================

    :param tables: tables of a recording by name, layouts of ``layouts.TABLES``.
    :param meta: its meta.json; ``coverage``, ``nodes``, ``lost``, ``max_entries``
        and ``kernel`` are used.
    """
    records = CallRecords.of(tables, meta)
    loop = replay_loop(records)
    shared = share(records, tables["folios"], loop.outcomes)
    settled = doubt(records, loop, shared)
    rows = _judge(tables, meta, records, loop, settled)
    calls, lookups = records.calls, records.lookups
    queued = lookups.of_entry >= 0
    queued[queued] = lookups.queued[lookups.of_entry[queued]]
    return Correlation(rows, calls.ids, calls.row, calls.beyond_bound, records.splits.rows, queued)


def _judge(
    tables: Tables,
    meta: Meta,
    records: CallRecords,
    loop: Loop,
    settled: Settled,
) -> Table:
    calls, entries, lookups = records.calls, records.entries, records.lookups
    outcomes, written = settled.outcomes, settled.written
    outcome, ends = outcomes.outcome, outcomes.end_nid
    rows = np.zeros(entries.count, ROW)
    rows["call"] = entries.call
    rows["entry"] = entries.entry
    rows["address"] = entries.address
    rows["target_nid"] = entries.target
    rows["status_before"] = entries.before
    rows["status_after"] = entries.after
    rows["status_expected"] = loop.expected
    rows["written"] = written
    rows["unread"] = entries.unread
    rows["unread_before"] = entries.unread_before
    rows["outcome"] = outcome
    rows["entry_reason"] = outcomes.reason
    rows["expected_nid"] = ends
    rows["folio"] = outcomes.folio
    told = (entries.unread & READ_STATUS) == 0
    shown = told & ((written == WRITTEN) | ((written == CANT_TELL) & entries.changed))
    rows["has_status"] = shown
    rows["cause"] = _causes(tables, meta, records, loop, outcomes)
    is_asked = of_driver(tables, calls)[entries.call]
    locations = Locations.of(tables, calls, entries)
    has_location, before, final = locations.known, locations.before, locations.final
    rows["has_location"] = has_location
    rows["before_nid"] = before
    rows["final_nid"] = final

    # The status array: as the replay says?
    mismatch = told & (written == WRITTEN) & (entries.after != loop.expected)
    mismatch |= entries.compared & (written == UNTOUCHED) & (entries.after != entries.before)
    mismatch |= shown & (written == CANT_TELL) & (entries.after != loop.expected)
    # The location: where the outcome says?
    target = entries.target
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
        outcomes.folio,
        away,
        left_on=left_on[away],
        seen_on=final[away],
        asked_before=locations.asked_before[entries.call[away]],
    )
    explained = rows["later"] >= 0
    rows["entry_reason"][explained & (outcomes.reason == 0)] = MOVED_LATER
    in_place |= explained
    # Where a lost lookup may have moved the page again the location judges nothing.
    judged = has_location & (in_place | lookups.sound[entries.call])
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
    records: CallRecords,
    loop: Loop,
    outcomes: EntryOutcomes,
) -> npt.NDArray[np.uint16]:
    calls, entries, lookups = records.calls, records.entries, records.lookups
    folios = tables["folios"]
    cause = outcomes.cause.copy()
    failed = np.flatnonzero(outcomes.outcome == FAILED)
    if failed.size:
        folio = outcomes.folio[failed]
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
            rc = np.where(look >= 0, records.groups.rc[np.maximum(look, 0)], 0)
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
            RuleColumns(
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
    left = np.flatnonzero(outcomes.outcome == NOT_ATTEMPTED)
    if left.size:
        call = entries.call[left]
        cause[left] = rules.causes_of_no_attempt(
            calls.ret[call],
            records.groups.fail_rc[call],
            entries.ordinal[left] == loop.end[call],
            loop.refused[call],
            calls.began[call],
        )
    return cause


def _vma_answers(
    tables: Tables, meta: Meta, calls: CallColumns, entries: EntryColumns, which: Ints
) -> Ints:
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
