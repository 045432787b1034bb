# SPDX-License-Identifier: GPL-2.0-or-later
"""Who a thread is: its name, whether it is the kernel's, its process's user and cgroup.

Read from /proc when a thread is met.  What the kernel tells of threads that come and get
a name meanwhile (`perf_records.TASK`) names those that are gone before they are asked.
"""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mptrace.arrays import Table
from mptrace.host import proc
from mptrace.host.processes import Processes, cgroup_id
from mptrace.recording.layouts import NO_UID, PROCESS
from mptrace.tracing.tracepoints.perf_records import TASK

# What /proc said of a thread is asked again after this time: it may have another name.
_VALID_SECONDS = 1.0
#: Bound of what is remembered.
_MAX_KNOWN = 1 << 16


@dataclass(frozen=True)
class Identity:
    """What is known of a thread; "" where it was gone before it was asked."""

    comm: str = ""
    is_kthread: bool = False


class Threads:
    """Names of threads; of their processes user, cgroup and descent."""

    def __init__(self, processes: Processes, root: Path = Path("/")) -> None:
        self._processes = processes
        self._root = root
        self._comms: dict[int, str] = {}  # told by the kernel
        self._known: dict[int, tuple[float, Identity]] = {}
        #: Of processes met: uid and cgroup id.
        self.uids: dict[int, int] = {}
        self.cgroup_ids: dict[int, int] = {}
        self._above: dict[str, frozenset[int]] = {}  # of a cgroup's path
        self._met: dict[int, np.void] = {}  # PROCESS rows that were not asked for yet

    def note(self, tasks: Table) -> None:
        """Take in what the kernel said of threads that came and got a name, in order of time."""
        for row in tasks[tasks["kind"] != b"exit"]:
            tid = int(row["tid"])
            if row["kind"] == b"comm":
                self._comms[tid] = row["comm"].decode(errors="replace")
                self._known.pop(tid, None)
            elif comm := self._comms.get(int(row["parent_tid"])):
                self._comms[tid] = comm
        _bound(self._comms, self._known, self.uids, self.cgroup_ids, self._above, self._met)

    def forget(self, tasks: Table) -> None:
        """Forget those that ended; after their last events were looked at."""
        for tid in tasks["tid"][tasks["kind"] == b"exit"].tolist():
            for known in (self._comms, self._known):
                known.pop(tid, None)

    def identity(self, tgid: int, tid: int) -> Identity:
        """Who the thread is."""
        now = time.monotonic()
        seen, known = self._known.get(tid, (0.0, Identity()))
        if seen and now - seen < _VALID_SECONDS:
            return known
        comm, is_kthread = self._stat(tgid, tid)
        if not comm:
            comm, is_kthread = known.comm or self._comms.get(tid, ""), known.is_kthread
        found = Identity(comm, is_kthread)
        self._known[tid] = now, found
        return found

    def meet(self, tgids: NDArray[np.uint32]) -> Table:
        """PROCESS rows of those processes that were not met before."""
        rows = self._processes.meet(np.unique(tgids).tolist())
        for row in rows:
            tgid = int(row["tgid"])
            # of one that has ended since it was met before nothing new is told
            if row["uid"] != NO_UID or tgid not in self.uids:
                self.uids[tgid], self.cgroup_ids[tgid] = int(row["uid"]), int(row["cgroup_id"])
            # the real one, as BPF decides by it; the other is of who may look at it
            with contextlib.suppress(OSError, KeyError, IndexError, ValueError):
                self.uids[tgid] = int(proc.status(tgid, self._root)["Uid"].split()[0])
            if not row["comm"]:
                row["comm"] = self._comms.get(tgid, "").encode()
            if row["comm"] or tgid not in self._met:
                self._met[tgid] = row.copy()
        return rows

    def rows_of(self, tgids: NDArray[np.uint32]) -> Table:
        """PROCESS rows of those of these processes that were met, and not given before."""
        wanted = [tgid for tgid in np.unique(tgids).tolist() if tgid in self._met]
        return np.array([self._met.pop(tgid) for tgid in wanted], PROCESS)

    def cgroups_of(self, tgid: int) -> frozenset[int]:
        """Ids of a process's cgroup and those above it, when it was met."""
        path = self._processes.cgroups.get(self.cgroup_ids.get(tgid, 0))
        if path is None:
            return frozenset()
        if path not in self._above:
            found = set()
            for place in (path, *map(str, PurePosixPath(path).parents)):
                with contextlib.suppress(FileNotFoundError):
                    found.add(cgroup_id(place, self._root)[0])
            self._above[path] = frozenset(found)
        return self._above[path]

    def target(self, caller: int, pid: int) -> int:
        """Thread group of the process that a caller names by ``pid``, 0 where it can't be known.

        The number is one of the caller's PID namespace.
        """
        if self._namespace(str(caller)) != self._namespace("self"):
            return 0
        try:
            return proc.tgid(pid, self._root)
        except OSError:
            return 0

    def _namespace(self, process: str) -> str:
        try:
            return proc.pid_namespace(process, self._root)
        except OSError:
            return f"of {process}"

    def _stat(self, tgid: int, tid: int) -> tuple[str, bool]:
        try:
            comm, is_kthread = proc.stat(tgid, tid, self._root)
        except OSError:
            return "", False
        return comm.decode(errors="replace"), is_kthread


def _bound(*dictionaries: dict[Any, Any]) -> None:
    for known in dictionaries:
        if len(known) > _MAX_KNOWN:
            for key in list(known)[: len(known) - _MAX_KNOWN // 2]:
                del known[key]


def children(tasks: Table, tgids: set[int]) -> set[int]:
    """The processes among ``tasks`` (dtype TASK, in order of time) that descend from ``tgids``."""
    assert tasks.dtype == TASK
    found: set[int] = set()
    for row in tasks[(tasks["kind"] == b"fork") & (tasks["tgid"] != tasks["parent_tgid"])]:
        parent = int(row["parent_tgid"])
        if parent in tgids or parent in found:
            found.add(int(row["tgid"]))
    return found
