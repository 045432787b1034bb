# SPDX-License-Identifier: GPL-2.0-or-later
"""What NUMA balancing did beside its migrations: rows that are chosen, what is unseen.  Pure."""

from collections.abc import Mapping

import numpy as np

from mptrace.arrays import Table, Tables
from mptrace.outcomes.fates import TRACEPOINTS
from mptrace.outcomes.paths import path_of_balancing
from mptrace.outcomes.selection import Selection
from mptrace.outcomes.told import Told, every, known
from mptrace.recording.balancing import BALANCING
from mptrace.recording.meta import Meta

REASON = "numa_misplaced"
_MAX = np.iinfo(np.int64).max


def balancing_of(tables: Tables) -> Table:
    """The table of it; empty where a recording has none."""
    found = tables.get("balancing")
    return np.zeros(0, BALANCING) if found is None else found


def told_of_balancing(tables: Tables, meta: Meta, wanted: Selection) -> Told:
    """Which of its rows fit: by their time, by process, and by the path of their migrations.

    A row is a second of a process: whole, if any of it is within the time.  It has no node.
    """
    rows = balancing_of(tables)
    told = every(rows.size)
    if wanted.has_time:
        first = 0 if wanted.from_ns is None else min(max(wanted.from_ns, 0), _MAX)
        last = _MAX if wanted.to_ns is None else min(max(wanted.to_ns, 0), _MAX)
        told &= known((rows["from_ns"] < np.uint64(last)) & (rows["to_ns"] >= np.uint64(first)))
    if wanted.pids:
        told &= known(np.isin(rows["tgid"], wanted.pids))
    if wanted.names:
        path = path_of_balancing(meta)
        reasons = {number for number, name in meta.reasons.items() if name == REASON}
        fits = path in wanted.paths or bool(reasons.intersection(wanted.reasons))
        yes = np.full(rows.size, fits)
        told &= Told(yes, ~yes & (path in wanted.maybe))
    if wanted.nids:
        told &= Told(np.zeros(rows.size, np.bool_), np.ones(rows.size, np.bool_))
    return told


def unseen(meta: Meta) -> Mapping[str, str]:
    """Why nothing is known of ``scans``, of ``faults``, and of ``fault_ns``; "" where it is."""
    scans, faults, ends = (
        _why(meta, phase) for phase in ("numa_scan", "hint_fault", "hint_fault_end")
    )
    return {"scans": scans, "faults": faults, "fault_ns": faults or ends}


def _why(meta: Meta, phase: str) -> str:
    asked = (meta.raw.get("filters") or {}).get("reasons") or ()
    coverage = meta.phases.get(phase)
    if coverage is not None and not coverage.is_seen:
        return coverage.reason or "it was not attached"
    if coverage is None and meta.tier == TRACEPOINTS:
        return "tracepoints alone don't tell"
    if coverage is None and meta.scope is None:
        return "only mptrace record looks at it"
    if coverage is None:
        return "the mptrace that recorded it did not look at it"
    return f"reason {REASON} was not asked for" if asked and REASON not in asked else ""
