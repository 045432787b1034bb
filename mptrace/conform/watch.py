# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel's events show, scenario by scenario, and the recording of all of them."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mptrace.conform.verdicts import SeenEntry, seen_entries
from mptrace.driver import SENTINEL
from mptrace.driving.worker_client import Worker
from mptrace.errors import HostError, Progress
from mptrace.host.facts import HostFacts
from mptrace.host.privileges import check_privileges
from mptrace.outcomes.correlate import correlate
from mptrace.recording.clock import now
from mptrace.recording.driver_layouts import DRIVER_CALL, LOCATION
from mptrace.recording.meta import Meta
from mptrace.recording.writer import RecordingWriter
from mptrace.sessions import mappers
from mptrace.sessions.assembler import Assembler, Tables, joined
from mptrace.sessions.calibrated import calibrated, read_facts
from mptrace.sessions.meta import first_meta, symbols_of
from mptrace.tracer import Tracer
from mptrace.tracing.plan.request import Request


def begin_watch(
    output: Path | None,
    force: bool,
    host: HostFacts,
    nodes: tuple[int, ...],
    progress: Progress,
    stack: contextlib.ExitStack,
) -> "tuple[Watch | None, str]":
    """What sees the kernel's events, or None and why they can't be seen; ``stack`` ends it.

    ``output`` is where the recording of all calls goes, None for none.  Raises HostError
    where it is asked for and the events can't be seen.
    """
    try:
        check_privileges()
        facts = read_facts()
        with Worker() as worker:
            tracer, coverage = calibrated(facts, Request(), worker, nodes, progress)
    except HostError as error:
        if output is not None:
            raise
        return None, error.message
    stack.callback(tracer.close)
    meta = first_meta(host, facts, tracer, coverage) | {"command": ["conform"]}
    writer = None
    if output is not None:
        writer = stack.enter_context(RecordingWriter(output, force=force, meta=meta))
    return Watch(tracer, meta, writer), ""


class Watch:
    """The events of one scenario at a time, and the recording of all of them."""

    def __init__(
        self, tracer: Tracer, meta: dict[str, Any], writer: RecordingWriter | None
    ) -> None:
        self.tracer = tracer
        self.meta = meta
        self._writer = writer
        self._calls = 0
        self._addresses: set[int] = set()
        self._lost_first = self._lost_before = tracer.losses()
        self._assembler = Assembler()
        self._parts: list[Tables] = []

    def opener(self, everyone: bool) -> Callable[[int], None]:
        """Opens the gate for a process, or for all."""

        def ready(tgid: int) -> None:
            self.tracer.drain()
            self._assembler, self._parts = Assembler(), []
            self.tracer.open_gate(0 if everyone else tgid)

        return ready

    def stop(self) -> None:
        """The call has returned: see who maps what it was refused, while they are there."""
        self.tracer.close_gate()
        drained = self.tracer.drain()
        self._parts += [
            self._assembler.add(drained),
            {"mappers": mappers.find(drained.obstacles)},
        ]

    def take(self, made: dict[str, Any] | None) -> tuple[list[SeenEntry] | None, int | None]:
        """What the events say of each entry of the judged call, and its call_id.

        None for both where the events show no such call.
        """
        self.tracer.close_gate()
        self._parts += [
            self._assembler.add(self.tracer.drain()),
            self._assembler.rest(self.tracer),
        ]
        tables = joined(self._parts)
        if made is not None:
            tables["driver_calls"] = _driver_call(self._calls, made)
            tables["locations"] = _locations(self._calls, made)
            self._calls += 1
        if self._writer is not None:
            for name, rows in tables.items():
                self._writer.append(name, rows)
        self._name()
        if made is None:
            return None, None
        found = correlate(tables, Meta.of({**self.meta, "lost": self._losses()}))
        calls = tables["calls"]
        own = calls["tid"] == made["tid"]
        own &= (calls["enter_ns"] >= made["before_ns"]) & (calls["exit_ns"] <= made["after_ns"])
        if own.sum() != 1:
            return None, None
        call_id = calls["call_id"][own][0]
        ordinal = np.flatnonzero(found.call_ids == call_id)
        rows = found.rows[np.isin(found.rows["call"], ordinal)]
        # a call that lies about its length has no more entries than its arrays
        rows = rows[rows["entry"] < len(made["addresses"])]
        return seen_entries(rows, tables), int(call_id)

    def finish(self, interrupted: bool) -> dict[str, int]:
        """Close the recording; what was lost in the whole run."""
        last = self.tracer.losses()
        lost = {cause: last[cause] - self._lost_first[cause] for cause in last}
        if self._writer is not None:
            self._writer.finish(
                {
                    "interrupted": interrupted,
                    "ended": now(),
                    "lost": lost,
                    "symbols": self.meta["symbols"],
                    "cost_reason": "single calls are not timed again without tracing",
                }
            )
        return lost

    def _name(self) -> None:
        """Look up the names of kernel functions that the evidence has addresses of."""
        found = self._assembler.addresses - self._addresses
        if found:
            self._addresses |= found
            self.meta["symbols"] = {**self.meta["symbols"], **symbols_of(found)}

    def _losses(self) -> dict[str, int]:
        before, self._lost_before = self._lost_before, self.tracer.losses()
        return {cause: self._lost_before[cause] - before[cause] for cause in before}


def _driver_call(number: int, made: dict[str, Any]) -> NDArray[np.void]:
    rows = np.zeros(1, DRIVER_CALL)
    rows["driver_call"], rows["sentinel"] = number, SENTINEL
    rows["errno_"], rows["entries"] = made["errno"], made["count"] & 0xFFFFFFFF
    for name in ("tid", "before_ns", "after_ns", "ret", "pid"):
        rows[name] = made[name]
    return rows


def _locations(number: int, made: dict[str, Any]) -> NDArray[np.void]:
    """Where the pages were before and after; no rows where the process couldn't be asked."""
    if not made["before"] or not made["after"]:
        return np.empty(0, LOCATION)
    rows = np.zeros(len(made["addresses"]), LOCATION)
    rows["driver_call"] = number
    rows["entry"] = np.arange(rows.size)
    rows["address"] = np.array(made["addresses"], np.uint64)
    rows["before_nid"], rows["final_nid"] = made["before"], made["after"]
    return rows
