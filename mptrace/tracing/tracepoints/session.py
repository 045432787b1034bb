# SPDX-License-Identifier: GPL-2.0-or-later
"""A session with tracepoints alone: from events to a recording."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mptrace.errors import HostError, Progress, RecordingError
from mptrace.host import tracefs
from mptrace.host.facts import NodeRanges
from mptrace.host.maps_reader import MapsReader, met_in
from mptrace.host.page_nodes import read_node_ranges
from mptrace.host.processes import Processes
from mptrace.host.read import read_host_facts
from mptrace.host.signals import Interrupts
from mptrace.recording.clock import now
from mptrace.recording.layouts import MIGRATION_KTHREAD, SYSCALL_NONE
from mptrace.recording.meta import RecorderCost
from mptrace.recording.rotation import Rotation, Series
from mptrace.recording.series import Parts
from mptrace.recording.writer import RecordingWriter
from mptrace.tracing.plan.scope import Scope
from mptrace.tracing.tracepoints.formats import (
    ESSENTIAL,
    PFN_BITS,
    PFN_BITS_LA57,
    POINTS,
    Decoder,
    Format,
)
from mptrace.tracing.tracepoints.perf_events import PerfEvents, Probe, online_cpus
from mptrace.tracing.tracepoints.perf_records import record_bytes
from mptrace.tracing.tracepoints.rows import Assembled, EventAssembler
from mptrace.tracing.tracepoints.selection import select
from mptrace.tracing.tracepoints.threads import Threads, children
from mptrace.tracing.tracepoints.tier import Kernel, first_meta, unseen

#: Longest wait for mappings of processes that are still to be read at the end of a recording.
_MAPS_SECONDS = 1.0
#: Seconds between two looks at the rings.
_DRAIN_SECONDS = 0.02


def _never() -> bool:
    return False


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class TracepointRequest:
    """What a session by tracepoints was asked for.

    ``scope``: kinds "all", "pids", "user" and "cgroup", with its filters.  ``until`` is
    asked again and again: true ends the session; ``on_ready`` is called once, when every
    event is on.  ``meta`` are keys for ``meta.json`` that the caller knows.
    """

    output: Path
    force: bool = False
    #: Earlier recordings of that name make room.
    aside: bool = False
    scope: Scope = field(default_factory=lambda: Scope("all"))
    duration_s: float | None = None
    until: Callable[[], bool] = _never
    on_ready: Callable[[], None] = _nothing
    rotation: Rotation = field(default_factory=Rotation)
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What was recorded: the recordings that are there, rows per table, losses by cause.

    ``interrupted``: a signal ended it; ``recorder``: what recording itself took.
    """

    recordings: tuple[Path, ...]
    rows: dict[str, int]
    lost: dict[str, int]
    interrupted: bool
    recorder: RecorderCost | None = None


def record(request: TracepointRequest, progress: Progress) -> Result:
    """Record what tracepoints tell, until the time is over, `until` says so, or a signal comes.

    Raises HostError where tracefs or its events can't be had, RecordingError where the
    recording can't be written: what was recorded until then can be read.
    """
    series = Series(request.output, request.rotation)
    series.check_new(force=request.force, aside=request.aside)
    with contextlib.ExitStack() as stack:
        formats, gaps = read_formats()
        kernel = _kernel(formats, gaps)
        events = PerfEvents([_probe(name, layout) for name, layout in formats.items()])
        stack.callback(events.close)
        meta = first_meta(kernel, read_host_facts(), now(), request.scope.kind)
        # perf tells process numbers as they are in the namespace of who opened the events
        meta |= {"own": [os.getpid()], "memory_bound_bytes": events.memory_bytes, **request.meta}
        if request.aside:
            series.make_room(progress)
        parts = Parts(series, meta, force=request.force)
        return _Session(request, parts, kernel, events, progress).run()


def reasons() -> Mapping[int, str]:
    """Why pages are migrated, as this kernel's tracepoint names it: number -> name.

    Raises HostError like `record`.
    """
    formats, gaps = read_formats()
    return _kernel(formats, gaps).reason_names


def of_processes(scope: Scope, tgids: tuple[int, ...]) -> Scope:
    """The same scope for these processes, and what they fork."""
    return replace(scope, kind="pids", tgids=tgids)


