# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs scenarios on this kernel, under one tracer, and says whether each went as documented.

What a run tells is a JSON-able dict (``rendering.conform`` renders it); names of
scenarios never reach a recording, so that what is said of one later says it
from the events.
"""

import contextlib
import dataclasses
import os
import signal
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mptrace import __version__
from mptrace.conform.scenario_client import Performance, Theatre
from mptrace.conform.scenarios.base import Expectation, Scenario
from mptrace.conform.stage.journal import Journal
from mptrace.conform.verdicts import (
    ERROR,
    SKIPPED,
    VERDICTS,
    SeenEntry,
    Verdict,
    events_in_words,
    judge,
    return_name,
    seen_entries,
    statuses_in_words,
)
from mptrace.driver import PAGE_SIZE, SENTINEL
from mptrace.driving.worker_client import Worker
from mptrace.errors import HostError, OutputError, Progress
from mptrace.host.access import allowed_nodes
from mptrace.host.facts import HostFacts
from mptrace.host.names import Names
from mptrace.host.privileges import check_privileges
from mptrace.host.read import read_host_facts
from mptrace.outcomes.correlate import correlate
from mptrace.recording.clock import now
from mptrace.recording.directory import check_new
from mptrace.recording.layouts import DRIVER_CALL, LOCATION
from mptrace.recording.writer import RecordingWriter
from mptrace.sessions import mappers
from mptrace.sessions.assembler import Assembler, Tables, joined
from mptrace.sessions.calibrated import calibrated, read_facts
from mptrace.sessions.meta import first_meta, symbols_of
from mptrace.tracer import Tracer
from mptrace.tracing.plan.request import Request
from mptrace.units import many

SCHEMA_VERSION = 1

Numbers = dict[str, Any]


@dataclass(frozen=True)
class ConformRequest:
    """What `mptrace conform` was asked for; ``output`` None keeps no recording."""

    scenarios: tuple[Scenario, ...]
    disruptive: bool = False
    trace: bool = True
    output: Path | None = None
    force: bool = False


def run(
    request: ConformRequest,
    progress: Progress,
    began: Callable[[Numbers], None] = lambda _: None,
    performed: Callable[[int, Numbers], None] = lambda *_: None,
    journal: Journal | None = None,
) -> Numbers:
    """Run the scenarios; everything that they changed is restored when this returns.

    ``began`` is called with what is known before the first scenario, ``performed``
    after each with its number (from 1) and result; all results are in
    ``"scenarios"`` of what is returned.  Raises HostError where this host has one
    node or nobody's privileges, or the journal of a run that died is there, and
    RecordingError.  On KeyboardInterrupt the rest is left out (``"interrupted"``).
    """
    journal = journal or Journal()
    if os.geteuid() != 0:
        raise HostError(
            "scenarios need root: they change users, mount, and move other processes' pages",
            "run it with sudo, or in a guest: mptrace lab -- mptrace conform",
        )
    host = read_host_facts()
    nodes = _ordered(host, allowed_nodes(Path("/")))
    if len(nodes) < 2:
        raise HostError(
            f"there is memory on one node only ({', '.join(map(str, nodes))}): "
            "nothing to move between",
            "mptrace lab -- mptrace conform   runs it in a guest with several nodes",
        )
    if request.output is not None:
        check_new(request.output, force=request.force)
    with contextlib.ExitStack() as stack:
        lock = journal.claim()
        stack.callback(os.close, lock)
        _check_outstanding(journal)
        # forked for each scenario: before bcc is in anybody's memory
        house = _House(journal, lock)
        stack.callback(house.close)
        watch, reason = _watch(request, host, nodes, progress, stack)
        return _Run(request, host, nodes, house, watch, reason, journal).run(
            progress, began, performed
        )


def _ordered(host: HostFacts, allowed: Collection[int]) -> tuple[int, ...]:
    """Nodes with memory that this process may use, the one with the most free memory last.

    The last is the target of most scenarios: a small node may have no huge page to give.
    The first node, whose pages are moved, stays the first.
    """
    usable = [node for node in host.nodes if node.memory_bytes and node.nid in allowed]
    return tuple(
        node.nid for node in usable[:1] + sorted(usable[1:], key=lambda node: node.free_bytes)
    )


def restore(journal: Journal | None = None) -> list[str]:
    """Undo what a run that was killed had changed; what was undone, in words.

    Raises HostError where another run is alive, or something can't be undone.
    """
    journal = journal or Journal()
    if os.geteuid() != 0:
        raise HostError("restoring what scenarios changed needs root", "run it with sudo")
    lock = journal.claim()
    try:
        return journal.restore()
    finally:
        os.close(lock)


def _check_outstanding(journal: Journal) -> None:
    if outstanding := journal.outstanding():
        raise HostError(
            "a run that died left this host changed: "
            + "; ".join(words for _, words in outstanding),
            "mptrace conform --restore   undoes it",
        )


# ---- where scenarios run ----------------------------------------------------------


class _House:
    """The process that runs scenarios, replaced where it dies (or a scenario can't be killed)."""

    def __init__(self, journal: Journal, lock: int) -> None:
        self._journal = journal
        self._lock = lock
        self._theatre = Theatre(journal, keep=(lock,))

    def perform(
        self,
        name: str,
        nodes: tuple[int, ...],
        ready: Callable[[int], None],
        made: Callable[[], None],
    ) -> Performance:
        """As `Theatre.perform`; the server's death is an error of the scenario."""
        try:
            return self._theatre.perform(name, nodes, ready=ready, made=made)
        except HostError as error:
            self._theatre.close()
            self._theatre = Theatre(self._journal, keep=(self._lock,))
            return Performance(None, error=error.message)

    def close(self) -> None:
        """End the server."""
        self._theatre.close()


# ---- what the events show ---------------------------------------------------------


def _watch(
    request: ConformRequest,
    host: HostFacts,
    nodes: tuple[int, ...],
    progress: Progress,
    stack: contextlib.ExitStack,
) -> "tuple[_Watch | None, str]":
    """What sees the kernel's events, or None and why they can't be seen."""
    if not request.trace:
        return None, "not asked for (--no-trace)"
    try:
        check_privileges()
        facts = read_facts()
        with Worker() as worker:
            tracer, coverage = calibrated(facts, Request(), worker, nodes, progress)
    except HostError as error:
        if request.output is not None:
            raise
        return None, error.message
    stack.callback(tracer.close)
    meta = first_meta(host, facts, tracer, coverage) | {"command": ["conform"]}
    writer = None
    if request.output is not None:
        writer = stack.enter_context(
            RecordingWriter(request.output, force=request.force, meta=meta)
        )
    return _Watch(tracer, meta, writer), ""


class _Watch:
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
        found = correlate(tables, {**self.meta, "lost": self._losses()})
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


# ---- the run ----------------------------------------------------------------------


class _Run:
    """The scenarios of one run, one after the other."""

    def __init__(
        self,
        request: ConformRequest,
        host: HostFacts,
        nodes: tuple[int, ...],
        house: _House,
        watch: _Watch | None,
        not_traced: str,
        journal: Journal,
    ) -> None:
        self._request = request
        self._host = host
        self._nodes = nodes
        self._house = house
        self._watch = watch
        self._not_traced = not_traced
        self._journal = journal
        self._known = _Known()

    def run(
        self,
        progress: Progress,
        began: Callable[[Numbers], None],
        performed: Callable[[int, Numbers], None],
    ) -> Numbers:
        scenarios = self._request.scenarios
        numbers = self._head()
        results: list[Numbers] = []
        numbers |= {"scenarios": results, "interrupted": False, "not_restored": "", "lost": {}}
        try:
            began(numbers)
            for number, scenario in enumerate(scenarios, 1):
                progress(f"{number} of {len(scenarios)}: {scenario.name}")
                results.append(self._one(scenario))
                performed(number, results[-1])
        except KeyboardInterrupt:
            numbers["interrupted"] = True
            progress("interrupted: restoring what was changed")
        except BaseException as error:
            with _undisturbed():
                self._restored()
                # what could not be printed is in the recording all the same
                if isinstance(error, OutputError) and self._watch is not None:
                    self._watch.finish(interrupted=True)
            raise
        with _undisturbed():
            numbers["not_restored"] = self._restored()
            if self._watch is not None:
                numbers["lost"] = self._watch.finish(numbers["interrupted"])
        numbers["counts"] = {
            kind: sum(result["verdict"] == kind for result in results) for kind in VERDICTS
        }
        return numbers

    def _head(self) -> Numbers:
        uname = os.uname()
        return {
            "schema_version": SCHEMA_VERSION,
            "tool_version": __version__,
            "kernel": {
                "release": uname.release,
                "machine": uname.machine,
                "page_size": PAGE_SIZE,
            },
            "nodes": [
                {"nid": node.nid, "memory_bytes": node.memory_bytes}
                for node in self._host.nodes
                if node.nid in self._nodes
            ],
            "hypervisor": self._host.hypervisor,
            "emulated": self._host.emulated,
            "traced": self._watch is not None,
            "not_traced": self._not_traced,
            "coverage": [] if self._watch is None else self._watch.meta["coverage"],
            "recording": None if self._request.output is None else str(self._request.output),
            "planned": len(self._request.scenarios),
        }

    def _restored(self) -> str:
        """Undo what is left; "" or what can't be undone."""
        try:
            self._journal.restore()
        except HostError as error:
            return f"{error.message} ({error.hint})"
        return ""

    def _one(self, scenario: Scenario) -> Numbers:
        if skip := self._cant(scenario):
            return _result(scenario, Verdict(SKIPPED), reason=skip)
        watch = self._watch
        try:
            done = self._house.perform(
                scenario.name,
                self._nodes,
                watch.opener(scenario.everyone) if watch else lambda _: None,
                watch.stop if watch else lambda: None,
            )
        finally:
            if watch is not None:
                watch.tracer.close_gate()
        seen, call_id = watch.take(done.made) if watch else (None, None)
        reason = done.error
        if self._journal.outstanding() and (left := self._restored()):
            reason = "\n".join(filter(None, (reason, left)))
        if done.skip and not reason:
            return _result(scenario, Verdict(SKIPPED), reason=done.skip)
        expected = None
        verdict = Verdict(ERROR)
        try:
            if done.made is None:
                reason = reason or "it made no call"
            else:
                expected = scenario.expect(self._known.now())
                judged = judge(expected, done.made, seen, traced=watch is not None)
                verdict = verdict if reason else judged
        except Exception as error:  # a scenario's own: it must not end the run
            reason = f"its expectation failed: {error!r}"
        return _result(scenario, verdict, reason, done.made, expected, seen, call_id)

    def _cant(self, scenario: Scenario) -> str:
        """Why this host must not or can't run a scenario, "" where it may."""
        if scenario.changes and not (self._host.hypervisor or self._request.disruptive):
            return f"changes {scenario.changes}: needs a virtual machine or --disruptive"
        if len(self._nodes) < scenario.nodes:
            return f"needs {many(scenario.nodes, 'node')} with memory, has {len(self._nodes)}"
        return ""


def _result(
    scenario: Scenario,
    verdict: Verdict,
    reason: str = "",
    made: dict[str, Any] | None = None,
    expected: Expectation | None = None,
    seen: list[SeenEntry] | None = None,
    call_id: int | None = None,
) -> Numbers:
    """Everything about one scenario, as plain values."""
    observed = None
    if made is not None:
        observed = {
            "returned": return_name(made["ret"], made["errno"]),
            "statuses": statuses_in_words(made["statuses"]),
        }
    return {
        **described(scenario),
        "verdict": verdict.kind,
        "reason": reason,
        "why": expected.why if expected else "",
        "differences": list(verdict.differences),
        "expected": dataclasses.asdict(expected) if expected else None,
        "call": made,
        "call_id": call_id,
        "observed": observed,
        "events": [
            {"count": count, "words": words, "cause": cause}
            for count, words, cause in events_in_words(seen or ())
        ],
        "rows": [{"entry": number, **entry.to_dict()} for number, entry in enumerate(seen or ())],
    }


def described(scenario: Scenario) -> Numbers:
    """What is known of a scenario without running it, as plain values."""
    names = ("name", "subject", "title", "documented", "function", "cause", "source", "changes")
    return {name: getattr(scenario, name) for name in names}


class _Known:
    """Names of the running kernel, read again where a scenario loaded a module."""

    def __init__(self) -> None:
        self._modules: frozenset[str] = frozenset()
        self._names = Names()

    def now(self) -> Names:
        """Names as they are now."""
        try:
            lines = Path("/proc/modules").read_text().splitlines()
        except OSError:
            lines = []
        if (modules := frozenset(line.split()[0] for line in lines)) != self._modules:
            self._modules, self._names = modules, Names()
        return self._names


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """No signal of the terminal ends what is being restored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
