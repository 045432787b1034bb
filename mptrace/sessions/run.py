# SPDX-License-Identifier: GPL-2.0-or-later
"""The session of `mptrace run`: calibrate, trace, drive and record, in that order.

It knows both the driver and the tracer.  The workload runs in a separate process (`worker`),
so that the measured does not know the measurer.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mptrace.driving.protocol import SetupReply
from mptrace.driving.worker_client import RoundReply, TargetGone, Worker
from mptrace.driving.workloads import Workload, resolve
from mptrace.errors import HostError, Progress, TargetError
from mptrace.host import maps_reader, proc
from mptrace.host.privileges import check_privileges
from mptrace.host.read import read_host_facts
from mptrace.host.settings import check_stacks
from mptrace.host.signals import Interrupts
from mptrace.recording.clock import RecorderClock, now
from mptrace.recording.detail import LEVEL_ALL
from mptrace.recording.meta import CPU_CLOCK
from mptrace.recording.rotation import Rotation, Series
from mptrace.recording.writer import RecordingWriter
from mptrace.sessions.bounds import bounds_of
from mptrace.sessions.calibrated import calibrated, read_facts
from mptrace.sessions.meta import first_meta, symbols_of
from mptrace.sessions.pump import Pump
from mptrace.sessions.stacks import Stacks
from mptrace.tracer import Tracer
from mptrace.tracing.plan.request import Request

#: Seconds after which a signal is noticed while a round runs.
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class RunRequest:
    """What `mptrace run` was asked for."""

    workload: Workload
    output: Path
    force: bool = False
    #: An earlier recording of that name makes room, where it is not to be replaced.
    aside: bool = False
    #: Also run the workload with the gate closed, in turn, to say what tracing cost.
    measure_cost: bool = True
    #: Bound of the ring of folio records.
    folio_ring_bytes: int = Request.folio_ring_bytes
    #: Bound of the folios isolated at once; 0: what the workload needs.
    max_folios: int = 0
    #: Also record where calls, migrations and waits came from.
    stacks: bool = False
    #: How much of each page is traced: one of `detail.DETAILS`.
    detail: str = LEVEL_ALL
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunResult:
    """Where the recording is, and whether a signal ended the session early."""

    recording: Path
    interrupted: bool


def run(request: RunRequest, progress: Progress, ending: contextlib.ExitStack) -> RunResult:
    """Drive the workload, trace it, record everything.

    The probes are detached while the results are printed: whoever leaves ``ending``
    waits for it.  Raises HostError where this host can't trace or migrate, UsageError
    for a workload that contradicts itself, TargetError and RecordingError.  On
    KeyboardInterrupt the recording is finished with what was seen.
    """
    host = read_host_facts()
    check_privileges()
    if request.stacks:
        check_stacks()
    workload = resolve(request.workload, host.memory_nodes)
    if len(host.memory_nodes) < 2:
        raise HostError(
            f"this host has memory on one node only ({host.memory_nodes}); a move needs two",
            "mptrace lab -- mptrace run   runs it in a guest with several nodes",
        )
    series = Series(request.output, Rotation())
    series.check_new(force=request.force, aside=request.aside)
    facts = read_facts()
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(Worker())
        bounds = bounds_of(
            workload,
            Request(
                folio_ring_bytes=request.folio_ring_bytes,
                stacks=request.stacks,
                detail=request.detail,
            ),
            request.max_folios,
        )
        tracer, coverage = calibrated(facts, bounds, worker, host.memory_nodes, progress)
        ending.callback(tracer.close)
        # only now: what fails before leaves no recording, and replaces none
        setup = worker.setup(workload)
        meta = first_meta(host, facts, tracer, coverage)
        meta |= {
            "command": list(request.command),
            "workload": workload.to_dict(),
            "mappings": _mappings(setup.target_pid),
        }
        if request.aside:
            series.make_room(progress)
        writer = stack.enter_context(
            RecordingWriter(request.output, force=request.force, meta=meta)
        )
        return _Session(request, workload, writer, worker, tracer, progress).run(setup.tgid)


def preview(workload: Workload) -> SetupReply:
    """What moving another process's pages would move; moves nothing."""
    nodes = read_host_facts().memory_nodes
    with Worker() as worker:
        return worker.setup(resolve(workload, nodes))


# ---- the session --------------------------------------------------------------


