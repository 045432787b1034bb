# SPDX-License-Identifier: GPL-2.0-or-later
"""The session of `mptrace record`: it has no driver, and records what others migrate."""

import contextlib
from dataclasses import dataclass

from mptrace.driving.worker_client import Worker
from mptrace.errors import HostError, Progress, RecordingError
from mptrace.host import proc
from mptrace.host.facts import HostFacts, KernelFacts
from mptrace.host.heap import keep_small
from mptrace.host.privileges import check_privileges
from mptrace.host.processes import NOT_TOLD_APART
from mptrace.host.read import read_host_facts
from mptrace.host.settings import check_stacks
from mptrace.host.signals import Interrupts
from mptrace.recording.detail import LEVEL_ALL
from mptrace.recording.meta import Coverage
from mptrace.recording.rotation import Series
from mptrace.recording.series import Parts
from mptrace.sessions.calibrated import calibrated, read_facts
from mptrace.sessions.command import Command
from mptrace.sessions.meta import first_meta
from mptrace.sessions.record_bpf import BpfSession
from mptrace.sessions.request import RecordRequest, RecordResult, meta_of, resolve_scope
from mptrace.tracer import Tracer
from mptrace.tracing.plan.request import Request
from mptrace.tracing.plan.scope import Scope
from mptrace.tracing.tracepoints import session as tracepoint_session


def record(
    request: RecordRequest, progress: Progress, ending: contextlib.ExitStack
) -> RecordResult:
    """Trace until the time is over, the command or the processes end, or a signal comes.

    Where the kernel refuses BPF programs and the request leaves the choice, tracepoints alone
    are recorded; an error of a session that has begun ends it.  Detaching goes on meanwhile:
    whoever leaves ``ending`` waits for it.  Raises HostError where this
    host can't trace, UsageError and TargetError for what is not there, CommandError, and
    RecordingError where the disk is full: what was recorded until then can be read.
    """
    check_privileges()
    if request.bounds.stacks and request.tier != "tracepoints":
        check_stacks()
    host = read_host_facts()
    Series(request.output, request.rotation).check_new(force=request.force, aside=request.aside)
    with contextlib.ExitStack() as stack:
        command = None
        if request.wanted.command:
            # before there is anything that it could inherit
            command = Command(request.wanted.command, request.wanted.user)
            command.start()
            stack.callback(command.close)
        keep_small()
        why = ""
        if request.tier != "tracepoints":
            try:
                opened = _open(request, host, ending, progress)
            except HostError as error:
                if request.tier == "bpf":
                    raise
                # the first line says what, those after it what a compiler printed
                why = error.message.partition("\n")[0]
                progress(f"no BPF here: {why}")
                progress("recording with tracepoints alone; 'mptrace doctor' says what is missing")
            else:
                return _by_bpf(request, host, opened, command, progress)
        if request.bounds.stacks:
            progress("there will be no stacks (--stacks): tracepoints have none")
        plain = Request(others=True, stacks=request.bounds.stacks, detail=request.bounds.detail)
        if request.bounds != plain:
            progress("--buffer and --max-folios have no effect on tracepoints")
        if request.bounds.detail != LEVEL_ALL:
            progress("--detail has no effect on tracepoints")
        return _by_tracepoints(request, host, command, progress, why)


@dataclass(frozen=True)
class _Opened:
    """What a session by BPF begins with: nothing was recorded, no command released yet."""

    facts: KernelFacts
    scope: Scope
    tracer: Tracer
    coverage: tuple[Coverage, ...]


def _open(
    request: RecordRequest, host: HostFacts, ending: contextlib.ExitStack, progress: Progress
) -> _Opened:
    """Raises HostError where BPF can't be had; ``ending`` closes the tracer."""
    facts = read_facts()
    scope = resolve_scope(request.wanted, request.filters, facts.migrate_reasons, host)
    with Worker() as worker:
        tracer, coverage = calibrated(facts, request.bounds, worker, host.memory_nodes, progress)
    ending.callback(tracer.close)
    return _Opened(facts, scope, tracer, coverage)


def _by_bpf(
    request: RecordRequest,
    host: HostFacts,
    opened: _Opened,
    command: Command | None,
    progress: Progress,
) -> RecordResult:
    tracer, scope = opened.tracer, opened.scope
    meta = first_meta(host, opened.facts, tracer, opened.coverage)
    meta |= meta_of(request.wanted, request.filters, scope)
    meta |= {
        "command": list(request.command_line),
        "tier": "bpf",
        "unseen": [*tracer.plan.notes, *([] if meta["own"] else [NOT_TOLD_APART])],
        "cost_reason": "mptrace does not run traced programs again without tracing",
    }
    series = Series(request.output, request.rotation)
    if request.aside:
        series.make_room(progress)
    parts = Parts(series, meta, force=request.force)
    result = BpfSession(request, scope, parts, tracer, command, progress).run()
    tracer.begin_detaching()
    return result


def _by_tracepoints(
    request: RecordRequest,
    host: HostFacts,
    command: Command | None,
    progress: Progress,
    why: str,
) -> RecordResult:
    scope = resolve_scope(request.wanted, request.filters, tracepoint_session.reasons(), host)
    if command is not None:
        scope = tracepoint_session.of_processes(scope, (command.pid,))

    def begin() -> None:
        if command is not None:
            command.release()

    def ended() -> bool:
        if command is not None:
            return command.poll() is not None
        pids = request.wanted.pids
        return bool(pids) and not any(map(proc.is_there, pids))

    wanted = tracepoint_session.TracepointRequest(
        output=request.output,
        force=request.force,
        aside=request.aside,
        scope=scope,
        duration_s=request.duration_s or None,
        until=ended,
        on_ready=begin,
        rotation=request.rotation,
        meta={
            **meta_of(request.wanted, request.filters, scope),
            "command": list(request.command_line),
            "tier_reason": why,
        },
    )
    try:
        result = tracepoint_session.record(wanted, progress)
    except RecordingError as error:
        if command is not None and command.is_released:
            progress(f"recording has ended: {error.message}")
            _wait_for(command, progress)
        raise
    status = _wait_for(command, progress) if command is not None else None
    timed = bool(request.duration_s) or command is not None
    return RecordResult(
        result.recordings,
        result.rows,
        result.lost,
        status,
        result.interrupted and timed,
        result.recorder,
    )


def _wait_for(command: Command, progress: Progress) -> int:
    """The command's exit status; a signal meanwhile is the command's affair."""
    with Interrupts():
        return command.outlast(progress)
