# SPDX-License-Identifier: GPL-2.0-or-later
"""A session without a driver: whatever migrates on this host, or for whom it was asked."""

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mptrace.command import Command, User
from mptrace.errors import RecordingError, TargetError, UsageError
from mptrace.facts import HostFacts, KernelFacts
from mptrace.interrupts import Interrupts
from mptrace.kernel.facts import read_host_facts
from mptrace.plan import Request
from mptrace.processes import Processes, cgroup_id
from mptrace.proved import (
    Progress,
    calibrated,
    check_privileges,
    first_meta,
    now,
    read_facts,
    symbols_of,
)
from mptrace.pump import Pump
from mptrace.recording import RecordingWriter, check_new
from mptrace.rotation import Rotation, Series
from mptrace.scope import Filters, Scope
from mptrace.tracer import Tracer
from mptrace.workerclient import Worker

#: Seconds between two looks at what may end or rotate the session.
_POLL_SECONDS = 0.1
#: Seconds between two looks at whether a process that was asked for is still there.
_TARGET_SECONDS = 1.0


@dataclass(frozen=True)
class Wanted:
    """Whom a session is about: one of these, or everybody."""

    pids: tuple[int, ...] = ()
    uid: int | None = None
    cgroup: str = ""
    command: tuple[str, ...] = ()
    #: As whom the command runs; None: as this process.
    user: User | None = None


@dataclass(frozen=True)
class WantedFilters:
    """As `scope.Filters`, with names for the reasons."""

    reasons: tuple[str, ...] = ()
    source_nids: tuple[int, ...] = ()
    target_nids: tuple[int, ...] = ()
    min_ns: int = 0
    failed: bool = False


@dataclass(frozen=True)
class RecordRequest:
    """What `mptrace record` was asked for."""

    wanted: Wanted
    output: Path
    filters: WantedFilters = field(default_factory=WantedFilters)
    force: bool = False
    #: Seconds after which it ends, 0: at a signal, or when the command or the processes end.
    duration_s: float = 0.0
    rotation: Rotation = field(default_factory=Rotation)
    bounds: Request = field(default_factory=lambda: Request(others=True))
    command_line: tuple[str, ...] = ()


@dataclass(frozen=True)
class RecordResult:
    """What was recorded: the recordings that are there, rows per table, losses by cause.

    ``exit_status`` is the command's, None without one; ``interrupted``: a signal
    ended it before its time.
    """

    recordings: tuple[Path, ...]
    rows: dict[str, int]
    lost: dict[str, int]
    exit_status: int | None
    interrupted: bool


def record(request: RecordRequest, progress: Progress) -> RecordResult:
    """Trace until the time is over, the command or the processes end, or a signal comes.

    Raises HostError where this host can't trace, UsageError and TargetError for
    what is not there, CommandError, and RecordingError where the disk is full:
    what was recorded until then can be read.
    """
    check_privileges()
    host = read_host_facts()
    series = Series(request.output, request.rotation)
    first = series.next()
    check_new(first, force=request.force)
    facts = read_facts()
    scope = resolve_scope(request.wanted, request.filters, facts, host)
    with contextlib.ExitStack() as stack:
        command = None
        if request.wanted.command:
            # before there is anything that it could inherit
            command = Command(request.wanted.command, request.wanted.user)
            command.start()
            stack.callback(command.close)
        with Worker() as worker:
            nodes = host.memory_nodes
            tracer, coverage = calibrated(facts, request.bounds, worker, nodes, progress)
        stack.callback(tracer.close)
        meta = first_meta(host, facts, tracer, coverage)
        meta |= {
            "command": list(request.command_line),
            "scope": _scope_meta(request.wanted, scope),
            "filters": _filters_meta(request.filters),
            "tier": "bpf",
            "unseen": list(tracer.plan.notes),
            "cost_reason": "programs that are traced are not run again without tracing",
        }
        writer = RecordingWriter(first, force=request.force, meta={**meta, "rotation": series.part})
        return _Session(request, scope, series, writer, meta, tracer, command, progress).run()


