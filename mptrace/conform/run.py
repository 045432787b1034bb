# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs scenarios on this kernel, under one tracer, and says whether each went as documented.

The result of a run is a JSON-able dict, which ``reporting.text.conform`` renders.  A recording
never has the names of scenarios, so that what mptrace says of it later rests on the events.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mptrace import __version__
from mptrace.conform.scenario_client import LastingClient
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
    statuses_in_words,
)
from mptrace.conform.watch import Watch, begin_watch
from mptrace.driver import PAGE_SIZE
from mptrace.errors import HostError, OutputError, Progress
from mptrace.host.access import allowed_nodes
from mptrace.host.facts import HostFacts
from mptrace.host.names import Names
from mptrace.host.read import read_host_facts
from mptrace.host.signals import undisturbed
from mptrace.recording.directory import check_new
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
    judged: Callable[[int, Numbers], None] = lambda *_: None,
    journal: Journal | None = None,
) -> Numbers:
    """Run the scenarios; everything that they changed is restored when this returns.

    ``began`` is called with what is known before the first scenario, ``judged``
    after each with its number (from 1) and result; all results are in
    ``"scenarios"`` of what is returned.  Raises HostError where this host has one
    node or nobody's privileges, or the journal of a run that died is there, and
    RecordingError.  On KeyboardInterrupt the rest is left out (``"interrupted"``).
    """
    journal = journal or Journal()
    if os.geteuid() != 0:
        raise HostError(
            "scenarios need root: they change users, mount file systems and move others' pages",
            "run it with sudo, or in a guest: mptrace lab -- mptrace conform",
        )
    host = read_host_facts()
    nodes = _ordered(host, allowed_nodes(Path("/")))
    if len(nodes) < 2:
        raise HostError(
            f"this host has memory on one node only ({', '.join(map(str, nodes))}); "
            "a move needs two",
            "mptrace lab -- mptrace conform   runs it in a guest with several nodes",
        )
    if request.output is not None:
        check_new(request.output, force=request.force)
    with contextlib.ExitStack() as stack:
        lock = journal.claim()
        stack.callback(os.close, lock)
        _check_outstanding(journal)
        # forked for each scenario: before bcc is in anybody's memory
        client = LastingClient(journal, lock)
        stack.callback(client.close)
        watch, reason = None, "not asked for (--no-trace)"
        if request.trace:
            watch, reason = begin_watch(request.output, request.force, host, nodes, progress, stack)
        return _Run(request, host, nodes, client, watch, reason, journal).run(
            progress, began, judged
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
            "a run that died left changes on this host: "
            + "; ".join(words for _, words in outstanding),
            "mptrace conform --restore   undoes it",
        )


# ---- the run ----------------------------------------------------------------------


class _Run:
    """The scenarios of one run, one after the other."""

    def __init__(
        self,
        request: ConformRequest,
        host: HostFacts,
        nodes: tuple[int, ...],
        client: LastingClient,
        watch: Watch | None,
        not_traced: str,
        journal: Journal,
    ) -> None:
        self._request = request
        self._host = host
        self._nodes = nodes
        self._client = client
        self._watch = watch
        self._not_traced = not_traced
        self._journal = journal
        self._known = _Known()

    def run(
        self,
        progress: Progress,
        began: Callable[[Numbers], None],
        judged: Callable[[int, Numbers], None],
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
                judged(number, results[-1])
        except KeyboardInterrupt:
            numbers["interrupted"] = True
            progress("interrupted: restoring what was changed")
        except BaseException as error:
            with undisturbed():
                self._restored()
                # what could not be printed is in the recording all the same
                if isinstance(error, OutputError) and self._watch is not None:
                    self._watch.finish(interrupted=True)
            raise
        with undisturbed():
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
            done = self._client.run(
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