def read_formats() -> tuple[dict[str, Format], dict[str, str]]:
    """Formats of the points that this kernel has, by name; of the others why not.

    Raises HostError where there is no tracefs, or nothing that tells of migrations.
    """
    formats: dict[str, Format] = {}
    gaps: dict[str, str] = {}
    with tracefs.readable() as root:
        for point in POINTS:
            path = root / "events" / point.name.replace(":", "/") / "format"
            try:
                found = Format.parse(path.read_text())
            except OSError as error:
                gaps[point.name] = error.strerror or "can't be read"
                continue
            if lacking := found.lacks(point.fields):
                gaps[point.name] = f"it has no field '{lacking[0]}'"
            else:
                formats[point.name] = found
    if ESSENTIAL not in formats:
        raise HostError(
            f"this kernel has no usable tracepoint {ESSENTIAL}: {gaps[ESSENTIAL]}",
            "boot a kernel with CONFIG_MIGRATION and CONFIG_TRACEPOINTS, or run it in a guest: "
            "mptrace lab",
        )
    # one half of a pair tells nothing, and would be taken for something that never ended
    for name in [*formats]:
        for mine, other in (("enter", "exit"), ("exit", "enter"), ("set", "remove")):
            partner = name.replace(f"{mine}_", f"{other}_")
            if f"{mine}_" in name and partner not in formats:
                gaps.setdefault(name, f"there is no {partner}")
                formats.pop(name, None)
    return formats, gaps


def _probe(name: str, layout: Format) -> Probe:
    point = next(point for point in POINTS if point.name == name)
    return Probe(name, layout.event_id, record_bytes(layout.raw_bytes), point.frequent)


def _kernel(formats: Mapping[str, Format], gaps: Mapping[str, str]) -> Kernel:
    system = os.uname()
    return Kernel(
        release=system.release,
        machine=system.machine,
        page_size=os.sysconf("SC_PAGESIZE"),
        reasons=formats[ESSENTIAL].symbols("reason"),
        modes=formats[ESSENTIAL].symbols("mode"),
        formats=formats,
        gaps=gaps,
    )


def _pfn_bits() -> int:
    # the flag is there where the kernel uses five levels
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return PFN_BITS_LA57 if "la57" in line.split() else PFN_BITS
    return PFN_BITS


