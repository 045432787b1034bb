# SPDX-License-Identifier: GPL-2.0-or-later
"""What NUMA balancing cost each process beside its migrations, as numbers.  Pure."""

from collections.abc import Sequence

import numpy as np

from mptrace.arrays import Table, Tables
from mptrace.outcomes.balancing import REASON, balancing_of, unseen
from mptrace.outcomes.own import Own
from mptrace.outcomes.paths import reason_name
from mptrace.outcomes.processes import RecordedProcesses
from mptrace.recording.joins import members, ranks
from mptrace.recording.meta import Meta
from mptrace.recording.when import first_and_last
from mptrace.reporting.numbers.sums import Numbers, span

#: What makes sums of scans and hint faults least numbers.
_LOSSES = ("balancing_map_full", "chosen_map_full", "return_missed", "handler_skipped")
#: What makes the time of a process's migrations a part of it.
_MIGRATION_LOSSES = (
    "call_ring_full",
    "thread_map_full",
    "nested_too_deep",
    "chosen_map_full",
    "return_missed",
    "handler_skipped",
)
#: Fields of what was not seen: null.
_OF = {
    "scans": ("scans", "scan_ns", "scan_max_ns", "scan_max_at_ns"),
    "faults": ("faults",),
    "fault_ns": ("faults_timed", "fault_ns", "fault_max_ns", "fault_max_at_ns"),
    "migrating_ns": ("migrating_ns",),
}


def balancing_numbers(
    tables: Tables,
    meta: Meta,
    processes: RecordedProcesses,
    out: Own,
    *,
    missing_parts: Sequence[str] = (),
) -> Numbers:
    """By process, the most time first; times are of the clock, ns.

    ``why_unknown`` says of ``scans``, ``faults``, ``fault_ns`` and ``migrating_ns`` why they
    are null, "" where they are not; ``processes`` is None where neither scans nor hint faults
    were seen.

    :param out: what is left out, mptrace's own and what was not selected.
    """
    why = {**unseen(meta), "migrating_ns": _why_migrating(meta, missing_parts)}
    nothing = bool(why["scans"] and why["faults"])
    rows = balancing_of(tables)[~out.balancing]
    migrations = tables["migrations"][~out.migrations]
    reasons = [number for number in meta.reasons if reason_name(meta, number) == REASON]
    migrations = migrations[np.isin(migrations["reason"], reasons) & (migrations["enter_ns"] != 0)]
    tgids, place = ranks(rows["tgid"].astype(np.int64))
    found = []
    for tgid, some in zip(tgids.tolist(), members(place, tgids.size), strict=True):
        mine = migrations[(migrations["tgid"] == tgid) & (migrations["exit_ns"] != 0)]
        sums = {
            "tgid": tgid,
            "comm": processes.comm(tgid),
            **_sums(rows[some]),
            "migrating_ns": span(mine, "enter_ns", "exit_ns"),
            **first_and_last(rows["from_ns"][some], rows["to_ns"][some]),
        }
        found.append(_known(sums, why))
    found.sort(key=total_ns, reverse=True)
    return {
        "why_unknown": why,
        "is_least": any(meta.lost.get(cause) for cause in _LOSSES) or bool(missing_parts),
        "totals": None if nothing else _known(_sums(rows), why),
        "processes": None if nothing else found,
    }


def total_ns(sums: Numbers) -> int:
    """Time of scans and hint faults together, as far as it is known."""
    return (sums["scan_ns"] or 0) + (sums["fault_ns"] or 0)


def _sums(rows: Table) -> Numbers:
    sums: Numbers = {}
    for what, counts in (("scan", ("scans",)), ("fault", ("faults", "faults_timed"))):
        sums |= {name: int(rows[name].sum()) for name in (*counts, f"{what}_ns")}
        timed = rows[rows[f"{what}_max_at_ns"] != 0]
        longest = timed[np.argsort(timed[f"{what}_max_ns"], kind="stable")[-1:]]
        for name in (f"{what}_max_ns", f"{what}_max_at_ns"):
            sums[name] = int(longest[name][0]) if longest.size else None
    return sums


def _known(sums: Numbers, why: Numbers) -> Numbers:
    hidden = {name for what, names in _OF.items() if why[what] for name in names}
    return {name: None if name in hidden else value for name, value in sums.items()}


def _why_migrating(meta: Meta, missing_parts: Sequence[str]) -> str:
    filters = meta.raw.get("filters") or {}
    asked = filters.get("reasons") or ()
    if any(filters.get(name) for name in ("from", "to", "min_ns", "failed")) or (
        asked and REASON not in asked
    ):
        return "some migrations were not recorded, as was asked for"
    if any(meta.lost.get(cause) for cause in _MIGRATION_LOSSES) or missing_parts:
        return "records of migrations were lost"
    return ""
