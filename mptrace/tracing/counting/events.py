# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts of migrations from tracepoint events, for kernels that refuse BPF.

One step per migration, none per page; the sums are those of `bpf/stat.c`.
"""

from collections.abc import Callable, Mapping

import numpy as np

from mptrace.arrays import Table
from mptrace.tracing.counting.counts import COUNTS, KIND_MIGRATION, OTHERS, SLOTS, Counts, combined
from mptrace.tracing.tracepoints.formats import END, START


def _everybody(_tgid: int) -> bool:
    return True


def _unknown(_tgid: int) -> int:
    return 0


class EventCounts:
    """Adds up START and END events of `tracepoints.EVENT`, as they come.

    :param max_rows: rows beyond are of nobody in particular, and counted in ``beyond``.
    :param wants: whether to count what a process does.
    :param cgroup: the id of a process's cgroup, 0 where it is unknown.
    """

    def __init__(
        self,
        max_rows: int,
        wants: Callable[[int], bool] = _everybody,
        cgroup: Callable[[int], int] = _unknown,
    ) -> None:
        self._wants = wants
        self._cgroup = cgroup
        self._max_rows = max_rows
        self._rows: dict[tuple[int, int, int], Counts] = {}
        # tid -> [begin, time of those nested in it] of its migrations under way
        self._open: dict[int, list[list[int]]] = {}
        self.beyond = 0

    @property
    def unfinished(self) -> int:
        """Migrations that have begun and not ended."""
        return sum(map(len, self._open.values()))

    def add(self, events: Table, *, has_begin: bool = True) -> None:
        """Count events; all of a thread's that are earlier must have been added before."""
        order = np.lexsort((events["kind"], events["time_ns"]))
        for event in events[order]:
            tid, now = int(event["tid"]), int(event["time_ns"])
            if event["kind"] == START:
                self._open.setdefault(tid, []).append([now, 0])
            elif event["kind"] == END:
                self._end(event, self._left(tid, now) if has_begin else None)

    def forget_open(self) -> None:
        """Events were lost: what seems to be under way may have ended, unseen."""
        self._open.clear()

    def rows(self, names: Mapping[int, tuple[bytes, bool]]) -> Counts:
        """Everything counted; ``names`` are comm and whether a kernel thread, by process."""
        table = combined(*(row for row in self._rows.values()))
        for row in table:
            comm, is_kthread = names.get(int(row["tgid"]), (b"", False))
            row["comm"], row["flags"] = comm, int(is_kthread)
        return table

    def tgids(self) -> set[int]:
        """The processes that have a row."""
        return {tgid for _, tgid, _ in self._rows if tgid != OTHERS}

    def _left(self, tid: int, now: int) -> tuple[int, int, bool] | None:
        """Own and whole duration of the innermost migration, whether nested; None if not begun."""
        levels = self._open.get(tid)
        if not levels:
            return None
        begin, inner = levels.pop()
        if levels:
            levels[-1][1] += now - begin
        else:
            del self._open[tid]
        return now - begin - inner, now - begin, bool(levels)

    def _end(self, event: np.void, duration: tuple[int, int, bool] | None) -> None:
        tgid = int(event["tgid"])
        if not self._wants(tgid):
            return
        row = self._row(int(event["reason"]), tgid)
        row["count"] += 1
        row["succeeded"] += int(event["first"])
        row["failed"] += int(event["second"])
        if duration is None:
            row["untimed"] += 1
            return
        own, whole, nested = duration
        row["nested"] += nested
        row["time_ns"] += own
        row["histogram"][0, min(max(whole, 1).bit_length() - 1, SLOTS - 1)] += 1

    def _row(self, reason: int, tgid: int) -> Counts:
        key = reason, tgid, self._cgroup(tgid)
        if key not in self._rows and len(self._rows) >= self._max_rows:
            self.beyond += 1
            key = reason, OTHERS, 0
        if key not in self._rows:
            row = np.zeros(1, COUNTS)
            row["kind"], row["reason"], row["tgid"], row["cgroup"] = KIND_MIGRATION, *key
            self._rows[key] = row
        return self._rows[key]
