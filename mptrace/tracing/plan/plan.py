# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes a probe plan from facts of a kernel: which function stands for each phase.

Presence is not coverage: the session proves each phase by exact counts in a
calibration and asks for another plan with the candidates that failed excluded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mptrace.host.facts import REGISTER_ARGUMENTS, STACK_ARGUMENTS, KernelFacts
from mptrace.recording.detail import LEVEL_OUTCOMES
from mptrace.tracing.plan.balancing import BALANCING_PHASES
from mptrace.tracing.plan.candidate import Candidate
from mptrace.tracing.plan.candidates import CANDIDATES, PHASES_FOR_OTHERS
from mptrace.tracing.plan.detail import essential, is_traced, unseen
from mptrace.tracing.plan.macros import (
    add_bounds,
    add_initiator_macros,
    add_stack_macros,
    add_struct_macros,
    memory_bound,
)
from mptrace.tracing.plan.request import Request


@dataclass(frozen=True)
class PhasePlan:
    """How one phase will be seen, or why it can't be.

    ``attach`` is the kernel function or tracepoint, ``method`` how it is
    attached to; both "" where the phase is missing, with the ``reason``.
    """

    phase: str
    unit: str
    attach: str = ""
    method: str = ""
    reason: str = ""
    enter: str = ""
    exit: str = ""


@dataclass(frozen=True)
class Plan:
    """Phases in order, the -D macros of the program and what bounds its memory."""

    phases: tuple[PhasePlan, ...]
    defines: Mapping[str, int | str]
    request: Request
    memory_bound_bytes: int
    notes: tuple[str, ...] = field(default=())

    def missing_essentials(self) -> tuple[PhasePlan, ...]:
        """Essential phases that this kernel offers no attach point for."""
        needed = essential(self.request.detail)
        return tuple(p for p in self.phases if p.phase in needed and not p.method)


def make_plan(
    facts: KernelFacts,
    request: Request | None = None,
    excluded: Mapping[tuple[str, str, str], str] | None = None,
) -> Plan:
    """Choose a candidate for each phase by presence.

    ``excluded`` holds (phase, function, method) that the kernel refused or a
    calibration refuted, with the reason.
    """
    request = request or Request()
    excluded = excluded or {}
    phases, macros = plan_phases(CANDIDATES, facts, excluded)
    phases = tuple(p for p in phases if is_planned(p.phase, request))
    phases = _without_idle_probes(phases)
    defines: dict[str, int | str] = {**_DEFAULT_MACROS, **macros}
    notes = add_struct_macros(facts, defines, evidence=request.evidence)
    add_bounds(request, facts.page_size, defines)
    notes += add_initiator_macros(facts, defines)
    if any(p.method for p in phases if p.phase in BALANCING_PHASES):
        defines["BALANCING"] = 1
    if request.detail == LEVEL_OUTCOMES:
        defines["OUTCOMES"] = 1
    notes += unseen(request.detail, others=request.others)
    if request.stacks:
        notes += add_stack_macros(facts, defines)
    return Plan(phases, defines, request, memory_bound(request, facts.page_size), notes)


def is_planned(phase: str, request: Request) -> bool:
    """Whether a session that wants this traces a phase at all."""
    needed = phase in essential(request.detail)
    wanted = request.others or needed or phase not in PHASES_FOR_OTHERS
    return wanted and is_traced(request.detail, phase)


def _without_idle_probes(phases: tuple[PhasePlan, ...]) -> tuple[PhasePlan, ...]:
    """None of a phase that means nothing without another one, where that is missing."""
    there = {phase.phase for phase in phases if phase.method}
    idle = {
        one: other
        for one, other in (
            ("io_sleep", "wake"),
            ("wake", "io_sleep"),
            # without its end a hint fault is counted all the same
            ("hint_fault_end", "hint_fault"),
        )
        if other not in there
    }
    return tuple(
        PhasePlan(p.phase, p.unit, reason=f"useless without {idle[p.phase]}")
        if p.method and p.phase in idle
        else p
        for p in phases
    )


# Handlers that are not attached must compile all the same.
_DEFAULT_MACROS: dict[str, int | str] = {
    "LOOKUP_ADDRESS": 1,
    "LOOKUP_VMA": 0,
    "MOVE_SRC": 1,
    "MOVE_DST": 0,
    "WAIT_LOCKED_SEEN": 0,
    "HINT_FAULT_TIMED": 0,
}


def plan_phases(
    table: Sequence[Candidate],
    facts: KernelFacts,
    excluded: Mapping[tuple[str, str, str], str],
) -> tuple[tuple[PhasePlan, ...], dict[str, int | str]]:
    """The first candidate of each phase of ``table`` that this kernel offers.

    Returns the phases in the table's order and the macros of their handlers,
    of those that stay missing too.  ``excluded`` as for `make_plan`.
    """
    names = tuple(dict.fromkeys(candidate.phase for candidate in table))
    defines: dict[str, int | str] = {
        **{c.nargs: c.min_parameters for c in table if c.nargs},
        **{_exit_nargs(c): c.min_parameters for c in table if c.nargs},
        **{f"{name.upper()}_METHOD": "FENTRY" for name in names},
        **{f"{name.upper()}_EXIT_METHOD": "FENTRY" for name in names},
    }
    phases = tuple(
        _plan_phase([c for c in table if c.phase == name], facts, excluded, defines)
        for name in names
    )
    return phases, defines


