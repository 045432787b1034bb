# SPDX-License-Identifier: GPL-2.0-or-later
"""From facts of a kernel to a probe plan: which function stands for each phase.

Presence is not coverage: the session proves each phase by exact counts in a
calibration and asks for another plan with the candidates that failed excluded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mptrace.host.facts import REGISTER_ARGUMENTS, STACK_ARGUMENTS, KernelFacts
from mptrace.recording.layouts import (
    FOLIO,
    LARGE_CHUNK,
    MAX_ENTRIES,
    MEDIUM_CHUNK,
    OBSTACLE,
    SMALL_CHUNK,
    WAIT,
)
from mptrace.tracing.plan.candidates import (
    CANDIDATES,
    ESSENTIAL,
    EVIDENCE,
    EVIDENCE_OPTIONAL,
    INITIATORS,
    PAGE_IMAGE_BYTES,
    PHASES_FOR_OTHERS,
    WAIT_VARIABLES,
    WALK,
    WALK_OPTIONAL,
    WALK_VARIABLES,
    Candidate,
)
from mptrace.tracing.plan.scope import NODE_WORDS


@dataclass(frozen=True)
class Request:
    """What a session wants of its probes: bounds, in numbers of elements or bytes.

    ``max_folios`` bounds the folios that one call or migration may have
    isolated at once; ``folio_ring_bytes`` is rounded up to a power of two.
    """

    max_folios: int = 1 << 18
    max_obstacles: int = 1 << 16
    #: Read the state of folios that are refused; False only to measure what that costs.
    evidence: bool = True
    #: Trace programs other than mptrace's driver: every path, owners of pages, waits.
    others: bool = False
    #: Processes that can be followed by number, with what they fork.
    max_chosen: int = 1 << 16
    wait_ring_bytes: int = 4 << 20
    #: Threads that wait at once, whatever for: each that sleeps for I/O is looked at.
    max_waiting: int = 1 << 15
    max_threads: int = 4096
    folio_ring_bytes: int = 32 << 20
    obstacle_ring_bytes: int = 8 << 20
    call_ring_bytes: int = 4 << 20
    small_ring_bytes: int = 8 << 20
    medium_ring_bytes: int = 8 << 20
    large_ring_bytes: int = 64 << 20


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
        return tuple(p for p in self.phases if p.phase in ESSENTIAL and not p.method)


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
    phases = tuple(p for p in phases if request.others or p.phase not in PHASES_FOR_OTHERS)
    phases = _without_idle_probes(phases)
    defines: dict[str, int | str] = {**_DEFAULT_MACROS, **macros}
    notes = _add_struct_macros(facts, defines, evidence=request.evidence)
    _add_bounds(request, facts.page_size, defines)
    notes += _add_initiator_macros(facts, defines)
    return Plan(phases, defines, request, _memory_bound(request, facts.page_size), notes)


def _without_idle_probes(phases: tuple[PhasePlan, ...]) -> tuple[PhasePlan, ...]:
    """Of two phases that mean something only together neither where the other is missing."""
    there = {phase.phase for phase in phases if phase.method}
    idle = {
        one: other
        for one, other in (("io_sleep", "wake"), ("wake", "io_sleep"))
        if other not in there
    }
    return tuple(
        PhasePlan(p.phase, p.unit, reason=f"of no use without {idle[p.phase]}")
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


def _add_struct_macros(
    facts: KernelFacts, defines: dict[str, int | str], *, evidence: bool
) -> tuple[str, ...]:
    notes: list[str] = []
    defines["PG_RESERVED"] = facts.page_flags.get("PG_reserved", 63)
    defines["PG_LOCKED"] = facts.page_flags.get("PG_locked", 0)
    for macro in ("OFF_PAGE_MAPPING", "OFF_PAGE_PRIVATE", "OFF_PAGE_REFCOUNT", "OFF_PAGE_MAPCOUNT"):
        defines[macro] = facts.offsets.get(EVIDENCE[macro], 0)
    defines["OFF_PAGE_FLAGS"] = facts.offsets.get("page.flags", 0)
    defines["OFF_PAGE_COMPOUND_HEAD"] = facts.offsets.get("page.compound_head", 8)
    # order: a byte of its own up to 6.5 or so, then the low byte of _flags_1
    for name in ("folio._folio_order", "folio._flags_1"):
        if name in facts.offsets:
            defines["OFF_FOLIO_ORDER"] = facts.offsets[name]
            break
    else:
        # struct page before folios: the order is in the first tail page
        defines["OFF_FOLIO_ORDER"] = 64 + facts.offsets.get("page.compound_order", 0)
    if "PG_head" in facts.page_flags:
        defines["PG_HEAD"] = facts.page_flags["PG_head"]
    else:
        defines["PG_HEAD"] = 63
        notes.append("PG_head is not in BTF: the size of large folios is unknown")
    if evidence:
        notes += _add_evidence_macros(facts, defines)
    shift = _nodes_shift(facts)
    if shift is None:
        notes.append("NODES_SHIFT is unknown: node numbers of folios can't be read")
    else:
        defines["NODES_SHIFT"] = shift
    return tuple(notes)


def _add_evidence_macros(facts: KernelFacts, defines: dict[str, int | str]) -> list[str]:
    """Offsets for what is read at a refusal; returns what can't be read, in words."""
    missing = [name for name in EVIDENCE.values() if name not in facts.offsets]
    beyond = [
        name
        for name in EVIDENCE.values()
        if name.startswith("page.") and facts.offsets.get(name, 0) >= PAGE_IMAGE_BYTES
    ]
    if missing or beyond:
        return [f"no evidence of refusals: {', '.join(missing + beyond)} not where it can be read"]
    defines["EVIDENCE"] = 1
    defines.update({macro: facts.offsets[name] for macro, name in EVIDENCE.items()})
    for macro, names in EVIDENCE_OPTIONAL.items():
        there = [name for name in names if name in facts.offsets]
        if there:
            defines[macro] = facts.offsets[there[0]]
    defines["WHOLE_MAPCOUNT"] = int("folio._large_mapcount" not in facts.offsets)
    walk = {macro: facts.offsets.get(name) for macro, name in WALK.items()}
    variables = {
        macro: next((facts.variables[name] for name in names if name in facts.variables), None)
        for macro, names in (WALK_VARIABLES | WALK_OPTIONAL).items()
    }
    missing = [macro for macro in WALK_VARIABLES if variables[macro] is None]
    if facts.machine != "x86_64" or None in walk.values() or missing:
        return ["page tables are not read: never touched and swapped out look alike"]
    defines["PTE_WALK"] = 1
    defines.update({macro: value for macro, value in walk.items() if value is not None})
    defines.update({macro: f"{value:#x}ULL" for macro, value in variables.items() if value})
    return []


