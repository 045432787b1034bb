# SPDX-License-Identifier: GPL-2.0-or-later
"""Who migrated, by which path, what and with what success: the numbers.  Pure.

One row for each (path, process or kernel thread): a call's migrations and
everybody else's alike.  Outcomes are the folios' (``fates``); the kernel's own
count of base pages stands beside them, and a difference is shown.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Ints, Table, Tables
from mptrace.outcomes.later import owners
from mptrace.outcomes.lying import Lying
from mptrace.outcomes.paths import PATHS, mode_name, of_migrations, reason_name
from mptrace.outcomes.processes import RecordedProcesses, text
from mptrace.outcomes.syscalls import syscall_name
from mptrace.recording.detail import LEVEL_OUTCOMES
from mptrace.recording.joins import members, ranks
from mptrace.recording.layouts import FOLIO_CHOSEN, MIGRATION_COMPAT, MIGRATION_KTHREAD, NOT_COUNTED
from mptrace.recording.meta import Meta
from mptrace.recording.when import first_and_last
from mptrace.reporting.numbers.lying import There
from mptrace.reporting.numbers.one_path import OnePath
from mptrace.reporting.numbers.parts import Gathered, Part
from mptrace.reporting.numbers.path_phases import phases_of_folios
from mptrace.reporting.numbers.sizes import sizes_of
from mptrace.reporting.numbers.sums import Numbers, distribution, span


class PathSums:
    """What migrations by each path and initiator did, slice by slice.

    :param there: gets what lies at the folios of the examples.
    """

    def __init__(self, tables: Tables, meta: Meta, lying: Lying, there: There) -> None:
        self._migrations, self._meta, self._lying = tables["migrations"], meta, lying
        self._there = there
        self._codes = of_migrations(self._migrations, meta)
        self._group, _ = _groups(self._migrations, self._codes)
        self._sums: dict[int, OnePath] = {}
        self._chosen: set[int] = set()
        #: Base pages of each migration's folios that have records.
        self._pages = np.zeros(self._migrations.size, np.int64)

    def add(self, part: Part) -> None:
        """Add those of a slice."""
        folios, fate = part.tables["folios"], part.fate
        flagged = folios["owner_tgid"][(folios["flags"] & FOLIO_CHOSEN) != 0]
        self._chosen |= set(np.unique(flagged).tolist())
        group = np.where(part.out.migrations, -1, self._group[part.rows("migrations")])
        of_folio = np.append(group, -1)[fate.migration]
        inside = fate.migration >= 0
        mine = part.rows("migrations")[fate.migration[inside]]
        np.add.at(self._pages, mine, fate.pages[inside])
        numbers, place = ranks(of_folio)
        whose = owners(part.tables)
        for number, rows in zip(numbers.tolist(), members(place, numbers.size), strict=True):
            if number >= 0:
                sums = self._sums.setdefault(number, OnePath(self._meta, self._lying, self._there))
                sums.add(part, fate.select(rows), whose)

    def numbers(self, gathered: Gathered, processes: RecordedProcesses) -> list[Numbers]:
        """One dict for each path and initiator, the most time first; all times in ns.

        What is mptrace's own is in none of them, but for ``own_pages`` and what the
        kernel counted of migrations that had others' pages, too.  ``difference`` is that of
        all folios of these migrations, also of those that were not selected.
        """
        kept = np.flatnonzero(~gathered.out.migrations)
        if not kept.size:
            return []
        numbers, place = ranks(self._group[kept])
        asked, rows = self._asked_for(), []
        for number, of_group in zip(numbers.tolist(), members(place, numbers.size), strict=True):
            which = kept[of_group]
            mine, path = self._migrations[which], PATHS[int(self._codes[which[0]])]
            sums = self._sums.get(number) or OnePath(self._meta, self._lying, self._there)
            rows.append(
                {
                    "path": path.key,
                    "label": path.label,
                    "meaning": path.meaning,
                    "initiator": _initiator(mine, processes),
                    "failed_migrations": int(gathered.failed[which].sum()),
                    **_of_migrations(mine, self._meta),
                    **sums.numbers(mine, processes, asked),
                    **_kernels_count(mine, self._pages[which], self._meta),
                    "failures": sums.failures(),
                    "sizes": sizes_of(sums.sizes, self._meta),
                    "phases": phases_of_folios(
                        sums.phases,
                        mine,
                        self._meta.phases,
                        self._meta.detail,
                        of_calls=path.key == "move_pages",
                    ),
                }
            )
        return sorted(rows, key=lambda row: -int(row["time_ns"]))

    def _asked_for(self) -> frozenset[int]:
        """Processes that a session was about by their numbers, and what they forked."""
        scope = self._meta.scope
        if scope is None or scope.kind not in ("pids", "command"):
            return frozenset()
        return frozenset([*scope.pids, *self._chosen]) - {0}


def _groups(migrations: Table, path: Ints) -> tuple[Ints, Ints]:
    """Group of each migration, and the first migration of each group."""
    # With its index np.unique sorts stably: see joins.ranks().
    _, _, comm = np.unique(migrations["comm"], return_index=True, return_inverse=True)
    group = comm.astype(np.int64)
    for column in (
        path,
        migrations["tgid"].astype(np.int64),
        migrations["cgroup_id"],
        (migrations["flags"] & MIGRATION_KTHREAD).astype(np.int64),
    ):
        values, place = ranks(column)
        group = ranks(group * values.size + place)[1]
    first = np.zeros(int(group.max()) + 1 if group.size else 0, np.int64)
    first[group[::-1]] = np.arange(group.size)[::-1]
    return group, first


def _initiator(mine: Table, processes: RecordedProcesses) -> Numbers:
    row = mine[0]
    tgid, cgroup_id = int(row["tgid"]), int(row["cgroup_id"])
    return {
        "tgid": tgid,
        "comm": text(row["comm"]),
        "process": processes.comm(tgid) or text(row["comm"]),
        "kernel_thread": bool(row["flags"] & MIGRATION_KTHREAD),
        "threads": int(np.unique(mine["tid"]).size),
        "cgroup_id": cgroup_id,
        "cgroup": processes.cgroup(cgroup_id) if cgroup_id else None,
    }


def _of_migrations(mine: Table, meta: Meta) -> Numbers:
    machine = meta.kernel.syscall_machine
    counted = (mine["succeeded"] != NOT_COUNTED) & (mine["failed"] != NOT_COUNTED)
    closed = mine[(mine["enter_ns"] != 0) & (mine["exit_ns"] != 0)]
    syscalls: dict[str, int] = {}
    pairs = mine["syscall"].astype(np.int64) * 4 + (mine["flags"] & MIGRATION_COMPAT)
    for pair, count in _counted(pairs):
        name = syscall_name(pair >> 2, is_compat=bool(pair & 3), machine=machine)
        known = "unknown" if name is None else name or "none"
        syscalls[known] = syscalls.get(known, 0) + count
    return {
        "migrations": int(mine.size),
        "lost": int(mine["lost"].astype(np.int64).sum()),
        "reasons": {reason_name(meta, code): n for code, n in _counted(mine["reason"])},
        "modes": {mode_name(meta, code): n for code, n in _counted(mine["mode"])},
        "syscalls": syscalls,
        "time_ns": span(closed, "enter_ns", "exit_ns"),
        "duration": distribution((closed["exit_ns"] - closed["enter_ns"]).astype(np.int64)),
        **first_and_last(mine["enter_ns"], mine["exit_ns"]),
        "kernel_counted": {
            "migrations": int(counted.sum()),
            "moved_pages": int(mine["succeeded"][counted].astype(np.int64).sum()),
            "failed_pages": int(mine["failed"][counted].astype(np.int64).sum()),
        },
    }


def _kernels_count(mine: Table, put_back: Ints, meta: Meta) -> Numbers:
    """Pages of migrations without a call where folios that moved are not traced.

    :param put_back: of each of ``mine``: base pages of its folios that have records.
    """
    if meta.detail != LEVEL_OUTCOMES or mine["call_id"].any():
        return {}
    counted = (mine["succeeded"] != NOT_COUNTED) & (mine["failed"] != NOT_COUNTED)
    # of one that an error ended the kernel does not count what it did not come to
    failed = np.maximum(np.where(counted, mine["failed"], 0), put_back)
    return {
        "pages": {
            "moved": int(mine["succeeded"][counted].astype(np.int64).sum()),
            "failed": int(failed.sum()),
            "unknown": 0,
        },
        "difference": None,
    }


def _counted(values: npt.NDArray[Any]) -> list[tuple[int, int]]:
    """Distinct values with their counts, most frequent first."""
    distinct, place = ranks(values.astype(np.int64))
    counts = np.bincount(place, minlength=distinct.size)
    order = np.argsort(-counts, kind="stable")
    return [(int(distinct[at]), int(counts[at])) for at in order]
