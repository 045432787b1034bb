# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel and a host are, as plain values: read by `read`, used by `tracing.plan`.

Nothing here looks at the machine.  A fact that could not be read is absent
(a missing key, None), never guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mptrace.arrays import Words
from mptrace.recording.joins import ranks

#: Parameters of a function that are passed in registers (x86-64).
REGISTER_ARGUMENTS = 6
#: Key of `KernelFacts.methods`: fentry on a function with more of them.
STACK_ARGUMENTS = "fentry, arguments on the stack"


@dataclass(frozen=True)
class Prototype:
    """One BTF FUNC: how it can be attached to and what it returns.

    ``returns`` is one of ``"void"``, ``"bool"``, ``"int"`` (any other integer
    or enum), ``"pointer"`` and ``"struct"`` (by value, like pte_t: fentry
    refuses to load, -EINVAL from btf_distill_func_proto()); ``definitions``
    counts the FUNCs of this name (two of them make the name ambiguous for
    fentry).
    """

    parameters: tuple[str, ...]
    returns: str
    struct_by_value: bool = False
    definitions: int = 1


@dataclass(frozen=True)
class KernelFacts:
    """Facts of one kernel, as far as mptrace's candidates ask for them."""

    release: str
    machine: str
    page_size: int
    #: BTF functions, only the names that were asked for.
    functions: Mapping[str, Prototype] = field(default_factory=dict)
    #: Exact names found in kallsyms as text symbols (t/T/w/W).
    symbols: frozenset[str] = frozenset()
    #: Names that ftrace can attach to; None where tracefs can't be read.
    traceable: frozenset[str] | None = None
    #: Variables of the kernel: name -> address, those asked for that kallsyms shows.
    variables: Mapping[str, int] = field(default_factory=dict)
    #: Byte offsets, "struct.member" -> offset; anonymous unions are looked through.
    offsets: Mapping[str, int] = field(default_factory=dict)
    #: Sizes in bytes of types, e.g. "nodemask_t".
    sizes: Mapping[str, int] = field(default_factory=dict)
    #: enum pageflags: "PG_head" -> bit number.
    page_flags: Mapping[str, int] = field(default_factory=dict)
    #: Tracepoints present, "category:name".
    tracepoints: frozenset[str] = frozenset()
    #: Attach methods that really load here: "fentry", "kprobe", "tracepoint",
    #: "raw_tracepoint" -> "" when it works, otherwise the reason it does not.
    methods: Mapping[str, str] = field(default_factory=dict)
    #: CONFIG_NODES_SHIFT where a configuration could be read.
    nodes_shift: int | None = None
    #: enum migrate_reason and migrate_mode: value -> "syscall", "sync_light".
    migrate_reasons: Mapping[int, str] = field(default_factory=dict)
    migrate_modes: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Node:
    """One NUMA node: CPUs, memory, distances to the nodes in order."""

    nid: int
    cpus: tuple[int, ...]
    memory_bytes: int
    free_bytes: int
    distances: tuple[int, ...] = ()


@dataclass(frozen=True)
class HostFacts:
    """The host around the kernel: nodes, emulation, settings that disturb a measurement."""

    nodes: tuple[Node, ...]
    #: "" on hardware, else who emulates or virtualises: "TCG", "KVM", "unknown hypervisor".
    hypervisor: str
    #: True only where CPU instructions themselves are emulated (times are ratios).
    emulated: bool
    #: setting -> value as read: "numa_balancing", "compaction_proactiveness", "thp", ...
    settings: Mapping[str, str] = field(default_factory=dict)
    #: Where 1 ns is one instruction: ``cpu`` and ``string_moves`` (`topology.read_counted`).
    counted: Mapping[str, str] | None = None

    @property
    def memory_nodes(self) -> tuple[int, ...]:
        """Node numbers that have memory, in order."""
        return tuple(node.nid for node in self.nodes if node.memory_bytes > 0)

    def to_meta(self) -> dict[str, Any]:
        """The keys of a recording's meta.json that are about the host."""
        return {
            "nodes": [
                {
                    "nid": node.nid,
                    "cpus": list(node.cpus),
                    "memory_bytes": node.memory_bytes,
                    "free_bytes": node.free_bytes,
                    "distances": list(node.distances),
                }
                for node in self.nodes
            ],
            "hypervisor": self.hypervisor,
            "emulated": self.emulated,
            "counted": None if self.counted is None else dict(self.counted),
            "settings": dict(self.settings),
        }


@dataclass(frozen=True)
class Access:
    """What this process may do here, as tried; a reason is "" where the thing works."""

    #: Those of CAP_BPF, CAP_PERFMON and CAP_SYS_NICE that it lacks.
    missing_capabilities: tuple[str, ...] = ()
    in_user_namespace: bool = False
    #: Why BTF can't be read.
    btf: str = ""
    #: Why bcc can't be imported; its version where it can.
    bcc: str = ""
    bcc_version: str = ""
    #: Where tracefs can be read, else "" and the reason.
    tracefs: str = ""
    tracefs_reason: str = ""
    #: Whether securityfs is there, which shows the lockdown.
    has_securityfs: bool = False
    #: Why a ring buffer can't be created: one of 8 MiB, one of a page.
    ring_buffer: str = ""
    small_ring_buffer: str = ""
    #: Why move_pages(2) doesn't work for a page of our own.
    move_pages: str = ""
    #: Nodes that this process's cpuset lets it use (Mems_allowed_list).
    allowed_nodes: tuple[int, ...] = ()


@dataclass(frozen=True)
class NodeRanges:
    """Page frames by node: the spans of the nodes' zones, and the nodes of memory blocks."""

    #: (first frame, frame after the last, nid); spans of nodes may overlap
    spans: tuple[tuple[int, int, int], ...] = ()
    block_pages: int = 0
    #: number of a block -> nodes that have pages of it
    blocks: Mapping[int, frozenset[int]] | None = None

    def nids(self, pfns: Words) -> NDArray[np.int16]:
        """Node of each frame, -1 where it isn't known for certain."""
        nodes = sorted({nid for _, _, nid in self.spans})
        found = np.full(pfns.size, -1, np.int16)
        matches = np.zeros(pfns.size, np.int16)
        for nid in nodes:
            inside = np.zeros(pfns.size, np.bool_)
            for first, after, of in self.spans:
                if of == nid:
                    inside |= (pfns >= np.uint64(first)) & (pfns < np.uint64(after))
            found[inside] = nid
            matches += inside
        found[matches != 1] = -1
        if self.blocks and self.block_pages:
            block = pfns[matches != 1] // np.uint64(self.block_pages)
            numbers, inverse = ranks(block.astype(np.int64))
            single = [self.blocks.get(int(number), frozenset()) for number in numbers]
            of_block = np.array([next(iter(s)) if len(s) == 1 else -1 for s in single], np.int16)
            if numbers.size:
                found[matches != 1] = of_block[inverse]
        return found