def _add_initiator_macros(facts: KernelFacts, defines: dict[str, int | str]) -> tuple[str, ...]:
    """Offsets by which an initiator and an owner are known; a note for each that is not."""
    notes = []
    defines["NODE_WORDS"] = NODE_WORDS
    # MR_SYSCALL has been 3 since there was an enum
    numbers = {name: number for number, name in facts.migrate_reasons.items()}
    defines["MR_SYSCALL"] = numbers.get("syscall", 3)
    defines["PAGE_STRUCT_BYTES"] = facts.sizes.get("page", 64)
    # only x86-64 is known to keep the registers of a system call where they are looked for
    stack = facts.machine == "x86_64"
    for name, members in INITIATORS.items():
        offsets = {macro: facts.offsets.get(member) for macro, member in members.items()}
        found = {macro: offset for macro, offset in offsets.items() if offset is not None}
        if len(found) < len(members) or (name == "syscall" and not stack):
            notes.append(_WITHOUT[name])
            continue
        defines.update(found)
    if "OFF_TASK_STACK" in defines:
        defines["THREAD_SIZE"] = _THREAD_SIZE
        # TOP_OF_KERNEL_STACK_PADDING in arch/x86/include/asm/thread_info.h: room for the end
        # of a struct fred_frame wherever the kernel can enter by FRED, on any CPU
        # (65c9cc9e2c14 in 6.9, "x86/fred: Reserve space for the FRED stack frame")
        fred_frame = facts.sizes.get("fred_frame", _PT_REGS_BYTES)
        defines["STACK_PADDING"] = fred_frame - _PT_REGS_BYTES
        defines["OFF_TASK_STATUS"] = (
            facts.offsets["task_struct.thread_info"] + (facts.offsets["thread_info.status"])
        )
    if "OFF_CGROUP_SELF" in defines:
        defines["OFF_CGROUP_PARENT"] = (
            facts.offsets["cgroup.self"] + (facts.offsets["cgroup_subsys_state.parent"])
        )
    addresses = {macro: facts.variables.get(name) for macro, name in WAIT_VARIABLES.items()}
    if all(addresses.values()) and "PGDIR_SHIFT" in defines:
        defines.update({macro: f"{address:#x}ULL" for macro, address in addresses.items()})
    else:
        notes.append("who migrates the page that a thread waits for is told by time only")
    return tuple(notes)


