# SPDX-License-Identifier: GPL-2.0-or-later
"""One tracing session: calibrate, trace, drive, record, in that order.

The only place that knows both the driver and the tracer.  The workload runs in
a process of its own (`worker`), so that the measured does not know the measurer.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mptrace import __version__, calibrate
from mptrace.calibrate import Coverage, Seen
from mptrace.errors import HostError, TargetError
from mptrace.facts import HostFacts, KernelFacts
from mptrace.kernel.facts import read_host_facts, read_kernel_facts
from mptrace.kernel.privileges import read_privileges
from mptrace.plan import (
    UNPROVED_KINDS,
    Plan,
    Request,
    candidate_functions,
    candidate_offsets,
    candidate_sizes,
    candidate_tracepoints,
    make_plan,
)
from mptrace.protocol import SetupReply
from mptrace.pump import Pump
from mptrace.recording import RecordingWriter, check_new
from mptrace.records import MAX_ENTRIES
from mptrace.tracer import Tracer
from mptrace.workerclient import RoundReply, TargetGone, Worker
from mptrace.workloads import Explicit, Workload, resolve

#: Seconds after which a signal is noticed while a round runs.
_POLL_SECONDS = 0.2
#: Plans tried before the session goes on with what is proved.
_MAX_PLANS = 4
#: The map of folios is never smaller: compaction may isolate, too.
_LEAST_FOLIOS = 1 << 14

Progress = Callable[[str], None]


@dataclass(frozen=True)
class RunRequest:
    """What `mptrace run` was asked for."""

    workload: Workload
    output: Path
    force: bool = False
    #: Also run the workload with the gate closed, in turn, to say what tracing cost.
    measure_cost: bool = True
    #: Bound of the ring of folio records.
    folio_ring_bytes: int = Request.folio_ring_bytes
    #: Bound of the folios isolated at once; 0: what the workload needs.
    max_folios: int = 0
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunResult:
    """Where the recording is, and whether a signal ended the session early."""

    recording: Path
    interrupted: bool


def run(request: RunRequest, progress: Progress) -> RunResult:
    """Drive the workload, trace it, record everything.

    Raises HostError where this host can't trace or migrate, UsageError for a
    workload that contradicts itself, TargetError and RecordingError.  On
    KeyboardInterrupt the recording is finished with what was seen.
    """
    host = read_host_facts()
    _check_privileges()
    workload = resolve(request.workload, host.memory_nodes)
    if len(host.memory_nodes) < 2:
        raise HostError(
            f"this host has memory on one node only ({host.memory_nodes}): nothing to move between",
            "mptrace lab -- mptrace run   runs it in a guest with several nodes",
        )
    check_new(request.output, force=request.force)
    facts = read_facts()
    if not facts.functions:
        raise HostError(
            "this kernel offers no BTF (/sys/kernel/btf/vmlinux): struct offsets can't be known",
            "boot a kernel with CONFIG_DEBUG_INFO_BTF, or run it in a guest: mptrace lab",
        )
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(Worker())
        bounds = _bounds(request, workload)
        tracer, coverage = _calibrated(facts, bounds, worker, host.memory_nodes, progress)
        stack.callback(tracer.close)
        # only now: what fails before leaves no recording, and replaces none
        setup = worker.setup(workload)
        meta = _first_meta(request, host, facts, workload)
        meta |= {
            "coverage": [c.to_dict() for c in coverage],
            "unproved_kinds": _unproved_kinds(coverage),
            "memory_bound_bytes": tracer.plan.memory_bound_bytes,
            "mappings": _mappings(setup.target_pid),
        }
        writer = stack.enter_context(
            RecordingWriter(request.output, force=request.force, meta=meta)
        )
        return _Session(request, workload, writer, worker, tracer, progress).run(setup.tgid)


def preview(workload: Workload) -> SetupReply:
    """What moving another process's pages would move; moves nothing."""
    nodes = read_host_facts().memory_nodes
    with Worker() as worker:
        return worker.setup(resolve(workload, nodes))


def read_facts() -> KernelFacts:
    """Facts of the running kernel, as far as the plan's candidates ask for them."""
    return read_kernel_facts(
        candidate_functions(), candidate_offsets(), candidate_sizes(), candidate_tracepoints()
    )


