# SPDX-License-Identifier: GPL-2.0-or-later
"""What a session wants of its probes, and how much memory they may take."""

from dataclasses import dataclass

from mptrace.recording.detail import LEVEL_ALL


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
    #: How much of each page is traced: one of `detail.DETAILS`.
    detail: str = LEVEL_ALL
    #: Trace programs other than mptrace's driver: every path, owners of pages, waits.
    others: bool = False
    #: Processes that can be followed by number, with what they fork.
    max_chosen: int = 1 << 16
    wait_ring_bytes: int = 4 << 20
    #: Threads that wait at once, whatever for: each that sleeps for I/O is looked at.
    max_waiting: int = 1 << 15
    max_threads: int = 4096
    #: Sums of NUMA balancing that are kept at once: a process, a CPU and a second each.
    max_balancing: int = 1 << 14
    #: Threads that are in it at once, or whose last hint fault was not seen to end.
    max_balancing_threads: int = 1 << 15
    #: Record where calls, migrations without one and waits came from.
    stacks: bool = False
    #: Different stacks, of the kernel and of user space each, in a whole session.
    max_stacks: int = 1 << 14
    stack_ring_bytes: int = 1 << 20
    #: Of records of folios, or of lookups at a level that has no such records.
    folio_ring_bytes: int = 32 << 20
    refusal_ring_bytes: int = 8 << 20
    few_ring_bytes: int = 4 << 20
    obstacle_ring_bytes: int = 8 << 20
    call_ring_bytes: int = 4 << 20
    small_ring_bytes: int = 8 << 20
    medium_ring_bytes: int = 8 << 20
    large_ring_bytes: int = 64 << 20