class _Session:
    """The traced rounds of one workload, and what is known at their end."""

    def __init__(
        self,
        request: RunRequest,
        workload: Workload,
        writer: RecordingWriter,
        worker: Worker,
        tracer: Tracer,
        progress: Progress,
    ) -> None:
        self._request = request
        self._workload = workload
        self._writer = writer
        self._worker = worker
        self._tracer = tracer
        self._progress = progress
        stacks = Stacks(tracer.stack) if tracer.has_stacks else None
        self._pump = Pump(tracer, writer, maps=maps_reader.reader(), stacks=stacks)
        # CPU time of the threads that call: that of who drains the rings is not in it
        self._open_ns: list[int] = []
        self._closed_ns: list[int] = []
        self._bpf: list[dict[str, Any]] = []
        self._lost_before: dict[str, int] = {}
        self._entries_per_round = 0
        self._interrupts = Interrupts()
        self._killed = False
        self._clock = RecorderClock()

    def run(self, tgid: int) -> RunResult:
        self._lost_before = self._tracer.losses()
        self._pump.start()
        gone: TargetGone | None = None
        try:
            with self._interrupts:
                self._rounds(tgid)
                if not self._interrupted:
                    self._statistics_round(tgid)
                self._worker.teardown()
        except KeyboardInterrupt:
            self._killed = True
        except TargetGone as error:
            gone = error
        finally:
            self._tracer.close_gate()
            self._pump.finish()
        self._tracer.begin_detaching()
        self._finish()
        if gone is not None:
            raise TargetError(
                gone.message, f"'{self._request.output}' has what was seen until then"
            ) from gone
        return RunResult(self._request.output, self._interrupted)

    @property
    def _interrupted(self) -> bool:
        return self._killed or self._interrupts.noted

    def _finish(self) -> None:
        lost = self._tracer.losses()
        self._writer.flush()
        rows = self._writer.rows
        self._writer.finish(
            {
                # at the level `outcomes` a lookup stands for a folio
                "recorder": self._clock.took(rows["lookups"] or rows["folios"]),
                "interrupted": self._interrupted,
                "ended": now(),
                "lost": {cause: lost[cause] - self._lost_before[cause] for cause in lost},
                "symbols": symbols_of(self._pump.met().addresses),
                **self._cost(),
            }
        )

    def _rounds(self, tgid: int) -> None:
        repeats = self._workload.repeats
        for number in range(repeats):
            self._progress(f"round {number + 1} of {repeats}")
            # open and closed in turn, each first as often as the other
            for traced in (False, True) if number % 2 == 0 else (True, False):
                if traced:
                    self._traced_round(tgid)
                else:
                    self._untraced_round()
                if self._interrupted:
                    self._progress("interrupted: finishing the recording with what was seen")
                    return

    def _traced_round(self, tgid: int) -> None:
        with self._pump.keeping():
            self._tracer.open_gate(tgid)
            try:
                reply = self._round(record=True)
            except TargetGone as gone:
                if gone.partial is not None:
                    self._record(gone.partial)
                raise
            finally:
                self._tracer.close_gate()
            self._record(reply)
        if not self._interrupted:
            self._open_ns.append(reply.cpu_ns)
            self._entries_per_round = reply.entries

    def _round(self, *, record: bool) -> RoundReply:
        """A round; on Ctrl-C one that ends after the calls under way, with what they did."""
        self._worker.begin_round(record=record)
        told = False
        while not self._worker.poll(_POLL_SECONDS):
            if self._interrupted and not told:
                self._worker.interrupt()
                told = True
        return self._worker.finish_round()

    def _untraced_round(self) -> None:
        if self._measures_cost:
            cpu_ns = self._round(record=False).cpu_ns
            if not self._interrupted:
                self._closed_ns.append(cpu_ns)

    def _statistics_round(self, tgid: int) -> None:
        """One more round, not recorded, with BPF run-time statistics on."""
        if not self._measures_cost:
            return
        with self._tracer.statistics() as available:
            if not available:
                return
            self._tracer.open_gate(tgid)
            self._round(record=False)
            self._tracer.close_gate()
        self._bpf = [vars(cost) for cost in self._tracer.handler_costs() if cost.run_count]

    @property
    def _measures_cost(self) -> bool:
        # a stranger's pages are moved once, not again to time it
        return self._request.measure_cost and self._workload.target != "pid"

    def _record(self, reply: RoundReply) -> None:
        self._pump.append("driver_calls", reply.calls)
        self._pump.append("locations", reply.locations)

    def _cost(self) -> dict[str, Any]:
        """The keys `cost` and, where it was not measured, `cost_reason`."""
        if self._open_ns and self._closed_ns:
            cost = {
                "open_ns": self._open_ns,
                "closed_ns": self._closed_ns,
                "clock": CPU_CLOCK,
                "pages": self._entries_per_round,
                "bpf": self._bpf,
            }
            return {"cost": cost, "cost_reason": ""}
        if self._workload.target == "pid":
            reason = "another process's pages are not moved again to time it"
        elif self._interrupted:
            reason = "interrupted before it was measured"
        else:
            reason = "not asked for"
        return {"cost": None, "cost_reason": reason}


# ---- what is known at the start -------------------------------------------------


def _mappings(pid: int) -> list[list[Any]]:
    """[start, end, name] of each mapping of a process, empty where it can't be read."""
    try:
        text = proc.maps(pid)
    except OSError:
        return []
    return [
        [one.start, one.end, one.name.decode(errors="replace") or "anonymous"]
        for one in proc.mapped(text)
    ]
