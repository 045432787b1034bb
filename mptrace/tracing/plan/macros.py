# SPDX-License-Identifier: GPL-2.0-or-later
"""The -D macros of the tracing program: offsets by the kernel's BTF, and the bounds of its maps.

For each thing that this kernel lacks there is a note: what can't be seen without it.
"""

from collections.abc import Collection

from mptrace.host.facts import KernelFacts
from mptrace.recording.balancing import BALANCING_KEY, BALANCING_SUMS
from mptrace.recording.detail import LEVEL_OUTCOMES
from mptrace.recording.layouts import (
    FOLIO,
    LARGE_CHUNK,
    MAX_ENTRIES,
    MEDIUM_CHUNK,
    OBSTACLE,
    SMALL_CHUNK,
    WAIT,
)
from mptrace.recording.lookup_layouts import FEW_LOOKUPS, LOOKUPS_MANY, MANY_LOOKUPS
from mptrace.tracing.plan.members import (
    EVIDENCE,
    EVIDENCE_OPTIONAL,
    INITIATORS,
    PAGE_IMAGE_BYTES,
    STACKS,
    WAIT_VARIABLES,
    WALK,
    WALK_OPTIONAL,
    WALK_VARIABLES,
)
from mptrace.tracing.plan.request import Request
from mptrace.tracing.plan.scope import NODE_WORDS


def add_struct_macros(
    facts: KernelFacts, defines: dict[str, int | str], *, evidence: bool
) -> tuple[str, ...]:
    notes: list[str] = []
    defines["PG_RESERVED"] = facts.page_flags.get("PG_reserved", 63)
    defines["PG_LOCKED"] = facts.page_flags.get("PG_locked", 0)
    # where it is not known every lookup has evidence
    defines["PG_LRU"] = facts.page_flags.get("PG_lru", 63)
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
        return [f"no evidence of refusals: can't read {', '.join(missing + beyond)}"]
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
        return ["page tables can't be read: never touched and swapped out look alike"]
    defines["PTE_WALK"] = 1
    defines.update({macro: value for macro, value in walk.items() if value is not None})
    defines.update({macro: f"{value:#x}ULL" for macro, value in variables.items() if value})
    return []


def add_initiator_macros(facts: KernelFacts, defines: dict[str, int | str]) -> tuple[str, ...]:
    """Offsets by which an initiator and an owner are known; a note for each that is not."""
    notes = []
    defines["NODE_WORDS"] = NODE_WORDS
    # MR_SYSCALL has been 3 since there was an enum
    numbers = {name: number for number, name in facts.migrate_reasons.items()}
    defines["MR_SYSCALL"] = numbers.get("syscall", 3)
    # and MR_NUMA_MISPLACED is 5 on the kernels that were looked at
    defines["MR_NUMA_MISPLACED"] = numbers.get("numa_misplaced", 5)
    defines["PAGE_STRUCT_BYTES"] = facts.sizes.get("page", 64)
    # only x86-64 is known to keep the registers of a system call where they are looked for
    stack = facts.machine == "x86_64"
    groups = [name for name in INITIATORS if name != "syscall" or stack]
    lacking = add_groups(facts, defines, groups)
    notes += [_WITHOUT[name] for name in INITIATORS if name in lacking or name not in groups]
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
    addresses = {macro: facts.variables.get(name) for macro, name in WAIT_VARIABLES.items()}
    if all(addresses.values()) and "PGDIR_SHIFT" in defines:
        defines.update({macro: f"{address:#x}ULL" for macro, address in addresses.items()})
    else:
        notes.append("only timing tells who migrates the page that a thread waits for")
    return tuple(notes)


def add_stack_macros(facts: KernelFacts, defines: dict[str, int | str]) -> tuple[str, ...]:
    """Makes stacks be taken; a note where those of user space can't be told to be current."""
    defines["STACKS"] = 1
    offsets = {macro: facts.offsets.get(member) for macro, member in STACKS.items()}
    found = {macro: offset for macro, offset in offsets.items() if offset is not None}
    if len(found) < len(offsets):
        return ("stacks of user space have no names: can't tell whether a process called exec()",)
    defines.update(found)
    return ()


def add_groups(
    facts: KernelFacts, defines: dict[str, int | str], names: Collection[str]
) -> dict[str, str]:
    """Offsets of these groups of `INITIATORS`; of each that can't be had whole what that means."""
    lacking = {}
    for name in names:
        offsets = {macro: facts.offsets.get(member) for macro, member in INITIATORS[name].items()}
        found = {macro: offset for macro, offset in offsets.items() if offset is not None}
        if len(found) < len(offsets):
            lacking[name] = _WITHOUT[name]
        else:
            defines.update(found)
    if "OFF_CGROUP_SELF" in defines:
        defines["OFF_CGROUP_PARENT"] = (
            facts.offsets["cgroup.self"] + (facts.offsets["cgroup_subsys_state.parent"])
        )
    return lacking


#: Bytes of a kernel stack of x86-64 (16 KiB unless built with KASAN).
_THREAD_SIZE = 16384
#: Of struct pt_regs of x86-64, with which a struct fred_frame begins.
_PT_REGS_BYTES = 168
_WITHOUT = {
    "owner": "can't tell whose a page is: the kernel keeps no owner of an address space",
    "fork": "children of a process can't be followed",
    "user": "processes can't be chosen by user",
    "cgroup": "processes can't be chosen by cgroup",
    "lock": "threads that sleep for the lock of a folio under migration can't be seen",
    "syscall": "can't tell in which system call a migration happens",
}