class _Session:
    """From the events' start to the last recording's end."""

    def __init__(
        self,
        request: TracepointRequest,
        parts: Parts,
        kernel: Kernel,
        events: PerfEvents,
        progress: Progress,
    ) -> None:
        self._request = request
        self._parts = parts
        self._kernel = kernel
        self._events = events
        self._progress = progress
        self._decoder = Decoder(kernel.formats)
        self._assembler = EventAssembler(
            read_node_ranges() if kernel.decodes_pages else NodeRanges(),
            pfn_bits=_pfn_bits(),
            has_start=kernel.has_start,
        )
        self._processes = Processes()
        self._threads = Threads(self._processes)
        self._maps = MapsReader()
        self._chosen = set(request.scope.tgids)
        self._begin_part(parts.writer)
        self._samples = 0
        self._lost = {"perf_ring": 0, "held": 0}
        self._lost_before = dict(self._lost)
        self._outside = 0

    def run(self) -> Result:
        """Record to the end."""
        signals = Interrupts()
        self._maps.start()
        try:
            with signals:
                self._events.enable()
                self._request.on_ready()
                self._progress("tracing: with tracepoints alone")
                for _ in self._rounds(signals):
                    self._take()
                self._last_round()
            self._parts.finish(self._last_meta())
        except RecordingError as error:
            self._events.disable()
            raise self._parts.abandon(error, self._last_meta()) from error
        finally:
            self._maps.stop(_MAPS_SECONDS)
        return Result(
            self._parts.paths, self._parts.rows, self._lost, signals.noted, self._parts.recorder
        )

    def _rounds(self, signals: Interrupts) -> Iterator[None]:
        began = part_began = time.monotonic()
        limit = self._request.duration_s
        while not signals.noted and not self._request.until():
            if limit is not None and time.monotonic() - began >= limit:
                return
            yield
            self._parts.writer.append("mappings", self._maps.take())
            age_s = time.monotonic() - part_began
            if self._parts.rotate_if_due(age_s, self._begin_part, self._last_meta):
                part_began = time.monotonic()
            time.sleep(_DRAIN_SECONDS)

    def _take(self) -> None:
        """Take what is in the rings, and record what has ended."""
        until_ns = time.monotonic_ns()
        drained = self._events.drain()
        if drained.is_empty and not self._assembler.waits:
            self._parts.writer.tick()
            return
        self._samples += sum(len(run) for run in drained.samples)
        told = int(drained.losses["count"].sum())
        self._lost["perf_ring"] += told
        events, arguments = self._decoder.decode(drained.samples)
        self._threads.note(drained.tasks)
        # at once, before what they do has ended: they may be gone then
        self._threads.meet(events["tgid"])
        self._chosen |= children(drained.tasks, self._chosen)
        self._keep(self._assembler.add(events, arguments, drained.losses, until_ns))
        self._threads.forget(drained.tasks)

    def _last_round(self) -> None:
        self._events.disable()
        self._take()
        # The kernel counted every event, with room for it or without.
        self._lost["perf_ring"] = sum(self._events.counts().values()) - self._samples
        self._keep(self._assembler.finish())
        self._maps.settle(_MAPS_SECONDS)
        self._parts.writer.append("mappings", self._maps.take())

    def _keep(self, rows: Assembled) -> None:
        self._outside += rows.outside
        self._lost["held"] = self._assembler.given_up
        for call in np.flatnonzero(rows.calls["target_tgid"] == 0):
            row = rows.calls[call]
            row["target_tgid"] = self._threads.target(int(row["tgid"]), int(row["pid"]))
        # what of a call is in the recording before this one
        early = rows.calls["enter_ns"] < self._part_began_ns
        rows.calls["lost"][early] += 1
        self._threads.meet(_people(rows))
        rows = select(
            rows,
            None if self._request.scope.kind == "all" else self._wants,
            self._request.scope.filters,
            self._kernel.call_reason,
        )
        self._name(rows)
        self._maps.meet(*met_in({"calls": rows.calls, "folios": rows.folios}))
        self._parts.writer.append("calls", rows.calls)
        self._parts.writer.append("migrations", rows.migrations)
        if self._kernel.decodes_pages:
            self._parts.writer.append("folios", rows.folios)
        # those of interest, and whom these have to do with: callers and targets
        self._parts.writer.append("processes", self._threads.rows_of(_people(rows)))

    def _name(self, rows: Assembled) -> None:
        """Fill in who the threads are; a loop per thread that has rows, none per row."""
        for table in (rows.calls, rows.migrations):
            tids, first, place = np.unique(table["tid"], return_index=True, return_inverse=True)
            found = [
                self._threads.identity(int(table["tgid"][row]), int(tid))
                for tid, row in zip(tids, first, strict=True)
            ]
            if not found:
                continue
            table["comm"] = np.array([each.comm.encode() for each in found], "S16")[place]
            if table is rows.migrations:
                kthread = np.array([each.is_kthread for each in found])[place]
                table["flags"][kthread] |= MIGRATION_KTHREAD
                table["syscall"][kthread] = SYSCALL_NONE
                cgroups = [
                    self._threads.cgroup_ids.get(int(tgid), 0) for tgid in table["tgid"][first]
                ]
                table["cgroup_id"] = np.array(cgroups, np.uint64)[place]

    def _wants(self, tgid: int) -> bool:
        scope = self._request.scope
        if scope.kind == "user":
            return self._threads.uids.get(tgid) == scope.uid
        if scope.kind == "cgroup":
            return scope.cgroup_id in self._threads.cgroups_of(tgid)
        return tgid in self._chosen

    # ---- recordings, one or several ----------------------------------------------------

    def _begin_part(self, writer: RecordingWriter) -> None:
        self._part_began_ns = int(writer.meta["started"]["monotonic_ns"])
        # who reads this one and that before knows by it what is whole all the same
        writer.meta["boundary_ns"] = self._part_began_ns
        self._processes.forget()
        self._maps.forget()

    def _last_meta(self) -> dict[str, Any]:
        since = {cause: self._lost[cause] - self._lost_before[cause] for cause in self._lost}
        self._lost_before = dict(self._lost)
        new_cpus = set(online_cpus()) - set(self._events.cpus)
        return {
            "ended": now(),
            "lost": {cause: max(count, 0) for cause, count in since.items()},
            "cgroups": {str(number): path for number, path in self._processes.cgroups.items()},
            "unseen": unseen(
                self._kernel,
                self._request.scope.kind,
                outside=self._outside,
                cpus=tuple(sorted(new_cpus)),
            ),
        }


def _people(rows: Assembled) -> NDArray[np.uint32]:
    """The processes that rows name."""
    calls, migrations = rows.calls, rows.migrations
    return np.concatenate([calls["tgid"], calls["target_tgid"], migrations["tgid"]])
