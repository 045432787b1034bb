# SPDX-License-Identifier: GPL-2.0-or-later
"""The counts of `mptrace stat` by tracepoints alone, where the kernel refuses BPF."""

import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mptrace.arrays import Table
from mptrace.errors import HostError
from mptrace.host import proc, tracefs
from mptrace.host.processes import Processes
from mptrace.tracing.counting.counts import LOST_CAUSES, Counts
from mptrace.tracing.counting.events import EventCounts
from mptrace.tracing.counting.plan import StatBounds
from mptrace.tracing.plan.scope import Scope
from mptrace.tracing.tracepoints.formats import END, EVENT, START, Decoder, Format, Point
from mptrace.tracing.tracepoints.perf_events import PerfEvents, Probe
from mptrace.tracing.tracepoints.perf_records import record_bytes
from mptrace.tracing.tracepoints.threads import Threads, children

# What is asked of them; the rest of `tracepoints.POINTS` comes once per page.
_POINTS = {
    START: Point("migrate:mm_migrate_pages_start", START, ("mode", "reason"), ""),
    END: Point("migrate:mm_migrate_pages", END, ("succeeded", "failed", "mode", "reason"), ""),
}
_MAX_NAMES = 1 << 16
#: Seconds after which processes are asked anew for their user and cgroup.
_VALID_SECONDS = 1.0


class StatTracepoints:
    """Counts like `tracer.StatTracer`, from events that user space adds up.

    Raises HostError where the tracepoint or perf_event_open(2) can't be had.
    """

    #: Seconds after which the rings must be looked at again.
    poll_seconds = 0.1

    def __init__(self, bounds: StatBounds, processes: Processes) -> None:
        self._processes = processes
        self._threads = Threads(processes)
        self._asked = time.monotonic()
        self._scope = Scope("all")
        self._chosen: set[int] = set()
        self._gone: set[int] = set()
        formats = _formats()
        self._has_begin = _POINTS[START].name in formats
        #: Names of the reasons by number, as the tracepoint has them.
        self.reasons: Mapping[int, str] = formats[_POINTS[END].name].symbols("reason")
        self._decoder = Decoder(formats)
        self._counts = EventCounts(bounds.max_rows, self._wants, self._cgroup)
        self._held = np.empty(0, EVENT)
        self._names: dict[int, tuple[bytes, bool]] = {}
        self._lost = 0
        self._events = PerfEvents(
            [
                Probe(name, layout.event_id, record_bytes(layout.raw_bytes))
                for name, layout in formats.items()
            ]
        )

    def unseen(self) -> tuple[str, ...]:
        """What can't be counted this way, a sentence each."""
        sentences = ["waits are not seen: there is no tracepoint for them"]
        if not self._has_begin:
            sentences.append(f"the time of migrations is unknown: no {_POINTS[START].name}")
        sentences.append(
            "the cgroup and user of a process that ends at once is unknown: /proc is asked later"
        )
        return tuple(sentences)

    @property
    def sees_time(self) -> bool:
        """Whether the time of migrations can be seen."""
        return self._has_begin

    @property
    def sees_waits(self) -> bool:
        """No: there is no tracepoint."""
        return False

    def choose(self, scope: Scope) -> None:
        """Count what these do, not all; to be called before the gate opens."""
        self._scope = scope
        self._chosen = set(scope.tgids)

    def followed(self) -> set[int]:
        """The chosen processes and what they forked, some of which may have ended."""
        return set(self._chosen)

    def _wants(self, tgid: int) -> bool:
        if self._scope.kind == "pids":
            return tgid in self._chosen
        if self._scope.kind == "user":
            return self._threads.uids.get(tgid) == self._scope.uid
        if self._scope.kind == "cgroup":
            return self._scope.cgroup_id in self._threads.cgroups_of(tgid)
        return True

    def _cgroup(self, tgid: int) -> int:
        return self._threads.cgroup_ids.get(tgid, 0)

    def open_gate(self) -> None:
        """Count from now on."""
        self._events.enable()

    def close_gate(self) -> None:
        """Count nothing further."""
        self._events.disable()

    def read(self) -> Counts:
        """Everything counted since the gate was opened, shape (n,), dtype COUNTS."""
        # a thread's later event may be in a ring that was looked at before its earlier one came
        until = time.monotonic_ns()
        drained = self._events.drain()
        events, _ = self._decoder.decode(drained.samples)
        events = np.concatenate([self._held, events])
        now = events["time_ns"] < until
        self._held = events[~now]
        lost = int(drained.losses["count"].sum())
        self._meet(events["tgid"], drained.tasks)
        # the end of one migration may follow the begin of another, what is between being lost
        self._counts.add(events[now], has_begin=self._has_begin and not lost)
        if lost:
            self._lost += lost
            self._counts.forget_open()
        self._threads.forget(drained.tasks)
        for task in drained.tasks[drained.tasks["kind"] == b"comm"]:
            if task["tid"] == task["tgid"]:
                self._name(int(task["tgid"]), bytes(task["comm"]))
        for tgid in self._counts.tgids() - self._names.keys():
            self._name(tgid, b"")
        return self._counts.rows(self._names)

    def losses(self) -> dict[str, int]:
        """Count per cause of `LOST_CAUSES`, zeros included."""
        return {
            **dict.fromkeys(LOST_CAUSES, 0),
            "row_map_full": self._counts.beyond,
            "event_ring_full": self._lost,
        }

    def unfinished(self) -> dict[str, int]:
        """Migrations that have begun and not ended, of all processes."""
        return {"migrations": self._counts.unfinished, "waits": 0}

    def close(self) -> None:
        """Give everything back; harmless when called again."""
        self._events.close()

    def _meet(self, tgids: NDArray[np.uint32], tasks: Table) -> None:
        """Learn of user, cgroup and descent at once: who did this may be gone soon."""
        if time.monotonic() - self._asked >= _VALID_SECONDS:
            self._asked = time.monotonic()
            self._processes.forget()
            # those gone the last time, too: of others there may be events to come
            gone = {tgid for tgid in self._chosen if not proc.is_there(tgid)}
            self._chosen -= gone & self._gone
            self._gone = gone
        self._threads.note(tasks)
        self._threads.meet(tgids)
        self._chosen |= children(tasks, self._chosen)

    def _name(self, tgid: int, told: bytes) -> None:
        """Remember a process's name: as it is, or as an event told it."""
        if len(self._names) >= _MAX_NAMES:
            self._names.clear()
        try:
            comm, is_kthread = proc.stat(tgid)
        except OSError:
            comm, is_kthread = b"", False
        self._names[tgid] = told or comm, is_kthread


def _formats() -> dict[str, Format]:
    """The formats of the points that this kernel has; HostError without the essential one."""
    formats = {}
    with tracefs.readable() as root:
        for point in _POINTS.values():
            try:
                text = (root / "events" / point.name.replace(":", "/") / "format").read_text()
            except OSError:
                continue
            found = Format.parse(text)
            if not found.lacks(point.fields):
                formats[point.name] = found
    if _POINTS[END].name not in formats:
        raise HostError(
            f"this kernel has no usable tracepoint {_POINTS[END].name}",
            "boot a kernel with CONFIG_MIGRATION and CONFIG_TRACEPOINTS, or run it in a guest: "
            "mptrace lab",
        )
    return formats