def _nodes_shift(facts: KernelFacts) -> int | None:
    """Bits of the node number at the top of page flags (SPARSEMEM_VMEMMAP, x86-64)."""
    if facts.nodes_shift is not None:
        return facts.nodes_shift
    bits = 8 * facts.sizes.get("nodemask_t", 0)
    # nodemask_t is a whole number of longs: at 64 bits it no longer tells
    return bits.bit_length() - 1 if bits > 64 else None


def add_bounds(request: Request, page_size: int, defines: dict[str, int | str]) -> None:
    defines["SMALL_CHUNK"] = SMALL_CHUNK
    defines["MEDIUM_CHUNK"] = MEDIUM_CHUNK
    defines["LARGE_CHUNK"] = LARGE_CHUNK
    defines["MAX_ENTRIES"] = MAX_ENTRIES
    defines["FEW_LOOKUPS"] = FEW_LOOKUPS
    defines["MANY_LOOKUPS"] = MANY_LOOKUPS
    defines["MAX_LEAVERS"] = request.max_threads
    defines["MAX_FOLIOS"] = _max_folios(request)
    defines["MAX_OBSTACLES"] = _max_obstacles(request)
    defines["SLOTS"] = _SLOTS
    defines["MAX_THREADS"] = request.max_threads
    defines["MAX_CHOSEN"] = request.max_chosen
    defines["MAX_WAITING"] = _max_waiting(request)
    defines["MAX_BALANCING"] = request.max_balancing
    defines["MAX_BALANCING_THREADS"] = request.max_balancing_threads
    defines["MAX_STACKS"] = _max_stacks(request)
    for macro, size in (
        ("FOLIO_RING_PAGES", _folio_ring_bytes(request)),
        ("FEW_RING_PAGES", request.few_ring_bytes),
        ("MANY_RING_PAGES", request.folio_ring_bytes),
        ("OBSTACLE_RING_PAGES", request.obstacle_ring_bytes),
        ("CALL_RING_PAGES", request.call_ring_bytes),
        ("WAIT_RING_PAGES", request.wait_ring_bytes if request.others else page_size),
        ("SMALL_RING_PAGES", request.small_ring_bytes),
        ("MEDIUM_RING_PAGES", request.medium_ring_bytes),
        ("LARGE_RING_PAGES", request.large_ring_bytes),
        ("STACK_RING_PAGES", _stack_ring_bytes(request)),
    ):
        defines[macro] = _ring_pages(size, page_size)


def memory_bound(request: Request, page_size: int) -> int:
    """Bytes that maps and rings can take at the most; a hash element costs about 80 more."""
    rings = sum(
        page_size * _ring_pages(size, page_size)
        for size in (
            *_lookup_ring_bytes(request),
            _folio_ring_bytes(request),
            request.obstacle_ring_bytes,
            request.call_ring_bytes,
            request.call_ring_bytes,
            request.wait_ring_bytes if request.others else page_size,
            request.small_ring_bytes,
            request.medium_ring_bytes,
            request.large_ring_bytes,
            _stack_ring_bytes(request),
        )
        if size
    )
    folios = _max_folios(request) * (FOLIO.itemsize + 80)
    obstacles = _max_obstacles(request) * (OBSTACLE.itemsize + 80)
    thread = _THREAD_BYTES + (LOOKUPS_MANY.itemsize if request.detail == LEVEL_OUTCOMES else 0)
    threads = _SLOTS * thread + request.max_threads * (thread + 80)
    waits = _max_waiting(request) * (WAIT.itemsize + 80)
    balancing = _balancing_bytes(request) if request.others else 0
    stacks = 2 * _max_stacks(request) * _STACK_BYTES if request.stacks else 0
    maps = folios + obstacles + threads + waits + balancing + stacks
    return rings + maps + request.max_chosen * 100


def _balancing_bytes(request: Request) -> int:
    sums = BALANCING_KEY.itemsize + BALANCING_SUMS.itemsize + 80
    return request.max_balancing * sums + request.max_balancing_threads * 100


# At the level `outcomes` no folio is followed: what passes is lookups, and refusals.


def _max_folios(request: Request) -> int:
    return 1 if request.detail == LEVEL_OUTCOMES else request.max_folios


def _max_obstacles(request: Request) -> int:
    return 1 if request.detail == LEVEL_OUTCOMES else request.max_obstacles


def _folio_ring_bytes(request: Request) -> int:
    return (
        request.refusal_ring_bytes if request.detail == LEVEL_OUTCOMES else request.folio_ring_bytes
    )


def _lookup_ring_bytes(request: Request) -> tuple[int, ...]:
    is_used = request.detail == LEVEL_OUTCOMES
    return (request.few_ring_bytes, request.folio_ring_bytes) if is_used else ()


def _max_stacks(request: Request) -> int:
    """A power of two, as the kernel takes it for a map of stacks."""
    return 1 << (request.max_stacks - 1).bit_length() if request.stacks else 1


def _stack_ring_bytes(request: Request) -> int:
    return request.stack_ring_bytes if request.stacks else 0


def _max_waiting(request: Request) -> int:
    return request.max_waiting if request.others else 1


#: Of a stack in a map of them: 127 addresses, what stands before them and a place in a table.
_STACK_BYTES = 127 * 8 + 40
#: Threads that are found without a hash: a power of two, bpf/move_pages/state.h.
_SLOTS = 1024
#: Of struct thread, at most, without its lookups.
_THREAD_BYTES = 1024


def _ring_pages(size_bytes: int, page_size: int) -> int:
    """Pages of a ring of at least that size: a power of two."""
    pages: int = max(1, -(-size_bytes // page_size))
    return 1 << (pages - 1).bit_length()