#: Bytes of a kernel stack of x86-64 (16 KiB unless built with KASAN).
_THREAD_SIZE = 16384
#: Of struct pt_regs of x86-64, with which a struct fred_frame begins.
_PT_REGS_BYTES = 168
_WITHOUT = {
    "owner": "whose page it is can't be told: the kernel keeps no owner of an address space",
    "fork": "children of a process can't be followed",
    "user": "processes can't be chosen by user",
    "cgroup": "processes can't be chosen by cgroup",
    "lock": "threads that sleep for the lock of a folio under migration can't be seen",
    "syscall": "in which system call a migration happens can't be told",
}


def _nodes_shift(facts: KernelFacts) -> int | None:
    """Bits of the node number at the top of page flags (SPARSEMEM_VMEMMAP, x86-64)."""
    if facts.nodes_shift is not None:
        return facts.nodes_shift
    bits = 8 * facts.sizes.get("nodemask_t", 0)
    # nodemask_t is a whole number of longs: at 64 bits it no longer tells
    return bits.bit_length() - 1 if bits > 64 else None


def _add_bounds(request: Request, page_size: int, defines: dict[str, int | str]) -> None:
    defines["SMALL_CHUNK"] = SMALL_CHUNK
    defines["MEDIUM_CHUNK"] = MEDIUM_CHUNK
    defines["LARGE_CHUNK"] = LARGE_CHUNK
    defines["MAX_ENTRIES"] = MAX_ENTRIES
    defines["MAX_FOLIOS"] = request.max_folios
    defines["MAX_OBSTACLES"] = request.max_obstacles
    defines["MAX_THREADS"] = request.max_threads
    defines["MAX_CHOSEN"] = request.max_chosen
    defines["MAX_WAITING"] = _max_waiting(request)
    for macro, size in (
        ("FOLIO_RING_PAGES", request.folio_ring_bytes),
        ("OBSTACLE_RING_PAGES", request.obstacle_ring_bytes),
        ("CALL_RING_PAGES", request.call_ring_bytes),
        ("WAIT_RING_PAGES", request.wait_ring_bytes if request.others else page_size),
        ("SMALL_RING_PAGES", request.small_ring_bytes),
        ("MEDIUM_RING_PAGES", request.medium_ring_bytes),
        ("LARGE_RING_PAGES", request.large_ring_bytes),
    ):
        defines[macro] = _ring_pages(size, page_size)


def _memory_bound(request: Request, page_size: int) -> int:
    """Bytes that maps and rings can take at the most; a hash element costs about 80 more."""
    rings = sum(
        page_size * _ring_pages(size, page_size)
        for size in (
            request.folio_ring_bytes,
            request.obstacle_ring_bytes,
            request.call_ring_bytes,
            request.call_ring_bytes,
            request.wait_ring_bytes if request.others else page_size,
            request.small_ring_bytes,
            request.medium_ring_bytes,
            request.large_ring_bytes,
        )
    )
    folios = request.max_folios * (FOLIO.itemsize + 80)
    obstacles = request.max_obstacles * (OBSTACLE.itemsize + 80)
    threads = request.max_threads * (_THREAD_BYTES + 80)
    waits = _max_waiting(request) * (WAIT.itemsize + 80)
    return rings + folios + obstacles + threads + waits + request.max_chosen * 100


def _max_waiting(request: Request) -> int:
    return request.max_waiting if request.others else 1


#: Of struct thread, at most.
_THREAD_BYTES = 1024


def _ring_pages(size_bytes: int, page_size: int) -> int:
    """Pages of a ring of at least that size: a power of two."""
    pages: int = max(1, -(-size_bytes // page_size))
    return 1 << (pages - 1).bit_length()


def describe(phases: Sequence[PhasePlan]) -> list[tuple[str, str, str, str]]:
    """Rows (phase, unit, attach point with its method, reason) for `doctor`."""
    return [
        (p.phase, p.unit, f"{p.attach} ({p.method})" if p.method else "-", p.reason) for p in phases
    ]
