# SPDX-License-Identifier: GPL-2.0-or-later
"""What became of each folio of a migration, and why it stayed.  Pure, vectorized.

By the rules of ``causes.rules``, as for the entries of calls: compaction, NUMA
balancing and the other paths have folios and no entries.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Bools, Bytes, Ints, Table, Tables
from mptrace.outcomes.causes import obstacles, rules
from mptrace.outcomes.causes.columns import state_of
from mptrace.outcomes.causes.rule_columns import RuleColumns
from mptrace.outcomes.joined import FAILED, MOVED, UNKNOWN
from mptrace.outcomes.paths import reason_name
from mptrace.recording.detail import LEVEL_ALL, LEVEL_OUTCOMES
from mptrace.recording.joins import pair_ids, ranks, rows_of_ids
from mptrace.recording.layouts import (
    END_DONE,
    END_OPEN,
    END_REUSED,
    END_UNTRACED,
    FOLIO_UNTRACKED,
    NOT_COUNTED,
    STRUCT_PAGE_BYTES,
)
from mptrace.recording.meta import Meta

# Phases without which nobody can say whether a folio moved, by what was traced at all.
_ESSENTIAL = {
    LEVEL_ALL: frozenset({"migration", "move"}),
    LEVEL_OUTCOMES: frozenset({"migration", "putback"}),
}
#: The tier in which the kernel's tracepoints are all that is seen.
TRACEPOINTS = "tracepoints"


@dataclass(frozen=True)
class Fates:
    """Folios that migrations had, one element for each; of calls, too.

    ``row``: in `folios`; ``migration``: row in `migrations`, -1 where its record is
    missing; ``outcome``: index into ``layouts.OUTCOMES`` (moved, failed, unknown);
    ``cause``: ``rules.cause_name()`` of those that failed or are unknown;
    ``pages``: base pages, of a folio that was split its first page alone (its
    other pages have records of their own).
    """

    row: Ints
    migration: Ints
    outcome: Bytes
    cause: npt.NDArray[np.uint16]
    pages: Ints
    is_split: Bools

    def select(self, which: Any) -> "Fates":
        """Those of an index or a mask."""
        return Fates(
            self.row[which],
            self.migration[which],
            self.outcome[which],
            self.cause[which],
            self.pages[which],
            self.is_split[which],
        )


def fates(tables: Tables, meta: Meta) -> Fates:
    """What became of every folio that a migration had, in the order of `folios`.

    :param tables: tables of a recording by name, layouts of ``layouts.TABLES``.
    :param meta: its meta.json; ``coverage``, ``tier``, ``lost``, ``reasons`` and
        what ``obstacles`` decodes are used.
    """
    folios, migrations = tables["folios"], tables["migrations"]
    row = np.flatnonzero(folios["migration_id"] != 0)
    migration = rows_of_ids(migrations["migration_id"], folios["migration_id"][row])
    move_rc, end = folios["move_rc"][row].astype(np.int64), folios["end"][row]
    outcome, cause = fates_of(move_rc, end, folios["flags"][row])
    if meta.tier == TRACEPOINTS:
        # A migration entry was set and removed: the page frame says whether it moved.
        back = (move_rc != 0) & (folios["light_last_ns"][row] != 0) & (end != END_OPEN)
        outcome[back] = FAILED
        cause[back] = rules.cause_code("no_coverage")
    elif _lacks_coverage(meta):
        outcome[:] = UNKNOWN
        cause[:] = rules.cause_code("no_coverage")
    is_split = split_heads(folios, row)
    pages = np.where(is_split, 1, folios["nr_pages"][row].astype(np.int64))
    failed = np.flatnonzero((outcome == FAILED) & (cause == 0))
    if failed.size:
        cause[failed] = _causes(tables, meta, row[failed], migration[failed])
    return Fates(row, migration, outcome, cause, pages, is_split)


def outcomes(tables: Tables, meta: Meta, found: Fates) -> tuple[Bytes, Bools]:
    """Outcome of every row of `folios`, and whether its records tell it.

    They do of those that a migration had (``found``: :func:`fates`), and of those that
    were isolated and had none: their turn never came.  Of what was looked up and not
    isolated the entries tell.
    """
    folios = tables["folios"]
    outcome, is_told = np.zeros(folios.size, np.uint8), np.zeros(folios.size, np.bool_)
    outcome[found.row], is_told[found.row] = found.outcome, True
    alone = np.flatnonzero((folios["migration_id"] == 0) & (folios["isolate_rc"] == 0))
    is_told[alone] = True
    if alone.size and not _lacks_coverage(meta):
        move_rc = folios["move_rc"][alone].astype(np.int64)
        outcome[alone] = fates_of(move_rc, folios["end"][alone], folios["flags"][alone])[0]
    return outcome, is_told


def fates_of(move_rc: Ints, end: Bytes, flags: Bytes) -> tuple[Bytes, npt.NDArray[np.uint16]]:
    """What became of isolated folios, by their own records; the cause where that is unknown."""
    # A hugetlb folio ends with a putback even when it moved: the last move decides.
    moved = move_rc == 0
    untracked = (flags & FOLIO_UNTRACKED) != 0
    tests = [
        (untracked, UNKNOWN, "lost"),
        (moved, MOVED, ""),
        (end == END_UNTRACED, UNKNOWN, "not_traced"),
        (end == END_OPEN, UNKNOWN, "call_open"),
        (end == END_REUSED, UNKNOWN, "lost"),
        (end == END_DONE, UNKNOWN, "freed"),
    ]
    fate = np.select([test for test, _, _ in tests], [fate for _, fate, _ in tests], FAILED)
    cause = np.select(
        [test for test, _, _ in tests], [rules.cause_code(name) for _, _, name in tests], 0
    )
    return fate.astype(np.uint8), cause.astype(np.uint16)


def failed_migrations(migrations: Table, found: Fates, left_out: Bools) -> Bools:
    """Which migrations left something behind: by any of the three that can tell it.

    What migrate_pages() returned, the kernel's own count, and the folios' outcomes: a
    return value of 0 alone is no success (of hugetlb pages, of folios that were split).

    :param left_out: which of ``found`` do not count, as ``own.beside`` tells: a migration
        that left nothing but such behind has not failed.
    """
    inside = found.migration >= 0
    stayed = (found.outcome == FAILED) & inside
    excused = np.flatnonzero(left_out & inside & (found.outcome != MOVED))
    of = found.migration[excused]
    folios = np.bincount(of, minlength=migrations.size)
    pages = np.bincount(of, found.pages[excused], migrations.size).astype(np.int64)
    counted = migrations["failed"] != NOT_COUNTED
    rc = migrations["rc"].astype(np.int64)
    failed: Bools = counted & (migrations["failed"].astype(np.int64) > pages)
    # not every kernel's return value counts base pages: where its count is there, that tells
    failed |= np.where(folios > 0, ~counted & ((rc < 0) | (rc > folios)), rc != 0)
    failed[found.migration[stayed & ~left_out]] = True
    return failed


def _causes(tables: Tables, meta: Meta, row: Ints, migration: Ints) -> npt.NDArray[np.uint16]:
    folios, migrations = tables["folios"][row], tables["migrations"]
    yes, no = np.ones(row.size, np.bool_), np.zeros(row.size, np.bool_)
    zero = np.zeros(row.size, np.int64)
    rc, is_compaction = zero, no
    if migrations.size:
        known, safe = migration >= 0, np.maximum(migration, 0)
        rc = np.where(known, migrations["rc"][safe].astype(np.int64), 0)
        reasons, place = ranks(migrations["reason"][safe])
        named = [reason_name(meta, int(reason)) == "compaction" for reason in reasons]
        is_compaction = known & np.array(named, np.bool_)[place]
    fields: dict[str, Any] = {
        name: folios[name].astype(np.int64)
        for name in ("lookup_rc", "isolate_rc", "move_rc", "flags", "nr_pages", "n_alloc")
    }
    cause = rules.causes_of_failure(
        RuleColumns(
            looked_up=yes,
            queued=yes,
            told_zero=no,
            call_flags=zero,
            migration_rc=rc,
            vma=zero - 1,
            n_unmap=folios["n_unmap"].astype(np.int64),
            **fields,
            **state_of(tables, meta, obstacles.of_folios(tables)[row]),
        )
    )
    # compaction takes its targets from the free pages that its scanner finds
    for name, of_compaction in (
        ("no_memory", "no_free_page"),
        ("no_memory_in_group", "no_free_page_in_group"),
    ):
        cause[is_compaction & (cause == rules.cause_code(name))] = rules.cause_code(of_compaction)
    return cause


def split_heads(folios: Table, row: Ints) -> Bools:
    """Whether each large folio of these rows was split: a page of it has its own record.

    In the same migration, that is.
    """
    found = np.zeros(row.size, np.bool_)
    pages = folios["nr_pages"][row].astype(np.uint64)
    large = pages > 1
    if not large.any():
        return found
    src = folios["src"][row]
    _, migration = ranks(folios["migration_id"][row])
    order = np.argsort(pair_ids(migration, src), kind="stable")
    here, after = order[:-1], order[1:]
    behind = src[after] - src[here]
    inside = (behind > 0) & (behind < pages[here] * np.uint64(STRUCT_PAGE_BYTES))
    found[here] = large[here] & inside & (migration[here] == migration[after])
    return found


def _lacks_coverage(meta: Meta) -> bool:
    needed = _ESSENTIAL.get(meta.detail, _ESSENTIAL[LEVEL_ALL])
    return any(phase.phase in needed and not phase.is_seen for phase in meta.coverage)