class _Session:
    """From the gate's opening to the last recording's end."""

    def __init__(
        self,
        request: RecordRequest,
        scope: Scope,
        series: Series,
        writer: RecordingWriter,
        meta: dict[str, Any],
        tracer: Tracer,
        command: Command | None,
        progress: Progress,
    ) -> None:
        self._request = request
        self._scope = scope
        self._series = series
        self._writer = writer
        self._meta = meta
        self._tracer = tracer
        self._command = command
        self._progress = progress
        self._processes = Processes()
        self._pump = Pump(tracer, writer, processes=self._processes)
        self._rows = dict.fromkeys(writer.rows, 0)
        self._lost_first = self._lost_before = tracer.losses()

    def run(self) -> RecordResult:
        """Trace to the end; the command is waited for whatever becomes of the recording."""
        failure: RecordingError | None = None
        self._pump.start()
        with Interrupts() as signals:
            try:
                self._trace(signals)
                self._pump.finish()
                self._finish_part(self._writer)
            except RecordingError as error:
                failure = error
            finally:
                self._tracer.close_gate()
            if failure is not None:
                self._progress(f"recording has ended: {failure.message}")
                self._abandon(failure)
            status = self._command_status()
        if failure is not None:
            raise RecordingError(
                failure.message,
                "\n  ".join(
                    part
                    for part in (
                        f"what was recorded until then is in '{self._writer.path}'",
                        failure.hint,
                    )
                    if part
                ),
            )
        lost = self._tracer.losses()
        timed = bool(self._request.duration_s) or self._command is not None
        return RecordResult(
            tuple(self._series.paths),
            self._rows,
            {cause: lost[cause] - self._lost_first[cause] for cause in lost},
            status,
            signals.noted and timed,
        )

    def _trace(self, signals: Interrupts) -> None:
        with self._pump.keeping():
            self._tracer.open_scope(self._scope)
            try:
                if self._command is not None:
                    self._tracer.choose((self._command.pid,))
                    self._command.release()
                self._progress("tracing" + ("" if self._command else ": Ctrl-C ends it"))
                self._wait(signals)
            finally:
                self._tracer.close_gate()

    def _wait(self, signals: Interrupts) -> None:
        """Until there is a reason to end; recordings are rotated meanwhile."""
        began = part_began = looked = time.monotonic()
        while not signals.noted and not self._pump.failed:
            time.sleep(_POLL_SECONDS)
            at = time.monotonic()
            if self._request.duration_s and at - began >= self._request.duration_s:
                return
            if self._command is not None and self._command.poll() is not None:
                return
            if at - looked >= _TARGET_SECONDS:
                looked = at
                if self._is_left_alone():
                    self._progress("the processes that were asked for have ended")
                    return
            if self._request.rotation.is_due(self._writer.bytes, at - part_began):
                self._rotate()
                part_began = at

    def _is_left_alone(self) -> bool:
        """Whether nobody of the processes asked for, nor what they forked, is there any more."""
        pids = self._request.wanted.pids
        return bool(pids) and not any(
            Path(f"/proc/{tgid}").exists() for tgid in self._tracer.followed()
        )

    def _command_status(self) -> int | None:
        if self._command is None:
            return None
        if self._command.poll() is None:
            self._progress(f"waiting for '{self._command.argv[0]}' to end")
        return self._command.wait()

    # ---- recordings, one or several ----------------------------------------------

    def _rotate(self) -> None:
        began = now()
        writer = RecordingWriter(
            self._series.next(),
            force=self._request.force,
            meta={**self._meta, "started": began, "rotation": self._series.part},
        )
        before = self._pump.swap(writer, began["monotonic_ns"])
        self._writer = writer
        self._finish_part(before)
        self._series.drop_old()

    def _finish_part(self, writer: RecordingWriter) -> None:
        self._count(writer)
        writer.finish(self._last_meta())

    def _abandon(self, failure: RecordingError) -> None:
        """Say in the recording why it ends, if that can still be written."""
        self._count(self._writer)
        with contextlib.suppress(RecordingError):
            self._writer.update_meta(**self._last_meta(), end_reason=failure.message)
        self._writer.close()

    def _count(self, writer: RecordingWriter) -> None:
        for table, count in writer.rows.items():
            self._rows[table] += count

    def _last_meta(self) -> dict[str, Any]:
        lost = self._tracer.losses()
        since = {cause: lost[cause] - self._lost_before[cause] for cause in lost}
        self._lost_before = lost
        return {
            "ended": now(),
            "lost": since,
            "symbols": symbols_of(self._pump.addresses),
            "cgroups": {str(number): path for number, path in self._processes.cgroups.items()},
        }


# ---- who and what was asked for ------------------------------------------------------


def resolve_scope(
    wanted: Wanted, filters: WantedFilters, facts: KernelFacts, host: HostFacts
) -> Scope:
    """The scope that BPF gets; raises UsageError and TargetError for what is not there."""
    chosen = _resolve_filters(filters, facts, host)
    if wanted.pids:
        return Scope("pids", tgids=tuple(_tgid(pid) for pid in wanted.pids), filters=chosen)
    if wanted.command:
        return Scope("pids", filters=chosen)
    if wanted.uid is not None:
        return Scope("user", uid=wanted.uid, filters=chosen)
    if wanted.cgroup:
        try:
            number, _ = cgroup_id(wanted.cgroup)
        except FileNotFoundError:
            raise TargetError(
                f"there is no cgroup '{wanted.cgroup}' (v2)",
                "give a directory below /sys/fs/cgroup, or its path below that",
            ) from None
        return Scope("cgroup", cgroup_id=number, filters=chosen)
    return Scope("all", filters=chosen)


def _tgid(pid: int) -> int:
    """The thread group of a process or thread."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        raise TargetError(
            f"there is no process {pid}", "ps -e lists those that are there"
        ) from None
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("Tgid:")))


def _resolve_filters(filters: WantedFilters, facts: KernelFacts, host: HostFacts) -> Filters:
    numbers = {name: number for number, name in facts.migrate_reasons.items()}
    for name in filters.reasons:
        if name not in numbers:
            raise UsageError(
                f"this kernel knows no reason '{name}'", "it has: " + ", ".join(sorted(numbers))
            )
    there = {node.nid for node in host.nodes}
    for nid in (*filters.source_nids, *filters.target_nids):
        if nid not in there:
            raise UsageError(
                f"this host has no node {nid}", "it has: " + ", ".join(map(str, sorted(there)))
            )
    return Filters(
        reasons=tuple(numbers[name] for name in filters.reasons),
        source_nids=filters.source_nids,
        target_nids=filters.target_nids,
        min_ns=filters.min_ns,
        failed=filters.failed,
    )


def _scope_meta(wanted: Wanted, scope: Scope) -> dict[str, Any]:
    kind = "command" if wanted.command else scope.kind
    return {
        "kind": kind,
        "pids": list(scope.tgids),
        "uid": wanted.uid,
        "cgroup": wanted.cgroup,
        "command": list(wanted.command),
        "as": wanted.user.name if wanted.user else "",
    }


def _filters_meta(filters: WantedFilters) -> dict[str, Any]:
    return {
        "reasons": list(filters.reasons),
        "from": list(filters.source_nids),
        "to": list(filters.target_nids),
        "min_ns": filters.min_ns,
        "failed": filters.failed,
    }
