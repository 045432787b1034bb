# SPDX-License-Identifier: GPL-2.0-or-later
"""What `mptrace stat` attaches to on some kernel, and the macros of `bpf/stat.c`.

Sources of the rows: BTF, kallsyms and the tracepoints' formats of Debian's 6.1
and 6.12; the source of mm/migrate.c.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mptrace.host.facts import KernelFacts
from mptrace.tracing.counting.counts import KEY, LOST_CAUSES, ROW
from mptrace.tracing.plan.candidate import FOLLOWING, Candidate
from mptrace.tracing.plan.macros import add_groups
from mptrace.tracing.plan.members import INITIATORS
from mptrace.tracing.plan.plan import PhasePlan, plan_phases

CANDIDATES: tuple[Candidate, ...] = (
    # since 5.17 or so, at the top of migrate_pages(); before that the function itself
    Candidate("begin", "migrate:mm_migrate_pages_start", "migration", enter="begin"),
    Candidate(
        "begin",
        "migrate_pages",
        "migration",
        enter="begin",
        min_parameters=6,
        defines=(("BEGIN_REASON", 5),),
        methods=("kprobe", "fentry"),
    ),
    # at the bottom of migrate_pages(), with what /proc/vmstat is given, too
    Candidate("end", "migrate:mm_migrate_pages", "migration", enter="end"),
    # kretprobes last: they run out where many threads wait at once
    Candidate("wait", "migration_entry_wait", "wait", "enter_wait", "exit_wait"),
    Candidate("wait_pmd", "pmd_migration_entry_wait", "wait", "enter_wait", "exit_wait"),
    Candidate("wait_huge", "migration_entry_wait_huge", "wait", "enter_wait", "exit_wait"),
    *FOLLOWING,
)
#: Without it nothing can be counted.
ESSENTIAL = "end"
WAIT_PHASES = ("wait", "wait_pmd", "wait_huge")
# What a thread waits for in each.
_WAITED_FOR = {"wait": "base pages", "wait_pmd": "THPs", "wait_huge": "hugetlb folios"}

# Phase -> macro -> name of the tracepoint's argument.
_ARGUMENTS = {
    "begin": {"BEGIN_REASON": "reason"},
    "end": {"END_REASON": "reason", "END_SUCCEEDED": "succeeded", "END_FAILED": "failed"},
}
_TASK = {
    "OFF_TASK_COMM": "task_struct.comm",
    "OFF_TASK_GROUP_LEADER": "task_struct.group_leader",
    "OFF_TASK_FLAGS": "task_struct.flags",
}
# Groups of `INITIATORS` by which a scope is decided.
_GROUPS = ("fork", "user", "cgroup")
# Bytes of a hash's element beside its key and value, generously.
_ELEMENT_BYTES = 80
_THREAD_BYTES = 72


@dataclass(frozen=True)
class StatBounds:
    """How much is kept at once: rows (a reason, a process, its cgroup), threads, chosen processes.

    A row is one of a process in the last seconds: what older ones counted is
    taken away by user space (`tracer`).  ``follows``: what chosen processes
    fork is chosen, too.
    """

    max_rows: int = 4096
    max_threads: int = 4096
    max_chosen: int = 16384
    follows: bool = False


@dataclass(frozen=True)
class StatPlan:
    """Phases in order, the -D macros of `bpf/stat.c` and what bounds its memory."""

    phases: tuple[PhasePlan, ...]
    defines: Mapping[str, int | str]
    bounds: StatBounds
    memory_bound_bytes: int
    #: Kind of a scope, or "fork" -> why this kernel can't decide by it.
    undecided: Mapping[str, str] = field(default_factory=dict)

    def phase(self, name: str) -> PhasePlan:
        """The phase of that name."""
        return next(phase for phase in self.phases if phase.phase == name)

    def unseen(self) -> tuple[str, ...]:
        """What can't be counted here, a sentence each.

        Of waits it has not the reason: that is one for each method that was tried.
        """
        sentences = []
        begin = self.phase("begin")
        if not begin.method:
            sentences.append(f"the time of migrations is unknown: {begin.reason}")
        gone = [name for name in WAIT_PHASES if not self.phase(name).method]
        if gone:
            some = "" if len(gone) == len(WAIT_PHASES) else f" for {_listed(gone)}"
            sentences.append(f"waits{some} can't be seen; 'mptrace doctor' says why")
        if self.bounds.follows and ("fork" in self.undecided or not self.phase("fork").method):
            sentences.append("what the chosen processes fork is not counted: it can't be followed")
        return tuple(sentences)


def make_stat_plan(
    facts: KernelFacts,
    bounds: StatBounds | None = None,
    excluded: Mapping[tuple[str, str, str], str] | None = None,
) -> StatPlan:
    """Choose what to attach to by presence; ``excluded`` as for `plan.make_plan`."""
    bounds = bounds or StatBounds()
    refused = dict(excluded or {})
    while True:
        phases, defines = plan_phases(_candidates(bounds), facts, refused)
        places = {p: _places(p, facts) for p in phases if p.phase in _ARGUMENTS and ":" in p.attach}
        unplaced = [p for p, found in places.items() if found is None]
        if not unplaced:
            break
        for p in unplaced:
            refused[p.phase, p.attach, p.method] = "BTF does not say where its arguments are"
    defines = {**dict.fromkeys(_macros(), 0), **defines}
    for p, found in places.items():
        defines.update(found or {})
        defines[f"{p.phase.upper()}_METHOD"] = p.method.upper()
    if all(name in facts.offsets for name in _TASK.values()):
        defines.update({macro: facts.offsets[name] for macro, name in _TASK.items()})
    undecided = add_groups(facts, defines, _GROUPS)
    defines["MAX_ROWS"] = bounds.max_rows
    defines["MAX_THREADS"] = bounds.max_threads
    defines["MAX_CHOSEN"] = bounds.max_chosen
    return StatPlan(phases, defines, bounds, _memory_bound(bounds), undecided)


def _candidates(bounds: StatBounds) -> tuple[Candidate, ...]:
    """The rows of the table that a session needs: every fork of the host has its price."""
    return tuple(c for c in CANDIDATES if bounds.follows or not c.for_others)


def _listed(waits: Sequence[str]) -> str:
    return " and ".join(_WAITED_FOR[name] for name in waits)


def _macros() -> Sequence[str]:
    return [macro for arguments in _ARGUMENTS.values() for macro in arguments]


def _places(phase: PhasePlan, facts: KernelFacts) -> dict[str, int] | None:
    """Where the handler finds its arguments; None where BTF lacks one.

    A raw tracepoint's program gets the arguments of the tracepoint's
    ``__bpf_trace_NAME`` after the first; a perf tracepoint's the record
    ``struct trace_event_raw_NAME``.
    """
    name = phase.attach.partition(":")[2]
    arguments = _ARGUMENTS[phase.phase]
    if phase.method == "tracepoint":
        fields = {macro: f"trace_event_raw_{name}.{field}" for macro, field in arguments.items()}
        if not all(field in facts.offsets for field in fields.values()):
            return None
        return {macro: facts.offsets[field] for macro, field in fields.items()}
    prototype = facts.functions.get(f"__bpf_trace_{name}")
    if prototype is None or not set(arguments.values()) <= set(prototype.parameters):
        return None
    return {
        macro: prototype.parameters.index(argument) - 1 for macro, argument in arguments.items()
    }


def _memory_bound(bounds: StatBounds) -> int:
    """Bytes that the maps can take at the most."""
    rows = bounds.max_rows * (KEY.itemsize + ROW.itemsize + _ELEMENT_BYTES)
    threads = bounds.max_threads * (4 + _THREAD_BYTES + 4 + 16 + 2 * _ELEMENT_BYTES)
    others = 2 * 16 * ROW.itemsize
    return rows + threads + others + bounds.max_chosen * (5 + _ELEMENT_BYTES) + 8 * len(LOST_CAUSES)


# ---- what must be known of a kernel ---------------------------------------------


def stat_tracepoints() -> tuple[str, ...]:
    """Tracepoints that the table knows."""
    return tuple(c.function for c in CANDIDATES if c.is_tracepoint)


def stat_functions() -> tuple[str, ...]:
    """Kernel functions whose prototypes the plan asks for."""
    stubs = [f"__bpf_trace_{c.function.partition(':')[2]}" for c in _with_arguments()]
    return (*(c.function for c in CANDIDATES if not c.is_tracepoint), *stubs)


def stat_offsets() -> tuple[str, ...]:
    """Struct members whose offsets the plan asks for."""
    records = [
        f"trace_event_raw_{c.function.partition(':')[2]}.{field}"
        for c in _with_arguments()
        for field in _ARGUMENTS[c.phase].values()
    ]
    groups = [member for name in _GROUPS for member in INITIATORS[name].values()]
    return tuple(dict.fromkeys([*_TASK.values(), *records, *groups]))


def _with_arguments() -> list[Candidate]:
    return [c for c in CANDIDATES if c.is_tracepoint and c.phase in _ARGUMENTS]
