# SPDX-License-Identifier: GPL-2.0-or-later
"""The part of `mptrace record` that uses BPF: from opening the gate to the last recording's end."""

import time
from typing import Any

from mptrace.errors import Progress, RecordingError
from mptrace.host import maps_reader, proc
from mptrace.host.processes import Processes
from mptrace.host.signals import Interrupts
from mptrace.recording.clock import now
from mptrace.recording.series import Parts
from mptrace.sessions.command import Command
from mptrace.sessions.meta import symbols_of
from mptrace.sessions.pump import Pump
from mptrace.sessions.request import RecordRequest, RecordResult
from mptrace.sessions.stacks import Stacks
from mptrace.tracer import Tracer
from mptrace.tracing.plan.scope import Scope

#: Seconds between two looks at what may end or rotate the session.
_POLL_SECONDS = 0.1
#: Seconds between two looks at whether a process that was asked for is still there.
_TARGET_SECONDS = 1.0


class BpfSession:
    """One session; `run` is called once."""

    def __init__(
        self,
        request: RecordRequest,
        scope: Scope,
        parts: Parts,
        tracer: Tracer,
        command: Command | None,
        progress: Progress,
    ) -> None:
        self._request = request
        self._scope = scope
        self._parts = parts
        self._tracer = tracer
        self._command = command
        self._progress = progress
        stacks = Stacks(tracer.stack) if tracer.has_stacks else None
        self._pump = Pump(
            tracer, parts.writer, processes=Processes(), maps=maps_reader.reader(), stacks=stacks
        )
        self._lost_first = self._lost_before = tracer.losses()

    def run(self) -> RecordResult:
        """Trace to the end; the command is waited for whatever becomes of the recording."""
        failure: RecordingError | None = None
        self._pump.start()
        with Interrupts() as signals:
            try:
                self._trace(signals)
                self._pump.finish()
                self._parts.finish(self._last_meta())
            except RecordingError as error:
                failure = error
            finally:
                self._tracer.close_gate()
                self._pump.stop()
            if failure is not None:
                self._progress(f"recording has ended: {failure.message}")
                failure = self._parts.abandon(failure, self._last_meta())
            status = self._command_status()
        if failure is not None:
            raise failure
        lost = self._tracer.losses()
        timed = bool(self._request.duration_s) or self._command is not None
        return RecordResult(
            self._parts.paths,
            self._parts.rows,
            {cause: lost[cause] - self._lost_first[cause] for cause in lost},
            status,
            signals.noted and timed,
            self._parts.recorder,
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
                    self._progress("the chosen processes have ended")
                    return
            if self._parts.rotate_if_due(at - part_began, self._pump.swap, self._last_meta):
                part_began = at

    def _is_left_alone(self) -> bool:
        """Whether nobody of the processes asked for, nor what they forked, is there any more."""
        pids = self._request.wanted.pids
        return bool(pids) and not any(map(proc.is_there, self._tracer.followed()))

    def _command_status(self) -> int | None:
        return None if self._command is None else self._command.outlast(self._progress)

    def _last_meta(self) -> dict[str, Any]:
        lost = self._tracer.losses()
        since = {cause: lost[cause] - self._lost_before[cause] for cause in lost}
        self._lost_before = lost
        met = self._pump.met()
        return {
            "ended": now(),
            "lost": since,
            "symbols": symbols_of(met.addresses),
            "cgroups": {str(number): path for number, path in met.cgroups.items()},
        }
