# SPDX-License-Identifier: GPL-2.0-or-later
"""Who migrates, who owns, who waits: processes of a recording by number.  Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mptrace.arrays import Table, Tables
from mptrace.recording.layouts import MIGRATION_KTHREAD, PROCESS
from mptrace.recording.meta import Meta


@dataclass(frozen=True)
class Initiator:
    """Who migrated: a thread of a process, or of the kernel."""

    tgid: int
    tid: int
    comm: str
    kernel_thread: bool
    cgroup: str | None


class RecordedProcesses:
    """Names and cgroups of the processes of a recording.

    A name is what /proc said of the process (tables `processes`, `mappers`), else that
    of a thread of it that made a call, migrated, waited or was balanced, else "".
    """

    def __init__(self, tables: Tables, meta: Meta) -> None:
        self._comm: dict[int, str] = {}
        self._threads: dict[int, str] = {}
        balancing = tables.get("balancing")
        if balancing is not None:
            self._comm |= dict(_names(balancing, "tgid"))
        for name in ("waits", "migrations", "calls"):
            rows = tables.get(name)
            if rows is not None:
                self._threads |= dict(_names(rows, "tid"))
                self._comm |= dict(_names(rows, "tgid"))
        mappers = tables.get("mappers")
        if mappers is not None:
            self._comm |= dict(_names(mappers, "pid"))
        known = tables.get("processes")
        rows = np.zeros(0, PROCESS) if known is None else known
        # the last that was seen under a number: it may have been used again
        rows = rows[np.argsort(rows["seen_ns"], kind="stable")]
        named = {
            int(tgid): text(comm)
            for tgid, comm in zip(rows["tgid"], rows["comm"], strict=True)
            if comm
        }
        self._comm |= named
        self._gone = frozenset(rows["tgid"].tolist()) - named.keys()
        made = tables.get("migrations")
        self._cgroup_ids = {
            int(row["tgid"]): int(row["cgroup_id"])
            for one in ([] if made is None else [_one_of_each(made, "cgroup_id")]) + [rows]
            for row in one[one["cgroup_id"] != 0]
        }
        self._cgroups = meta.cgroups

    def comm(self, tgid: int) -> str:
        """Name of a process, "" where it is not known."""
        return self._comm.get(tgid, "")

    def thread(self, tid: int) -> str:
        """Name of a thread, "" where it is not known; a first thread is its process."""
        return self._threads.get(tid, "") or self.comm(tid)

    def is_gone(self, tgid: int) -> bool:
        """Whether a process had ended before its name was asked for."""
        return tgid in self._gone

    def cgroup_id(self, tgid: int) -> int:
        """Id of a process's cgroup, 0 where it is not known."""
        return self._cgroup_ids.get(tgid, 0)

    def cgroup(self, cgroup_id: int) -> str | None:
        """Path of a cgroup, None where it is not known."""
        return self._cgroups.get(cgroup_id)


def initiator_of(record: Any, processes: RecordedProcesses) -> Initiator:
    """Who made a migration or a call, by its record."""
    names = record.dtype.names
    return Initiator(
        int(record["tgid"]),
        int(record["tid"]),
        text(record["comm"]) or processes.thread(int(record["tid"])),
        "cgroup_id" in names and bool(record["flags"] & MIGRATION_KTHREAD),
        processes.cgroup(int(record["cgroup_id"])) if "cgroup_id" in names else None,
    )


def text(comm: Any) -> str:
    """A comm as text."""
    return bytes(comm).split(b"\0")[0].decode("utf-8", "replace")


def _names(rows: Table, of: str) -> Iterator[tuple[int, str]]:
    """The name of each process (``of`` "tgid" or "pid") or thread ("tid") that has one."""
    for row in _one_of_each(rows, "comm", of):
        yield int(row[of]), text(row["comm"])


def _one_of_each(rows: Table, wanted: str, of: str = "tgid") -> Table:
    """A row of each process or thread that has what is wanted: its first thread's, if any."""
    rows = rows[rows[wanted] != np.zeros(1, rows.dtype[wanted])]
    if of == "tgid" and "tid" in (rows.dtype.names or ()):
        rows = rows[np.argsort(rows["tid"] != rows["tgid"], kind="stable")]
    _, first = np.unique(rows[of], return_index=True)
    return rows[first]