def _check_privileges() -> None:
    missing = read_privileges(Path("/")).missing()
    if missing:
        raise HostError(
            f"tracing needs root, or {' and '.join(missing)}",
            "run it with sudo; 'mptrace doctor' says what else is missing, "
            "'mptrace report' works without",
        )


# ---- the plan, proved ---------------------------------------------------------


def _calibrated(
    facts: KernelFacts,
    bounds: Request,
    worker: Worker,
    nodes: tuple[int, ...],
    progress: Progress,
) -> tuple[Tracer, tuple[Coverage, ...]]:
    """A tracer whose phases were proved as far as they can be, open, with its gate closed.

    A phase that fires another number of times than it must falls back to its
    next candidate; where there is none left, the first is used and unproved.
    """
    excluded: dict[tuple[str, str, str], str] = {}
    for _ in range(_MAX_PLANS):
        plan = make_plan(facts, bounds, excluded)
        _check_essentials(plan)
        progress("compiling and attaching the probes")
        tracer = Tracer(plan, facts.release)
        if refused := tracer.open():
            excluded.update(refused)
            tracer.close()
            continue
        try:
            progress(f"calibrating: {calibrate.PAGES} pages there and back")
            coverage = _calibrate(tracer, worker, nodes)
            # what has no other candidate stays attached, and unproved
            refuted = {
                key: reason
                for key, reason in calibrate.refuted(coverage).items()
                if _has_alternative(key, reason, facts, bounds, excluded)
            }
        except BaseException:
            tracer.close()
            raise
        if not refuted:
            return tracer, coverage
        excluded.update(refuted)
        tracer.close()
    raise HostError(
        f"no set of attach points worked in {_MAX_PLANS} tries: "
        + "; ".join(
            f"{phase} by {function}: {why}" for (phase, function, _), why in excluded.items()
        ),
        "run 'mptrace doctor', or 'mptrace lab' for a guest that can be traced",
    )


def _check_essentials(plan: Plan) -> None:
    missing = plan.missing_essentials()
    if missing:
        raise HostError(
            "this kernel can't be traced: no attach point for "
            + "; ".join(f"{p.phase} ({p.reason})" for p in missing),
            "run 'mptrace doctor' for each check, or 'mptrace lab' for a guest that can",
        )


def _has_alternative(
    key: tuple[str, str, str],
    reason: str,
    facts: KernelFacts,
    bounds: Request,
    excluded: dict[tuple[str, str, str], str],
) -> bool:
    other = make_plan(facts, bounds, {**excluded, key: reason})
    return any(p.method for p in other.phases if p.phase == key[0])


def _calibrate(tracer: Tracer, worker: Worker, nodes: tuple[int, ...]) -> tuple[Coverage, ...]:
    source, target = nodes[0], nodes[1]
    plain = Workload(pages=calibrate.PAGES, source_nids=(source,), target_nids=(target,))
    pinned = replace(
        plain,
        back=False,
        explicit=Explicit(
            entries=tuple((page, target) for page in range(calibrate.PAGES)),
            pinned=tuple(range(1, 1 + 2 * calibrate.PINNED, 2)),
        ),
    )
    return calibrate.judge(
        tracer.plan, _watch(tracer, worker, plain), _watch(tracer, worker, pinned)
    )


