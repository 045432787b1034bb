# SPDX-License-Identifier: GPL-2.0-or-later
"""Who called move_pages(2), for whom, and what they were told: the numbers.  Pure."""

import numpy as np

from mptrace.arrays import Ints, Table
from mptrace.outcomes.causes.statuses import errno_name
from mptrace.outcomes.joined import UNTOUCHED
from mptrace.outcomes.processes import RecordedProcesses, text
from mptrace.recording.joins import members, ranks
from mptrace.recording.layouts import OUTCOMES
from mptrace.recording.when import first_and_last
from mptrace.reporting.numbers.parts import Gathered, Part
from mptrace.reporting.numbers.sums import Numbers, add_to, distribution, named_counts, nonzero


def caller_groups(calls: Table) -> tuple[Ints, Ints]:
    """Number the callers (process, comm) of calls: that of each call, and a call of each."""
    # With its index np.unique sorts stably: see joins.ranks().
    _, _, comm = np.unique(calls["comm"], return_index=True, return_inverse=True)
    tgids, place = ranks(calls["tgid"])
    group = ranks(comm.astype(np.int64) * max(tgids.size, 1) + place)[1]
    first = np.zeros(int(group.max()) + 1 if group.size else 0, np.int64)
    first[group[::-1]] = np.arange(group.size)[::-1]
    return group, first


class CallerSums:
    """What became of the entries of each caller, slice by slice.

    :param calls: table of all calls.
    """

    def __init__(self, calls: Table) -> None:
        self._calls = calls
        #: Number of the caller of each call.
        self.group, _ = caller_groups(calls)
        count = int(self.group.max()) + 1 if self.group.size else 0
        self._outcomes = np.zeros((count, len(OUTCOMES)), np.int64)
        self._untouched, self._nodes = np.zeros((2, count), np.int64)
        self._errors: dict[int, dict[int, int]] = {}

    def add(self, part: Part) -> None:
        """Add those of a slice."""
        rows, count = part.found.rows, len(self._outcomes)
        of_call = np.append(np.append(self.group, -1)[part.rows("calls")], -1)
        who = of_call[part.found.call_row][rows["call"]]
        is_known = who >= 0
        if not is_known.all():
            who, rows = who[is_known], np.take(rows, np.flatnonzero(is_known))
        both = who * len(OUTCOMES) + rows["outcome"]
        sums = np.bincount(both, minlength=count * len(OUTCOMES))
        self._outcomes += sums.reshape(count, len(OUTCOMES))
        self._untouched += np.bincount(who[rows["written"] == UNTOUCHED], minlength=count)
        told, status = rows["has_status"] != 0, rows["status_after"]
        self._nodes += np.bincount(who[told & (status >= 0)], minlength=count)
        bad = np.flatnonzero(told & (status < 0))
        for caller in np.unique(who[bad]).tolist():
            values = status[bad[who[bad] == caller]]
            told_errors = self._errors.setdefault(caller, {})
            add_to(told_errors, *np.unique(values, return_counts=True))

    def numbers(self, gathered: Gathered, processes: RecordedProcesses) -> list[Numbers]:
        """One dict for each process that called, the most time first; times in ns.

        Its ``targets`` are those of the most calls first.

        Of calls whose record is missing the caller is not known: they are in none.
        """
        known = gathered.call_row[gathered.call_row >= 0]
        numbers, place = ranks(self.group[known])
        callers = []
        for number, of_group in zip(numbers.tolist(), members(place, numbers.size), strict=True):
            mine = self._calls[known[of_group]]
            closed = mine[mine["exit_ns"] != 0]
            ret = closed["ret"]
            time = (closed["exit_ns"] - closed["enter_ns"]).astype(np.int64)
            tgid, comm = int(mine["tgid"][0]), text(mine["comm"][0])
            errors = self._errors.get(number, {})
            targets, counts = np.unique(mine["target_tgid"], return_counts=True)
            callers.append(
                {
                    "tgid": tgid,
                    "comm": comm,
                    "process": processes.comm(tgid) or comm,
                    "threads": int(np.unique(mine["tid"]).size),
                    "calls": int(mine.size),
                    "without_end": int(mine.size - closed.size),
                    "lost": int(mine["lost"].astype(np.int64).sum()),
                    "returned_zero": int((ret == 0).sum()),
                    "returned_positive": int((ret > 0).sum()),
                    "errors": _errors(ret[ret < 0]),
                    "entries": int(mine["nr_pages"].sum()),
                    "outcomes": nonzero(named_counts(self._outcomes[number], OUTCOMES)),
                    "told": {
                        "node": int(self._nodes[number]),
                        "errors": {errno_name(-value): errors[value] for value in sorted(errors)},
                        "untouched": int(self._untouched[number]),
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
