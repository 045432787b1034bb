# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose migrations a session records, and which of them; BPF decides by it."""

from dataclasses import dataclass, field

import numpy as np

from mptrace.arrays import Table

#: Kinds in the order of SCOPE_* in bpf/scope.h.
KINDS = ("caller", "all", "pids", "user", "cgroup")
#: Longs of a node mask: as many nodes as any kernel has.
NODE_WORDS = 16
#: struct control in bpf/move_pages/state.h: what BPF decides by.
CONTROL = np.dtype(
    [
        ("gate", "u4"),
        ("scope", "u4"),
        ("tgid", "u4"),
        ("uid", "u4"),
        ("cgroup", "u8"),
        ("all", "u4"),
        ("failed", "u4"),
        ("reasons", "u8"),
        ("min_ns", "u8"),
        ("source", "u8", (NODE_WORDS,)),
        ("target", "u8", (NODE_WORDS,)),
        ("nodes", "u4"),
        ("pad", "u4"),
    ]
)


@dataclass(frozen=True)
class Filters:
    """Which migrations without a call are recorded; calls are recorded whole.

    ``reasons`` are numbers of the kernel's enum migrate_reason (it also decides
    whether calls are traced), ``source_nids`` and ``target_nids`` nodes, each
    empty for all; ``min_ns`` nanoseconds that a migration, folio or wait must
    have taken; ``failed`` keeps what failed only.
    """

    reasons: tuple[int, ...] = ()
    source_nids: tuple[int, ...] = ()
    target_nids: tuple[int, ...] = ()
    min_ns: int = 0
    failed: bool = False


@dataclass(frozen=True)
class Scope:
    """Whose calls, migrations and pages are of interest.

    A process is of interest when it moves pages or when its pages are moved.
    ``tgids`` of kind "pids": followed with what they fork; ``uid`` of kind
    "user"; ``cgroup_id`` of kind "cgroup" (with its descendants).
    """

    kind: str
    tgids: tuple[int, ...] = ()
    uid: int = 0
    cgroup_id: int = 0
    filters: Filters = field(default_factory=Filters)

    def control(self) -> Table:
        """The scope as BPF reads it, shape (), dtype CONTROL, with the gate open."""
        chosen, control = self.filters, np.zeros((), CONTROL)
        control["gate"] = 1
        control["scope"] = KINDS.index(self.kind)
        control["tgid"] = self.tgids[0] if self.kind == "caller" and self.tgids else 0
        control["uid"] = self.uid
        control["cgroup"] = self.cgroup_id
        control["all"] = self.kind != "caller"
        control["failed"] = chosen.failed
        control["reasons"] = sum(1 << reason for reason in set(chosen.reasons))
        control["min_ns"] = chosen.min_ns
        control["source"] = node_mask(chosen.source_nids)
        control["target"] = node_mask(chosen.target_nids)
        control["nodes"] = bool(chosen.source_nids or chosen.target_nids)
        return control


def node_mask(nids: tuple[int, ...]) -> list[int]:
    """NODE_WORDS words with a bit for each node; none named means all."""
    if not nids:
        return [(1 << 64) - 1] * NODE_WORDS
    words = [0] * NODE_WORDS
    for nid in nids:
        words[nid // 64] |= 1 << nid % 64
    return words