def _watch(tracer: Tracer, worker: Worker, workload: Workload) -> Seen:
    """What the tracer sees of one round of a workload; small ones only."""
    tgid = worker.setup(workload).tgid
    tracer.drain()
    tracer.open_gate(tgid)
    worker.round(record=False)
    tracer.close_gate()
    worker.teardown()
    drained = tracer.drain()
    return Seen(drained.calls, drained.migrations, drained.folios)


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
        self._pump = Pump(tracer, writer)
        self._open_ns: list[int] = []
        self._closed_ns: list[int] = []
        self._bpf: list[dict[str, Any]] = []
        self._lost_before: dict[str, int] = {}
        self._entries_per_round = 0
        self._interrupted = False

    def run(self, tgid: int) -> RunResult:
        self._lost_before = self._tracer.losses()
        self._pump.start()
        gone: TargetGone | None = None
        try:
            with self._noting_signals():
                self._rounds(tgid)
                if not self._interrupted:
                    self._statistics_round(tgid)
                self._worker.teardown()
        except KeyboardInterrupt:
            self._interrupted = True
        except TargetGone as error:
            gone = error
        finally:
            self._tracer.close_gate()
            self._pump.finish()
        self._finish()
        if gone is not None:
            raise TargetError(
                gone.message, f"what was seen until then is in '{self._request.output}'"
            ) from gone
        return RunResult(self._request.output, self._interrupted)

    @contextlib.contextmanager
    def _noting_signals(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM ends the session in order, a second one at once.

        Raised as an exception it could come between a round and its recording.
        """

        def note(*_: object) -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True

        mine = threading.current_thread() is threading.main_thread()
        ours = [
            number
            for number in (signal.SIGINT, signal.SIGTERM)
            if mine and signal.getsignal(number) is not signal.SIG_IGN
        ]
        previous = {number: signal.signal(number, note) for number in ours}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler or signal.SIG_DFL)

    def _finish(self) -> None:
        lost = self._tracer.losses()
        self._writer.finish(
            {
                "interrupted": self._interrupted,
                "ended": _now(),
                "lost": {cause: lost[cause] - self._lost_before[cause] for cause in lost},
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
            self._open_ns.append(reply.call_ns)
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
            call_ns = self._round(record=False).call_ns
            if not self._interrupted:
                self._closed_ns.append(call_ns)

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


def _bounds(request: RunRequest, workload: Workload) -> Request:
    """The map of folios must hold what one call isolates at once, in every thread."""
    bounds = Request(folio_ring_bytes=request.folio_ring_bytes)
    if request.max_folios:
        return replace(bounds, max_folios=request.max_folios)
    if workload.target == "pid":
        return bounds
    per_round = len(workload.explicit.entries) if workload.explicit else 2 * workload.pages
    per_call = workload.pages_per_call or per_round
    needed = max(_LEAST_FOLIOS, min(MAX_ENTRIES, per_round, per_call * workload.threads))
    return replace(bounds, max_folios=1 << (needed - 1).bit_length())


def _unproved_kinds(coverage: tuple[Coverage, ...]) -> list[str]:
    """Kinds of memory and paths that no calibrated phase covers."""
    proved = {c.phase for c in coverage if c.state == "proved"}
    return sorted({kind for phase, kind in UNPROVED_KINDS.items() if phase not in proved})


def _first_meta(
    request: RunRequest, host: HostFacts, facts: KernelFacts, workload: Workload
) -> dict[str, Any]:
    return {
        "tool_version": __version__,
        "command": list(request.command),
        "interrupted": False,
        "kernel": {
            "release": facts.release,
            "machine": facts.machine,
            "page_size": facts.page_size,
        },
        "nodes": [
            {
                "nid": node.nid,
                "cpus": list(node.cpus),
                "memory_bytes": node.memory_bytes,
                "free_bytes": node.free_bytes,
                "distances": list(node.distances),
            }
            for node in host.nodes
        ],
        "hypervisor": host.hypervisor,
        "emulated": host.emulated,
        "settings": dict(host.settings),
        "started": _now(),
        "workload": workload.to_dict(),
        "reasons": {str(number): name for number, name in facts.migrate_reasons.items()},
        "modes": {str(number): name for number, name in facts.migrate_modes.items()},
        "lost": {},
        "cost": None,
        "cost_reason": "the session did not end",
        "max_entries": MAX_ENTRIES,
    }


def _now() -> dict[str, int]:
    return {"wall_ns": time.time_ns(), "monotonic_ns": time.monotonic_ns()}


def _mappings(pid: int) -> list[list[Any]]:
    """[start, end, name] of each mapping of a process, empty where it can't be read."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
    except OSError:
        return []
    mappings: list[list[Any]] = []
    for line in lines:
        fields = line.split(None, 5)
        start, _, end = fields[0].partition("-")
        name = os.fspath(fields[5]) if len(fields) > 5 else "anonymous"
        mappings.append([int(start, 16), int(end, 16), name])
    return mappings
