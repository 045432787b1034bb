# SPDX-License-Identifier: GPL-2.0-or-later
"""Who called move_pages(2), for whom, and what they were told: the numbers.  Pure."""

from collections.abc import Mapping

import numpy as np

from mptrace.arrays import Ints, Table
from mptrace.outcomes.causes.statuses import errno_name
from mptrace.outcomes.correlate import Correlation
from mptrace.outcomes.joined import UNTOUCHED
from mptrace.outcomes.processes import RecordedProcesses, text
from mptrace.recording.joins import members, ranks
from mptrace.recording.layouts import OUTCOMES
from mptrace.recording.when import first_and_last
from mptrace.reporting.numbers.sums import Numbers, count_codes, distribution, nonzero


def caller_groups(calls: Table) -> tuple[Ints, Ints]:
    """Number the callers (process, comm) of calls: that of each call, and a call of each."""
    # With its index np.unique sorts stably: see joins.ranks().
    _, _, comm = np.unique(calls["comm"], return_index=True, return_inverse=True)
    tgids, place = ranks(calls["tgid"])
    group = ranks(comm.astype(np.int64) * max(tgids.size, 1) + place)[1]
    first = np.zeros(int(group.max()) + 1 if group.size else 0, np.int64)
    first[group[::-1]] = np.arange(group.size)[::-1]
    return group, first


def callers_of(
    tables: Mapping[str, Table], found: Correlation, processes: RecordedProcesses
) -> list[Numbers]:
    """One dict for each process that called, the most time first; times in ns.

    Its ``targets`` are those of the most calls first.

    Of calls whose record is missing the caller is not known: they are in none.
    """
    known = np.flatnonzero(found.call_row >= 0)
    calls = tables["calls"][found.call_row[known]]
    if not calls.size:
        return []
    group, first = caller_groups(calls)
    of_call = np.full(found.call_ids.size, -1, np.int64)
    of_call[known] = group
    rows = found.rows
    of_group = members(group, first.size)
    entries_of = members(of_call[rows["call"]], first.size)
    callers = []
    for number, at in enumerate(first.tolist()):
        mine, entries = calls[of_group[number]], entries_of[number]
        closed = mine[mine["exit_ns"] != 0]
        ret = closed["ret"]
        time = (closed["exit_ns"] - closed["enter_ns"]).astype(np.int64)
        tgid = int(calls["tgid"][at])
        told = rows["has_status"][entries] != 0
        status = rows["status_after"][entries][told]
        targets, counts = np.unique(mine["target_tgid"], return_counts=True)
        callers.append(
            {
                "tgid": tgid,
                "comm": text(calls["comm"][at]),
                "process": processes.comm(tgid) or text(calls["comm"][at]),
                "threads": int(np.unique(mine["tid"]).size),
                "calls": int(mine.size),
                "without_end": int(mine.size - closed.size),
                "lost": int(mine["lost"].astype(np.int64).sum()),
                "returned_zero": int((ret == 0).sum()),
                "returned_positive": int((ret > 0).sum()),
                "errors": _errors(ret[ret < 0]),
                "entries": int(mine["nr_pages"].sum()),
                "outcomes": nonzero(count_codes(rows["outcome"][entries], OUTCOMES)),
                "told": {
                    "node": int((status >= 0).sum()),
                    "errors": _errors(status[status < 0]),
                    "untouched": int((rows["written"][entries] == UNTOUCHED).sum()),
                },
                "targets": [
                    {
                        "tgid": int(target),
                        "comm": processes.comm(int(target)),
                        "gone": processes.is_gone(int(target)),
                        "calls": int(count),
                    }
                    for target, count in sorted(
                        zip(targets, counts, strict=True), key=lambda each: -int(each[1])
                    )
                ],
                "time_ns": int(time.sum()),
                "duration": distribution(time),
                "drain_ns": int(closed["drain_ns"].astype(np.int64).sum()),
                **first_and_last(mine["enter_ns"], mine["exit_ns"]),
            }
        )
    return sorted(callers, key=lambda caller: -int(caller["time_ns"]))


def _errors(values: Ints) -> dict[str, int]:
    distinct, counts = np.unique(values, return_counts=True)
    return {
        errno_name(-int(value)): int(count) for value, count in zip(distinct, counts, strict=True)
    }
