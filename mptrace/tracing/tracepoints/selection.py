# SPDX-License-Identifier: GPL-2.0-or-later
"""Which rows a session without BPF keeps; elsewhere BPF decides that.  Pure."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mptrace.arrays import Bools, Table
from mptrace.recording.joins import ranks
from mptrace.recording.layouts import NOT_COUNTED
from mptrace.tracing.plan.scope import Filters
from mptrace.tracing.tracepoints.rows import Assembled


def select(
    rows: Assembled, wants: Callable[[int], bool] | None, filters: Filters, call_reason: int
) -> Assembled:
    """The rows that a session asked for.

    :param wants: whether a process (thread group) is of interest; None: everybody.
        Of calls the process whose pages they move counts, too.
    :param filters: reasons decide on all, the others on migrations without a call.
    :param call_reason: number of the reason that migrations of calls have.
    """
    calls, migrations, folios = rows.calls, rows.migrations, rows.folios
    if wants is not None:
        calls = calls[_wanted(calls["tgid"], wants) | _wanted(calls["target_tgid"], wants)]
        own = _wanted(migrations["tgid"], wants)
        migrations = migrations[own | np.isin(migrations["call_id"], calls["call_id"])]
    keep = np.ones(migrations.size, np.bool_)
    if filters.reasons:
        calls = calls if call_reason in filters.reasons else calls[:0]
        keep &= np.isin(migrations["reason"], filters.reasons)
    keep &= (migrations["call_id"] != 0) | _passes(migrations, filters)
    migrations = migrations[keep]
    folios = folios[np.isin(folios["migration_id"], migrations["migration_id"])]
    free = folios["call_id"] == 0
    shown = ~free | _folio_passes(folios, filters)
    if filters.source_nids or filters.target_nids:
        there = np.isin(migrations["migration_id"], folios["migration_id"][shown])
        migrations = migrations[there | (migrations["call_id"] != 0)]
    return replace(rows, calls=calls, migrations=migrations, folios=folios[shown])


def _wanted(tgids: NDArray[np.uint32], wants: Callable[[int], bool]) -> Bools:
    known, place = ranks(tgids.astype(np.int64))
    answers = np.array([tgid != 0 and wants(tgid) for tgid in known.tolist()], np.bool_)
    found: Bools = answers[place] if known.size else np.zeros(0, np.bool_)
    return found


def _passes(migrations: Table, filters: Filters) -> Bools:
    keep = np.ones(migrations.size, np.bool_)
    if filters.min_ns:
        timed = (migrations["enter_ns"] != 0) & (migrations["exit_ns"] != 0)
        # one of unknown length may be of interest
        keep &= ~timed | (migrations["exit_ns"] - migrations["enter_ns"] >= filters.min_ns)
    if filters.failed:
        counted = migrations["failed"] != NOT_COUNTED
        keep &= ~counted | (migrations["failed"] > 0)
    return keep


def _folio_passes(folios: Table, filters: Filters) -> Bools:
    keep = np.ones(folios.size, np.bool_)
    if filters.source_nids:
        keep &= np.isin(folios["src_nid"], filters.source_nids)
    if filters.target_nids:
        keep &= np.isin(folios["dst_nid"], filters.target_nids)
    if filters.failed:
        keep &= folios["move_rc"] != 0
    return keep