def _plan_phase(
    candidates: Sequence[Candidate],
    facts: KernelFacts,
    excluded: Mapping[tuple[str, str, str], str],
    defines: dict[str, int | str],
) -> PhasePlan:
    phase = candidates[0].phase
    reasons = []
    for candidate in candidates:
        methods, reason = _methods(candidate, facts)
        for method in methods:
            refused = excluded.get((phase, candidate.function, method))
            if refused is not None:
                reasons.append(f"{candidate.function} by {method}: {refused}")
                continue
            _add_candidate_macros(candidate, method, facts, defines)
            return PhasePlan(
                phase,
                candidate.unit,
                candidate.function,
                method,
                enter=(method == "kprobe" and candidate.kprobe_enter) or candidate.enter,
                exit=candidate.exit,
            )
        if not methods:
            reasons.append(f"{candidate.function}: {reason}")
    return PhasePlan(phase, candidates[0].unit, reason="; ".join(dict.fromkeys(reasons)))


def _add_candidate_macros(
    candidate: Candidate, method: str, facts: KernelFacts, defines: dict[str, int | str]
) -> None:
    enter, _, leave = method.partition("+")
    defines[f"{candidate.phase.upper()}_METHOD"] = enter.upper()
    defines[f"{candidate.phase.upper()}_EXIT_METHOD"] = "FENTRY" if leave else enter.upper()
    defines.update(candidate.defines)
    prototype = facts.functions.get(candidate.function)
    if prototype is None:
        return
    if candidate.nargs:
        defines[candidate.nargs] = len(prototype.parameters)
        defines[_exit_nargs(candidate)] = len(prototype.parameters)
    if candidate.bool_macro and prototype.returns == "bool":
        defines[candidate.bool_macro] = 1


def _exit_nargs(candidate: Candidate) -> str:
    return candidate.nargs.replace("_NARGS", "_EXIT_NARGS")


_TRACEPOINT_METHODS = ["raw_tracepoint", "tracepoint"]


def _methods(candidate: Candidate, facts: KernelFacts) -> tuple[tuple[str, ...], str]:
    """Methods that can be tried for a candidate, or none and the reason."""
    for need in candidate.needs:
        wanted = not need.startswith("!")
        if (need.partition(":")[2] in facts.offsets) != wanted:
            return (), f"needs {need}"
    if candidate.is_tracepoint:
        if candidate.function not in facts.tracepoints:
            return (), "no such tracepoint"
        ways = [m for m in _TRACEPOINT_METHODS if m in candidate.methods] or _TRACEPOINT_METHODS
        usable = [m for m in ways if not facts.methods.get(m, "")]
        return tuple(usable), "" if usable else "the kernel refuses tracepoint programs"
    prototype = facts.functions.get(candidate.function)
    if prototype is None and candidate.function not in facts.symbols:
        return (), "not in this kernel"
    if prototype is not None and len(prototype.parameters) < candidate.min_parameters:
        return (), f"has {len(prototype.parameters)} parameters, not {candidate.min_parameters}"
    possible = {
        "fentry": prototype is not None
        and prototype.definitions == 1
        and not prototype.struct_by_value,
        # without a prototype the type of the return value is not known
        "kprobe": candidate.function in facts.symbols
        and (prototype is not None or not candidate.bool_macro),
    }
    # arguments on the stack: a trampoline has them since 6.6 or so, which was tried
    if prototype is not None and len(prototype.parameters) > REGISTER_ARGUMENTS:
        possible["fentry"] = possible["fentry"] and facts.methods.get(STACK_ARGUMENTS) == ""
    possible["kprobe+fexit"] = possible["fentry"] and possible["kprobe"]
    usable = [method for method in candidate.methods if possible[method]]
    if facts.traceable is not None and candidate.function not in facts.traceable:
        return (), "ftrace can't attach to it"
    refused = [f"{m}: {why}" for m in usable if (why := _refusal(m, facts))]
    usable = [m for m in usable if not _refusal(m, facts)]
    if not usable:
        reason = "no prototype in BTF" if prototype is None else "only as a compiler's clone"
        return (), "; ".join(refused) or reason
    return tuple(usable), ""


def _refusal(method: str, facts: KernelFacts) -> str:
    """Why the kernel refuses a method anywhere, "" where it does not."""
    parts = {"fexit": "fentry"}
    reasons = (facts.methods.get(parts.get(part, part), "") for part in method.split("+"))
    return next((reason for reason in reasons if reason), "")
